//! Fills: getting a NAR from an upstream into chunks while any number of clients read along.
//!
//! The flow: [`Fills::start`] gives the one running fill of a NAR, or makes it; its task takes the upstream's bytes,
//! hashes them, cuts them into chunks and hands those to the store; a [`Reader`] is a client's cursor over the chunks,
//! wherever each is at the moment: at the live edge, in the fill's window, in the store, or nowhere (a hole, which a
//! second kind of fill gets again from an upstream and checks against the manifest).
//!
//! A fill belongs to nobody (R28): who disconnects changes nothing for the rest, and a slow reader slows nobody. What
//! bounds it: one chunk being built and [`state::WINDOW`] complete ones, so less than 3 MiB for each fill, and
//! [`Fills`]' number of fills at once. Back-pressure comes from the store's write gate, never from readers.
//!
//! Out of scope: who the clients are, and which upstream has what (the plan says it).

mod contested;
mod course;
mod examine;
mod itinerary;
mod leg;
mod live;
mod partial;
mod progress;
mod proofs;
mod prove;
mod reader;
mod refill;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod verify;
mod wide;
mod witness;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use contested::Contested;
pub use examine::{Examined, compression_of};
pub use progress::Progress;
use prove::Prover;
pub use reader::Reader;
use state::HOLD_WHOLE;
pub use state::{Broken, Fill, Ready};
use wide::Parts;
pub use witness::Witness;

pub use crate::metrics::FillFailure;
use crate::metrics::FillMetrics;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::{Compression, ContentAddress, ContentCheck};
use crate::nix::store_path::HashPart;
use crate::store::{Announced, BlobId, Manifest, Store};
use crate::trace::{self, Trace};
use crate::upstream::Upstream;

/// Where a NAR's bytes can be had.
#[derive(Debug, Clone)]
pub struct Source {
    /// Whom to ask.
    pub upstream: Arc<Upstream>,
    /// Path and query to ask for, announced by a verified narinfo of this upstream (R13) or made from a FileHash.
    pub target: String,
}

impl Source {
    /// Whether it is the same place.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && self.target == other.target
    }
}

/// What a verified narinfo says about the NAR in a body.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The path it is about.
    pub hash: HashPart,
    /// What people call that path.
    pub name: String,
    /// SHA-256 of the NAR, decompressed.
    pub nar_hash: Sha256,
    /// Bytes of the NAR, decompressed.
    pub nar_size: u64,
    /// Its content address, and whether the path refers to itself, which that depends on.
    pub address: Option<(ContentAddress, bool)>,
    /// What the narinfo was believed on, to be kept with the NAR.
    pub basis: [u8; 16],
}

impl Claim {
    /// The check of the content address; `None` where there is none, or one that is not understood here.
    fn content_check(&self) -> Option<ContentCheck> {
        let (address, refers_to_itself) = self.address.as_ref()?;
        address.check(self.hash, *refers_to_itself)
    }

    /// As it is kept in the manifest.
    pub fn announced(&self) -> Announced {
        Announced {
            store_hash: *self.hash.as_bytes(),
            nar_hash: *self.nar_hash.as_bytes(),
            nar_size: self.nar_size,
            basis: self.basis,
        }
    }
}

/// When what is inside a body is proven to be what is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prove {
    /// Not at all.
    Never,
    /// After its fill, except that a small one is proven before anything of it is read.
    Afterwards,
    /// Before anything of it is read. Where nothing is claimed of what is inside, that is the proof of its hash.
    First,
}

/// Who hears what came of a plan: that a body is not what was claimed, above all.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// What `source` sent is not what its narinfo claims, for the reason in `broken`. Some of it may have been read
    /// (`left`), which could not be taken back.
    fn refuted<'a>(&'a self, source: &'a Source, plan: &'a Plan, broken: &'a Broken, left: bool) -> BoxFuture<'a, ()>;

    /// `source` has not got the body that its narinfo names.
    fn lacks<'a>(&'a self, _source: &'a Source, _plan: &'a Plan) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The body is here as a whole and proven as far as the plan wants it; `source` sent the end of it.
    fn whole(&self, _source: &Source, _plan: &Plan) {}
}

/// Who else has the bytes of a plan; asked only when the plan's own sources fail.
pub trait Others: std::fmt::Debug + Send + Sync {
    /// Sources that announce the same as `plan`, best first.
    fn of<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Vec<Source>>;
}

/// What is to be filled, and what its bytes must be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The SHA-256 that names the body in its URL: FileHash, or NarHash where the narinfo has none.
    pub digest: Sha256,
    /// SHA-256 of the body. Without it the body is known only by the NAR inside, which is then proven while it streams.
    pub file_hash: Option<Sha256>,
    /// Size of the body in bytes, when the narinfo says it.
    pub size: Option<u64>,
    /// Compression of the body.
    pub compression: Compression,
    /// What the narinfo says, when there is one.
    pub claim: Option<Arc<Claim>>,
    /// When the claim is proven.
    pub prove: Prove,
    /// Where to ask, in this order.
    pub sources: Vec<Source>,
    /// Who knows further ones.
    pub others: Option<Arc<dyn Others>>,
    /// Who hears of sources that send something else.
    pub judge: Arc<dyn Judge>,
}

impl Plan {
    /// Whether another plan says the same of the NAR.
    pub fn claims_the_same(&self, other: &Self) -> bool {
        let says = |plan: &Self| plan.claim.as_ref().map(|claim| (claim.nar_hash, claim.nar_size));
        self.size == other.size && self.file_hash == other.file_hash && says(self) == says(other)
    }

    /// Whether nothing leaves of a body of this size before all of it is proven (R9).
    pub fn is_held_back(&self, size: Option<u64>) -> bool {
        self.prove == Prove::First || size.is_some_and(|size| size <= HOLD_WHOLE)
    }

    /// The name of the NAR in the store.
    pub fn blob(&self) -> BlobId {
        blob_of(&self.digest, self.compression)
    }
}

/// The store's name for the body with this digest and compression.
pub fn blob_of(digest: &Sha256, compression: Compression) -> BlobId {
    BlobId::new(digest.as_bytes(), code_of(compression))
}

/// The number that stands for a compression in manifests on disk: never to be changed, only added to.
pub fn code_of(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Xz => 1,
        Compression::Zstd => 2,
        Compression::Bzip2 => 3,
        Compression::Gzip => 4,
        Compression::Br => 5,
        Compression::Lz4 => 6,
        Compression::Lzip => 7,
        Compression::Lzma => 8,
        Compression::Compress => 9,
        Compression::Grzip => 10,
        Compression::Lrzip => 11,
        Compression::Lzop => 12,
    }
}

/// Finds out, when a hole has to be filled, where the bytes can be had again.
pub trait Locate: Send + Sync {
    /// The sources for the NAR this was made for, best first; `again` when those told before have it no more.
    ///
    /// # Errors
    /// `Gone`: no upstream has it any more. `Unknown`: one that might could not be asked.
    fn sources(&self, again: bool) -> BoxFuture<'_, Result<Vec<Source>, Broken>>;

    /// A source has not got the bytes, or others (`refused`).
    fn failed(&self, _source: &Source, _refused: bool) {}

    /// The hole is filled.
    fn filled(&self) {}
}

/// How long a fill waits for its turn: less than the 300 s after which Nix gives up on a silent server.
const PLACE: Duration = Duration::from_secs(120);
/// The most fills that wait for their turn (R26): clients that ask and leave cannot pile up more.
const MOST_WAITING: usize = 4096;

/// The fills of one space of the store. Those of two spaces have nothing in common but the bounds: who asks in one of them
/// neither joins nor notices what runs in another (R15).
#[derive(Debug, Clone)]
pub struct Fills {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    metrics: FillMetrics,
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    prover: Arc<Prover>,
    /// NARs that are to be proven in the background.
    unproven: Mutex<HashSet<BlobId>>,
    contested: Contested,
    /// Of all spaces.
    parts: Parts,
    /// Of all spaces: the fills that were begun before anybody asked, and the upstream that is asked first for each.
    ahead: Arc<Mutex<Vec<BegunAhead>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    running: Mutex<Running>,
}

/// See [`Inner::ahead`]; gone when its task has ended.
type BegunAhead = (Weak<Fill>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct Running {
    whole: HashMap<BlobId, Arc<Fill>>,
    /// What they are held against.
    claims: HashMap<BlobId, Arc<Claim>>,
    holes: HashMap<BlobId, Vec<Arc<Fill>>>,
}

impl Running {
    /// One that failed stays in the map until its task ends: who comes then starts another.
    fn joinable(&self, blob: BlobId) -> Option<Arc<Fill>> {
        self.whole.get(&blob).filter(|fill| fill.failure().is_none()).cloned()
    }
}

impl Fills {
    /// At most `at_once` NARs are filled at the same time; the others wait for their turn.
    pub fn new(store: Store, at_once: usize, metrics: FillMetrics) -> Self {
        let permits = Arc::new(Semaphore::new(at_once.max(1)));
        let waiting = Arc::new(Semaphore::new(MOST_WAITING));
        let running = Mutex::new(Running::default());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts::new(tasks.clone(), stop.clone());
        let (prover, unproven, ahead) = (Arc::default(), Mutex::default(), Arc::default());
        let contested = Contested::default();
        Self {
            inner: Arc::new(Inner {
                store,
                metrics,
                permits,
                waiting,
                prover,
                unproven,
                contested,
                parts,
                ahead,
                tasks,
                stop,
                running,
            }),
        }
    }

    /// The fills of another space, as which `store` sees the same store: bounded and stopped together with these.
    #[must_use]
    pub fn beside(&self, store: Store) -> Self {
        let inner = &*self.inner;
        let (metrics, permits) = (inner.metrics.clone(), Arc::clone(&inner.permits));
        let waiting = Arc::clone(&inner.waiting);
        let (prover, tasks, stop) = (Arc::clone(&inner.prover), inner.tasks.clone(), inner.stop.clone());
        let (parts, ahead) = (inner.parts.clone(), Arc::clone(&inner.ahead));
        let (running, unproven) = (Mutex::default(), Mutex::default());
        let contested = Contested::default();
        Self {
            inner: Arc::new(Inner {
                store,
                metrics,
                permits,
                waiting,
                prover,
                unproven,
                contested,
                parts,
                ahead,
                tasks,
                stop,
                running,
            }),
        }
    }

    /// The running fill of a NAR.
    pub fn running(&self, blob: BlobId) -> Option<Arc<Fill>> {
        self.lock().joinable(blob)
    }

    /// Whether the running fill of the plan's NAR holds it against another claim than the plan does: what it brings is then
    /// not proven for the plan.
    pub fn is_held_against_another(&self, plan: &Plan) -> bool {
        let running = self.lock();
        let Some(wanted) = plan.claim.as_ref().filter(|_| running.joinable(plan.blob()).is_some()) else {
            return false;
        };
        let says = |claim: &Claim| (claim.nar_hash, claim.nar_size);
        running.claims.get(&plan.blob()).is_none_or(|running| says(running) != says(wanted))
    }

    /// Joins the running fill of the plan's NAR, or starts one; true when it was started here.
    pub fn start(&self, plan: Plan) -> (Arc<Fill>, bool) {
        self.start_as(Fill::whole, plan)
    }

    /// Starts a fill of the plan's NAR that nobody has asked for; `None` when one is running.
    pub fn start_ahead(&self, plan: Plan) -> Option<Arc<Fill>> {
        let first_asked = task::first_asked(&plan).map(|source| Arc::clone(source.upstream.name()));
        let (fill, started) = self.start_as(Fill::ahead, plan);
        if started {
            let mut ahead = self.ahead();
            ahead.retain(|(fill, _)| fill.strong_count() > 0);
            ahead.push((Arc::downgrade(&fill), first_asked));
        }
        started.then_some(fill)
    }

    fn start_as(&self, begin: fn(BlobId, Option<u64>, bool) -> Fill, plan: Plan) -> (Arc<Fill>, bool) {
        let blob = plan.blob();
        let mut running = self.lock();
        if let Some(fill) = running.joinable(blob) {
            return (fill, false);
        }
        let fill = Arc::new(begin(blob, plan.size, plan.prove == Prove::First));
        running.whole.insert(blob, Arc::clone(&fill));
        match &plan.claim {
            Some(claim) => _ = running.claims.insert(blob, Arc::clone(claim)),
            None => _ = running.claims.remove(&blob),
        }
        drop(running);
        let registered = Registered { fills: self.clone(), fill: Arc::clone(&fill) };
        self.inner.tasks.spawn(crate::trail::carry(task::run(self.clone(), registered, plan)));
        (fill, true)
    }

    /// Joins a fill that will bring the first of these chunks, or starts one for it and the holes behind it, as part of `trace`.
    fn refill(
        &self,
        manifest: &Arc<Manifest>,
        blob: BlobId,
        chunks: RangeInclusive<u32>,
        locate: &Arc<dyn Locate>,
        trace: Option<Trace>,
    ) -> Arc<Fill> {
        let (index, last) = chunks.into_inner();
        let mut running = self.lock();
        let holes = running.holes.entry(blob).or_default();
        if let Some(fill) = holes.iter().find(|fill| fill.will_bring(index)) {
            return Arc::clone(fill);
        }
        let last = refill::extent(&self.inner.store, blob, index, last);
        let fill = Arc::new(Fill::hole(blob, Arc::clone(manifest), index..last + 1));
        holes.push(Arc::clone(&fill));
        drop(running);
        let registered = Registered { fills: self.clone(), fill: Arc::clone(&fill) };
        let stop = self.inner.stop.clone();
        let task = trace::scope(trace, refill::run(self.clone(), registered, Arc::clone(locate)));
        self.inner.tasks.spawn(stop.run_until_cancelled_owned(task));
        fill
    }

    /// Breaks off every running fill, of all spaces, and waits until what is whole already is kept. Called when no client is left: the
    /// rest is fetched again when it is asked for again.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// How many NARs are being filled, of all spaces.
    pub fn count(&self) -> usize {
        usize::try_from(self.inner.metrics.running.get()).unwrap_or(0)
    }

    /// Has the youngest fill that nobody wants end, of whatever space, so that its place goes to one that somebody waits for; one from
    /// this upstream, where it is that one whose places are taken.
    fn make_way(&self, upstream: Option<&Arc<str>>) {
        let in_question = |(fill, first_asked): &BegunAhead| {
            let fill = fill.upgrade().filter(|fill| fill.is_for_nobody())?;
            let is_theirs = upstream.is_none_or(|name| fill.sender().as_ref().or(first_asked.as_ref()) == Some(name));
            is_theirs.then_some(fill)
        };
        let mut ahead: Vec<_> = self.ahead().iter().filter_map(in_question).collect();
        ahead.sort_by_key(|fill| fill.age());
        // One of those that were not told so yet.
        let _ = ahead.iter().any(|fill| fill.make_way());
    }

    /// Whether a NAR that is whole is still being kept, or proven in the background.
    pub fn are_settling(&self) -> bool {
        self.lock().whole.values().any(|fill| fill.manifest().is_some()) || self.has_unproven()
    }

    /// Whether all places are taken.
    fn is_full(&self) -> bool {
        self.inner.permits.available_permits() == 0
    }

    /// Whether somebody waits for a place.
    fn is_crowded(&self) -> bool {
        self.is_full() && self.inner.waiting.available_permits() < MOST_WAITING
    }

    /// A place among the fills that run at once; `None` when none came free in time.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.inner.permits);
        // Closed only when the process ends, and then nobody waits any more.
        timeout(PLACE, permits.acquire_owned()).await.ok()?.ok()
    }

    fn ahead(&self) -> MutexGuard<'_, Vec<BegunAhead>> {
        // A panic cannot leave it half changed (R35).
        self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // A panic while the lock is held cannot leave the maps half changed: each change is one insert or remove (R35).
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fill's place in the map of running ones: given up when its task ends, however it ends (R35).
struct Registered {
    fills: Fills,
    fill: Arc<Fill>,
}

impl Registered {
    /// The fill failed. It gives its place up before its readers hear of it, so that who asks again is not led back to it.
    fn fail(self, broken: Broken) {
        self.give_up();
        self.fill.fail(broken);
    }

    fn give_up(&self) {
        let blob = self.fill.blob();
        let mut running = self.fills.lock();
        if self.fill.is_whole() {
            // Another may have taken the place of one that failed.
            if running.whole.get(&blob).is_some_and(|other| Arc::ptr_eq(other, &self.fill)) {
                running.whole.remove(&blob);
                running.claims.remove(&blob);
            }
        } else if let Some(holes) = running.holes.get_mut(&blob) {
            holes.retain(|other| !Arc::ptr_eq(other, &self.fill));
            if holes.is_empty() {
                running.holes.remove(&blob);
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.give_up();
        self.fill.abandon();
        self.fill.end();
    }
}
