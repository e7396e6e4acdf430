//! How many connections one body is worth, found out while it comes: one, four, eight, each kept only if it brings a fifth more than
//! the one before.
//!
//! What is measured is the whole of a time in which that many were open and somebody read. It begins when the last of them is
//! answered, and begins anew whenever there were fewer, for want of connections, room or readers: what they brought then says
//! nothing of what they could.

use std::time::Duration;

use tokio::time::Instant;

/// Connections beside the one that is read, one after the other tried.
const WIDTHS: [usize; 3] = [0, 3, 7];
/// What the next width must bring of what the one before brought, in percent.
const WORTH: u128 = 120;
/// A width is measured for so long, and those after the first for what it takes to get an answer more: by then what was sent
/// while the others were being asked is through.
const MEASURED: Duration = Duration::from_millis(150);

/// See the module.
pub(super) struct Pace {
    /// The place in [`WIDTHS`].
    width: usize,
    /// Whether more are not tried.
    settled: bool,
    interval: Duration,
    /// What it takes to get an answer.
    took: Duration,
    /// When the measurement began, and after how many bytes.
    since: Option<(Instant, u64)>,
    before: Option<u128>,
}

impl Pace {
    /// Beginning with what is `known`; an answer takes so long.
    pub(super) fn new(known: Option<usize>, took: Duration) -> Self {
        Self {
            width: known.unwrap_or(0).min(WIDTHS.len() - 1),
            settled: known.is_some(),
            interval: MEASURED,
            took,
            since: None,
            before: None,
        }
    }

    /// Whether not even the first one was measured.
    pub(super) fn is_undecided(&self) -> bool {
        !self.settled && self.width == 0
    }

    /// How many are worth it beside the one that is read.
    pub(super) fn connections(&self) -> usize {
        WIDTHS[self.width]
    }

    /// So many bytes have come, over all of them. `all`: as many are asked as are worth it, for who wants them; `open`: and each is
    /// answered. The place of the best width, when that has just been found out.
    pub(super) fn came(&mut self, bytes: u64, all: bool, open: bool) -> Option<usize> {
        let now = Instant::now();
        if self.settled || !all {
            self.since = None;
            return None;
        }
        match self.since {
            None if open => self.since = Some((now, bytes)),
            Some((since, at)) if now.duration_since(since) >= self.interval => {
                self.conclude(bytes - at, now.duration_since(since));
            }
            _ => {}
        }
        self.settled.then_some(self.width)
    }

    fn conclude(&mut self, bytes: u64, time: Duration) {
        let rate = u128::from(bytes) * 1_000_000 / time.as_micros().max(1);
        match self.before {
            Some(before) if rate * 100 < before * WORTH => (self.width, self.settled) = (self.width - 1, true),
            _ if self.width + 1 == WIDTHS.len() => self.settled = true,
            _ => self.width += 1,
        }
        (self.before, self.since) = (Some(rate), None);
        self.interval = MEASURED + self.took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection brings as much as `rate` says of how many there are, in each tenth of a second.
    async fn found(
        rate: impl Fn(usize) -> u64,
        all: impl Fn(u32) -> bool,
        open: impl Fn(u32) -> bool,
    ) -> Option<usize> {
        let (mut pace, mut bytes) = (Pace::new(None, Duration::ZERO), 0);
        for tenth in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            bytes += rate(if all(tenth) { pace.connections() } else { 0 });
            if let found @ Some(_) = pace.came(bytes, all(tenth), open(tenth)) {
                return found;
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn more_connections_are_kept_if_they_bring_more() {
        let always = |_| true;
        assert_eq!(found(|_| 1000, always, always).await, Some(0));
        assert_eq!(found(|beside| 1000 + 100 * beside as u64, always, always).await, Some(2));
        assert_eq!(found(|beside| 1000 + 1000 * beside.min(2) as u64, always, always).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_concluded_while_they_are_not_wanted_or_not_open() {
        let alike = |beside| 1000 + 1000 * beside as u64;
        assert_eq!(found(alike, |_| false, |_| true).await, None, "nobody reads");
        assert_eq!(found(alike, |_| true, |_| false).await, None, "none is answered");
        assert_eq!(found(alike, |tenth| tenth % 10 > 6 || tenth > 60, |_| true).await, Some(2), "now and then");
    }
}
