//! `GET /status`: how the program and its upstreams stand, as JSON.

use serde_json::{Value, json};

use crate::upstream::Upstream;

/// Where the server tells, on the address for operators.
pub(super) const PATH: &str = "/status";

/// What the server tells.
pub(super) fn json<'a>(is_draining: bool, upstreams: impl IntoIterator<Item = &'a Upstream>) -> Value {
    let upstreams: Vec<Value> = upstreams.into_iter().map(upstream).collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "draining": is_draining, "upstreams": upstreams })
}

fn upstream(upstream: &Upstream) -> Value {
    let standing = upstream.standing();
    let metrics = upstream.metrics();
    json!({
        "name": upstream.name().as_ref(),
        "priority": upstream.rank(),
        "private": upstream.options().private,
        "trust": upstream.trust().to_string(),
        "when_down": upstream.when_down().to_string(),
        "state": standing.state,
        "why": standing.why.as_deref(),
        "not_asked_for_seconds": standing.not_asked_for.map(|left| left.as_secs_f64()),
        "usual_seconds": standing.usual.map(|usual| usual.as_secs_f64()),
        "requests": metrics.requests.get(),
        "have": metrics.have.get(),
        "have_not": metrics.have_not.get(),
        "unknown": metrics.unknown.get(),
        "not_asked": metrics.unasked.get(),
        "times_down": metrics.openings.get(),
        "received_bytes": metrics.bytes.get(),
    })
}
