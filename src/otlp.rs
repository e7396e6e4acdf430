//! Traces on their way to a collector, in the protocol of OpenTelemetry (OTLP over HTTP, protobuf).
//!
//! ```text
//! edge, upstream ──take──▶ Recorder ──batch──▶ Exporter ──POST──▶ collector
//!                         (4096 spans)         (a task)
//! ```
//!
//! Nobody who is served waits for any of this: what finds no room in the queue is dropped and counted, and so is what the collector
//! does not take. All of it is in the program with the feature `otlp` only; without it this is a door with nothing behind it.
//!
//! Out of scope: what is recorded (`trace`, `edge/access`), metrics and logs over OTLP, and gRPC.

#[cfg(feature = "otlp")]
mod client;
#[cfg(feature = "otlp")]
mod encode;
#[cfg(feature = "otlp")]
mod exporter;

#[cfg(feature = "otlp")]
pub use self::exporter::Traces;

/// Nothing.
#[cfg(not(feature = "otlp"))]
#[derive(Debug)]
pub struct Traces;

#[cfg(not(feature = "otlp"))]
impl Traces {
    /// There is nothing to start: the option that asks for it was refused.
    ///
    /// # Errors
    /// None.
    pub fn start(_: &crate::telemetry::Options, _: &crate::metrics::TraceMetrics) -> Result<Self, String> {
        Ok(Self)
    }

    /// Nobody takes spans.
    pub fn recorder(&self) -> Option<crate::trace::Recorder> {
        None
    }

    /// There is nothing to end.
    pub async fn finish(self) {}
}
