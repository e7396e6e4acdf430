//! The narinfo reader: text to lines, lines to fields, fields to a value. The rules are listed at [`NarInfo::parse`].

use super::content_address::ContentAddress;
use super::{Compression, NarInfo};
use crate::nix::excerpt::Excerpt;
use crate::nix::hash::{self, Sha256};
use crate::nix::nar_url;
use crate::nix::signature::{self, Signature};
use crate::nix::store_path::{self, StoreDir, StorePath};

/// The longest text read, in bytes: room for some 18,000 references.
pub const MAX_LEN: usize = 1024 * 1024;
/// How many signatures are kept; more refuse the narinfo. Room for a long row of caches that each add their own.
pub const MAX_SIGNATURES: usize = 64;
/// How many unknown fields are kept; more refuse the narinfo.
pub const MAX_EXTRA: usize = 64;
/// The longest name of an unknown field, in bytes.
const MAX_NAME_LEN: usize = 64;
/// The largest size: Nix keeps sizes as signed numbers in its database.
const MAX_SIZE: u64 = i64::MAX.unsigned_abs();

/// Why a text is refused as a narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_LEN`] bytes.
    #[error("{0} bytes are too many for a narinfo, the most is {MAX_LEN}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The text was perhaps cut.
    #[error("the last line does not end in a newline")]
    Unterminated,
    /// A line that is not `Name: value` with one blank and without control characters.
    #[error("line {number}: expected `Name: value` without control characters, found {found}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// The line.
        found: Excerpt,
    },
    /// A required field is not there.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// A field is there twice; Nix takes the last, others the first.
    #[error("{0}: given more than once")]
    Repeated(&'static str),
    /// More lines of one kind than are kept.
    #[error("{field}: more than {most} of them")]
    TooMany {
        /// Of which field.
        field: &'static str,
        /// How many are kept.
        most: usize,
    },
    /// A value that is not of the accepted form.
    #[error("{field}: expected {expected}, found {found}")]
    Value {
        /// Of which field.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was found.
        found: Excerpt,
    },
    /// A digest that is not SHA-256.
    #[error("{field}: {cause}")]
    Hash {
        /// Of which field.
        field: &'static str,
        /// What is wrong with it.
        cause: hash::Error,
    },
    /// A store path that breaks Nix's rules.
    #[error("{field}: {cause}")]
    StorePath {
        /// Of which field.
        field: &'static str,
        /// What is wrong with it.
        cause: store_path::Error,
    },
    /// A signature that is malformed.
    #[error("Sig: {0}")]
    Signature(signature::Error),
    /// Nothing is compressed, so the file is the NAR, and yet they differ (R7).
    #[error("{file_field}: Compression is none, yet it differs from {nar_field}")]
    FileIsNotNar {
        /// FileHash or FileSize.
        file_field: &'static str,
        /// NarHash or NarSize.
        nar_field: &'static str,
    },
}

/// `times` is by how much the bounds are exceeded: 1 for what comes from outside.
pub(super) fn parse(text: &[u8], store_dir: &StoreDir, times: usize) -> Result<NarInfo, Error> {
    if text.len() > MAX_LEN * times {
        return Err(Error::TooLong(text.len()));
    }
    let text = std::str::from_utf8(text).map_err(|_| Error::NotText)?;
    let mut fields = Fields { most_sigs: MAX_SIGNATURES * times, ..Fields::default() };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let line = line.strip_suffix('\n').ok_or(Error::Unterminated)?;
        let (name, value) =
            split_line(line).ok_or_else(|| Error::Line { number: index + 1, found: Excerpt::of(line) })?;
        fields.take(name, value, store_dir)?;
    }
    fields.finish()
}

/// Splits `Name: value`. Nix skips whatever character follows the colon and looks for the end of the line only after it;
/// here it must be a blank, and the only one.
fn split_line(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(": ")?;
    let name_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let named = (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(name_byte);
    let clean = !value.starts_with(' ') && !value.chars().any(char::is_control);
    (named && clean).then_some((name, value))
}

/// The fields met so far.
#[derive(Default)]
struct Fields {
    store_path: Option<StorePath>,
    url: Option<String>,
    compression: Option<Compression>,
    file_hash: Option<Sha256>,
    /// `Some(None)` is `FileSize: 0`.
    file_size: Option<Option<u64>>,
    nar_hash: Option<Sha256>,
    nar_size: Option<u64>,
    references: Option<Vec<StorePath>>,
    /// `Some(None)` is `unknown-deriver`.
    deriver: Option<Option<StorePath>>,
    /// `Some(None)` is an empty value.
    ca: Option<Option<ContentAddress>>,
    sigs: Vec<Signature>,
    most_sigs: usize,
    extra: Vec<(String, String)>,
}

impl Fields {
    fn take(&mut self, name: &str, value: &str, store_dir: &StoreDir) -> Result<(), Error> {
        match name {
            "StorePath" => once(&mut self.store_path, "StorePath", || {
                StorePath::parse_full(value, store_dir).map_err(|cause| Error::StorePath { field: "StorePath", cause })
            }),
            "URL" => once(&mut self.url, "URL", || url(value)),
            "Compression" => once(&mut self.compression, "Compression", || compression(value)),
            "FileHash" => once(&mut self.file_hash, "FileHash", || digest("FileHash", value)),
            "FileSize" => once(&mut self.file_size, "FileSize", || file_size(value)),
            "NarHash" => once(&mut self.nar_hash, "NarHash", || digest("NarHash", value)),
            "NarSize" => once(&mut self.nar_size, "NarSize", || nar_size(value)),
            "References" => once(&mut self.references, "References", || references(value)),
            "Deriver" => once(&mut self.deriver, "Deriver", || deriver(value)),
            "CA" => once(&mut self.ca, "CA", || content_address(value)),
            "Sig" => self.take_signature(value),
            _ => self.take_extra(name, value),
        }
    }

    fn take_signature(&mut self, value: &str) -> Result<(), Error> {
        let sig = Signature::parse(value).map_err(Error::Signature)?;
        if self.sigs.contains(&sig) {
            return Ok(());
        }
        if self.sigs.len() == self.most_sigs {
            return Err(Error::TooMany { field: "Sig", most: self.most_sigs });
        }
        self.sigs.push(sig);
        Ok(())
    }

    fn take_extra(&mut self, name: &str, value: &str) -> Result<(), Error> {
        if self.extra.len() == MAX_EXTRA {
            return Err(Error::TooMany { field: "unknown fields", most: MAX_EXTRA });
        }
        self.extra.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    fn finish(self) -> Result<NarInfo, Error> {
        let info = NarInfo {
            store_path: self.store_path.ok_or(Error::Missing("StorePath"))?,
            url: self.url.ok_or(Error::Missing("URL"))?,
            compression: self.compression.unwrap_or(Compression::Bzip2),
            file_hash: self.file_hash,
            file_size: self.file_size.flatten(),
            nar_hash: self.nar_hash.ok_or(Error::Missing("NarHash"))?,
            nar_size: self.nar_size.ok_or(Error::Missing("NarSize"))?,
            references: self.references.unwrap_or_default(),
            deriver: self.deriver.flatten(),
            ca: self.ca.flatten(),
            sigs: self.sigs,
            extra: self.extra,
        };
        check_file_is_nar(&info)?;
        Ok(info)
    }
}

/// Fills a slot that may be filled once only.
fn once<T>(slot: &mut Option<T>, field: &'static str, read: impl FnOnce() -> Result<T, Error>) -> Result<(), Error> {
    if slot.is_some() {
        return Err(Error::Repeated(field));
    }
    *slot = Some(read()?);
    Ok(())
}

/// R7: without compression the file is the NAR.
fn check_file_is_nar(info: &NarInfo) -> Result<(), Error> {
    if info.compression != Compression::None {
        return Ok(());
    }
    if info.file_hash.is_some_and(|file_hash| file_hash != info.nar_hash) {
        return Err(Error::FileIsNotNar { file_field: "FileHash", nar_field: "NarHash" });
    }
    if info.file_size.is_some_and(|file_size| file_size != info.nar_size) {
        return Err(Error::FileIsNotNar { file_field: "FileSize", nar_field: "NarSize" });
    }
    Ok(())
}

fn refused(field: &'static str, expected: &'static str, found: &str) -> Error {
    Error::Value { field, expected, found: Excerpt::of(found) }
}

/// Only what every later use needs; whether it may be fetched depends on the upstream it came from (R14).
fn url(value: &str) -> Result<String, Error> {
    if (1..=nar_url::MAX_LEN).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(value.to_owned());
    }
    Err(refused("URL", "1 to 1024 characters of graphic ASCII", value))
}

fn compression(value: &str) -> Result<Compression, Error> {
    if value.is_empty() {
        return Ok(Compression::Bzip2);
    }
    Compression::parse(value)
        .ok_or_else(|| refused("Compression", "a compression that Nix knows, such as xz or zstd", value))
}

fn digest(field: &'static str, value: &str) -> Result<Sha256, Error> {
    Sha256::parse(value).map_err(|cause| Error::Hash { field, cause })
}

fn nar_size(value: &str) -> Result<u64, Error> {
    decimal(value)
        .filter(|&size| size > 0)
        .ok_or_else(|| refused("NarSize", "a decimal number greater than 0 and below 2^63", value))
}

/// To Nix a FileSize of 0 is the same as none.
fn file_size(value: &str) -> Result<Option<u64>, Error> {
    match decimal(value) {
        Some(0) => Ok(None),
        Some(size) => Ok(Some(size)),
        None => Err(refused("FileSize", "a decimal number below 2^63", value)),
    }
}

/// Plain digits without sign and leading zeros.
fn decimal(value: &str) -> Option<u64> {
    let plain = value == "0" || (!value.starts_with('0') && value.bytes().all(|b| b.is_ascii_digit()));
    value.parse().ok().filter(|&number| plain && number <= MAX_SIZE)
}

fn references(value: &str) -> Result<Vec<StorePath>, Error> {
    // Blanks between and after the names mean nothing to Nix; some writers leave one at the end.
    let mut paths = value
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(|name| StorePath::parse_base(name).map_err(|cause| Error::StorePath { field: "References", cause }))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}

fn deriver(value: &str) -> Result<Option<StorePath>, Error> {
    if value == "unknown-deriver" {
        return Ok(None);
    }
    StorePath::parse_base(value).map(Some).map_err(|cause| Error::StorePath { field: "Deriver", cause })
}

fn content_address(value: &str) -> Result<Option<ContentAddress>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    let read = ContentAddress::parse(value).map(Some);
    read.ok_or_else(|| refused("CA", "a content address such as fixed:r:sha256:<digest>", value))
}
