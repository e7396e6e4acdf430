//! The scrubber: examines what is kept, again and again, at a pace that nobody feels (R11).

use std::time::Duration;

use super::{How, Report};
use crate::metrics::{Label as _, ScrubMetrics, Scrubbed};
use crate::proxy::Proxy;
use crate::store::CHUNK;

/// The least time between the end of a walk and the next: a store that is nearly empty is not walked without end.
const REST: u32 = 100;

/// See the module.
#[derive(Debug)]
pub struct Scrubber {
    proxy: Proxy,
    period: Duration,
    pause: Duration,
    metrics: ScrubMetrics,
}

impl Scrubber {
    /// Walks so slowly that a full disk tier of `disk` bytes takes `period`. `None` when there is nothing to scrub.
    pub fn new(proxy: Proxy, period: Duration, disk: u64, metrics: ScrubMetrics) -> Option<Self> {
        let chunks = u32::try_from(disk / CHUNK as u64).unwrap_or(u32::MAX);
        (!period.is_zero() && chunks > 0).then(|| Self { proxy, period, pause: period / chunks, metrics })
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        // What is on disk is not there before.
        self.proxy.store().opened(Duration::MAX).await;
        loop {
            let how = How { everything: false, mend: true, pause: self.pause };
            let mut before = [0; 4];
            let count = |report: &Report| {
                let now = [report.right_chunks, report.wrong_chunks, report.absent_chunks, report.mended_chunks];
                for (label, (now, before)) in Scrubbed::ALL.iter().zip(now.iter().zip(before)) {
                    self.metrics.chunks.of(*label).inc_by(now - before);
                }
                before = now;
            };
            let report = self.proxy.examine(how, count).await;
            if report.complete {
                self.metrics.walks.inc();
            }
            if report.wrong() > 0 {
                tracing::warn!("scrubbed: {}", report.line());
            }
            tokio::time::sleep(self.period / REST).await;
        }
    }
}
