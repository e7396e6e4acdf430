//! What a lying upstream offers for an honest object: its narinfo with every signed field and the signature as they are,
//! and what nobody signs (URL, FileHash, FileSize, the bytes) made to fit the lie.

use super::cache::{Compression, Key, Object, nix32, sha256};
use bytes::Bytes;
use std::sync::LazyLock;

/// One lie.
pub struct Lie {
    /// What it is.
    pub name: &'static str,
    /// The narinfo.
    pub narinfo: String,
    /// Where the file is at the liar.
    pub file_target: String,
    /// What the liar sends there.
    pub file: Bytes,
    /// The digest in the URL that is handed out for it: the FileHash that its narinfo tells, in Nix's base 32, or the
    /// NarHash where it tells none.
    pub digest: String,
    /// The reasons for which it may be refused. Several where two rules are broken at once.
    pub reasons: &'static [&'static str],
}

impl Lie {
    /// The URL that the program hands out for the liar's narinfo, as a request target.
    pub fn served_target(&self, honest: &Object) -> String {
        format!("/nar/{}-{}.nar{}", honest.hash_part(), self.digest, honest.compression.extension())
    }
}

/// The names of all lies; an object of its own is made for each.
pub const LIES: [&str; 12] = [
    "another-nar-of-one-size",
    "a-longer-nar",
    "a-shorter-nar",
    "wrong-file-hash",
    "wrong-bytes",
    "file-size-too-large",
    "bomb",
    "not-compressed",
    "too-deep",
    "more-after-the-nar",
    "cut-short",
    "another-nar-without-file-hash",
];

/// The lie of this name about `honest`, which must be compressed with xz.
pub fn lie(name: &'static str, honest: &Object, keys: &[&Key]) -> Lie {
    assert_eq!(honest.compression, Compression::Xz);
    let contents = honest.nar.len() - 112;
    let nar_of = |size: usize| Object::compressed("of-the-liar", size, Compression::Xz).file;
    let xz = |bytes: Vec<u8>| Compression::Xz.compress(&bytes.into());
    // FileHash and FileSize that fit the file, unless they are the lie.
    let (mut hash, mut size) = (None, None);
    let (file, reasons): (Bytes, &'static [&'static str]) = match name {
        "another-nar-of-one-size" | "another-nar-without-file-hash" => (nar_of(contents), &["wrong-nar-hash"]),
        "a-longer-nar" => (nar_of(contents + 800), &["wrong-nar-size", "wrong-nar-hash"]),
        "a-shorter-nar" => (nar_of(contents - 80), &["wrong-nar-size", "wrong-nar-hash"]),
        "wrong-file-hash" => {
            hash = Some(nix32(&sha256(b"something else")));
            (honest.file.clone(), &["wrong-file-hash"])
        }
        "wrong-bytes" => {
            let mut file = honest.file.to_vec();
            let middle = file.len() / 2;
            file[middle] ^= 1;
            hash = Some(honest.file_hash());
            (file.into(), &["wrong-file-hash", "undecodable"])
        }
        "file-size-too-large" => {
            size = Some(honest.file.len() + 1);
            (honest.file.clone(), &["wrong-size"])
        }
        "bomb" => (bomb(), &["wrong-nar-size", "wrong-nar-hash", "bad-nar", "undecodable"]),
        "not-compressed" => (honest.nar.clone(), &["undecodable"]),
        "too-deep" => (xz(nested_nar(10_000)), &["too-deep", "wrong-nar-size", "wrong-nar-hash"]),
        "more-after-the-nar" => {
            let more = [&honest.nar[..], b"\0\0\0\0\0\0\0\0"].concat();
            (xz(more), &["bad-nar", "wrong-nar-size", "wrong-nar-hash"])
        }
        "cut-short" => (honest.file.slice(..honest.file.len() - 40), &["undecodable", "wrong-nar-size", "bad-nar"]),
        _ => panic!("no lie {name}"),
    };
    let file_hash = hash.unwrap_or_else(|| nix32(&sha256(&file)));
    let file_size = size.unwrap_or(file.len()).to_string();
    let url = format!("nar/lie-{name}-{}.nar.xz", honest.hash_part());
    let narinfo = with_field(&honest.narinfo(keys), "URL", &url);
    if name == "another-nar-without-file-hash" {
        let told = |line: &&str| !line.starts_with("FileHash: ") && !line.starts_with("FileSize: ");
        let narinfo = narinfo.lines().filter(told).map(|line| format!("{line}\n")).collect();
        return Lie { name, narinfo, file_target: format!("/{url}"), file, digest: honest.nar_hash(), reasons };
    }
    let narinfo = with_field(&narinfo, "FileHash", &format!("sha256:{file_hash}"));
    let narinfo = with_field(&narinfo, "FileSize", &file_size);
    Lie { name, narinfo, file_target: format!("/{url}"), file, digest: file_hash, reasons }
}

/// 256 MiB of zeros in 38 KiB; made once.
fn bomb() -> Bytes {
    static BOMB: LazyLock<Bytes> = LazyLock::new(|| Compression::Xz.compress(&vec![0; 256 << 20].into()));
    BOMB.clone()
}

/// The narinfo with another value for this field.
pub fn with_field(narinfo: &str, field: &str, value: &str) -> String {
    let prefix = format!("{field}: ");
    assert_eq!(narinfo.matches(&format!("\n{prefix}")).count() + usize::from(narinfo.starts_with(&prefix)), 1);
    narinfo
        .lines()
        .map(|line| if line.starts_with(&prefix) { format!("{prefix}{value}\n") } else { format!("{line}\n") })
        .collect()
}

/// A well-formed NAR of directories inside directories, so many deep.
pub fn nested_nar(depth: usize) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut put = |text: &[u8]| {
        nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
        nar.extend_from_slice(text);
        nar.resize(nar.len().next_multiple_of(8), 0);
    };
    put(b"nix-archive-1");
    for _ in 0..depth {
        for text in [&b"("[..], b"type", b"directory", b"entry", b"(", b"name", b"d", b"node"] {
            put(text);
        }
    }
    for text in [&b"("[..], b"type", b"regular", b"contents", b"", b")"] {
        put(text);
    }
    for _ in 0..depth {
        put(b")");
        put(b")");
    }
    nar
}
