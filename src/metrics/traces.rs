//! Traces on their way to a collector. Both stay 0 where none are sent.

use prometheus::IntCounter;

use super::declare::Declare;

/// See the module.
#[derive(Debug, Clone)]
pub struct TraceMetrics {
    /// Spans that the collector took.
    pub sent: IntCounter,
    /// Spans that it did not get.
    pub dropped: IntCounter,
}

impl TraceMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            sent: declare.counter("snowbank_trace_sent_total", "Spans of traces that the collector ([log] otlp) has taken."),
            dropped: declare.counter(
                "snowbank_trace_dropped_total",
                "Spans of traces that the collector ([log] otlp) did not get: it is down, refuses them, or is slower than they \
                 come. Requests do not wait for it. The log says why; [log] otlp_share sends fewer.",
            ),
        }
    }
}
