//! What a certificate can be for: a DNS name, all names one label below one, or an IP address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::{DnsName, ServerName};

/// A name that clients use for a server, as a certificate has it (RFC 6125 section 6.4; RFC 5280 section 4.2.1.6).
///
/// Lower case, without the dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// `cache.example.org`
    Dns(String),
    /// What follows the `*.` of `*.example.org`, which stands for exactly one label.
    Wildcard(String),
    /// `192.0.2.1` or `2001:db8::1`
    Ip(IpAddr),
}

crate::string_value!(
    Name,
    "a DNS name such as \"cache.example.org\", a wildcard such as \"*.example.org\", or an IP address"
);

/// The text is no name a certificate can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAName;

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let (base, wildcard) = match text.strip_prefix("*.") {
            Some(base) => (base, true),
            None => (text, false),
        };
        let base = base.strip_suffix('.').unwrap_or(base).to_ascii_lowercase();
        // The form that TLS clients take (RFC 6066 section 3), which also keeps it harmless as a file's name.
        DnsName::try_from(base.as_str()).map_err(|_| NotAName)?;
        match wildcard {
            // A CA signs no wildcard for a whole top-level domain, and no client takes one.
            true if base.contains('.') => Ok(Self::Wildcard(base)),
            true => Err(NotAName),
            false => Ok(Self::Dns(base)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Wildcard(base) => write!(f, "*.{base}"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Name {
    /// Whether a certificate with this name is good for `other`. A wildcard is good for itself and for each name one label
    /// below its base.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Wildcard(base), Self::Dns(name)) => name.split_once('.').is_some_and(|(_, rest)| rest == base),
            (one, other) => one == other,
        }
    }

    /// A name that a client could ask for: the name itself, or one of those a wildcard stands for.
    ///
    /// `None` for a wildcard whose names would be too long for the DNS.
    pub fn example(&self) -> Option<ServerName<'static>> {
        let text = match self {
            Self::Wildcard(base) => format!("a.{base}"),
            other => other.to_string(),
        };
        ServerName::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    #[test]
    fn names_are_read_and_written() {
        for text in ["cache.example.org", "*.example.org", "localhost", "192.0.2.1", "2001:db8::1", "a_b.example"] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("Cache.Example.ORG."), name("cache.example.org"));
        for text in
            ["", "*", "*.", "*.org", "a.*.org", "*.*.org", "a b", "a/b", "..", "a..b", "https://a.b", "[::1]", "é.org"]
        {
            assert_eq!(text.parse::<Name>(), Err(NotAName), "{text}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let wildcard = name("*.example.org");
        assert!(wildcard.covers(&name("a.example.org")) && wildcard.covers(&wildcard));
        for not in ["example.org", "a.b.example.org", "aexample.org", "*.b.example.org", "192.0.2.1"] {
            assert!(!wildcard.covers(&name(not)), "{not}");
        }
        assert!(name("192.0.2.1").covers(&name("192.0.2.1")) && !name("a.org").covers(&name("b.org")));
    }
}
