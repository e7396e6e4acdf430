//! How keys that are not in a file are fetched: over a connection of our own, with limits on time and size.
//!
//! The crate `object_store` knows whom to ask (instance metadata, STS, a container's agent) and what to make of the answer;
//! it asks through this, once: what failed is asked for again by the next request.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

/// For one request and its answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer holds a key, a secret and a session token.
const LONGEST: usize = 64 << 10;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Connector(Client<HttpsConnector<Tcp>, Full<Bytes>>);

impl Connector {
    /// A client that trusts the system's roots, and `ca_file`.
    ///
    /// Blocking: reads roots from files.
    ///
    /// # Errors
    /// The roots cannot be used, with the reason in words.
    pub(super) fn new(ca_file: Option<&Path>, connect_timeout: Duration) -> Result<Self, String> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(connect_timeout));
        let tls = crate::tls::client_config(ca_file, None)?;
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(LIMIT);
        Ok(Self(builder.build(https.wrap_connector(tcp))))
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        // What is asked for has no body, or a short one.
        let body = body.as_bytes().cloned().unwrap_or_default();
        let request = http::Request::from_parts(parts, Full::new(body));
        let failed = |error: hyper_util::client::legacy::Error| HttpError::new(HttpErrorKind::Connect, error);
        let (parts, body) = self.0.request(request).await.map_err(failed)?.into_parts();
        let whole = Limited::new(body, LONGEST).collect().await;
        let whole = whole.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, std::io::Error::other(error)))?;
        Ok(HttpResponse::from_parts(parts, whole.to_bytes().into()))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            match tokio::time::timeout(LIMIT, self.exchange(request)).await {
                Ok(answered) => answered,
                Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
            }
        })
    }
}
