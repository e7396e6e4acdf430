//! The library: a plain binary cache in a bucket or a directory, which replicas share. Here is what is written into it.
//!
//! ```text
//! offered ──▶ queue ──▶ worker: NAR from the store ──▶ library, then its narinfo ──▶ library
//!               │ full: dropped              │ a hole: left out, five tries: dropped
//! ```
//!
//! It is read as any upstream is, and trusted no further (R17; `upstream`, `proxy`). What is worth keeping, and whether what
//! is there may stay, is asked of whoever offers a path ([`Holder`]) when its turn comes, so that a path that waits costs
//! next to nothing. Nothing is remembered over a restart: what was not written is offered again after its next fill.
//!
//! A path of which something in the library was found to be wrong is doubted: what is written for it next replaces what is
//! there.
//!
//! Out of scope: trust, and how a bucket or a directory is written to.

pub mod options;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::options::Options;
use crate::metrics::{Dropped, LibraryMetrics};
use crate::nix::store_path::HashPart;
use crate::store::{Manifest, Store};
use crate::upstream::Upstream;

/// Paths that wait at most (R26); further ones are dropped.
const WAITING: usize = 4096;
/// Paths that are written at a time, each with a part in memory.
const WORKERS: usize = 2;
/// Paths that are doubted at most (R26); further ones stay as they are in the library until they are read again.
const DOUBTED: usize = 4096;
/// How often a path is tried, and the pause before the second try; each is four times as long as the one before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);

/// Who has what is to be written.
pub trait Holder: Debug + Send + Sync {
    /// A path as it is to be in the library; `None` when there is nothing any more that it should have.
    fn holding(&self, hash: HashPart) -> BoxFuture<'_, Option<Holding>>;

    /// Whether the narinfo that the library has of a path may stay, where another one would be written. `doubted`: its NAR was
    /// found to be missing or wrong.
    fn may_stay(&self, hash: HashPart, narinfo: &[u8], holding: &Holding, doubted: bool) -> bool;

    /// What the library is to say about itself, where it says nothing.
    fn cache_info(&self) -> Bytes;
}

/// A path as it is to be in the library.
#[derive(Debug)]
pub struct Holding {
    /// The narinfo.
    pub narinfo: Bytes,
    /// The URL in it: where the NAR is to be.
    pub nar: String,
    /// The NAR, proven.
    pub manifest: Arc<Manifest>,
    /// Where its chunks are.
    pub store: Store,
}

/// Writes into the library. All clones are one.
#[derive(Debug, Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metrics: LibraryMetrics,
    queue: Mutex<Queue>,
    doubted: Mutex<HashSet<HashPart>>,
    /// The library that is known to say what it is.
    prepared: tokio::sync::Mutex<Option<Arc<Upstream>>>,
    tasks: TaskTracker,
    /// No more than what is being written.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Those that wait, and those being written.
    paths: HashSet<HashPart>,
    workers: usize,
    closed: bool,
}

/// Something to be written.
#[derive(Debug, Clone)]
struct Task {
    /// `None`: no path, but what the library says about itself.
    path: Option<HashPart>,
    to: Arc<Upstream>,
    holder: Arc<dyn Holder>,
}

impl Library {
    /// One into which nothing has been written yet.
    pub fn new(metrics: LibraryMetrics) -> Self {
        let (queue, doubted, prepared) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self { inner: Arc::new(Inner { metrics, queue, doubted, prepared, tasks, stop }) }
    }

    /// Has it say what it is, if it does not yet: without that, nobody takes it for a cache.
    pub fn prepare(&self, to: &Arc<Upstream>, holder: Arc<dyn Holder>) {
        self.put(Task { path: None, to: Arc::clone(to), holder });
    }

    /// Has a path written, unless it waits already, or too many do.
    pub fn offer(&self, hash: HashPart, to: &Arc<Upstream>, holder: Arc<dyn Holder>) {
        self.put(Task { path: Some(hash), to: Arc::clone(to), holder });
    }

    /// Writes a path now, for who waits for it; whether its holder has anything of it that should be there.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn write(&self, hash: HashPart, to: &Arc<Upstream>, holder: Arc<dyn Holder>) -> Result<bool, String> {
        write::once(&self.inner, &Task { path: Some(hash), to: Arc::clone(to), holder }).await
    }

    /// Something that the library has of this path is wrong, or missing: it is replaced when it is written next.
    pub fn doubt(&self, hash: HashPart) {
        let mut doubted = self.inner.doubted();
        if doubted.len() < DOUBTED {
            doubted.insert(hash);
        }
    }

    /// Whether something that the library has of this path is known to be wrong.
    pub fn is_doubted(&self, hash: HashPart) -> bool {
        self.inner.is_doubted(hash)
    }

    /// Writes what waits for at most `limit`, and drops the rest. Nothing may be offered any more.
    pub async fn finish(&self, limit: Duration) {
        let inner = &self.inner;
        inner.queue().closed = true;
        inner.tasks.close();
        if timeout(limit, inner.tasks.wait()).await.is_ok() {
            return;
        }
        let left = inner.metrics.queue.get();
        inner.stop.cancel();
        inner.tasks.wait().await;
        inner.queue().tasks.clear();
        inner.metrics.queue.set(0);
        inner.metrics.dropped.of(Dropped::Stopping).inc_by(u64::try_from(left).unwrap_or_default());
        tracing::info!(
            "{left} paths are left that were not written into the library; they will be after their next fill"
        );
    }

    fn put(&self, task: Task) {
        let inner = &self.inner;
        let mut queue = inner.queue();
        if queue.closed || task.path.is_some_and(|path| queue.paths.contains(&path)) {
            return;
        }
        if queue.tasks.len() >= WAITING {
            inner.metrics.dropped.of(Dropped::Full).inc();
            return;
        }
        queue.paths.extend(task.path);
        queue.tasks.push_back(task);
        inner.metrics.queue.inc();
        if queue.workers < WORKERS {
            queue.workers += 1;
            let worker = Worker { inner: Arc::clone(inner), at: None, counts: true };
            let stop = inner.stop.clone();
            inner.tasks.spawn(stop.run_until_cancelled_owned(worker.run()));
        }
    }
}

impl Inner {
    fn doubted(&self) -> MutexGuard<'_, HashSet<HashPart>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_doubted(&self, hash: HashPart) -> bool {
        self.doubted().contains(&hash)
    }

    /// What was wrong has been replaced.
    fn settle(&self, hash: HashPart) {
        self.doubted().remove(&hash);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until nothing waits. Its place, and that of what it was at, is given up however it ends (R35).
struct Worker {
    inner: Arc<Inner>,
    at: Option<Task>,
    /// Whether it counts among the workers.
    counts: bool,
}

impl Worker {
    async fn run(mut self) {
        while self.next() {
            if let Some(task) = &self.at {
                write::task(&self.inner, task).await;
            }
            self.done();
        }
    }

    fn next(&mut self) -> bool {
        let mut queue = self.inner.queue();
        self.at = queue.tasks.pop_front();
        if self.at.is_none() {
            // At once: who offers from now on must not rely on this one.
            queue.workers -= 1;
            self.counts = false;
        }
        self.at.is_some()
    }

    fn done(&mut self) {
        if let Some(task) = self.at.take() {
            self.inner.metrics.queue.dec();
            if let Some(path) = task.path {
                self.inner.queue().paths.remove(&path);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.done();
        if self.counts {
            self.inner.queue().workers -= 1;
        }
    }
}
