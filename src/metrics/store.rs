//! What is counted of memory and disk.

use mixtrics::registry::prometheus_0_14::PrometheusMetricsRegistry;
use prometheus::{Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::declare::{CounterByTwo, Declare, Label};
use super::labels::{Place, StoreTier};

/// What the store counts.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Reads by tier and by where they were answered.
    pub reads: CounterByTwo<StoreTier, Place>,
    /// Entries written to disk and found in its index afterwards.
    pub written: IntCounter,
    /// Bytes taken and not yet written.
    pub unwritten_bytes: IntGauge,
    /// Entries lost while they were written.
    pub lost: IntCounter,
    /// Entries that the index had and the disk did not give.
    pub bad_reads: IntCounter,
    /// Chunks written again because their NAR is in use.
    pub second_chances: IntCounter,
    /// How long writers waited at the gate.
    pub gate_wait: Histogram,
    /// 1 while the disk tier takes writes.
    pub disk_up: IntGauge,
    /// Times the disk tier was taken out or did not open.
    pub disk_failures: IntCounter,
    /// Bytes of disk the store has allocated.
    pub disk_bytes: IntGauge,
    /// Bytes of memory that a tier may take.
    pub memory_capacity: IntGaugeVec,
    /// Chunks on disk that were not those of their manifest.
    pub wrong_chunks: IntCounter,
    /// foyer's own metrics, in the same registry under their own names.
    pub foyer: PrometheusMetricsRegistry,
}

impl StoreMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            reads: declare.counter_by_two(
                "snowbank_store_reads_total",
                "Reads of chunks (tier=nar) and of manifests and small objects (tier=meta), by where they were found. \
                 Many chunks from disk: more memory would help.",
            ),
            written: declare.counter(
                "snowbank_store_written_entries_total",
                "Entries written to disk and found there afterwards.",
            ),
            unwritten_bytes: declare.gauge(
                "snowbank_store_unwritten_bytes",
                "Bytes the store has taken and not yet written to disk. At the size of the write gate fills wait for the disk.",
            ),
            lost: declare.counter(
                "snowbank_store_lost_entries_total",
                "Entries that were gone after they were written. Must stay 0: look for errors of the disk.",
            ),
            bad_reads: declare.counter(
                "snowbank_store_bad_reads_total",
                "Entries in the index that the disk did not give back whole; they are fetched again. More than a few: \
                 the disk loses data, or the machine lost power.",
            ),
            second_chances: declare.counter(
                "snowbank_store_second_chances_total",
                "Chunks written again before their block was reused, because their NAR is in use. Near the rate of \
                 written entries: the disk is too small for what is in use.",
            ),
            gate_wait: declare.seconds(
                "snowbank_store_gate_wait_seconds",
                "How long a fill waited for the disk to take a chunk, when it had to. Much of it: the disk is slower \
                 than the upstreams.",
                &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0],
            ),
            disk_up: declare.gauge(
                "snowbank_store_disk_up",
                "1 while the disk tier takes writes. 0 with a directory configured: the store runs in memory, see the log.",
            ),
            disk_failures: declare.counter(
                "snowbank_store_disk_failures_total",
                "Times the disk tier did not open or was taken out because it lost writes; each first one is logged.",
            ),
            disk_bytes: declare.gauge("snowbank_store_disk_bytes", "Bytes of disk allocated, used or not."),
            memory_capacity: declare.gauges(
                "snowbank_store_memory_capacity_bytes",
                "Bytes of memory that each tier may take (nar: chunks of NARs, meta: manifests and small objects); what they \
                 take is in foyer_memory_usage.",
                &[StoreTier::NAME],
            ),
            wrong_chunks: declare.counter(
                "snowbank_store_wrong_chunks_total",
                "Chunks read from disk that were not the ones their manifest means; they were fetched again. A few after \
                 the process was killed are harmless leftovers of fills that failed.",
            ),
            foyer: PrometheusMetricsRegistry::new(declare.0.clone()),
        }
    }
}
