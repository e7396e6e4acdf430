//! A small number that was found out about an upstream, and is believed for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// For how long: upstreams are changed, and so are the ways to them.
const BELIEVED: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub(super) struct Memo {
    begun: Instant,
    /// Nothing, or one more than the second in which it was noted, and the number in the last eight bits.
    noted: AtomicU64,
}

impl Memo {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), noted: AtomicU64::new(0) }
    }

    /// It is this, from now on.
    pub(super) fn note(&self, number: u8) {
        let second = self.begun.elapsed().as_secs() + 1;
        self.noted.store(second << 8 | u64::from(number), Ordering::Relaxed);
    }

    /// What was noted a short while ago.
    pub(super) fn get(&self) -> Option<u8> {
        let noted = self.noted.load(Ordering::Relaxed);
        let since = Duration::from_secs((noted >> 8).checked_sub(1)?);
        let is_fresh = self.begun.elapsed().saturating_sub(since) < BELIEVED;
        u8::try_from(noted & 0xff).ok().filter(|_| is_fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_believed_for_ten_minutes() {
        let memo = Memo::new();
        assert_eq!(memo.get(), None);
        for number in [0, 7, 255] {
            memo.note(number);
            assert_eq!(memo.get(), Some(number));
            tokio::time::advance(Duration::from_secs(598)).await;
            assert_eq!(memo.get(), Some(number));
            tokio::time::advance(Duration::from_secs(3)).await;
            assert_eq!(memo.get(), None);
        }
    }
}
