//! What is known of an upstream that matters to who asks for one body in parts, over several connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;

use super::Upstream;
use super::turns::bulk;
use crate::upstream::error::{Cause, UpstreamError};

impl Upstream {
    /// Whether it is worth while to ask for parts: not of nix-serve, which knows none, nor of a directory, nor of one that has
    /// few connections.
    pub fn answers_ranges(&self) -> bool {
        let is_directory = self.base.scheme() == "file";
        let careful = self.careful.load(Ordering::Relaxed);
        self.options.parallel && !is_directory && self.no_ranges.get().is_none() && bulk(&self.options, careful) >= 8
    }

    /// It has answered a range with more or less than that, and is not asked for parts for a while.
    pub fn ignores_ranges(&self) {
        self.no_ranges.note(0);
    }

    /// Whether more than a quarter of the connections for NARs is idle.
    pub fn has_spare_connection(&self) -> bool {
        let quarter = bulk(&self.options, self.careful.load(Ordering::Relaxed)) / 4;
        self.bulk_permits.available_permits() > quarter
    }

    /// The permit of a connection for a part, while there is one to spare.
    pub fn spare_connection(&self) -> Option<OwnedSemaphorePermit> {
        let take = || Arc::clone(&self.bulk_permits).try_acquire_owned().ok();
        self.has_spare_connection().then(take).flatten()
    }

    /// How wide one body is best fetched, where that was found out a short while ago.
    pub fn width(&self) -> Option<usize> {
        self.width.get().map(usize::from)
    }

    /// It was found out.
    pub fn is_best_at(&self, width: usize) {
        self.width.note(u8::try_from(width).unwrap_or(u8::MAX));
    }

    /// What is said where a part does not belong to the others.
    pub fn sent_another_part(&self) -> UpstreamError {
        self.error(Cause::Header("a part that is not of the body it began with"))
    }
}
