//! What the proxy writes into the store for a narinfo or a small object, and reads back.
//!
//! The store keeps bytes; this is their form. A version byte begins it, and whatever cannot be read is a miss.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::answer::{Outcome, Place, Provenance};
use super::nar::Meant;
use super::policy::{Basis, Ground};
use super::trust::Voucher;
use crate::clock::UnixSeconds;
use crate::fill::{code_of, compression_of};
use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::HashPart;
use crate::store::EntryKey;

const VERSION: u8 = 2;

/// An entry: the body, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// When the upstream was asked.
    pub(super) fetched: UnixSeconds,
    /// Until when it is fresh; 0 for a narinfo whose NAR turned out to be gone.
    pub(super) expires: UnixSeconds,
    /// What it was accepted on.
    pub(super) basis: Basis,
    /// Name of the upstream it came from.
    pub(super) upstream: String,
    /// For a narinfo the URL its upstream announced; for a small object its `Content-Encoding`, or nothing.
    pub(super) note: String,
    /// For a narinfo.
    pub(super) signed: Signed,
    /// The body: a narinfo with our signatures before those of its upstream.
    pub(super) body: Bytes,
}

/// Who vouches for a narinfo that is kept, and where the signatures are in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) voucher: Voucher,
    pub(super) ground: Ground,
    /// Where the first signature begins.
    pub(super) at: u32,
    /// Bytes of our signatures.
    pub(super) ours: u32,
    /// Bytes of its upstream's signatures, behind ours.
    pub(super) theirs: u32,
}

impl Signed {
    /// For what has no signatures.
    pub(super) const NOT: Self = Self { voucher: Voucher::Nobody, ground: Ground([0; 16]), at: 0, ours: 0, theirs: 0 };
}

impl Entry {
    /// A narinfo's text without our signatures.
    pub(super) fn without_ours(&self) -> Bytes {
        let at = self.signed.at as usize;
        cut_out(&self.body, at, self.signed.ours as usize)
    }

    /// A narinfo's text without its upstream's signatures.
    pub(super) fn without_theirs(&self) -> Bytes {
        let at = self.signed.at as usize + self.signed.ours as usize;
        cut_out(&self.body, at, self.signed.theirs as usize)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(80 + self.upstream.len() + self.note.len() + self.body.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.fetched.0);
        out.put_u64_le(self.expires.0);
        out.put_slice(&self.basis.origin);
        out.put_slice(&self.basis.trust);
        out.put_u8(self.signed.voucher as u8);
        out.put_slice(&self.signed.ground.0);
        out.put_u32_le(self.signed.at);
        out.put_u32_le(self.signed.ours);
        out.put_u32_le(self.signed.theirs);
        put_text(&mut out, &self.upstream);
        put_text(&mut out, &self.note);
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads an entry; the body is a slice of `bytes`. `None` for anything that [`Entry::encode`] did not write.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = bytes.clone();
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let (fetched, expires) = (UnixSeconds(rest.try_get_u64_le().ok()?), UnixSeconds(rest.try_get_u64_le().ok()?));
        let basis = Basis { origin: take_array(&mut rest)?, trust: take_array(&mut rest)? };
        let voucher = Voucher::of_code(rest.try_get_u8().ok()?)?;
        let ground = Ground(take_array(&mut rest)?);
        let mut number = || rest.try_get_u32_le().ok();
        let signed = Signed { voucher, ground, at: number()?, ours: number()?, theirs: number()? };
        let (upstream, note) = (take_text(&mut rest)?, take_text(&mut rest)?);
        let end = u64::from(signed.at) + u64::from(signed.ours) + u64::from(signed.theirs);
        let entry = Self { fetched, expires, basis, upstream, note, signed, body: rest };
        (end <= entry.body.len() as u64).then_some(entry)
    }

    /// Where an answer made of it comes from; `read_from` is the tier it was read from, where no upstream was asked.
    pub(super) fn provenance(&self, read_from: Option<Place>, outcome: Outcome) -> Provenance {
        let ttl = i64::try_from(self.expires.0).ok().and_then(|at| at.checked_sub_unsigned(UnixSeconds::now().0));
        let is_new = matches!(outcome, Outcome::Miss | Outcome::Follower);
        Provenance {
            tier: read_from.filter(|_| !is_new),
            upstream: is_new.then(|| self.upstream.as_str().into()),
            ttl: ttl.filter(|_| !self.is_gone()),
            stored: outcome == Outcome::Miss,
            witness: None,
        }
    }

    /// Whether it is a narinfo whose NAR turned out to be gone.
    pub(super) fn is_gone(&self) -> bool {
        self.expires == UnixSeconds(0)
    }

    /// Whether its lifetime lasts still. A clock that was set back far does not make entries live for ever.
    pub(super) fn is_fresh(&self, now: UnixSeconds) -> bool {
        now < self.expires && self.fetched <= now.plus(24 * 3600)
    }
}

/// The text without `len` bytes at `at`; a copy only where there are any.
fn cut_out(text: &Bytes, at: usize, len: usize) -> Bytes {
    match (text.get(..at), text.get(at + len..)) {
        (Some(before), Some(after)) if len > 0 => [before, after].concat().into(),
        _ => text.clone(),
    }
}

/// Names are short and URLs at most 1,024 bytes (nix::nar_url); what is longer would be read back as a miss.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

pub(super) fn take_text(from: &mut Bytes) -> Option<String> {
    let len = usize::from(from.try_get_u16_le().ok()?);
    let text = (from.len() >= len).then(|| from.split_to(len))?;
    String::from_utf8(text.into()).ok()
}

pub(super) fn take_array<const N: usize>(from: &mut Bytes) -> Option<[u8; N]> {
    let (array, _) = from.split_first_chunk::<N>()?;
    let array = *array;
    from.advance(N);
    Some(array)
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
            compression: compression_of(*code)?,
        })
    }
}

/// Kinds of entry in the store.
const NARINFO: u8 = 1;
const ALIAS: u8 = 2;
const SMALL: u8 = 3;
const MEANT: u8 = 4;
const QUARANTINE: u8 = 5;

/// Where the narinfo of a store path is.
pub(super) fn narinfo_key(hash: HashPart) -> EntryKey {
    EntryKey { kind: NARINFO, id: *hash.as_bytes() }
}

/// The hash part of the path whose narinfo is there; `None` for other things.
pub(super) fn narinfo_hash(key: EntryKey) -> Option<HashPart> {
    (key.kind == NARINFO).then(|| HashPart::parse(std::str::from_utf8(&key.id).ok()?).ok()).flatten()
}

/// Under which name it is remembered for a moment that nobody has certain bytes.
pub(super) fn meant_key(meant: &Meant) -> EntryKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(meant.hash.as_ref().map_or(&[], |hash| hash.as_bytes().as_slice()));
    hasher.update(meant.digest.as_bytes()).update(&[code_of(meant.compression)]);
    EntryKey { kind: MEANT, id: *hasher.finalize().as_bytes() }
}

/// Where it says that certain bytes are not the NAR of a path.
pub(super) fn quarantine_key(meant: &Meant) -> EntryKey {
    EntryKey { kind: QUARANTINE, ..meant_key(meant) }
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
            fetched: u64, expires: u64, basis: [[u8; 16]; 3], voucher in 0_u8..4, marks in (0_u32..100, 0_u32..100, 0_u32..100),
            upstream in "[ -~]{0,40}", note in "[ -~]{0,200}",
            body in prop::collection::vec(any::<u8>(), 300..400), cut: prop::sample::Index,
        ) {
            let entry = Entry {
                fetched: UnixSeconds(fetched), expires: UnixSeconds(expires),
                basis: Basis { origin: basis[0], trust: basis[1] },
                upstream, note, body: body.into(),
                signed: Signed { voucher: Voucher::of_code(voucher).unwrap(), ground: Ground(basis[2]), at: marks.0, ours: marks.1, theirs: marks.2 },
            };
            let bytes = entry.encode();
            let cut = bytes.slice(..cut.index(bytes.len() - 100));
            prop_assert_eq!(Entry::decode(&bytes), Some(entry));
            prop_assert!(Entry::decode(&cut).is_none_or(|entry| entry.body.len() < 300));
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
    fn signatures_can_be_left_out() {
        let entry = |ours, theirs| Entry {
            fetched: UnixSeconds(0),
            expires: UnixSeconds(0),
            basis: Basis { origin: [0; 16], trust: [0; 16] },
            upstream: String::new(),
            note: String::new(),
            signed: Signed { at: 2, ours, theirs, ..Signed::NOT },
            body: Bytes::from_static(b"a\nOOTTTc\n"),
        };
        assert_eq!(entry(2, 3).without_ours(), "a\nTTTc\n");
        assert_eq!(entry(2, 3).without_theirs(), "a\nOOc\n");
        assert_eq!((entry(0, 5).without_ours(), entry(5, 0).without_theirs()), (entry(0, 0).body, entry(0, 0).body));
    }

    #[test]
    fn lifetimes_end_and_a_clock_set_back_does_not_stretch_them() {
        let entry = Entry {
            fetched: UnixSeconds(1_000_000),
            expires: UnixSeconds(1_000_100),
            basis: Basis { origin: [0; 16], trust: [0; 16] },
            upstream: String::new(),
            note: String::new(),
            signed: Signed::NOT,
            body: Bytes::new(),
        };
        assert!(entry.is_fresh(UnixSeconds(1_000_099)));
        assert!(!entry.is_fresh(UnixSeconds(1_000_100)));
        assert!(!entry.is_fresh(UnixSeconds(1_000_000 - 24 * 3600 - 1)));
    }
}
