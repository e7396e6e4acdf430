//! What the running program tells of itself when it is asked: process, runtime, build.

use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};
use tokio::runtime::{Handle, RuntimeMetrics};

use super::declare::Declare;

/// Declares them. Called once, from within the runtime that is told about.
pub(super) fn declare(declare: &Declare<'_>, runtime: &Handle) {
    let build = declare.gauges("snowbank_build_info", "1, for the version that runs.", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    declare.collector(ProcessCollector::for_self());
    declare.collector(Runtime::new(runtime));
}

/// The asynchronous runtime's own counts, read when they are asked for.
struct Runtime {
    metrics: RuntimeMetrics,
    workers: IntGauge,
    tasks: IntGauge,
    queued: IntGauge,
    busy: Counter,
    /// One scrape at a time: two would both see the same growth.
    asking: Mutex<()>,
}

impl Runtime {
    #[allow(clippy::expect_used)] // the names are literals: the first test that starts would find a wrong one
    fn new(runtime: &Handle) -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("metric names are valid");
        Self {
            metrics: runtime.metrics(),
            workers: gauge("snowbank_runtime_workers", "Threads that requests are served on."),
            tasks: gauge("snowbank_runtime_tasks", "Tasks that run or wait: connections, requests of HTTP/2, fills."),
            queued: gauge(
                "snowbank_runtime_queued_tasks",
                "Tasks that could run and wait for a thread. More than a few for long: the processor is what there is too little of.",
            ),
            busy: Counter::new(
                "snowbank_runtime_busy_seconds_total",
                "Time for which threads ran tasks. A second each second for each of the workers is all there is.",
            )
            .expect("metric names are valid"),
            asking: Mutex::default(),
        }
    }
}

impl Collector for Runtime {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.workers, &self.tasks, &self.queued].into_iter().flat_map(Collector::desc);
        gauges.chain(self.busy.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = self.metrics.num_workers();
        self.workers.set(count(workers));
        self.tasks.set(count(self.metrics.num_alive_tasks()));
        self.queued.set(count(self.metrics.global_queue_depth()));
        let busy: f64 = (0..workers).map(|n| self.metrics.worker_total_busy_duration(n).as_secs_f64()).sum();
        self.busy.inc_by((busy - self.busy.get()).max(0.0));
        let gauges = [&self.workers, &self.tasks, &self.queued].into_iter().flat_map(Collector::collect);
        gauges.chain(self.busy.collect()).collect()
    }
}
