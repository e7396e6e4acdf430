//! One request of an upstream, to the head of the answer: its headers, its redirects, and a connection that was closed
//! before it answered.
//!
//! A redirect is followed here, so that nobody above sees one: to at most [`hop::MOST`] places, each checked, each asked for
//! the same range in the same way. What is for the configured address alone (credentials, a client certificate) goes to
//! its scheme, host and port and nowhere else. An answer from elsewhere is marked [`Elsewhere`].
//!
//! Out of scope: permits and deadlines (`client`), and what an answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use tokio::time::Instant;
use url::Url;

use super::again::Again;
use super::credentials::Credentials;
use super::dial::{self, Pool, Purpose, Ways};
use super::error::Cause;
use super::hop;
use super::options::Options;
use super::proxy::Via;
use super::reach::{Limit, Reach};
use super::stale::{self, Watch};
use super::{tunnel, wire};
use crate::metrics::UpstreamMetrics;
use crate::trace::{self, Asking, TRACEPARENT};
use crate::{telemetry, trail};

/// Which connections a request takes at the configured address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Those for small things.
    Meta,
    /// Those for NARs.
    Bulk,
}

/// Marks a response that came from another host than the configured one: this one.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere(pub(super) String);

/// See the module.
#[derive(Debug)]
pub(super) struct Transport {
    /// The upstream's, for traces.
    name: Arc<str>,
    base: Url,
    meta: Pool,
    bulk: Pool,
    elsewhere: Pool,
    ways: Ways,
    limit: Limit,
    /// How long a kept connection may be silent after a request for something small.
    patience: Duration,
    watch: Watch,
    again: Again,
    credentials: Credentials,
    metrics: UpstreamMetrics,
}

impl Transport {
    /// Blocking: reads files.
    ///
    /// # Errors
    /// A file cannot be used, with the reason in words.
    pub(super) fn new(options: &Options, metrics: UpstreamMetrics) -> Result<Self, String> {
        let (limit, ways) = (Limit::new(), Ways::new(options)?);
        let meta = dial::pool(options, &ways, Purpose::Small)?;
        // Without TLS all is HTTP/1.1, one answer after another: the connection over which a narinfo came serves its NAR.
        let bulk = match options.url.is_https() {
            true => dial::pool(options, &ways, Purpose::Nars)?,
            false => meta.clone(),
        };
        Ok(Self {
            name: options.display_name().into(),
            base: options.url.base(),
            meta,
            bulk,
            elsewhere: dial::pool(options, &ways, Purpose::Elsewhere(&limit))?,
            ways,
            patience: options.narinfo_timeout.0 / 2,
            watch: Watch::default(),
            again: Again::new(),
            limit,
            credentials: Credentials::load(options)?,
            metrics,
        })
    }

    /// The ways that lead to it.
    pub(super) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// What the proxy is shown that reads requests for this address, if there is one and it wants anything.
    pub(super) async fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        self.read_by(uri).await.1
    }

    /// The kind of credentials that the upstream is shown, if any.
    pub(super) fn credentials_shown(&self) -> Option<String> {
        self.credentials.shown()
    }

    /// What it is that nothing came in time: behind a proxy nobody can tell whose fault it is.
    pub(super) fn late(&self, limit: Duration) -> Cause {
        let via = self.base.as_str().parse().ok().and_then(|uri| self.ways.via(&uri));
        match via {
            None => Cause::Timeout(limit),
            Some(Via { proxy, .. }) => Cause::Late { proxy: proxy.to_string(), limit },
        }
    }

    /// The answer to a GET of `target` (path and query) at the configured address, or wherever that leads.
    pub(super) async fn get(
        &self,
        lane: Lane,
        target: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Cause> {
        let authority = &self.base[url::Position::BeforeHost..url::Position::AfterPort];
        let mut uri = format!("{}://{authority}{target}", self.base.scheme());
        let mut here: Option<Url> = None; // where redirects led
        for _ in 0..=hop::MOST {
            let is_base = here.as_ref().is_none_or(|here| here.origin() == self.base.origin());
            let said = self.ask(is_base, lane, &uri, range).await;
            let elsewhere = here.as_ref().filter(|_| !is_base).map(hop::host);
            let mut response = match (said, &elsewhere) {
                (Err(Cause::Connection(why) | Cause::Unanswered(why)), Some(host)) => {
                    return Err(Cause::Redirect(format!("to {host}: {why}")));
                }
                (said, _) => said?,
            };
            if !hop::is_redirect(response.status()) {
                if let Some(host) = elsewhere {
                    response.extensions_mut().insert(Elsewhere(host));
                }
                return Ok(response);
            }
            if is_base {
                self.limit.saw(reached(&response));
            }
            let from = match here {
                Some(here) => here,
                None => Url::parse(&uri).map_err(|_| Cause::Internal("its address is none"))?,
            };
            let there = hop::next(&self.base, &from, response.headers(), &self.limit).map_err(Cause::Redirect)?;
            wire::read_out(response).await;
            there.as_str().clone_into(&mut uri);
            here = Some(there);
        }
        Err(Cause::Redirect(format!("after {} others", hop::MOST)))
    }

    /// One hop. Credentials that are refused are shown once more if there are others by now.
    async fn ask(
        &self,
        is_base: bool,
        lane: Lane,
        uri: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Cause> {
        if !is_base {
            return self.ask_as(&self.elsewhere, uri, range, &HeaderMap::new()).await;
        }
        let shown = self.credentials.header().await;
        let response = self.once(lane, uri, range, &authorization(shown.as_ref())).await?;
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(response);
        }
        match self.credentials.instead_of(shown.as_ref()).await {
            Some(other) => self.once(lane, uri, range, &authorization(Some(&other))).await,
            None => Ok(response),
        }
    }

    /// One hop at the configured address with `more` fields in its head; whatever is answered.
    pub(super) async fn once(
        &self,
        lane: Lane,
        uri: &str,
        range: Option<&HeaderValue>,
        more: &HeaderMap,
    ) -> Result<Response<Incoming>, Cause> {
        let pool = match lane {
            Lane::Meta => &self.meta,
            Lane::Bulk => &self.bulk,
        };
        self.ask_as(pool, uri, range, more).await
    }

    /// The proxy that reads requests for this address, and what it is shown.
    async fn read_by(&self, uri: &Uri) -> (Option<&Via>, Option<HeaderValue>) {
        match self.ways.via(uri).filter(|via| via.forwards(uri)) {
            Some(via) => (Some(via), via.authorization().await),
            None => (None, None),
        }
    }

    /// One request over one connection, or over two where the first is silent.
    async fn exchange(&self, pool: &Pool, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Error> {
        // Over plain HTTP connections are not kept for longer than a router remembers them, and to ask nix-serve twice
        // takes two of its workers.
        if !std::ptr::eq(pool, &raw const self.meta) || self.base.scheme() != "https" {
            return pool.request(request).await;
        }
        let (said, again) = self.watch.request(pool, request, self.patience).await;
        if again {
            self.metrics.resends.inc();
        }
        said
    }

    async fn ask_as(
        &self,
        pool: &Pool,
        uri: &str,
        range: Option<&HeaderValue>,
        more: &HeaderMap,
    ) -> Result<Response<Incoming>, Cause> {
        let uri = uri.parse().map_err(|_| Cause::Internal("its address cannot be asked for"))?;
        let (via, proxy_authorization) = self.read_by(&uri).await;
        let mut asking = Asking::begin(&self.name, &uri);
        let mut request = request(uri, range)?;
        request.headers_mut().extend(more.clone());
        if let Some(shown) = &proxy_authorization {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, shown.clone());
        }
        let (again, sent) = (request.clone(), Instant::now());
        self.metrics.requests.inc();
        self.again.asked();
        let said = match self.exchange(pool, told_of(request, asking.as_ref())).await {
            // Once, and not over a connection that was made for it: who closes those has answered as well as it can.
            Err(error) if wire::closed_before_answer(&error) && self.asks_again(&error, sent) => {
                self.metrics.resends.inc();
                self.metrics.requests.inc();
                asking = asking.map(|died| died.again(&self.name, again.uri()));
                self.exchange(pool, told_of(again, asking.as_ref())).await
            }
            said => said,
        };
        match said {
            Ok(response) => {
                let response = watched(response, asking);
                if wire::transfer_is_odd(response.headers()) {
                    return Err(Cause::Header("a Transfer-Encoding other than chunked"));
                }
                told_by(via, proxy_authorization.is_some(), response)
            }
            Err(error) => Err(unanswered(&error, asking.as_ref())),
        }
    }

    /// Whether what died with its connection is asked for once more.
    fn asks_again(&self, error: &Error, sent: Instant) -> bool {
        stale::kept(error, sent).is_some_and(|connection| self.again.take(Some(&connection)))
    }

    /// How often it may be asked for the same again.
    pub(super) fn again(&self) -> &Again {
        &self.again
    }
}

fn authorization(shown: Option<&HeaderValue>) -> HeaderMap {
    shown.map(|shown| (header::AUTHORIZATION, shown.clone())).into_iter().collect()
}

fn request(uri: Uri, range: Option<&HeaderValue>) -> Result<Request<Empty<Bytes>>, Cause> {
    let mut request = Request::get(uri)
        .header(header::USER_AGENT, wire::USER_AGENT)
        .header(header::ACCEPT, "*/*")
        // A NAR must come as the bytes its FileHash speaks of (protocol.md 10: harmonia compresses when offered).
        .header(header::ACCEPT_ENCODING, "identity");
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    if let Some(passed) = trail::header() {
        request = request.header(trail::CDN_LOOP, passed);
    }
    request.body(Empty::new()).map_err(|_| Cause::Internal("its address cannot be asked for"))
}

/// The request with the trace that it belongs to, as a part of which it may be recorded.
fn told_of(mut request: Request<Empty<Bytes>>, asking: Option<&Asking>) -> Request<Empty<Bytes>> {
    if let Some(trace) = asking.map_or_else(trace::header, Asking::header) {
        request.headers_mut().insert(TRACEPARENT, trace);
    }
    request
}

/// The answer, with which goes what is recorded of it.
fn watched(mut response: Response<Incoming>, asking: Option<Asking>) -> Response<Incoming> {
    if let Some(asking) = asking {
        asking.answered(response.status());
        response.extensions_mut().insert(asking);
    }
    response
}

/// Why there is no answer.
fn unanswered(error: &Error, asking: Option<&Asking>) -> Cause {
    let (word, cause) = match error.is_connect() {
        true => ("connection", Cause::Connection(telemetry::chain(error))),
        false => ("unanswered", Cause::Unanswered(telemetry::chain(error))),
    };
    if let Some(asking) = asking {
        asking.failed(word);
    }
    cause
}

/// The answer, unless it is of the proxy that read the request.
fn told_by(via: Option<&Via>, shown: bool, response: Response<Incoming>) -> Result<Response<Incoming>, Cause> {
    match via.and_then(|via| tunnel::of_the_proxy(&response, shown).map(|why| (via, why))) {
        None => Ok(response),
        Some((via, why)) => {
            let told = format!("its proxy {} {why}", via.proxy);
            // Something answers: clients, who choose what is missing, must not be able to take the upstream down.
            match response.status().is_client_error() && response.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED
            {
                true => Err(Cause::Told(format!("could not be asked: {told}"))),
                false => Err(Cause::Connection(told)),
            }
        }
    }
}

/// How the one who answered was reached.
fn reached(response: &Response<Incoming>) -> Reach {
    response.extensions().get::<Reach>().copied().unwrap_or(Reach::Public)
}
