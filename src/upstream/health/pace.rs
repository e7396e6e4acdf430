//! How fast an upstream answers about narinfos: the last times it took, bounded, and their 95th percentile.

use std::time::Duration;

/// So many times are kept.
const KEPT: usize = 128;
/// Fewer of them say nothing.
const ENOUGH: usize = 20;
/// What is faster than this is fast, however much faster it usually is.
pub(crate) const FLOOR: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    took: Vec<Duration>,
    next: usize,
}

impl Pace {
    /// Takes note of an answer.
    pub(crate) fn note(&mut self, took: Duration) {
        match self.took.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.took.push(took),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// What an answer takes at most, nineteen times out of twenty, at least 50 ms; `None` while it is not known.
    pub(crate) fn usual(&self) -> Option<Duration> {
        if self.took.len() < ENOUGH {
            return None;
        }
        let mut sorted = self.took.clone();
        let at = sorted.len() * 95 / 100;
        let (_, usual, _) = sorted.select_nth_unstable(at);
        Some((*usual).max(FLOOR))
    }

    /// The same as far as it is known: while there are few, what the slowest of them took. `None` before the first.
    pub(crate) fn known(&self) -> Option<Duration> {
        self.usual().or_else(|| self.took.iter().max().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_say_nothing_and_the_slowest_of_twenty_is_not_usual() {
        let mut pace = Pace::default();
        for _ in 0..19 {
            pace.note(Duration::from_millis(100));
        }
        assert_eq!((pace.usual(), pace.known()), (None, Some(Duration::from_millis(100))));
        for _ in 0..80 {
            pace.note(Duration::from_millis(100));
        }
        pace.note(Duration::from_secs(2));
        assert_eq!(pace.usual(), Some(Duration::from_millis(100)));
        for _ in 0..KEPT {
            pace.note(Duration::from_millis(1));
        }
        assert_eq!(pace.usual(), Some(FLOOR), "what was long ago is forgotten");
    }

    proptest! {
        #[test]
        fn about_nineteen_of_twenty_are_within_it(times in proptest::collection::vec(50_u64..3000, ENOUGH..300)) {
            let mut pace = Pace::default();
            for time in &times {
                pace.note(Duration::from_millis(*time));
            }
            let last = &times[times.len().saturating_sub(KEPT)..];
            let usual = pace.usual().unwrap();
            let within = last.iter().filter(|time| Duration::from_millis(**time) <= usual).count();
            prop_assert!(within * 100 >= last.len() * 95, "{within} of {}", last.len());
            prop_assert!(pace.took.len() <= KEPT);
        }
    }
}
