//! Whether an upstream is worth asking now, and how long it usually takes.
//!
//! Every request passes its upstream's [`breaker`] once it has its connection's permit, and tells it what came of it. While
//! the breaker is open a request fails at once, without a connection. What counts as a failure is decided here
//! ([`verdict`]): no connection, no answer within the budget, an answer that broke off, 5xx and 429. "Have not" is an answer as good as
//! any, and so is a refusal such as 401. The body of a NAR counts for nothing: it may be slow because of one file, or of one
//! client.

pub(super) mod breaker;
pub(super) mod pace;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use self::breaker::{Breaker, Change, Passed, Position, Verdict};
use self::pace::Pace;
use super::error::{Cause, UpstreamError};
use crate::metrics::UpstreamMetrics;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A narinfo, or something else small: all of it counts.
    Small,
    /// A NAR or a long log: that it can be asked for counts. Some upstreams begin it only when they have made it.
    Large,
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
    passed: Option<Passed>,
}

impl Health {
    pub(super) fn new(metrics: UpstreamMetrics) -> Self {
        metrics.breaker.set(Position::Closed as i64);
        let inner = Inner { breaker: Breaker::new(), pace: Pace::default(), why: "".into() };
        Self { inner: Mutex::new(inner), hasher: RandomState::new(), metrics }
    }

    /// Why a request would fail at once, and for how long still.
    pub(super) fn is_down(&self) -> Option<(Duration, Arc<str>)> {
        let inner = self.inner();
        inner.breaker.refuses_for(Instant::now()).map(|left| (left, Arc::clone(&inner.why)))
    }

    /// Lets a request for `target` through.
    ///
    /// # Errors
    /// The upstream is taken for down: why.
    pub(super) fn pass<'a>(&'a self, kind: Kind, target: &'a str, name: &'a str) -> Result<Ticket<'a>, Arc<str>> {
        let mut inner = self.inner();
        let passed = inner.breaker.pass(Instant::now());
        self.metrics.breaker.set(inner.breaker.position() as i64);
        match passed {
            Ok(passed) => Ok(Ticket { health: self, kind, target, name, passed: Some(passed) }),
            Err(_) => Err(Arc::clone(&inner.why)),
        }
    }

    /// Takes note of how long an answer about a narinfo took.
    pub(super) fn took(&self, time: Duration) {
        self.inner().pace.note(time);
    }

    /// How long an answer about a narinfo may take before it takes longer than usual, and hardly anything while it is not
    /// sure that there will be one; `None` while nobody knows.
    pub(super) fn patience(&self) -> Option<Duration> {
        let inner = self.inner();
        match inner.breaker.position() {
            Position::Closed => inner.pace.usual(),
            Position::HalfOpen | Position::Open => Some(pace::FLOOR),
        }
    }

    fn settle(&self, passed: Passed, verdict: Verdict, name: &str, error: Option<&UpstreamError>) {
        let now = Instant::now();
        #[allow(clippy::cast_precision_loss)] // chance
        let chance = self.hasher.hash_one(now) as f64 / u64::MAX as f64;
        let mut inner = self.inner();
        let change = inner.breaker.settle(passed, verdict, now, chance);
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

impl Ticket<'_> {
    /// Tells what came of the request.
    pub(super) fn settle<T>(mut self, result: &Result<T, UpstreamError>) {
        let Some(passed) = self.passed.take() else { return };
        let error = result.as_ref().err();
        let about = self.health.hasher.hash_one(self.target);
        let verdict = error.map_or(Verdict::Answered, |error| verdict(self.kind, &error.cause, about));
        self.health.settle(passed, verdict, self.name, error);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(passed) = self.passed.take() {
            self.health.settle(passed, Verdict::Nothing, self.name, None);
        }
    }
}

/// What an error says about the upstream; `about` is what was asked for.
fn verdict(kind: Kind, cause: &Cause, about: u64) -> Verdict {
    match cause {
        Cause::Connection(_) => Verdict::Failed(None),
        Cause::Timeout(_) | Cause::Stall(_) | Cause::Slow(_) | Cause::Cut(_) => match kind {
            Kind::Small => Verdict::Failed(None),
            Kind::Large => Verdict::Nothing,
        },
        // One path that it cannot answer for does not make it down, however often clients ask for it.
        Cause::Status(status) if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Failed(Some(about))
        }
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
