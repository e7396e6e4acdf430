//! What is known about one stored body: its size, its hashes and the digest of each chunk.
//!
//! A manifest is written after the last chunk was flushed: one that can be read means that the chunks were on disk.
//! A chunk read back is checked against its digest before a byte of it leaves, so a manifest is also what makes
//! eviction, corruption and a refill from another upstream the same thing: a missing chunk.
//!
//! The format is ours and versioned, little-endian, and has exactly one encoding for each manifest. Decoding never
//! allocates more than the input is long.
//!
//! Out of scope: checking digests (see `fill`), and what the compression code stands for (see `nix`).

use super::geometry::{BlobId, CHUNK, chunk_count, chunk_len};

/// Magic number and version of the encoding.
const MAGIC: [u8; 4] = *b"SBM\x02";
/// Bytes before the digests: magic, compression, flags, blob, size, FileHash, what was announced, what is inside.
const FIXED: usize = 4 + 1 + 1 + 16 + 8 + 32 + (32 + 32 + 8 + 16) + (32 + 8);

/// Flags: a narinfo announced the body; it was looked into; what is inside has the content address announced. What a
/// missing flag leaves out is zeros.
const ANNOUNCED: u8 = 1;
const INSIDE: u8 = 2;
const ADDRESSED: u8 = 4;

/// How many bytes of a BLAKE3 digest are kept for each chunk.
pub const DIGEST: usize = 16;

/// What was found in a body when it was decompressed: facts about its bytes, whatever any narinfo claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// SHA-256 of the NAR in it.
    pub nar_hash: [u8; 32],
    /// Bytes of the NAR in it.
    pub nar_size: u64,
    /// True when the NAR has the content address that the narinfo in [`Manifest::announced`] gave (R3). Other narinfos of
    /// the same bytes may give another.
    pub addressed: bool,
}

/// What a narinfo says about the NAR in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The 32 characters of the store path's hash.
    pub store_hash: [u8; 32],
    /// SHA-256 of the uncompressed NAR.
    pub nar_hash: [u8; 32],
    /// Bytes of the uncompressed NAR.
    pub nar_size: u64,
    /// What the narinfo was believed on, for whoever believes it.
    pub basis: [u8; 16],
}

/// One stored body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The name under which the chunks are kept.
    pub blob: BlobId,
    /// Bytes of the body.
    pub size: u64,
    /// SHA-256 of the body.
    pub file_hash: [u8; 32],
    /// The compression, as a code of the caller's.
    pub compression: u8,
    /// What is inside, once that was looked at (R7).
    pub inside: Option<Inside>,
    /// What the narinfo said that announced it; nothing when it was asked for by its FileHash alone.
    pub announced: Option<Announced>,
    /// The first 16 bytes of BLAKE3 of each chunk, in order.
    pub digests: Vec<[u8; DIGEST]>,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another format or version.
    #[error("not a manifest of this version")]
    Version,
    /// Too short, or more or fewer digests than the size asks for.
    #[error("length does not fit the size of the body")]
    Length,
    /// A field that holds what no encoder writes.
    #[error("{0} is out of range")]
    Field(&'static str),
}

impl Manifest {
    /// The first 16 bytes of BLAKE3 of a chunk.
    pub fn digest(chunk: &[u8]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&blake3::hash(chunk).as_bytes()[..DIGEST]);
        digest
    }

    /// The number of chunks.
    pub fn chunks(&self) -> u32 {
        // A manifest with 2^32 digests would take 64 GiB of memory: it was never built.
        u32::try_from(self.digests.len()).unwrap_or(u32::MAX)
    }

    /// The length of chunk `index`; 0 past the end.
    pub fn chunk_len(&self, index: u32) -> usize {
        chunk_len(self.size, index)
    }

    /// True when `chunk` is chunk `index` of this body: its length and its digest are right.
    pub fn accepts(&self, index: u32, chunk: &[u8]) -> bool {
        let digest = usize::try_from(index).ok().and_then(|index| self.digests.get(index));
        chunk.len() == self.chunk_len(index) && digest.is_some_and(|digest| *digest == Self::digest(chunk))
    }

    /// Whether the NAR inside was seen to have the content address of the path with this hash part.
    pub fn is_addressed_as(&self, store_hash: &[u8; 32]) -> bool {
        let announced = self.announced.is_some_and(|announced| announced.store_hash == *store_hash);
        announced && self.inside.is_some_and(|inside| inside.addressed)
    }

    /// The same body, announced by another narinfo: what its content was held against may not be what that one says.
    pub fn announced_by(&self, announced: Option<Announced>) -> Self {
        let same = announced.map(|now| now.store_hash) == self.announced.map(|before| before.store_hash);
        let inside = self.inside.map(|inside| Inside { addressed: inside.addressed && same, ..inside });
        Self { announced, inside, ..self.clone() }
    }

    /// Bytes [`Manifest::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        FIXED + self.digests.len() * DIGEST
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.extend_from_slice(&MAGIC);
        out.push(self.compression);
        let addressed = self.inside.is_some_and(|inside| inside.addressed);
        out.push(
            if self.announced.is_some() { ANNOUNCED } else { 0 }
                | if self.inside.is_some() { INSIDE } else { 0 }
                | if addressed { ADDRESSED } else { 0 },
        );
        out.extend_from_slice(&self.blob.0);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.file_hash);
        let nothing = Announced { store_hash: [0; 32], nar_hash: [0; 32], nar_size: 0, basis: [0; 16] };
        let announced = self.announced.unwrap_or(nothing);
        out.extend_from_slice(&announced.store_hash);
        out.extend_from_slice(&announced.nar_hash);
        out.extend_from_slice(&announced.nar_size.to_le_bytes());
        out.extend_from_slice(&announced.basis);
        let inside = self.inside.unwrap_or(Inside { nar_hash: [0; 32], nar_size: 0, addressed: false });
        out.extend_from_slice(&inside.nar_hash);
        out.extend_from_slice(&inside.nar_size.to_le_bytes());
        out.extend_from_slice(self.digests.as_flattened());
        out
    }

    /// Reads what [`Manifest::encode`] wrote.
    ///
    /// # Errors
    /// When `bytes` is anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(bytes);
        if fields.take()? != MAGIC {
            return Err(DecodeError::Version);
        }
        let [compression, flags] = fields.take()?;
        let blob = BlobId(fields.take()?);
        let size = u64::from_le_bytes(fields.take()?);
        let file_hash = fields.take()?;
        let announced = fields.announced(flags & ANNOUNCED != 0)?;
        let inside = fields.inside(flags & INSIDE != 0, flags & ADDRESSED != 0)?;
        if flags & !(ANNOUNCED | INSIDE | ADDRESSED) != 0 {
            return Err(DecodeError::Field("flags"));
        }
        let (digests, rest) = fields.0.as_chunks::<DIGEST>();
        if !rest.is_empty() || chunk_count(size) != digests.len() as u64 {
            return Err(DecodeError::Length);
        }
        let digests = digests.to_vec();
        Ok(Self { blob, size, file_hash, compression, inside, announced, digests })
    }
}

/// The bytes not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(DecodeError::Length)?;
        self.0 = rest;
        Ok(*field)
    }

    fn announced(&mut self, there: bool) -> Result<Option<Announced>, DecodeError> {
        let (store_hash, nar_hash) = (self.take::<32>()?, self.take()?);
        let (nar_size, basis) = (u64::from_le_bytes(self.take()?), self.take()?);
        match there {
            true if store_hash.iter().all(u8::is_ascii_alphanumeric) => {
                Ok(Some(Announced { store_hash, nar_hash, nar_size, basis }))
            }
            false if store_hash == [0; 32] && nar_hash == [0; 32] && nar_size == 0 && basis == [0; 16] => Ok(None),
            _ => Err(DecodeError::Field("what was announced")),
        }
    }

    fn inside(&mut self, there: bool, addressed: bool) -> Result<Option<Inside>, DecodeError> {
        let (nar_hash, nar_size) = (self.take()?, u64::from_le_bytes(self.take()?));
        match there {
            true => Ok(Some(Inside { nar_hash, nar_size, addressed })),
            false if nar_hash == [0; 32] && nar_size == 0 && !addressed => Ok(None),
            false => Err(DecodeError::Field("what is inside")),
        }
    }
}

/// What must hold for any input: decoding ends, and what it accepts encodes to the same bytes. Entered by the fuzz
/// target and by the test that replays its corpus.
///
/// # Panics
/// When it does not hold.
#[allow(clippy::panic, clippy::missing_panics_doc)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes, "one encoding for each manifest");
        let total: u64 = (0..manifest.chunks()).map(|i| manifest.chunk_len(i) as u64).sum();
        assert_eq!(total, manifest.size, "the chunks make up the body");
        assert!(manifest.digests.len() <= bytes.len() / DIGEST && manifest.size <= (bytes.len() * CHUNK) as u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn manifests()(
            chunks in 0usize..40, short in 0u64..CHUNK as u64, hashes: [[u8; 32]; 3], nar_size: u64, compression: u8,
            inside: Option<(u64, bool)>, store_hash in prop::option::of("[0-9a-z]{32}"), seed: u8, blob: [u8; 16],
        ) -> Manifest {
            Manifest {
                blob: BlobId(blob),
                size: (chunks as u64 * CHUNK as u64).saturating_sub(short),
                file_hash: hashes[0],
                compression,
                inside: inside.map(|(nar_size, addressed)| Inside { nar_hash: hashes[2], nar_size, addressed }),
                announced: store_hash.map(|hash| Announced {
                    store_hash: hash.into_bytes().try_into().unwrap(),
                    nar_hash: hashes[1],
                    nar_size,
                    basis: blob,
                }),
                digests: (0..chunks).map(|n| [seed.wrapping_add(u8::try_from(n).unwrap()); DIGEST]).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_manifest_survives_encoding(manifest in manifests()) {
            let bytes = manifest.encode();
            prop_assert_eq!(bytes.len(), manifest.encoded_len());
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        }

        #[test]
        fn no_input_breaks_the_decoder(bytes in vec(any::<u8>(), 0..400)) {
            fuzz(&bytes);
        }

        #[test]
        fn a_changed_length_is_refused(manifest in manifests(), cut in 1usize..64) {
            let bytes = manifest.encode();
            prop_assert!(Manifest::decode(&bytes[..bytes.len() - cut]).is_err());
            prop_assert!(Manifest::decode(&[bytes, vec![0; cut]].concat()).is_err());
        }

        #[test]
        fn damage_never_breaks_the_decoder(manifest in manifests(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            fuzz(&bytes);
        }
    }

    #[test]
    fn a_size_that_claims_more_digests_than_there_are_allocates_nothing() {
        let mut bytes = vec![0; FIXED];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[22..30].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Manifest::decode(&bytes), Err(DecodeError::Length));
    }

    #[test]
    fn a_content_address_was_seen_for_one_path_only() {
        let announced = |hash| Announced { store_hash: [hash; 32], nar_hash: [2; 32], nar_size: 3, basis: [0; 16] };
        let manifest = Manifest {
            blob: BlobId([7; 16]),
            size: 0,
            file_hash: [7; 32],
            compression: 0,
            inside: Some(Inside { nar_hash: [2; 32], nar_size: 3, addressed: true }),
            announced: Some(announced(b'a')),
            digests: Vec::new(),
        };
        assert!(manifest.is_addressed_as(&[b'a'; 32]) && !manifest.is_addressed_as(&[b'b'; 32]));
        let again = manifest.announced_by(Some(Announced { basis: [1; 16], ..announced(b'a') }));
        assert!(again.is_addressed_as(&[b'a'; 32]));
        for other in [Some(announced(b'b')), None] {
            let other = manifest.announced_by(other);
            assert!(!other.is_addressed_as(&[b'a'; 32]) && !other.is_addressed_as(&[b'b'; 32]));
            assert!(other.inside.is_some());
        }
    }

    #[test]
    fn a_chunk_is_accepted_by_length_and_digest() {
        let chunks = [vec![1; CHUNK], vec![2; 10]];
        let manifest = Manifest {
            blob: BlobId([7; 16]),
            size: CHUNK as u64 + 10,
            file_hash: [7; 32],
            compression: 0,
            inside: None,
            announced: Some(Announced { store_hash: [b'a'; 32], nar_hash: [8; 32], nar_size: 1, basis: [9; 16] }),
            digests: chunks.iter().map(|c| Manifest::digest(c)).collect(),
        };
        assert!(manifest.accepts(0, &chunks[0]) && manifest.accepts(1, &chunks[1]));
        assert!(!manifest.accepts(1, &chunks[0]) && !manifest.accepts(0, &chunks[1]) && !manifest.accepts(2, &[]));
        assert!(!manifest.accepts(1, &[2; 9]));
    }

    #[test]
    fn the_corpus_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/manifest");
        let mut accepted = 0;
        for file in std::fs::read_dir(&corpus).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            fuzz(&bytes);
            accepted += usize::from(Manifest::decode(&bytes).is_ok());
        }
        assert!(accepted >= 2, "the corpus has manifests that decode");
    }
}
