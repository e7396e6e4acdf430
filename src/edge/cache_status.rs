//! `Cache-Status` (RFC 9211): what became of a request here, for whoever reads headers. It is made of the outcome and of where the
//! answer comes from, of nothing that the request says.
//!
//! `detail` is the outcome's word, for a hit the tier that it was read from. `fwd` says that an upstream was asked, or would
//! have had to be. Which one is not told: clients need not know what stands behind.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Response, StatusCode};

use crate::metrics::Outcome;
use crate::proxy::answer::{Place, Provenance};

/// The field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Says in the head of a response how it was come by.
pub fn tell<B>(response: &mut Response<B>, outcome: Outcome, provenance: &Provenance) {
    let value = value(outcome, provenance, response.status());
    response.headers_mut().insert(CACHE_STATUS, value);
}

fn value(outcome: Outcome, provenance: &Provenance, sent: StatusCode) -> HeaderValue {
    // An upstream that has something says 200. Where that is not what the client is told, it has to be said (RFC 9211 section 2.3).
    let other = sent != StatusCode::OK;
    let plain = match (outcome, provenance.tier) {
        (Outcome::Local, _) => "snowbank; detail=local",
        (Outcome::Hit, Some(Place::Memory)) => "snowbank; hit; detail=memory",
        (Outcome::Hit, Some(Place::Disk)) => "snowbank; hit; detail=disk",
        (Outcome::Hit, _) => "snowbank; hit",
        (Outcome::Miss, _) => match (provenance.stored, other) {
            (true, false) => "snowbank; fwd=uri-miss; stored; detail=miss",
            (true, true) => "snowbank; fwd=uri-miss; fwd-status=200; stored; detail=miss",
            (false, false) => "snowbank; fwd=uri-miss; detail=miss",
            (false, true) => "snowbank; fwd=uri-miss; fwd-status=200; detail=miss",
        },
        (Outcome::Follower, _) => match other {
            false => "snowbank; fwd=uri-miss; collapsed; detail=follower",
            true => "snowbank; fwd=uri-miss; fwd-status=200; collapsed; detail=follower",
        },
        (Outcome::Stale, _) => "snowbank; hit; detail=stale",
        (Outcome::Negative, _) => "snowbank; hit; detail=negative",
        (Outcome::NotFound, _) => "snowbank; fwd=uri-miss; detail=not-found",
        (Outcome::Unknown, _) => "snowbank; fwd=uri-miss; detail=unknown",
        (Outcome::Refused, _) => "snowbank; fwd=uri-miss; detail=refused",
        (Outcome::BadRequest, _) => "snowbank; detail=bad-request",
        (Outcome::Denied, _) => "snowbank; detail=denied",
        (Outcome::Limited, _) => "snowbank; detail=limited",
        (Outcome::Abandoned, _) => "snowbank; detail=abandoned",
        (Outcome::Internal, _) => "snowbank; detail=internal",
    };
    match provenance.ttl {
        None => HeaderValue::from_static(plain),
        Some(seconds) => {
            const SECONDS: usize = 20;
            let mut text = String::with_capacity(plain.len() + "; ttl=".len() + SECONDS);
            text.push_str(plain);
            let _ = write!(text, "; ttl={seconds}"); // into a string, which takes everything
            HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(plain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Label as _;

    fn told(outcome: Outcome, provenance: &Provenance, status: u16) -> String {
        let value = value(outcome, provenance, StatusCode::from_u16(status).unwrap());
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn each_outcome_says_what_it_is_once() {
        for outcome in Outcome::ALL {
            let text = told(*outcome, &Provenance::default(), 200);
            let mut parts = text.split("; ");
            assert_eq!(parts.next(), Some("snowbank"));
            let parts: Vec<&str> = parts.collect();
            assert!(parts.iter().filter(|part| **part == "hit" || part.starts_with("fwd=")).count() <= 1, "{text}");
            let detail = parts.iter().find_map(|part| part.strip_prefix("detail="));
            assert!(detail == Some(outcome.text()) || *outcome == Outcome::Hit && detail.is_none(), "{text}");
        }
    }

    #[test]
    fn tier_lifetime_and_the_upstreams_status_are_told() {
        let kept = |tier, ttl| Provenance { tier: Some(tier), ttl, ..Provenance::default() };
        assert_eq!(told(Outcome::Hit, &kept(Place::Memory, None), 200), "snowbank; hit; detail=memory");
        assert_eq!(told(Outcome::Hit, &kept(Place::Disk, Some(7)), 206), "snowbank; hit; detail=disk; ttl=7");
        assert_eq!(told(Outcome::Stale, &kept(Place::Disk, Some(-60)), 200), "snowbank; hit; detail=stale; ttl=-60");
        let new = Provenance { stored: true, ttl: Some(i64::MIN), ..Provenance::default() };
        let text = told(Outcome::Miss, &new, 206);
        let ttl = i64::MIN;
        assert_eq!(text, format!("snowbank; fwd=uri-miss; fwd-status=200; stored; detail=miss; ttl={ttl}"));
        assert_eq!(
            told(Outcome::Follower, &Provenance::default(), 304),
            "snowbank; fwd=uri-miss; fwd-status=200; collapsed; detail=follower"
        );
    }
}
