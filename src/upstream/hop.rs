//! Where a redirect leads, and whether one goes there (R14).
//!
//! Caches redirect NARs to the store behind them: Cachix by 302, Attic by 307, to a presigned URL whose query is a
//! credential. So the whole URL is kept for the request, and only its host is ever told.

use std::net::IpAddr;

use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use url::{Host, Url};

use super::reach::{Limit, NOT_THERE};
use crate::nix::excerpt::Excerpt;

/// How many redirects one request may take.
pub(super) const MOST: usize = 5;
/// The longest `Location`, in bytes: presigned URLs with session tokens take two or three thousand.
const MAX_LEN: usize = 8192;

/// Whether this status, to a GET, says to ask elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect from `here` leads, at an upstream configured at `base`.
///
/// # Errors
/// Why nobody goes there, in words that follow "a redirect".
pub(super) fn next(base: &Url, here: &Url, headers: &HeaderMap, limit: &Limit) -> Result<Url, String> {
    let mut found = headers.get_all(LOCATION).iter();
    let (Some(location), None) = (found.next(), found.next()) else {
        return Err("with no Location, or more than one".into());
    };
    // URL parsers drop blanks and mend backslashes; what needs that could be read in two ways.
    let readable = |b: &u8| b.is_ascii_graphic() && *b != b'\\';
    let text = location.to_str().unwrap_or_default();
    if !(1..=MAX_LEN).contains(&text.len()) || !text.as_bytes().iter().all(readable) {
        return Err("whose Location is no URL".into());
    }
    let mut there = here.join(text).map_err(|_| "whose Location is no URL")?;
    there.set_fragment(None);
    check(base, here, &there, limit).map_err(|why| format!("to {}: {why}", host(&there)))?;
    Ok(there)
}

fn check(base: &Url, here: &Url, there: &Url, limit: &Limit) -> Result<(), &'static str> {
    match (here.scheme(), there.scheme()) {
        ("https", "http") => return Err("from https down to http"),
        (_, "http" | "https") => {}
        _ => return Err("neither http nor https"),
    }
    if !there.username().is_empty() || there.password().is_some() {
        return Err("a user name in the address");
    }
    if there.origin() == base.origin() {
        return Ok(()); // where it is, is the operator's word
    }
    // Addresses in the text; those behind names are looked at when they are connected to.
    let address: IpAddr = match there.host() {
        Some(Host::Ipv4(four)) => four.into(),
        Some(Host::Ipv6(six)) => six.into(),
        Some(Host::Domain(_)) => return Ok(()),
        None => return Err("no host"),
    };
    if limit.allows(address) { Ok(()) } else { Err(NOT_THERE) }
}

/// What may be told of a URL.
pub(super) fn host(url: &Url) -> String {
    let at = &url[url::Position::BeforeHost..url::Position::AfterPort];
    if at.is_empty() {
        format!("a URL of the scheme {}", Excerpt::of(url.scheme()))
    } else {
        Excerpt::of(at).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn from(here: &str, location: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap());
        let here = Url::parse(here).unwrap();
        next(&Url::parse("https://a.org").unwrap(), &here, &headers, &Limit::new()).map(String::from)
    }

    #[test]
    fn a_location_is_absolute_or_relative_and_its_query_stays() {
        for (location, there) in [
            ("https://b.org/x?X-Amz-Signature=0a%2Fb&y=%20", "https://b.org/x?X-Amz-Signature=0a%2Fb&y=%20"),
            ("/x?y=1", "https://a.org/x?y=1"),
            ("y", "https://a.org/nar/y"),
            ("../y#z", "https://a.org/y"),
            ("//b.org/x", "https://b.org/x"),
            ("?q", "https://a.org/nar/x?q"),
        ] {
            assert_eq!(from("https://a.org/nar/x", location).as_deref(), Ok(there), "{location}");
        }
        assert_eq!(from("http://a.org/", "https://a.org/x").as_deref(), Ok("https://a.org/x"));
    }

    #[test]
    fn r14_a_bad_hop_is_not_followed_and_its_query_is_not_told() {
        for (location, why) in [
            ("http://b.org/x?secret", "to b.org: from https down to http"),
            ("ftp://b.org/secret", "to b.org: neither http nor https"),
            ("data:,secret", "to a URL of the scheme `data`: neither http nor https"),
            ("https://user:secret@b.org/x", "to b.org: a user name in the address"),
            ("https://b.org/a b?secret", "whose Location is no URL"),
            ("https:\\\\b.org/secret", "whose Location is no URL"),
            ("", "whose Location is no URL"),
        ] {
            let told = from("https://a.org/", location).unwrap_err().replace('`', "");
            assert_eq!(told, why.replace('`', ""), "{location}");
        }
        assert!(from("https://a.org/", &format!("/{}", "x".repeat(MAX_LEN))).is_err());
        for inside in
            ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0"]
        {
            let told = from("http://a.org/", &format!("http://{inside}:8080/secret")).unwrap_err();
            assert!(told.contains(NOT_THERE) && !told.contains("secret"), "{inside}: {told}");
        }
    }

    #[test]
    fn only_one_location_counts() {
        let mut headers = HeaderMap::new();
        let here = Url::parse("https://a.org/").unwrap();
        assert!(next(&here, &here, &headers, &Limit::new()).is_err());
        headers.append(LOCATION, HeaderValue::from_static("/x"));
        headers.append(LOCATION, HeaderValue::from_static("/y"));
        assert!(next(&here, &here, &headers, &Limit::new()).is_err());
    }
}
