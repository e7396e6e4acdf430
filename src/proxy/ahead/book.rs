//! What waits to be fetched ahead, what is being fetched, what was fetched and not asked for yet; and the budgets.
//!
//! ```text
//! offer ──▶ waits ── next ──▶ runs ── ended ──▶ unwanted ── five minutes ──▶ wasted
//!             └──────────────── wanted ──────────────┴──▶ used
//! ```
//!
//! Each network of clients has a credit for each upstream, and all together have one. What is fetched is taken off it, what
//! is then asked for is given back with as much again: a build that takes what it asked about is never held up. Who
//! asks about everything and takes nothing uses up three quarters of the credit, and who comes half a second later or more has three
//! quarters of the rest. Of what waits for one client the newest goes first: Nix asks from the roots of a closure to its leaves, and takes
//! the leaves first.
//!
//! Pure: no clock of its own, no I/O, no tasks.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::credit::Credit;
use super::network::Network;
use crate::metrics::PrefetchMetrics;

/// What is fetched at once, over all upstreams.
pub(super) const AT_ONCE: usize = 48;
/// Bytes that are being fetched at once, as narinfos announce them; one NAR may always be.
const BYTES_AT_ONCE: u64 = 256 << 20;
/// The same of one upstream.
const BYTES_OF_UPSTREAM: u64 = 128 << 20;
/// How much all networks together may have fetched ahead for nothing: so many times what one of them may.
const TOGETHER: u64 = 8;
/// What waits longer is not wanted any more: Nix has it by now, or has given up.
const WAITS: Duration = Duration::from_secs(60);
/// What waits at most (R26), over everybody.
const MOST_WAITING: usize = 4096;
/// What is remembered at most of what was fetched and not asked for yet: beyond it nothing is fetched.
const MOST_UNWANTED: usize = 16_384;
/// What nobody has asked for so long after it was fetched was fetched for nothing.
pub(super) const WASTED_AFTER: Duration = Duration::from_secs(300);
/// The least that one thing wanted gives back: small NARs must open the way for more than themselves.
const LEAST_GIVEN: u64 = 1 << 20;
/// The least that one thing costs: a request costs the upstream something, too.
const LEAST_COST: u64 = 64 << 10;
/// Networks and upstreams of which something is remembered at most; those whose credit is whole are forgotten first.
const MOST_LANES: usize = 4096;
/// So many lanes have a turn at a time: the others have theirs when it is looked again.
const LANES_AT_ONCE: usize = 64;
/// So many of what waits in a lane are looked at for one that its credit is enough for.
const LOOKED_AT: usize = 8;

/// A network of clients at an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneId {
    pub(super) network: Network,
    pub(super) upstream: Arc<str>,
}

#[derive(Debug)]
struct Lane<K> {
    credit: Credit,
    /// The newest last. Some may be gone from [`Book::waiting`].
    stack: VecDeque<K>,
    /// How many are not.
    waiting: usize,
    /// Whether it is among [`Book::turns`].
    has_turn: bool,
}

/// Something that may be fetched.
#[derive(Debug)]
pub(super) struct Waits<C> {
    pub(super) lane: LaneId,
    /// Bytes, as announced.
    pub(super) size: u64,
    /// The most that run of its upstream at a time.
    pub(super) most: usize,
    /// What it is counted in.
    pub(super) metrics: PrefetchMetrics,
    /// What to do for it.
    pub(super) what: C,
}

#[derive(Debug)]
struct Runs {
    lane: LaneId,
    size: u64,
    metrics: PrefetchMetrics,
    begun: Instant,
    wanted: Option<Instant>,
}

#[derive(Debug)]
struct Unwanted {
    lane: LaneId,
    size: u64,
    metrics: PrefetchMetrics,
    /// What it took to fetch it.
    took: Duration,
    /// When it is wasted.
    due: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book<K, C> {
    lanes: HashMap<LaneId, Lane<K>>,
    /// The lanes in which something may wait, in the order in which they have their turn.
    turns: VecDeque<LaneId>,
    waiting: HashMap<K, (Instant, Waits<C>)>,
    running: HashMap<K, Runs>,
    unwanted: HashMap<K, Unwanted>,
    /// When each of `unwanted` is wasted, in order. Some may be gone from there.
    due: VecDeque<(Instant, K)>,
    together: Credit,
}

impl<C> Waits<C> {
    /// What is taken off the credit for it.
    fn cost(&self) -> u64 {
        cost(self.size)
    }
}

fn cost(size: u64) -> u64 {
    size.max(LEAST_COST)
}

impl<K: Copy + Eq + Hash, C> Book<K, C> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            running: HashMap::new(),
            unwanted: HashMap::new(),
            due: VecDeque::new(),
            together: Credit::full(0, now),
        }
    }

    /// Something that a client may ask for soon; `budget` is the credit of its lane. Nothing changes when it is known already.
    pub(super) fn offer(&mut self, key: K, waits: Waits<C>, budget: u64, now: Instant) {
        let known = self.waiting.contains_key(&key) || self.running.contains_key(&key);
        if known || self.unwanted.contains_key(&key) || !self.make_lane(&waits.lane, budget, now) {
            return;
        }
        self.make_room();
        let Some(lane) = self.lanes.get_mut(&waits.lane) else { return };
        lane.credit.asked(now);
        if !std::mem::replace(&mut lane.has_turn, true) {
            self.turns.push_back(waits.lane.clone());
        }
        lane.stack.push_back(key);
        lane.waiting += 1;
        if lane.stack.len() > 2 * MOST_WAITING {
            lane.stack.retain(|key| self.waiting.contains_key(key));
        }
        self.waiting.insert(key, (now, waits));
    }

    /// Makes room for one more where there is none: in the lane in which most waits, so that a crowd of questions neither pushes out
    /// those of others nor keeps them out.
    fn make_room(&mut self) {
        while self.waiting.len() >= MOST_WAITING {
            let longest = self.lanes.values_mut().max_by_key(|lane| lane.waiting);
            let Some(oldest) = longest.and_then(|lane| lane.stack.pop_front()) else { return };
            self.remove_waiting(oldest);
        }
    }

    fn remove_waiting(&mut self, key: K) -> Option<Waits<C>> {
        let (_, waits) = self.waiting.remove(&key)?;
        if let Some(lane) = self.lanes.get_mut(&waits.lane) {
            lane.waiting -= 1;
        }
        Some(waits)
    }

    fn make_lane(&mut self, id: &LaneId, budget: u64, now: Instant) -> bool {
        self.together.resize(budget.saturating_mul(TOGETHER));
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.credit.resize(budget);
            return true;
        }
        if self.lanes.len() >= MOST_LANES {
            self.lanes.retain(|_, lane| lane.has_turn || !lane.credit.is_full(now));
        }
        let has_room = self.lanes.len() < MOST_LANES;
        if has_room {
            self.lanes.insert(
                id.clone(),
                Lane { credit: Credit::full(budget, now), stack: VecDeque::new(), waiting: 0, has_turn: false },
            );
        }
        has_room
    }

    /// The next to be fetched, taken for running; `None` when nothing waits that may be.
    pub(super) fn next(&mut self, now: Instant) -> Option<(K, C)> {
        if self.running.len() >= AT_ONCE || self.unwanted.len() >= MOST_UNWANTED {
            return None;
        }
        for _ in 0..self.turns.len().min(LANES_AT_ONCE) {
            let id = self.turns.pop_front()?;
            let found = self.next_of(&id, now);
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.has_turn = !lane.stack.is_empty();
                if lane.has_turn {
                    self.turns.push_back(id);
                }
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn next_of(&mut self, id: &LaneId, now: Instant) -> Option<(K, C)> {
        let (mut in_all, mut of_upstream, mut bytes_of_upstream) = (0, 0, 0);
        for runs in self.running.values() {
            in_all += runs.size;
            if runs.lane.upstream == id.upstream {
                of_upstream += 1;
                bytes_of_upstream += runs.size;
            }
        }
        let lane = self.lanes.get_mut(id)?;
        while let Some(newest) = lane.stack.back()
            && !self.waiting.contains_key(newest)
        {
            lane.stack.pop_back();
        }
        for place in (0..lane.stack.len()).rev().take(LOOKED_AT) {
            let key = lane.stack[place];
            let Some((since, waits)) = self.waiting.get(&key) else { continue };
            if now.saturating_duration_since(*since) > WAITS {
                // Those below it are older still.
                let old: Vec<K> = lane.stack.drain(..=place).collect();
                old.into_iter().for_each(|key| _ = self.remove_waiting(key));
                return None;
            }
            let fits = |bytes: u64, most: u64| bytes == 0 || bytes + waits.size <= most;
            if of_upstream >= waits.most
                || !fits(in_all, BYTES_AT_ONCE)
                || !fits(bytes_of_upstream, BYTES_OF_UPSTREAM)
                || !lane.credit.take(waits.cost(), now)
            {
                continue;
            }
            if !self.together.take(waits.cost(), now) {
                lane.credit.give(waits.cost());
                return None;
            }
            lane.stack.remove(place);
            let Waits { lane, size, metrics, what, .. } = self.remove_waiting(key)?;
            self.running.insert(key, Runs { lane, size, metrics, begun: now, wanted: None });
            return Some((key, what));
        }
        None
    }

    /// What ran has ended: so many bytes came, and all of it is here (`whole`) or not.
    pub(super) fn ended(&mut self, key: K, received: u64, whole: bool, now: Instant) {
        let Some(Runs { lane, size, metrics, begun, wanted }) = self.running.remove(&key) else { return };
        metrics.fetched.inc_by(received);
        match wanted {
            Some(wanted) => {
                metrics.used.inc_by(received);
                metrics.saved.inc_by(wanted.saturating_duration_since(begun).as_secs_f64());
            }
            None if whole => {
                let took = now.saturating_duration_since(begun);
                let due = now + WASTED_AFTER;
                self.unwanted.insert(key, Unwanted { lane, size, metrics, took, due });
                self.due.push_back((due, key));
                if self.due.len() > 2 * MOST_UNWANTED {
                    self.due.retain(|(due, key)| is_due(&self.unwanted, *key, *due));
                }
            }
            None => {
                metrics.wasted.inc_by(received);
                self.give(&lane, cost(size).saturating_sub(received.max(LEAST_COST)));
            }
        }
    }

    /// A client asks for it. Whether that may make room for what waits.
    pub(super) fn wanted(&mut self, key: K, now: Instant) -> bool {
        let (lane, size) = if let Some(runs) = self.running.get_mut(&key) {
            if runs.wanted.is_some() {
                return false;
            }
            runs.wanted = Some(now);
            (runs.lane.clone(), runs.size)
        } else if let Some(Unwanted { lane, size, metrics, took, .. }) = self.unwanted.remove(&key) {
            metrics.used.inc_by(size);
            metrics.saved.inc_by(took.as_secs_f64());
            (lane, size)
        } else if let Some(waits) = self.remove_waiting(key) {
            // It would have been worth it.
            self.give(&waits.lane, waits.size.max(LEAST_GIVEN));
            return self.has_waiting();
        } else {
            return false;
        };
        self.give(&lane, cost(size).saturating_add(size.max(LEAST_GIVEN)));
        self.has_waiting()
    }

    fn give(&mut self, lane: &LaneId, amount: u64) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.credit.give(amount);
        }
        self.together.give(amount);
    }

    /// Writes off what nobody has asked for in time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((due, key)) = self.due.front().copied()
            && due <= now
        {
            self.due.pop_front();
            if is_due(&self.unwanted, key, due)
                && let Some(Unwanted { size, metrics, .. }) = self.unwanted.remove(&key)
            {
                metrics.wasted.inc_by(size);
            }
        }
    }

    /// Whether something waits.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When something is to be written off next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.front().map(|(due, _)| *due)
    }

    /// What is being fetched.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Those of them that no client has asked for.
    pub(super) fn for_nobody(&self) -> usize {
        self.running.values().filter(|runs| runs.wanted.is_none()).count()
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.turns.clear();
        for lane in self.lanes.values_mut() {
            (lane.has_turn, lane.waiting, lane.stack) = (false, 0, VecDeque::new());
        }
    }
}

/// Whether it was not wanted since; then it may have been fetched anew, too.
fn is_due<K: Copy + Eq + Hash>(unwanted: &HashMap<K, Unwanted>, key: K, due: Instant) -> bool {
    unwanted.get(&key).is_some_and(|unwanted| unwanted.due == due)
}

#[cfg(test)]
mod tests;
