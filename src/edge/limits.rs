//! What one client may take, so that there is something left for the others: requests, bytes, connections, handshakes.
//!
//! ```text
//! a connection ─▶ new connections per second ─▶ open connections ─▶ handshakes at a time ─▶ a request ─▶ requests per second
//!                 closed                        closed              waits                               503        │
//!                                                         bytes per second: waits ◀── pieces of the body ◀─────────┘
//! ```
//!
//! Who a client is: [`Client`]. Requests and new connections go by `governor`'s generic cell rate algorithm, over `budgets` of a bounded
//! number; bytes by a `pacer` over the same. What is refused is refused before anything costly is done for it; what costs nothing
//! is not counted: what a CA asks for, `nix-cache-info`, redirects.
//!
//! And what all of them together may have in flight (`crowd`).
//!
//! The limits can be replaced while they are in force. Those that change begin anew, with whole budgets.
//!
//! Out of scope: the other bounds of everybody together (see [`Limits`]), and what a client is believed to be
//! ([`believed`](super::believed)).

mod budgets;
mod client;
mod crowd;
mod options;
mod pacer;
mod patience;
mod places;
mod seldom;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock, ReasonablyRealtime};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};
use http::StatusCode;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use self::budgets::Budgets;
use self::pacer::Pacer;
use self::places::Places;
use super::believed::Believed;
use super::options::{Bounds, Limits};
use crate::metrics::{Label as _, LimitMetrics, LimitReached};

pub use client::Client;
pub use crowd::Admitted;
use crowd::Crowd;
pub(super) use options::check_bytes;
pub use options::{Options, RefuseWith};
pub use pacer::{PIECE, Pace};
pub use patience::Patience;
pub use places::Seat;
pub use seldom::Seldom;

/// Between two sweeps of what is known of clients.
const SWEEP: Duration = Duration::from_secs(60);
/// What Retry-After says at most: no limit needs longer to let the next one through.
const LONGEST_RETRY: u64 = 5;
/// New connections that may come at once, in seconds' worth.
const ARRIVALS_AT_ONCE: u32 = 10;

/// The limits of all clients, and what each has used. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    in_force: ArcSwap<InForce>,
    places: Arc<Places>,
    crowd: Arc<Crowd>,
    /// Bounds of all clients together, from the start on.
    of_all: Bounds,
    metrics: LimitMetrics,
    told: Vec<Seldom>,
    /// Hides names.
    hasher: RandomState,
}

/// One configuration's limits; what is not limited is not there.
#[derive(Debug)]
struct InForce {
    options: Options,
    exempt: Believed,
    bytes_of_all: u64,
    requests: Option<Arc<Rate>>,
    arrivals: Option<Arc<Rate>>,
    paced: Option<Arc<Pacer>>,
    paced_together: Option<Arc<Pacer>>,
}

type Rate = RateLimiter<Client, Budgets, Monotonic, NoOpMiddleware<std::time::Instant>>;

/// The clock of the runtime, which tests can move (R32: it never jumps).
#[derive(Debug, Clone)]
struct Monotonic;

impl Clock for Monotonic {
    type Instant = std::time::Instant;

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl ReasonablyRealtime for Monotonic {}

/// A request is over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// 503 or 429.
    pub status: StatusCode,
    /// Seconds, 1 to 5.
    pub retry_after: u64,
    /// What was reached.
    pub limit: LimitReached,
}

impl Clients {
    /// These limits, with nothing used of them. `of_all` bounds all clients together.
    pub fn new(limits: &Limits, of_all: Bounds, metrics: LimitMetrics) -> Self {
        let in_force = ArcSwap::from_pointee(InForce::new(limits, None, &metrics));
        let told = LimitReached::ALL.iter().map(|_| Seldom::new()).collect();
        let (places, hasher) = (Arc::default(), RandomState::new());
        let crowd = Arc::new(Crowd::new(limits.requests, metrics.in_flight.clone(), metrics.most_in_flight.clone()));
        Self(Arc::new(Shared { in_force, places, crowd, of_all, metrics, told, hasher }))
    }

    /// Puts other limits in force; those that are the same go on with what clients have used.
    pub fn reload(&self, limits: &Limits) {
        let was = self.0.in_force.load_full();
        self.0.in_force.store(Arc::new(InForce::new(limits, Some(&was), &self.0.metrics)));
        self.0.crowd.bound(limits.requests);
    }

    /// Whether it matters to any request who sent it.
    pub fn matter_to_requests(&self) -> bool {
        let in_force = self.0.in_force.load();
        in_force.requests.is_some() || in_force.paced.is_some() || in_force.paced_together.is_some()
    }

    /// Whether who comes from this address, or over a unix socket from none, has no limits of its own.
    pub fn exempt(&self, address: Option<IpAddr>) -> bool {
        self.0.in_force.load().exempt.has(address)
    }

    /// The client that shows something of this kind (a token, a certificate) with this name.
    pub fn named(&self, kind: &str, name: &str) -> Client {
        Client::Named(self.0.hasher.hash_one((kind, name)))
    }

    /// A place for one more request, to be held until its response has ended.
    ///
    /// # Errors
    /// There are as many as there may be: it is to be refused.
    pub fn admit(&self) -> Result<Admitted, TooMany> {
        self.0.crowd.admit().ok_or_else(|| {
            self.0.metrics.refused.of(LimitReached::InFlight).inc();
            if let Some(left_out) = self.0.told[LimitReached::InFlight.index()].due() {
                tracing::warn!(left_out, "more requests at a time than limits.requests: further ones are refused");
            }
            TooMany { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: 1, limit: LimitReached::InFlight }
        })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// It is to be refused.
    pub fn request(&self, client: Client) -> Result<(), TooMany> {
        let in_force = self.0.in_force.load();
        let Some(rate) = &in_force.requests else { return Ok(()) };
        rate.check_key(&client).map_err(|not_until| {
            self.refuse(client, LimitReached::Requests);
            let wait = not_until.wait_time_from(Monotonic.now());
            let status = match in_force.options.refuse_with {
                RefuseWith::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
                RefuseWith::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            };
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            TooMany { status, retry_after: seconds.clamp(1, LONGEST_RETRY), limit: LimitReached::Requests }
        })
    }

    /// The pace of a response to this client, if there is one to keep; for one that is exempt that of everybody together.
    pub fn pace(&self, client: Option<Client>) -> Option<Pace> {
        let in_force = self.0.in_force.load();
        let is_paced = in_force.paced_together.is_some() || (client.is_some() && in_force.paced.is_some());
        is_paced.then(|| Pace::new(self.clone(), client))
    }

    /// When so many bytes for this client may be sent.
    fn reserve(&self, client: Option<Client>, bytes: usize) -> Instant {
        let in_force = self.0.in_force.load();
        let own = in_force.paced.as_ref().zip(client).map(|(pacer, client)| pacer.reserve(client, bytes));
        let together = in_force.paced_together.as_ref().map(|pacer| pacer.reserve(Client::Unix, bytes));
        own.max(together).unwrap_or_else(Instant::now)
    }

    fn count_paced(&self, bytes: usize) {
        self.0.metrics.paced_bytes.inc_by(bytes as u64);
    }

    /// A place for a new connection; `None` if it is to be closed.
    pub fn arrive(&self, client: Client) -> Option<Seat> {
        let in_force = self.0.in_force.load();
        if let Some(rate) = &in_force.arrivals
            && rate.check_key(&client).is_err()
        {
            self.refuse(client, LimitReached::NewConnections);
            return None;
        }
        let most = in_force.options.connections(self.0.of_all.connections);
        let seat = self.0.places.take(client, most, handshakes(self.0.of_all.handshakes));
        if seat.is_none() {
            self.refuse(client, LimitReached::OpenConnections);
        }
        seat
    }

    fn refuse(&self, client: Client, limit: LimitReached) {
        self.0.metrics.refused.of(limit).inc();
        if let Some(left_out) = self.0.told[limit.index()].due() {
            tracing::warn!(%client, %limit, left_out, "a client is over its limit: see [limits.client]");
        }
    }

    /// Forgets clients whose budgets are whole, each minute until `stop`.
    pub async fn sweep_until(self, stop: CancellationToken) {
        let mut ticks = interval_at(Instant::now() + SWEEP, SWEEP);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sweep();
        }
    }

    fn sweep(&self) {
        let in_force = self.0.in_force.load_full();
        let mut known = 0;
        for rate in [&in_force.requests, &in_force.arrivals].into_iter().flatten() {
            rate.retain_recent();
            known += rate.len();
        }
        if let Some(pacer) = &in_force.paced {
            pacer.sweep();
            known += pacer.count();
        }
        self.0.metrics.known.set(i64::try_from(known).unwrap_or(i64::MAX));
    }
}

/// Handshakes that one client may have running, of so many in all: it leaves places for others, and small bounds are no smaller
/// for it.
fn handshakes(of_all: usize) -> usize {
    const LEAST: usize = 16;
    (of_all / 4).max(LEAST)
}

impl InForce {
    fn new(limits: &Limits, was: Option<&Self>, metrics: &LimitMetrics) -> Self {
        let (options, bytes_of_all) = (limits.client.clone(), limits.bytes.0);
        let of_requests = |of: &Options| (of.requests, of.request_burst);
        let of_arrivals = |of: &Options| (of.new_connections, of.new_connections.saturating_mul(ARRIVALS_AT_ONCE));
        let rate = |(each_second, at_once)| rate(each_second, at_once, metrics);
        let shared = || metrics.shared.clone();
        // Of those before only what is still the same.
        let same = |is_same: fn(&Self, &Options, u64) -> bool| was.filter(|was| is_same(was, &options, bytes_of_all));
        let requests =
            same(|was, now, _| (was.options.requests, was.options.request_burst) == (now.requests, now.request_burst));
        let arrivals = same(|was, now, _| was.options.new_connections == now.new_connections);
        let paced = same(|was, now, _| was.options.bytes == now.bytes);
        let together = same(|was, _, now| was.bytes_of_all == now);
        Self {
            requests: requests.map_or_else(|| rate(of_requests(&options)), |was| was.requests.clone()),
            arrivals: arrivals.map_or_else(|| rate(of_arrivals(&options)), |was| was.arrivals.clone()),
            paced: paced.map_or_else(
                || (options.bytes.0 > 0).then(|| Arc::new(Pacer::for_each(options.bytes.0, shared()))),
                |was| was.paced.clone(),
            ),
            paced_together: together.map_or_else(
                || (bytes_of_all > 0).then(|| Arc::new(Pacer::for_all(bytes_of_all))),
                |was| was.paced_together.clone(),
            ),
            exempt: Believed::new(&options.exempt),
            options,
            bytes_of_all,
        }
    }
}

/// No limit where one of the two is 0.
fn rate(each_second: u32, at_once: u32, metrics: &LimitMetrics) -> Option<Arc<Rate>> {
    let quota = Quota::per_second(NonZeroU32::new(each_second)?).allow_burst(NonZeroU32::new(at_once)?);
    Some(Arc::new(RateLimiter::new(quota, Budgets::new(metrics.shared.clone()), Monotonic)))
}

#[cfg(test)]
mod tests;
