//! The requests in flight, over all clients: how many there are, and who is refused when there are as many as there may be.
//!
//! A request counts from its head to the end of its response. What one of them holds (a task, a few pieces of its body) is
//! bounded, so that this bounds them all; and who is refused is told at once, in place of waiting until nobody is served in time.

use std::sync::Arc;

use prometheus::IntGauge;

/// How many requests there are, and may be.
#[derive(Debug)]
pub struct Crowd {
    now: IntGauge,
    most: IntGauge,
}

/// One of them. Dropping it gives its place to another.
#[derive(Debug)]
pub struct Admitted(Arc<Crowd>);

impl Crowd {
    /// At most `bound`, which `most` tells; counted in `now`.
    pub fn new(bound: u32, now: IntGauge, most: IntGauge) -> Self {
        most.set(bound.into());
        Self { now, most }
    }

    /// Another bound; those that are over it go on.
    pub fn bound(&self, bound: u32) {
        self.most.set(bound.into());
    }

    /// A place for one more request; `None` if it is to be refused.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let admitted = Admitted(Arc::clone(self));
        self.now.inc();
        // Two that come at once may both see the other, and be refused for the last place.
        (self.now.get() <= self.most.get()).then_some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.now.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_makes_room_and_who_is_refused_takes_none() {
        let now = IntGauge::new("now", "now").unwrap();
        let crowd = Arc::new(Crowd::new(2, now.clone(), IntGauge::new("most", "most").unwrap()));
        let both = [crowd.admit().unwrap(), crowd.admit().unwrap()];
        assert!(crowd.admit().is_none() && crowd.admit().is_none());
        assert_eq!(now.get(), 2);
        crowd.bound(1);
        let [first, second] = both;
        drop(first);
        assert!(crowd.admit().is_none(), "one is over the new bound no more, and none is free");
        drop(second);
        drop(crowd.admit().unwrap());
        assert_eq!(now.get(), 0);
    }
}
