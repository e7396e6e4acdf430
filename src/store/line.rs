//! The line in which the blocks of a tier wait to be reused: first written, first reused, over restarts too.
//!
//! foyer asks an [`EvictionPicker`] which block to reuse. Its own picker forgets the order when the process ends; ours
//! starts with the ages of the files. It also marks the blocks whose turn is near (foyer's word is "probation"), so that
//! a read tells whether the entry is about to go, and wakes whoever wants to save something (see `second_chance`).
//!
//! What is pinned must be saved. So where there is something pinned, the line is unsettled from the moment at which a
//! turn comes near until the block was looked through, and who puts something waits for it. That begins here, in foyer's
//! call, and not when the saver wakes: a machine that is busy may write many blocks before it does.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foyer::{EvictionInfo, EvictionPicker};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::device::CLEAN;
use super::heat::Heat;
use super::pinned::Pinned;

/// How long who puts something waits while blocks are looked through. One block of 16 MiB takes some 20 ms.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The waiting blocks of one tier.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    /// Set once foyer is open: blocks reported before it were found on disk, those after it were filled by us.
    open: AtomicBool,
    moved: Notify,
    /// Since when blocks whose turn is near have not all been looked through, where something is pinned.
    unsettled: watch::Sender<Option<Instant>>,
    near: usize,
    heat: Arc<Heat>,
    pinned: Arc<Pinned>,
    #[cfg(test)]
    stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The waiting blocks by their turn.
    waiting: BTreeMap<u64, u32>,
    /// For each block its turn, and the time on heat's clock at which it was full.
    blocks: Vec<(u64, u64)>,
    next_turn: u64,
    /// Blocks before this turn were looked through, or are just being so.
    next_look: u64,
    clean: usize,
}

/// A block whose turn is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The block.
    pub block: u32,
    /// Its turn, different each time it waits.
    pub turn: u64,
    /// The time on heat's clock at which it was full.
    pub full_at: u64,
}

/// Where a walk along the line goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A waiting block.
    Waiting {
        /// Its turn.
        turn: u64,
        /// The block.
        block: u32,
    },
    /// The end of the line. These blocks are being written or emptied, or are clean.
    Others(Vec<u32>),
}

impl Line {
    /// The line of a tier whose blocks were last written in the order `ages`; a turn is near for the first `near`.
    pub fn new(ages: &[u32], near: usize, heat: Arc<Heat>, pinned: Arc<Pinned>) -> Arc<Self> {
        let now = heat.now();
        let mut blocks = vec![(0, now); ages.len()];
        for (turn, block) in (0..).zip(ages) {
            if let Some(found) = usize::try_from(*block).ok().and_then(|block| blocks.get_mut(block)) {
                found.0 = turn;
            }
        }
        let state = State { next_turn: blocks.len() as u64, blocks, ..State::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            open: AtomicBool::new(false),
            moved: Notify::new(),
            unsettled: watch::Sender::new(None),
            near,
            heat,
            pinned,
            #[cfg(test)]
            stalled: AtomicBool::new(false),
        })
    }

    /// foyer is open: from now on a block that joins the line was filled by us.
    pub fn opened(&self) {
        self.open.store(true, Ordering::Release);
        self.moved.notify_one();
    }

    /// How many blocks wait: those that are full.
    pub fn full(&self) -> usize {
        self.state().waiting.len()
    }

    /// Waits until the line moved since the last call.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The next block to be looked through, of those whose turn is near: each once. Asking for it says that the one
    /// before has been.
    pub fn next_look(&self) -> Option<Due> {
        let mut state = self.state();
        let due = self.first_due(&state);
        match due {
            Some(due) => state.next_look = due.turn + 1,
            #[cfg(test)]
            None if self.stalled.load(Ordering::Relaxed) => {}
            None => _ = self.unsettled.send_replace(None),
        }
        due
    }

    /// As while a long row is looked through.
    #[cfg(test)]
    pub fn stall(&self, stalled: bool) {
        let _state = self.state();
        self.stalled.store(stalled, Ordering::Relaxed);
        self.unsettled.send_replace(stalled.then(Instant::now));
    }

    /// Waits until every block whose turn is near was looked through for what is pinned.
    pub async fn settled(&self) {
        // The sender is in `self`.
        let _ = self.unsettled.subscribe().wait_for(Option::is_none).await;
    }

    /// As [`Line::settled`], and gives up when that takes longer than [`PATIENCE`] from its beginning on: `false`.
    pub async fn settles(&self) -> bool {
        let Some(since) = *self.unsettled.borrow() else { return true };
        timeout_at(since + PATIENCE, self.settled()).await.is_ok()
    }

    /// Whether nobody would wait.
    pub fn is_settled(&self) -> bool {
        self.unsettled.borrow().is_none()
    }

    /// The first block that waits at `turn` or later; without one, those that do not wait.
    pub fn from(&self, turn: u64) -> Next {
        let state = self.state();
        if let Some((turn, block)) = state.waiting.range(turn..).next() {
            return Next::Waiting { turn: *turn, block: *block };
        }
        let waiting: HashSet<u32> = state.waiting.values().copied().collect();
        let all = 0..u32::try_from(state.blocks.len()).unwrap_or(u32::MAX);
        Next::Others(all.filter(|block| !waiting.contains(block)).collect())
    }

    /// How many blocks at the front are near their turn: each clean block to spare puts it off by one.
    fn near_now(&self, state: &State) -> usize {
        self.near.saturating_sub(state.clean.saturating_sub(CLEAN))
    }

    fn first_due(&self, state: &State) -> Option<Due> {
        let mut near = state.waiting.iter().take(self.near_now(state));
        let (turn, block) = near.find(|(turn, _)| **turn >= state.next_look)?;
        let (_, full_at) = state.blocks.get(usize::try_from(*block).ok()?)?;
        Some(Due { block: *block, turn: *turn, full_at: *full_at })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, state: &State, info: &EvictionInfo<'_>) {
        for block in state.waiting.values().take(self.near_now(state)) {
            if let Some(block) = usize::try_from(*block).ok().and_then(|block| info.blocks.get(block)) {
                block.statistics().probation.store(true, Ordering::Relaxed);
            }
        }
        if !self.pinned.is_empty() && self.first_due(state).is_some() {
            self.unsettled.send_if_modified(|since| {
                let begins = since.is_none();
                since.get_or_insert_with(Instant::now);
                begins
            });
        }
        self.moved.notify_one();
    }
}

/// The picker that foyer owns.
#[derive(Debug)]
pub struct Picker(pub Arc<Line>);

impl EvictionPicker for Picker {
    fn pick(&mut self, info: EvictionInfo<'_>) -> Option<u32> {
        let mut state = self.0.state();
        state.clean = info.clean;
        // With fewer clean blocks more turns are near, and who looks at a block that is not marked finds nothing to save.
        self.0.mark(&state, &info);
        state.waiting.values().find(|block| info.evictable.contains(block)).copied()
    }

    fn on_block_evictable(&mut self, info: EvictionInfo<'_>, block: u32) {
        let mut state = self.0.state();
        state.clean = info.clean;
        let Some(index) = usize::try_from(block).ok().filter(|index| *index < state.blocks.len()) else { return };
        if self.0.open.load(Ordering::Acquire) {
            state.blocks[index] = (state.next_turn, self.0.heat.block_full());
            state.next_turn += 1;
        }
        let turn = state.blocks[index].0;
        state.waiting.insert(turn, block);
        self.0.mark(&state, &info);
    }

    fn on_block_evict(&mut self, info: EvictionInfo<'_>, block: u32) {
        let mut state = self.0.state();
        state.clean = info.clean;
        let turn = usize::try_from(block).ok().and_then(|block| state.blocks.get(block)).map(|found| found.0);
        if let Some(turn) = turn {
            state.waiting.remove(&turn);
        }
        self.0.mark(&state, &info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(evictable: &HashSet<u32>, clean: usize) -> EvictionInfo<'_> {
        EvictionInfo { blocks: &[], evictable, clean }
    }

    #[test]
    fn recovered_blocks_go_by_age_and_before_those_filled_since() {
        let line = Line::new(&[2, 0, 3, 1], 2, Arc::default(), Arc::default());
        let mut picker = Picker(line.clone());
        let mut evictable = HashSet::new();
        for block in [0, 1, 2] {
            evictable.insert(block);
            picker.on_block_evictable(info(&evictable, 1), block);
        }
        line.opened();
        evictable.insert(3);
        picker.on_block_evictable(info(&evictable, 0), 3);
        let mut order = Vec::new();
        while let Some(block) = picker.pick(info(&evictable, 0)) {
            evictable.remove(&block);
            picker.on_block_evict(info(&evictable, 0), block);
            order.push(block);
        }
        assert_eq!(order, [2, 0, 1, 3]);
    }

    #[test]
    fn a_turn_is_near_only_when_few_blocks_are_clean() {
        let line = Line::new(&[0, 1, 2, 3, 4, 5], 2, Arc::default(), Arc::default());
        let mut picker = Picker(line.clone());
        line.opened();
        let evictable: HashSet<u32> = (0..4).collect();
        for block in 0..4 {
            picker.on_block_evictable(info(&evictable, 4), block);
        }
        assert_eq!(line.next_look(), None);
        picker.on_block_evictable(info(&evictable, 2), 4);
        assert_eq!(line.next_look(), Some(Due { block: 0, turn: 6, full_at: 1 }));
        assert_eq!(line.next_look(), Some(Due { block: 1, turn: 7, full_at: 2 }));
        assert_eq!(line.next_look(), None, "each once");
    }

    #[test]
    fn who_puts_something_waits_from_the_moment_a_turn_is_near() {
        let pinned = Arc::new(Pinned::default());
        let line = Line::new(&[0, 1, 2], 2, Arc::default(), Arc::clone(&pinned));
        let mut picker = Picker(line.clone());
        line.opened();
        let evictable: HashSet<u32> = (0..3).collect();
        picker.on_block_evictable(info(&evictable, 0), 0);
        assert!(line.is_settled(), "nothing is pinned");
        pinned.pin_something();
        picker.on_block_evictable(info(&evictable, 0), 1);
        assert!(!line.is_settled(), "though nobody had the time to look");
        assert_eq!([line.next_look(), line.next_look()].map(|due| due.map(|due| due.block)), [Some(0), Some(1)]);
        assert!(!line.is_settled(), "the second is being looked through");
        assert_eq!(line.next_look(), None);
        assert!(line.is_settled());
        picker.on_block_evictable(info(&evictable, 0), 2);
        assert!(line.is_settled(), "its turn is not near");
        picker.on_block_evict(info(&evictable, 3), 0);
        assert!(line.is_settled(), "nor now, with so many blocks that are clean");
        picker.pick(info(&evictable, 0));
        assert!(!line.is_settled(), "they are not any more");
        assert_eq!(line.next_look().map(|due| due.block), Some(2));
    }

    #[test]
    fn a_walk_along_the_line_meets_every_block() {
        let line = Line::new(&[2, 0, 1], 2, Arc::default(), Arc::default());
        let mut picker = Picker(line.clone());
        let mut evictable: HashSet<u32> = [0, 2].into();
        for block in [0, 2] {
            picker.on_block_evictable(info(&evictable, 1), block);
        }
        line.opened();
        assert_eq!(line.from(0), Next::Waiting { turn: 0, block: 2 });
        // The block just met is reused meanwhile, and filled: it is met again, at the end.
        evictable.remove(&2);
        picker.on_block_evict(info(&evictable, 0), 2);
        assert_eq!(line.from(1), Next::Waiting { turn: 1, block: 0 });
        evictable.insert(2);
        picker.on_block_evictable(info(&evictable, 0), 2);
        assert_eq!(line.from(2), Next::Waiting { turn: 3, block: 2 });
        assert_eq!(line.from(4), Next::Others(vec![1]));
    }
}
