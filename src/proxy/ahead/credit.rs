//! How much may be fetched ahead for somebody: given back when it is wanted, and only slowly when it is not.

use std::time::Duration;

use tokio::time::Instant;

/// In which time a credit that was used up for nothing comes back.
const RECOVERY: Duration = Duration::from_secs(3600);

/// What is left of something, in its own unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    left: u64,
    most: u64,
    /// Up to when what comes back with time was added.
    at: Instant,
}

impl Credit {
    /// All of it.
    pub(super) fn full(most: u64, now: Instant) -> Self {
        Self { left: most, most, at: now }
    }

    /// Takes so much off, if that much is left.
    pub(super) fn take(&mut self, amount: u64, now: Instant) -> bool {
        self.recover(now);
        let enough = self.left >= amount;
        if enough {
            self.left -= amount;
        }
        enough
    }

    /// Gives so much back.
    pub(super) fn give(&mut self, amount: u64) {
        self.left = self.left.saturating_add(amount).min(self.most);
    }

    /// Another most; what was used stays used.
    pub(super) fn resize(&mut self, most: u64) {
        if most != self.most {
            self.left = most.saturating_sub(self.most - self.left);
            self.most = most;
        }
    }

    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.recover(now);
        self.left == self.most
    }

    fn recover(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let back = u128::from(self.most) * passed.as_millis() / RECOVERY.as_millis();
        // The rest of a unit is not lost: it counts the next time.
        if back > 0 {
            self.give(u64::try_from(back).unwrap_or(u64::MAX));
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_for_nothing_comes_back_in_an_hour_and_what_was_wanted_at_once() {
        let now = Instant::now();
        let mut credit = Credit::full(3600, now);
        assert!(credit.take(3000, now) && !credit.take(601, now) && credit.take(600, now));
        credit.give(500);
        assert!(credit.take(500, now) && !credit.take(1, now));
        let minute = now + Duration::from_secs(60);
        assert!(credit.take(60, minute) && !credit.take(1, minute));
        assert!(!credit.is_full(now + Duration::from_secs(3659)) && credit.is_full(now + Duration::from_secs(3661)));
        credit.give(1 << 40);
        assert!(credit.take(3600, minute) && !credit.take(1, minute), "never more than the most");
    }

    #[test]
    fn another_most_leaves_what_was_used() {
        let now = Instant::now();
        let mut credit = Credit::full(100, now);
        assert!(credit.take(30, now));
        credit.resize(50);
        assert!(credit.take(20, now) && !credit.take(1, now));
        credit.resize(0);
        assert!(!credit.take(1, now));
    }
}
