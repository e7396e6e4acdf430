//! The write gate in front of a foyer cache, which has no back-pressure of its own.
//!
//! foyer queues without bound, copies into one flush buffer, and silently drops what does not fit the rest of it. The
//! gate lets in as many pages as one buffer holds and lets in more when these are written:
//!
//! ```text
//! put ── permits for the padded size ── insert, in order ── pending
//! drain: take pending ── storage().wait() ── is every key there? ── give the permits back
//! ```
//!
//! Everything in foyer's buffers holds permits, so the gate can be as large as one buffer and nothing is ever dropped.
//!
//! Inserts are made one at a time: foyer takes a sequence number and then queues, and two threads that queue in another
//! order than they counted make its recovery stop at that place of the block after a restart.
//!
//! foyer reports no failed write. So after each wait every key written is looked up; one that is missing means that a
//! write failed, and after a failed write foyer 0.22's flusher either is gone or continues at the wrong block: the gate
//! closes and says so.
//!
//! Out of scope: what to do about a sick disk (see `health`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot, watch};

use super::geometry::PAGE;
use crate::metrics::StoreMetrics;

/// What the gate needs of the cache behind it.
pub trait Written<K>: Send + Sync + 'static {
    /// Ends when everything queued before has been written, or has failed to be.
    fn wait(&self) -> impl Future<Output = ()> + Send;
    /// True when the entry is on disk, by the index in memory.
    fn has(&self, key: &K) -> bool;
}

/// Why a disk is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Sick {
    /// Entries that were written are not there.
    #[error("{0} entries were lost while they were written")]
    Lost(u64),
    /// A write does not end.
    #[error("a write takes longer than {0:?}")]
    Stuck(Duration),
}

/// The gate of one tier.
#[derive(Debug)]
pub struct Gate<K> {
    permits: Semaphore,
    pages: u32,
    pending: Mutex<Pending<K>>,
    wake: Notify,
    sick: watch::Sender<Option<Sick>>,
    metrics: StoreMetrics,
}

#[derive(Debug)]
struct Pending<K> {
    /// Inserted since the drain last looked, and the pages they hold.
    keys: Vec<K>,
    pages: u32,
    flushes: Vec<oneshot::Sender<bool>>,
    /// What the drain waits for now.
    writing: Vec<K>,
    /// Pages of everything put and not yet written.
    held: u32,
}

impl<K> Default for Pending<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), pages: 0, flushes: Vec::new(), writing: Vec::new(), held: 0 }
    }
}

impl<K: Send + 'static> Gate<K> {
    /// A gate for `bytes`, the size of foyer's flush buffer, rounded down to pages.
    pub fn new(bytes: usize, metrics: StoreMetrics) -> Self {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        Self {
            permits: Semaphore::new(usize::try_from(pages).unwrap_or(Semaphore::MAX_PERMITS)),
            pages,
            pending: Mutex::default(),
            wake: Notify::new(),
            sick: watch::Sender::new(None),
            metrics,
        }
    }

    /// The most it holds, which is also the largest entry it lets in.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.pages).map_or(usize::MAX, |pages| pages * PAGE)
    }

    /// True when an entry of `padded` bytes would not wait.
    pub fn has_room(&self, padded: usize) -> bool {
        self.permits.available_permits() >= padded.div_ceil(PAGE)
    }

    /// Waits for room for an entry of `padded` bytes, then runs `insert`, alone. `false` when the gate is closed or the
    /// entry is larger than the gate. `insert` returns whether it did insert.
    pub async fn put(&self, key: K, padded: usize, insert: impl FnOnce() -> bool) -> bool {
        let pages = pages(padded);
        if pages > self.pages {
            return false;
        }
        let permit = match self.permits.try_acquire_many(pages) {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return false,
            Err(TryAcquireError::NoPermits) => {
                let start = Instant::now();
                let permit = self.permits.acquire_many(pages).await;
                self.metrics.gate_wait.observe(start.elapsed().as_secs_f64());
                let Ok(permit) = permit else { return false };
                permit
            }
        };
        let mut pending = self.pending();
        if !insert() {
            return false;
        }
        permit.forget();
        pending.keys.push(key);
        pending.pages += pages;
        pending.held += pages;
        self.metrics.unwritten_bytes.add(held_bytes(pages));
        drop(pending);
        self.wake.notify_one();
        true
    }

    /// Waits until everything put before is written; `false` if some of it was lost or the gate is closed.
    pub async fn flush(&self) -> bool {
        let (done, flushed) = oneshot::channel();
        {
            let mut pending = self.pending();
            if self.permits.is_closed() {
                return false;
            }
            pending.flushes.push(done);
        }
        self.wake.notify_one();
        flushed.await.unwrap_or(false)
    }

    /// Says that `key` was removed, so that its absence is no loss.
    pub fn removed(&self, key: &K)
    where
        K: PartialEq,
    {
        let mut pending = self.pending();
        pending.keys.retain(|pending| pending != key);
        pending.writing.retain(|writing| writing != key);
    }

    /// Ends when the disk is sick.
    pub async fn sick(&self) -> Sick {
        let mut watch = self.sick.subscribe();
        match watch.wait_for(Option::is_some).await.ok().and_then(|sick| *sick) {
            Some(sick) => sick,
            None => std::future::pending().await,
        }
    }

    /// Lets nobody in any more; who waits is turned away.
    pub fn close(&self) {
        let flushes = {
            let mut pending = self.pending();
            self.permits.close();
            std::mem::take(&mut pending.flushes)
        };
        drop(flushes);
    }

    /// Gives permits back as what holds them is written. Ends when the disk is sick, which closes the gate: when an entry
    /// is lost, or when one batch takes longer than `stuck`.
    pub async fn drain(&self, written: &impl Written<K>, stuck: Duration) {
        loop {
            self.wake.notified().await;
            let (pages, flushes) = self.start_batch();
            if pages == 0 && flushes.is_empty() {
                continue;
            }
            if tokio::time::timeout(stuck, written.wait()).await.is_err() {
                return self.fail(Sick::Stuck(stuck));
            }
            let lost = self.end_batch(written);
            self.permits.add_permits(usize::try_from(pages).unwrap_or(0));
            self.release(pages);
            for flush in flushes {
                // Who asked may have stopped waiting.
                let _ = flush.send(lost == 0);
            }
            if lost > 0 {
                return self.fail(Sick::Lost(lost));
            }
        }
    }

    /// `pages` are written, or given up.
    fn release(&self, pages: u32) {
        let mut pending = self.pending();
        pending.held -= pages;
        self.metrics.unwritten_bytes.sub(held_bytes(pages));
    }

    fn start_batch(&self) -> (u32, Vec<oneshot::Sender<bool>>) {
        let mut pending = self.pending();
        pending.writing = std::mem::take(&mut pending.keys);
        (std::mem::take(&mut pending.pages), std::mem::take(&mut pending.flushes))
    }

    /// Counts what was written; returns how many entries were lost.
    fn end_batch(&self, written: &impl Written<K>) -> u64 {
        let writing = std::mem::take(&mut self.pending().writing);
        let lost = writing.iter().filter(|key| !written.has(key)).count() as u64;
        self.metrics.written.inc_by(writing.len() as u64 - lost);
        self.metrics.lost.inc_by(lost);
        lost
    }

    fn fail(&self, sick: Sick) {
        self.close();
        self.sick.send_replace(Some(sick));
    }

    fn pending(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gate that was given up with its disk holds nothing any more.
impl<K> Drop for Gate<K> {
    fn drop(&mut self) {
        let pending = self.pending.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.metrics.unwritten_bytes.sub(held_bytes(pending.held));
    }
}

fn held_bytes(pages: u32) -> i64 {
    i64::from(pages) * i64::try_from(PAGE).unwrap_or(0)
}

fn pages(padded: usize) -> u32 {
    u32::try_from(padded.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::metrics::Metrics;

    /// A cache that writes when it is waited for, and can lose or hang.
    #[derive(Default)]
    struct Fake {
        queued: Mutex<Vec<u32>>,
        written: Mutex<HashSet<u32>>,
        most_queued: AtomicUsize,
        lose: Option<u32>,
        hang: bool,
    }

    impl Written<u32> for Arc<Fake> {
        async fn wait(&self) {
            if self.hang {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            let queued = std::mem::take(&mut *self.queued.lock().unwrap());
            self.most_queued.fetch_max(queued.len(), Ordering::Relaxed);
            self.written.lock().unwrap().extend(queued.into_iter().filter(|key| Some(*key) != self.lose));
        }
        fn has(&self, key: &u32) -> bool {
            self.written.lock().unwrap().contains(key)
        }
    }

    fn gate(pages: usize, fake: Fake) -> (Arc<Gate<u32>>, Arc<Fake>) {
        let gate = Arc::new(Gate::new(pages * PAGE, Metrics::default().store));
        let fake = Arc::new(fake);
        let (drained, written) = (gate.clone(), fake.clone());
        tokio::spawn(async move { drained.drain(&written, Duration::from_millis(50)).await });
        (gate, fake)
    }

    async fn put(gate: &Gate<u32>, fake: &Fake, key: u32, pages: usize) -> bool {
        let insert = || {
            fake.queued.lock().unwrap().push(key);
            true
        };
        gate.put(key, pages * PAGE - 7, insert).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_than_its_size_is_ever_queued() {
        let (gate, fake) = gate(10, Fake::default());
        let writers: Vec<_> = (0..8)
            .map(|w| {
                let (gate, fake) = (gate.clone(), fake.clone());
                tokio::spawn(async move {
                    for n in 0..100 {
                        assert!(put(&gate, &fake, w * 100 + n, 2).await);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(gate.flush().await);
        assert_eq!(fake.written.lock().unwrap().len(), 800);
        assert!((1..=5).contains(&fake.most_queued.load(Ordering::Relaxed)));
    }

    #[tokio::test]
    async fn a_lost_entry_closes_the_gate() {
        let (gate, fake) = gate(4, Fake { lose: Some(2), ..Fake::default() });
        assert!(put(&gate, &fake, 1, 1).await && gate.flush().await);
        assert!(put(&gate, &fake, 2, 1).await);
        assert!(!gate.flush().await);
        assert_eq!(gate.sick().await, Sick::Lost(1));
        assert!(!put(&gate, &fake, 3, 1).await && !gate.flush().await);
    }

    #[tokio::test]
    async fn a_removed_entry_is_not_a_lost_one() {
        let (gate, fake) = gate(4, Fake { lose: Some(2), ..Fake::default() });
        assert!(put(&gate, &fake, 2, 1).await);
        gate.removed(&2);
        assert!(gate.flush().await);
    }

    #[tokio::test]
    async fn who_waits_at_a_stuck_disk_is_turned_away() {
        let (gate, fake) = gate(2, Fake { hang: true, ..Fake::default() });
        assert!(put(&gate, &fake, 1, 2).await);
        let (refused, flushed) = tokio::join!(put(&gate, &fake, 2, 1), gate.flush());
        assert!(!refused && !flushed);
        assert!(matches!(gate.sick().await, Sick::Stuck(_)));
    }

    #[tokio::test]
    async fn what_is_larger_than_the_gate_is_refused_at_once() {
        let (gate, fake) = gate(2, Fake::default());
        assert!(!put(&gate, &fake, 1, 3).await);
        assert!(put(&gate, &fake, 2, 2).await);
    }
}
