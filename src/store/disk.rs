//! The disk tier: two foyer caches on one prepared device, each behind its gate, on threads of their own.
//!
//! Memory besides the tiers: two flush buffers of the size of each gate, 16 MiB + 8 MiB at most, and about 100 bytes
//! for each entry on disk.

use std::sync::Arc;
use std::time::Duration;

use foyer::{DefaultHasher, Spawner};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::catalog::Catalog;
use super::device::{Device, Layout};
use super::gate::Sick;
use super::geometry::{Chunk, ChunkHash, ChunkKey};
use super::heat::Heat;
use super::line::{Line, Next};
use super::meta::{MetaKey, MetaValue};
use super::open::OpenError;
use super::pinned::{self, Pinned};
use super::scan::{Scan, scan};
use super::second_chance;
use super::tier::{Build, Tier};
use crate::metrics::StoreMetrics;

/// The largest gate, which is the most that waits to be written.
const NAR_GATE: usize = 8 << 20;
const META_GATE: usize = 4 << 20;
/// Threads that read and write: the depth of the disk's queue.
const QUEUE_DEPTH: usize = 32;
/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(10);

/// An open disk tier.
#[derive(Debug)]
pub struct Disk {
    /// Chunks.
    pub nar: Tier<ChunkKey, Chunk, ChunkHash>,
    /// Manifests and small objects.
    pub meta: Tier<MetaKey, MetaValue, DefaultHasher>,
    /// Bytes on disk, allocated.
    pub capacity: u64,
    nar_line: Arc<Line>,
    meta_line: Arc<Line>,
    threads: Handle,
    stop: CancellationToken,
    _stop: DropGuard,
    /// Dropped last: nobody else opens the directory while this is in use.
    device: Device,
}

impl Disk {
    /// Prepares the directory, recovers what is in it, and starts the gates.
    ///
    /// # Errors
    /// When the directory is not usable, has not the space, or foyer does not open.
    pub async fn open(
        layout: Layout,
        heat: &Arc<Heat>,
        pinned: &Arc<Pinned>,
        metrics: &StoreMetrics,
    ) -> Result<Self, OpenError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(QUEUE_DEPTH)
            .thread_name("snowbank-store")
            .enable_all()
            .build()
            .map_err(OpenError::Runtime)?;
        let threads = runtime.handle().clone();
        // From here on the runtime ends in the background with the last clone of the spawner.
        let spawner = Spawner::from(runtime);
        let prepared = spawner.spawn_blocking(move || Device::prepare(layout)).await;
        let device = prepared.map_err(|error| OpenError::Cache(error.to_string()))??;
        if !device.allocated {
            tracing::warn!("this file system does not allocate in advance: a full disk will stop the disk tier");
        }
        let build = Build { spawner: &spawner, metrics, direct: device.direct };
        let nar_line =
            Line::new(&device.ages[0], second_chance::near(device.layout.nar.blocks), heat.clone(), pinned.clone());
        let meta_line =
            Line::new(&device.ages[1], second_chance::near(device.layout.meta.blocks), heat.clone(), pinned.clone());
        let (nar, meta) = tokio::try_join!(
            build.tier("nar", &device.layout.nar, NAR_GATE, ChunkHash, &nar_line),
            build.tier("meta", &device.layout.meta, META_GATE, DefaultHasher::default(), &meta_line),
        )?;
        let stop = CancellationToken::new();
        nar.start(&threads, &stop);
        meta.start(&threads, &stop);
        let saver = second_chance::Saver {
            area: device.layout.nar.clone(),
            line: nar_line.clone(),
            heat: heat.clone(),
            pinned: pinned.clone(),
            tier: nar.clone(),
            metrics: metrics.clone(),
        };
        threads.spawn(stop.clone().run_until_cancelled_owned(saver.run()));
        let capacity = device.layout.capacity();
        Ok(Self { nar, meta, capacity, nar_line, meta_line, threads, _stop: stop.clone().drop_guard(), stop, device })
    }

    /// Writes to disk what `catalog` has newer, now and whenever something becomes so.
    pub fn keep_settled(&self, catalog: &Arc<Catalog>) {
        let (catalog, meta) = (catalog.clone(), self.meta.clone());
        let settle = async move { catalog.keep_settled(&meta).await };
        self.threads.spawn(self.stop.clone().run_until_cancelled_owned(settle));
    }

    /// Saves the manifests and small objects that are pinned.
    pub fn keep_pinned(&self, catalog: &Arc<Catalog>, pinned: &Arc<Pinned>) {
        let saver = pinned::Saver {
            area: self.device.layout.meta.clone(),
            line: self.meta_line.clone(),
            pinned: pinned.clone(),
            catalog: catalog.clone(),
            tier: self.meta.clone(),
        };
        self.threads.spawn(self.stop.clone().run_until_cancelled_owned(saver.run()));
    }

    /// How many blocks manifests and small objects have.
    pub fn meta_blocks(&self) -> usize {
        self.device.layout.meta.blocks
    }

    /// Where a walk over the blocks of manifests and small objects goes on; see [`Line::from`].
    pub fn meta_from(&self, turn: u64) -> Next {
        self.meta_line.from(turn)
    }

    /// What a block of manifests and small objects holds. Read on the disk's own threads.
    pub async fn scan_meta(&self, block: u32) -> Scan {
        let (file, size) = (self.device.layout.meta.file(block), self.device.layout.meta.block);
        let direct = self.device.direct;
        let scanned = self.threads.spawn_blocking(move || scan(&file, size, direct)).await;
        scanned.unwrap_or_else(|_| Scan { unreadable: 1, ..Scan::default() })
    }

    /// Bytes of the blocks that are full. Of each tier one or two more are being written.
    pub fn full(&self) -> u64 {
        let layout = &self.device.layout;
        let of = |line: &Line, block: usize| line.full() as u64 * block as u64;
        of(&self.nar_line, layout.nar.block) + of(&self.meta_line, layout.meta.block)
    }

    /// Ends when the disk stops taking writes.
    pub async fn sick(&self) -> Sick {
        tokio::select! {
            sick = self.nar.sick() => sick,
            sick = self.meta.sick() => sick,
        }
    }

    /// Turns away who waits to write.
    pub fn abandon(&self) {
        self.nar.abandon();
        self.meta.abandon();
    }

    /// Writes out what was put and closes foyer. What a disk that hangs does not take in [`CLOSING`] is lost.
    pub async fn close(&self, catalog: &Catalog) {
        let closing = async {
            catalog.settle(&self.meta).await;
            tokio::join!(self.nar.close(), self.meta.close());
        };
        match tokio::time::timeout(CLOSING, closing).await {
            Ok(()) => self.device.release(),
            Err(_) => tracing::warn!("the disk tier did not close in {} s", CLOSING.as_secs()),
        }
    }
}
