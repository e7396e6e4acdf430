//! How often was ordered for a name, and when that may be done again: what keeps a mistake, or a crash in a loop, from using
//! up what a CA grants an account.
//!
//! Kept on disk, so that a restart does not begin anew.

use std::time::Duration;

use serde_json::{Value, json};

use super::schedule::{self, After};
use crate::clock::UnixSeconds;

const HOUR: u64 = 3600;
/// Orders of an hour that brought nothing; the best known CA blocks a name for an hour after as many failures.
const VAIN: u64 = 5;
/// Orders of an hour, for certificates that live long enough.
const ORDERS: u64 = 5;

/// The account of one name's orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The orders of the last hour, and whether each brought a certificate.
    orders: Vec<(UnixSeconds, bool)>,
    /// Failures in a row.
    failures: u32,
    /// Our own wait after a failure.
    wait: UnixSeconds,
    /// The wait that the CA asks for.
    told: UnixSeconds,
}

impl Ledger {
    /// From when on an order may be made. `lifetime` is that of the certificate in force, in seconds.
    pub(super) fn open_at(&self, now: UnixSeconds, lifetime: Option<u64>) -> UnixSeconds {
        self.wait.max(self.told).max(self.granted_at(now, lifetime))
    }

    /// From when on the orders of the last hour leave room for another.
    pub(super) fn granted_at(&self, now: UnixSeconds, lifetime: Option<u64>) -> UnixSeconds {
        let recent: Vec<_> = self.orders.iter().filter(|(at, _)| at.plus(HOUR) > now).collect();
        let vain: Vec<_> = recent.iter().filter(|(_, fruitful)| !fruitful).collect();
        // Certificates of half a minute need two orders in each; a few that come to nothing must not be the end of them.
        let each = |orders: u64, least: u64| {
            let granted = lifetime.map_or(least, |seconds| least.max(orders * HOUR / seconds.max(1)));
            usize::try_from(granted).unwrap_or(usize::MAX)
        };
        let (granted, in_vain) = (each(4, ORDERS), each(1, VAIN));
        // The one that has to leave the hour before there is room again.
        let after = |orders: usize, at: Option<UnixSeconds>, bound: usize| {
            at.filter(|_| orders >= bound).map_or(UnixSeconds(0), |at| at.plus(HOUR))
        };
        let by_vain = after(vain.len(), vain.iter().rev().nth(in_vain - 1).map(|(at, _)| *at), in_vain);
        let by_all = after(recent.len(), recent.iter().rev().nth(granted - 1).map(|(at, _)| *at), granted);
        by_vain.max(by_all)
    }

    /// An order is about to be made. It counts as vain until it is not.
    pub(super) fn ordered(&mut self, now: UnixSeconds) {
        self.orders.retain(|(at, _)| at.plus(HOUR) > now);
        self.orders.push((now, false));
    }

    /// The last order brought a certificate.
    pub(super) fn succeeded(&mut self) {
        if let Some((_, fruitful)) = self.orders.last_mut() {
            *fruitful = true;
        }
        (self.failures, self.wait) = (0, UnixSeconds(0));
    }

    /// Nothing came of it. Gives the wait.
    pub(super) fn failed(&mut self, now: UnixSeconds, after: After, lifetime: Option<u64>, dice: u8) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = schedule::wait(after, self.failures, lifetime, dice);
        self.wait = now.plus(wait.as_secs());
        wait
    }

    /// The CA asks to be left alone for a while.
    pub(super) fn told_to_wait(&mut self, until: UnixSeconds) {
        self.told = self.told.max(until);
    }

    /// Somebody may have mended what was wrong: our own wait is over. What the CA asks for and what an hour grants stay.
    pub(super) fn forgive(&mut self) {
        (self.failures, self.wait) = (0, UnixSeconds(0));
    }

    /// Whether it says anything that matters from `now` on.
    pub(super) fn is_over(&self, now: UnixSeconds) -> bool {
        self.told <= now && self.orders.iter().all(|(at, _)| at.plus(HOUR) <= now)
    }

    /// As it is kept.
    pub(super) fn write(&self) -> Value {
        let orders: Vec<Value> = self.orders.iter().map(|(at, fruitful)| json!([at.0, fruitful])).collect();
        json!({ "orders": orders, "failures": self.failures, "wait": self.wait.0, "told": self.told.0 })
    }

    /// What was kept; what cannot be read is as if it had not been. A moment beyond `latest` was written by a clock that
    /// was wrong.
    pub(super) fn read(kept: &Value, latest: UnixSeconds) -> Self {
        let moment = |value: &Value| value.as_u64().map(UnixSeconds).filter(|at| *at <= latest);
        let order = |entry: &Value| Some((moment(entry.get(0)?)?, entry.get(1)?.as_bool()?));
        let orders = kept.get("orders").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let at = |key: &str| kept.get(key).and_then(moment).unwrap_or_default();
        let failures = kept.get("failures").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        Self {
            orders: orders.iter().filter_map(order).collect(),
            failures: failures.unwrap_or_default(),
            wait: at("wait"),
            told: at("told"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const LONG: Option<u64> = Some(90 * 86_400);

    #[test]
    fn five_orders_an_hour_whatever_the_waits() {
        let mut ledger = Ledger::default();
        for n in 0..5 {
            assert!(ledger.open_at(NOW.plus(n), None) <= NOW.plus(n));
            ledger.ordered(NOW.plus(n));
        }
        assert_eq!(ledger.open_at(NOW.plus(5), None), NOW.plus(HOUR));
        assert!(ledger.open_at(NOW.plus(HOUR), None) <= NOW.plus(HOUR), "the first of them has left the hour");
        ledger.forgive();
        let kept = Ledger::read(&ledger.write(), NOW.plus(86_400));
        assert_eq!((kept.open_at(NOW.plus(5), None), &kept), (NOW.plus(HOUR), &ledger), "no restart changes that");
    }

    #[test]
    fn certificates_of_half_a_minute_are_ordered_as_often_as_they_need() {
        let mut ledger = Ledger::default();
        for n in 0..180 {
            let now = NOW.plus(n * 20);
            assert!(ledger.open_at(now, Some(30)) <= now, "{n}");
            ledger.ordered(now);
            ledger.succeeded();
        }
        // A CA whose window is always in the past does not make us order without end.
        let now = NOW.plus(180 * 20);
        assert!(ledger.open_at(now, LONG) > now);
    }

    #[test]
    fn the_ca_is_heard_and_a_person_ends_our_own_wait_only() {
        let mut ledger = Ledger::default();
        let wait = ledger.failed(NOW, After::Order, None, 0);
        assert_eq!((wait.as_secs(), ledger.open_at(NOW, None)), (60, NOW.plus(60)));
        assert_eq!(ledger.failed(NOW, After::Order, None, 0).as_secs(), 120);
        ledger.told_to_wait(NOW.plus(7200));
        ledger.forgive();
        assert_eq!(ledger.open_at(NOW, None), NOW.plus(7200));
    }

    #[test]
    fn what_cannot_be_read_counts_for_nothing() {
        for kept in ["null", "[]", "{\"orders\": [[\"x\", 1], 3], \"failures\": -1}", "{\"wait\": 99999999999999}"] {
            assert_eq!(Ledger::read(&serde_json::from_str(kept).unwrap(), NOW), Ledger::default(), "{kept}");
        }
    }
}
