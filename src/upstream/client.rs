//! One upstream: connections, budgets and the shape of its answers, whatever way it is reached (`way`).
//!
//! Two pools for each upstream: `meta` for narinfos and other small things (HTTP/2 where the upstream offers it) and
//! `bulk` for NARs (HTTP/1.1, a connection each, so that no two NARs share a flow-control window). A request waits for a
//! permit of its pool, is sent, and is sent again when a kept connection turned out to be closed before one byte of
//! the answer came (nix-serve closes after one idle second, so the race is ordinary there).
//!
//! nix-serve has few workers (five by default) and each open connection holds one: a plain-HTTP upstream starts with
//! [`CAREFUL`] connections and gets [`ROOMY`] once it has shown that it is something else. HEAD is never sent: nix-serve
//! answers it with a body, which would be read as the next response.
//!
//! Out of scope: which upstream is asked and what its answer is worth (`proxy`), and where the bytes go (`fill`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderValue, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use url::Url;

use super::answer::{Asked, Body, Opened, Said, Streamed};
use super::encoding;
use super::error::{Cause, UpstreamError};
use super::health::{Health, Kind, Ticket};
use super::options::{Forbidden, Options, Trust, WhenDown};
use super::pieces::Pieces;
use super::transport::{Elsewhere, Lane};
use super::way::Way;
use super::wire;
use crate::clock::UnixSeconds;
use crate::metrics::UpstreamMetrics;
use crate::nix::signature::PublicKeys;
use crate::trail;

/// Connections of each pool to a plain-HTTP upstream that may be nix-serve: together they leave it a worker.
const CAREFUL: usize = 2;
/// Connections of each pool to any other upstream, unless configured.
const ROOMY: usize = 32;
/// Small things in flight to an upstream that speaks HTTP/2: one connection carries them, and Nix asks 125 at a time.
const MULTIPLEXED: usize = 128;
/// Small things in flight to an upstream over TLS before it is known to speak HTTP/2.
const UNKNOWN_PROTOCOL: usize = 16;
/// Long logs passed on at a time, at their clients' pace: they must not take the permits of anything else.
const PASSED_ON: usize = 4;
/// How long a NAR waits for its turn at an upstream whose connections are all busy with others: less than the 300 s after
/// which Nix gives up on a silent server.
const TURN: Duration = Duration::from_secs(120);
/// NARs of one upstream that are unpacked at a time while they come: a decoder's memory waits as long as the upstream does.
const UNPACKED: usize = 4;
/// Answers about one upstream that wait at a time for a NAR of it to be fetched for them: further ones wait without
/// taking a place from other upstreams' NARs.
const FETCHED_AHEAD: usize = 8;
/// For so many seconds (an hour) an upstream that sent a wrong NAR is suspected of doing it again.
const SUSPECT: u64 = 3600;

/// An upstream that can be asked.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    base: Url,
    options: Options,
    keys: PublicKeys,
    rank: u32,
    way: Way,
    meta_permits: Arc<Semaphore>,
    bulk_permits: Arc<Semaphore>,
    pass_on_permits: Arc<Semaphore>,
    careful: AtomicBool,
    multiplexes: AtomicBool,
    /// Until when nothing of it is believed before it is proven.
    suspect_until: AtomicU64,
    /// As many as there are connections for NARs: who waits for one must not have a place that others could use.
    filled: Arc<Semaphore>,
    unpacked: Arc<Semaphore>,
    fetched_ahead: Arc<Semaphore>,
    health: Health,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream ready to be asked; nothing is connected yet. `rank` is its priority group: lower is asked earlier.
    ///
    /// # Errors
    /// The extra CA file cannot be used, with the reason in words.
    pub fn new(options: Options, rank: u32, metrics: UpstreamMetrics) -> Result<Arc<Self>, String> {
        let base = options.url.base();
        let tls = !options.url.is_plain_http();
        let (meta_permits, bulk_permits) = match (options.connections.map(|n| n.max(2) as usize), tls) {
            (Some(n), true) => (UNKNOWN_PROTOCOL, n),
            (Some(n), false) => (n / 2, n - n / 2),
            (None, true) => (UNKNOWN_PROTOCOL, ROOMY),
            (None, false) => (CAREFUL, CAREFUL),
        };
        let careful = options.connections.is_none() && !tls;
        let passed_on = if careful { 1 } else { PASSED_ON };
        Ok(Arc::new(Self {
            name: options.display_name().into(),
            keys: PublicKeys::new(options.public_keys.clone()),
            rank,
            way: Way::new(&options, metrics.clone())?,
            base,
            options,
            meta_permits: Arc::new(Semaphore::new(meta_permits)),
            bulk_permits: Arc::new(Semaphore::new(bulk_permits)),
            pass_on_permits: Arc::new(Semaphore::new(passed_on)),
            careful: AtomicBool::new(careful),
            multiplexes: AtomicBool::new(false),
            suspect_until: AtomicU64::new(0),
            filled: Arc::new(Semaphore::new(bulk_permits)),
            unpacked: Arc::new(Semaphore::new(UNPACKED)),
            fetched_ahead: Arc::new(Semaphore::new(FETCHED_AHEAD)),
            health: Health::new(metrics.clone()),
            metrics,
        }))
    }

    /// Its name in logs, metrics and messages.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its base URL; relative references resolve against it.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Its priority group: lower is asked earlier, the same is asked side by side.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// What its narinfos must prove.
    pub fn trust(&self) -> Trust {
        self.options.trust
    }

    /// What a missing answer of this upstream means to clients.
    pub fn when_down(&self) -> WhenDown {
        self.options.when_down
    }

    /// The keys trusted for this upstream, and for no other (R1).
    pub fn keys(&self) -> &PublicKeys {
        &self.keys
    }

    /// How long its narinfos are kept before it is asked again.
    pub fn narinfo_ttl(&self) -> Duration {
        self.options.narinfo_ttl.0
    }

    /// How long a body may pause.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.options.stall_timeout.0
    }

    /// The least that the body of a NAR must bring, in bytes for each second.
    pub(super) fn min_rate(&self) -> u64 {
        self.options.min_rate.0
    }

    /// For how long it will not be asked, because it is taken for down.
    pub fn down_for(&self) -> Option<Duration> {
        self.health.is_down().map(|(left, _)| left)
    }

    /// Takes note of how long its answer about a narinfo took, as seen by who asked.
    pub fn took(&self, time: Duration) {
        self.health.took(time);
    }

    /// How long its answer about a narinfo usually takes at most; `None` while that is not known.
    pub fn patience(&self) -> Option<Duration> {
        self.health.patience()
    }

    /// What was configured.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A NAR of it was not what it claims: for a while nothing of it is believed before it is proven.
    pub fn suspect(&self) {
        self.suspect_until.store(UnixSeconds::now().plus(SUSPECT).0, Ordering::Relaxed);
    }

    /// Whether it was caught lately.
    pub fn is_suspect(&self) -> bool {
        UnixSeconds::now().0 < self.suspect_until.load(Ordering::Relaxed)
    }

    /// A turn to fill a NAR of it.
    pub async fn turn_to_fill(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.filled).acquire_owned().await.ok()
    }

    /// A turn to unpack a NAR of it while it comes.
    pub async fn turn_to_unpack(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.unpacked).acquire_owned().await.ok()
    }

    /// A turn to fetch a NAR of it that an answer about its path waits for.
    pub async fn turn_to_fetch_ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.fetched_ahead).acquire_owned().await.ok()
    }

    /// Its counters.
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// The upstream has shown that it is not nix-serve: more connections will not starve it.
    pub fn is_roomy(&self) {
        if self.careful.swap(false, Ordering::Relaxed) {
            self.meta_permits.add_permits(ROOMY - CAREFUL);
            self.bulk_permits.add_permits(ROOMY - CAREFUL);
            self.filled.add_permits(ROOMY - CAREFUL);
            self.pass_on_permits.add_permits(PASSED_ON - 1);
        }
    }

    /// The upstream answered over HTTP/2: many small things share its one connection.
    fn is_multiplexed(&self) {
        if !self.multiplexes.swap(true, Ordering::Relaxed) {
            self.meta_permits.add_permits(MULTIPLEXED - UNKNOWN_PROTOCOL);
        }
    }

    /// Gets a small thing, at most `limit` bytes of it. `path` is relative to the base and made by us from a parsed
    /// request (R13).
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn small(self: &Arc<Self>, path: &str, limit: usize) -> Result<Said<Asked>, UpstreamError> {
        let target = format!("{}{path}", self.base_path());
        let (permit, ticket) = self.turn(&self.meta_permits, Kind::Small, &target).await?;
        // All of it, not each piece: who sends a byte now and then would hold a permit, and everybody who waits, for ever.
        let budget = self.options.narinfo_timeout.0;
        let said = timeout(budget, self.small_asked(&target, limit, permit)).await;
        let said = said.unwrap_or_else(|_| Err(self.error(Cause::Timeout(budget))));
        ticket.settle(&said);
        said
    }

    async fn small_asked(
        self: &Arc<Self>,
        target: &str,
        limit: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Asked>, UpstreamError> {
        let response = self.send(Lane::Meta, target, None).await?;
        if response.version() == Version::HTTP_2 {
            self.is_multiplexed();
        }
        if self.trust() == Trust::Origin && wire::ends_with_the_connection(&response) {
            // Cut at the end of a line it would look whole, and no signature would tell, ours or the client's.
            return Err(self.error(Cause::Header("neither Content-Length nor chunks, so that a cut could not be told")));
        }
        let Said::Have(Streamed { size, encoding, mut body }) = self.streamed(response, permit).await? else {
            return Ok(Said::HaveNot);
        };
        if size.is_some_and(|size| size > limit as u64) {
            return Ok(Said::Have(Asked::TooLong));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > limit {
                return Ok(Said::Have(Asked::TooLong));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Said::Have(Asked::Whole { body: whole.freeze(), encoding }))
    }

    /// The same, and what comes encoded although `identity` was asked for is decoded: niks3's bucket sends narinfos as they
    /// were put there, in zstd. `limit` is for the encoded and for the decoded bytes.
    ///
    /// # Errors
    /// The same, and an encoding that is not known, is not what is in the body, or is one of several.
    pub async fn text(self: &Arc<Self>, path: &str, limit: usize) -> Result<Said<Asked>, UpstreamError> {
        let (body, encoding) = match self.small(path, limit).await? {
            Said::Have(Asked::Whole { body, encoding: Some(encoding) }) => (body, encoding),
            said => return Ok(said),
        };
        let decoded = encoding::decoded(body, encoding, limit).await.map_err(|cause| self.error(cause))?;
        Ok(Said::Have(decoded.map_or(Asked::TooLong, |body| Asked::Whole { body, encoding: None })))
    }

    /// Opens something to be passed on as it comes, at its client's pace.
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn pass_on(self: &Arc<Self>, path: &str) -> Result<Said<Streamed>, UpstreamError> {
        let target = format!("{}{path}", self.base_path());
        let (permit, ticket) = self.turn(&self.pass_on_permits, Kind::Large, &target).await?;
        let sent = self.send(Lane::Bulk, &target, None).await;
        let streamed = match sent {
            Ok(response) => self.streamed(response, permit).await,
            Err(error) => Err(error),
        };
        ticket.settle(&streamed);
        streamed
    }

    async fn streamed(
        self: &Arc<Self>,
        response: Response<Pieces>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Streamed>, UpstreamError> {
        let (encoding, size) = (wire::encoding(response.headers()), wire::content_length(response.headers()));
        if response.status() == StatusCode::OK {
            self.metrics.have.inc();
            return Ok(Said::Have(Streamed { size, encoding, body: Body::new(response.into_body(), self, permit) }));
        }
        self.is_have_not(&response)?;
        Body::new(response.into_body(), self, permit).read_out().await;
        Ok(Said::HaveNot)
    }

    /// What an answer without the thing means: that it is not there, or nothing.
    fn is_have_not(&self, response: &Response<Pieces>) -> Result<(), UpstreamError> {
        let status = response.status();
        match (status, response.extensions().get::<Elsewhere>()) {
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {}
            // It has asked us for us: whatever it has besides is in no other answer (see `trail`).
            (StatusCode::LOOP_DETECTED, _) if trail::is_about_us(response.headers()) => {}
            (StatusCode::FORBIDDEN, None) if self.options.forbidden == Some(Forbidden::HaveNot) => {}
            (_, Some(Elsewhere(host))) => {
                return Err(self.error(Cause::Elsewhere { host: host.clone(), status }));
            }
            (_, None) => return Err(self.error(self.refusal(status))),
        }
        self.metrics.have_not.inc();
        Ok(())
    }

    /// What a status of the upstream itself says that is neither yes nor no.
    fn refusal(&self, status: StatusCode) -> Cause {
        match (status, self.way.credentials_shown()) {
            (StatusCode::UNAUTHORIZED, None) => Cause::Credentials,
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(kind)) => Cause::Refused { kind, status },
            _ => Cause::Status(status),
        }
    }

    /// Opens a NAR at `target` (path and query, as [`crate::nix::nar_url::NarUrl::target`] gives it) from byte `from`,
    /// up to and including `last` when given.
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn open(
        self: &Arc<Self>,
        target: &str,
        from: u64,
        last: Option<u64>,
    ) -> Result<Said<Opened>, UpstreamError> {
        let (permit, ticket) = self.turn(&self.bulk_permits, Kind::Large, target).await?;
        let opened = self.open_asked(target, from, last, permit).await;
        ticket.settle(&opened);
        opened
    }

    async fn open_asked(
        self: &Arc<Self>,
        target: &str,
        from: u64,
        last: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Opened>, UpstreamError> {
        let range = match (from, last) {
            (0, None) => None,
            (_, None) => Some(format!("bytes={from}-")),
            (_, Some(last)) => Some(format!("bytes={from}-{last}")),
        };
        let range = range.and_then(|range| HeaderValue::try_from(range).ok());
        let response = self.send(Lane::Bulk, target, range.as_ref()).await?;
        let headers = response.headers();
        let (from, total) = match response.status() {
            StatusCode::OK => (0, wire::content_length(headers)),
            StatusCode::PARTIAL_CONTENT => match wire::content_range(headers) {
                Some((first, total)) if first == from => (first, total),
                _ => return Err(self.error(Cause::Header("a 206 whose Content-Range is not what was asked"))),
            },
            _ => return self.is_have_not(&response).map(|()| Said::HaveNot),
        };
        if wire::encoding(headers).is_some() {
            return Err(self.error(Cause::Header("a NAR with a Content-Encoding although `identity` was asked for")));
        }
        let validator = wire::strong_validator(headers);
        self.metrics.have.inc();
        let body = Body::new(response.into_body(), self, permit);
        Ok(Said::Have(Opened { from, total, validator, body }))
    }

    /// An error of this upstream.
    pub(crate) fn error(&self, cause: Cause) -> UpstreamError {
        self.metrics.unknown.inc();
        UpstreamError { upstream: Arc::clone(&self.name), cause }
    }

    /// The base's path, which ends in `/`.
    fn base_path(&self) -> &str {
        self.base.path()
    }

    /// A connection's permit, and leave to ask: not of an upstream that is taken for down, which is said at once, and also to
    /// those who waited for a permit while it went down.
    async fn turn<'a>(
        &'a self,
        permits: &Arc<Semaphore>,
        kind: Kind,
        target: &'a str,
    ) -> Result<(OwnedSemaphorePermit, Ticket<'a>), UpstreamError> {
        if let Some((_, why)) = self.health.is_down() {
            return Err(self.not_asked(why));
        }
        let limit = self.options.response_timeout.0;
        let turn = if Arc::ptr_eq(permits, &self.bulk_permits) { TURN } else { limit };
        let permit = match timeout(turn, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(self.error(Cause::Internal("its permits are closed"))),
            Err(_) => return Err(self.error(Cause::Busy(turn))),
        };
        let ticket = self.health.pass(kind, target, &self.name).map_err(|why| self.not_asked(why))?;
        Ok((permit, ticket))
    }

    fn not_asked(&self, why: Arc<str>) -> UpstreamError {
        self.metrics.unasked.inc();
        UpstreamError { upstream: Arc::clone(&self.name), cause: Cause::Down(why) }
    }

    /// Waits for the head of the answer.
    async fn send(
        &self,
        lane: Lane,
        target: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Pieces>, UpstreamError> {
        let (limit, started) = (self.options.response_timeout.0, Instant::now());
        match timeout(limit, self.way.get(lane, target, range)).await {
            Err(_) => Err(self.error(Cause::Timeout(limit))),
            Ok(Err(cause)) => Err(self.error(cause)),
            Ok(Ok(response)) => {
                self.metrics.latency.observe(started.elapsed().as_secs_f64());
                Ok(response)
            }
        }
    }
}
