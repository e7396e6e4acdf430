use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use http_body_util::BodyExt;

use super::super::testing::{in_memory, noise};
use super::*;
use crate::edge::cache_status::CACHE_STATUS;
use crate::proxy::answer::BodyStream;

struct Question {
    method: Method,
    version: Version,
    headers: HeaderMap,
}

impl Question {
    fn get() -> Self {
        Self { method: Method::GET, version: Version::HTTP_11, headers: HeaderMap::new() }
    }
    fn head() -> Self {
        Self { method: Method::HEAD, ..Self::get() }
    }
    fn http10() -> Self {
        Self { version: Version::HTTP_10, ..Self::get() }
    }
    fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
        self
    }
    fn asked(&self) -> Asked<'_> {
        Asked { method: &self.method, version: self.version, headers: &self.headers }
    }
    /// The response for a NAR of 100 bytes, its body, and how often the NAR was opened.
    async fn nar(&self, size: Option<u64>) -> (http::response::Parts, Bytes, usize) {
        let opened = Arc::new(AtomicUsize::new(0));
        let open = {
            let opened = Arc::clone(&opened);
            move |range: Option<std::ops::Range<u64>>| -> BodyStream {
                opened.fetch_add(1, Ordering::Relaxed);
                let range = range.map_or(0..100, in_memory);
                Box::pin(futures_util::stream::iter([Ok(noise(100).slice(range))]))
            }
        };
        let nar = Nar { size, etag: "abc".into(), open: Box::new(open) };
        let answer = Answer::public(Outcome::Hit, Reply::Nar(nar));
        let (parts, body) = respond(self.asked(), answer).into_parts();
        (parts, body.collect().await.unwrap().to_bytes(), opened.load(Ordering::Relaxed))
    }
}

fn value(parts: &http::response::Parts, name: HeaderName) -> &str {
    parts.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// What every answer about a NAR must carry.
fn assert_resumable(parts: &http::response::Parts) {
    assert_eq!(value(parts, ACCEPT_RANGES), "bytes");
    assert_eq!(value(parts, ETAG), "\"abc\"");
    assert!(!parts.headers.contains_key(CONTENT_ENCODING));
    assert_eq!(value(parts, CACHE_STATUS), "snowbank; hit");
}

#[tokio::test]
async fn a_whole_nar() {
    let (parts, body, _) = Question::get().nar(Some(100)).await;
    assert_eq!((parts.status, body), (StatusCode::OK, noise(100)));
    assert_resumable(&parts);
    assert_eq!(value(&parts, CONTENT_LENGTH), "100");
    assert_eq!(value(&parts, CONTENT_TYPE), "application/x-nix-nar");
    assert_eq!(value(&parts, CACHE_CONTROL), "public, max-age=31536000, immutable");
}

#[tokio::test]
async fn a_part_of_a_nar_can_be_resumed_again() {
    let (parts, body, _) = Question::get().with(RANGE, "bytes=40-").nar(Some(100)).await;
    assert_eq!((parts.status, body), (StatusCode::PARTIAL_CONTENT, noise(100).slice(40..)));
    assert_resumable(&parts);
    assert_eq!(value(&parts, CONTENT_LENGTH), "60");
    assert_eq!(value(&parts, CONTENT_RANGE), "bytes 40-99/100");
    let (parts, ..) = Question::get().with(RANGE, "bytes=40-").with(IF_RANGE, "\"other\"").nar(Some(100)).await;
    assert_eq!(parts.status, StatusCode::OK);
}

#[tokio::test]
async fn no_part_lies_outside() {
    let (parts, body, opened) = Question::get().with(RANGE, "bytes=100-").nar(Some(100)).await;
    assert_eq!((parts.status, opened), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
    assert_resumable(&parts);
    assert_eq!(value(&parts, CONTENT_RANGE), "bytes */100");
    assert_eq!(value(&parts, CACHE_CONTROL), "no-store");
    assert_eq!(body, "the range lies outside of the 100 bytes\n");
}

#[tokio::test]
async fn a_nar_the_client_has_is_not_sent() {
    for size in [Some(100), None] {
        let question = Question::get().with(IF_NONE_MATCH, "W/\"abc\"").with(RANGE, "bytes=1-");
        let (parts, body, opened) = question.nar(size).await;
        assert_eq!((parts.status, body.len(), opened), (StatusCode::NOT_MODIFIED, 0, 0));
        assert_resumable(&parts);
        assert!(!parts.headers.contains_key(CONTENT_LENGTH));
    }
}

#[tokio::test]
async fn head_is_get_without_its_body_and_opens_nothing() {
    let (parts, body, opened) = Question::head().with(RANGE, "bytes=40-").nar(Some(100)).await;
    assert_eq!((parts.status, body.len(), opened), (StatusCode::OK, 0, 0));
    assert_resumable(&parts);
    assert_eq!(value(&parts, CONTENT_LENGTH), "100");
}

#[tokio::test]
async fn a_nar_of_unknown_size_is_for_protocols_that_can_end_it() {
    let (parts, body, _) = Question::get().with(RANGE, "bytes=40-").nar(None).await;
    assert_eq!((parts.status, body.len()), (StatusCode::OK, 100));
    assert_resumable(&parts);
    assert!(!parts.headers.contains_key(CONTENT_LENGTH));
    let (parts, _, opened) = Question::http10().nar(None).await;
    assert_eq!((parts.status, opened), (StatusCode::HTTP_VERSION_NOT_SUPPORTED, 0));
    let (parts, ..) = Question::http10().nar(Some(100)).await;
    assert_eq!(parts.status, StatusCode::OK);
}

fn object(body: ObjectBody, encoding: Option<&'static str>) -> Answer {
    let encoding = encoding.map(HeaderValue::from_static);
    let object = Object { content_type: "text/x-nix-narinfo", encoding, body, max_age: 3600 };
    Answer::public(Outcome::Miss, Reply::Object(object))
}

#[tokio::test]
async fn an_object_keeps_its_type_and_encoding() {
    for question in [Question::get(), Question::head()] {
        let answer = object(ObjectBody::Whole("StorePath: x\n".into()), Some("br"));
        let (parts, body) = respond(question.asked(), answer).into_parts();
        assert_eq!(parts.status, StatusCode::OK);
        assert_eq!(value(&parts, CONTENT_TYPE), "text/x-nix-narinfo");
        assert_eq!(value(&parts, CONTENT_ENCODING), "br");
        assert_eq!(value(&parts, CONTENT_LENGTH), "13");
        assert_eq!(value(&parts, CACHE_CONTROL), "public, max-age=3600");
        assert_eq!(value(&parts, CACHE_STATUS), "snowbank; fwd=uri-miss; detail=miss");
        let length = body.collect().await.unwrap().to_bytes().len();
        assert_eq!(length, if question.method == Method::HEAD { 0 } else { 13 });
    }
}

#[tokio::test]
async fn an_object_of_unknown_size_is_for_protocols_that_can_end_it() {
    let stream = || ObjectBody::Stream { size: None, stream: Box::pin(futures_util::stream::empty()) };
    let response = respond(Question::get().asked(), object(stream(), None));
    assert_eq!(response.status(), StatusCode::OK);
    let response = respond(Question::http10().asked(), object(stream(), None));
    assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
}

#[tokio::test]
async fn a_failure_is_one_short_line() {
    let long = format!("a\nb\r\n\u{7}{}", "é".repeat(2000));
    for (kind, status) in [
        (FailureKind::NotFound, StatusCode::NOT_FOUND),
        (FailureKind::BadGateway, StatusCode::BAD_GATEWAY),
        (FailureKind::Unavailable { retry_after: 3 }, StatusCode::SERVICE_UNAVAILABLE),
        (FailureKind::Internal, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let answer = Answer::failed(Outcome::Unknown, kind, long.clone());
        let (parts, body) = respond(Question::get().asked(), answer).into_parts();
        assert_eq!(parts.status, status);
        let retry_after = parts.headers.get(RETRY_AFTER).map(|value| value.to_str().unwrap());
        assert_eq!(retry_after, matches!(kind, FailureKind::Unavailable { .. }).then_some("3"));
        assert_eq!(value(&parts, CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(value(&parts, CACHE_CONTROL), "no-store");
        let body = body.collect().await.unwrap().to_bytes();
        let line = std::str::from_utf8(&body).unwrap();
        assert!(line.len() < 1024 && line.starts_with("a b   é"), "{line}");
        assert!(line.ends_with("é\n") && line.lines().count() == 1, "{line}");
    }
}
