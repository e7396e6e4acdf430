//! How much may be fetched ahead for somebody: given back when it is wanted, and only slowly when it is not.

use std::time::Duration;

use tokio::time::Instant;

/// In which time a credit that was used up for nothing comes back.
const RECOVERY: Duration = Duration::from_secs(3600);

/// Who asks for nothing so long has come to an end of what it asked about. Longer than Nix waits for an upstream between two levels
/// of a closure; where that takes longer still, less is kept.
const PAUSE: Duration = Duration::from_millis(500);

/// What is left of something, in its own unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    left: u64,
    most: u64,
    /// What is kept for who comes after whoever asks now.
    kept: u64,
    /// When somebody asked last.
    asked: Instant,
    /// Up to when what comes back with time was added.
    at: Instant,
}

impl Credit {
    /// All of it.
    pub(super) fn full(most: u64, now: Instant) -> Self {
        Self { left: most, most, kept: 0, asked: now, at: now }
    }

    /// Somebody asks, who may have something taken off. After a pause it is somebody else, or about something else: of what is left then
    /// a quarter is kept for the next one, so that who takes nothing leaves something for who does.
    pub(super) fn asked(&mut self, now: Instant) {
        self.recover(now);
        let is_another = now.saturating_duration_since(std::mem::replace(&mut self.asked, now)) >= PAUSE;
        if is_another || self.left == self.most {
            self.kept = self.left / 4;
        }
    }

    /// Takes so much off, if that much is left beside what is kept. All of it at once is for anybody.
    pub(super) fn take(&mut self, amount: u64, now: Instant) -> bool {
        self.recover(now);
        let kept = if self.left == self.most { 0 } else { self.kept };
        let enough = self.left.saturating_sub(kept) >= amount;
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
            (self.most, self.kept) = (most, self.kept.min(self.left));
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
    fn who_comes_later_finds_a_part_of_it() {
        let now = Instant::now();
        let mut credit = Credit::full(1000, now);
        let mut taken = Vec::new();
        for milliseconds in [0, 400, 3000, 10_000] {
            let now = now + Duration::from_millis(milliseconds);
            credit.asked(now);
            taken.push((0..1000).filter(|_| credit.take(1, now)).count());
        }
        assert_eq!(taken, [750, 0, 188, 47 + 1], "one came back with time");
        let mut whole = Credit::full(1000, now);
        whole.asked(now);
        assert!(whole.take(1000, now) && !whole.take(1, now));
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
