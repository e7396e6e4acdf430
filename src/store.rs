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
//! [`Store::walk`] tells what is in it, and [`Store::peek_chunk`] looks at a chunk, without either being a use.
//!
//! Out of scope: HTTP, upstreams, and what a narinfo is.

mod allocate;
mod catalog;
mod device;
mod direct;
mod disk;
mod gate;
pub mod geometry;
mod health;
mod heat;
mod held;
mod line;
pub mod manifest;
mod meta;
pub mod negative;
mod open;
mod peek;
mod pinned;
mod scan;
mod second_chance;
mod space;
#[cfg(test)]
mod tests;
mod tier;
mod usage;
mod walk;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use foyer::{Cache, CacheBuilder, S3FifoConfig};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::catalog::Catalog;
use self::disk::Disk;
pub use self::geometry::{BlobId, CHUNK, ChunkKey};
use self::geometry::{Chunk, ChunkHash, padded};
use self::heat::Heat;
pub use self::manifest::{Announced, Inside, Manifest};
pub use self::meta::EntryKey;
use self::meta::{MetaKey, MetaValue};
use self::negative::Negatives;
pub use self::open::OpenError;
pub use self::peek::Peeked;
use self::pinned::Pinned;
pub use self::pinned::{Hold, Room};
use self::space::{Secret, Space};
pub use self::usage::{DiskUsage, Taken, Usage};
pub use self::walk::{Kept, Walk, Walked};
use crate::metrics::{Label as _, Place, Refusal, StoreMetrics, StoreTier};
use crate::options::{ByteSize, Mistakes, Period, key};

crate::options! {
    /// Where NARs are kept, and how much of them.
    ///
    /// Besides `memory` the store takes a fixed amount, at most 64 MiB: 24 MiB of write buffers, the rest tables of negative
    /// answers and of NARs in use. And about 100 bytes for each entry on disk, which is 0.4 GiB for 1 TiB of large NARs.
    pub struct Options {
        /// The directory for everything that is kept: the disk tier, and the self-signed certificate; made if it does not
        /// exist. By default the state directory: `$STATE_DIRECTORY`, which systemd sets, else `/var/lib/snowbank` for
        /// root and `~/.local/state/snowbank` for others.
        pub dir: Option<PathBuf> = None,
        /// The disk space the store takes, at least 64 MiB; with "0 B" everything is kept in memory only. All of it is allocated when the store opens, so that the
        /// disk cannot be full later. A thirty-second part (16 MiB to 4 GiB) is for manifests and narinfos.
        pub disk: ByteSize = ByteSize(10 << 30),
        /// The memory for what is asked for often, at least 16 MiB. An eighth of it (at most 256 MiB) is for manifests
        /// and narinfos.
        pub memory: ByteSize = ByteSize(512 << 20),
        /// How long it takes the scrubber to read all of a full disk tier once: it looks at everything that is kept, in the
        /// background, and drops or fetches again what the disk gives back wrong. "0 s" switches it off.
        pub scrub: Period = Period::seconds(30 * 86_400),
    }
}

/// The least memory the tiers work with.
pub const LEAST_MEMORY: u64 = 16 << 20;

impl Options {
    /// Says what cannot work, with `at` the place of the table.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.wants_disk() && self.disk.0 < device::LEAST {
            let accepted = format!("at least \"{}\", or \"0 B\" for none", ByteSize(device::LEAST));
            mistakes.refuse(&key(at, "disk"), &format!("\"{}\"", self.disk), &accepted);
        }
        if self.memory.0 < LEAST_MEMORY {
            let accepted = format!("at least \"{}\"", ByteSize(LEAST_MEMORY));
            mistakes.refuse(&key(at, "memory"), &format!("\"{}\"", self.memory), &accepted);
        }
    }

    /// Whether there is to be a disk tier.
    pub fn wants_disk(&self) -> bool {
        self.dir.is_some() && self.disk.0 > 0
    }
}

/// The store, as one space of it is seen: the public one, or what was got from one private upstream (see `space`). A clone is
/// the same store. Dropping the last one ends it at once; see [`Store::close`].
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    space: Space,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    nar: Cache<ChunkKey, Bytes, ChunkHash>,
    catalog: Arc<Catalog>,
    negatives: Negatives,
    heat: Arc<Heat>,
    pinned: Arc<Pinned>,
    metrics: StoreMetrics,
    disk: ArcSwapOption<Disk>,
    /// Held while the disk tier is opened; true once it is watched.
    opening: tokio::sync::Mutex<bool>,
    /// True once the first try to open the disk tier has ended, or when none is to be made.
    opened: watch::Sender<bool>,
    /// What private spaces are named with, once there is one.
    secret: OnceLock<Secret>,
    closed: CancellationToken,
    _close: DropGuard,
}

impl Store {
    /// A store in memory. Answers at once; see [`Store::open_disk`] for the rest.
    pub fn memory_only(options: &Options, metrics: StoreMetrics) -> Self {
        let memory = usize::try_from(options.memory.0.max(LEAST_MEMORY)).unwrap_or(usize::MAX);
        let for_meta = (memory / 8).min(256 << 20);
        let nar = CacheBuilder::new(memory - for_meta)
            .with_name("nar")
            .with_shards(shards(memory - for_meta))
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(ChunkHash)
            .with_weighter(|_, chunk: &Bytes| chunk.len() + MEMORY_OVERHEAD)
            .with_metrics_registry(Box::new(metrics.foyer.clone()))
            .build();
        for (tier, bytes) in [(StoreTier::Nar, memory - for_meta), (StoreTier::Meta, for_meta)] {
            let capacity = metrics.memory_capacity.with_label_values(&[tier.text()]);
            capacity.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let closed = CancellationToken::new();
        let inner = Arc::new(Inner {
            options: options.clone(),
            nar,
            catalog: Arc::new(Catalog::new(for_meta, options.wants_disk(), &metrics)),
            negatives: Negatives::default(),
            heat: Arc::default(),
            pinned: Arc::default(),
            metrics,
            disk: ArcSwapOption::empty(),
            opening: tokio::sync::Mutex::new(false),
            opened: watch::Sender::new(!options.wants_disk()),
            secret: OnceLock::new(),
            _close: closed.clone().drop_guard(),
            closed,
        });
        Self { inner, space: Space::default() }
    }

    /// Opens the disk tier and puts it in behind the memory: allocates its files, recovers what is in them. What was put
    /// before stays readable while it is in memory. From then on the tier is watched (see `health`).
    ///
    /// # Errors
    /// Why the disk cannot be used. The store goes on in memory, has said so in the log, and tries again by itself.
    pub async fn open_disk(&self) -> Result<(), OpenError> {
        let result = health::open(&self.inner).await;
        self.inner.opened.send_replace(true);
        result
    }

    /// Opens the disk tier for a command that looks at what a server has stored: only if the directory holds a cache of
    /// just the configured size. [`Store::open_disk`] makes what is missing, and frees what does not fit: with another
    /// block size, which follows from the size, that is everything.
    ///
    /// Opening may empty one block, as at any start (see `device`). The store goes on in memory after an error, and does
    /// not try again.
    ///
    /// # Errors
    /// [`OpenError::Nothing`] or [`OpenError::OtherSize`], [`OpenError::InUse`] while a server runs, or why the disk
    /// cannot be used.
    pub async fn open_existing(&self) -> Result<(), OpenError> {
        let result = health::open_existing(&self.inner).await;
        self.inner.opened.send_replace(true);
        result
    }

    /// The bytes of a chunk whose digest is `digest` (see [`Manifest::digest`]).
    ///
    /// What comes from disk is checked (R11): foyer's checksum proves that a chunk is what was once written under its
    /// name, not that it is the one its manifest means, because a fill that was killed before it failed leaves chunks
    /// behind. A wrong one is removed, and is a miss. Memory holds only what was checked, or what a fill put just now.
    pub async fn chunk(&self, key: ChunkKey, digest: &[u8; manifest::DIGEST]) -> Option<Bytes> {
        self.chunk_from(key, digest).await.map(|(bytes, _)| bytes)
    }

    /// As [`Store::chunk`], and where it was.
    pub async fn chunk_from(&self, key: ChunkKey, digest: &[u8; manifest::DIGEST]) -> Option<(Bytes, Place)> {
        let key = self.space.chunk(key);
        if let Some(entry) = self.inner.nar.get(&key) {
            self.count(StoreTier::Nar, Place::Memory);
            return Some((entry.value().clone(), Place::Memory));
        }
        let found = match self.inner.disk.load_full() {
            Some(disk) => disk.nar.get(&key).await.map(|found| found.value.0),
            None => None,
        };
        let right = found.filter(|bytes| self.is_right(key, bytes, digest));
        self.count(StoreTier::Nar, if right.is_some() { Place::Disk } else { Place::Nowhere });
        let bytes = right?;
        self.inner.nar.insert(key, bytes.clone());
        Some((bytes, Place::Disk))
    }

    /// Where the chunk probably is. Does no I/O.
    pub fn place_of_chunk(&self, key: ChunkKey) -> Place {
        let key = self.space.chunk(key);
        let is_on_disk = || self.inner.disk.load().as_ref().is_some_and(|disk| disk.nar.contains(&key));
        match self.inner.nar.contains(&key) {
            true => Place::Memory,
            false if is_on_disk() => Place::Disk,
            false => Place::Nowhere,
        }
    }

    /// True when the chunk is probably there. Does no I/O.
    pub fn has_chunk(&self, key: ChunkKey) -> bool {
        self.place_of_chunk(key) != Place::Nowhere
    }

    /// Keeps a chunk of at most [`CHUNK`] bytes, readable at once. Waits while more is being written than the disk takes.
    /// While what is pinned is being written again for long, it is kept in memory only.
    pub async fn put_chunk(&self, key: ChunkKey, bytes: Bytes) {
        debug_assert!(bytes.len() <= CHUNK, "a chunk is cut at CHUNK bytes");
        self.put_kept_chunk(self.space.chunk(key), bytes).await;
    }

    async fn put_kept_chunk(&self, key: ChunkKey, bytes: Bytes) {
        self.inner.nar.insert(key, bytes.clone());
        let Some(disk) = self.inner.disk.load_full() else { return };
        let size = padded(ChunkKey::ENCODED, size_of::<u64>() + bytes.len());
        // A chunk that is turned away by a disk that just became sick is in memory, as if there were none.
        disk.nar.put(key, Chunk(bytes), size).await;
    }

    /// Waits until every chunk put before is written out. `false` when the disk lost some of them; `true` as well when
    /// there is no disk tier.
    pub async fn flush_chunks(&self) -> bool {
        match self.inner.disk.load_full() {
            Some(disk) => disk.nar.flush().await,
            None => true,
        }
    }

    /// Whether the first try to open the disk tier has ended.
    pub fn is_open(&self) -> bool {
        *self.inner.opened.borrow()
    }

    /// Waits until the first try to open the disk tier has ended, at most for `limit`; false when it has not. Before that,
    /// what is not found may be there all the same.
    pub async fn opened(&self, limit: Duration) -> bool {
        let mut opened = self.inner.opened.subscribe();
        // The sender is in `self`, so the wait ends only with `true`.
        tokio::time::timeout(limit, opened.wait_for(|opened| *opened)).await.is_ok()
    }

    /// Keeps a body whose chunks were put just now: when they are written, its manifest is, last (R10).
    ///
    /// A body that was put while the disk was still being opened waits for that, and what the disk has not got of it by
    /// then is written from memory. When the disk loses chunks the manifest is not kept.
    pub async fn keep_body(&self, manifest: Arc<Manifest>) {
        let mut opened = self.inner.opened.subscribe();
        // The sender is in `self`.
        let _ = opened.wait_for(|opened| *opened).await;
        if !self.flush_chunks().await {
            return;
        }
        if let Some(disk) = self.inner.disk.load_full() {
            let blob = self.space.blob(manifest.blob);
            let keys = (0..manifest.chunks()).map(|index| ChunkKey { blob, index });
            for key in keys.filter(|key| !disk.nar.contains(key)) {
                let in_memory = self.inner.nar.get(&key).map(|entry| entry.value().clone());
                if let Some(bytes) = in_memory {
                    self.put_kept_chunk(key, bytes).await;
                }
            }
            if !self.flush_chunks().await {
                return;
            }
        }
        self.put_manifest(manifest.blob, manifest).await;
    }

    /// Removes a chunk that turned out to be wrong. One that is just being written goes when that is done, and a restart
    /// may find it on disk again: it will be as wrong as before.
    pub fn remove_chunk(&self, key: ChunkKey) {
        self.remove_kept_chunk(self.space.chunk(key));
    }

    fn remove_kept_chunk(&self, key: ChunkKey) {
        self.inner.nar.remove(&key);
        if let Some(disk) = self.inner.disk.load().as_ref() {
            disk.nar.remove(&key);
        }
    }

    /// Starts a walk over every manifest and small object, of all spaces, whichever this is; see [`Store::own`].
    pub fn walk(&self) -> Walk {
        Walk::new(self.clone())
    }

    /// The manifest of a body.
    pub async fn manifest(&self, blob: BlobId) -> Option<Arc<Manifest>> {
        match self.read(self.manifest_key(blob)).await.0? {
            MetaValue::Manifest(manifest) => Some(manifest),
            MetaValue::Entry(_) | MetaValue::Removed => None,
        }
    }

    async fn put_manifest(&self, blob: BlobId, manifest: Arc<Manifest>) {
        self.write(self.manifest_key(blob), MetaValue::Manifest(manifest)).await;
    }

    /// Writes `new` in place of `old` and returns true, if the manifest of the body is still `old`: not if it was replaced
    /// or removed since it was read, nor if `new` is of another body. A manifest that is on disk only does not come into
    /// memory.
    pub async fn replace_manifest(&self, old: &Arc<Manifest>, new: Arc<Manifest>) -> bool {
        if old.blob != new.blob {
            return false;
        }
        let disk = self.inner.disk.load_full();
        let key = self.manifest_key(old.blob);
        let (old, new) = (MetaValue::Manifest(old.clone()), MetaValue::Manifest(new));
        self.inner.catalog.replace(key, &old, &new, disk.as_deref().map(|disk| &disk.meta)).await
    }

    /// Removes the manifest of a body, for good.
    pub fn remove_manifest(&self, blob: BlobId) {
        self.inner.catalog.remove(self.manifest_key(blob));
    }

    /// A small object.
    pub async fn entry(&self, key: EntryKey) -> Option<Bytes> {
        self.entry_from(key).await.map(|(bytes, _)| bytes)
    }

    /// A small object, and where it was.
    pub async fn entry_from(&self, key: EntryKey) -> Option<(Bytes, Place)> {
        match self.read(MetaKey::Entry(self.space.entry(key))).await {
            (Some(MetaValue::Entry(bytes)), place) => Some((self.space.unwrap(key, bytes)?, place)),
            _ => None,
        }
    }

    /// Keeps a small object, in place of the one under the same key. What is larger than a block of the disk tier (1 to
    /// 16 MiB, and at most 8 MiB) is kept in memory only. While what is pinned is being written again for long, the disk has
    /// it later.
    pub async fn put_entry(&self, key: EntryKey, bytes: Bytes) {
        let value = MetaValue::Entry(self.space.wrap(key, bytes));
        let key = MetaKey::Entry(self.space.entry(key));
        self.write(key, value).await;
    }

    /// Removes a small object, for good.
    pub fn remove_entry(&self, key: &EntryKey) {
        self.inner.catalog.remove(MetaKey::Entry(self.space.entry(*key)));
    }

    /// True when `key` was answered negatively and that still holds.
    pub fn negative(&self, key: EntryKey) -> bool {
        self.inner.negatives.holds(&self.space.entry(key))
    }

    /// Why what was offered under `key` was refused, where that is the negative answer that still holds.
    pub fn refused(&self, key: EntryKey) -> Option<Refusal> {
        self.inner.negatives.refused(&self.space.entry(key))
    }

    /// Remembers a negative answer for `ttl`, at most [`negative::LONGEST`], and with it why something was `refused`.
    pub fn put_negative(&self, key: EntryKey, ttl: Duration, refused: Option<Refusal>) {
        self.inner.negatives.put(self.space.entry(key), ttl, refused);
    }

    /// Forgets every negative answer, of all spaces.
    pub fn forget_negatives(&self) {
        self.inner.negatives.forget_all();
    }

    /// Forgets a negative answer.
    pub fn forget_negative(&self, key: &EntryKey) {
        self.inner.negatives.forget(&self.space.entry(*key));
    }

    /// Says that a request used this body: what is used again is kept when its place on disk is needed.
    pub fn touch(&self, blob: BlobId) {
        self.inner.heat.touch(self.space.blob(blob));
    }

    /// Ends the store: what was put is written out, the disk tier is closed. The store goes on in memory.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        let _opening = self.inner.opening.lock().await;
        if let Some(disk) = self.inner.disk.swap(None) {
            disk.close(&self.inner.catalog).await;
            self.inner.metrics.disk_up.set(0);
        }
    }

    fn manifest_key(&self, blob: BlobId) -> MetaKey {
        MetaKey::Manifest(self.space.blob(blob))
    }

    async fn read(&self, key: MetaKey) -> (Option<MetaValue>, Place) {
        let disk = self.inner.disk.load_full();
        let (found, place) = self.inner.catalog.read(key, disk.as_deref().map(|disk| &disk.meta)).await;
        self.count(StoreTier::Meta, place);
        (found, place)
    }

    async fn write(&self, key: MetaKey, value: MetaValue) {
        let disk = self.inner.disk.load_full();
        self.inner.catalog.write(key, value, disk.as_deref().map(|disk| &disk.meta)).await;
    }

    fn count(&self, tier: StoreTier, place: Place) {
        self.inner.metrics.reads.of(tier, place).inc();
    }
}

/// What an entry of a memory tier costs besides its value: key, record, index slot (an estimate of foyer's structures).
const MEMORY_OVERHEAD: usize = 256;

/// One lock for each 32 MiB: with more, small tiers would not hold an even share of large entries.
fn shards(capacity: usize) -> usize {
    (capacity >> 25).clamp(1, 16)
}
