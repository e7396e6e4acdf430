//! What is counted of clients: their connections, what they ask, and what they get.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::declare::{CounterBy, CounterByTwo, Declare, SecondsByTwo};
use super::labels::{ConnectionEnd, Outcome, Place, ResponseEnd, Route, TlsSession, TlsVersion};
use super::limits::LimitMetrics;

/// What the edge counts.
#[derive(Debug, Clone)]
pub struct EdgeMetrics {
    /// Requests by what was asked for and how it was answered.
    pub requests: CounterByTwo<Route, Outcome>,
    /// Responses by how they ended.
    pub responses: CounterBy<ResponseEnd>,
    /// The hits among them, by where what was sent came from.
    pub hits: CounterByTwo<Route, Place>,
    /// Bytes of bodies, by the same two.
    pub response_bytes: CounterByTwo<Route, Outcome>,
    /// Time from the head of a request to the first byte of the answer's body, or to the end of the answer where it has none.
    pub first_byte: SecondsByTwo<Route, Outcome>,
    /// Connections open now.
    pub connections_open: IntGauge,
    /// Connections by how they ended.
    pub connections: CounterBy<ConnectionEnd>,
    /// TLS sessions that came about.
    pub sessions: CounterByTwo<TlsVersion, TlsSession>,
    /// How long their handshakes took.
    pub handshake: Histogram,
    /// Accepts that failed.
    pub accept_errors: IntCounter,
    /// Panics caught.
    pub panics: IntCounter,
    /// The limits for each client.
    pub limits: LimitMetrics,
}

impl EdgeMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            requests: declare.counter_by_two(
                "snowbank_edge_requests_total",
                "Requests answered, by what was asked for and how the answer was come by. Their sum is all requests; many of unknown mean that an upstream is down.",
            ),
            responses: declare.counter_by(
                "snowbank_edge_responses_total",
                "Responses by how they ended. broken: the source of the bytes failed after the head was sent, the log says why; client-gone: the client closed first, usually harmless.",
            ),
            hits: declare.counter_by_two(
                "snowbank_edge_hits_total",
                "Requests answered from the store while what it has is fresh, by what was asked for and by where the bytes were: of a NAR, those of \
                 the chunk that came last. Many from disk: more memory would help.",
            ),
            response_bytes: declare.counter_by_two(
                "snowbank_edge_response_bytes_total",
                "Bytes of response bodies handed to connections, before encryption, by what was asked for and how the answer was come by. hit, \
                 stale and follower are what no upstream had to send.",
            ),
            first_byte: declare.seconds_by_two(
                "snowbank_edge_first_byte_seconds",
                "Time from the head of a request to the first byte of the answer's body, by what was asked for and how the answer was come by \
                 (only those that occurred). hit and negative are the machine's own speed; miss and unknown that of the upstreams.",
                // 0.1 ms to 6.6 s
                &[0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1024, 0.4096, 1.6384, 6.5536],
            ),
            connections_open: declare.gauge(
                "snowbank_edge_connections_open",
                "Client connections open now. At the bound (limits.connections) further clients wait: raise it and the limit of open files.",
            ),
            connections: declare.counter_by(
                "snowbank_edge_connections_total",
                "Client connections by how they ended. Many of handshake: clients that do not trust the certificate, or no TLS clients at all.",
            ),
            sessions: declare.counter_by_two(
                "snowbank_edge_tls_sessions_total",
                "TLS sessions that came about, by version, and by whether the client went on from an earlier one (resumed), \
                 which costs a tenth. What did not come about is in snowbank_edge_connections_total.",
            ),
            handshake: declare.seconds(
                "snowbank_edge_handshake_seconds",
                "Time for a TLS handshake, the way to the client and waiting for others included. Long for everybody: \
                 limits.handshakes is reached, or there is too little processor.",
                // 1 ms to 4 s
                &[0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0],
            ),
            accept_errors: declare.counter(
                "snowbank_edge_accept_errors_total",
                "Connections that could not be accepted, mostly for want of files. Raise the limit of open files (LimitNOFILE) or lower limits.connections.",
            ),
            panics: declare.counter(
                "snowbank_edge_panics_total",
                "Requests that hit a bug and were answered with 500 or cut. Must stay 0: please report what the log says.",
            ),
            limits: LimitMetrics::new(declare),
        }
    }
}
