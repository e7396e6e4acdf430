//! The end of the process, step by step (R34):
//!
//! ```text
//! SIGTERM ─▶ /readyz 503 ── delay ──▶ nobody is let in ── drain ──▶ what still runs is cut ─▶ the store is written ─▶ 0
//!                 └───────── SIGTERM or SIGINT once more ─────────▶ everything is cut ─▶ 130
//! ```

use crate::options::Period;

crate::options! {
    /// How the server stops.
    pub struct Options {
        /// How long new clients are still served after SIGTERM, SIGINT or SIGHUP, while `/readyz` says that it is about to stop:
        /// the time that a load balancer needs to look there, or Kubernetes to take it out of its services ("10 s"). Counts
        /// on top of `drain`.
        pub delay: Period = Period::seconds(0),
        /// How long running downloads may go on after SIGTERM, SIGINT or SIGHUP; what is not done by then is cut. Keep it below
        /// the limit of whatever sends the signal (`TimeoutStopSec` of systemd, `terminationGracePeriodSeconds` of
        /// Kubernetes).
        pub drain: Period = Period::seconds(300),
    }
}

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should.
    InOrder,
    /// It was told twice, and broke off whatever ran.
    AtOnce,
}
