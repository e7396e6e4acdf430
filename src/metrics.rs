//! Every metric, declared once: name, unit, labels, and help that says what it means and what to do.
//!
//! Each room gets its group of handles with the children resolved, so that counting is one atomic add; labels come
//! from closed enums made by [`label!`](crate::label!) or from the names in the configuration, never from a request.
//! There is no global registry: `app` makes one [`Metrics`] and hands the groups down, and so does each test.
//!
//! Out of scope: serving the page (see `admin`).

use std::marker::PhantomData;

use mixtrics::registry::prometheus_0_14::PrometheusMetricsRegistry;
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
    /// The store's group.
    pub store: StoreMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let store = StoreMetrics::new(&Declare(&registry));
        Self { registry, store }
    }
}

label! {
    /// Where a read of the store was answered from.
    pub enum Place as "place" {
        /// The memory tier.
        Memory = "memory",
        /// The disk tier.
        Disk = "disk",
        /// Nowhere.
        Nowhere = "nowhere",
    }
}

label! {
    /// One of the store's two tiers.
    pub enum StoreTier as "tier" {
        /// Chunks of NARs.
        Nar = "nar",
        /// Manifests and small objects.
        Meta = "meta",
    }
}

/// What the store counts.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Reads by tier and by where they were answered.
    pub reads: CounterByTwo<StoreTier, Place>,
    /// Entries written to disk and found in its index afterwards.
    pub written: IntCounter,
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
            foyer: PrometheusMetricsRegistry::new(declare.0.clone()),
        }
    }
}
