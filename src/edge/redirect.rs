//! Sending clients of a plain listener to another address.
//!
//! The address is the operator's (R21: nothing a client says chooses a host); of the request only the path and the query
//! follow it, with whatever may not stand in a URL percent-encoded.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;

/// Where to: `https://host[:port][/prefix]`, without a `/` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect(String);

crate::string_value!(Redirect, "an address such as \"https://cache.example.org\", without a query");

impl FromStr for Redirect {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix("https://").ok_or(())?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.strip_suffix('/').unwrap_or(path);
        let fine = is_authority(authority) && path.split('/').skip(1).all(is_segment);
        fine.then(|| Self(format!("https://{}{path}", authority.to_ascii_lowercase()))).ok_or(())
    }
}

/// A host and perhaps a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !host.contains(':') && ServerName::try_from(host).is_ok(),
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    is_host && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    !matches!(text, "" | "." | "..") && text.bytes().all(plain)
}

impl Redirect {
    /// Where `target` is to be found. `None` for what has no path: `*`.
    pub fn location(&self, target: &Uri) -> Option<HeaderValue> {
        let asked = target.path_and_query()?.as_str();
        // Without the slash what follows would go on with the host's name.
        if !asked.starts_with('/') {
            return None;
        }
        let mut location = String::with_capacity(self.0.len() + asked.len());
        location.push_str(&self.0);
        for byte in asked.bytes() {
            if byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte) {
                location.push(char::from(byte));
            } else {
                location.push_str(&format!("%{byte:02X}"));
            }
        }
        HeaderValue::from_str(&location).ok()
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("https://cache.example.org", "https://cache.example.org"),
            ("https://Cache.example.org/", "https://cache.example.org"),
            ("https://cache.example.org:8443/nix/", "https://cache.example.org:8443/nix"),
            ("https://192.0.2.1", "https://192.0.2.1"),
            ("https://[2001:db8::1]:8443/a/b", "https://[2001:db8::1]:8443/a/b"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ] {
            assert_eq!(text.parse::<Redirect>().map(|read| read.to_string()).as_deref(), Ok(written), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for text in [
            "",
            "cache.example.org",
            "http://cache.example.org",
            "https://",
            "https:///nix",
            "https://user@host",
            "https://host:",
            "https://host:0",
            "https://host:+1",
            "https://host:65536",
            "https://host:1:2",
            "https://2001:db8::1",
            "https://[2001:db8::1",
            "https://[host]",
            "https://host?q",
            "https://host/?q",
            "https://host/#f",
            "https://host/a//b",
            "https://host/../b",
            "https://host/%2e",
            "https://ho st",
            "https://host\r\nx: y",
            "https://host\\evil",
        ] {
            assert_eq!(text.parse::<Redirect>(), Err(()), "{text:?}");
        }
    }

    fn location(base: &str, target: &str) -> Option<String> {
        let base: Redirect = base.parse().expect(base);
        let target = Uri::try_from(target).expect(target);
        base.location(&target).map(|value| value.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn path_and_query_follow_the_base() {
        let to = |target| location("https://host:8443/nix", target);
        assert_eq!(to("/nix-cache-info").as_deref(), Some("https://host:8443/nix/nix-cache-info"));
        assert_eq!(to("/a?b=c%20d").as_deref(), Some("https://host:8443/nix/a?b=c%20d"));
        assert_eq!(to("http://other.example/a?b").as_deref(), Some("https://host:8443/nix/a?b"));
        assert_eq!(to("/").as_deref(), Some("https://host:8443/nix/"));
        assert_eq!(location("https://host", "//evil/x").as_deref(), Some("https://host//evil/x"));
        assert_eq!(to("*"), None);
    }

    proptest! {
        /// Whatever is asked for, the operator's host is what a client is sent to, in one line.
        #[test]
        fn a_location_never_leaves_the_host(
            target in proptest::collection::vec(any::<u8>(), 0..60),
            absolute in any::<bool>(),
            base in prop_oneof![Just("https://host.example"), Just("https://host.example:8443/nix"), Just("https://[::1]")],
        ) {
            let prefix: &[u8] = if absolute { b"http://evil.example/" } else { b"/" };
            for target in [target.clone(), [prefix, &target].concat()] {
                let Ok(target) = Uri::try_from(target) else { continue };
                let base: Redirect = base.parse().expect("a base");
                let Some(location) = base.location(&target) else { continue };
                let text = location.to_str().expect("ASCII");
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
                let rest = text.strip_prefix(&base.0).expect("it begins with the base");
                prop_assert!(rest.starts_with('/'), "{text:?}");
                let parsed = url::Url::parse(text).expect("a URL");
                let own = url::Url::parse(&base.0).expect("a URL");
                prop_assert_eq!(parsed.origin(), own.origin());
                prop_assert!(parsed.username().is_empty() && parsed.fragment().is_none());
            }
        }
    }
}
