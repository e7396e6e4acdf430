//! How a body is cut into chunks, and how a chunk is named, written and hashed.
//!
//! [`CHUNK`] is 16 x 16,375 bytes: sixteen HTTP/2 frames that each fill one TLS record. With foyer's header (36 bytes),
//! the length in front of the bytes (8) and the key (20) an entry is 262,064 bytes, which fits 64 pages of 4 KiB.
//!
//! The hash of a chunk is a permutation of "44 bits of the blob, 20 bits of the chunk number", so that the store can
//! tell from a hash on disk which blob it belongs to (see `heat`), while the low bits, by which foyer picks a shard,
//! are spread evenly.
//!
//! Out of scope: what the bytes mean (see `manifest`).

use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{Read, Write};

use bytes::Bytes;

/// Bytes in every chunk of a body but its last.
pub const CHUNK: usize = 262_000;
/// The unit in which foyer writes: every entry is padded to a multiple of it.
pub const PAGE: usize = 4096;
/// What foyer writes before the value and the key of an entry.
pub const ENTRY_HEADER: usize = 36;

/// Which body: made of the hash its URL carries (FileHash, or NarHash where there is none) and of its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 16]);

impl BlobId {
    /// The id of the body that is called by this SHA-256 and has the compression of this code. The code counts because a
    /// NAR may be there both as it is and compressed without a FileHash: both are called by its NarHash.
    pub fn new(hash: &[u8; 32], compression: u8) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        id[15] ^= compression;
        Self(id)
    }

    /// The 44 bits that every hash of this blob's chunks carries. Two blobs may share them: they then share their heat,
    /// and displace each other's chunks of one number (a miss, never wrong bytes: foyer compares the whole key).
    pub fn prefix(self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first) >> INDEX_BITS
    }
}

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One chunk of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The body.
    pub blob: BlobId,
    /// The chunk's number, from 0.
    pub index: u32,
}

impl ChunkKey {
    /// Bytes of a key on disk.
    pub const ENCODED: usize = 20;

    /// The chunk `index` of `blob`.
    pub fn new(blob: BlobId, index: u32) -> Self {
        Self { blob, index }
    }
}

impl foyer::Code for ChunkKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let mut bytes = [0; Self::ENCODED];
        bytes[..16].copy_from_slice(&self.blob.0);
        bytes[16..].copy_from_slice(&self.index.to_le_bytes());
        writer.write_all(&bytes).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let (mut blob, mut index) = ([0; 16], [0; 4]);
        reader.read_exact(&mut blob).map_err(foyer::Error::io_error)?;
        reader.read_exact(&mut index).map_err(foyer::Error::io_error)?;
        Ok(Self { blob: BlobId(blob), index: u32::from_le_bytes(index) })
    }

    fn estimated_size(&self) -> usize {
        Self::ENCODED
    }
}

/// How many chunks a body of `size` bytes has.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK as u64)
}

/// The length of chunk `index` of a body of `size` bytes; 0 past its end.
pub fn chunk_len(size: u64, index: u32) -> usize {
    let left = size.saturating_sub(u64::from(index) * CHUNK as u64);
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

/// The chunk that holds byte `offset`, and where in it that byte is. `None` past the largest chunk number (1.1 PB).
pub fn chunk_at(offset: u64) -> Option<(u32, usize)> {
    let index = u32::try_from(offset / CHUNK as u64).ok()?;
    let within = usize::try_from(offset % CHUNK as u64).ok()?;
    Some((index, within))
}

/// Bytes an entry takes on disk: header, key and value, padded to whole pages.
pub fn padded(key: usize, value: usize) -> usize {
    (ENTRY_HEADER + key + value).next_multiple_of(PAGE)
}

/// The bytes of a chunk, as the disk tier writes and reads them: a length of eight bytes, then the bytes.
///
/// foyer's own codec for `Bytes` allocates whatever length it reads, before it compares the key: an entry of other data
/// whose checksum is right (blocks restored in a mix, a misdirected write) would end the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk(pub Bytes);

impl foyer::Code for Chunk {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let len = (self.0.len() as u64).to_le_bytes();
        writer.write_all(&len).and_then(|()| writer.write_all(&self.0)).map_err(foyer::Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut len = [0; 8];
        reader.read_exact(&mut len).map_err(foyer::Error::io_error)?;
        let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
        if len > CHUNK {
            return Err(foyer::Error::new(foyer::ErrorKind::Parse, "longer than a chunk"));
        }
        // Read into memory that nobody has cleared first.
        let mut bytes = Vec::with_capacity(len);
        let came = reader.take(len as u64).read_to_end(&mut bytes).map_err(foyer::Error::io_error)?;
        if came < len {
            return Err(foyer::Error::new(foyer::ErrorKind::Parse, "cut short"));
        }
        Ok(Self(bytes.into()))
    }

    fn estimated_size(&self) -> usize {
        size_of::<u64>() + self.0.len()
    }
}

const INDEX_BITS: u32 = 20;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

impl Hash for ChunkKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Chunk numbers past 2^20 (274 GB) share the hash of an earlier one and displace it.
        state.write_u64(self.blob.prefix() << INDEX_BITS | u64::from(self.index) & INDEX_MASK);
    }
}

/// Hashes [`ChunkKey`]s: a permutation, the same in every process, because foyer keeps hashes on disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChunkHash;

/// The hasher of [`ChunkHash`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ChunkHasher(u64);

impl BuildHasher for ChunkHash {
    type Hasher = ChunkHasher;
    fn build_hasher(&self) -> ChunkHasher {
        ChunkHasher(0)
    }
}

impl Hasher for ChunkHasher {
    fn finish(&self) -> u64 {
        spread(self.0)
    }
    fn write_u64(&mut self, packed: u64) {
        self.0 = packed;
    }
    /// Not used by [`ChunkKey`], whose hash is one `write_u64`; any other type still hashes soundly.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = spread(self.0 ^ u64::from(*byte));
        }
    }
}

/// The blob prefix and the chunk number (its low 20 bits) that a hash was made of.
pub fn unpack_hash(hash: u64) -> (u64, u32) {
    let packed = gather(hash);
    #[allow(clippy::cast_possible_truncation)] // masked to 20 bits
    (packed >> INDEX_BITS, (packed & INDEX_MASK) as u32)
}

/// The two odd factors of MurmurHash3's 64-bit finalizer, and their inverses modulo 2^64.
const FACTORS: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];
const INVERSES: [u64; 2] = [inverse(FACTORS[0]), inverse(FACTORS[1])];

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut step = 0;
    while step < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        step += 1;
    }
    x
}

fn spread(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(FACTORS[0]);
    x ^= x >> 33;
    x = x.wrapping_mul(FACTORS[1]);
    x ^ x >> 33
}

/// Undoes [`spread`]: a shift by more than half of the bits is its own inverse.
fn gather(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(INVERSES[1]);
    x ^= x >> 33;
    x = x.wrapping_mul(INVERSES[0]);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use foyer::Code;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_chunk_fills_its_pages() {
        assert_eq!(ENTRY_HEADER + 8 + ChunkKey::ENCODED + CHUNK, 262_064);
        assert_eq!(padded(ChunkKey::ENCODED, 8 + CHUNK), 256 << 10);
        assert_eq!(CHUNK, 16 * 16_375);
    }

    #[test]
    fn lengths_add_up() {
        for size in [0, 1, CHUNK as u64 - 1, CHUNK as u64, CHUNK as u64 + 1, 3_000_000_000] {
            let count = u32::try_from(chunk_count(size)).unwrap();
            assert_eq!((0..count).map(|i| chunk_len(size, i) as u64).sum::<u64>(), size);
            assert_eq!(chunk_len(size, count), 0);
        }
        assert_eq!(chunk_at(CHUNK as u64 * 7 + 3), Some((7, 3)));
        assert_eq!(chunk_at(u64::MAX), None);
    }

    #[test]
    fn low_bits_are_spread_for_small_bodies() {
        // Bodies of one chunk are the most common: they must not all fall into shard 0.
        let mut shards = [0u32; 64];
        for n in 0..64_000u64 {
            let hash = blake3::hash(&n.to_le_bytes());
            let key = ChunkKey::new(BlobId::new(hash.as_bytes(), 0), 0);
            shards[usize::try_from(ChunkHash.hash_one(key) % 64).unwrap()] += 1;
        }
        assert!(shards.iter().all(|n| (800..1200).contains(n)), "{shards:?}");
    }

    proptest! {
        #[test]
        fn a_hash_tells_its_blob_and_number(blob: [u8; 16], index in 0u32..1 << 20) {
            let key = ChunkKey::new(BlobId(blob), index);
            prop_assert_eq!(unpack_hash(ChunkHash.hash_one(key)), (key.blob.prefix(), index));
        }

        #[test]
        fn chunks_survive_the_disk_and_foreign_lengths_allocate_nothing(len in 0usize..5000, foreign in CHUNK as u64 + 1..) {
            let chunk = Chunk(vec![7; len].into());
            let mut bytes = Vec::new();
            chunk.encode(&mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), chunk.estimated_size());
            prop_assert_eq!(Chunk::decode(&mut bytes.as_slice()).unwrap(), chunk);
            bytes[..8].copy_from_slice(&foreign.to_le_bytes());
            prop_assert!(Chunk::decode(&mut bytes.as_slice()).is_err());
        }

        #[test]
        fn keys_survive_the_disk(blob: [u8; 16], index: u32) {
            let key = ChunkKey::new(BlobId(blob), index);
            let mut bytes = Vec::new();
            key.encode(&mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), ChunkKey::ENCODED);
            prop_assert_eq!(ChunkKey::decode(&mut bytes.as_slice()).unwrap(), key);
            prop_assert!(ChunkKey::decode(&mut &bytes[..19]).is_err());
        }
    }
}
