//! Whom a fill asks, in which order, and how often.
//!
//! The plan's sources first, each once; then whoever else has the same bytes, who is asked for only when it is needed;
//! then those again that broke off in the middle, at most [`AGAIN`] times each and after a short pause of a random
//! length, so that the fills which an upstream's hiccup broke do not come back as one. At most [`BREAKS`] breaks in all,
//! and at most about twice the NAR's bytes: what is to go beyond is not begun. And where the same upstreams break off again and
//! again, for this fill and for others, they are not asked again oftener than they can bear (`again` of `upstream`).

use std::sync::Arc;
use std::time::Duration;

use super::{Plan, Source};

/// How often a source that broke off is asked for the rest.
const AGAIN: u32 = 2;
/// How many breaks a fill survives.
const BREAKS: u32 = 8;
/// The pause before a source is asked again is between one and two of these, and longer the second time.
const PAUSE: Duration = Duration::from_millis(100);
/// So many bytes more than twice its own size (4 MiB) a NAR may cost.
const SLACK: u64 = 4 << 20;

/// See the module.
pub(super) struct Itinerary {
    stops: Vec<Stop>,
    breaks: u32,
    /// Whether everybody who may have the bytes is among the stops.
    complete: bool,
    /// Whether a source failed in a way in which another need not.
    wants_others: bool,
    singly: bool,
}

struct Stop {
    source: Source,
    breaks: u32,
    out: bool,
}

impl Itinerary {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut way =
            Self { stops: Vec::new(), breaks: 0, complete: plan.others.is_none(), wants_others: false, singly: false };
        way.add(plan.sources.clone());
        way
    }

    fn add(&mut self, sources: Vec<Source>) {
        for source in sources {
            let known = |stop: &Stop| {
                stop.source.upstream.name() == source.upstream.name() && stop.source.target == source.target
            };
            if !self.stops.iter().any(known) {
                self.stops.push(Stop { source, breaks: 0, out: false });
            }
        }
    }

    /// From now on each source is to give the whole by itself; those called `broke` come last.
    pub(super) fn singly(&mut self, broke: &[Arc<str>]) {
        self.singly = true;
        self.breaks = 0;
        self.stops.iter_mut().for_each(|stop| stop.breaks = 0);
        self.stops.sort_by_key(|stop| broke.contains(stop.source.upstream.name()));
    }

    pub(super) fn is_singly(&self) -> bool {
        self.singly
    }

    /// The names of those that broke off.
    pub(super) fn broke(&self) -> Vec<Arc<str>> {
        self.stops.iter().filter(|stop| stop.breaks > 0).map(|stop| Arc::clone(stop.source.upstream.name())).collect()
    }

    /// The next source to ask, after the pause that it needs.
    pub(super) async fn next(&mut self, plan: &Plan) -> Option<Source> {
        if self.breaks > BREAKS {
            return None;
        }
        if self.singly
            && let Some(same) = self.stops.iter().find(|stop| !stop.out && stop.breaks > 0)
            && same.source.upstream.may_be_asked_again()
        {
            return Some(Self::again(same).await);
        }
        if self.fresh().is_none() && self.wants_others {
            self.add_others(plan).await;
        }
        if let Some(fresh) = self.fresh() {
            return Some(fresh);
        }
        let mut left: Vec<&Stop> = self.stops.iter().filter(|stop| !stop.out).collect();
        left.sort_by_key(|stop| stop.breaks);
        let least = left.into_iter().find(|stop| stop.source.upstream.may_be_asked_again())?;
        Some(Self::again(least).await)
    }

    fn fresh(&self) -> Option<Source> {
        self.stops.iter().find(|stop| !stop.out && stop.breaks == 0).map(|stop| stop.source.clone())
    }

    async fn again(stop: &Stop) -> Source {
        let mut random = [0_u8; 1];
        // Without randomness the pause is the shortest one.
        let _ = aws_lc_rs::rand::fill(&mut random);
        tokio::time::sleep(PAUSE.mul_f64(1.0 + f64::from(random[0]) / 256.0) * stop.breaks).await;
        stop.source.clone()
    }

    /// Whether the source broke off before.
    pub(super) fn is_again(&self, source: &Source) -> bool {
        self.stops.iter().any(|stop| stop.breaks > 0 && stop.source.is(source))
    }

    /// Asks who else has the bytes, once.
    pub(super) async fn add_others(&mut self, plan: &Plan) {
        if let Some(others) = plan.others.as_ref().filter(|_| !self.complete) {
            self.complete = true;
            self.add(others.of(plan).await);
        }
    }

    /// The source broke off, or could not be asked for the rest: another is tried, and it again later.
    pub(super) fn broke_off(&mut self, source: &Source) {
        self.wants_others = true;
        self.breaks += 1;
        if let Some(stop) = self.stop_of(source) {
            stop.breaks += 1;
            stop.out = stop.breaks > AGAIN;
        }
    }

    /// The source is not asked any more; `others` if that says nothing of anybody else.
    pub(super) fn leave_out(&mut self, source: &Source, others: bool) {
        self.wants_others |= others;
        if let Some(stop) = self.stop_of(source) {
            stop.out = true;
        }
    }

    fn stop_of(&mut self, source: &Source) -> Option<&mut Stop> {
        self.stops.iter_mut().find(|stop| stop.source.is(source))
    }
}

/// What a fill may cost its upstreams.
#[derive(Default)]
pub(super) struct Budget {
    used: u64,
    /// Bytes of sources that were caught: each of them is asked but once.
    forgiven: u64,
}

impl Budget {
    /// So many bytes came, to be kept, skipped or dropped.
    pub(super) fn use_up(&mut self, bytes: u64) {
        self.used += bytes;
    }

    /// A source sent `bytes` that were wrong.
    pub(super) fn forgive(&mut self, bytes: u64) {
        self.forgiven += bytes;
    }

    /// Whether a NAR of `size` bytes may be asked for from byte `from` on.
    pub(super) fn allows(&self, size: Option<u64>, from: u64) -> bool {
        size.is_none_or(|size| {
            self.used.saturating_sub(self.forgiven).saturating_add(size.saturating_sub(from))
                <= size.saturating_mul(2).saturating_add(SLACK)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nar_costs_at_most_twice_its_bytes_and_a_little() {
        let (size, mut budget) = (100 << 20, Budget::default());
        assert!(budget.allows(Some(size), 0));
        budget.use_up(60 << 20);
        assert!(budget.allows(Some(size), 0), "once more from the start");
        budget.use_up(60 << 20);
        assert!(!budget.allows(Some(size), 0) && budget.allows(Some(size), 60 << 20));
        assert!(budget.allows(None, 0));
        budget.forgive(60 << 20);
        assert!(budget.allows(Some(size), 0));
    }
}
