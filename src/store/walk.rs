//! A walk over every manifest and small object, of both tiers, while the store is in use.
//!
//! ```text
//! what was put so far is written out
//! what is in memory only, one lock's worth of keys after another
//! blocks on disk, the oldest first ── scan ── for each key: what holds now? ── the same? it is told
//! ```
//!
//! What is told was the current value of its key at that moment: copies on disk that were replaced or removed since are
//! not told. What was there when the walk began and is left alone is told at least once: foyer writes to blocks that the
//! walk comes to later, and entries that are written again (second chance) go there too. Exceptions are what the disk
//! evicts before the walk comes to it, and what is damaged on disk. A key is told once for each of its copies that are
//! equal to the current value and lie in different blocks, which is once for almost all.
//!
//! A walk takes the memory of one block and of what it holds (at most 2 x 16 MiB), its reads are made on the disk's own
//! threads, and it puts nothing into memory. It is as fast as [`Walk::next`] is called.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::StreamExt;

use super::Store;
use super::catalog::STRIPES;
use super::disk::Disk;
use super::geometry::BlobId;
use super::line::Next;
use super::manifest::Manifest;
use super::meta::{EntryKey, MetaKey, MetaValue};

/// Current values that are asked for at a time.
const AT_A_TIME: usize = 8;

/// Something the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The manifest of a body.
    Manifest(BlobId, Arc<Manifest>),
    /// A small object.
    Entry(EntryKey, Bytes),
}

impl Kept {
    fn new(key: MetaKey, value: &MetaValue) -> Option<Self> {
        match (key, value) {
            (MetaKey::Manifest(blob), MetaValue::Manifest(manifest)) => Some(Self::Manifest(blob, manifest.clone())),
            (MetaKey::Entry(key), MetaValue::Entry(bytes)) => Some(Self::Entry(key, bytes.clone())),
            _ => None,
        }
    }
}

/// How far a walk came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Blocks read.
    pub blocks: u64,
    /// Places on disk that could not be read or do not hold what they seem to: damage, or a block that was written over
    /// while it was read. Damage of what tells that there is an entry at all is not seen.
    pub unreadable: u64,
    /// True at the end of a walk that saw everything: the disk tier, if there is to be one, was there all the time.
    pub complete: bool,
}

/// A walk; see [`Store::walk`]. It holds a clone of the store.
#[derive(Debug)]
pub struct Walk {
    store: Store,
    /// The disk tier with which the walk began. Another one has other blocks in another order.
    disk: Option<Weak<Disk>>,
    walked: Walked,
    at: Place,
}

#[derive(Debug)]
enum Place {
    Start,
    Memory {
        stripe: usize,
    },
    /// In the line of waiting blocks; at most `left` more of them, which ends a walk that is slower than the writers.
    Line {
        turn: u64,
        left: usize,
    },
    Others(VecDeque<u32>),
    End,
}

impl Walk {
    pub(super) fn new(store: Store) -> Self {
        let disk = store.inner.disk.load().as_ref().map(Arc::downgrade);
        Self { store, disk, walked: Walked::default(), at: Place::Start }
    }

    /// What is told next, never nothing; `None` at the end. May be dropped and called again: then the values of the step
    /// it was at are not told.
    pub async fn next(&mut self) -> Option<Vec<Kept>> {
        loop {
            let kept = self.step().await?;
            if !kept.is_empty() {
                return Some(kept);
            }
        }
    }

    /// How far it came.
    pub fn walked(&self) -> Walked {
        self.walked
    }

    /// The disk tier, when it is still the one with which the walk began; `Err` when it is not.
    fn disk(&self) -> Result<Option<Arc<Disk>>, ()> {
        let now = self.store.inner.disk.load_full();
        match (&self.disk, now) {
            (None, _) => Ok(None),
            (Some(before), Some(now)) if std::ptr::eq(before.as_ptr(), Arc::as_ptr(&now)) => Ok(Some(now)),
            (Some(_), _) => Err(()),
        }
    }

    async fn step(&mut self) -> Option<Vec<Kept>> {
        let Ok(disk) = self.disk() else {
            self.at = Place::End;
            return None;
        };
        match &mut self.at {
            Place::Start => {
                self.at = Place::Memory { stripe: 0 };
                if let Some(disk) = disk {
                    // When it fails the disk is about to be taken out, which ends the walk.
                    disk.meta.flush().await;
                }
                Some(Vec::new())
            }
            Place::Memory { stripe } => {
                let of_stripe = *stripe;
                *stripe += 1;
                if *stripe == STRIPES {
                    self.at = match &disk {
                        Some(disk) => Place::Line { turn: 0, left: 2 * disk.meta_blocks() },
                        None => self.end(),
                    };
                }
                let held = self.store.inner.catalog.in_memory_only(of_stripe, disk.as_ref().map(|disk| &disk.meta));
                Some(held.into_iter().filter_map(|(key, value)| Kept::new(key, &value)).collect())
            }
            Place::Line { .. } | Place::Others(_) => {
                let disk = disk?;
                match self.next_block(&disk) {
                    Some(block) => Some(self.read_block(&disk, block).await),
                    None => {
                        self.at = self.end();
                        None
                    }
                }
            }
            Place::End => None,
        }
    }

    fn end(&mut self) -> Place {
        self.walked.complete = self.disk.is_some() || !self.store.inner.options.wants_disk();
        Place::End
    }

    fn next_block(&mut self, disk: &Disk) -> Option<u32> {
        if let Place::Line { turn, left } = &mut self.at {
            // Past the last turn there are only the others.
            match disk.meta_from(if *left == 0 { u64::MAX } else { *turn }) {
                Next::Waiting { turn: found, block } => {
                    (*turn, *left) = (found + 1, *left - 1);
                    return Some(block);
                }
                Next::Others(blocks) => self.at = Place::Others(blocks.into()),
            }
        }
        match &mut self.at {
            Place::Others(blocks) => blocks.pop_front(),
            _ => None,
        }
    }

    async fn read_block(&mut self, disk: &Disk, block: u32) -> Vec<Kept> {
        let scan = disk.scan_meta(block).await;
        self.walked.blocks += 1;
        self.walked.unreadable += scan.unreadable;
        let mut copies: BTreeMap<MetaKey, Vec<MetaValue>> = BTreeMap::new();
        for (key, value) in scan.entries.into_iter().filter(|(_, value)| *value != MetaValue::Removed) {
            copies.entry(key).or_default().push(value);
        }
        let catalog = &self.store.inner.catalog;
        let current = async |(key, copies): (MetaKey, Vec<MetaValue>)| {
            let now = catalog.peek(key, Some(&disk.meta)).await?;
            if copies.contains(&now) { Kept::new(key, &now) } else { None }
        };
        let told = futures_util::stream::iter(copies).map(current).buffered(AT_A_TIME);
        told.filter_map(std::future::ready).collect().await
    }
}
