//! What is known of an upstream that matters to who asks for one body in parts, over several connections.

use std::sync::atomic::Ordering;

use super::Upstream;
use super::turns::bulk;
use crate::clock::UnixSeconds;
use crate::upstream::error::{Cause, UpstreamError};

/// For how many minutes it is remembered how many connections are worth it.
const REMEMBERED: u64 = 10;

impl Upstream {
    /// Whether it is worth while to ask for parts: not of nix-serve, which knows none, nor of a directory, nor of one that has
    /// few connections.
    pub fn answers_ranges(&self) -> bool {
        let is_directory = self.base.scheme() == "file";
        let careful = self.careful.load(Ordering::Relaxed);
        self.options.parallel
            && !is_directory
            && !self.no_ranges.load(Ordering::Relaxed)
            && bulk(&self.options, careful) >= 8
    }

    /// It has answered a range with all of the body.
    pub fn ignores_ranges(&self) {
        self.no_ranges.store(true, Ordering::Relaxed);
    }

    /// Whether a quarter of the connections for NARs is idle.
    pub fn has_connections_to_spare(&self) -> bool {
        self.bulk_permits.available_permits() > bulk(&self.options, self.careful.load(Ordering::Relaxed)) / 4
    }

    /// How wide one body is best fetched, where that was found out a moment ago.
    pub fn width(&self) -> Option<usize> {
        let (noted, now) = (self.width.load(Ordering::Relaxed), minute());
        let is_fresh = now.saturating_sub(noted >> 8) < REMEMBERED;
        usize::try_from(noted & 0xff).ok()?.checked_sub(1).filter(|_| is_fresh)
    }

    /// It was found out.
    pub fn is_best_at(&self, width: usize) {
        let width = u64::try_from(width).unwrap_or(0).min(0xfe) + 1;
        self.width.store(minute() << 8 | width, Ordering::Relaxed);
    }

    /// What is said where a part does not belong to the others.
    pub fn sent_another_part(&self) -> UpstreamError {
        self.error(Cause::Header("a part that is not of the body it began with"))
    }
}

fn minute() -> u64 {
    UnixSeconds::now().0 / 60
}
