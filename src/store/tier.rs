//! One foyer cache behind its gate: what is read from disk, and what is written to it.
//!
//! foyer's own memory cache is switched off (its filter refuses everything): the memory tier above stays while disks
//! come and go. Only `get` and `insert` are used, with direct I/O by plain reads and writes, one flusher, no
//! reinsertion (see `second_chance`) and no tombstone log (see `meta`).

use std::fmt::Debug;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foyer::{
    Age, BlockEngineConfig, DeviceBuilder, FifoConfig, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, PsyncIoEngineConfig, RecoverMode, Spawner, StorageKey, StorageValue,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::device::{Area, CLEAN, INDEX};
use super::gate::{Gate, Sick, Written};
use super::line::{Line, Picker};
use super::open::OpenError;
use crate::metrics::StoreMetrics;

/// Locks over what is queued to be written; foyer ties their number to that of its memory cache.
const KEEPER_SHARDS: usize = 8;
/// How long the disk may take for what one gate holds (at most 32 MiB) before it counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// What foyer asks of a hash.
pub trait Hashing: BuildHasher + Debug + Send + Sync + 'static {}
impl<S: BuildHasher + Debug + Send + Sync + 'static> Hashing for S {}

/// One foyer cache behind its gate. A clone is the same tier.
#[derive(Debug)]
pub struct Tier<K, V, S>
where
    K: StorageKey,
    V: StorageValue,
    S: Hashing,
{
    cache: HybridCache<K, V, S>,
    gate: Arc<Gate<K>>,
    pub(super) line: Arc<Line>,
    largest: usize,
    metrics: StoreMetrics,
}

impl<K, V, S> Clone for Tier<K, V, S>
where
    K: StorageKey,
    V: StorageValue,
    S: Hashing,
{
    fn clone(&self) -> Self {
        let Self { cache, gate, line, largest, metrics } = self;
        let (cache, gate, line) = (cache.clone(), gate.clone(), line.clone());
        Self { cache, gate, line, largest: *largest, metrics: metrics.clone() }
    }
}

/// A value read from disk.
#[derive(Debug)]
pub struct Found<V> {
    /// The value.
    pub value: V,
    /// True when the block that holds it is about to be reused.
    pub leaving: bool,
}

impl<K, V, S> Tier<K, V, S>
where
    K: StorageKey + Clone + Debug,
    V: StorageValue + Clone,
    S: Hashing,
{
    /// The largest entry that can be kept, padded.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Reads an entry. Whatever goes wrong is a miss (R30), and the entry is forgotten.
    pub async fn get(&self, key: &K) -> Option<Found<V>> {
        if !self.contains(key) {
            return None;
        }
        let error = match self.cache.get(key).await {
            Ok(Some(entry)) => {
                let leaving = matches!(entry.properties().age(), Age::Old);
                return Some(Found { value: entry.value().clone(), leaving });
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        // Between the two looks the entry may also have been evicted, which is rare and harmless to count.
        self.metrics.bad_reads.inc();
        if let Some(error) = error {
            tracing::warn!(?key, %error, "an entry on disk cannot be read; it is forgotten");
            self.remove(key);
        }
        None
    }

    /// True when the index has the entry. Does no I/O.
    pub fn contains(&self, key: &K) -> bool {
        self.cache.storage().may_contains(key)
    }

    /// Writes an entry of `padded` bytes when the line is settled and the gate lets it in. Returns false when it was not
    /// written: the line did not settle (see [`Line::settles`]), the entry is larger than [`Tier::largest`], or the disk
    /// takes no more.
    pub async fn put(&self, key: K, value: V, padded: usize) -> bool {
        self.put_with(key, padded, |write| write(value)).await
    }

    /// As [`Tier::put`]: at the moment the gate lets the entry in, `decide` calls what it is given with the value to
    /// write, or calls it off by not doing so.
    pub async fn put_with(&self, key: K, padded: usize, decide: impl FnOnce(&mut dyn FnMut(V))) -> bool {
        self.line.settles().await && self.save_with(key, padded, decide).await
    }

    /// As [`Tier::put`], and goes before those: for what would be lost otherwise.
    pub async fn save(&self, key: K, value: V, padded: usize) -> bool {
        self.save_with(key, padded, |write| write(value)).await
    }

    /// As [`Tier::put_with`], and goes before those.
    pub async fn save_with(&self, key: K, padded: usize, decide: impl FnOnce(&mut dyn FnMut(V))) -> bool {
        if padded > self.largest {
            return false;
        }
        let insert = {
            let (cache, key) = (&self.cache, key.clone());
            move || {
                let mut written = false;
                decide(&mut |value| {
                    cache.insert(key.clone(), value);
                    written = true;
                });
                written
            }
        };
        self.gate.put(key, padded, insert).await
    }

    /// Waits until nothing that is pinned is to be saved here before something else is put; see [`Line::settled`].
    pub async fn settled(&self) {
        self.line.settled().await;
    }

    /// True when an entry of `padded` bytes would not wait.
    pub fn has_room(&self, padded: usize) -> bool {
        self.line.is_settled() && self.gate.has_room(padded)
    }

    /// True when at least half of what the gate lets in would not wait.
    pub fn is_at_ease(&self) -> bool {
        self.gate.has_room(self.gate.bytes() / 2)
    }

    /// Forgets an entry, until a restart may find it on disk again.
    pub fn remove(&self, key: &K) {
        self.gate.removed(key);
        self.cache.remove(key);
    }

    /// Ends when the disk stops taking writes.
    pub async fn sick(&self) -> Sick {
        self.gate.sick().await
    }

    /// Turns away who waits to write.
    pub fn abandon(&self) {
        self.gate.close();
    }

    /// Waits until what was put before is on disk; `false` if it is not.
    pub async fn flush(&self) -> bool {
        self.gate.flush().await
    }

    /// Starts what lets entries through the gate, until `stop`.
    pub fn start(&self, threads: &Handle, stop: &CancellationToken) {
        let (gate, written) = (self.gate.clone(), Behind(self.cache.clone()));
        threads.spawn(stop.clone().run_until_cancelled_owned(async move { gate.drain(&written, STUCK).await }));
    }

    /// Writes out what was put and closes foyer.
    pub async fn close(&self) {
        self.gate.flush().await;
        self.gate.close();
        if let Err(error) = self.cache.close().await {
            tracing::warn!(%error, "the disk tier did not close cleanly");
        }
    }
}

/// The cache behind a gate.
struct Behind<K, V, S>(HybridCache<K, V, S>)
where
    K: StorageKey,
    V: StorageValue,
    S: Hashing;

impl<K, V, S> Written<K> for Behind<K, V, S>
where
    K: StorageKey,
    V: StorageValue,
    S: Hashing,
{
    async fn wait(&self) {
        self.0.storage().wait().await;
    }
    fn has(&self, key: &K) -> bool {
        self.0.storage().may_contains(key)
    }
}

/// What both tiers are built with.
#[derive(Debug)]
pub struct Build<'a> {
    /// The disk's own threads.
    pub spawner: &'a Spawner,
    /// What is counted.
    pub metrics: &'a StoreMetrics,
    /// Whether to use direct I/O.
    pub direct: bool,
}

impl Build<'_> {
    /// Opens foyer on an area; recovers what is in it.
    pub async fn tier<K, V, S>(
        &self,
        name: &'static str,
        area: &Area,
        gate: usize,
        hash: S,
        line: &Arc<Line>,
    ) -> Result<Tier<K, V, S>, OpenError>
    where
        K: StorageKey + Clone + Debug,
        V: StorageValue + Clone,
        S: Hashing,
    {
        // A batch no larger than a block ends in at most two more blocks, which leaves something to evict in small tiers.
        let gate = gate.min(area.block);
        let failed = |error: foyer::Error| OpenError::Cache(error.to_string());
        let capacity = usize::try_from(area.capacity()).unwrap_or(usize::MAX);
        let device = FsDeviceBuilder::new(&area.dir).with_capacity(capacity).with_direct(self.direct);
        let engine = BlockEngineConfig::new(device.build().map_err(failed)?)
            .with_block_size(area.block)
            .with_blob_index_size(INDEX)
            .with_flushers(1)
            .with_reclaimers(1)
            .with_clean_block_threshold(CLEAN)
            .with_buffer_pool_size(gate)
            // The gate is the limit; foyer's own would drop what exceeds it.
            .with_submit_queue_size_threshold(usize::MAX)
            .with_eviction_pickers(vec![Box::new(Picker(line.clone()))]);
        let cache = HybridCacheBuilder::new()
            .with_name(name)
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .with_metrics_registry(Box::new(self.metrics.foyer.clone()))
            .memory(KEEPER_SHARDS)
            .with_shards(KEEPER_SHARDS)
            .with_eviction_config(FifoConfig::default())
            .with_hash_builder(hash)
            .with_filter(|_, _| false)
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .with_spawner(self.spawner.clone());
        // On the disk's own threads, so that a bug in recovery is an error and not the end of the caller.
        let cache = self.spawner.spawn(cache.build()).await.map_err(failed)?.map_err(failed)?;
        line.opened();
        let gate = Arc::new(Gate::new(gate, self.metrics.clone()));
        let largest = gate.bytes().min(area.block - INDEX);
        Ok(Tier { cache, gate, line: line.clone(), largest, metrics: self.metrics.clone() })
    }
}
