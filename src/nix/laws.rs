//! What the readers of this room promise for any bytes, as checks that panic when the promise is broken.
//!
//! One function per reader. The fuzz targets in `fuzz/` call them with whatever the fuzzer thinks of, the tests here with
//! the corpus that is kept in the tree, and the property tests with what they generate: one statement of the promise,
//! three sources of input. They are compiled for tests and fuzzing only.

use std::collections::BTreeSet;

use url::{Position, Url};

use super::base32;
use super::hash::Sha256;
use super::nar_url::NarUrl;
use super::narinfo::NarInfo;
use super::store_path::StoreDir;

/// Base 32: decoding undoes encoding, and a text that decodes is the one spelling of its value.
///
/// # Panics
/// When that does not hold for `bytes`.
pub fn base32(bytes: &[u8]) {
    assert_eq!(base32::decode(&base32::encode(bytes)).as_deref(), Ok(bytes));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(decoded) = base32::decode(text)
    {
        assert_eq!(base32::encode(&decoded), text);
    }
}

/// Narinfo: what is accepted, Nix accepts too and reads with the same meaning, both as it came and as we render it; and
/// our own reading of our rendering is the same value.
///
/// # Panics
/// When that does not hold for `text`.
pub fn narinfo(text: &[u8]) {
    let dir = StoreDir::default();
    let Ok(info) = NarInfo::parse(text, &dir) else { return };
    let rendered = info.render(&dir);
    assert_eq!(NarInfo::parse(rendered.as_bytes(), &dir).as_ref(), Ok(&info));

    let ours = Meaning {
        fingerprint: info.fingerprint(&dir),
        url: info.url.clone(),
        compression: info.compression.name().to_owned(),
        file_hash: info.file_hash,
        file_size: info.file_size.unwrap_or(0),
        deriver: info.deriver.as_ref().map(ToString::to_string),
        ca: info.ca.as_ref().map(ToString::to_string).unwrap_or_default(),
        sigs: info.sigs.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(Meaning::as_nix_reads(std::str::from_utf8(text).unwrap_or_default()).as_ref(), Some(&ours));
    assert_eq!(Meaning::as_nix_reads(&rendered).as_ref(), Some(&ours));
}

/// What a client takes from a narinfo.
#[derive(Debug, PartialEq, Eq, Default)]
struct Meaning {
    fingerprint: String,
    url: String,
    compression: String,
    file_hash: Option<Sha256>,
    file_size: u64,
    deriver: Option<String>,
    ca: String,
    sigs: BTreeSet<String>,
}

impl Meaning {
    /// A second reader, as lax as Nix's: a name is what comes before the next colon, one character after it is skipped
    /// unseen, the value ends at the next newline, the last of two equal fields wins, and unknown ones are nothing.
    fn as_nix_reads(mut text: &str) -> Option<Self> {
        let (mut path, mut nar_hash, mut nar_size) = (None, None, 0_u64);
        let mut references = BTreeSet::new();
        let mut meaning = Self::default();
        while !text.is_empty() {
            let (name, rest) = text.split_once(':')?;
            let (value, rest) = rest.get(1..)?.split_once('\n')?;
            match name {
                "StorePath" => path = Some(value),
                "URL" => value.clone_into(&mut meaning.url),
                "Compression" => value.clone_into(&mut meaning.compression),
                "FileHash" => meaning.file_hash = Some(Sha256::parse(value).ok()?),
                "FileSize" => meaning.file_size = value.parse().ok()?,
                "NarHash" => nar_hash = Some(Sha256::parse(value).ok()?),
                "NarSize" => nar_size = value.parse().ok()?,
                "References" if !references.is_empty() => return None,
                "References" => references.extend(value.split(' ').filter(|name| !name.is_empty())),
                "Deriver" => meaning.deriver = (value != "unknown-deriver").then(|| value.to_owned()),
                "CA" => value.clone_into(&mut meaning.ca),
                "Sig" => drop(meaning.sigs.insert(value.to_owned())),
                _ => {}
            }
            text = rest;
        }
        if meaning.compression.is_empty() {
            "bzip2".clone_into(&mut meaning.compression);
        }
        let references: Vec<String> = references.into_iter().map(|name| format!("/nix/store/{name}")).collect();
        meaning.fingerprint = format!("1;{};{};{nar_size};{}", path?, nar_hash?, references.join(","));
        (nar_size > 0 && !meaning.url.is_empty()).then_some(meaning)
    }
}

/// NAR URL: what is accepted stays at the cache's origin and leads, by an ordinary URL parser's resolution, to the very
/// target that we would request; and reading our own spelling of it changes nothing.
///
/// # Panics
/// When that does not hold for `field`.
pub fn nar_url(field: &[u8]) {
    const BASES: [&str; 3] = ["https://c.org/", "http://c.org:8080/team/main/", "http://[::1]:5000/"];
    let Ok(field) = std::str::from_utf8(field) else { return };
    for base in BASES.iter().filter_map(|base| Url::parse(base).ok()) {
        let Ok(url) = NarUrl::parse(field, &base) else { continue };
        let target = url.target(&base);
        let resolved = base.join(field).ok();
        assert_eq!(resolved.as_ref().map(Url::origin), Some(base.origin()));
        assert_eq!(resolved.as_ref().map(|url| &url[Position::BeforePath..]), Some(target.as_str()));
        assert_eq!(NarUrl::parse(url.as_str(), &base).as_ref(), Ok(&url));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a law on every file of `fuzz/corpus/<target>`.
    fn replay(target: &str, law: fn(&[u8])) {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&dir).unwrap() {
            law(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0, "no corpus in {}", dir.display());
    }

    #[test]
    fn base32_holds_for_the_corpus() {
        replay("base32", base32);
    }

    #[test]
    fn narinfo_holds_for_the_corpus() {
        replay("narinfo", narinfo);
    }

    #[test]
    fn nar_url_holds_for_the_corpus() {
        replay("nar_url", nar_url);
    }

    #[test]
    fn the_lax_reader_reads_as_nix_does() {
        // Were it as strict as ours, agreeing with it would prove nothing.
        let tail = "NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\nNarSize: 1\n";
        let read =
            Meaning::as_nix_reads(&format!("StorePath: a\nStorePath:xb\nURL: u\nReferences:\nDeriver: z\n{tail}"));
        let read = read.unwrap();
        assert!(read.fingerprint.starts_with("1;b;"), "the last wins, whatever follows the colon");
        assert!(read.fingerprint.ends_with(";/nix/store/Deriver:,/nix/store/z"), "the line is swallowed");
        assert_eq!(read.deriver, None);
        assert_eq!(Meaning::as_nix_reads(&format!("StorePath: a\nURL: u\n{}", tail.trim_end())), None);
    }
}
