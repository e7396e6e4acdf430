//! Bytes in their time: a response is paced, never cut.
//!
//! A piece of a body takes its place in a client's row when it is due to be sent, and waits until its time: the pieces before it
//! divided by the rate. Each response has one piece in the row, so all responses of a client go at the same pace, and there is
//! nothing to wake up for but the next piece. The same for the row of everybody. A client that was quiet may send
//! [`CREDIT`] of bytes at once.
//!
//! While it waits a body holds what it would hold anyway, the chunk in hand; the connection has nothing to write, which is why a
//! client that is paced does not look like one that no longer reads.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use governor::nanos::Nanos;
use prometheus::IntCounter;
use tokio::time::{Instant, Sleep};

use super::budgets::Budgets;
use super::{Client, Clients};

/// What a row that stood still may make up for.
const CREDIT: Duration = Duration::from_millis(250);
/// The clock of timers has milliseconds. Pieces keep their times in any case, so what is sent early here is waited for later.
const NOT_WORTH_WAITING: Duration = Duration::from_millis(1);

/// The longest piece that a paced body gives out at once.
pub const PIECE: usize = 64 << 10;

/// Bytes per second, for each client or for all of them together.
#[derive(Debug)]
pub struct Pacer {
    rate: u64,
    begun: Instant,
    row: Row,
}

#[derive(Debug)]
enum Row {
    Each(Budgets),
    All(Mutex<Nanos>),
}

impl Pacer {
    /// So many bytes per second, at least one, for each client.
    pub fn for_each(rate: u64, shared: IntCounter) -> Self {
        Self { rate: rate.max(1), begun: Instant::now(), row: Row::Each(Budgets::new(shared)) }
    }

    /// So many bytes per second, at least one, for all clients together.
    pub fn for_all(rate: u64) -> Self {
        Self { rate: rate.max(1), begun: Instant::now(), row: Row::All(Mutex::new(Nanos::new(0))) }
    }

    /// Puts so many bytes into the row; when they may be sent.
    pub fn reserve(&self, client: Client, bytes: usize) -> Instant {
        let now = nanos(self.begun.elapsed());
        let takes = u128::from(NANOS_PER_SECOND) * bytes as u128 / u128::from(self.rate);
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        let place = |end: Option<Nanos>| {
            let begin = end.map_or(0, u64::from).max(now.saturating_sub(nanos(CREDIT)));
            (begin, Nanos::new(begin.saturating_add(takes)))
        };
        let begin = match &self.row {
            Row::Each(budgets) => {
                let placed = budgets.update(&client, |end| Ok::<_, Infallible>(place(end)));
                placed.unwrap_or_else(|never| match never {})
            }
            Row::All(end) => {
                let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
                let (begin, next) = place(Some(*end));
                *end = next;
                begin
            }
        };
        self.begun + Duration::from_nanos(begin)
    }

    /// Forgets whose row ended so long ago that its whole credit is there.
    pub fn sweep(&self) {
        if let Row::Each(budgets) = &self.row {
            let now = nanos(self.begun.elapsed());
            budgets.keep_above(Nanos::new(now.saturating_sub(nanos(CREDIT))));
        }
    }

    /// Clients with a row of their own.
    pub fn count(&self) -> usize {
        match &self.row {
            Row::Each(budgets) => budgets.count(),
            Row::All(_) => 0,
        }
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) // 584 years
}

/// The pace of one response.
#[derive(Debug)]
pub struct Pace {
    clients: Clients,
    /// In no row of its own without one.
    client: Option<Client>,
    /// Made for the first wait and used again; `waits` tells whether it is of the piece in hand.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl Pace {
    pub(super) fn new(clients: Clients, client: Option<Client>) -> Self {
        Self { clients, client, timer: None, waits: false }
    }

    /// Ready when these bytes, which must be the same until then, may be sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        if !self.waits {
            let begin = self.clients.reserve(self.client, bytes);
            if begin.saturating_duration_since(Instant::now()) < NOT_WORTH_WAITING {
                return Poll::Ready(());
            }
            self.clients.count_paced(bytes);
            self.waits = true;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(begin),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(begin))),
            }
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        self.waits = false;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(rate: u64) -> Pacer {
        Pacer::for_each(rate, IntCounter::new("shared", "shared").unwrap())
    }

    fn at(n: u8) -> Client {
        Client::at(Some([127, 0, 0, n].into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_moves_at_its_rate_and_no_other_is_in_its_way() {
        let (pacer, begun) = (pacer(1_000), Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        let wait = |client, bytes| pacer.reserve(client, bytes).saturating_duration_since(Instant::now());
        assert_eq!(wait(at(1), 250), Duration::ZERO, "the credit");
        assert_eq!(wait(at(1), 1_000), Duration::ZERO, "and what is due now");
        assert_eq!(wait(at(1), 500), Duration::from_secs(1));
        assert_eq!(wait(at(1), 1), Duration::from_millis(1_500));
        assert_eq!(wait(at(2), 1), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(wait(at(1), 250), Duration::ZERO);
        assert_eq!(wait(at(1), 1), Duration::ZERO);
        assert_eq!(wait(at(1), 1), Duration::from_millis(1), "a minute of silence is no minute of credit");
        assert_eq!(begun.elapsed(), Duration::from_secs(70));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_all_its_credit_is_forgotten() {
        let pacer = pacer(1_000);
        pacer.reserve(at(1), 1_000);
        pacer.reserve(at(2), 10_000);
        assert_eq!(pacer.count(), 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        pacer.sweep();
        assert_eq!(pacer.count(), 1);
        tokio::time::advance(Duration::from_secs(10)).await;
        pacer.sweep();
        assert_eq!(pacer.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_in_one_row_where_the_rate_is_for_all() {
        let pacer = Pacer::for_all(1_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        let wait = |client, bytes| pacer.reserve(client, bytes).saturating_duration_since(Instant::now());
        assert_eq!(wait(at(1), 1_250), Duration::ZERO);
        assert_eq!(wait(at(2), 1_000), Duration::from_secs(1));
        assert_eq!(wait(at(1), 1), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_and_no_size_overflows() {
        let (least, most) = (pacer(0), pacer(u64::MAX));
        for _ in 0..3 {
            least.reserve(at(1), usize::MAX);
            most.reserve(at(1), usize::MAX);
        }
        let wait = most.reserve(at(2), 1).saturating_duration_since(Instant::now());
        assert!(wait < Duration::from_secs(1), "{wait:?}");
    }
}
