//! The rows that nobody need sign, and whose NAR is not what they say.

use crate::support::cache::{Compression, Object, nar_of_file, nix32, sha256};
use crate::support::lies::{nested_nar, with_field};
use bytes::Bytes;

/// A narinfo of an upstream that need not sign, and the file behind it.
pub struct Unproven {
    /// What is wrong.
    pub name: &'static str,
    /// How the object is compressed.
    pub compression: Compression,
    /// What is served as its file.
    pub file: fn(&Object) -> Bytes,
    /// The narinfo, unsigned.
    pub told: fn(&Object, &Bytes) -> String,
    /// Why it is refused.
    pub reasons: &'static [&'static str],
}

/// What shows only when the NAR is there. The lies about unsigned fields are in [`crate::support::lies`].
pub fn unproven() -> Vec<Unproven> {
    use Compression::{None as Plain, Xz, Zstd};
    let honest: fn(&Object) -> Bytes = |object| object.file.clone();
    let mut rows = Vec::new();
    for (name, compression, reasons) in [
        ("nar-size-and-one", Zstd, &["wrong-nar-size"][..]),
        ("nar-size-and-one-uncompressed", Plain, &["wrong-nar-size", "wrong-size"]),
    ] {
        let told: fn(&Object, &Bytes) -> String = |object, _| {
            let mut object = object.clone();
            object.tells_file = object.compression != Plain;
            with_field(&object.narinfo(&[]), "NarSize", &(object.nar.len() + 1).to_string())
        };
        rows.push(Unproven { name, compression, file: honest, told, reasons });
    }
    for (name, compression, reasons) in [
        ("another-nar-hash", Xz, &["wrong-nar-hash"][..]),
        ("another-nar-hash-uncompressed", Plain, &["wrong-nar-hash", "wrong-file-hash"]),
    ] {
        let told: fn(&Object, &Bytes) -> String = |object, _| {
            let mut object = object.clone();
            object.tells_file = object.compression != Plain;
            with_field(&object.narinfo(&[]), "NarHash", &format!("sha256:{}", nix32(&sha256(b"another"))))
        };
        rows.push(Unproven { name, compression, file: honest, told, reasons });
    }
    // Every hash and size fits; only the NAR is none that may be unpacked.
    let nars: [(&'static str, fn(&Object) -> Bytes); 6] = [
        ("nar-too-deep", |_| nested_nar(10_000).into()),
        ("nar-65-deep", |_| nested_nar(65).into()),
        ("nar-with-a-tail", |object| [&object.nar[..], b"tail"].concat().into()),
        ("nar-cut", |object| object.nar.slice(..object.nar.len() - 16)),
        ("nar-of-another-version", |object| replaced(&object.nar, b"nix-archive-1", b"nix-archive-2")),
        ("nar-with-dirty-padding", |_| {
            let mut nar = nar_of_file(b"x");
            // The byte behind the one byte of contents: 16 bytes of `)` stand behind the padding.
            let padding = nar.len() - 17;
            nar[padding] = 1;
            nar.into()
        }),
    ];
    for (name, file) in nars {
        let told: fn(&Object, &Bytes) -> String = |object, served| {
            let mut object = object.clone();
            object.nar = served.clone();
            object.file = served.clone();
            object.narinfo(&[])
        };
        let reasons: &[&str] = if name.ends_with("deep") { &["too-deep"] } else { &["bad-nar"] };
        rows.push(Unproven { name, compression: Plain, file, told, reasons });
    }
    rows
}

fn replaced(bytes: &Bytes, old: &[u8], new: &[u8]) -> Bytes {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("it is in there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat().into()
}
