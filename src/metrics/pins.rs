//! What is counted of the paths that are kept through eviction.

use prometheus::IntGauge;

use super::declare::Declare;

/// What `snowbank pin` keeps.
#[derive(Debug, Clone)]
pub struct PinMetrics {
    /// Pins, each of a path or a closure.
    pub pins: IntGauge,
    /// Paths in them.
    pub paths: IntGauge,
    /// Paths in them that are not here.
    pub missing: IntGauge,
    /// Bytes of disk that they take.
    pub bytes: IntGauge,
}

impl PinMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            pins: declare.gauge("snowbank_pins", "Pins that snowbank pin made: each keeps a path or a closure."),
            paths: declare.gauge("snowbank_pins_paths", "Paths that are kept through eviction."),
            missing: declare.gauge(
                "snowbank_pins_missing_paths",
                "Pinned paths that are not whole here, and are tried to be fetched again each minute. Not 0 for long: their upstream is \
                 away, was taken out, or is not trusted any more; snowbank pin --list says which.",
            ),
            bytes: declare.gauge(
                "snowbank_pins_bytes",
                "Bytes of disk that pinned paths take; half of store.disk is the most.",
            ),
        }
    }
}
