//! Every metric, declared once: name, unit, labels, and help that says what it means and what to do.
//!
//! Each room gets its group of handles with the children resolved, so that counting is one atomic add; labels come
//! from closed enums made by [`label!`](crate::label!) or from the names in the configuration, never from a request.
//! There is no global registry: `app` makes one [`Metrics`] and hands the groups down, and so does each test.
//!
//! Out of scope: serving the page (see `admin`).

mod labels;

use std::marker::PhantomData;

pub use labels::{ConnectionEnd, FillFailure, Outcome, Refusal, ResponseEnd, Route};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// A closed set of label values.
pub trait Label: Copy + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value.
    const ALL: &'static [Self];
    /// The value as it is written in metrics, logs and headers.
    fn text(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Declares a closed set of label values: an enum whose variants know their text.
#[macro_export]
macro_rules! label {
    ($(#[$meta:meta])* pub enum $name:ident as $label:literal { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }
        impl $crate::metrics::Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[ $( Self::$variant ),* ];
            fn text(self) -> &'static str { match self { $( Self::$variant => $text ),* } }
            fn index(self) -> usize { self as usize }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::metrics::Label::text(*self))
            }
        }
    };
}

/// One counter for each value of a label.
#[derive(Debug, Clone)]
pub struct CounterBy<L> {
    children: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: Label> CounterBy<L> {
    /// The counter for `label`.
    pub fn of(&self, label: L) -> &IntCounter {
        &self.children[label.index()]
    }
}

/// One counter for each pair of values of two labels.
#[derive(Debug, Clone)]
pub struct CounterByTwo<A, B> {
    children: Vec<IntCounter>,
    label: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> CounterByTwo<A, B> {
    /// The counter for `a` and `b`.
    pub fn of(&self, a: A, b: B) -> &IntCounter {
        &self.children[a.index() * B::ALL.len() + b.index()]
    }
}

/// Declares metrics in a registry; the only place that panics on a name given twice, at start and in tests.
#[derive(Debug, Clone)]
pub struct Declare<'a>(pub &'a Registry);

#[allow(clippy::expect_used)] // names are literals in this crate: a clash is found by the first test that starts
impl Declare<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("each metric is declared once");
        collector
    }
    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help).expect("metric names are valid"))
    }
    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help).expect("metric names are valid"))
    }
    /// A counter for each value of a closed label.
    pub fn counter_by<L: Label>(&self, name: &str, help: &str) -> CounterBy<L> {
        let family = self.counters(name, help, &[L::NAME]);
        CounterBy {
            children: L::ALL.iter().map(|l| family.with_label_values(&[l.text()])).collect(),
            label: PhantomData,
        }
    }
    /// A counter for each pair of values of two closed labels.
    pub fn counter_by_two<A: Label, B: Label>(&self, name: &str, help: &str) -> CounterByTwo<A, B> {
        let family = self.counters(name, help, &[A::NAME, B::NAME]);
        let pairs = A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| [a.text(), b.text()]));
        CounterByTwo { children: pairs.map(|pair| family.with_label_values(&pair)).collect(), label: PhantomData }
    }
    /// A family of counters whose label values are known at start (upstream names).
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels).expect("metric names are valid"))
    }
    /// A family of gauges whose label values are known at start.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).expect("metric names are valid"))
    }
    /// A histogram of seconds.
    pub fn seconds(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts).expect("metric names are valid"))
    }
}

/// The registry and every room's group of handles.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What `/metrics` prints.
    pub registry: Registry,
    /// The edge's group.
    pub edge: EdgeMetrics,
    /// The store's group.
    pub store: StoreMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let declare = Declare(&registry);
        let edge = EdgeMetrics::new(&declare);
        let store = StoreMetrics::new(&declare);
        Self { registry, edge, store }
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
    /// Accepts that failed.
    pub accept_errors: IntCounter,
    /// Panics caught.
    pub panics: IntCounter,
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
            accept_errors: declare.counter(
                "snowbank_edge_accept_errors_total",
                "Connections that could not be accepted, mostly for want of files. Raise the limit of open files (LimitNOFILE) or lower limits.connections.",
            ),
            panics: declare.counter(
                "snowbank_edge_panics_total",
                "Requests that hit a bug and were answered with 500 or cut. Must stay 0: please report what the log says.",
            ),
        }
    }
}

/// What the store counts.
#[derive(Debug, Clone)]
pub struct StoreMetrics {}

impl StoreMetrics {
    fn new(_declare: &Declare<'_>) -> Self {
        Self {}
    }
}
