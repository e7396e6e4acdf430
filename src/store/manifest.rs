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
const MAGIC: [u8; 4] = *b"SBM\x01";
/// Bytes before the digests.
const FIXED: usize = 4 + 1 + 1 + 8 + 8 + 32 + 32 + 32;

/// Set beside the proof when no narinfo announced the body; what it would say is then zeros.
const UNANNOUNCED: u8 = 2;
const NOTHING: Announced = Announced { store_hash: [0; 32], nar_hash: [0; 32], nar_size: 0 };

/// How many bytes of a BLAKE3 digest are kept for each chunk.
pub const DIGEST: usize = 16;

/// Which promise of the narinfo the whole body was checked against when it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// FileHash: the bytes are those the upstream announced. The signature does not cover it.
    FileHash,
    /// NarHash, which the signature covers: the body is the uncompressed NAR.
    NarHash,
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
}

/// One stored body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes of the body.
    pub size: u64,
    /// SHA-256 of the body.
    pub file_hash: [u8; 32],
    /// The compression, as a code of the caller's.
    pub compression: u8,
    /// What the body was checked against.
    pub proof: Proof,
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

    /// The id under which the chunks are kept, made of the hash of the body.
    pub fn blob(&self) -> BlobId {
        BlobId::of_hash(&self.file_hash)
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
        let proof = match self.proof {
            Proof::FileHash => 0,
            Proof::NarHash => 1,
        };
        out.push(proof | if self.announced.is_none() { UNANNOUNCED } else { 0 });
        let announced = self.announced.unwrap_or(NOTHING);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&announced.nar_size.to_le_bytes());
        out.extend_from_slice(&self.file_hash);
        out.extend_from_slice(&announced.nar_hash);
        out.extend_from_slice(&announced.store_hash);
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
        let proof = match flags & !UNANNOUNCED {
            0 => Proof::FileHash,
            1 => Proof::NarHash,
            _ => return Err(DecodeError::Field("proof")),
        };
        let size = u64::from_le_bytes(fields.take()?);
        let nar_size = u64::from_le_bytes(fields.take()?);
        let (file_hash, nar_hash, store_hash) = (fields.take()?, fields.take()?, fields.take::<32>()?);
        let announced = Announced { store_hash, nar_hash, nar_size };
        let announced = match flags & UNANNOUNCED {
            0 if store_hash.iter().all(u8::is_ascii_alphanumeric) => Some(announced),
            UNANNOUNCED if announced == NOTHING => None,
            _ => return Err(DecodeError::Field("store hash")),
        };
        let (digests, rest) = fields.0.as_chunks::<DIGEST>();
        if !rest.is_empty() || chunk_count(size) != digests.len() as u64 {
            return Err(DecodeError::Length);
        }
        let digests = digests.to_vec();
        Ok(Self { size, file_hash, compression, proof, announced, digests })
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
            chunks in 0usize..40, short in 0u64..CHUNK as u64, hashes: [[u8; 32]; 2], nar_size: u64, compression: u8,
            nar in any::<bool>(), store_hash in prop::option::of("[0-9a-z]{32}"), seed: u8,
        ) -> Manifest {
            Manifest {
                size: (chunks as u64 * CHUNK as u64).saturating_sub(short),
                file_hash: hashes[0],
                compression,
                proof: if nar { Proof::NarHash } else { Proof::FileHash },
                announced: store_hash.map(|hash| Announced {
                    store_hash: hash.into_bytes().try_into().unwrap(),
                    nar_hash: hashes[1],
                    nar_size,
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
        bytes[6..14].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes[FIXED - 32..].fill(b'0');
        assert_eq!(Manifest::decode(&bytes), Err(DecodeError::Length));
    }

    #[test]
    fn a_chunk_is_accepted_by_length_and_digest() {
        let chunks = [vec![1; CHUNK], vec![2; 10]];
        let manifest = Manifest {
            size: CHUNK as u64 + 10,
            file_hash: [7; 32],
            compression: 0,
            proof: Proof::FileHash,
            announced: Some(Announced { store_hash: [b'a'; 32], nar_hash: [8; 32], nar_size: 1 }),
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
