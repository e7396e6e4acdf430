//! What is counted of the walks over everything that is kept.

use prometheus::IntCounter;

use super::declare::{CounterBy, Declare};
use super::labels::Scrubbed;

/// What the scrubber counts.
#[derive(Debug, Clone)]
pub struct ScrubMetrics {
    /// Chunks by what was found.
    pub chunks: CounterBy<Scrubbed>,
    /// Walks over everything that came to their end.
    pub walks: IntCounter,
}

impl ScrubMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            chunks: declare.counter_by(
                "snowbank_scrub_chunks_total",
                "Stored chunks that the scrubber looked at on disk. absent: evicted, ordinary in a full store. wrong: the disk \
                 gave other bytes than were written; more than a few after a power cut mean that it is failing.",
            ),
            walks: declare.counter(
                "snowbank_scrub_walks_total",
                "Walks of the scrubber over everything that is kept. One is begun after the other; how long one takes is store.scrub.",
            ),
        }
    }
}
