//! HTTP towards an upstream: pools of connections, and what its response heads say.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::options::Options;

/// Idle connections kept to an upstream.
const IDLE: usize = 32;
/// A kept plain-HTTP connection is used for less than nix-serve's keep-alive of one second.
const PLAIN_IDLE: Duration = Duration::from_millis(700);
const TLS_IDLE: Duration = Duration::from_secs(60);

/// Connections to one upstream.
pub(super) type Pool = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A pool; `multiplexed` if it may speak HTTP/2 where the upstream offers it.
///
/// # Errors
/// The extra CA file cannot be used, with the reason in words.
pub(super) fn pool(options: &Options, multiplexed: bool) -> Result<Pool, String> {
    let idle = if options.url.is_https() { TLS_IDLE } else { PLAIN_IDLE };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout.0));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let tls = crate::tls::client_config(options.ca_file.as_deref())?;
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    let https = if multiplexed { https.enable_http2().wrap_connector(tcp) } else { https.wrap_connector(tcp) };
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(IDLE)
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
pub(super) fn closed_before_answer(error: &hyper_util::client::legacy::Error) -> bool {
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
pub(super) fn ends_with_the_connection(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    response.version() < Version::HTTP_2
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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

/// `Content-Length`, where there is one.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The first `Content-Encoding` that is not `identity`, on whichever line it stands.
pub(super) fn encoding(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.find(|v| !v.is_empty() && !v.as_bytes().eq_ignore_ascii_case(b"identity")).cloned()
}

/// Whether the body is transferred in an encoding besides chunks: hyper undoes only those.
pub(super) fn transfer_is_odd(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// `ETag`, unless it is a weak one, which may stand for several bodies.
pub(super) fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}

/// `Content-Range: bytes first-last/total` (RFC 9110 section 14.4): the first byte and, unless it is `*`, the total.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
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
    fn encodings_are_seen_on_any_line() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
        headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static("Chunked"));
        assert!(encoding(&headers).is_none() && !transfer_is_odd(&headers));
        headers.append(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(encoding(&headers).unwrap(), "gzip");
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("gzip, chunked"));
        assert!(transfer_is_odd(&headers));
    }

    #[test]
    fn only_a_strong_validator_stands_for_bytes() {
        let mut headers = HeaderMap::new();
        assert!(strong_validator(&headers).is_none());
        headers.insert(header::ETAG, HeaderValue::from_static("W/\"x\""));
        assert!(strong_validator(&headers).is_none());
        headers.insert(header::ETAG, HeaderValue::from_static("\"x\""));
        assert_eq!(strong_validator(&headers).unwrap(), "\"x\"");
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
