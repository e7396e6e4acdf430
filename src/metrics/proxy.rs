//! What is counted between a request and what answers it.

use prometheus::{IntCounter, IntGauge};

use super::declare::{CounterBy, Declare};
use super::labels::{AccessDecision, Prefetched};
use super::library::LibraryMetrics;

/// What the proxy counts.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    /// Clients that joined a running fill.
    pub coalesced: IntCounter,
    /// NARs that were found out not to be what their narinfo says, and are held back since.
    pub quarantined: IntCounter,
    /// Questions that the next group was asked too before one was done.
    pub hedges: IntCounter,
    /// Clients that wait for upstreams now.
    pub waiting: IntGauge,
    /// Requests about which the `[[access]]` tables had something to say.
    pub access: CounterBy<AccessDecision>,
    /// NARs that are being fetched ahead.
    pub prefetching: IntGauge,
    /// Narinfos that were asked for before a client did.
    pub prefetched_narinfos: CounterBy<Prefetched>,
    /// What is written into the library.
    pub library: LibraryMetrics,
}

impl ProxyMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            coalesced: declare.counter(
                "snowbank_proxy_coalesced_total",
                "Requests for a NAR that was being fetched already, and that were served from that fetch.",
            ),
            quarantined: declare.counter(
                "snowbank_proxy_quarantined_total",
                "How often NARs were found not to be what their narinfo says; they are not served since. Never ordinary; snowbank_upstream_refused_total tells whose they were and why, the log which.",
            ),
            hedges: declare.counter(
                "snowbank_proxy_hedges_total",
                "Narinfos that the upstreams next in order were asked for as well, because one before them took longer \
                 than it usually does. At most one for every five narinfos that upstreams are asked for, except while one that \
                 is asked says nothing at all.",
            ),
            waiting: declare.gauge(
                "snowbank_proxy_waiting",
                "Requests of clients that wait for an upstream: for what it says, or for the first bytes of a NAR. At half of \
                 limits.requests further ones are refused with 503, and what is here is served all the same.",
            ),
            access: declare.counter_by(
                "snowbank_proxy_access_total",
                "Requests of clients that may see private upstreams (granted), and of those that showed an Authorization and may \
                 not (refused): their token is wrong or was revoked, or another condition of its table does not hold. Both \
                 are answered alike where they ask for what is public.",
            ),
            prefetching: declare.gauge(
                "snowbank_prefetch_running",
                "NARs that are being fetched although no client has asked for them yet, because one asked for their narinfo; 48 may be.",
            ),
            prefetched_narinfos: declare.counter_by(
                "snowbank_prefetch_narinfos_total",
                "Narinfos that upstreams were asked for because a path refers to theirs that a client asked for. used: a client asked for \
                 it then.",
            ),
            library: LibraryMetrics::new(declare),
        }
    }
}
