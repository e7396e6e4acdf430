//! The line in which the blocks of a tier wait to be reused: first written, first reused, over restarts too.
//!
//! foyer asks an [`EvictionPicker`] which block to reuse. Its own picker forgets the order when the process ends; ours
//! starts with the ages of the files. It also marks the blocks whose turn is near (foyer's word is "probation"), so that
//! a read tells whether the entry is about to go, and wakes whoever wants to save something (see `second_chance`).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foyer::{EvictionInfo, EvictionPicker};
use tokio::sync::Notify;

use super::device::CLEAN;
use super::heat::Heat;

/// The waiting blocks of one tier.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    /// Set once foyer is open: blocks reported before it were found on disk, those after it were filled by us.
    open: AtomicBool,
    moved: Notify,
    near: usize,
    heat: Arc<Heat>,
}

#[derive(Debug, Default)]
struct State {
    /// The waiting blocks by their turn.
    waiting: BTreeMap<u64, u32>,
    /// For each block its turn, and the time on heat's clock at which it was full.
    blocks: Vec<(u64, u64)>,
    next_turn: u64,
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
    pub fn new(ages: &[u32], near: usize, heat: Arc<Heat>) -> Arc<Self> {
        let now = heat.now();
        let mut blocks = vec![(0, now); ages.len()];
        for (turn, block) in (0..).zip(ages) {
            if let Some(found) = usize::try_from(*block).ok().and_then(|block| blocks.get_mut(block)) {
                found.0 = turn;
            }
        }
        let state = State { next_turn: blocks.len() as u64, blocks, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), open: AtomicBool::new(false), moved: Notify::new(), near, heat })
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

    /// The blocks whose turn is near, the next one first.
    pub fn due(&self) -> Vec<Due> {
        let state = self.state();
        state.waiting.iter().take(self.near_now(&state)).filter_map(|(turn, block)| state.due(*turn, *block)).collect()
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, state: &State, info: &EvictionInfo<'_>) {
        for block in state.waiting.values().take(self.near_now(state)) {
            if let Some(block) = usize::try_from(*block).ok().and_then(|block| info.blocks.get(block)) {
                block.statistics().probation.store(true, Ordering::Relaxed);
            }
        }
        self.moved.notify_one();
    }
}

impl State {
    fn due(&self, turn: u64, block: u32) -> Option<Due> {
        let (_, full_at) = self.blocks.get(usize::try_from(block).ok()?)?;
        Some(Due { block, turn, full_at: *full_at })
    }
}

/// The picker that foyer owns.
#[derive(Debug)]
pub struct Picker(pub Arc<Line>);

impl EvictionPicker for Picker {
    fn pick(&mut self, info: EvictionInfo<'_>) -> Option<u32> {
        let mut state = self.0.state();
        state.clean = info.clean;
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
        let line = Line::new(&[2, 0, 3, 1], 2, Arc::default());
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
        let line = Line::new(&[0, 1, 2, 3, 4, 5], 2, Arc::default());
        let mut picker = Picker(line.clone());
        line.opened();
        let evictable: HashSet<u32> = (0..4).collect();
        for block in 0..4 {
            picker.on_block_evictable(info(&evictable, 4), block);
        }
        assert_eq!(line.due(), []);
        picker.on_block_evictable(info(&evictable, 2), 4);
        let due = line.due();
        assert_eq!(due.iter().map(|due| due.block).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(due.iter().map(|due| due.full_at).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_walk_along_the_line_meets_every_block() {
        let line = Line::new(&[2, 0, 1], 2, Arc::default());
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
