//! Which addresses an upstream may lead to (R14).
//!
//! A redirect is an upstream's text, and names in it are resolved by whoever owns their DNS: neither may make this program
//! ask what only it can reach, such as this machine, its network, or a cloud's metadata at a link-local address. What
//! counts is the address that is connected to. An upstream that the operator put on such a network may lead to the same
//! kind of address: a cache on the office's network and the bucket behind it. What a proxy connects to is known by its
//! name alone (`proxy::reach`).
//!
//! Out of scope: the configured address of an upstream, which goes wherever the operator says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What is said of a redirect to an address that the upstream may not lead to.
pub(super) const NOT_THERE: &str =
    "its address is of this machine or of an internal network, where the upstream is not";

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reach {
    /// From everywhere.
    Public,
    /// From one network.
    Private,
    /// From one link.
    Link,
    /// From one machine.
    Machine,
    /// From nowhere, or not by TCP.
    Nowhere,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(four) => of_four(four),
            IpAddr::V6(six) => of_six(six),
        }
    }

    /// Whether who is reached like this may lead to what is reached like `other`. Who is on this machine may lead into its
    /// network, and nobody from there to this machine.
    fn may_lead_to(self, other: Self) -> bool {
        match other {
            Self::Public => true,
            Self::Private => matches!(self, Self::Private | Self::Machine),
            Self::Link | Self::Machine => self == other,
            Self::Nowhere => false,
        }
    }
}

/// The IANA IPv4 Special-Purpose Address Registry (RFC 6890 and later).
fn of_four(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Machine,
        [169, 254, ..] => Reach::Link,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        [0 | 224..=255, ..] | [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Reach::Nowhere
        }
        _ => Reach::Public,
    }
}

/// The same for IPv6. What carries an IPv4 address leads there.
fn of_six(address: Ipv6Addr) -> Reach {
    let parts = address.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        of_four(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Machine,
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        [0xfe80..=0xfebf, ..] => Reach::Link,
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Reach::Private,
        // Among the rest of these are multicast, Teredo, documentation and the unspecified address.
        [0x2001, 0 | 0xdb8, ..] => Reach::Nowhere,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Nowhere,
    }
}

/// How the configured address of an upstream is reached, as it was seen last; shared with who resolves names for its
/// redirects.
#[derive(Debug, Clone)]
pub(super) struct Limit(Arc<AtomicU8>);

impl Limit {
    /// Nothing was seen: only the public is reached.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(Reach::Public as u8)))
    }

    /// The configured address was reached like this.
    pub(super) fn saw(&self, reach: Reach) {
        self.0.store(reach as u8, Ordering::Relaxed);
    }

    /// Whether a redirect may lead to this address.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allows_reach(Reach::of(address))
    }

    /// Whether a redirect may lead to what is reached like this.
    pub(super) fn allows_reach(&self, reach: Reach) -> bool {
        let seen = [Reach::Private, Reach::Link, Reach::Machine]
            .into_iter()
            .find(|reach| *reach as u8 == self.0.load(Ordering::Relaxed))
            .unwrap_or(Reach::Public);
        seen.may_lead_to(reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r14_addresses_are_known_for_what_they_are() {
        for (reach, addresses) in [
            (
                Reach::Public,
                ["1.1.1.1", "172.32.0.1", "192.167.1.1", "100.128.0.1", "2a04:4e42::729", "64:ff9b::1.1.1.1"],
            ),
            (Reach::Private, ["10.1.2.3", "172.31.255.255", "192.168.0.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"]),
            (
                Reach::Link,
                [
                    "169.254.169.254",
                    "fe80::1",
                    "::ffff:169.254.1.1",
                    "64:ff9b::a9fe:a9fe",
                    "febf::",
                    "2002:a9fe:a9fe::",
                ],
            ),
            (
                Reach::Machine,
                ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"],
            ),
            (Reach::Nowhere, ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "2001::1"]),
        ] {
            for address in addresses {
                assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
            }
        }
    }

    #[test]
    fn r14_nobody_leads_to_what_is_nearer_than_himself() {
        let addresses = ["1.1.1.1", "10.0.0.1", "169.254.169.254", "127.0.0.1", "0.0.0.0"];
        let limit = Limit::new();
        let allowed = || addresses.map(|address| limit.allows(address.parse().unwrap()));
        assert_eq!(allowed(), [true, false, false, false, false]);
        for (reach, expected) in [
            (Reach::Private, [true, true, false, false, false]),
            (Reach::Link, [true, false, true, false, false]),
            (Reach::Machine, [true, true, false, true, false]),
            (Reach::Public, [true, false, false, false, false]),
        ] {
            limit.saw(reach);
            assert_eq!(allowed(), expected, "{reach:?}");
        }
    }
}
