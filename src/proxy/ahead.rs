//! Fetching ahead: the NAR of a path whose narinfo a client has just asked for, and the narinfos of what that refers to.
//!
//! Nix asks for every narinfo of a closure before the first NAR, and takes the NARs one level of the graph after another, so
//! that a cold build waits once for each level. Whoever fetches a NAR when its narinfo is asked for has it at hand by then.
//!
//! ```text
//! narinfo answered ── offer ──▶ book: what waits, budgets ── next ──▶ a fill without a reader
//! NAR asked for ──── wanted ──▶ book: credit comes back               │ joined by whoever asks for the NAR
//! ```
//!
//! What clients ask for goes first: at most a part of an upstream's places is taken, none while many clients read fills or the
//! store's gate is filling up, and a fill that nobody has joined makes way for one that somebody waits for (`fill`). What is
//! fetched for nothing is bounded by credits (`book`). Nothing is different for having been fetched ahead: who is asked, what
//! is verified and what is kept. So the narinfos that a path refers to are asked of all upstreams in their order, and not of
//! the path's upstream first.
//!
//! Out of scope: how bytes are moved, and that readers join.

mod book;
mod credit;
mod network;
mod references;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::book::{Book, LaneId, Waits};
use self::network::Network;
use self::references::{Path, Question, References};
use super::Pipeline;
use super::answer::Outcome;
use super::entry::Entry;
use super::nar::Meant;
use super::narinfo::Found;
use super::request::Asker;
use crate::fill::{Fill, Fills};
use crate::metrics::{Prefetched, ProxyMetrics};
use crate::nix::narinfo::{Compression, NarInfo};
use crate::nix::store_path::{HashPart, StorePath};
use crate::store::{BlobId, Store};
use crate::trail::{self, Trail};

/// So many fills with readers leave no room for others.
const BUSY: usize = 16;
/// How soon is looked again whether there is room for what waits.
const AGAIN: Duration = Duration::from_millis(100);
/// How many narinfos are remembered as having been considered, twice, and for how long.
const CONSIDERED: usize = 8192;
const CONSIDERED_FOR: Duration = Duration::from_secs(30);

/// A NAR in a space.
type Key = (usize, BlobId);

/// What fetches ahead, for all spaces: all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// All of it, whichever space is meant: how much there is to do.
    store: Store,
    fills: Fills,
    running: IntGauge,
    /// How many narinfos were asked for ahead that no client has asked for.
    narinfos: AtomicUsize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    book: Book<Key, Wish>,
    references: References,
    considered: Considered,
    /// Whether the task runs that looks again.
    looks: bool,
}

/// A path that is wanted ahead, and of whom.
#[derive(Debug)]
struct Wish {
    pipeline: Pipeline,
    hash: HashPart,
    /// What was found; it may not be kept yet.
    entry: Option<Entry>,
    trail: Trail,
}

impl Ahead {
    pub(super) fn new(store: Store, fills: Fills, running: IntGauge) -> Self {
        let (book, references) = (Book::new(Instant::now()), References::new());
        let state = State { book, references, considered: Considered::new(), looks: false };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (state, narinfos) = (Mutex::new(state), AtomicUsize::new(0));
        Self { inner: Arc::new(Inner { state, store, fills, running, narinfos, tasks, stop }) }
    }

    /// Ends it; what is being fetched is left to the fills.
    pub(super) async fn stop(&self) {
        self.inner.stop.cancel();
        {
            let mut state = self.lock();
            state.book.clear();
            state.references.clear();
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Whether a narinfo that a client asks for is here because it was asked for ahead. For nearly all that are, nothing is locked.
    fn had_been_asked_for(&self, path: &Path, metrics: &ProxyMetrics) -> bool {
        let had = self.is_asked_for(path);
        if had {
            metrics.prefetched_narinfos.of(Prefetched::Used).inc();
        }
        had
    }

    /// A client asks for a narinfo; whether somebody else was asked for it ahead.
    fn is_asked_for(&self, path: &Path) -> bool {
        self.inner.narinfos.load(Relaxed) > 0 && {
            let mut state = self.lock();
            let had = state.references.wanted(path);
            self.inner.narinfos.store(state.references.unwanted(), Relaxed);
            had
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts that may be off by one are all that a panic can leave (R35).
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts whatever there is room for, and has somebody look again for the rest.
    fn go_on(&self) {
        if self.inner.stop.is_cancelled() {
            return;
        }
        // Begun once the lock is free: a runtime that ends drops what it is given at once, and places lock when they are dropped.
        let (nars, questions, looks) = self.taken();
        // Questions first: each leads to the next one, and who comes second may have to wait for a new connection.
        for question in questions {
            self.spawn(ask(AskedAhead { ahead: self.clone(), begun: false }, question));
        }
        for (key, wish) in nars {
            let place = Place { ahead: self.clone(), key, received: 0, whole: false, begun: false };
            self.spawn(run(place, wish));
        }
        if !looks {
            self.spawn(self.clone().look());
        }
    }

    /// What there is room for, taken for running; and whether somebody looks again already.
    fn taken(&self) -> (Vec<(Key, Wish)>, Vec<Question>, bool) {
        let mut state = self.lock();
        let (now, mut nars) = (Instant::now(), Vec::new());
        state.book.expire(now);
        state.references.expire(now);
        self.inner.narinfos.store(state.references.unwanted(), Relaxed);
        while self.has_room(&state)
            && let Some(taken) = state.book.next(now)
        {
            nars.push(taken);
        }
        let questions = std::iter::from_fn(|| state.references.next()).collect();
        self.inner.running.set(i64::try_from(state.book.running()).unwrap_or(i64::MAX));
        (nars, questions, std::mem::replace(&mut state.looks, true))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(self.inner.stop.clone().run_until_cancelled_owned(task));
    }

    /// Whether there is room for what nobody has asked for.
    fn has_room(&self, state: &State) -> bool {
        let Inner { store, fills, .. } = &*self.inner;
        let asked_for = fills.count().saturating_sub(state.book.for_nobody());
        store.is_open() && store.is_at_ease() && asked_for < BUSY
    }

    /// Looks again until nothing is left to be looked at.
    async fn look(self) {
        loop {
            let at = {
                let mut state = self.lock();
                let due = state.book.due().into_iter().chain(state.references.due()).min();
                let waits = state.book.has_waiting();
                state.looks = waits || due.is_some();
                match (waits, due) {
                    (true, _) => Instant::now() + AGAIN,
                    (false, Some(due)) => due,
                    (false, None) => return,
                }
            };
            sleep_until(at).await;
            self.go_on();
        }
    }
}

/// One of those that run, until this is dropped, however its task ends (R35).
struct Place {
    ahead: Ahead,
    key: Key,
    received: u64,
    whole: bool,
    /// Whether its task ran at all: a runtime that ends drops it before, and would the next one.
    begun: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ahead.lock().book.ended(self.key, self.received, self.whole, Instant::now());
        if self.begun {
            self.ahead.go_on();
        }
    }
}

async fn run(mut place: Place, Wish { pipeline, entry, trail, .. }: Wish) {
    place.begun = true;
    let Some(entry) = entry else { return };
    let Some(fill) = trail.scope(pipeline.begin_ahead(&entry)).await else { return };
    place.whole = fill.ended().await;
    place.received = fill.brought();
}

/// A question that is being asked, until this is dropped.
struct AskedAhead {
    ahead: Ahead,
    /// As of [`Place`].
    begun: bool,
}

impl Drop for AskedAhead {
    fn drop(&mut self) {
        self.ahead.lock().references.ended();
        if self.begun {
            self.ahead.go_on();
        }
    }
}

async fn ask(mut asked: AskedAhead, Question { wish: Wish { pipeline, hash, trail, .. }, network, depth }: Question) {
    asked.begun = true;
    trail.scope(pipeline.ask_ahead(hash, network, depth)).await;
}

impl Pipeline {
    /// A client was told what a path is: its NAR may be next.
    pub(super) fn expect(&self, hash: HashPart, entry: &Entry, outcome: Outcome, asker: Asker) {
        let (options, ahead) = (&self.policy.options, &self.shared.ahead);
        let largest = options.prefetch.0.min(asker.prefetch.unwrap_or(u64::MAX));
        if largest == 0 || asker.head {
            return;
        }
        let had_been_asked_for = ahead.had_been_asked_for(&(self.space(), hash), &self.shared.metrics);
        if outcome == Outcome::Hit && !had_been_asked_for && !options.prefetch_known {
            return;
        }
        let network = Network::of(asker.address);
        if !ahead.lock().considered.is_first((self.space(), hash, network), Instant::now()) {
            return;
        }
        let Some(info) = self.info_of(entry) else { return };
        self.offer_nar(&info, entry, network, largest);
        self.offer_references(&info, network, 0);
        ahead.go_on();
    }

    /// A client was told that nobody has a path: what it cost to know that ahead was well spent.
    pub(super) fn expect_nothing(&self, hash: HashPart) {
        self.shared.ahead.is_asked_for(&(self.space(), hash));
    }

    fn offer_nar(&self, info: &NarInfo, entry: &Entry, network: Network, largest: u64) {
        let Some((upstream, _)) = self.policy.origin_of(&entry.upstream) else { return };
        let largest = largest.min(upstream.options().prefetch.map_or(u64::MAX, |most| most.0));
        let size = size_of(info);
        if size > largest {
            return;
        }
        let waits = Waits {
            lane: LaneId { network, upstream: Arc::clone(upstream.name()) },
            size,
            most: upstream.turns_ahead(),
            metrics: upstream.metrics().prefetch.clone(),
            what: Wish { entry: Some(entry.clone()), ..self.wish(info.store_path.hash()) },
        };
        let budget = self.policy.options.prefetch_budget.0.min(self.shared.store.room_ahead());
        let key = (self.space(), Meant::by(info).blob());
        self.shared.ahead.lock().book.offer(key, waits, budget, Instant::now());
    }

    fn offer_references(&self, info: &NarInfo, network: Network, depth: u8) {
        // Who has places for two questions at a time needs them for clients.
        let is_careful = self.policy.upstreams.iter().any(|upstream| upstream.is_careful());
        if !self.policy.options.prefetch_references || is_careful {
            return;
        }
        let (own, now) = (info.store_path.hash(), Instant::now());
        let mut state = self.shared.ahead.lock();
        for hash in info.references.iter().map(StorePath::hash).filter(|hash| *hash != own) {
            state.references.offer(self.space(), Question { wish: self.wish(hash), network, depth }, now);
        }
        self.shared.ahead.inner.narinfos.store(state.references.unwanted(), Relaxed);
    }

    /// Asks for a narinfo that nobody has asked for, and goes on with what it refers to.
    async fn ask_ahead(&self, hash: HashPart, network: Network, depth: u8) {
        if self.policy.is_replaced() {
            return;
        }
        if let (Found::Have(entry), Outcome::Miss) = self.under_way().find_narinfo(hash).await
            && let Some(info) = self.info_of(&entry)
        {
            self.shared.metrics.prefetched_narinfos.of(Prefetched::Fetched).inc();
            self.offer_references(&info, network, depth + 1);
        }
    }

    fn wish(&self, hash: HashPart) -> Wish {
        Wish { pipeline: self.clone(), hash, entry: None, trail: trail::here() }
    }

    /// A client asks for a NAR.
    pub(super) fn is_wanted(&self, meant: &Meant) {
        let ahead = &self.shared.ahead;
        let has_room = ahead.lock().book.wanted((self.space(), meant.blob()), Instant::now());
        if has_room {
            ahead.go_on();
        }
    }

    /// Starts the fill of a path's NAR, unless it is here, being fetched, or known to be wrong or missing.
    async fn begin_ahead(&self, entry: &Entry) -> Option<Arc<Fill>> {
        if self.policy.is_replaced() {
            return None;
        }
        let meant = Meant::by(&self.info_of(entry)?);
        let (fills, blob) = (&self.shared.fills, meant.blob());
        if fills.running(blob).is_some() || self.shared.store.manifest(blob).await.is_some() {
            return None;
        }
        if self.quarantined(&meant).await.is_some() {
            return None;
        }
        let plan = self.plan(meant).await.ok()?;
        fills.start_ahead(self.by_way_of_the_library(meant, plan))
    }

    /// The space, as a number.
    fn space(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }
}

/// Bytes of a NAR's body, or the most that they can be.
fn size_of(info: &NarInfo) -> u64 {
    match info.compression {
        Compression::None => info.nar_size,
        _ => info.file_size.unwrap_or(info.nar_size),
    }
}

/// The narinfos that were considered a moment ago, so that who asks again and again costs a look.
#[derive(Debug)]
struct Considered {
    now: HashSet<(usize, HashPart, Network)>,
    before: HashSet<(usize, HashPart, Network)>,
    since: Instant,
}

impl Considered {
    fn new() -> Self {
        Self { now: HashSet::new(), before: HashSet::new(), since: Instant::now() }
    }

    fn is_first(&mut self, what: (usize, HashPart, Network), now: Instant) -> bool {
        if self.now.len() >= CONSIDERED || now.saturating_duration_since(self.since) > CONSIDERED_FOR {
            (self.before, self.now, self.since) = (std::mem::take(&mut self.now), HashSet::new(), now);
        }
        !self.before.contains(&what) && self.now.insert(what)
    }
}
