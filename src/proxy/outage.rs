//! While an upstream is down: what clients are told, how soon to come back, and how long what is kept waits for better.
//!
//! "Unknown" is 502 where a moment may mend it, since Nix asks again within a second of one; and 503 with a Retry-After of a
//! few seconds once the circuit breaker of an upstream that counts is open, since nothing can change before it lets somebody
//! through. Never 429: that stalls a client for a minute.

use std::time::Duration;

use super::answer::{Answer, FailureKind, Reply};
use super::policy::Policy;
use crate::upstream::WhenDown;

/// How long what is kept, and not fresh any more, waits for an answer of the upstreams before it is served all the same.
pub(super) const STALE_WAIT: Duration = Duration::from_millis(200);
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

/// Whether an upstream is taken for down, which the log has said: no line for each request then.
pub(super) fn is_known(policy: &Policy) -> bool {
    policy.upstreams.iter().any(|upstream| upstream.down_for().is_some())
}

fn seconds(left: Duration) -> u64 {
    let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    whole.clamp(1, PATIENCE)
}
