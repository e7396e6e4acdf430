//! From an answer to a response: status, headers and body, in one place and exhaustively.
//!
//! NARs: exact Content-Length, a strong ETag, `Accept-Ranges: bytes` on every answer about one (Nix resumes a transfer
//! only if the response that broke said so, a 206 included), never a Content-Encoding of our making. Failures: one line
//! of text that Nix shows to the user. HEAD gets the headers of GET; a NAR is not opened for it.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, LOCATION, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::body::Body;
use super::cache_status;
use super::limits::TooMany;
use super::range::{self, Selected};
use crate::metrics::{LimitReached, Outcome};
use crate::proxy::answer::{Answer, Failure, FailureKind, Nar, Object, ObjectBody, Provenance, Reply};
use crate::trail;

/// The bytes under a NAR's URL never change.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// What nearly everything small may be kept for.
const HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");
/// A miss of now says nothing about later.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
/// Nix shows error bodies below 1024 bytes to the user.
const LONGEST_REASON: usize = 1000;

/// What of the request decides how an answer is sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// GET or HEAD.
    pub method: &'a Method,
    /// The HTTP version.
    pub version: Version,
    /// Its header fields: ranges and conditions.
    pub headers: &'a HeaderMap,
}

impl Asked<'_> {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// HTTP/1.0 ends a body of unknown length by closing, which a client cannot tell from a cut (R8).
    fn needs_length(&self) -> bool {
        self.version < Version::HTTP_11
    }
}

/// Writes the response to a request.
pub fn respond(asked: Asked<'_>, answer: Answer) -> Response<Body> {
    let private = answer.private;
    let mut response = match answer.reply {
        Reply::Nar(nar) => respond_nar(asked, nar),
        Reply::Object(object) => respond_object(asked, object),
        Reply::Failed(failure) => respond_failure(asked, &failure),
    };
    cache_status::tell(&mut response, answer.outcome, &answer.provenance);
    if private {
        keep_private(response.headers_mut());
    }
    response
}

/// R15: only the client itself may keep it, and not for whoever shows something else. (What is not kept stays so.)
fn keep_private(headers: &mut HeaderMap) {
    let kept = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()?.strip_prefix("public"));
    if let Some(rest) = kept
        && let Ok(value) = HeaderValue::from_str(&format!("private{rest}"))
    {
        headers.insert(CACHE_CONTROL, value);
    }
    headers.insert(VARY, HeaderValue::from_static("authorization"));
}

fn respond_nar(asked: Asked<'_>, nar: Nar) -> Response<Body> {
    let etag = format!("\"{}\"", nar.etag);
    let Ok(etag_value) = HeaderValue::from_str(&etag) else {
        return reason(asked, StatusCode::INTERNAL_SERVER_ERROR, "internal error: unusable ETag");
    };
    let mut response = if range::none_match_fails(asked.headers, &etag) {
        plain(StatusCode::NOT_MODIFIED, Body::empty())
    } else {
        match nar.size {
            Some(size) => respond_sized_nar(asked, nar, &etag, size),
            None if asked.needs_length() => return length_required(asked),
            None => nar_body(asked, StatusCode::OK, None, || Body::stream(None, (nar.open)(None))),
        }
    };
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, BYTES);
    headers.insert(ETAG, etag_value);
    if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
        response.headers_mut().insert(CACHE_CONTROL, FOR_EVER);
    }
    response
}

fn respond_sized_nar(asked: Asked<'_>, nar: Nar, etag: &str, size: u64) -> Response<Body> {
    // RFC 9110 section 14.2: "A server MUST ignore a Range header field received with a request method that is
    // unrecognized or for which range handling is not defined"; it is defined for GET only.
    let selected = if asked.is_head() { Selected::Whole } else { range::select(asked.headers, etag, size) };
    match selected {
        Selected::Whole => nar_body(asked, StatusCode::OK, Some(size), || Body::stream(Some(size), (nar.open)(None))),
        Selected::Part(part) => {
            let length = part.end - part.start;
            let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            let mut response = nar_body(asked, StatusCode::PARTIAL_CONTENT, Some(length), || {
                Body::stream(Some(length), (nar.open)(Some(part)))
            });
            insert(&mut response, CONTENT_RANGE, &content_range);
            response
        }
        Selected::Unsatisfiable => {
            let mut response = reason(
                asked,
                StatusCode::RANGE_NOT_SATISFIABLE,
                &format!("the range lies outside of the {size} bytes"),
            );
            insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            response
        }
    }
}

fn nar_body(asked: Asked<'_>, status: StatusCode, length: Option<u64>, open: impl FnOnce() -> Body) -> Response<Body> {
    let mut response = plain(status, if asked.is_head() { Body::empty() } else { open() });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-nix-nar"));
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn respond_object(asked: Asked<'_>, object: Object) -> Response<Body> {
    let length = match &object.body {
        ObjectBody::Whole(bytes) => Some(bytes.len() as u64),
        ObjectBody::Stream { size, .. } => *size,
    };
    if length.is_none() && asked.needs_length() {
        return length_required(asked);
    }
    let body = match object.body {
        _ if asked.is_head() => Body::empty(),
        ObjectBody::Whole(bytes) => Body::bytes(bytes),
        ObjectBody::Stream { size, stream } => Body::stream(size, stream),
    };
    let mut response = plain(StatusCode::OK, body);
    match object.max_age {
        3600 => _ = response.headers_mut().insert(CACHE_CONTROL, HOUR),
        seconds => insert(&mut response, CACHE_CONTROL, &format!("public, max-age={seconds}")),
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(object.content_type));
    if let Some(encoding) = object.encoding {
        headers.insert(CONTENT_ENCODING, encoding);
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn respond_failure(asked: Asked<'_>, failure: &Failure) -> Response<Body> {
    let (status, retry_after) = match failure.kind {
        FailureKind::NotFound => (StatusCode::NOT_FOUND, None),
        // Not 503: Nix waits seconds before it asks again after one.
        FailureKind::BadGateway => (StatusCode::BAD_GATEWAY, None),
        FailureKind::Unavailable { retry_after } => (StatusCode::SERVICE_UNAVAILABLE, Some(retry_after)),
        FailureKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    let mut response = reason(asked, status, &failure.text);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn length_required(asked: Asked<'_>) -> Response<Body> {
    let text = "this has no known length, which takes HTTP/1.1 or HTTP/2";
    reason(asked, StatusCode::HTTP_VERSION_NOT_SUPPORTED, text)
}

/// The response to a target that means nothing.
pub fn not_found(asked: Asked<'_>) -> Response<Body> {
    with_status(reason(asked, StatusCode::NOT_FOUND, "not a path of a binary cache"), Outcome::NotFound)
}

/// The page for a browser.
pub fn page(asked: Asked<'_>, html: &str) -> Response<Body> {
    let body = if asked.is_head() { Body::empty() } else { Body::bytes(html.to_owned()) };
    let mut response = plain(StatusCode::OK, body);
    let headers = response.headers_mut();
    super::page::DOCUMENT.head(headers);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(html.len()));
    with_status(response, Outcome::Local)
}

/// What a CA reads while it validates a name: exactly this (RFC 8555 section 8.3).
pub fn challenge(asked: Asked<'_>, key_authorization: String) -> Response<Body> {
    let length = key_authorization.len();
    let body = if asked.is_head() { Body::empty() } else { Body::bytes(key_authorization) };
    let mut response = plain(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, NOT_KEPT);
    with_status(response, Outcome::Local)
}

/// The response where nothing is served, but `location` has it.
pub fn elsewhere(asked: Asked<'_>, location: HeaderValue) -> Response<Body> {
    let mut response = reason(asked, StatusCode::PERMANENT_REDIRECT, "this is served over HTTPS: see Location");
    response.headers_mut().insert(LOCATION, location);
    with_status(response, Outcome::Local)
}

/// The response to a request that has passed this server before (RFC 5842 section 7.2), with the id by which who asked knows
/// that it is about his request.
pub fn looped(asked: Asked<'_>) -> Response<Body> {
    let text = "this request has passed this server before: its upstreams lead back to it";
    let mut response = reason(asked, StatusCode::LOOP_DETECTED, text);
    if let Some(id) = trail::own_header() {
        response.headers_mut().insert(trail::CDN_LOOP, id);
    }
    with_status(response, Outcome::Unknown)
}

/// The response to a client that this listener does not serve.
pub fn denied(asked: Asked<'_>) -> Response<Body> {
    let text = "this cache is for those who show a token: put one into the netrc file";
    let mut response = reason(asked, StatusCode::UNAUTHORIZED, text);
    let challenge = HeaderValue::from_static("Basic realm=\"snowbank\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    with_status(response, Outcome::Denied)
}

/// The response in place of one that a bug kept from being made.
pub fn failed() -> Response<Body> {
    let mut response = plain(StatusCode::INTERNAL_SERVER_ERROR, Body::bytes("internal error\n"));
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, NOT_KEPT);
    with_status(response, Outcome::Internal)
}

/// The response to a client that asks for more than its limit.
pub fn limited(asked: Asked<'_>, too_many: TooMany) -> Response<Body> {
    let text = match too_many.limit {
        LimitReached::InFlight => "too many requests at a time: limits.requests is reached",
        _ => "too many requests of one client: limits.client.requests is reached",
    };
    let mut response = reason(asked, too_many.status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(too_many.retry_after));
    with_status(response, Outcome::Limited)
}

/// The response to a method that is not served (R20).
pub fn method_not_allowed(asked: Asked<'_>) -> Response<Body> {
    let mut response = reason(asked, StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    close_after(&mut response, asked.version);
    with_status(response, Outcome::BadRequest)
}

/// The response to a request that breaks a rule; over HTTP/1.1 the connection is closed after it, since what follows
/// may not be the request it looks like.
pub fn bad_request(asked: Asked<'_>, status: StatusCode, text: &str) -> Response<Body> {
    let mut response = reason(asked, status, text);
    close_after(&mut response, asked.version);
    with_status(response, Outcome::BadRequest)
}

fn close_after(response: &mut Response<Body>, version: Version) {
    if version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn with_status(mut response: Response<Body>, outcome: Outcome) -> Response<Body> {
    cache_status::tell(&mut response, outcome, &Provenance::default());
    response
}

/// One line of text, whatever `text` is.
fn reason(asked: Asked<'_>, status: StatusCode, text: &str) -> Response<Body> {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(LONGEST_REASON));
    line.push('\n');
    let length = line.len();
    let body = if asked.is_head() { Body::empty() } else { Body::bytes(Bytes::from(line)) };
    let mut response = plain(status, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, NOT_KEPT);
    response
}

fn plain(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// For values of digits and ASCII words.
fn insert(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests;
