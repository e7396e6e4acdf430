//! The tools metrics are declared with: closed labels, and counters whose children are resolved at start.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

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
    /// The children of a family whose first label has this value and whose second is `L`.
    pub fn within(family: &IntCounterVec, first: &str) -> Self {
        let children = L::ALL.iter().map(|label| family.with_label_values(&[first, label.text()]));
        Self { children: children.collect(), label: PhantomData }
    }

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

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.children.iter().map(IntCounter::get).sum()
    }
}

/// One histogram of seconds for each pair of values of two labels, once there is something in it: each is a dozen lines of the
/// page, and most pairs never occur.
#[derive(Debug, Clone)]
pub struct SecondsByTwo<A, B> {
    family: HistogramVec,
    children: Arc<[OnceLock<Histogram>]>,
    label: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> SecondsByTwo<A, B> {
    /// The histogram for `a` and `b`.
    pub fn of(&self, a: A, b: B) -> &Histogram {
        let child = &self.children[a.index() * B::ALL.len() + b.index()];
        child.get_or_init(|| self.family.with_label_values(&[a.text(), b.text()]))
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
    /// Metrics that are read when they are asked for.
    pub fn collector(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect("each metric is declared once");
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
    /// The same of numbers that are no whole ones.
    pub fn float_counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.add(CounterVec::new(Opts::new(name, help), labels).expect("metric names are valid"))
    }
    /// A family of gauges whose label values come from the configuration.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).expect("metric names are valid"))
    }
    /// A family of histograms of seconds whose label values are known at start.
    pub fn seconds_of(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels).expect("metric names are valid"))
    }
    /// A histogram of seconds for each pair of values of two closed labels.
    pub fn seconds_by_two<A: Label, B: Label>(&self, name: &str, help: &str, buckets: &[f64]) -> SecondsByTwo<A, B> {
        let family = self.seconds_of(name, help, buckets, &[A::NAME, B::NAME]);
        let children = (0..A::ALL.len() * B::ALL.len()).map(|_| OnceLock::new()).collect();
        SecondsByTwo { family, children, label: PhantomData }
    }
    /// A histogram of seconds.
    pub fn seconds(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts).expect("metric names are valid"))
    }
}
