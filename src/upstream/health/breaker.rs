//! The circuit breaker of one upstream: a pure state machine, told what happened and when.
//!
//! ```text
//! closed ──[FEW] failures in a row, or half of many──▶ open ──its time is over, somebody asks──▶ half-open
//!   ▲                                                   ▲                                           │
//!   │                                                   └──────────────── failed ───────────────────┤
//!   └──────────────────────────────────────────── answered ─────────────────────────────────────────┘
//! ```
//!
//! While it is open nothing is let through. Half-open, one request is: what comes of it decides. Each time that it opens
//! again it stays so for longer, [`FIRST`] up to [`LONGEST`], so that a recovery is noticed by the first request after
//! that. What comes of a request that was let through in an earlier state counts for nothing.
//!
//! Out of scope: what a failure is, clocks, chance, metrics and the log (see `health`).

use std::time::Duration;

use tokio::time::Instant;

/// So many failures in a row open it.
pub(crate) const FEW: u32 = 5;
/// How many of them a whole budget of silence counts as: two open it.
const SILENCE: u32 = 3;
/// So many requests have to have ended in the window before a share of them means anything.
const MANY: u32 = 20;
/// How long the share of failures is looked at: the half that runs, and the one before it.
const HALF_WINDOW: Duration = Duration::from_secs(5);
/// How long it is open the first time, before chance takes up to a quarter off.
const FIRST: Duration = Duration::from_secs(1);
/// The longest that it is open: less than the 15 s within which a recovery must be noticed.
pub(crate) const LONGEST: Duration = Duration::from_secs(14);
/// Closed for so long, it begins with [`FIRST`] again: an upstream that comes and goes is left alone for longer each time.
const CALM: Duration = Duration::from_secs(15);
/// A probe that has come to nothing by then does not keep the next request from being one.
const PROBE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Changes with each state, so that what began in another one is told apart.
    generation: u64,
    in_a_row: u32,
    window: Window,
    /// How often it opened since it was calm.
    openings: u32,
    closed_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { since: Instant },
}

/// How it looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Everything is let through.
    Closed = 0,
    /// One request is asking whether the upstream is back.
    HalfOpen = 1,
    /// Nothing is let through.
    Open = 2,
}

/// A request that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    generation: u64,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The upstream answered: it is there.
    Answered,
    /// It did not, or as one does that is not there.
    Failed,
    /// It did not answer in all the time that this request was given, nor did it answer any other in that time.
    Silent,
    /// Nobody can tell.
    Nothing,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It opened, for so long; `again` when a probe failed.
    Opened { span: Duration, again: bool },
    /// The upstream is back.
    Closed,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            in_a_row: 0,
            window: Window::default(),
            openings: 0,
            closed_at: None,
        }
    }

    pub(crate) fn position(&self) -> Position {
        match self.state {
            State::Closed => Position::Closed,
            State::HalfOpen { .. } => Position::HalfOpen,
            State::Open { .. } => Position::Open,
        }
    }

    /// For how long a request would still be refused; `None` when it would be let through.
    pub(crate) fn refuses_for(&self, now: Instant) -> Option<Duration> {
        let until = match self.state {
            State::Closed => return None,
            State::Open { until } => until,
            State::HalfOpen { since } => since + PROBE,
        };
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Lets a request through, or says for how long none will be.
    pub(crate) fn pass(&mut self, now: Instant) -> Result<Passed, Duration> {
        if let Some(left) = self.refuses_for(now) {
            return Err(left);
        }
        if !matches!(self.state, State::Closed) {
            self.become_(State::HalfOpen { since: now });
        }
        Ok(Passed { generation: self.generation })
    }

    /// Takes note of what came of a request. `chance`, in 0..1, shortens the time for which it opens, so that not everybody
    /// comes back at once.
    pub(crate) fn settle(&mut self, passed: Passed, verdict: Verdict, now: Instant, chance: f64) -> Option<Change> {
        if passed.generation != self.generation {
            return None;
        }
        match (self.state, verdict) {
            (State::Closed, Verdict::Answered) => {
                self.in_a_row = 0;
                self.window.count(now, false);
                None
            }
            (State::Closed, Verdict::Failed) => self.failed(1, now, chance),
            (State::Closed, Verdict::Silent) => self.failed(SILENCE, now, chance),
            (State::HalfOpen { .. }, Verdict::Answered) => {
                self.become_(State::Closed);
                self.closed_at = Some(now);
                Some(Change::Closed)
            }
            (State::HalfOpen { .. }, Verdict::Failed | Verdict::Silent) => Some(self.open(now, chance, true)),
            // The client left, say: whoever comes next is the probe.
            (State::HalfOpen { .. }, Verdict::Nothing) => {
                self.become_(State::Open { until: now });
                None
            }
            (State::Closed | State::Open { .. }, _) => None,
        }
    }

    fn failed(&mut self, weight: u32, now: Instant, chance: f64) -> Option<Change> {
        self.in_a_row += weight;
        self.window.count(now, true);
        let opens = self.in_a_row >= FEW || self.window.is_bad();
        opens.then(|| self.open(now, chance, false))
    }

    fn open(&mut self, now: Instant, chance: f64, again: bool) -> Change {
        if self.closed_at.is_some_and(|at| !again && now.saturating_duration_since(at) >= CALM) {
            self.openings = 0;
        }
        let longest = FIRST.saturating_mul(1 << self.openings.min(8)).min(LONGEST);
        let span = longest.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0);
        self.openings = self.openings.saturating_add(1);
        self.become_(State::Open { until: now + span });
        Change::Opened { span, again }
    }

    fn become_(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        (self.in_a_row, self.window) = (0, Window::default());
    }
}

/// How many ended well and badly lately.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    now: (u32, u32),
    before: (u32, u32),
}

impl Window {
    fn count(&mut self, now: Instant, failed: bool) {
        let began = *self.began.get_or_insert(now);
        let age = now.saturating_duration_since(began);
        if age >= HALF_WINDOW {
            self.before = if age < 2 * HALF_WINDOW { self.now } else { (0, 0) };
            (self.now, self.began) = ((0, 0), Some(now));
        }
        let (good, bad) = &mut self.now;
        *(if failed { bad } else { good }) += 1;
    }

    fn is_bad(&self) -> bool {
        let (good, bad) = (self.now.0 + self.before.0, self.now.1 + self.before.1);
        good + bad >= MANY && bad >= good
    }
}

#[cfg(test)]
mod tests;
