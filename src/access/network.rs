//! Networks: an address and how many of its first bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network such as `10.1.0.0/16`; an address by itself is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

crate::string_value!(Network, "a network such as \"10.1.0.0/16\" or \"fd00::/8\", or an address");

impl FromStr for Network {
    type Err = ();

    /// Bits behind the prefix must be 0: a network that is written otherwise may not be the one that is meant.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| ())?;
        // `::ffff:10.0.0.1` is an IPv4 address in disguise, which connections are compared without.
        if first.to_canonical() != first {
            return Err(());
        }
        let most = width(first);
        let digits = |bits: &str| (1..=3).contains(&bits.len()) && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) if digits(bits) => bits.parse().map_err(|_| ())?,
            Some(_) => return Err(()),
        };
        let network = Self { first, bits };
        let is_first = bits <= most && network.prefix(first) == number(first);
        is_first.then_some(network).ok_or(())
    }
}

impl Network {
    /// The addresses by which a machine speaks to itself.
    pub const LOOPBACK: [Self; 2] = [
        Self { first: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
        Self { first: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: u128::BITS },
    ];

    /// Whether an address is in it. An IPv4 address is in no IPv6 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.prefix(address) == number(self.first)
    }

    /// The address with the bits behind the prefix cleared.
    fn prefix(&self, address: IpAddr) -> u128 {
        let behind = width(self.first) - self.bits.min(width(self.first));
        let cleared = number(address).checked_shr(behind).unwrap_or(0);
        cleared.checked_shl(behind).unwrap_or(0)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == width(self.first) {
            true => self.first.fmt(f),
            false => write!(f, "{}/{}", self.first, self.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An address is in a network exactly where its first bits are those of the network's.
        #[test]
        fn the_first_bits_decide(network: u32, address: u32, bits in 0_u32..=32, near in 0_u32..=32) {
            // Near the network as often as far from it.
            let address = network ^ address.checked_shr(near).unwrap_or(0);
            let first = |number: u32| (0..bits).map(move |n| number >> (31 - n) & 1);
            let begin = first(network).enumerate().fold(0, |begin, (n, bit)| begin | bit << (31 - n));
            let text = format!("{}/{bits}", std::net::Ipv4Addr::from_bits(begin));
            let parsed: Network = text.parse().unwrap();
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(address));
            let same = first(network).eq(first(match address { IpAddr::V4(v4) => v4.to_bits(), IpAddr::V6(_) => 0 }));
            prop_assert_eq!(parsed.contains(address), same);
            prop_assert_eq!(parsed.to_string().parse::<Network>(), Ok(parsed));
        }
    }

    #[test]
    fn networks_are_read_and_written() {
        for text in ["10.1.0.0/16", "fd00::/8", "0.0.0.0/0", "::/0", "127.0.0.1", "::1", "192.0.2.128/25"] {
            assert_eq!(text.parse::<Network>().map(|network| network.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("10.0.0.1/32".parse::<Network>().map(|network| network.to_string()).as_deref(), Ok("10.0.0.1"));
        for text in [
            "",
            "/",
            "10.1.0.0/",
            "10.1.0.0/33",
            "10.1.0.1/16",
            "fd00::1/8",
            "::/129",
            "10/8",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/8/8",
            "10.0.0.0/08x",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/9999",
        ] {
            assert_eq!(text.parse::<Network>(), Err(()), "{text}");
        }
    }

    #[test]
    fn loopback_is_what_it_is_called() {
        assert_eq!(Network::LOOPBACK.map(|network| network.to_string()), ["127.0.0.0/8", "::1"]);
        assert!(Network::LOOPBACK.iter().all(|network| network.to_string().parse() == Ok(*network)));
    }

    #[test]
    fn an_address_is_in_a_network_or_not() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().expect(network).contains(address.parse().expect(address))
        };
        for (network, address) in [
            ("10.1.0.0/16", "10.1.0.0"),
            ("10.1.0.0/16", "10.1.255.255"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("::/0", "fd00::1"),
            ("fd00::/8", "fdff::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("192.0.2.128/25", "192.0.2.200"),
        ] {
            assert!(contains(network, address), "{address} in {network}");
        }
        for (network, address) in [
            ("10.1.0.0/16", "10.2.0.0"),
            ("10.1.0.0/16", "10.0.255.255"),
            ("0.0.0.0/0", "::1"),
            ("::/0", "10.0.0.1"),
            ("fd00::/8", "fe00::"),
            ("127.0.0.1", "127.0.0.2"),
            ("192.0.2.128/25", "192.0.2.127"),
        ] {
            assert!(!contains(network, address), "{address} in {network}");
        }
    }
}
