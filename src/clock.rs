//! The time: monotonic for waiting, wall clock for what is kept across restarts.
//!
//! R32: lifetimes inside the process go by the monotonic clock (`tokio::time`, which tests can pause). What is written
//! to disk needs the wall clock, and this is the one place that reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock now: the time since 1970-01-01T00:00:00Z.
#[allow(clippy::disallowed_methods)] // the one reader of the wall clock
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock now: seconds since 1970-01-01T00:00:00Z, and the microseconds of the second that runs.
pub fn now_to_the_microsecond() -> (u64, u32) {
    let since = since_1970();
    (since.as_secs(), since.subsec_micros())
}

/// Seconds since 1970-01-01T00:00:00Z, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The wall clock now.
    pub fn now() -> Self {
        Self(since_1970().as_secs())
    }

    /// This moment and `seconds` more.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}
