//! What operators pinned: it stays on disk, whatever else is asked for.
//!
//! A block whose turn is near is looked at from outside, as for second chances (see `second_chance`); what is pinned in it
//! is always written again, while what is only in use has a share. Whoever puts something new into the same tier waits
//! meanwhile, so that no block is reused before it was looked through. So a pinned byte is written once for each time that
//! the disk is filled anew.
//!
//! Blocks that hold nothing but pinned bytes and wait one behind the other are written again in one row: each takes the
//! place of another that is due then. Who puts something into the other tier does not wait for that, and who puts a body
//! into this one not for long: the rest of the row it passes through, and is not kept. To let some in between, a row would
//! have to be begun as many blocks ahead of its turn as are let in, and blocks are looked at a few ahead (see
//! `second_chance`). What is small goes to the disk when the row is done.
//!
//! Names only, as the tiers know them. What a path consists of says `proxy`, what is pinned says `app`: at most half
//! of the disk. Damage is not prevented here: [`Store::is_held`] tells of it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::{Add, AddAssign};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use foyer::DefaultHasher;
use tokio::sync::watch;

use super::catalog::{Catalog, MetaTier};
use super::device::{Area, Layout};
use super::geometry::{BlobId, ChunkKey, padded};
use super::line::Line;
use super::manifest::Manifest;
use super::meta::{EntryKey, MetaKey, MetaValue};
use super::{Store, second_chance};

/// Bytes on disk, in each of the two tiers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Chunks of NARs.
    pub bodies: u64,
    /// Manifests and small objects.
    pub small: u64,
}

impl Room {
    /// Both together.
    pub fn total(self) -> u64 {
        self.bodies + self.small
    }

    /// The rest, where `other` is part of it.
    pub fn without(self, other: Self) -> Self {
        Self { bodies: self.bodies.saturating_sub(other.bodies), small: self.small.saturating_sub(other.small) }
    }

    /// Whether neither part is larger than that of `most`.
    pub fn fits(self, most: Self) -> bool {
        self.bodies <= most.bodies && self.small <= most.small
    }
}

impl Add for Room {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bodies: self.bodies + other.bodies, small: self.small + other.small }
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a path consists of here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    narinfo: MetaKey,
    manifest: MetaKey,
    /// Under what other name it can be asked for.
    alias: MetaKey,
    blob: BlobId,
    chunks: u32,
    size: Room,
}

impl Hold {
    /// What it takes on disk.
    pub fn size(&self) -> Room {
        self.size
    }
}

impl Store {
    /// The names of a path: its narinfo, of so many bytes, the other name of its NAR, and the NAR.
    pub fn hold(&self, narinfo: EntryKey, bytes: usize, alias: EntryKey, manifest: &Arc<Manifest>) -> Hold {
        let body = |index| padded(ChunkKey::ENCODED, size_of::<u64>() + manifest.chunk_len(index)) as u64;
        let small = |bytes: usize| padded(MetaKey::ENCODED, 1 + bytes) as u64;
        let size = Room {
            bodies: (0..manifest.chunks()).map(body).sum(),
            // An alias is a page; a private space writes names in front.
            small: small(bytes + 32) + small(0) + MetaValue::Manifest(Arc::clone(manifest)).padded() as u64,
        };
        Hold {
            narinfo: MetaKey::Entry(self.space.entry(narinfo)),
            manifest: self.manifest_key(manifest.blob),
            alias: MetaKey::Entry(self.space.entry(alias)),
            blob: self.space.blob(manifest.blob),
            chunks: manifest.chunks(),
            size,
        }
    }

    /// How much may be pinned: half of the disk. `None` without a disk.
    pub fn most_pinned(&self) -> Option<Room> {
        let options = &self.inner.options;
        let dir = options.dir.as_deref().filter(|_| options.wants_disk())?;
        let layout = Layout::new(dir, options.disk.0).ok()?;
        Some(Room { bodies: layout.nar.capacity() / 2, small: layout.meta.capacity() / 2 })
    }

    /// Has this stay, besides what stays already.
    pub fn pin(&self, hold: &Hold) {
        self.inner.pinned.names().add(hold);
    }

    /// Has this stay, and nothing else.
    pub fn pin_only<'a>(&self, holds: impl IntoIterator<Item = &'a Hold>) {
        let mut names = Names::default();
        holds.into_iter().for_each(|hold| names.add(hold));
        *self.inner.pinned.names() = names;
    }

    /// Whether all of it is on disk. What the disk lost and the memory has is written again. `None` while there is no
    /// disk. Reads nothing.
    pub async fn is_held(&self, hold: &Hold) -> Option<bool> {
        let disk = self.inner.disk.load_full()?;
        for key in [hold.narinfo, hold.manifest] {
            if !self.inner.catalog.keep(key, &disk.meta).await {
                return Some(false);
            }
        }
        for key in (0..hold.chunks).map(|index| ChunkKey { blob: hold.blob, index }) {
            // There may be a million of them, and nothing here waits.
            tokio::task::consume_budget().await;
            if disk.nar.contains(&key) {
                continue;
            }
            let in_memory = self.inner.nar.get(&key).map(|entry| entry.value().clone());
            let Some(bytes) = in_memory else { return Some(false) };
            disk.nar.settled().await;
            self.put_kept_chunk(key, bytes).await;
        }
        Some(true)
    }

    /// Changes each time that blocks near their turn were looked through: something may be gone.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.inner.pinned.turns.subscribe()
    }
}

/// Everything that is pinned.
#[derive(Debug, Default)]
pub struct Pinned {
    names: RwLock<Names>,
    turns: watch::Sender<u64>,
}

/// By what an index page of foyer says of an entry.
#[derive(Debug, Default)]
struct Names {
    bodies: HashMap<u64, BlobId>,
    small: HashMap<u64, MetaKey>,
}

impl Names {
    fn add(&mut self, hold: &Hold) {
        // Of two bodies with one prefix the later stays; it takes 2^22 of them.
        self.bodies.insert(hold.blob.prefix(), hold.blob);
        for key in [hold.narinfo, hold.manifest, hold.alias] {
            self.small.insert(DefaultHasher::default().hash_one(key), key);
        }
    }
}

impl Pinned {
    /// The pinned body with this prefix.
    pub fn body(&self, prefix: u64) -> Option<BlobId> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).bodies.get(&prefix).copied()
    }

    fn small(&self, hash: u64) -> Option<MetaKey> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).small.get(&hash).copied()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.names.read().unwrap_or_else(PoisonError::into_inner).bodies.is_empty()
    }

    fn names(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body, by a name that nothing has.
    #[cfg(test)]
    pub fn pin_something(&self) {
        self.names().bodies.insert(0, BlobId([0; 16]));
    }

    /// Blocks near their turn were looked through.
    pub fn looked(&self) {
        if !self.is_empty() {
            self.turns.send_modify(|turns| *turns += 1);
        }
    }
}

/// The task that saves pinned manifests and small objects. Those in use are saved as they are read (see `catalog`).
#[derive(Debug)]
pub struct Saver {
    /// Where the blocks are.
    pub area: Area,
    /// The line they wait in.
    pub line: Arc<Line>,
    /// What is pinned.
    pub pinned: Arc<Pinned>,
    /// What is read and written.
    pub catalog: Arc<Catalog>,
    /// Where.
    pub tier: MetaTier,
}

impl Saver {
    /// Runs until it is dropped.
    pub async fn run(self) {
        loop {
            self.line.moved().await;
            while let Some(due) = self.line.next_look() {
                let hashes = second_chance::entries_of(&self.area, due.block).await;
                for key in hashes.into_iter().filter_map(|(hash, _)| self.pinned.small(hash)) {
                    self.catalog.save(key, &self.tier).await;
                }
            }
            self.pinned.looked();
        }
    }
}
