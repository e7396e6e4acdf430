//! What is counted of writing into the library. Reading from it is counted as of any upstream, under the name `library`.

use prometheus::{IntCounter, IntGauge};

use super::declare::{CounterBy, CounterByTwo, Declare};
use super::labels::{Dropped, Written, WrittenAs};

/// What the writer counts.
#[derive(Debug, Clone)]
pub struct LibraryMetrics {
    /// Objects, by kind and by what became of them.
    pub writes: CounterByTwo<Written, WrittenAs>,
    /// Bytes of the objects that were sent.
    pub bytes: IntCounter,
    /// Paths that were not written.
    pub dropped: CounterBy<Dropped>,
    /// Paths that wait or are being written.
    pub queue: IntGauge,
}

impl LibraryMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            writes: declare.counter_by_two(
                "snowbank_library_writes_total",
                "Objects that were to be in the library. there: they were already, from another replica. replaced: what was there \
                 was wrong or missing in part; many of them mean that somebody or something damages the library.",
            ),
            bytes: declare.counter("snowbank_library_written_bytes_total", "Bytes that were written into the library."),
            dropped: declare.counter_by(
                "snowbank_library_dropped_total",
                "Paths that were not written into the library; clients notice nothing, and the next fill of the path writes it. full: \
                 more wait than may. failed: the library did not take it, five times; the log says why. hole: it was evicted \
                 here meanwhile. stopping: the program ended first.",
            ),
            queue: declare.gauge(
                "snowbank_library_queue",
                "Paths that wait to be written into the library, or are being written; 4096 may wait. While it stays high, the library \
                 is slower than the fills.",
            ),
        }
    }
}
