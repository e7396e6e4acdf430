//! One request to the collector, and what its answer means (OpenTelemetry protocol specification, "OTLP/HTTP Response").
//!
//! Redirects are not followed, and of what it says in words nothing is read.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::telemetry::{Collector, chain};
use crate::{clock, tls};

/// For one request, from the connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Of the answer more is not read: it is a number and a line of text.
const ANSWER: usize = 64 << 10;

/// Where spans are sent.
#[derive(Debug)]
pub(super) struct Sender {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why the spans of a request did not arrive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words.
    pub(super) why: String,
    /// Whether the same may be sent again.
    pub(super) again: bool,
    /// For how long it asks to be left alone.
    pub(super) wait: Option<Duration>,
}

impl Failure {
    fn for_now(why: String) -> Self {
        Self { why, again: true, wait: None }
    }

    fn for_good(why: String) -> Self {
        Self { why, again: false, wait: None }
    }
}

impl Sender {
    /// Blocking: over TLS reads the system's roots.
    ///
    /// # Errors
    /// The system's roots cannot be used, with the reason in words.
    pub(super) fn new(collector: &Collector) -> Result<Self, String> {
        let config = match collector.is_https() {
            true => tls::client_config(None, None)?,
            false => ClientConfig::builder_with_provider(tls::provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(https.wrap_connector(http));
        let uri = collector.address().parse().map_err(|_| format!("{collector} cannot be asked for"))?;
        Ok(Self { uri, client })
    }

    /// Sends one batch; how many spans of it were refused.
    ///
    /// # Errors
    /// It did not arrive.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<u64, Failure> {
        match timeout(LIMIT, self.post(body)).await {
            Ok(said) => said,
            // It may have arrived: to send it again would show everything twice.
            Err(_) => Err(Failure::for_good(format!("no answer within {LIMIT:?}"))),
        }
    }

    async fn post(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("snowbank/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(body))
            .map_err(|error| Failure::for_good(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| Failure::for_now(chain(&error)))?;
        match refusal(&response) {
            Some(failure) => Err(failure),
            None => Ok(refused(response.into_body()).await),
        }
    }
}

/// What a status says that is no success.
fn refusal<B>(response: &Response<B>) -> Option<Failure> {
    let status = response.status();
    if status.is_success() {
        return None;
    }
    let why = format!("it answers {status}");
    Some(match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Failure { wait: retry_after(response), ..Failure::for_now(why) },
        _ => Failure::for_good(why),
    })
}

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let when = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(when.saturating_sub(clock::since_1970()))
        }
    }
}

/// How many spans were refused. A body that is none of the protocol's says nothing, and the status was a success.
async fn refused(body: Incoming) -> u64 {
    let Ok(whole) = Limited::new(body, ANSWER).collect().await else { return 0 };
    let read = ExportTraceServiceResponse::decode(whole.to_bytes()).unwrap_or_default();
    read.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, retry_after: Option<&str>) -> Option<Failure> {
        let mut response = Response::builder().status(status);
        if let Some(value) = retry_after {
            response = response.header(header::RETRY_AFTER, value);
        }
        refusal(&response.body(()).unwrap())
    }

    #[test]
    fn only_what_the_protocol_calls_retryable_is_sent_again() {
        assert_eq!(said(200, None), None);
        assert_eq!(said(202, None), None);
        for status in [301, 400, 401, 404, 413, 415, 500, 501] {
            assert!(
                said(status, Some("1")).is_some_and(|failure| !failure.again && failure.wait.is_none()),
                "{status}"
            );
        }
        for status in [429, 502, 503, 504] {
            assert!(said(status, None).is_some_and(|failure| failure.again && failure.wait.is_none()), "{status}");
        }
    }

    #[test]
    fn it_is_left_alone_for_as_long_as_it_asks() {
        let wait = |text: &str| said(429, Some(text)).unwrap().wait;
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
