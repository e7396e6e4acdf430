//! For whom a proxy sent a request: `X-Forwarded-For`, or `Forwarded` (RFC 7239), as believed peers write it.
//!
//! ```text
//! X-Forwarded-For: 198.51.100.7, 203.0.113.9, 10.0.0.5      the peer is 10.0.0.4; 10.0.0.0/24 is believed
//!                  anybody's     the client   believed  ◀── read from the right
//! ```
//!
//! Each proxy adds what it saw at the right, so only what stands right of the first address that is not believed was written by
//! somebody who is; that address is the client, and nothing left of it is even looked at: not what it says, nor whether it is
//! well formed. For the same reason a text is taken apart from its end, quotes included, and one header is read, which the
//! configuration names: a proxy that writes one of the two lets the other one through as the client made it.
//!
//! Whatever is not understood of what believed peers wrote makes the peer itself the client. So do more than sixteen
//! of them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::believed::Believed;

/// Proxies in a row: more are a loop, or somebody's idea of a long header.
const MOST_HOPS: usize = 16;

crate::choice! {
    /// The header in which believed peers say for whom a request is.
    pub enum Header {
        /// A list of addresses.
        XForwardedFor = "x-forwarded-for",
        /// RFC 7239.
        Forwarded = "forwarded",
    }
}

/// Who is believed at a listener, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The believed peers.
    pub from: Believed,
    /// What they write.
    pub header: Header,
}

/// Nobody.
impl Default for Forwarded {
    fn default() -> Self {
        Self { from: Believed::default(), header: Header::XForwardedFor }
    }
}

impl Forwarded {
    /// The client for which a believed peer sent this; `None` where it does not say, or not so that it can be understood.
    pub fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        const FORWARDED: HeaderName = http::header::FORWARDED;
        const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
        let (name, address_in): (_, fn(&[u8]) -> Option<IpAddr>) = match self.header {
            Header::XForwardedFor => (X_FORWARDED_FOR, node),
            Header::Forwarded => (FORWARDED, for_of),
        };
        // RFC 9110 section 5.3: several lines are one list, in their order.
        let lines = headers.get_all(name).iter().rev();
        let elements = lines.flat_map(|line| FromTheEnd { rest: Some(line.as_bytes()), separator: b',' });
        let mut furthest = None;
        for (n, element) in elements.enumerate() {
            if n == MOST_HOPS {
                return None;
            }
            if element.is_empty() {
                continue; // RFC 9110 section 5.6.1.2: lists may have empty elements
            }
            let address = address_in(element)?.to_canonical();
            if !self.from.has(Some(address)) {
                return Some(address);
            }
            furthest = Some(address);
        }
        furthest
    }
}

impl Forwarded {
    /// Over which scheme the peer says that its client came to it: `http` or `https`. It is for who has been believed about the
    /// client in the same request, and for nothing but to tell the client its own address.
    pub fn scheme(&self, headers: &HeaderMap) -> Option<&'static str> {
        const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
        let name = match self.header {
            Header::XForwardedFor => X_FORWARDED_PROTO,
            Header::Forwarded => http::header::FORWARDED,
        };
        let line = headers.get_all(name).iter().next_back()?.as_bytes();
        let last = FromTheEnd { rest: Some(line), separator: b',' }.next()?;
        let said = match self.header {
            Header::XForwardedFor => last,
            Header::Forwarded => {
                let mut pairs = FromTheEnd { rest: Some(last), separator: b';' };
                pairs.find_map(|pair| pair.get(..6)?.eq_ignore_ascii_case(b"proto=").then(|| &pair[6..]))?
            }
        };
        ["https", "http"].into_iter().find(|scheme| said.eq_ignore_ascii_case(scheme.as_bytes()))
    }
}

/// The parts of a text between separators that are not in quotes, the last one first, without blanks around them.
struct FromTheEnd<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromTheEnd<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let mut quoted = false;
        let at = rest.iter().rposition(|byte| {
            quoted ^= *byte == b'"';
            *byte == self.separator && !quoted
        });
        let (before, part) = match at {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.rest = before;
        Some(part.trim_ascii())
    }
}

/// The address in the one `for` of an element of `Forwarded`.
fn for_of(element: &[u8]) -> Option<IpAddr> {
    let pairs = FromTheEnd { rest: Some(element), separator: b';' };
    let mut values = pairs.filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        pair[..equals].eq_ignore_ascii_case(b"for").then_some(&pair[equals + 1..])
    });
    let value = values.next().filter(|_| values.next().is_none())?;
    match value.strip_prefix(b"\"") {
        // What needs a backslash in quotes is no address.
        Some(quoted) => node(quoted.strip_suffix(b"\"")?),
        None => node(value),
    }
}

/// An address, with or without brackets and a port, which is not looked at. `unknown` and made-up names (RFC 7239 section 6) are none.
fn node(text: &[u8]) -> Option<IpAddr> {
    const LONGEST: usize = 64;
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= LONGEST)?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse().ok().map(IpAddr::V6);
    }
    let (address, port) = text.rsplit_once(':')?;
    let hidden = |port: &str| {
        port.strip_prefix('_')
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
    };
    match hidden(port) {
        true => node(address.as_bytes()),
        false => text.parse::<SocketAddr>().ok().map(|address| address.ip()),
    }
}

/// Entry of the fuzz target `forwarded`: its first byte picks the header, the rest are lines of what a client wrote, behind
/// which a believed proxy wrote its own.
///
/// # Panics
/// When the client decides for whom it is.
#[allow(clippy::panic)] // what the fuzzer looks for
pub fn fuzz(input: &[u8]) {
    let Some((kind, written)) = input.split_first() else { return };
    let (header, name, added) = match kind % 2 {
        0 => (Header::XForwardedFor, "x-forwarded-for", "198.51.100.7"),
        _ => (Header::Forwarded, "forwarded", "for=\"198.51.100.7:1\";proto=https"),
    };
    let forwarded = Forwarded { from: Believed::default(), header };
    let mut headers = HeaderMap::new();
    for line in written.split(|byte| *byte == b'\n').take(100) {
        let _ = HeaderValue::from_bytes(line).map(|line| headers.append(name, line));
    }
    let _ = (forwarded.client(&headers), forwarded.scheme(&headers));
    let whole = [written.rsplit(|byte| *byte == b'\n').next().unwrap_or_default(), b",", added.as_bytes()].concat();
    if let Ok(line) = HeaderValue::from_bytes(&whole) {
        headers.append(name, line);
        assert_eq!(forwarded.client(&headers), Some(IpAddr::from([198, 51, 100, 7])), "{headers:?}");
    }
}

#[cfg(test)]
mod tests;
