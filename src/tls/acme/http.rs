//! How the CA's directory is spoken to: with limits on time and size, and an ear for `Retry-After`.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::clock::UnixSeconds;
use crate::telemetry;
use crate::tls::client_config;

/// For one request and its answer.
const LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer is a chain of certificates.
const LONGEST: usize = 1 << 20;
/// How often a renewal window is asked for again where the CA does not say (RFC 9773 section 4.3.3).
const WINDOW_AGAIN: HeaderValue = HeaderValue::from_static("21600");

/// A client of the directory. Clones share what was heard.
#[derive(Clone)]
pub(super) struct Http {
    pool: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    heard: Arc<Mutex<Option<Duration>>>,
}

impl Http {
    /// A client that trusts the system's roots, and `ca_file`.
    ///
    /// Blocking: reads roots from files.
    ///
    /// # Errors
    /// The roots cannot be used, with the reason in words.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        let tls = client_config(ca_file, None)?;
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let https = https.enable_http1().enable_http2().wrap_connector(tcp);
        let pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(LIMIT)
            .build(https);
        Ok(Self { pool, heard: Arc::default() })
    }

    /// What the last answer that was an error asked for with `Retry-After`, once.
    pub(super) fn heard(&self) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn ask(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let agent = HeaderValue::from_static(concat!("snowbank/", env!("CARGO_PKG_VERSION"), " instant-acme"));
        request.headers_mut().insert(USER_AGENT, agent);
        let url = request.uri().to_string();
        let plain_get = request.method() == Method::GET;
        let answered = tokio::time::timeout(LIMIT, self.exchange(request)).await;
        let mut response = answered
            .unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
            .map_err(|why| Error::Other(format!("{url}: {why}").into()))?;
        let status = response.status();
        let headers = response.headers_mut();
        if !(status.is_success() || status.is_redirection()) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = headers.get(RETRY_AFTER).and_then(seconds);
            let is_json = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("json"));
            if !headers.get(CONTENT_TYPE).is_some_and(is_json) {
                return Err(Error::Other(format!("{url}: {status}, and no ACME problem document with it").into()));
            }
        } else if plain_get && !headers.contains_key(RETRY_AFTER) {
            headers.insert(RETRY_AFTER, WINDOW_AGAIN);
        }
        Ok(BytesResponse::from(response))
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let response = self.pool.request(request).await.map_err(|error| advised(telemetry::chain(&error)))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| telemetry::chain(error.as_ref()))?;
        Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let seconds = text.parse().ok().or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(date.as_secs().saturating_sub(UnixSeconds::now().0))
    });
    seconds.map(Duration::from_secs)
}

/// Adds what to do about the one mistake that a CA inside a company invites. By the word: hyper hides the error itself.
fn advised(why: String) -> String {
    match why.contains("UnknownIssuer") {
        true => {
            why + "; if the CA's own server has a certificate of the company's, tls.acme.ca_file is to name its root"
        }
        false => why,
    }
}
