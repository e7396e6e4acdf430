//! Every metric, declared once: name, unit, labels, and help that says what it means and what to do.
//!
//! Each room gets its group of handles with the children resolved, so that counting is one atomic add; labels come
//! from closed enums made by [`label!`](crate::label!) or from the names in the configuration, never from a request.
//! There is no global registry: `app` makes one [`Metrics`] and hands the groups down, and so does each test.
//!
//! Out of scope: serving the page (see `admin`).

mod certificates;
mod declare;
mod labels;
mod limits;
pub mod openmetrics;
mod running;

pub use certificates::{CertificateMetrics, NameGauges};
pub use declare::{CounterBy, CounterByTwo, Declare, Label};
pub use labels::{
    AccessDecision, CertificateFailure, ConnectionEnd, FillFailure, Left, LimitReached, Outcome, Place, Refusal,
    ReloadEnd, ResponseEnd, Route, Scrubbed, StoreTier, TlsSession, TlsVersion,
};
pub use limits::LimitMetrics;
use mixtrics::registry::prometheus_0_14::PrometheusMetricsRegistry;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tokio::runtime::Handle;

/// The registry and every room's group of handles.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What `/metrics` prints.
    pub registry: Registry,
    /// The edge's group.
    pub edge: EdgeMetrics,
    /// The proxy's group.
    pub proxy: ProxyMetrics,
    /// The fills' group.
    pub fill: FillMetrics,
    /// The store's group.
    pub store: StoreMetrics,
    /// The scrubber's group.
    pub scrub: ScrubMetrics,
    /// The certificates' group.
    pub certificates: CertificateMetrics,
    /// How often the configuration was read again.
    pub reloads: CounterBy<ReloadEnd>,
    /// Lines that the log lost.
    pub log_dropped: IntCounter,
    upstreams: UpstreamFamilies,
}

impl Metrics {
    /// Tells of the process and of this runtime too; to be asked for once.
    pub fn watch(&self, runtime: &Handle) {
        running::declare(&Declare(&self.registry), runtime);
    }

    /// The group of the upstream called `name`; names come from the configuration.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.upstreams.of(name)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let declare = Declare(&registry);
        let edge = EdgeMetrics::new(&declare);
        let (proxy, fill) = (ProxyMetrics::new(&declare), FillMetrics::new(&declare));
        let (store, upstreams) = (StoreMetrics::new(&declare), UpstreamFamilies::new(&declare));
        let reloads = declare.counter_by(
            "snowbank_reloads_total",
            "How often the configuration was read again (SIGHUP). refused: something is wrong in it and the old one is still in force; the log says what.",
        );
        let (scrub, certificates) = (ScrubMetrics::new(&declare), CertificateMetrics::new(&declare));
        let log_dropped = declare.counter(
            "snowbank_log_dropped_total",
            "Lines of the log that were dropped, because whoever reads stderr does not keep up. Requests do not wait for it. \
             Where this grows, the log's reader hangs or is too slow; [log] access = false leaves it less to read.",
        );
        Self { registry, edge, proxy, fill, store, scrub, certificates, reloads, log_dropped, upstreams }
    }
}

/// What the proxy counts.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    /// Clients that joined a running fill.
    pub coalesced: IntCounter,
    /// NARs that were found out not to be what their narinfo says, and are held back since.
    pub quarantined: IntCounter,
    /// Questions that the next group was asked too before one was done.
    pub hedges: IntCounter,
    /// Clients that wait for upstreams now.
    pub waiting: IntGauge,
    /// Requests about which the `[[access]]` tables had something to say.
    pub access: CounterBy<AccessDecision>,
}

impl ProxyMetrics {
    fn new(declare: &Declare<'_>) -> Self {
        Self {
            coalesced: declare.counter(
                "snowbank_proxy_coalesced_total",
                "Requests for a NAR that was being fetched already, and that were served from that fetch.",
            ),
            quarantined: declare.counter(
                "snowbank_proxy_quarantined_total",
                "How often NARs were found not to be what their narinfo says; they are not served since. Never ordinary; snowbank_upstream_refused_total tells whose they were and why, the log which.",
            ),
            hedges: declare.counter(
                "snowbank_proxy_hedges_total",
                "Narinfos that the upstreams next in order were asked for as well, because one before them took longer \
                 than it usually does. At most one for every five narinfos that upstreams are asked for, except while one that \
                 is asked says nothing at all.",
            ),
            waiting: declare.gauge(
                "snowbank_proxy_waiting",
                "Requests of clients that wait for an upstream: for what it says, or for the first bytes of a NAR. At half of \
                 limits.requests further ones are refused with 503, and what is here is served all the same.",
            ),
            access: declare.counter_by(
                "snowbank_proxy_access_total",
                "Requests of clients that may see private upstreams (granted), and of those that showed an Authorization and may \
                 not (refused): their token is wrong or was revoked, or another condition of its table does not hold. Both \
                 are answered alike where they ask for what is public.",
            ),
        }
    }
}

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
    fn new(declare: &Declare<'_>) -> Self {
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

/// What the scrubber counts.
#[derive(Debug, Clone)]
pub struct ScrubMetrics {
    /// Chunks by what was found.
    pub chunks: CounterBy<Scrubbed>,
    /// Walks over everything that came to their end.
    pub walks: IntCounter,
}

impl ScrubMetrics {
    fn new(declare: &Declare<'_>) -> Self {
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

/// The families of which each upstream has a member.
#[derive(Debug, Clone)]
struct UpstreamFamilies {
    requests: IntCounterVec,
    answers: IntCounterVec,
    resends: IntCounterVec,
    refused: IntCounterVec,
    bytes: IntCounterVec,
    latency: HistogramVec,
    breaker: IntGaugeVec,
    openings: IntCounterVec,
    unasked: IntCounterVec,
}

/// What is counted for one upstream.
#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    /// Requests sent.
    pub requests: IntCounter,
    /// Answers "have".
    pub have: IntCounter,
    /// Answers "have not".
    pub have_not: IntCounter,
    /// Answers that are neither, and none.
    pub unknown: IntCounter,
    /// Requests sent again on another connection.
    pub resends: IntCounter,
    /// What was not believed.
    pub refused: CounterBy<Refusal>,
    /// Body bytes received.
    pub bytes: IntCounter,
    /// Seconds to the response head.
    pub latency: Histogram,
    /// The state of its circuit breaker: 0 closed, 1 half-open, 2 open.
    pub breaker: IntGauge,
    /// How often it was taken for down.
    pub openings: IntCounter,
    /// Requests that were not sent because it is taken for down.
    pub unasked: IntCounter,
}

impl UpstreamFamilies {
    fn new(declare: &Declare<'_>) -> Self {
        let upstream = &["upstream"];
        Self {
            requests: declare.counters("snowbank_upstream_requests_total", "Requests sent to an upstream.", upstream),
            answers: declare.counters(
                "snowbank_upstream_answers_total",
                "What an upstream said: have, have-not, or unknown (no answer, or one that is neither yes nor no). A \
                 growing unknown means that it is down or slow.",
                &["upstream", "answer"],
            ),
            resends: declare.counters(
                "snowbank_upstream_resends_total",
                "Requests sent again because a kept connection was closed, or silent for half of a narinfo's time. Ordinary for \
                 nix-serve, which closes after a second.",
                upstream,
            ),
            refused: declare.counters(
                "snowbank_upstream_refused_total",
                "Narinfos and NARs of an upstream that were not believed, by reason. Clients were told that the path is not \
                 there, or got it from the next upstream. Never ordinary: its key changed, it is misconfigured, broken, \
                 or it lies. The log names the paths.",
                &["upstream", Refusal::NAME],
            ),
            bytes: declare.counters("snowbank_upstream_received_bytes_total", "Body bytes received from an upstream.", upstream),
            latency: declare.seconds_of(
                "snowbank_upstream_latency_seconds",
                "Time from sending a request to an upstream until the head of its response.",
                // 1 ms to 16 s
                &[0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0],
                upstream,
            ),
            breaker: declare.gauges(
                "snowbank_upstream_breaker_state",
                "Whether an upstream is asked: 0 as usual, 2 not at all for some seconds because it did not answer, 1 by \
                 one request that finds out whether it is back. What is cached is served meanwhile.",
                upstream,
            ),
            openings: declare.counters(
                "snowbank_upstream_breaker_openings_total",
                "How often an upstream was taken for down, because it could not be reached, did not answer in time, or \
                 answered 5xx or 429. The log says why. Now and then without an outage: raise its narinfo_timeout.",
                upstream,
            ),
            unasked: declare.counters(
                "snowbank_upstream_unasked_total",
                "Requests that were not sent to an upstream because it is taken for down.",
                upstream,
            ),
        }
    }

    fn of(&self, name: &str) -> UpstreamMetrics {
        let answers = |answer| self.answers.with_label_values(&[name, answer]);
        UpstreamMetrics {
            requests: self.requests.with_label_values(&[name]),
            have: answers("have"),
            have_not: answers("have-not"),
            unknown: answers("unknown"),
            resends: self.resends.with_label_values(&[name]),
            refused: CounterBy::within(&self.refused, name),
            bytes: self.bytes.with_label_values(&[name]),
            latency: self.latency.with_label_values(&[name]),
            breaker: self.breaker.with_label_values(&[name]),
            openings: self.openings.with_label_values(&[name]),
            unasked: self.unasked.with_label_values(&[name]),
        }
    }
}

/// What the edge counts.
#[derive(Debug, Clone)]
pub struct EdgeMetrics {
    /// Requests by what was asked for and how it was answered.
    pub requests: CounterByTwo<Route, Outcome>,
    /// Responses by how they ended.
    pub responses: CounterBy<ResponseEnd>,
    /// Bytes of bodies.
    pub response_bytes: IntCounter,
    /// Connections open now.
    pub connections_open: IntGauge,
    /// Connections by how they ended.
    pub connections: CounterBy<ConnectionEnd>,
    /// TLS sessions that came about.
    pub sessions: CounterByTwo<TlsVersion, TlsSession>,
    /// How long their handshakes took.
    pub handshake: Histogram,
    /// Accepts that failed.
    pub accept_errors: IntCounter,
    /// Panics caught.
    pub panics: IntCounter,
    /// The limits for each client.
    pub limits: LimitMetrics,
}

impl EdgeMetrics {
    fn new(declare: &Declare<'_>) -> Self {
        Self {
            requests: declare.counter_by_two(
                "snowbank_edge_requests_total",
                "Requests answered, by what was asked for and how the answer was come by. Their sum is all requests; many of unknown mean that an upstream is down.",
            ),
            responses: declare.counter_by(
                "snowbank_edge_responses_total",
                "Responses by how they ended. broken: the source of the bytes failed after the head was sent, the log says why; client-gone: the client closed first, usually harmless.",
            ),
            response_bytes: declare.counter(
                "snowbank_edge_response_bytes_total",
                "Bytes of response bodies handed to connections, before encryption.",
            ),
            connections_open: declare.gauge(
                "snowbank_edge_connections_open",
                "Client connections open now. At the bound (limits.connections) further clients wait: raise it and the limit of open files.",
            ),
            connections: declare.counter_by(
                "snowbank_edge_connections_total",
                "Client connections by how they ended. Many of handshake: clients that do not trust the certificate, or no TLS clients at all.",
            ),
            sessions: declare.counter_by_two(
                "snowbank_edge_tls_sessions_total",
                "TLS sessions that came about, by version, and by whether the client went on from an earlier one (resumed), \
                 which costs a tenth. What did not come about is in snowbank_edge_connections_total.",
            ),
            handshake: declare.seconds(
                "snowbank_edge_handshake_seconds",
                "Time for a TLS handshake, the way to the client and waiting for others included. Long for everybody: \
                 limits.handshakes is reached, or there is too little processor.",
                // 1 ms to 4 s
                &[0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0],
            ),
            accept_errors: declare.counter(
                "snowbank_edge_accept_errors_total",
                "Connections that could not be accepted, mostly for want of files. Raise the limit of open files (LimitNOFILE) or lower limits.connections.",
            ),
            panics: declare.counter(
                "snowbank_edge_panics_total",
                "Requests that hit a bug and were answered with 500 or cut. Must stay 0: please report what the log says.",
            ),
            limits: LimitMetrics::new(declare),
        }
    }
}

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
    fn new(declare: &Declare<'_>) -> Self {
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
