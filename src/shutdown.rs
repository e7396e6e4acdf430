//! The end of the process.

use crate::options::Period;

crate::options! {
    /// How the server stops.
    pub struct Options {
        /// How long running downloads may go on after SIGTERM, SIGINT or SIGHUP; what is not done by then is cut. Keep it below
        /// the limit of whatever sends the signal (`TimeoutStopSec` of systemd, `terminationGracePeriodSeconds` of
        /// Kubernetes).
        pub drain: Period = Period::seconds(300),
    }
}
