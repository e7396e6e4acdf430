//! Manifests and small objects over both tiers: the newest version is read, whatever the disk does.
//!
//! Chunks never change, so chunks need none of this. A small object does: it is replaced and removed while reads of its
//! older version are under way and while the disk tier is away. Two rules keep the order:
//! - each change of a key counts up a version; a value read from disk goes into memory only if it did not move meanwhile;
//! - a key whose version on disk is older than what was last put or removed is noted as outdated: it is not read from
//!   disk, and when there is a disk, what is right is written to it.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foyer::{Cache, CacheBuilder, DefaultHasher, LruConfig};
use tokio::sync::Notify;

use super::meta::{MetaKey, MetaValue};
use super::tier::Tier;
use super::{MEMORY_OVERHEAD, shards};
use crate::metrics::{Place, StoreMetrics};

/// The disk tier of the catalog.
pub type MetaTier = Tier<MetaKey, MetaValue, DefaultHasher>;

/// How many keys put while the disk is away are noted (about 4 MiB). Past it an older version may be read again once
/// the disk is back and the newer one has left the memory; removals are always noted.
const NOTED: usize = 1 << 16;
const STRIPES: usize = 64;

/// Manifests and small objects.
#[derive(Debug)]
pub struct Catalog {
    memory: Cache<MetaKey, MetaValue, DefaultHasher>,
    /// How often a key of each stripe changed.
    versions: Vec<Mutex<u64>>,
    outdated: Mutex<BTreeSet<MetaKey>>,
    noted: Notify,
    /// Whether there is, or will be, a disk tier.
    has_disk: bool,
}

impl Catalog {
    /// A catalog with `capacity` bytes of memory.
    pub fn new(capacity: usize, has_disk: bool, metrics: &StoreMetrics) -> Self {
        let memory = CacheBuilder::new(capacity)
            .with_name("meta")
            .with_shards(shards(capacity))
            .with_eviction_config(LruConfig::default())
            .with_weighter(|_, value: &MetaValue| value.encoded_len() + MEMORY_OVERHEAD)
            .with_metrics_registry(Box::new(metrics.foyer.clone()))
            .build();
        let versions = std::iter::repeat_with(Mutex::default).take(STRIPES).collect();
        Self { memory, versions, outdated: Mutex::default(), noted: Notify::new(), has_disk }
    }

    /// The value of a key, and where it was found.
    pub async fn read(&self, key: MetaKey, disk: Option<&MetaTier>) -> (Option<MetaValue>, Place) {
        let before = *self.version(&key);
        if let Some(entry) = self.memory.get(&key) {
            let value = entry.value().clone();
            if let Some(disk) = disk.filter(|disk| !disk.contains(&key)) {
                self.write_again(key, &value, before, disk).await;
            }
            return (Some(value), Place::Memory);
        }
        let Some(disk) = disk else { return (None, Place::Nowhere) };
        if self.outdated().contains(&key) {
            return (None, Place::Nowhere);
        }
        let Some(found) = disk.get(&key).await else { return (None, Place::Nowhere) };
        {
            let version = self.version(&key);
            if *version == before {
                self.memory.insert(key, found.value.clone());
            }
        }
        if found.leaving {
            self.write_again(key, &found.value, before, disk).await;
        }
        (Some(found.value), Place::Disk)
    }

    /// Second chance: what is read and has left the disk, or is about to, is written again, unless it changed since
    /// `before` or the reader would have to wait.
    async fn write_again(&self, key: MetaKey, value: &MetaValue, before: u64, disk: &MetaTier) {
        if *value == MetaValue::Removed || !disk.has_room(value.padded()) {
            return;
        }
        let unchanged = |write: &mut dyn FnMut(MetaValue)| {
            let version = self.version(&key);
            if *version == before {
                write(value.clone());
            }
        };
        disk.put_with(key, value.padded(), unchanged).await;
    }

    /// Keeps a value. Without a disk, or if it is too large for it, in memory only.
    pub async fn write(&self, key: MetaKey, value: MetaValue, disk: Option<&MetaTier>) {
        if let Some(disk) = disk {
            let both = |write: &mut dyn FnMut(MetaValue)| {
                let mut version = self.version(&key);
                *version += 1;
                self.memory.insert(key, value.clone());
                write(value.clone());
                self.outdated().remove(&key);
            };
            if disk.put_with(key, value.padded(), both).await {
                return;
            }
            if value.padded() > disk.largest() {
                let (size, largest) = (value.padded(), disk.largest());
                tracing::warn!(?key, size, largest, "too large for the disk tier: kept in memory only");
            }
        }
        let mut version = self.version(&key);
        *version += 1;
        self.memory.insert(key, value);
        self.note(key, NOTED);
    }

    /// Removes a key.
    pub fn remove(&self, key: MetaKey) {
        let mut version = self.version(&key);
        *version += 1;
        self.memory.remove(&key);
        self.note(key, usize::MAX);
    }

    /// Brings the disk up to date, again and again; ends when the disk takes no more writes.
    pub async fn keep_settled(&self, disk: &MetaTier) {
        while self.settle(disk).await {
            self.noted.notified().await;
        }
    }

    /// Writes what is outdated on disk. `false` when the disk takes no more writes.
    pub async fn settle(&self, disk: &MetaTier) -> bool {
        loop {
            let Some(key) = self.outdated().first().copied() else { return true };
            let (before, value) = {
                let version = self.version(&key);
                (*version, self.memory.get(&key).map(|entry| entry.value().clone()))
            };
            let value = value.filter(|value| value.padded() <= disk.largest()).unwrap_or(MetaValue::Removed);
            let mut moved = false;
            let right = |write: &mut dyn FnMut(MetaValue)| {
                let version = self.version(&key);
                moved = *version != before;
                if !moved {
                    write(value.clone());
                    self.outdated().remove(&key);
                }
            };
            if !disk.put_with(key, value.padded(), right).await && !moved {
                return false;
            }
        }
    }

    /// Notes that the disk has an older version of `key`, if fewer than `limit` are noted.
    fn note(&self, key: MetaKey, limit: usize) {
        let mut outdated = self.outdated();
        if self.has_disk && outdated.len() < limit {
            outdated.insert(key);
            self.noted.notify_one();
        }
    }

    /// Locks the version of a key. Taken before `outdated` where both are.
    fn version(&self, key: &MetaKey) -> MutexGuard<'_, u64> {
        let stripe = usize::try_from(DefaultHasher::default().hash_one(key) % STRIPES as u64).unwrap_or(0);
        self.versions[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outdated(&self) -> MutexGuard<'_, BTreeSet<MetaKey>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
