//! When a certificate is renewed, and when an order that failed is tried again. Pure.

use std::time::Duration;

use crate::clock::UnixSeconds;
use crate::tls::certificate::Facts;

/// A window in which the CA would have a certificate renewed (RFC 9773 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Its first second.
    pub(super) start: UnixSeconds,
    /// Its last second.
    pub(super) end: UnixSeconds,
}

/// When the certificate is renewed: at a moment of the CA's window, else when two thirds of its life are over, up to a
/// thirtieth of it earlier (R33). The moment is chosen by the certificate's number, so that it stays the same however often
/// it is asked for, and that a CA's clients do not all come at once.
///
/// A window that would leave less than a twentieth of the life is not waited for.
pub(super) fn renewal(facts: &Facts, window: Option<Window>) -> UnixSeconds {
    let life = facts.lifetime();
    let start_of = |first: u64, length: u64| first.saturating_add(spread(&facts.serial, length));
    match window {
        Some(Window { start, end }) => {
            let chosen = start_of(start.0, end.0.saturating_sub(start.0));
            UnixSeconds(chosen.min(facts.not_after.0.saturating_sub(life / 20)))
        }
        None => {
            let early = life / 30;
            UnixSeconds(start_of(facts.not_before.0.saturating_add(life / 3 * 2).saturating_sub(early), early))
        }
    }
}

/// Why there is a wait before the next order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The CA could not be asked; no order was made.
    Silence,
    /// An order came to nothing.
    Order,
}

/// The wait after the `failures`th failure in a row (from 1), for a certificate of this lifetime (seconds; `None` where there
/// is none yet): it doubles, from a minute (from five seconds, where the CA did not answer) to a day (an hour). Short-lived
/// certificates are tried again in proportion. `dice` is evenly spread over 0..=255 and adds up to a fifth.
pub(super) fn wait(after: After, failures: u32, lifetime: Option<u64>, dice: u8) -> Duration {
    let (first, longest): (u64, u64) = match after {
        After::Silence => (5, 3600),
        After::Order => (60, 86_400),
    };
    // In milliseconds from here on.
    let share = |parts: u64| lifetime.map_or(u64::MAX, |seconds| (seconds * 1000 / parts).max(1000));
    let (first, longest) = ((first * 1000).min(share(30)), (longest * 1000).min(share(6)));
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(32)).min(longest);
    Duration::from_millis(doubled + doubled / 5 * u64::from(dice) / 255)
}

/// A number below `length` (0 where that is 0) that `text` decides.
fn spread(text: &str, length: u64) -> u64 {
    let hash = twox_hash::XxHash64::oneshot(0, text.as_bytes());
    // The upper half of the product of both: even, without the bias of a remainder.
    u64::try_from((u128::from(hash) * u128::from(length)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn facts(serial: &str, not_before: u64, lifetime: u64) -> Facts {
        Facts {
            names: Vec::new(),
            issuer: String::new(),
            serial: serial.to_owned(),
            not_before: UnixSeconds(not_before),
            not_after: UnixSeconds(not_before + lifetime),
        }
    }

    #[test]
    fn two_thirds_of_the_life_are_used_whatever_its_length() {
        for lifetime in [30, 3600, 6 * DAY, 90 * DAY] {
            for serial in 0..200 {
                let at = renewal(&facts(&serial.to_string(), 1000, lifetime), None).0 - 1000;
                assert!(at <= lifetime / 3 * 2 && at >= lifetime * 19 / 30 - 2, "{lifetime}: {at}");
            }
        }
        let moments: std::collections::HashSet<u64> =
            (0..200).map(|serial| renewal(&facts(&serial.to_string(), 0, 90 * DAY), None).0).collect();
        assert!(moments.len() > 190, "clients of one CA must not all come at once");
    }

    #[test]
    fn the_window_of_the_ca_is_kept() {
        let facts = facts("77", 0, 90 * DAY);
        let window = Window { start: UnixSeconds(5 * DAY), end: UnixSeconds(6 * DAY) };
        let at = renewal(&facts, Some(window));
        assert!((window.start..=window.end).contains(&at));
        assert_eq!(renewal(&facts, Some(window)), at, "the moment does not move when it is asked for again");
        let past = Window { start: UnixSeconds(0), end: UnixSeconds(0) };
        assert_eq!(renewal(&facts, Some(past)).0, 0);
        let turned = Window { start: UnixSeconds(DAY), end: UnixSeconds(0) };
        assert_eq!(renewal(&facts, Some(turned)).0, DAY);
        let late = Window { start: UnixSeconds(200 * DAY), end: UnixSeconds(300 * DAY) };
        assert!(renewal(&facts, Some(late)) < facts.not_after, "no window is worth an expired certificate");
    }

    #[test]
    fn waits_grow_to_a_day() {
        let seconds = |after, failures, lifetime| wait(after, failures, lifetime, 0).as_secs();
        let life = Some(90 * DAY);
        assert_eq!([1, 2, 3, 4].map(|n| seconds(After::Order, n, life)), [60, 120, 240, 480]);
        assert_eq!((seconds(After::Order, 12, life), seconds(After::Order, u32::MAX, None)), (DAY, DAY));
        assert_eq!([1, 2, 30].map(|n| seconds(After::Silence, n, None)), [5, 10, 3600]);
        assert_eq!([1, 2, 3, 9].map(|n| seconds(After::Silence, n, Some(30))), [1, 2, 4, 5]);
        assert_eq!(wait(After::Order, 1, life, 255), Duration::from_secs(72));
    }
}
