//! What the proxy writes into the store for a narinfo or a small object, and reads back.
//!
//! The store keeps bytes; this is their form. A version byte begins it, and whatever cannot be read is a miss.

use bytes::{BufMut, Bytes, BytesMut};

use super::nar::Meant;
use crate::clock::UnixSeconds;
use crate::fill::code_of;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::HashPart;
use crate::store::EntryKey;

const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 16;

/// An entry: the body as it is served, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// When the upstream was asked.
    pub(super) fetched: UnixSeconds,
    /// Until when it is fresh.
    pub(super) expires: UnixSeconds,
    /// What its trust rests on: see [`super::trust::fingerprint`].
    pub(super) trust: [u8; 16],
    /// Name of the upstream it came from.
    pub(super) upstream: String,
    /// For a narinfo the URL its upstream announced; for a small object its `Content-Encoding`, or nothing.
    pub(super) note: String,
    /// The body.
    pub(super) body: Bytes,
}

impl Entry {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + 4 + self.upstream.len() + self.note.len() + self.body.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.fetched.0);
        out.put_u64_le(self.expires.0);
        out.put_slice(&self.trust);
        for text in [&self.upstream, &self.note] {
            // Names are short and URLs at most 1,024 bytes (nix::nar_url); longer ones would be read back as a miss.
            out.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
            out.put_slice(text.as_bytes());
        }
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads an entry; the body is a slice of `bytes`. `None` for anything that [`Entry::encode`] did not write.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        if head[0] != VERSION {
            return None;
        }
        let number = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes).map(UnixSeconds);
        let mut at = HEAD;
        let mut text = || {
            let len = usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
            let text = std::str::from_utf8(bytes.get(at + 2..at + 2 + len)?).ok()?.to_owned();
            at += 2 + len;
            Some(text)
        };
        let (upstream, note) = (text()?, text()?);
        Some(Self {
            fetched: number(1)?,
            expires: number(9)?,
            trust: head.get(17..33)?.try_into().ok()?,
            upstream,
            note,
            body: bytes.slice(at..),
        })
    }

    /// Whether its lifetime lasts still. A clock that was set back far does not make entries live for ever.
    pub(super) fn is_fresh(&self, now: UnixSeconds) -> bool {
        now < self.expires && self.fetched <= now.plus(24 * 3600)
    }
}

/// Which bytes an announced NAR URL means: kept by that URL, so that a stored NAR is found by it without its narinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alias {
    /// The store path that announced it.
    pub(super) hash: HashPart,
    /// As in [`super::nar::Meant`].
    pub(super) digest: Sha256,
    /// The NAR inside: newer Hydras name a file by it.
    pub(super) nar_hash: Sha256,
    pub(super) compression: Compression,
}

impl Alias {
    pub(super) fn encode(&self) -> Bytes {
        let hashes = [self.hash.as_bytes(), self.digest.as_bytes(), self.nar_hash.as_bytes()];
        let mut out = BytesMut::with_capacity(97);
        hashes.iter().for_each(|hash| out.put_slice(*hash));
        out.put_u8(code_of(self.compression));
        out.freeze()
    }

    /// Reads an alias; `None` for anything that [`Alias::encode`] did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk::<32>()?;
        let (digest, rest) = rest.split_first_chunk()?;
        let (nar_hash, rest) = rest.split_first_chunk()?;
        let [code] = rest else { return None };
        Some(Self {
            hash: HashPart::parse(std::str::from_utf8(hash).ok()?).ok()?,
            digest: Sha256::from_bytes(*digest),
            nar_hash: Sha256::from_bytes(*nar_hash),
            compression: Compression::ALL.into_iter().find(|compression| code_of(*compression) == *code)?,
        })
    }
}

/// Kinds of entry in the store.
const NARINFO: u8 = 1;
const ALIAS: u8 = 2;
const SMALL: u8 = 3;
const MEANT: u8 = 4;

/// Where the narinfo of a store path is.
pub(super) fn narinfo_key(hash: HashPart) -> EntryKey {
    EntryKey { kind: NARINFO, id: *hash.as_bytes() }
}

/// Under which name it is remembered for a moment that nobody has certain bytes.
pub(super) fn meant_key(meant: &Meant) -> EntryKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(meant.hash.as_ref().map_or(&[], |hash| hash.as_bytes().as_slice()));
    hasher.update(meant.digest.as_bytes()).update(&[code_of(meant.compression)]);
    EntryKey { kind: MEANT, id: *hasher.finalize().as_bytes() }
}

/// Where it says which bytes an announced NAR URL means.
pub(super) fn alias_key(url: &str) -> EntryKey {
    EntryKey { kind: ALIAS, id: *blake3::hash(url.as_bytes()).as_bytes() }
}

/// Where a small object is, by its path.
pub(super) fn small_key(path: &str) -> EntryKey {
    EntryKey { kind: SMALL, id: *blake3::hash(path.as_bytes()).as_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            fetched: u64, expires: u64, trust: [u8; 16],
            upstream in "[ -~]{0,40}", note in "[ -~]{0,200}",
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let entry = Entry {
                fetched: UnixSeconds(fetched), expires: UnixSeconds(expires), trust, upstream, note, body: body.into(),
            };
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }

        #[test]
        fn an_alias_is_read_back(hash in "[0-9a-df-np-sv-z]{32}", hashes: [[u8; 32]; 2], n in 0..Compression::ALL.len(), cut in 1usize..97) {
            let alias = Alias {
                hash: HashPart::parse(&hash).unwrap(),
                digest: Sha256::from_bytes(hashes[0]),
                nar_hash: Sha256::from_bytes(hashes[1]),
                compression: Compression::ALL[n],
            };
            let bytes = alias.encode();
            prop_assert_eq!(Alias::decode(&bytes), Some(alias));
            prop_assert_eq!(Alias::decode(&bytes[cut..]), None);
        }

        #[test]
        fn anything_else_is_a_miss_or_an_entry_but_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(&bytes.into());
        }
    }

    #[test]
    fn lifetimes_end_and_a_clock_set_back_does_not_stretch_them() {
        let entry = Entry {
            fetched: UnixSeconds(1_000_000),
            expires: UnixSeconds(1_000_100),
            trust: [0; 16],
            upstream: String::new(),
            note: String::new(),
            body: Bytes::new(),
        };
        assert!(entry.is_fresh(UnixSeconds(1_000_099)));
        assert!(!entry.is_fresh(UnixSeconds(1_000_100)));
        assert!(!entry.is_fresh(UnixSeconds(1_000_000 - 24 * 3600 - 1)));
    }
}
