//! Whether an upstream is worth asking now, and how long it usually takes.
//!
//! Every request passes its upstream's [`breaker`] once it has its connection's permit, and tells it what came of it. While
//! the breaker is open a request fails at once, without a connection. What counts as a failure is decided here
//! ([`verdict`]): no connection, no answer or none within the budget, an answer that broke off, 5xx and 429. "Have not" is an answer as good as
//! any, and so is a refusal such as 401. The body of a NAR counts for nothing: it may be slow because of one file, or of one
//! client.
//!
//! Clients choose what is asked for, and must not be able to choose that an upstream is down: what fails for one target
//! counts once ([`trouble`]), and what fails for a log or a listing, whose names are free, not at all.

pub(super) mod breaker;
pub(super) mod pace;
mod silence;
mod trouble;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use self::breaker::{Breaker, Change, Passed, Position, Verdict};
use self::pace::Pace;
use self::silence::{SILENT, Silence};
use self::trouble::Trouble;
use super::error::{Cause, UpstreamError};
use crate::metrics::UpstreamMetrics;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A narinfo: all of it counts.
    Narinfo,
    /// A NAR: that it can be asked for counts. Some upstreams begin it only when they have made it.
    Nar,
    /// A listing, a log and the like: that there is an answer counts, and not which. Some upstreams make these by running a
    /// program, for whatever name they are asked for.
    Aside,
}

/// How an upstream looks to who asks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `up`, `silent` (asked, and it has answered nobody for a while), `down` or `probing`.
    pub state: &'static str,
    /// What it did last before it was taken for down.
    pub why: Option<Arc<str>>,
    /// For how long it will not be asked.
    pub not_asked_for: Option<Duration>,
    /// What an answer about a narinfo takes at most, nineteen times out of twenty; `None` while that is not known.
    pub usual: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Health {
    inner: Mutex<Inner>,
    /// Of this process: for chance, and to tell targets apart.
    hasher: RandomState,
    metrics: UpstreamMetrics,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    pace: Pace,
    silence: Silence,
    trouble: Trouble,
    /// What happened last before it opened.
    why: Arc<str>,
}

/// A request that was let through. Dropped without having been settled it says nothing.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    health: &'a Health,
    kind: Kind,
    target: &'a str,
    name: &'a str,
    passed: Option<(Passed, Instant)>,
}

impl Health {
    pub(super) fn new(metrics: UpstreamMetrics) -> Self {
        metrics.breaker.set(Position::Closed as i64);
        let inner = Inner {
            breaker: Breaker::new(),
            pace: Pace::default(),
            silence: Silence::default(),
            trouble: Trouble::default(),
            why: "".into(),
        };
        Self { inner: Mutex::new(inner), hasher: RandomState::new(), metrics }
    }

    /// Why a request would fail at once, and for how long still.
    pub(super) fn is_down(&self) -> Option<(Duration, Arc<str>)> {
        let inner = self.inner();
        inner.breaker.refuses_for(Instant::now()).map(|left| (left, Arc::clone(&inner.why)))
    }

    /// How it looks now: a word, what happened, for how long nothing is let through, and what an answer usually takes.
    pub(super) fn standing(&self) -> Standing {
        let (inner, now) = (self.inner(), Instant::now());
        let state = match inner.breaker.position() {
            Position::Closed if inner.answers(now) => "up",
            Position::Closed => "silent",
            Position::HalfOpen => "probing",
            Position::Open => "down",
        };
        let why = matches!(state, "probing" | "down").then(|| Arc::clone(&inner.why));
        Standing { state, why, not_asked_for: inner.breaker.refuses_for(now), usual: inner.pace.usual() }
    }

    /// Lets a request for `target` through.
    ///
    /// # Errors
    /// The upstream is taken for down: why.
    pub(super) fn pass<'a>(&'a self, kind: Kind, target: &'a str, name: &'a str) -> Result<Ticket<'a>, Arc<str>> {
        let (mut inner, now) = (self.inner(), Instant::now());
        let passed = inner.breaker.pass(now);
        self.metrics.breaker.set(inner.breaker.position() as i64);
        match passed {
            Ok(passed) => {
                if kind == Kind::Narinfo {
                    inner.silence.asked(now);
                }
                Ok(Ticket { health: self, kind, target, name, passed: Some((passed, now)) })
            }
            Err(_) => Err(Arc::clone(&inner.why)),
        }
    }

    /// Takes note of how long an answer about a narinfo took.
    pub(super) fn took(&self, time: Duration) {
        self.inner().pace.note(time);
    }

    /// How long an answer about a narinfo may take before it takes longer than usual: hardly anything for a probe, which may
    /// fail, and nothing in a silence.
    pub(super) fn patience(&self) -> Duration {
        let (inner, now) = (self.inner(), Instant::now());
        match inner.breaker.position() {
            Position::Closed if inner.is_silent(now) => Duration::ZERO,
            Position::Closed => inner.pace.usual().unwrap_or(SILENT),
            Position::HalfOpen | Position::Open => pace::FLOOR,
        }
    }

    /// Whether it answers at all, as far as one can tell: it is not taken for down, and no silence of it is long.
    pub(super) fn answers(&self) -> bool {
        self.inner().answers(Instant::now())
    }

    fn settle(&self, ended: &Ended, name: &str, error: Option<&UpstreamError>) {
        let now = Instant::now();
        #[allow(clippy::cast_precision_loss)] // chance
        let chance = self.hasher.hash_one(now) as f64 / u64::MAX as f64;
        let mut inner = self.inner();
        let verdict = inner.heard(ended, error, now);
        let change = inner.breaker.settle(ended.passed, verdict, now, chance);
        self.metrics.breaker.set(inner.breaker.position() as i64);
        match change {
            None => {}
            Some(Change::Closed) => tracing::info!(upstream = name, "upstream {name} answers again"),
            Some(Change::Opened { span, again }) => {
                if let Some(error) = error {
                    inner.why = error.cause.to_string().into();
                }
                if !again {
                    self.metrics.openings.inc();
                    let why = &inner.why;
                    tracing::warn!(
                        upstream = name,
                        "upstream {name} {why}: it is taken for down, and not asked for {span:?}"
                    );
                }
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn answers(&self, now: Instant) -> bool {
        self.breaker.position() == Position::Closed && !self.is_silent(now)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silence.is_long(now, || self.pace.known())
    }

    /// Takes note of whether it said anything; a whole budget in which it said nothing to anybody says more than one in
    /// which it was slow about one thing.
    fn heard(&mut self, ended: &Ended, error: Option<&UpstreamError>, now: Instant) -> Verdict {
        let verdict = match (ended.verdict, ended.about) {
            (Verdict::Failed, Some(about)) if !self.trouble.is_new(about, now) => Verdict::Nothing,
            (Verdict::Answered, Some(about)) => {
                self.trouble.is_over(about);
                Verdict::Answered
            }
            (verdict, _) => verdict,
        };
        if ended.kind != Kind::Narinfo {
            return verdict;
        }
        let in_vain = error.is_some_and(UpstreamError::is_late);
        let silent = in_vain && self.silence.has_lasted_since(ended.begun);
        let answered = ended.verdict == Verdict::Answered || error.is_some_and(UpstreamError::is_an_answer);
        self.silence.ended(now, answered);
        if silent { Verdict::Silent } else { verdict }
    }
}

/// A request that is over.
#[derive(Debug)]
struct Ended {
    passed: Passed,
    begun: Instant,
    kind: Kind,
    verdict: Verdict,
    /// What it was about, where the verdict is about that.
    about: Option<u64>,
}

impl Ticket<'_> {
    /// Tells what came of the request.
    pub(super) fn settle<T>(mut self, result: &Result<T, UpstreamError>) {
        let error = result.as_ref().err();
        let verdict = error.map_or(Verdict::Answered, |error| verdict(self.kind, &error.cause));
        let about =
            error.is_none_or(|error| is_about_it(&error.cause)).then(|| self.health.hasher.hash_one(self.target));
        self.end(verdict, about, error);
    }

    fn end(&mut self, verdict: Verdict, about: Option<u64>, error: Option<&UpstreamError>) {
        if let Some((passed, begun)) = self.passed.take() {
            let ended = Ended { passed, begun, kind: self.kind, verdict, about };
            self.health.settle(&ended, self.name, error);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.end(Verdict::Nothing, None, None);
    }
}

/// Whether a status says that the upstream is in trouble, and not only that it will not do what was asked: whoever asks
/// chooses that (501, 505, 508, 511).
fn is_trouble(status: StatusCode) -> bool {
    let is_about_the_request = [
        StatusCode::NOT_IMPLEMENTED,
        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        StatusCode::LOOP_DETECTED,
        StatusCode::NETWORK_AUTHENTICATION_REQUIRED,
    ]
    .contains(&status);
    (status.is_server_error() && !is_about_the_request) || status == StatusCode::TOO_MANY_REQUESTS
}

/// Whether something may have gone wrong because of what was asked for: then it counts once for each target. Without a
/// connection, and without any word within the budget, nothing of the target was seen.
fn is_about_it(cause: &Cause) -> bool {
    match cause {
        Cause::Status(status) => is_trouble(*status),
        Cause::Unanswered(_) | Cause::Cut(_) | Cause::Stall(_) | Cause::Slow(_) => true,
        _ => false,
    }
}

/// What an error says about the upstream.
fn verdict(kind: Kind, cause: &Cause) -> Verdict {
    match cause {
        Cause::Connection(_) => Verdict::Failed,
        Cause::Unanswered(_) => match kind {
            Kind::Narinfo | Kind::Nar => Verdict::Failed,
            Kind::Aside => Verdict::Nothing,
        },
        Cause::Timeout(_) | Cause::Late { .. } | Cause::Stall(_) | Cause::Slow(_) | Cause::Cut(_) => match kind {
            Kind::Narinfo => Verdict::Failed,
            Kind::Nar | Kind::Aside => Verdict::Nothing,
        },
        Cause::Status(status) if is_trouble(*status) => match kind {
            Kind::Narinfo | Kind::Nar => Verdict::Failed,
            Kind::Aside => Verdict::Nothing,
        },
        Cause::Status(_)
        | Cause::Header(_)
        | Cause::Encoding(_)
        | Cause::Refused { .. }
        | Cause::Credentials
        | Cause::Told(_)
        | Cause::Elsewhere { .. }
        | Cause::Redirect(_) => Verdict::Answered,
        Cause::Busy(_) | Cause::Down(_) | Cause::Internal(_) => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests;
