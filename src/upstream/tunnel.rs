//! A connection to an upstream that a proxy makes: HTTP's CONNECT, or SOCKS 5.
//!
//! Either way the proxy is told a host and a port, resolves the name itself, and passes bytes on from then on. What it is
//! told besides is its own password; the upstream's requests and credentials go through the tunnel.

use std::future::{Ready, pending, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use tower_service::Service;

use super::line::Line;
use super::wire;
use crate::telemetry;

/// Has the HTTP proxy at the other end of `line` connect to `to` (`host:port`).
///
/// # Errors
/// Why not, in words that follow the proxy's name.
pub(super) async fn connect(line: Line, to: &str, authorization: Option<HeaderValue>) -> Result<Line, String> {
    let broke = |error: hyper::Error| format!("gave no answer to CONNECT: {}", telemetry::chain(&error));
    let (mut sender, connection) = http1::handshake(line).await.map_err(broke)?;
    let shown = authorization.is_some();
    let mut request = Request::connect(to).header(header::HOST, to).header(header::USER_AGENT, wire::USER_AGENT);
    if let Some(authorization) = authorization {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| "cannot be told this address".to_owned())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broke)?;
        if !response.status().is_success() {
            return Err(refusal(&response, shown));
        }
        hyper::upgrade::on(response).await.map_err(broke)
    };
    let upgraded = tokio::select! {
        exchanged = exchange => exchanged?,
        () = async { let _ = connection.with_upgrades().await; pending().await } => return Err("closed the connection".into()),
    };
    match upgraded.downcast::<Line>() {
        // The upstream waits for our greeting: what comes before it is not of TLS.
        Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io),
        _ => Err("sent more than an answer to CONNECT".into()),
    }
}

fn refusal(response: &Response<Incoming>, shown: bool) -> String {
    match response.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => wants_login(shown).into(),
        status => format!("answered CONNECT with {status}"),
    }
}

/// What a proxy that reads the requests says itself, in words that follow its name; `None` for an answer that it passes on.
/// As far as proxies tell: by 407, by squid's own field, by an error in `Proxy-Status` (RFC 9209). 401 and 403, by which
/// some refuse passwords and addresses, count as theirs without the `Via` of what is passed on (RFC 9110 section 7.6.3); and so
/// do 404 and 410, which a web server says that is no proxy at all (R18).
pub(super) fn of_the_proxy(response: &Response<Incoming>, shown: bool) -> Option<String> {
    let (status, headers) = (response.status(), response.headers());
    let error = headers.get(PROXY_STATUS).is_some_and(|value| value.to_str().is_ok_and(|v| v.contains("error=")));
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Some(wants_login(shown).into()),
        _ if error || headers.contains_key(SQUID_ERROR) => Some(format!("answered {status} itself")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE
            if !headers.contains_key(header::VIA) =>
        {
            Some(format!("answered {status}, without the Via of what it passes on"))
        }
        _ => None,
    }
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const SQUID_ERROR: HeaderName = HeaderName::from_static("x-squid-error");

/// What 407 means, in words that follow the proxy's name.
fn wants_login(shown: bool) -> &'static str {
    match shown {
        true => "refused the user and password that it was shown: 407",
        false => "wants a user and a password: 407 (set proxy_user and proxy_password_file)",
    }
}

/// Has the SOCKS proxy at the other end of `line` connect to the host and port of `to`.
///
/// # Errors
/// Why not, in words that follow the proxy's name.
pub(super) async fn socks(line: Line, to: Uri, login: Option<(String, String)>) -> Result<Line, String> {
    let mut proxy = SocksV5::new(to.clone(), Given(Some(line)));
    if let Some((user, password)) = login {
        proxy = proxy.with_auth(user, password);
    }
    proxy.call(to).await.map_err(|error| format!("made no connection: {error}"))
}

/// A connection that is there, in the shape in which [`SocksV5`] wants one.
struct Given(Option<Line>);

impl Service<Uri> for Given {
    type Response = Line;
    type Error = Once;
    type Future = Ready<Result<Line, Once>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Once>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or(Once))
    }
}

/// It was taken already.
#[derive(Debug, thiserror::Error)]
#[error("the connection was taken already")]
struct Once;
