//! One upstream over HTTP: connections, budgets and the shape of its answers.
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::error::{Cause, UpstreamError};
use super::options::{Options, Trust, WhenDown};
use crate::metrics::UpstreamMetrics;
use crate::nix::signature::PublicKeys;

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
/// How often a request is sent again because its connection was closed before an answer.
const RESENDS: usize = 2;
/// A kept plain-HTTP connection is used for less than nix-serve's keep-alive of one second.
const PLAIN_IDLE: Duration = Duration::from_millis(700);
const TLS_IDLE: Duration = Duration::from_secs(60);
/// How long the text of a 404 is waited for.
const READ_OUT: Duration = Duration::from_secs(1);

type Pool = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// An upstream that can be asked.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    base: Url,
    options: Options,
    keys: PublicKeys,
    rank: u32,
    meta: Pool,
    bulk: Pool,
    meta_permits: Arc<Semaphore>,
    bulk_permits: Arc<Semaphore>,
    pass_on_permits: Arc<Semaphore>,
    careful: AtomicBool,
    multiplexes: AtomicBool,
    metrics: UpstreamMetrics,
}

/// A small thing.
#[derive(Debug, Clone)]
pub enum Asked {
    /// All of it.
    Whole {
        /// The body.
        body: Bytes,
        /// `Content-Encoding` as sent, when it is not `identity`: caches keep logs and listings compressed (`br`,
        /// `zstd`) and send them so whatever was accepted.
        encoding: Option<HeaderValue>,
    },
    /// It is longer than the limit.
    TooLong,
}

/// Something passed on as it comes.
#[derive(Debug)]
pub struct Streamed {
    /// Size in bytes, when the upstream says it.
    pub size: Option<u64>,
    /// As in [`Asked::Whole`].
    pub encoding: Option<HeaderValue>,
    /// The bytes.
    pub body: Body,
}

/// What an upstream says about one thing: design.md, idea 4. "Unknown" is the error of the `Result` around it.
#[derive(Debug)]
pub enum Said<T> {
    /// It has it.
    Have(T),
    /// It has it not: 404 or 410, and nothing else.
    HaveNot,
}

/// A body being received.
#[derive(Debug)]
pub struct Opened {
    /// Offset of the first byte of `body` in the whole: as asked, or 0 from an upstream that ignores `Range`.
    pub from: u64,
    /// Size of the whole in bytes, when the upstream says it.
    pub total: Option<u64>,
    /// The bytes from there on.
    pub body: Body,
}

/// The bytes of a body, with the stall limit applied; holds the connection's permit.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    upstream: Arc<Upstream>,
    _permit: OwnedSemaphorePermit,
}

impl Body {
    /// Reads the short text that goes with a 404, so that the connection can be kept; a long or slow one closes it.
    async fn read_out(&mut self) {
        let all = async {
            let mut left = 4096_usize;
            while let Some(Ok(piece)) = self.next().await {
                match left.checked_sub(piece.len()) {
                    Some(still) => left = still,
                    None => return,
                }
            }
        };
        // The answer is known: a body that trickles must not hold it up.
        let _ = timeout(READ_OUT, all).await;
    }

    /// The next piece; `None` at the end of the body as HTTP sees it, which for a body without a length proves nothing.
    ///
    /// # Errors
    /// The connection broke, or nothing came for the stall limit.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let stall = self.upstream.options.stall_timeout.0;
        loop {
            return match timeout(stall, self.incoming.frame()).await {
                Err(_) => Some(Err(self.upstream.error(Cause::Stall(stall)))),
                Ok(None) => None,
                Ok(Some(Err(error))) => Some(Err(self.upstream.error(Cause::Cut(error.to_string())))),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => {
                        self.upstream.metrics.bytes.inc_by(data.len() as u64);
                        Some(Ok(data))
                    }
                    Err(_trailers) => continue,
                },
            };
        }
    }
}

impl Upstream {
    /// An upstream ready to be asked; nothing is connected yet. `rank` is its priority group: lower is asked earlier.
    ///
    /// # Errors
    /// The extra CA file cannot be used, with the reason in words.
    pub fn new(options: Options, rank: u32, metrics: UpstreamMetrics) -> Result<Arc<Self>, String> {
        let base = options.url.base();
        let tls = base.scheme() == "https";
        let (meta_permits, bulk_permits) = match (options.connections.map(|n| n.max(2) as usize), tls) {
            (Some(n), true) => (UNKNOWN_PROTOCOL, n),
            (Some(n), false) => (n / 2, n - n / 2),
            (None, true) => (UNKNOWN_PROTOCOL, ROOMY),
            (None, false) => (CAREFUL, CAREFUL),
        };
        let careful = options.connections.is_none() && !tls;
        let passed_on = if careful { 1 } else { PASSED_ON };
        let idle = if tls { TLS_IDLE } else { PLAIN_IDLE };
        Ok(Arc::new(Self {
            name: options.display_name().into(),
            keys: PublicKeys::new(options.public_keys.clone()),
            rank,
            meta: pool(&options, true, idle)?,
            bulk: pool(&options, false, idle)?,
            base,
            options,
            meta_permits: Arc::new(Semaphore::new(meta_permits)),
            bulk_permits: Arc::new(Semaphore::new(bulk_permits)),
            pass_on_permits: Arc::new(Semaphore::new(passed_on)),
            careful: AtomicBool::new(careful),
            multiplexes: AtomicBool::new(false),
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

    /// Its counters.
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// The upstream has shown that it is not nix-serve: more connections will not starve it.
    pub fn is_roomy(&self) {
        if self.careful.swap(false, Ordering::Relaxed) {
            self.meta_permits.add_permits(ROOMY - CAREFUL);
            self.bulk_permits.add_permits(ROOMY - CAREFUL);
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
        let (response, permit) = self.send(&self.meta, &self.meta_permits, &target, None).await?;
        if response.version() == Version::HTTP_2 {
            self.is_multiplexed();
        }
        if self.trust() == Trust::Origin && ends_with_the_connection(&response) {
            // Cut at the end of a line it would look whole, and no signature would tell, ours or the client's.
            return Err(self.error(Cause::Header("neither Content-Length nor chunks, so that a cut could not be told")));
        }
        let Said::Have(Streamed { size, encoding, mut body }) = self.streamed(response, permit).await? else {
            return Ok(Said::HaveNot);
        };
        if size.is_some_and(|size| size > limit as u64) {
            return Ok(Said::Have(Asked::TooLong));
        }
        let all = async {
            let mut whole = BytesMut::new();
            while let Some(piece) = body.next().await {
                let piece = piece?;
                if whole.len() + piece.len() > limit {
                    return Ok(Said::Have(Asked::TooLong));
                }
                whole.extend_from_slice(&piece);
            }
            Ok(Said::Have(Asked::Whole { body: whole.freeze(), encoding }))
        };
        // All of it, not each piece: who sends a byte now and then would hold a permit, and everybody who waits, for ever.
        let limit = self.options.stall_timeout.0;
        timeout(limit, all).await.unwrap_or_else(|_| Err(self.error(Cause::Slow(limit))))
    }

    /// Opens something to be passed on as it comes, at its client's pace.
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn pass_on(self: &Arc<Self>, path: &str) -> Result<Said<Streamed>, UpstreamError> {
        let target = format!("{}{path}", self.base_path());
        let (response, permit) = self.send(&self.bulk, &self.pass_on_permits, &target, None).await?;
        self.streamed(response, permit).await
    }

    async fn streamed(
        self: &Arc<Self>,
        response: Response<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Streamed>, UpstreamError> {
        let (status, encoding, size) =
            (response.status(), encoding(response.headers()), content_length(response.headers()));
        let mut body = Body { incoming: response.into_body(), upstream: Arc::clone(self), _permit: permit };
        match status {
            StatusCode::OK => {
                self.metrics.have.inc();
                Ok(Said::Have(Streamed { size, encoding, body }))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                self.metrics.have_not.inc();
                body.read_out().await;
                Ok(Said::HaveNot)
            }
            status => Err(self.error(Cause::Status(status))),
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
        let range = match (from, last) {
            (0, None) => None,
            (_, None) => Some(format!("bytes={from}-")),
            (_, Some(last)) => Some(format!("bytes={from}-{last}")),
        };
        let (response, permit) = self.send(&self.bulk, &self.bulk_permits, target, range.as_deref()).await?;
        let headers = response.headers();
        let (from, total) = match response.status() {
            StatusCode::OK => (0, content_length(headers)),
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((first, total)) if first == from => (first, total),
                _ => return Err(self.error(Cause::Header("a 206 whose Content-Range is not what was asked"))),
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                self.metrics.have_not.inc();
                return Ok(Said::HaveNot);
            }
            status => return Err(self.error(Cause::Status(status))),
        };
        if encoding(headers).is_some() {
            return Err(self.error(Cause::Header("a NAR with a Content-Encoding although `identity` was asked for")));
        }
        self.metrics.have.inc();
        let body = Body { incoming: response.into_body(), upstream: Arc::clone(self), _permit: permit };
        Ok(Said::Have(Opened { from, total, body }))
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

    async fn send(
        &self,
        pool: &Pool,
        permits: &Arc<Semaphore>,
        target: &str,
        range: Option<&str>,
    ) -> Result<(Response<Incoming>, OwnedSemaphorePermit), UpstreamError> {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            return Err(self.error(Cause::Internal("the upstream's permits are closed")));
        };
        let started = tokio::time::Instant::now();
        let limit = self.options.response_timeout.0;
        let mut resends = 0;
        loop {
            let request = self.request(target, range)?;
            self.metrics.requests.inc();
            match timeout(limit, pool.request(request)).await {
                Err(_) => return Err(self.error(Cause::Timeout(limit))),
                Ok(Ok(response)) => {
                    self.metrics.latency.observe(started.elapsed().as_secs_f64());
                    return Ok((response, permit));
                }
                Ok(Err(error)) if resends < RESENDS && closed_before_answer(&error) => {
                    resends += 1;
                    self.metrics.resends.inc();
                }
                Ok(Err(error)) => return Err(self.error(Cause::Connection(chain(&error)))),
            }
        }
    }

    fn request(&self, target: &str, range: Option<&str>) -> Result<Request<Empty<Bytes>>, UpstreamError> {
        let authority = &self.base[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}://{authority}{target}", self.base.scheme()))
            .header(header::USER_AGENT, concat!("snowbank/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "*/*")
            // A NAR must come as the bytes its FileHash speaks of (protocol.md 10: harmonia compresses when offered).
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        request.body(Empty::new()).map_err(|e| self.error(Cause::Connection(e.to_string())))
    }
}

fn pool(options: &Options, multiplexed: bool, idle: Duration) -> Result<Pool, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout.0));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let tls = super::tls::client_config(options.ca_file.as_deref())?;
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    let https = if multiplexed { https.enable_http2().wrap_connector(tcp) } else { https.wrap_connector(tcp) };
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(ROOMY)
        // A pooled HTTP/2 connection that went dead is found by a ping, not by a client's patience.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(16 << 20)
        .http1_max_headers(100);
    Ok(builder.build(https))
}

/// Whether a request died because its connection was closed before one byte of an answer: on a kept connection that the
/// upstream had given up, or at an HTTP/2 upstream that is going away. A GET may then be sent again (RFC 9110 section
/// 9.2.2; RFC 9113 section 8.7).
fn closed_before_answer(error: &hyper_util::client::legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            return !(hyper.is_parse() || hyper.is_user() || hyper.is_timeout());
        }
        source = cause.source();
    }
    false
}

/// Whether the end of the body is the end of the connection (RFC 9112 section 6.3, rule 8).
fn ends_with_the_connection(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    response.version() < Version::HTTP_2
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.ends_with(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    line
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn encoding(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get(header::CONTENT_ENCODING)
        .filter(|v| !v.is_empty() && !v.as_bytes().eq_ignore_ascii_case(b"identity"))
        .cloned()
}

/// `Content-Range: bytes first-last/total` (RFC 9110 section 14.4): the first byte and, unless it is `*`, the total.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        digits => Some(digits.parse().ok()?),
    };
    (first <= last && total.is_none_or(|t| last < t)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<(u64, Option<u64>)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
        content_range(&headers)
    }

    #[test]
    fn content_range_is_read_as_rfc_9110_writes_it() {
        assert_eq!(range("bytes 10-19/100"), Some((10, Some(100))));
        assert_eq!(range("bytes 0-0/*"), Some((0, None)));
        for bad in ["bytes 19-10/100", "bytes 10-100/100", "bytes */100", "items 0-1/2", "bytes 1-2", "bytes a-b/c"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
