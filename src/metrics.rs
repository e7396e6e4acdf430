//! Every metric, declared once: name, unit, labels, and help that says what it means and what to do.
//!
//! Each room gets its group of handles with the children resolved, so that counting is one atomic add; labels come
//! from closed enums made by [`label!`](crate::label!) or from the names in the configuration, never from a request.
//! There is no global registry: `app` makes one [`Metrics`] and hands the groups down, and so does each test.
//!
//! Out of scope: serving the page (see `admin`).

mod certificates;
mod declare;
mod edge;
mod fill;
mod labels;
mod library;
mod limits;
pub mod openmetrics;
mod pins;
mod proxy;
mod running;
mod scrub;
mod store;
mod traces;
mod upstream;

pub use certificates::{CertificateMetrics, NameGauges};
pub use declare::{CounterBy, CounterByTwo, Declare, Label, SecondsByTwo};
pub use edge::EdgeMetrics;
pub use fill::FillMetrics;
pub use labels::{
    AccessDecision, CertificateFailure, ConnectionEnd, Dropped, FillFailure, Left, LimitReached, Outcome, Place,
    Prefetched, Refusal, ReloadEnd, ResponseEnd, Route, Scrubbed, StoreTier, TlsSession, TlsVersion, Written,
    WrittenAs,
};
pub use library::LibraryMetrics;
pub use limits::LimitMetrics;
pub use pins::PinMetrics;
pub use proxy::ProxyMetrics;
pub use scrub::ScrubMetrics;
pub use store::StoreMetrics;
pub use traces::TraceMetrics;
pub use upstream::{PrefetchMetrics, UpstreamMetrics};

use prometheus::{IntCounter, IntGauge, Registry};
use tokio::runtime::Handle;

use self::upstream::UpstreamFamilies;

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
    /// The group of what is pinned.
    pub pins: PinMetrics,
    /// The scrubber's group.
    pub scrub: ScrubMetrics,
    /// The certificates' group.
    pub certificates: CertificateMetrics,
    /// How often the configuration was read again.
    pub reloads: CounterBy<ReloadEnd>,
    /// 1 from the moment it is told to stop.
    pub draining: IntGauge,
    /// Lines that the log lost.
    pub log_dropped: IntCounter,
    /// The traces' group.
    pub traces: TraceMetrics,
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
        let pins = PinMetrics::new(&declare);
        let (scrub, certificates) = (ScrubMetrics::new(&declare), CertificateMetrics::new(&declare));
        let log_dropped = declare.counter(
            "snowbank_log_dropped_total",
            "Lines of the log that were dropped, because whoever reads stderr does not keep up. Requests do not wait for it. \
             Where this grows, the log's reader hangs or is too slow; [log] access = false leaves it less to read.",
        );
        let draining = declare.gauge(
            "snowbank_draining",
            "1 from the moment that it is told to stop: new clients are served for shutdown.delay, then none, and what runs is \
             finished within shutdown.drain.",
        );
        let traces = TraceMetrics::new(&declare);
        Self {
            registry,
            draining,
            pins,
            edge,
            proxy,
            fill,
            store,
            scrub,
            certificates,
            reloads,
            log_dropped,
            traces,
            upstreams,
        }
    }
}
