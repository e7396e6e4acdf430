//! While an upstream is down: what clients are told, how soon to come back, and how long what is kept waits for better.
//!
//! "Unknown" is 502 where a moment may mend it, since Nix asks again within a second of one; and 503 with a Retry-After of a
//! few seconds once the circuit breaker of an upstream that counts is open, since nothing can change before it lets somebody
//! through. Never 429: that stalls a client for a minute.

use std::time::Duration;

use tokio::time::timeout;

use super::answer::{Answer, FailureKind, Outcome, Reply};
use super::policy::Policy;
use super::waiting::AGAIN_IN;
use crate::upstream::WhenDown;

/// How long what is kept, and not fresh any more, waits for an answer of the upstreams before it is served all the same.
const STALE_WAIT: Duration = Duration::from_millis(200);
/// The most that a client is told to wait, however long the upstream is left alone: a build waits for it.
const PATIENCE: u64 = 5;

/// The answer, with how soon to ask again where that is known.
pub(super) fn told(policy: &Policy, mut answer: Answer) -> Answer {
    if answer.is_unknown()
        && let Some(left) = down_for(policy)
        && let Reply::Failed(failure) = &mut answer.reply
    {
        failure.kind = FailureKind::Unavailable { retry_after: seconds(left) };
    }
    answer
}

/// For how long no upstream is asked whose silence counts and that is taken for down; `None` when there is none such.
fn down_for(policy: &Policy) -> Option<Duration> {
    let counting = policy.upstreams.iter().filter(|upstream| upstream.when_down() == WhenDown::Error);
    counting.filter_map(|upstream| upstream.down_for()).min()
}

/// What `asking` brings: the value, and whether it was asked for this client. But what is kept, where there is something, if
/// a moment brings nothing better: what is asked meanwhile is for the next client.
pub(super) async fn or_stale<V>(kept: Option<V>, asking: impl Future<Output = (Option<V>, bool)>) -> (Option<V>, bool) {
    let Some(kept) = kept else { return asking.await };
    match timeout(STALE_WAIT, asking).await {
        Ok((Some(found), asked_here)) => (Some(found), asked_here),
        Ok((None, _)) | Err(_) => (Some(kept), false),
    }
}

/// The answer to who is not told what is asked for: nobody knows, or there was no place to wait for it.
pub(super) fn unknown(outcome: Outcome, why: &str) -> Answer {
    let kind = match outcome {
        Outcome::Limited => FailureKind::Unavailable { retry_after: AGAIN_IN },
        _ => FailureKind::BadGateway,
    };
    Answer::failed(outcome, kind, why)
}

/// Tells that something kept is served for want of an answer; not for each request where the log has said that an upstream is
/// taken for down.
pub(super) fn log_stale(policy: &Policy, key: &str, why: &str) {
    match policy.upstreams.iter().any(|upstream| upstream.down_for().is_some()) {
        true => tracing::debug!(key, outcome = %Outcome::Stale, "served stale: {why}"),
        false => tracing::warn!(key, outcome = %Outcome::Stale, "served stale: {why}"),
    }
}

fn seconds(left: Duration) -> u64 {
    let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    whole.clamp(1, PATIENCE)
}
