//! What is only known while a NAR is read: where its bytes come from.
//!
//! A reader notes it, and whoever writes the log looks when the body has ended. The witness also has the trace of the request, since
//! a hole that a reader comes upon is filled outside of the task that answered.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Place;
use crate::trace::{self, Trace};

const MEMORY: u8 = 1;
const DISK: u8 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct Witness {
    slowest: AtomicU8,
    upstream: Mutex<Option<Arc<str>>>,
    trace: Option<Trace>,
}

impl Witness {
    /// Of what the request that is being answered will read.
    pub fn of_this_request() -> Arc<Self> {
        Arc::new(Self { trace: trace::here(), ..Self::default() })
    }

    /// The slowest tier of the store that something was read from.
    pub fn tier(&self) -> Option<Place> {
        match self.slowest.load(Relaxed) {
            DISK => Some(Place::Disk),
            MEMORY => Some(Place::Memory),
            _ => None,
        }
    }

    /// The upstream that sent something of it meanwhile: the last one.
    pub fn upstream(&self) -> Option<Arc<str>> {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn trace(&self) -> Option<Trace> {
        self.trace.clone()
    }

    pub(super) fn read_from(&self, place: Place) {
        let rank = match place {
            Place::Nowhere => return,
            Place::Memory => MEMORY,
            Place::Disk => DISK,
        };
        self.slowest.fetch_max(rank, Relaxed);
    }

    pub(super) fn sent_by(&self, upstream: Option<Arc<str>>) {
        if upstream.is_some() {
            *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_tier_and_the_last_upstream_are_told() {
        let witness = Witness::default();
        assert_eq!((witness.tier(), witness.upstream()), (None, None));
        for (place, told) in [
            (Place::Nowhere, None),
            (Place::Memory, Some(Place::Memory)),
            (Place::Disk, Some(Place::Disk)),
            (Place::Memory, Some(Place::Disk)),
        ] {
            witness.read_from(place);
            assert_eq!(witness.tier(), told);
        }
        for name in ["a", "b"] {
            witness.sent_by(Some(name.into()));
        }
        witness.sent_by(None);
        assert_eq!(witness.upstream().as_deref(), Some("b"));
    }
}
