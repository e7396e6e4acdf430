//! How many clients wait for upstreams at a time.
//!
//! What is here is served whatever upstreams do: so those that wait for one, for the answer to a question or for the first
//! bytes of a fill, may be a part of all requests only, and who comes beyond that is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use prometheus::IntGauge;

/// What those are told for whom there is no place, and how soon they may come again, in seconds.
pub(super) const CROWDED: &str = "too many requests wait for upstreams: half of limits.requests is reached; try again";
pub(super) const AGAIN_IN: u64 = 1;

/// The clients that wait. Of all spaces: cloning is cheap, and all clones count together.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    now: IntGauge,
    most: Arc<AtomicI64>,
}

/// One that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiter(Option<IntGauge>);

impl Waiting {
    /// Counted in `now`, and not bounded yet.
    pub(super) fn new(now: IntGauge) -> Self {
        Self { now, most: Arc::new(AtomicI64::new(i64::MAX)) }
    }

    /// At most so many from now on.
    pub(super) fn bound(&self, most: u32) {
        self.most.store(most.into(), Relaxed);
    }

    /// A place for one more; `None` when there are as many as there may be.
    pub(super) fn place(&self) -> Option<Waiter> {
        let place = Waiter(Some(self.now.clone()));
        self.now.inc();
        (self.now.get() <= self.most.load(Relaxed)).then_some(place)
    }
}

impl Waiter {
    /// Of one that is no client, and is not counted.
    pub(super) fn apart() -> Self {
        Self(None)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(now) = &self.0 {
            now.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_over_all_clones() {
        let now = IntGauge::new("now", "now").unwrap();
        let waiting = Waiting::new(now.clone());
        let other = waiting.clone();
        other.bound(2);
        let two = [waiting.place().unwrap(), other.place().unwrap()];
        assert!(waiting.place().is_none() && other.place().is_none());
        let apart = Waiter::apart();
        assert_eq!(now.get(), 2);
        drop((two, apart));
        assert_eq!(now.get(), 0);
        assert!(waiting.place().is_some());
    }
}
