//! A second implementation of what a signature covers, written from Nix's rule and not from ours, and two laws against it:
//! the fingerprints agree, and no change of a signed byte keeps a signature valid.
//!
//! Nothing here uses this room's types for making the expectation: names are text, digests are bytes, base 32 is division.

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use std::collections::BTreeSet;

use super::NarInfo;
use crate::nix::signature::{PublicKey, PublicKeys};
use crate::nix::store_path::StoreDir;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

const LETTERS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// What is signed, as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    path: String,
    nar_hash: [u8; 32],
    nar_size: u64,
    /// As a writer may write them: in any order, some twice.
    references: Vec<String>,
}

impl Signed {
    /// `1;<path>;sha256:<digest in base 32>;<size>;<references>`: full paths, sorted, each once, between commas.
    fn fingerprint(&self, dir: &str) -> String {
        let references: BTreeSet<&[u8]> = self.references.iter().map(String::as_bytes).collect();
        let mut text = format!("1;{dir}/{};sha256:{};{};", self.path, base32(&self.nar_hash), self.nar_size);
        for (n, reference) in references.into_iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            text.push_str(dir);
            text.push('/');
            text.extend(reference.iter().map(|byte| char::from(*byte)));
        }
        text
    }

    /// What the signature distinguishes.
    fn meaning(&self) -> (String, [u8; 32], u64, BTreeSet<String>) {
        (self.path.clone(), self.nar_hash, self.nar_size, self.references.iter().cloned().collect())
    }
}

/// Nix's base 32 by its definition: the bytes are one little-endian number, which is divided by 32 until 52 digits are
/// there, the last of them first.
fn base32(bytes: &[u8; 32]) -> String {
    let mut number = *bytes;
    let mut digits = [0; 52];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u16;
        for byte in number.iter_mut().rev() {
            let dividend = rest << 8 | u16::from(*byte);
            *byte = u8::try_from(dividend / 32).unwrap();
            rest = dividend % 32;
        }
        *digit = LETTERS[usize::from(rest)];
    }
    String::from_utf8(digits.to_vec()).unwrap()
}

/// The bytes of a digest in any of the spellings of a narinfo; `None` for anything else.
fn digest(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-"))?;
    match digits.len() {
        64 => {
            let bytes: Option<Vec<u8>> =
                (0..32).map(|n| u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok()).collect();
            bytes?.try_into().ok()
        }
        52 => {
            let mut number = [0_u8; 32];
            for digit in digits.bytes() {
                let mut carry = u16::try_from(LETTERS.iter().position(|letter| *letter == digit)?).ok()?;
                for byte in &mut number {
                    let product = u16::from(*byte) * 32 + carry;
                    [*byte, _] = product.to_le_bytes();
                    carry = product >> 8;
                }
                if carry > 0 {
                    return None;
                }
            }
            Some(number)
        }
        _ => BASE64.decode(digits).ok()?.try_into().ok(),
    }
}

fn spelled(bytes: &[u8; 32], spelling: u8) -> String {
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match spelling {
        0 => format!("sha256:{}", hex()),
        1 => format!("sha256:{}", hex().to_uppercase()),
        2 => format!("sha256:{}", BASE64.encode(bytes)),
        3 => format!("sha256-{}", BASE64.encode(bytes)),
        _ => format!("sha256:{}", base32(bytes)),
    }
}

/// What the lines of a narinfo that was accepted say, read as loosely as possible: the field is what stands before the
/// first colon, the value what stands behind it.
fn read(text: &str) -> Option<Signed> {
    let value = |field: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(name, _)| *name == field).map(|(_, value)| value.trim()).next_back()
    };
    Some(Signed {
        path: value("StorePath")?.rsplit('/').next()?.to_owned(),
        nar_hash: digest(value("NarHash")?)?,
        nar_size: value("NarSize")?.parse().ok()?,
        references: value("References").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect(),
    })
}

prop_compose! {
    fn path()(hash in prop::array::uniform32(0..32_usize), name in "[a-zA-Z0-9+_?=][a-zA-Z0-9+_?=.-]{0,12}") -> String {
        let hash: String = hash.iter().map(|digit| char::from(LETTERS[*digit])).collect();
        format!("{hash}-{name}")
    }
}

prop_compose! {
    fn any_signed()(
        path in path(),
        nar_hash in any::<[u8; 32]>(),
        // Sizes of all magnitudes.
        bits in 0..63_u32,
        size in any::<u64>(),
        mut references in prop::collection::vec(path(), 0..5),
        again in any::<(bool, bool)>(),
    ) -> Signed {
        // Itself among its references, and one of them twice.
        if again.0 {
            references.push(path.clone());
        }
        if again.1 && !references.is_empty() {
            references.push(references[0].clone());
        }
        Signed { path, nar_hash, nar_size: ((size >> 1) >> bits).max(1), references }
    }
}

/// The text of a narinfo, by no writer of ours.
fn written(signed: &Signed, dir: &str, spelling: u8, sig: &str) -> String {
    let Signed { path, nar_hash, nar_size, references } = signed;
    let mut lines = [
        format!("StorePath: {dir}/{path}\n"),
        "URL: nar/x.nar.xz\nCompression: xz\n".to_owned(),
        format!("NarHash: {}\n", spelled(nar_hash, spelling)),
        format!("NarSize: {nar_size}\n"),
        format!("References: {}\n", references.join(" ")),
        sig.to_owned(),
    ];
    if spelling.is_multiple_of(2) {
        lines.reverse();
    }
    lines.concat()
}

#[test]
fn the_oracle_s_base_32_is_that_of_nix() {
    // `nix-hash --type sha256 --to-base32` of the digest of nothing.
    let empty = digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap();
    assert_eq!(base32(&empty), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    assert_eq!(digest("sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"), Some(empty));
    assert_eq!(digest("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), Some(empty));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Ten thousand structures, in every spelling that Nix reads: our fingerprint is the oracle's.
    #[test]
    fn r2_the_fingerprint_is_nix_s(signed in any_signed(), spelling in 0..5_u8, elsewhere in any::<bool>()) {
        let dir = if elsewhere { "/srv/my-store" } else { "/nix/store" };
        let text = written(&signed, dir, spelling, "");
        let store_dir = StoreDir::parse(dir).unwrap();
        let info = NarInfo::parse(text.as_bytes(), &store_dir).unwrap();
        prop_assert_eq!(info.fingerprint(&store_dir), signed.fingerprint(dir));
        prop_assert_eq!(read(&text).map(|read| read.meaning()), Some(signed.meaning()));
        // And so it is of what we serve.
        let ours = NarInfo::parse(info.render(&store_dir).as_bytes(), &store_dir).unwrap();
        prop_assert_eq!(ours.fingerprint(&store_dir), signed.fingerprint(dir));
    }
}

/// How a byte of a text is changed.
fn mutate(text: &mut Vec<u8>, at: usize, byte: u8, kind: u8) {
    match kind {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        _ => text[at] ^= 1 << (byte % 8),
    }
}

/// Where the lines of the signed fields are, their line ends included.
fn signed_places(text: &str) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if ["StorePath", "NarHash", "NarSize", "References"].iter().any(|field| line.starts_with(field)) {
            places.extend(at..at + line.len());
        }
        at += line.len();
    }
    places
}

/// One thousand signed narinfos with ten one-byte changes each, anywhere in the lines of the signed fields: refused, or of
/// the same meaning, or not verified.
#[test]
fn r1_no_change_of_a_signed_byte_keeps_the_signature_valid() {
    // Mostly bytes that make something that can still be read.
    const BYTES: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFXYZ+-._?=/;,: \n\r\0\xc3";
    let dir = StoreDir::default();
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4_u8);
    let inputs = (any_signed(), 0..5_u8, any::<[u8; 32]>(), prop::collection::vec(change, 10));
    let put_to_the_test = Cell::new(0);
    let outcome =
        TestRunner::new(ProptestConfig::with_cases(1_000)).run(&inputs, |(signed, spelling, seed, changes)| {
            let key = SigningKey::from_bytes(&seed);
            let public = format!("k:{}", BASE64.encode(key.verifying_key().as_bytes()));
            let keys = PublicKeys::new(vec![PublicKey::parse(&public).unwrap()]);
            let signature = key.sign(signed.fingerprint("/nix/store").as_bytes());
            let sig = format!("Sig: k:{}\n", BASE64.encode(signature.to_bytes()));
            let text = written(&signed, "/nix/store", spelling, &sig);
            let verifies = |info: &NarInfo| keys.verify(info.fingerprint(&dir).as_bytes(), &info.sigs).is_some();
            prop_assert!(verifies(&NarInfo::parse(text.as_bytes(), &dir).unwrap()), "unchanged, it verifies");
            let places = signed_places(&text);
            for (place, byte, kind) in changes {
                let mut changed = text.clone().into_bytes();
                mutate(&mut changed, places[place.index(places.len())], BYTES[byte.index(BYTES.len())], kind);
                let Ok(info) = NarInfo::parse(&changed, &dir) else { continue };
                let meaning = std::str::from_utf8(&changed).ok().and_then(read).map(|read| read.meaning());
                if meaning == Some(signed.meaning()) {
                    continue;
                }
                put_to_the_test.set(put_to_the_test.get() + 1);
                prop_assert!(!verifies(&info), "verified:\n{}", String::from_utf8_lossy(&changed));
            }
            Ok(())
        });
    outcome.unwrap();
    // Were nearly all refused by the reader, the signature would not have been tried.
    assert!(put_to_the_test.get() > 2_000, "{} of 10000", put_to_the_test.get());
}
