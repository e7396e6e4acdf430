//! For whom something is fetched ahead: the network that a client is in, so that a house counts as one.

use std::net::IpAddr;

/// The first 24 bits of an IPv4 address, the first 56 of an IPv6 one (what a household or an office is given); clients
/// without an address are one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Network {
    V4(u32),
    V6(u64),
    None,
}

impl Network {
    pub(super) fn of(client: Option<IpAddr>) -> Self {
        match client.map(|client| client.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.to_bits() >> 8),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, ..] = address.octets();
                Self::V6(u64::from_be_bytes([0, a, b, c, d, e, f, g]))
            }
            None => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_network() {
        let of = |address: &str| Network::of(Some(address.parse().unwrap()));
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.7"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:200::1"), of("2001:db8:1:2ff::1"));
        assert_ne!(of("2001:db8:1:200::1"), of("2001:db8:1:300::1"));
        assert_ne!(of("0.0.0.1"), Network::of(None));
    }
}
