//! Manifests and small objects over both tiers: the newest version is read, whatever the disk does.
//!
//! Chunks never change, so chunks need none of this. A small object does: it is replaced and removed while reads of its
//! older version are under way and while the disk tier is away. Two rules keep the order:
//! - each change of a key counts up a version; a value read from disk goes into memory only if it did not move meanwhile;
//! - a key whose version on disk is older than what was last put or removed is noted as outdated: it is not read from
//!   disk, and when there is a disk, what is right is written to it.
//!
//! A walk over everything (see `walk`) asks without that being a use: [`Catalog::peek`] puts nothing into memory and
//! makes nothing there look newer.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foyer::{Cache, CacheBuilder, DefaultHasher, LruConfig};
use tokio::sync::Notify;

use super::held::{Held, NAME_OVERHEAD};
use super::meta::{MetaKey, MetaValue};
use super::tier::Tier;
use super::{MEMORY_OVERHEAD, shards};
use crate::metrics::{Place, StoreMetrics};

/// The disk tier of the catalog.
pub type MetaTier = Tier<MetaKey, MetaValue, DefaultHasher>;

/// How many keys put while the disk is away are noted (about 4 MiB). Past it an older version may be read again once
/// the disk is back and the newer one has left the memory; removals are always noted.
const NOTED: usize = 1 << 16;
/// How many settled values are known by name before they are waited for.
const WRITING: usize = 1024;
/// How often a pinned value is tried to be written again, while others change that share its lock.
const SAVES: usize = 8;
/// Locks over the keys.
pub const STRIPES: usize = 64;

/// Manifests and small objects.
#[derive(Debug)]
pub struct Catalog {
    memory: Cache<MetaKey, Arc<MetaValue>, DefaultHasher>,
    stripes: Vec<Mutex<Stripe>>,
    outdated: Mutex<BTreeSet<MetaKey>>,
    noted: Notify,
    /// Whether there is, or will be, a disk tier.
    has_disk: bool,
}

/// The keys that share one lock.
#[derive(Debug, Default)]
struct Stripe {
    /// How often one of them changed.
    version: u64,
    /// Those whose value is in memory.
    held: Held,
}

impl Catalog {
    /// A catalog with `capacity` bytes of memory.
    pub fn new(capacity: usize, has_disk: bool, metrics: &StoreMetrics) -> Self {
        let memory = CacheBuilder::new(capacity)
            .with_name("meta")
            .with_shards(shards(capacity))
            .with_eviction_config(LruConfig::default())
            .with_weighter(|_, value: &Arc<MetaValue>| value.encoded_len() + MEMORY_OVERHEAD + NAME_OVERHEAD)
            .with_metrics_registry(Box::new(metrics.foyer.clone()))
            .build();
        let stripes = std::iter::repeat_with(Mutex::default).take(STRIPES).collect();
        Self { memory, stripes, outdated: Mutex::default(), noted: Notify::new(), has_disk }
    }

    /// Bytes of memory that it takes, and may take.
    pub fn memory(&self) -> (usize, usize) {
        (self.memory.usage(), self.memory.capacity())
    }

    /// The value of a key, and where it was found.
    pub async fn read(&self, key: MetaKey, disk: Option<&MetaTier>) -> (Option<MetaValue>, Place) {
        let before = self.stripe(&key).version;
        if let Some(entry) = self.memory.get(&key) {
            let value = MetaValue::clone(entry.value());
            if let Some(disk) = disk.filter(|disk| !disk.contains(&key)) {
                self.write_again(key, &value, before, disk).await;
            }
            return (Some(value), Place::Memory);
        }
        let Some(disk) = disk else { return (None, Place::Nowhere) };
        if let Some(known) = self.known(&key) {
            let place = if known.is_some() { Place::Memory } else { Place::Nowhere };
            return (known.map(|value| MetaValue::clone(&value)), place);
        }
        let Some(found) = disk.get(&key).await else { return (None, Place::Nowhere) };
        {
            let mut stripe = self.stripe(&key);
            if stripe.version == before {
                self.hold(&mut stripe, key, found.value.clone());
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
        disk.put_with(key, value.padded(), self.unchanged(key, value, before)).await;
    }

    /// Writes a value, unless one of its stripe changed since `before`.
    fn unchanged(&self, key: MetaKey, value: &MetaValue, before: u64) -> impl FnOnce(&mut dyn FnMut(MetaValue)) {
        move |write| {
            let stripe = self.stripe(&key);
            if stripe.version == before {
                write(value.clone());
            }
        }
    }

    /// Whether the value of a pinned key is on disk; if only the memory has it, it is written. No use of it.
    pub async fn keep(&self, key: MetaKey, disk: &MetaTier) -> bool {
        let before = self.stripe(&key).version;
        match self.known(&key) {
            Some(None) => false,
            Some(Some(value)) if *value == MetaValue::Removed => false,
            _ if disk.contains(&key) => true,
            Some(Some(value)) => {
                disk.settled().await;
                disk.save_with(key, value.padded(), self.unchanged(key, &value, before)).await
            }
            None => false,
        }
    }

    /// Writes the value of a pinned key again if its block is about to be reused. No use of it.
    pub async fn save(&self, key: MetaKey, disk: &MetaTier) {
        for _ in 0..SAVES {
            let before = self.stripe(&key).version;
            // What the disk has an older version of will be written anyway.
            let is_outdated = self.outdated().contains(&key);
            let Some(found) = disk.get(&key).await.filter(|found| found.leaving && !is_outdated) else { return };
            if found.value == MetaValue::Removed {
                return;
            }
            let unchanged = self.unchanged(key, &found.value, before);
            if disk.save_with(key, found.value.padded(), unchanged).await {
                return;
            }
        }
    }

    /// Keeps a value. Without a disk, or if it is too large for it, in memory only.
    pub async fn write(&self, key: MetaKey, value: MetaValue, disk: Option<&MetaTier>) {
        if let Some(disk) = disk {
            let both = |write: &mut dyn FnMut(MetaValue)| {
                let mut stripe = self.stripe(&key);
                stripe.version += 1;
                self.hold(&mut stripe, key, value.clone());
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
        let mut stripe = self.stripe(&key);
        stripe.version += 1;
        self.hold(&mut stripe, key, value);
        self.note(key, NOTED);
    }

    /// Writes `new` if the value is still `old`, and tells whether it was. What is not in memory does not come there.
    pub async fn replace(&self, key: MetaKey, old: &MetaValue, new: &MetaValue, disk: Option<&MetaTier>) -> bool {
        loop {
            let before = self.stripe(&key).version;
            if self.peek(key, disk).await.is_none_or(|value| *value != *old) {
                return false;
            }
            let still_old = |stripe: &Stripe| {
                // The version is that of many keys; a value that is in memory is the newest one.
                stripe.version == before || stripe.held.get(&key).is_some_and(|value| *value == *old)
            };
            let mut moved = false;
            if let Some(disk) = disk {
                let writing = Arc::new(new.clone());
                let both = |write: &mut dyn FnMut(MetaValue)| {
                    let mut stripe = self.stripe(&key);
                    moved = !still_old(&stripe);
                    if !moved {
                        stripe.version += 1;
                        if stripe.held.get(&key).is_some() {
                            self.hold(&mut stripe, key, new.clone());
                        } else {
                            stripe.held.put(key, &writing);
                        }
                        write(new.clone());
                        self.outdated().remove(&key);
                    }
                };
                if disk.put_with(key, new.padded(), both).await {
                    // When it is lost, so is the disk, and the old one holds again: as with all that was not written out.
                    disk.flush().await;
                    return true;
                }
            }
            let mut stripe = self.stripe(&key);
            if !moved && still_old(&stripe) {
                stripe.version += 1;
                self.hold(&mut stripe, key, new.clone());
                self.note(key, NOTED);
                return true;
            }
        }
    }

    /// The value of a key as it is now. Unlike [`Catalog::read`] this is no use of it.
    pub async fn peek(&self, key: MetaKey, disk: Option<&MetaTier>) -> Option<Arc<MetaValue>> {
        match self.known(&key) {
            Some(known) => known,
            None => Some(Arc::new(disk?.get(&key).await?.value)),
        }
    }

    /// What holds for a key, when the disk need not or must not be asked.
    fn known(&self, key: &MetaKey) -> Option<Option<Arc<MetaValue>>> {
        let stripe = self.stripe(key);
        match stripe.held.get(key) {
            Some(value) => Some(Some(value)),
            None if self.outdated().contains(key) => Some(None),
            None => None,
        }
    }

    /// The values of stripe number `stripe` (of [`STRIPES`]) that are in memory and not on disk.
    pub fn in_memory_only(&self, stripe: usize, disk: Option<&MetaTier>) -> Vec<(MetaKey, Arc<MetaValue>)> {
        let Some(stripe) = self.stripes.get(stripe) else { return Vec::new() };
        let mut held = stripe.lock().unwrap_or_else(PoisonError::into_inner).held.all();
        if let Some(disk) = disk {
            held.retain(|(key, value)| {
                value.padded() > disk.largest() || !disk.contains(key) || self.outdated().contains(key)
            });
        }
        held
    }

    /// How many values are in memory.
    #[cfg(test)]
    pub fn in_memory(&self) -> usize {
        self.memory.entries()
    }

    /// Puts a value into memory.
    fn hold(&self, stripe: &mut Stripe, key: MetaKey, value: MetaValue) {
        let value = Arc::new(value);
        stripe.held.put(key, &value);
        self.memory.insert(key, value);
    }

    /// Removes a key.
    pub fn remove(&self, key: MetaKey) {
        let mut stripe = self.stripe(&key);
        stripe.version += 1;
        stripe.held.remove(&key);
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
        let mut writing = Vec::new();
        while let Some(key) = self.next_outdated() {
            let (before, value) = {
                let stripe = self.stripe(&key);
                (stripe.version, stripe.held.get(&key))
            };
            let value = value.filter(|value| value.padded() <= disk.largest());
            let value = value.map_or(MetaValue::Removed, |value| MetaValue::clone(&value));
            let mut moved = false;
            let right = |write: &mut dyn FnMut(MetaValue)| {
                let mut stripe = self.stripe(&key);
                moved = stripe.version != before;
                if !moved {
                    writing.push((key, stripe.held.get_or_put(key, &value)));
                    write(value.clone());
                    self.outdated().remove(&key);
                }
            };
            // What is pinned goes first, however long that takes: nobody waits for this.
            disk.settled().await;
            let put = disk.save_with(key, value.padded(), right).await;
            if !put && !moved {
                self.written(&mut writing, disk).await;
                return false;
            }
            if writing.len() >= WRITING && !self.written(&mut writing, disk).await {
                return false;
            }
        }
        self.written(&mut writing, disk).await
    }

    /// Waits until what settling wrote is on disk. Until then it is known by name: foyer finds an older version of a key
    /// again when that one's write ends while a newer one is still queued.
    async fn written(&self, writing: &mut Vec<(MetaKey, Arc<MetaValue>)>, disk: &MetaTier) -> bool {
        let written = writing.is_empty() || disk.flush().await;
        for (key, _) in writing.drain(..).filter(|_| !written) {
            self.note(key, usize::MAX);
        }
        written
    }

    fn next_outdated(&self) -> Option<MetaKey> {
        self.outdated().first().copied()
    }

    /// Notes that the disk has an older version of `key`, if fewer than `limit` are noted.
    fn note(&self, key: MetaKey, limit: usize) {
        let mut outdated = self.outdated();
        if self.has_disk && outdated.len() < limit {
            outdated.insert(key);
            self.noted.notify_one();
        }
    }

    /// Locks a key. Taken before `outdated` where both are.
    fn stripe(&self, key: &MetaKey) -> MutexGuard<'_, Stripe> {
        let stripe = usize::try_from(DefaultHasher::default().hash_one(key) % STRIPES as u64).unwrap_or(0);
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outdated(&self) -> MutexGuard<'_, BTreeSet<MetaKey>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
