//! The task that sends spans: in batches, one request at a time, again where that may help, and the rest at the end.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Failure, Sender};
use super::encode::Speaker;
use crate::metrics::TraceMetrics;
use crate::telemetry;
use crate::trace::{BOUND, Batch, Recorder};

/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Between the tries to send one batch. What comes meanwhile waits in the queue, as long as there is room.
const TRIES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// The longest that a collector is left alone because it asks for it.
const LONGEST: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the last spans.
const LAST: Duration = Duration::from_secs(2);

/// The sending of traces, if they are sent.
#[derive(Debug)]
pub struct Traces(Option<Running>);

#[derive(Debug)]
struct Running {
    recorder: Recorder,
    metrics: TraceMetrics,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Traces {
    /// Starts the task, where `options` name a collector. Blocking: reads the system's roots.
    ///
    /// # Errors
    /// The system's roots cannot be used, with the reason in words.
    pub fn start(options: &telemetry::Options, metrics: &TraceMetrics) -> Result<Self, String> {
        let Some(collector) = &options.otlp else { return Ok(Self(None)) };
        let sender = Sender::new(collector).map_err(|why| format!("log.otlp: {why}"))?;
        tracing::info!("traces are sent to {collector}");
        let (recorder, stop) = (Recorder::new(metrics.dropped.clone()), CancellationToken::new());
        let exporter = Exporter {
            recorder: recorder.clone(),
            sender,
            speaker: Speaker::new(),
            metrics: metrics.clone(),
            stop: stop.clone(),
            is_failing: false,
        };
        Ok(Self(Some(Running { recorder, metrics: metrics.clone(), stop, task: tokio::spawn(exporter.run()) })))
    }

    /// Who takes spans.
    pub fn recorder(&self) -> Option<Recorder> {
        self.0.as_ref().map(|running| running.recorder.clone())
    }

    /// Sends what is left, for a moment. To be called when no more spans come.
    pub async fn finish(self) {
        let Some(Running { recorder, metrics, stop, mut task }) = self.0 else { return };
        let before = metrics.dropped.get();
        stop.cancel();
        if timeout(LAST, &mut task).await.is_err() {
            task.abort();
            let _ = task.await; // what it had in hand is counted when it lets go of it
        }
        drop(recorder.batch(BOUND));
        match metrics.dropped.get() - before {
            0 => {}
            lost => tracing::warn!("{lost} spans of traces were not sent before the end"),
        }
    }
}

struct Exporter {
    recorder: Recorder,
    sender: Sender,
    speaker: Speaker,
    metrics: TraceMetrics,
    stop: CancellationToken,
    /// That the collector takes nothing was told.
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self) {
        loop {
            let is_last = tokio::select! {
                () = self.recorder.many() => false,
                () = sleep(PAUSE) => false,
                () = self.stop.cancelled() => true,
            };
            loop {
                let batch = self.recorder.batch(BATCH);
                let count = batch.spans().len();
                if count > 0 {
                    self.export(batch).await;
                }
                // A few that came meanwhile wait for others.
                if count == 0 || (count < BATCH && !is_last) {
                    break;
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Sends a batch, or drops it.
    async fn export(&mut self, batch: Batch) {
        let body = self.speaker.encode(batch.spans());
        let mut pauses = TRIES.iter();
        let failure = loop {
            let failure = match self.sender.send(body.clone()).await {
                Ok(refused) => return self.arrived(batch, refused),
                Err(failure) => failure,
            };
            let pause =
                pauses.next().filter(|_| failure.again).map(|pause| failure.wait.unwrap_or(*pause).min(LONGEST));
            let Some(pause) = pause else { break failure };
            self.tell(&failure);
            if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                // One more try at the end, at once; then it is over.
                pauses = [].iter();
            }
        };
        self.tell(&failure);
    }

    fn arrived(&mut self, batch: Batch, refused: u64) {
        self.metrics.sent.inc_by(batch.sent(refused));
        if refused > 0 {
            let why = format!("it refuses {refused} spans of a request");
            self.tell(&Failure { why, again: false, wait: None });
        } else if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector of traces takes them again");
        }
    }

    /// Once until it works again.
    fn tell(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                "traces do not arrive at the collector: {}; what finds no room meanwhile is dropped",
                failure.why
            );
        }
    }
}
