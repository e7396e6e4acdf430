//! The disk tier comes and goes: it is opened, taken out when it is sick, and opened again when it takes writes.
//!
//! ```text
//! in memory ── open ──> up ── a write was lost or is stuck ──> in memory ── pause ── open ──> up
//!     └── cannot be opened: said once, loudly; then again with longer and longer pauses ──┘
//! ```
//!
//! Taking the tier out costs only what is on disk, and only until it is back: nobody waits for a sick disk, and what
//! is in memory is served (R30). An abandoned foyer may still write to the same files later (a hung disk that wakes
//! up); every entry has a checksum and its key, so that makes misses, not wrong bytes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::device::Layout;
use super::disk::Disk;
use super::open::OpenError;

/// The pause before the first try to open a disk again; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Opens the disk tier, and from then on keeps it open, whether this first try succeeds or not.
pub(super) async fn open(inner: &Arc<Inner>) -> Result<(), OpenError> {
    if !inner.options.wants_disk() {
        return Ok(());
    }
    let mut watched = inner.opening.lock().await;
    let result = put_in(inner).await;
    if inner.closed.is_cancelled() {
        return Err(OpenError::Closed);
    }
    if let Err(error) = &result {
        inner.metrics.disk_failures.inc();
        tracing::error!(%error, "no disk tier: the store keeps everything in memory, and tries again");
    }
    start_watch(inner, &mut watched);
    result
}

/// Opens the disk tier if its directory was made with this configuration; if that fails, nothing is tried again.
pub(super) async fn open_existing(inner: &Arc<Inner>) -> Result<(), OpenError> {
    let mut watched = inner.opening.lock().await;
    let (dir, given) = (inner.options.dir.clone().unwrap_or_default(), inner.options.disk.0);
    if !inner.options.wants_disk() {
        return Err(OpenError::Nothing { dir });
    }
    let layout = Layout::new(&dir, given)?;
    let looked = tokio::task::spawn_blocking(move || layout.is_there()).await;
    let is_there = looked.map_err(|error| OpenError::Cache(error.to_string()))?;
    match is_there.map_err(OpenError::directory(&dir))? {
        Some(true) => put_in(inner).await?,
        Some(false) => return Err(OpenError::OtherSize { dir, given }),
        None => return Err(OpenError::Nothing { dir }),
    }
    start_watch(inner, &mut watched);
    Ok(())
}

fn start_watch(inner: &Arc<Inner>, watched: &mut bool) {
    if !*watched {
        *watched = true;
        tokio::spawn(inner.closed.clone().run_until_cancelled_owned(watch(Arc::downgrade(inner))));
    }
}

/// Opens the disk tier, if there is none, and puts it behind the memory.
async fn put_in(inner: &Arc<Inner>) -> Result<(), OpenError> {
    let Some(dir) = inner.options.dir.as_deref().filter(|_| inner.disk.load().is_none()) else { return Ok(()) };
    let layout = Layout::new(dir, inner.options.disk.0)?;
    let disk = Arc::new(Disk::open(layout, &inner.heat, &inner.pinned, &inner.metrics).await?);
    if inner.closed.is_cancelled() {
        return Err(OpenError::Closed);
    }
    inner.metrics.disk_bytes.set(i64::try_from(disk.capacity).unwrap_or(i64::MAX));
    inner.metrics.disk_up.set(1);
    disk.keep_settled(&inner.catalog);
    disk.keep_pinned(&inner.catalog, &inner.pinned);
    inner.disk.store(Some(disk));
    Ok(())
}

/// Takes the disk tier out when it is sick and puts it back when it can be opened.
async fn watch(inner: Weak<Inner>) {
    loop {
        let Some(disk) = inner.upgrade().map(|inner| inner.disk.load_full()) else { return };
        if let Some(disk) = disk {
            let sick = disk.sick().await;
            let Some(inner) = inner.upgrade() else { return };
            inner.disk.store(None);
            disk.abandon();
            inner.metrics.disk_up.set(0);
            inner.metrics.disk_failures.inc();
            tracing::error!(%sick, "the disk tier is taken out: the store keeps everything in memory until it is back");
        }
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let Some(inner) = inner.upgrade() else { return };
            let _opening = inner.opening.lock().await;
            match put_in(&inner).await {
                Ok(()) => break tracing::info!("the disk tier is back"),
                Err(error) => tracing::debug!(%error, ?pause, "still no disk tier"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
