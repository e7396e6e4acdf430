//! Targets about which an upstream answered that it is in trouble (5xx): each counts as one failure, however often clients ask
//! for it, until it is answered well.
//!
//! Otherwise a handful of paths that always fail, and that any client may ask for in a row, would take the upstream down for
//! everybody, and as probes keep it down. An outage is seen all the same: it fails for what was never asked for before.
//!
//! Out of scope: what a failure is, and what follows from it (see `health`).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// So many are remembered; beyond, the one that is longest ago is forgotten.
const MOST: usize = 1024;
/// Not asked for in so long, it counts anew.
const LONG_AGO: Duration = Duration::from_secs(600);

/// See the module. Targets are told apart by a hash with a key of this process, so that nobody can make two collide.
#[derive(Debug, Default)]
pub(crate) struct Trouble(HashMap<u64, Instant>);

impl Trouble {
    /// Takes note of trouble about `target`, and tells whether it is the first since long.
    pub(crate) fn is_new(&mut self, target: u64, now: Instant) -> bool {
        let before = self.0.insert(target, now);
        if self.0.len() > MOST {
            self.drop_oldest();
        }
        before.is_none_or(|last| now.saturating_duration_since(last) >= LONG_AGO)
    }

    /// It was answered well.
    pub(crate) fn is_over(&mut self, target: u64) {
        if !self.0.is_empty() {
            self.0.remove(&target);
        }
    }

    /// A look at each, only for what fails for the first time while the table is full.
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.0.iter().min_by_key(|(_, at)| **at).map(|(target, _)| *target) {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_target_counts_once_until_it_is_answered_or_long_not_asked_for() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert!(trouble.is_new(1, now) && trouble.is_new(2, now));
        let later = now + LONG_AGO - Duration::from_secs(1);
        assert!(!trouble.is_new(1, later), "asked for again and again it stays known");
        assert!(!trouble.is_new(1, now + LONG_AGO) && trouble.is_new(2, now + LONG_AGO));
        trouble.is_over(1);
        assert!(trouble.is_new(1, now + LONG_AGO));
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_oldest_is_forgotten() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        for target in 0..MOST as u64 {
            assert!(trouble.is_new(target, now + Duration::from_millis(target)));
        }
        let then = now + Duration::from_secs(60);
        assert!(trouble.is_new(u64::MAX, then) && trouble.0.len() == MOST);
        assert!(!trouble.is_new(1, then) && trouble.is_new(0, then));
        assert_eq!(trouble.0.len(), MOST);
    }
}
