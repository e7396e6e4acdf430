//! What is counted of the limits for each client.

use prometheus::{IntCounter, IntGauge};

use super::declare::{CounterBy, Declare};
use super::labels::LimitReached;

/// The group of the limits for each client.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    /// Requests and connections refused, by the limit that was reached.
    pub refused: CounterBy<LimitReached>,
    /// Requests whose response has not ended.
    pub in_flight: IntGauge,
    /// How many there may be.
    pub most_in_flight: IntGauge,
    /// Bytes that were held back for a while.
    pub paced_bytes: IntCounter,
    /// Clients of which something is remembered.
    pub known: IntGauge,
    /// Requests, connections and pieces of responses of clients for which there was no room.
    pub shared: IntCounter,
}

impl LimitMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            refused: declare.counter_by(
                "snowbank_edge_limited_total",
                "Requests and connections that were refused because their client had used up what limits.client gives to one. \
                 The log names some of these clients; an office behind one address may need more. in-flight: because there \
                 were as many requests of all clients as limits.requests.",
            ),
            in_flight: declare.gauge(
                "snowbank_edge_requests_in_flight",
                "Requests of clients whose response has not ended. At limits.requests further ones are refused with 503.",
            ),
            most_in_flight: declare.gauge(
                "snowbank_edge_requests_in_flight_most",
                "How many requests may be in flight: limits.requests, as it is in force.",
            ),
            paced_bytes: declare.counter(
                "snowbank_edge_paced_bytes_total",
                "Bytes of responses that waited for their time because of limits.client.bytes or limits.bytes.",
            ),
            known: declare.gauge(
                "snowbank_edge_limit_clients",
                "Entries about what clients have used of their limits, as of the last sweep, one each minute. At most some \
                 200000; many more than there are clients mean that somebody uses many addresses.",
            ),
            shared: declare.counter(
                "snowbank_edge_limit_shared_total",
                "What was counted for clients that found no entry of their own free, and that share one with others. Grows only \
                 while tens of thousands of addresses ask within a minute: somebody uses many of them.",
            ),
        }
    }
}
