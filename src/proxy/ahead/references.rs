//! The narinfos of what a path refers to, asked for before a client does: a client that is far from here asks for one level of a
//! closure after another, and waits for the upstream at each.
//!
//! They are asked of the upstreams in their order, as a client's question would be, and "have not" is remembered as it is for those.
//! Only what had to be asked for leads further. What is asked for nothing is bounded by a credit of each network of clients:
//! one narinfo each, of which two come back when a client asks for it.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::book::WASTED_AFTER;
use super::credit::Credit;
use super::network::Network;
use super::{Considered, Wish};
use crate::nix::store_path::HashPart;

/// Narinfos that may be asked for and not be wanted, for the clients of one network, at once and in an hour.
const BUDGET: u64 = 256;
/// How far from what a client asked for.
const DEPTH: u8 = 32;
/// What is asked at once.
const AT_ONCE: usize = 8;
/// What waits at most (R26); further ones are not asked for ahead.
const WAITING: usize = 2048;
/// What is remembered of what was asked for ahead, twice.
const REMEMBERED: usize = 8192;
/// Networks of which something is remembered.
const NETWORKS: usize = 4096;

/// A path in a space.
pub(super) type Path = (usize, HashPart);

/// A narinfo that is to be asked for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) wish: Wish,
    pub(super) network: Network,
    pub(super) depth: u8,
}

/// What was asked for ahead, and what is to be.
#[derive(Debug)]
pub(super) struct References {
    waiting: VecDeque<Question>,
    running: usize,
    credits: HashMap<Network, Credit>,
    /// For whom something was asked that no client has asked for yet.
    unwanted: HashMap<Path, Network>,
    before: HashMap<Path, Network>,
    /// Since when they have been put into `unwanted`.
    since: Option<Instant>,
    considered: Considered,
}

impl References {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: 0,
            credits: HashMap::new(),
            unwanted: HashMap::new(),
            before: HashMap::new(),
            since: None,
            considered: Considered::new(),
        }
    }

    /// A path that something refers to which a client asked for.
    pub(super) fn offer(&mut self, space: usize, question: Question, now: Instant) {
        let path = (space, question.wish.hash);
        if question.depth > DEPTH
            || self.waiting.len() >= WAITING
            || !self.considered.is_first((space, question.wish.hash, question.network), now)
            || !self.take(question.network, now)
        {
            return;
        }
        if self.unwanted.len() >= REMEMBERED {
            self.before = std::mem::take(&mut self.unwanted);
        }
        self.since.get_or_insert(now);
        self.unwanted.insert(path, question.network);
        self.waiting.push_back(question);
    }

    fn take(&mut self, network: Network, now: Instant) -> bool {
        if self.credits.len() >= NETWORKS && !self.credits.contains_key(&network) {
            self.credits.retain(|_, credit| !credit.is_full(now));
            if self.credits.len() >= NETWORKS {
                return false;
            }
        }
        self.credits.entry(network).or_insert_with(|| Credit::full(BUDGET, now)).take(1, now)
    }

    /// A client asks for this narinfo; whether it had been asked for ahead.
    pub(super) fn wanted(&mut self, path: &Path) -> bool {
        let Some(network) = self.unwanted.remove(path).or_else(|| self.before.remove(path)) else { return false };
        if let Some(credit) = self.credits.get_mut(&network) {
            credit.give(2);
        }
        true
    }

    /// Forgets what nobody has asked for in time.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.before = std::mem::take(&mut self.unwanted);
            self.since = (!self.before.is_empty()).then_some(now);
        }
    }

    /// When something is to be forgotten next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + WASTED_AFTER)
    }

    /// How many were asked for that no client has asked for yet.
    pub(super) fn unwanted(&self) -> usize {
        self.unwanted.len() + self.before.len()
    }

    /// The next to be asked, taken for running.
    pub(super) fn next(&mut self) -> Option<Question> {
        let question = (self.running < AT_ONCE).then(|| self.waiting.pop_front()).flatten()?;
        self.running += 1;
        Some(question)
    }

    /// One that ran has ended.
    pub(super) fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
