//! What a bucket says, by its status and the code in the XML beside it.
//!
//! Only the code tells a missing object from a missing bucket, and a bucket that keeps its objects to itself from a key that
//! is wrong; an answer without one is no bucket's, and means neither yes nor no (R18).

use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::nix::excerpt::Excerpt;

/// How much of the text beside an error is read, and how long it is waited for.
const LONGEST: usize = 16 << 10;
const LIMIT: Duration = Duration::from_secs(1);
/// The longest word that is understood: ids of uploads have a hundred bytes and more.
const LONGEST_WORD: usize = 512;

/// An answer, understood.
#[derive(Debug)]
pub(super) enum Told {
    /// The object, or a part of it.
    Given(Response<Incoming>),
    /// It is not there.
    HasNot,
    /// It is not there, or may not be read.
    Denied,
    /// Nothing but a status that everybody understands.
    Status(StatusCode),
    /// The key, the signature or its date is not taken: with this code.
    Refused(StatusCode, String),
    /// Something else is wrong, in words that follow the upstream's name.
    Trouble(String),
}

/// The codes that are about who asks, not about what is asked for (the list of errors in AWS's S3 API reference).
const ABOUT_KEYS: [&str; 16] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidSecurity",
    "InvalidTokenId",
    "AccessTokenExpired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "NotSignedUp",
    "AccountProblem",
    "AllAccessDisabled",
    "RequestTimeTooSkewed",
    "RequestExpired",
    "MissingSecurityHeader",
];

/// Understands an answer of the bucket `name`; `signed` tells whether the request was.
pub(super) async fn read(response: Response<Incoming>, name: &str, signed: bool) -> Told {
    let status = response.status();
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Told::Given(response);
    }
    let region = response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
    let region = region.map(str::to_owned);
    let text = timeout(LIMIT, beginning(response.into_body())).await.unwrap_or_default();
    let region = region.or_else(|| within(&text, "Region", is_word));
    understood(status, within(&text, "Code", is_word).as_deref(), region.as_deref(), name, signed)
}

pub(super) fn understood(
    status: StatusCode,
    code: Option<&str>,
    region: Option<&str>,
    name: &str,
    signed: bool,
) -> Told {
    match (status, code) {
        // By another status somebody quotes the bucket, or is none.
        (StatusCode::NOT_FOUND | StatusCode::GONE, Some("NoSuchKey")) => Told::HasNot,
        (_, Some("NoSuchBucket")) => {
            Told::Trouble(format!("has no bucket {} (NoSuchBucket): look at its url", Excerpt::of(name)))
        }
        (_, Some(code)) if ABOUT_KEYS.contains(&code) => Told::Refused(status, code.to_owned()),
        (StatusCode::FORBIDDEN, Some("AccessDenied")) => Told::Denied,
        _ if status.is_redirection() || code == Some("AuthorizationHeaderMalformed") => {
            let code = code.map_or_else(String::new, |code| format!(" ({code})"));
            let hint = match region {
                Some(region) => format!("the bucket is in the region {}: set `region` in its url", Excerpt::of(region)),
                None => "look at `region` and `endpoint` in its url".into(),
            };
            Told::Trouble(format!("answered {status}{code}; {hint}"))
        }
        _ if status.is_server_error() => Told::Status(status),
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::RANGE_NOT_SATISFIABLE, _) => Told::Status(status),
        (_, Some(code)) => Told::Trouble(format!("answered {status} ({code})")),
        (_, None) => {
            let who = if signed { "" } else { ", to a request without credentials" };
            Told::Trouble(format!("answered {status} in another way than buckets do{who}: look at its url"))
        }
    }
}

/// What comes of a body up to a length that errors have.
pub(super) async fn beginning(mut body: Incoming) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        if text.len() + piece.len() > LONGEST {
            break;
        }
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap_or_default()
}

/// What stands between the first `<name>` and `</name>`, if it is one word of such bytes.
pub(super) fn within(text: &str, name: &str, may_have: fn(u8) -> bool) -> Option<String> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (word, _) = after.split_once(&format!("</{name}>"))?;
    let word = word.trim();
    ((1..=LONGEST_WORD).contains(&word.len()) && word.bytes().all(may_have)).then(|| word.to_owned())
}

/// What codes and regions consist of.
pub(super) fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, code: &str) -> String {
        let code = Some(code).filter(|code| !code.is_empty());
        match understood(StatusCode::from_u16(status).unwrap(), code, Some("eu-west-1"), "cache", true) {
            Told::Given(_) => "given".into(),
            Told::HasNot => "has not".into(),
            Told::Denied => "denied".into(),
            Told::Status(status) => status.to_string(),
            Told::Refused(_, code) => format!("refused: {code}"),
            Told::Trouble(text) => text,
        }
    }

    #[test]
    fn r18_only_a_missing_object_is_not_there() {
        assert_eq!(told(404, "NoSuchKey"), "has not");
        assert_eq!(told(403, "AccessDenied"), "denied");
        assert_eq!(told(404, "NoSuchBucket"), "has no bucket `cache` (NoSuchBucket): look at its url");
        for code in ABOUT_KEYS {
            assert_eq!(told(403, code), format!("refused: {code}"));
        }
        assert_eq!(told(503, "SlowDown"), "503 Service Unavailable");
        assert_eq!(told(416, "InvalidRange"), "416 Range Not Satisfiable");
        assert_eq!(told(400, "InvalidBucketName"), "answered 400 Bad Request (InvalidBucketName)");
        for (status, code) in [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed"), (307, "")] {
            let told = told(status, code);
            assert!(told.contains("the bucket is in the region `eu-west-1`") && told.contains(code), "{told}");
        }
        for status in [401, 403, 404, 410] {
            assert!(told(status, "").contains("in another way than buckets do"), "{status}");
        }
    }

    #[test]
    fn a_word_is_found_in_the_text_of_an_error() {
        let text = "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>x</Message></Error>";
        assert_eq!(within(text, "Code", is_word).as_deref(), Some("NoSuchKey"));
        for text in ["", "<Code>", "<Code></Code>", "<Code>a b</Code>", "</Code><Code>x", "<Code>a\nb</Code>"] {
            assert_eq!(within(text, "Code", is_word), None, "{text}");
        }
        assert_eq!(within(&format!("<Code>{}</Code>", "x".repeat(LONGEST_WORD + 1)), "Code", is_word), None);
    }
}
