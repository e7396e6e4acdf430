//! What is borne of a client that abandons what it asks for, on all its connections together.
//!
//! Each connection bears some of it by itself; who opens fifty to abandon a little on each costs as much as who abandons
//! all on one. So a client's connections draw on one budget, too, and where that is used up, less is borne of each.

use std::num::NonZeroU32;

use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::Monotonic;

/// Requests that may be abandoned at once: two connections' worth, with all that they may have open.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
/// So many more in a second.
const EACH_SECOND: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

/// The budget of one client.
#[derive(Debug)]
pub struct Patience(RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<std::time::Instant>>);

impl Default for Patience {
    fn default() -> Self {
        Self(RateLimiter::direct_with_clock(Quota::per_second(EACH_SECOND).allow_burst(AT_ONCE), Monotonic))
    }
}

impl Patience {
    /// One more request was abandoned; whether that is within the budget.
    pub fn bears_one_more(&self) -> bool {
        self.0.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_is_borne_comes_back_with_time() {
        let patience = Patience::default();
        assert!((0..AT_ONCE.get()).all(|_| patience.bears_one_more()));
        assert!(!patience.bears_one_more());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| patience.bears_one_more()).count(), EACH_SECOND.get() as usize);
    }
}
