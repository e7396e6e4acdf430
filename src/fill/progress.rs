//! How far the running fills are, for who looks.

use std::sync::Arc;
use std::time::Duration;

use super::Fills;
use super::state::Fill;

/// A NAR that is being fetched, or waits for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The store path without its directory, where a narinfo announced the NAR; else what the store calls it.
    pub what: String,
    /// Who sends it; `None` until the first upstream has answered.
    pub upstream: Option<Arc<str>>,
    /// Bytes that came so far.
    pub received: u64,
    /// Bytes that there are, where that is known.
    pub size: Option<u64>,
    /// For how long it has been wanted.
    pub since: Duration,
    /// Who waits for it or reads along.
    pub readers: usize,
}

impl Fills {
    /// The NARs that are being fetched now, the first begun first. Holes in NARs that are kept are not among them.
    pub fn progress(&self) -> Vec<Progress> {
        let running = self.lock();
        let joinable = running.whole.iter().filter(|(_, fill)| fill.failure().is_none());
        let of = |fill: &Fill, what: String| Progress {
            what,
            upstream: fill.sender(),
            received: fill.received(),
            size: fill.size(),
            since: fill.age(),
            readers: fill.readers(),
        };
        let mut found: Vec<Progress> = joinable
            .map(|(blob, fill)| {
                let claim = running.claims.get(blob);
                of(fill, claim.map_or_else(|| blob.to_string(), |claim| claim.name.clone()))
            })
            .collect();
        drop(running);
        found.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.what.cmp(&b.what)));
        found
    }
}
