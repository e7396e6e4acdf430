//! What is counted of each upstream.

use prometheus::{Counter, CounterVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::declare::{CounterBy, Declare, Label};
use super::labels::Refusal;

/// The families of which each upstream has a member.
#[derive(Debug, Clone)]
pub(super) struct UpstreamFamilies {
    requests: IntCounterVec,
    answers: IntCounterVec,
    resends: IntCounterVec,
    refused: IntCounterVec,
    bytes: IntCounterVec,
    latency: HistogramVec,
    breaker: IntGaugeVec,
    openings: IntCounterVec,
    unasked: IntCounterVec,
    prefetched: IntCounterVec,
    saved: CounterVec,
}

/// What is counted of fetching from one upstream what nobody has asked for yet.
#[derive(Debug, Clone)]
pub struct PrefetchMetrics {
    /// Bytes that were fetched.
    pub fetched: IntCounter,
    /// Those of them that a client asked for then.
    pub used: IntCounter,
    /// Those that nobody asked for in time.
    pub wasted: IntCounter,
    /// Seconds that clients did not wait for an upstream.
    pub saved: Counter,
}

/// What is counted for one upstream.
#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    /// Requests sent.
    pub requests: IntCounter,
    /// Answers "have".
    pub have: IntCounter,
    /// Answers "have not".
    pub have_not: IntCounter,
    /// Answers that are neither, and none.
    pub unknown: IntCounter,
    /// Requests sent again on another connection.
    pub resends: IntCounter,
    /// What was not believed.
    pub refused: CounterBy<Refusal>,
    /// Body bytes received.
    pub bytes: IntCounter,
    /// Seconds to the response head.
    pub latency: Histogram,
    /// The state of its circuit breaker: 0 closed, 1 half-open, 2 open.
    pub breaker: IntGauge,
    /// How often it was taken for down.
    pub openings: IntCounter,
    /// Requests that were not sent because it is taken for down.
    pub unasked: IntCounter,
    /// What was fetched ahead.
    pub prefetch: PrefetchMetrics,
}

impl UpstreamFamilies {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        let upstream = &["upstream"];
        Self {
            requests: declare.counters("snowbank_upstream_requests_total", "Requests sent to an upstream.", upstream),
            answers: declare.counters(
                "snowbank_upstream_answers_total",
                "What an upstream said: have, have-not, or unknown (no answer, or one that is neither yes nor no). A \
                 growing unknown means that it is down or slow.",
                &["upstream", "answer"],
            ),
            resends: declare.counters(
                "snowbank_upstream_resends_total",
                "Requests sent again because a kept connection was closed, or silent for half of a narinfo's time. Ordinary for \
                 nix-serve, which closes after a second.",
                upstream,
            ),
            refused: declare.counters(
                "snowbank_upstream_refused_total",
                "Narinfos and NARs of an upstream that were not believed, by reason. Clients were told that the path is not \
                 there, or got it from the next upstream. Never ordinary: its key changed, it is misconfigured, broken, \
                 or it lies. The log names the paths.",
                &["upstream", Refusal::NAME],
            ),
            bytes: declare.counters("snowbank_upstream_received_bytes_total", "Body bytes received from an upstream.", upstream),
            latency: declare.seconds_of(
                "snowbank_upstream_latency_seconds",
                "Time from sending a request to an upstream until the head of its response.",
                // 1 ms to 16 s
                &[0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0],
                upstream,
            ),
            breaker: declare.gauges(
                "snowbank_upstream_breaker_state",
                "Whether an upstream is asked: 0 as usual, 2 not at all for some seconds because it did not answer, 1 by \
                 one request that finds out whether it is back. What is cached is served meanwhile.",
                upstream,
            ),
            openings: declare.counters(
                "snowbank_upstream_breaker_openings_total",
                "How often an upstream was taken for down, because it could not be reached, did not answer in time, or \
                 answered 5xx or 429. The log says why. Now and then without an outage: raise its narinfo_timeout.",
                upstream,
            ),
            unasked: declare.counters(
                "snowbank_upstream_unasked_total",
                "Requests that were not sent to an upstream because it is taken for down.",
                upstream,
            ),
            prefetched: declare.counters(
                "snowbank_prefetch_bytes_total",
                "Bytes of NARs that were fetched when their narinfo was asked for. fetched: all of them. used: of NARs that a client \
                 asked for then. wasted: of those that nobody asked for within five minutes, or that were broken off. Where wasted is a large \
                 part of fetched, set `prefetch` lower at this upstream, or to \"0 B\".",
                &["upstream", "fate"],
            ),
            saved: declare.float_counters(
                "snowbank_prefetch_saved_seconds_total",
                "Seconds that clients did not wait for an upstream because a NAR had been fetched, or was being fetched, when they asked \
                 for it; added up over NARs, of which a client takes several at a time.",
                upstream,
            ),
        }
    }

    pub(super) fn of(&self, name: &str) -> UpstreamMetrics {
        let answers = |answer| self.answers.with_label_values(&[name, answer]);
        let prefetched = |fate| self.prefetched.with_label_values(&[name, fate]);
        UpstreamMetrics {
            requests: self.requests.with_label_values(&[name]),
            have: answers("have"),
            have_not: answers("have-not"),
            unknown: answers("unknown"),
            resends: self.resends.with_label_values(&[name]),
            refused: CounterBy::within(&self.refused, name),
            bytes: self.bytes.with_label_values(&[name]),
            latency: self.latency.with_label_values(&[name]),
            breaker: self.breaker.with_label_values(&[name]),
            openings: self.openings.with_label_values(&[name]),
            unasked: self.unasked.with_label_values(&[name]),
            prefetch: PrefetchMetrics {
                fetched: prefetched("fetched"),
                used: prefetched("used"),
                wasted: prefetched("wasted"),
                saved: self.saved.with_label_values(&[name]),
            },
        }
    }
}
