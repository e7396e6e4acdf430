//! Peers that are believed when they say for whom they came: proxies in front of this server.
//!
//! Nobody is unless the configuration of the listener says so, because who is believed chooses the address by which a client
//! is told from others, limited and let in (R24). How they say it: in front of everything ([`proxy_protocol`](super::proxy_protocol)),
//! or in each request ([`forwarded`](super::forwarded)).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::access::Network;

/// Peers: those of a network, or whoever comes over a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Addresses.
    Network(Network),
    /// Clients of a unix socket, which have no address: whoever may open its file.
    Unix,
}

impl Source {
    /// Whoever is on this machine itself.
    pub fn this_machine() -> Vec<Self> {
        Network::LOOPBACK.map(Self::Network).into_iter().chain([Self::Unix]).collect()
    }
}

crate::string_value!(Source, "a network such as \"10.0.0.0/8\", an address, or \"unix\"");

impl FromStr for Source {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "unix" => Ok(Self::Unix),
            _ => text.parse().map(Self::Network),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// All who are believed in one way at one listener, or who are exempt from limits; nobody by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Believed(Vec<Source>);

impl Believed {
    /// These.
    pub fn new(sources: &[Source]) -> Self {
        Self(sources.to_vec())
    }

    /// Whether a peer is among them; `None` is one of a unix socket.
    pub fn has(&self, peer: Option<IpAddr>) -> bool {
        let peer = peer.map(|address| address.to_canonical());
        self.0.iter().any(|source| match (source, peer) {
            (Source::Network(network), Some(address)) => network.contains(address),
            (Source::Unix, None) => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn believed(sources: &[&str]) -> Believed {
        Believed(sources.iter().map(|source| source.parse().expect(source)).collect())
    }

    #[test]
    fn nobody_is_believed_unless_named() {
        let addresses = ["127.0.0.1", "10.0.0.1", "::1"].map(|text| Some(text.parse().unwrap()));
        for peer in addresses.into_iter().chain([None]) {
            assert!(!Believed::default().has(peer), "{peer:?}");
        }
        let some = believed(&["10.0.0.0/8", "::1"]);
        assert_eq!(addresses.map(|peer| some.has(peer)), [false, true, true]);
        assert!(!some.has(None), "a unix socket is in no network");
        assert!(some.has(Some("::ffff:10.2.3.4".parse().unwrap())), "as a socket for both families tells it");
        let unix = believed(&["unix"]);
        assert!(unix.has(None) && !addresses.into_iter().any(|peer| unix.has(peer)));
    }

    #[test]
    fn sources_are_read_and_written() {
        for text in ["unix", "10.0.0.0/8", "::1", "192.0.2.1"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for text in ["", "Unix", "unix:", "localhost", "*", "10.0.0.1/8"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
