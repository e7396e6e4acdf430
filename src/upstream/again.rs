//! How often an upstream is asked for the same thing again: a tenth as often as it is asked at all, and [`FIRST`] times more.
//!
//! A connection that was closed just when a request went over it, a NAR that broke off: to ask once more mends that. Where it
//! mends nothing it is load on an upstream that has trouble, two and three times that of its clients. So each time costs one
//! from what is left ([`Again`]), each request adds a tenth, and what was worth it (the rest of a NAR came) is given back. The
//! requests that one connection takes with it are one event: the first needs one to be left, and the others may owe theirs.
//!
//! Out of scope: whether asking again could mend it (`transport`, and `itinerary` of `fill`), and asking others.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stale::Heard;

/// How often an upstream of which nothing is known may be asked again.
const FIRST: i64 = 5;
/// At most so many are saved up.
const MOST: i64 = 100;
/// What one costs, in units of what a request adds.
const COST: i64 = 10;
/// So many may be owed: the streams of one connection.
const DEBT: i64 = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Again(Mutex<Left>);

#[derive(Debug)]
struct Left {
    /// In tenths.
    tenths: i64,
    /// The connection that the last one was paid for.
    paid: Option<Heard>,
}

impl Again {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Left { tenths: FIRST * COST, paid: None }))
    }

    /// The upstream is asked for something.
    pub(super) fn asked(&self) {
        let mut left = self.left();
        left.tenths = (left.tenths + 1).min(MOST * COST);
    }

    /// Whether it may be asked again; for what died with a connection, with that.
    pub(super) fn take(&self, died_with: Option<&Heard>) -> bool {
        let mut left = self.left();
        let is_paid = died_with.zip(left.paid.as_ref()).is_some_and(|(died, paid)| died.is_same(paid));
        let least = if is_paid { COST - DEBT * COST } else { COST };
        if left.tenths < least {
            return false;
        }
        left.tenths -= COST;
        if let Some(died) = died_with {
            left.paid = Some(died.clone());
        }
        true
    }

    /// It was worth it.
    pub(super) fn give_back(&self) {
        let mut left = self.left();
        left.tenths = (left.tenths + COST).min(MOST * COST);
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(again: &Again, died_with: Option<&Heard>) -> i64 {
        (0..1000).take_while(|_| again.take(died_with)).count().try_into().unwrap()
    }

    #[test]
    fn a_tenth_of_what_is_asked_at_all_is_asked_again() {
        let again = Again::new();
        assert_eq!(takes(&again, None), FIRST);
        (0..COST - 1).for_each(|_| again.asked());
        assert!(!again.take(None));
        again.asked();
        assert!(again.take(None) && !again.take(None));
        again.give_back();
        assert_eq!(takes(&again, None), 1);
        (0..100_000).for_each(|_| again.asked());
        assert_eq!(takes(&again, None), MOST);
    }

    #[test]
    fn what_dies_with_one_connection_is_one_event_and_owed() {
        let (again, connection, next) = (Again::new(), Heard::new(), Heard::new());
        assert_eq!(takes(&again, Some(&connection)), FIRST + DEBT);
        (0..(DEBT + 1) * COST).for_each(|_| again.asked());
        assert!(again.take(Some(&next)), "the debt is paid, and one is left");
        assert!(again.take(Some(&next)) && !again.take(Some(&connection)) && !again.take(None));
    }
}
