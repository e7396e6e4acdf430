//! Whether an upstream that is being asked about small things still says anything: a pure state machine, told what happened
//! and when.
//!
//! One that takes connections and never answers is the costliest kind of dead: each question takes its whole budget to find
//! that out. So it is not the budget of one question that tells, but that nobody has had an answer for [`SILENT`] although
//! somebody is waiting for one.
//!
//! Out of scope: what follows from it (the breaker here, early questions in `proxy`).

use std::time::Duration;

use tokio::time::Instant;

/// Asked and without any answer for so long, an upstream whose usual time is not longer than that is silent: a connection
/// with TLS over a path of 150 ms and a first answer take less.
pub(crate) const SILENT: Duration = Duration::from_millis(600);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// Requests that wait for an answer.
    waiting: u32,
    /// The last answer while others waited, or when the first of those who wait asked.
    since: Option<Instant>,
}

impl Silence {
    /// A request is sent.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_add(1);
        self.since.get_or_insert(now);
    }

    /// A request has ended, with an answer or without.
    pub(crate) fn ended(&mut self, now: Instant, answered: bool) {
        self.waiting = self.waiting.saturating_sub(1);
        match (self.waiting, answered) {
            (0, _) => self.since = None,
            (_, true) => self.since = Some(now),
            (_, false) => {}
        }
    }

    /// Whether nobody has had an answer since then, although somebody has been waiting all the time.
    pub(crate) fn has_lasted_since(&self, then: Instant) -> bool {
        self.since.is_some_and(|since| since <= then)
    }

    /// Whether it has lasted longer than it ever should; `usual` is what an answer may take.
    pub(crate) fn is_long(&self, now: Instant, usual: impl FnOnce() -> Option<Duration>) -> bool {
        let lasted = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        lasted >= SILENT && usual().is_none_or(|usual| lasted >= usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_long_while_somebody_waits_and_nobody_is_answered() {
        let (mut silence, begun) = (Silence::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        assert!(!silence.is_long(at(10_000), || None), "nobody asked");
        silence.asked(at(0));
        silence.asked(at(500));
        assert!(!silence.is_long(at(599), || None) && silence.is_long(at(600), || None));
        assert!(!silence.is_long(at(1400), || Some(Duration::from_millis(1500))), "it is always that slow");
        silence.ended(at(600), false);
        assert!(silence.is_long(at(700), || None) && silence.has_lasted_since(at(500)), "a failure is no answer");
        silence.asked(at(700));
        silence.ended(at(800), true);
        assert!(!silence.is_long(at(1300), || None) && !silence.has_lasted_since(at(700)));
        assert!(silence.is_long(at(1400), || None) && silence.has_lasted_since(at(800)));
        silence.ended(at(1500), false);
        assert!(!silence.is_long(at(10_000), || None), "nobody waits");
    }
}
