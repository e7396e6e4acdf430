//! NARs whose parts, each from another upstream, did not make up the whole that all of them announced.
//!
//! One of the upstreams sent something else, and nobody can tell which. The next fill of such a NAR is spliced from
//! nothing: one upstream gives all of it, those first that did not break off. Remembered in memory, for the last few.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::BlobId;

/// So many NARs are remembered (R26); the oldest is forgotten first.
const MOST: usize = 256;

/// The names of the upstreams that broke off, for each contested NAR.
#[derive(Debug, Default)]
pub(super) struct Contested(Mutex<VecDeque<(BlobId, Vec<Arc<str>>)>>);

impl Contested {
    /// The parts of this NAR did not fit together; `broke` are the upstreams that did not send theirs to its end.
    pub(super) fn note(&self, blob: BlobId, broke: Vec<Arc<str>>) {
        let mut known = self.lock();
        known.retain(|(other, _)| *other != blob);
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((blob, broke));
    }

    /// Who broke off, if this NAR is contested.
    pub(super) fn of(&self, blob: BlobId) -> Option<Vec<Arc<str>>> {
        self.lock().iter().find(|(other, _)| *other == blob).map(|(_, broke)| broke.clone())
    }

    /// The NAR is whole and right.
    pub(super) fn settled(&self, blob: BlobId) {
        self.lock().retain(|(other, _)| *other != blob);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(BlobId, Vec<Arc<str>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_until_they_are_settled() {
        let contested = Contested::default();
        let blob = |n: usize| {
            BlobId::new(
                &[u8::try_from(n % 251).unwrap(), u8::try_from(n / 251).unwrap(), 0, 0].repeat(8).try_into().unwrap(),
                1,
            )
        };
        for n in 0..=MOST {
            contested.note(blob(n), vec!["a".into()]);
        }
        assert!(contested.of(blob(0)).is_none());
        contested.note(blob(1), Vec::new());
        assert_eq!(contested.of(blob(1)), Some(Vec::new()));
        contested.settled(blob(1));
        assert!(contested.of(blob(1)).is_none() && contested.of(blob(2)).is_some());
    }
}
