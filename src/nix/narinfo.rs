//! Narinfos: what a binary cache knows of one store path.
//!
//! [`NarInfo::parse`] reads an upstream's text strictly, [`NarInfo::render`] writes the one canonical text of a value in
//! the order of Nix's own writer, and [`NarInfo::fingerprint`] gives the bytes that signatures are made over. A narinfo
//! is never passed on as it came (safety.md section 1): what a client reads was rendered here.
//!
//! What is parsed is the upstream's claim. The fingerprint covers the store path, NarHash, NarSize and references; the
//! URL, the compression, FileHash, FileSize, the deriver, the CA and every unknown field are signed by nobody.
//!
//! Out of scope: whether the URL may be fetched (see [`nar_url`](super::nar_url)), whether a signature is right (see
//! [`signature`](super::signature)), and whether the path is the one that was asked for (R6, the caller's).

mod compression;
mod content_address;
#[cfg(test)]
mod oracle;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub use compression::Compression;
pub use content_address::{ContentAddress, ContentCheck};
pub use parse::{Error, MAX_EXTRA, MAX_LEN, MAX_SIGNATURES};

use super::hash::Sha256;
use super::signature::Signature;
use super::store_path::{StoreDir, StorePath};

/// One store path as a binary cache describes it. Values that [`NarInfo::parse`] gives keep all the rules below; who
/// builds or changes one by hand must keep them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path itself.
    pub store_path: StorePath,
    /// Where the NAR is, relative to the cache or absolute: 1 to 1,024 bytes of graphic ASCII, otherwise unchecked.
    pub url: String,
    /// How the NAR is compressed there.
    pub compression: Compression,
    /// The digest of the bytes at the URL. Equal to `nar_hash` where nothing is compressed (R7).
    pub file_hash: Option<Sha256>,
    /// How many bytes there are at the URL, at least 1. Equal to `nar_size` where nothing is compressed (R7).
    pub file_size: Option<u64>,
    /// The digest of the NAR, decompressed.
    pub nar_hash: Sha256,
    /// The length of the NAR in bytes, decompressed: 1 to 2^63 - 1, what Nix's database can hold.
    pub nar_size: u64,
    /// The paths that it refers to, itself perhaps among them: sorted by base name, each once.
    pub references: Vec<StorePath>,
    /// The derivation that built it.
    pub deriver: Option<StorePath>,
    /// Its content address: a claim until the path was computed from it and the NAR compared with it.
    pub ca: Option<ContentAddress>,
    /// Signatures in the order in which they came, each once.
    pub sigs: Vec<Signature>,
    /// Fields that this program does not know, name and value, in the order in which they came.
    pub extra: Vec<(String, String)>,
}

impl NarInfo {
    /// The most bytes its NAR can have at its URL: twice NarSize and a mebibyte. No compression that Nix knows makes
    /// anything much longer than it was.
    pub const fn largest_file(nar_size: u64) -> u64 {
        nar_size.saturating_mul(2).saturating_add(1 << 20)
    }

    /// Reads a narinfo. Stricter than Nix's reader (`src/libstore/nar-info.cc`), so that it never means another thing to
    /// us than to a client that reads our rendering:
    ///
    /// - each line is `Name: value`, with exactly one blank, and ends in a newline; no control characters anywhere;
    /// - `StorePath`, `URL`, `NarHash` and `NarSize` (at least 1) must be there; only `Sig` and unknown fields may repeat;
    /// - digests are SHA-256, numbers plain decimal; `Compression` missing or empty is bzip2; `FileSize: 0` is none;
    /// - store paths keep Nix's rules and `StorePath` lies in `store_dir`; references are sorted, each once;
    /// - a malformed `Sig`, `Deriver` or `CA` refuses the whole; `Deriver: unknown-deriver` and an empty `CA` are none;
    /// - without compression FileHash and FileSize, where given, equal NarHash and NarSize (R7).
    ///
    /// Bounds: [`MAX_LEN`] bytes, [`MAX_SIGNATURES`] signatures, [`MAX_EXTRA`] unknown fields.
    ///
    /// # Errors
    /// The first rule that is broken, with the field and the beginning of the value found.
    pub fn parse(text: &[u8], store_dir: &StoreDir) -> Result<Self, Error> {
        parse::parse(text, store_dir, 1)
    }

    /// Reads what [`NarInfo::render`] wrote of a narinfo that was parsed before: with another URL and with signatures
    /// added it may be longer than what is read from outside, at most twice as long.
    ///
    /// # Errors
    /// As [`NarInfo::parse`].
    pub fn parse_rendered(text: &[u8], store_dir: &StoreDir) -> Result<Self, Error> {
        parse::parse(text, store_dir, 2)
    }

    /// Writes the canonical text: the order of Nix's writer, digests in base 32, unknown fields last.
    pub fn render(&self, store_dir: &StoreDir) -> String {
        let mut text = String::with_capacity(512 + 64 * self.references.len());
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _infallible = writeln!(text, "{name}: {value}");
        };
        line("StorePath", &self.store_path.full(store_dir));
        line("URL", &self.url);
        line("Compression", &self.compression.name());
        if let Some(file_hash) = &self.file_hash {
            line("FileHash", file_hash);
        }
        if let Some(file_size) = &self.file_size {
            line("FileSize", file_size);
        }
        line("NarHash", &self.nar_hash);
        line("NarSize", &self.nar_size);
        line("References", &joined(&self.references, " ", StorePath::base_name));
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver);
        }
        for sig in &self.sigs {
            line("Sig", sig);
        }
        if let Some(ca) = &self.ca {
            line("CA", ca);
        }
        for (name, value) in &self.extra {
            line(name, value);
        }
        text
    }

    /// The text that signatures are made over (`ValidPathInfo::fingerprint` of Nix's `src/libstore/path-info.cc`):
    /// `1;<path>;<NarHash>;<NarSize>;<references>`, the references as full paths in order and joined with commas.
    pub fn fingerprint(&self, store_dir: &StoreDir) -> String {
        let path = self.store_path.full(store_dir);
        let references = joined(&self.references, ",", |reference| reference.full(store_dir));
        format!("1;{path};{};{};{references}", self.nar_hash, self.nar_size)
    }
}

fn joined(paths: &[StorePath], separator: &str, write: impl Fn(&StorePath) -> String) -> String {
    paths.iter().map(write).collect::<Vec<_>>().join(separator)
}
