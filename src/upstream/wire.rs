//! HTTP towards an upstream: what its response heads say, and how requests end without one.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

/// What a request calls us.
pub(super) const USER_AGENT: &str = concat!("snowbank/", env!("CARGO_PKG_VERSION"));

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

/// Whether a body is said to be a page for a browser.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    said.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"text/html"))
}

/// Whether the end of the body is the end of the connection (RFC 9112 section 6.3, rule 8).
pub(super) fn ends_with_the_connection<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.version() < Version::HTTP_2
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// Whether nix-serve under Starman cannot have sent this head: it names no server and no validators, knows no ranges, and sends
/// each 404 in chunks.
pub(super) fn is_not_from_starman<B>(response: &Response<B>) -> bool {
    const FOREIGN: [HeaderName; 6] = [
        header::SERVER,
        header::ETAG,
        header::LAST_MODIFIED,
        header::ACCEPT_RANGES,
        header::CACHE_CONTROL,
        header::VIA,
    ];
    let headers = response.headers();
    let counted_404 = response.status() == StatusCode::NOT_FOUND && headers.contains_key(header::CONTENT_LENGTH);
    counted_404 || FOREIGN.iter().any(|field| headers.contains_key(field))
}

/// The longest text beside a redirect that is read, and how long it is waited for.
const ASIDE: (u64, Duration) = (4096, Duration::from_millis(250));

/// Reads the short text that goes with a redirect, so that its connection can be kept; a long or slow one closes it.
pub(super) async fn read_out(response: Response<Incoming>) {
    let mut body = response.into_body();
    let (most, limit) = ASIDE;
    if body.size_hint().upper().is_none_or(|size| size > most) {
        return;
    }
    let _ = timeout(limit, async { while let Some(Ok(_)) = body.frame().await {} }).await;
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

/// Whether `Cache-Status` (RFC 9211) says that another snowbank, on whatever line and wherever in the row of caches, has forwarded the
/// question and so does not have the body yet.
pub(super) fn is_being_fetched(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("cache-status").iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|member| {
        let mut words = member.split(';').map(str::trim);
        words.next() == Some("snowbank") && words.any(|word| word.starts_with("fwd="))
    })
}

/// `ETag`, unless it is a weak one, which may stand for several bodies.
pub(super) fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}

/// `Content-Range: bytes first-last/total` (RFC 9110 section 14.4): the first byte and, unless it is `*`, the total.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        digits => Some(digits.parse().ok()?),
    };
    (first <= last && total.is_none_or(|t| last < t)).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Option<(u64, u64, Option<u64>)> {
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
    fn another_snowbank_says_that_it_does_not_have_it_yet() {
        let told = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("cache-status", HeaderValue::from_static(line));
            }
            is_being_fetched(&headers)
        };
        assert!(told(&["snowbank; fwd=uri-miss; stored; detail=miss"]));
        assert!(told(&["snowbank; fwd=uri-miss; fwd-status=200; collapsed; detail=follower"]));
        assert!(told(&["edge; fwd=miss,snowbank ;fwd=uri-miss, other; hit"]));
        assert!(told(&["edge; hit", "snowbank; fwd=uri-miss"]));
        assert!(!told(&[]) && !told(&["snowbank; hit; detail=disk"]));
        assert!(!told(&["edge; fwd=miss, snowbank; hit; fwd-status=200"]) && !told(&["snowbanks; fwd=miss"]));
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
        assert_eq!(range("bytes 10-19/100"), Some((10, 19, Some(100))));
        assert_eq!(range("bytes 0-0/*"), Some((0, 0, None)));
        for bad in ["bytes 19-10/100", "bytes 10-100/100", "bytes */100", "items 0-1/2", "bytes 1-2", "bytes a-b/c"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
