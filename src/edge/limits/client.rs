//! Whom a limit is for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A client, as far as limits tell one from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: the least that anybody is given, who then has all the addresses in it.
    V6(u64),
    /// Who shows a token or a certificate: the hash of its name, with a secret of this process.
    Named(u64),
    /// Everybody who comes over unix sockets.
    Unix,
}

impl Client {
    /// Who comes from this address; over a unix socket from none.
    pub fn at(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            None => Self::Unix,
        }
    }
}

/// For the log; of a name nothing is left to show.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(first) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*first) << 64)),
            Self::Named(_) => f.write_str("one with a token or a certificate"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_one_client_and_a_network_of_ipv6_another() {
        let client = |text: &str| Client::at(Some(text.parse().unwrap()));
        assert_eq!(client("198.51.100.7"), client("::ffff:198.51.100.7"));
        assert_ne!(client("198.51.100.7"), client("198.51.100.8"));
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
        assert_eq!(Client::at(None).to_string(), "unix");
    }
}
