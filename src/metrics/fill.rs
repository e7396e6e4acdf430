//! What is counted of NARs on their way from an upstream.

use prometheus::{IntCounter, IntGauge};

use super::declare::{CounterBy, Declare};
use super::labels::{FillFailure, Left};

/// What the fills count.
#[derive(Debug, Clone)]
pub struct FillMetrics {
    /// Fills begun.
    pub started: IntCounter,
    /// Fills that went on from what an earlier one had left.
    pub resumed: IntCounter,
    /// Changes of the source in the middle of a NAR.
    pub failovers: CounterBy<Left>,
    /// Bytes read over because a source that knows no ranges had to be read from the start.
    pub skipped: IntCounter,
    /// Fills that ended with a whole, verified NAR.
    pub completed: IntCounter,
    /// Fills that did not.
    pub failed: CounterBy<FillFailure>,
    /// Fills running now.
    pub running: IntGauge,
    /// Chunks fetched again into a hole.
    pub refilled: IntCounter,
    /// Responses broken off in the middle.
    pub aborted: IntCounter,
    /// Stored NARs that were proven.
    pub proven: IntCounter,
    /// Proofs put off because too many wait.
    pub proofs_put_off: IntCounter,
}

impl FillMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            started: declare.counter("snowbank_fill_started_total", "NARs whose fetching from an upstream was begun."),
            resumed: declare.counter(
                "snowbank_fill_resumed_total",
                "NARs whose fetching went on from the bytes that an earlier, interrupted fetch had stored.",
            ),
            failovers: declare.counter_by(
                "snowbank_fill_failovers_total",
                "How often an upstream was left in the middle of a NAR and the rest came from another one, or from the same \
                 one asked again, by what it did. The log names both.",
            ),
            skipped: declare.counter(
                "snowbank_fill_skipped_bytes_total",
                "Bytes that were fetched again and dropped, because an upstream that was to give the rest of a NAR knows no ranges.",
            ),
            completed: declare.counter(
                "snowbank_fill_completed_total",
                "NARs fetched from an upstream whole, with the right size and hash.",
            ),
            failed: declare.counter_by(
                "snowbank_fill_failed_total",
                "NARs that could not be fetched, by reason. refused means that an upstream sent something else than it \
                 announced: see snowbank_upstream_refused_total and the log.",
            ),
            running: declare.gauge("snowbank_fill_running", "NARs being fetched from upstreams now."),
            refilled: declare.counter(
                "snowbank_fill_refilled_chunks_total",
                "Chunks of stored NARs that were gone (evicted or damaged on disk) and were fetched again. Many of them: \
                 the store is too small for what is asked.",
            ),
            aborted: declare.counter(
                "snowbank_fill_aborted_responses_total",
                "NAR responses broken off because the bytes could not be had or proven. Nix tries these again.",
            ),
            proven: declare.counter(
                "snowbank_fill_proven_total",
                "Stored NARs that were decompressed and found to be what their narinfo says. (Small ones are proven while they are fetched, and not counted here.)",
            ),
            proofs_put_off: declare.counter(
                "snowbank_fill_proofs_put_off_total",
                "NARs that were not proven after they were fetched, because too many waited. They are proven when the store is walked over. Many of them: the processor is too slow for what is fetched.",
            ),
        }
    }
}
