//! Negative answers: what every eligible upstream said it has not, remembered for a short while.
//!
//! Kept in memory only, at most [`CAPACITY`] of them (R26: an attacker can name as many paths as he likes; the oldest
//! make room), each for at most [`LONGEST`]. The monotonic clock decides (R32).

use std::time::Duration;

use foyer::{Cache, CacheBuilder, FifoConfig};
use tokio::time::Instant;

use super::meta::EntryKey;
use crate::metrics::Refusal;

/// The longest time a negative answer is believed.
pub const LONGEST: Duration = Duration::from_secs(60);
/// How many negative answers are remembered: about 10 MiB of memory.
pub const CAPACITY: usize = 100_000;

#[derive(Debug, Clone, Copy)]
struct Answer {
    until: Instant,
    /// Why, where there was an offer that was refused.
    refused: Option<Refusal>,
}

/// The negative answers.
#[derive(Debug, Clone)]
pub struct Negatives {
    answers: Cache<EntryKey, Answer>,
}

impl Default for Negatives {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Negatives {
    /// Room for `capacity` answers.
    pub fn with_capacity(capacity: usize) -> Self {
        let answers = CacheBuilder::new(capacity)
            .with_name("negative")
            .with_shards(if capacity < 1024 { 1 } else { 8 })
            .with_eviction_config(FifoConfig::default())
            .build();
        Self { answers }
    }

    /// True when `key` was answered negatively and that answer still holds.
    pub fn holds(&self, key: &EntryKey) -> bool {
        self.at(key, Instant::now()).is_some()
    }

    /// Why what was offered under `key` was refused, where the answer that holds still was that.
    pub fn refused(&self, key: &EntryKey) -> Option<Refusal> {
        self.at(key, Instant::now())?.refused
    }

    fn at(&self, key: &EntryKey, now: Instant) -> Option<Answer> {
        let answer = *self.answers.get(key)?.value();
        if now >= answer.until {
            self.answers.remove(key);
            return None;
        }
        Some(answer)
    }

    /// Remembers a negative answer for `ttl`, or [`LONGEST`] if that is shorter, and with it why something was `refused`.
    pub fn put(&self, key: EntryKey, ttl: Duration, refused: Option<Refusal>) {
        self.answers.insert(key, Answer { until: Instant::now() + ttl.min(LONGEST), refused });
    }

    /// Forgets every negative answer.
    pub fn forget_all(&self) {
        self.answers.clear();
    }

    /// Forgets a negative answer: something was found under `key` after all.
    pub fn forget(&self, key: &EntryKey) {
        self.answers.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> EntryKey {
        EntryKey::new(1, [n; 32])
    }

    #[test]
    fn an_answer_holds_for_its_time_and_no_longer_than_the_longest() {
        let negatives = Negatives::default();
        let start = Instant::now();
        negatives.put(key(1), Duration::from_secs(10), None);
        negatives.put(key(2), Duration::from_secs(3600), Some(Refusal::Untrusted));
        let end = Instant::now();
        assert_eq!([1, 2, 3].map(|n| negatives.refused(&key(n))), [None, Some(Refusal::Untrusted), None]);
        let at = |n, now| negatives.at(&key(n), now).is_some();
        assert!(at(1, end) && at(2, end) && !at(3, end));
        assert!(at(1, start + Duration::from_secs(9)) && !at(1, end + Duration::from_secs(10)));
        assert!(at(2, start + Duration::from_secs(59)) && !at(2, end + LONGEST));
    }

    #[test]
    fn a_forgotten_answer_is_gone() {
        let negatives = Negatives::default();
        negatives.put(key(1), LONGEST, None);
        negatives.forget(&key(1));
        assert!(!negatives.holds(&key(1)));
    }

    #[test]
    fn the_oldest_make_room() {
        let negatives = Negatives::with_capacity(100);
        for n in 0..=255 {
            negatives.put(key(n), LONGEST, None);
        }
        let held = (0..=255).filter(|n| negatives.holds(&key(*n))).count();
        assert!((90..=100).contains(&held), "{held}");
        assert!(negatives.holds(&key(255)) && !negatives.holds(&key(0)));
    }
}
