//! Where to listen, as written in the configuration, and where that turned out to be.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderMap;

use super::believed::Believed;
use super::forwarded::Forwarded;
use super::redirect::Redirect;
use crate::inherited::SocketName;

/// An address to listen on: `"0.0.0.0:443"`, `"[::]:443"`, `"unix:/run/snowbank/http.sock"`, or `"fd:web"` for sockets that
/// whoever started the program has opened.
///
/// Port 0 lets the system choose; the address bound is logged. `[::]` takes IPv4 as well where the system says so,
/// which Linux does unless `net.ipv6.bindv6only` is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// Whatever the sockets of this name listen on.
    Inherited(SocketName),
}

crate::string_value!(
    ListenAddress,
    "an address and port such as \"0.0.0.0:443\" or \"[::]:443\", \"unix:/path/to/socket\", or \"fd:NAME\" for a socket \
     that systemd opens"
);

/// The text is no address; the forms accepted are told by the option's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl FromStr for ListenAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(Self::Unix(path.into())),
            Some(_) => Err(NotAnAddress),
            None if text.starts_with("fd:") => text.parse().map(Self::Inherited).map_err(|_| NotAnAddress),
            None => text.parse().map(Self::Tcp).map_err(|_| NotAnAddress),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => name.fmt(f),
        }
    }
}

/// A bound address; shown as a URL for TCP (`https://127.0.0.1:43121`) and as `unix:/path` or `unix+tls:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundAddress {
    /// The address, with the port the system chose in place of 0.
    pub address: ListenAddress,
    /// Whether its connections begin with a TLS handshake.
    pub tls: bool,
    /// Whether its clients are sent elsewhere.
    pub redirects: bool,
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.tls) {
            (ListenAddress::Tcp(address), true) => write!(f, "https://{address}"),
            (ListenAddress::Tcp(address), false) => write!(f, "http://{address}"),
            (ListenAddress::Unix(path), true) => write!(f, "unix+tls:{}", path.display()),
            (ListenAddress::Unix(path), false) => write!(f, "unix:{}", path.display()),
            (ListenAddress::Inherited(name), _) => name.fmt(f),
        }
    }
}

/// Who is at the other end of a connection, and how they came in. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address the connection comes from, or what a peer that is believed says instead, with port 0 where it is not said;
    /// `None` over a unix socket, whose clients have none.
    pub address: Option<SocketAddr>,
    /// The address was told by a proxy for this one request: what else is known of the connection is known of the proxy.
    pub forwarded: bool,
    /// The kind of listener it came to.
    pub entrance: Entrance,
    /// What else is said of that listener.
    pub listener: Arc<Listener>,
    /// The DNS names of the certificate that the client showed, and that was verified.
    pub certificate: Arc<[String]>,
}

/// What of a listener decides who is served what there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Option<String>,
    /// Who is served.
    pub serves: Serves,
    /// The largest NAR that is fetched ahead for its clients, in bytes; what `[cache]` says, where nothing.
    pub prefetch: Option<u64>,
    /// Peers that say in front of each connection whose it is.
    pub proxy_protocol: Believed,
    /// Peers that say in each request whose it is.
    pub forwarded: Forwarded,
}

crate::choice! {
    /// Who is served at a listener.
    pub enum Serves {
        /// Whoever comes; each what he may see.
        Everyone = "everyone",
        /// Clients that an `[[access]]` table grants something; nothing to others.
        Granted = "granted",
    }
}

/// One without a name that serves everybody.
impl Default for Listener {
    fn default() -> Self {
        Self {
            prefetch: None,
            name: None,
            serves: Serves::Everyone,
            proxy_protocol: Believed::default(),
            forwarded: Forwarded::default(),
        }
    }
}

impl Peer {
    /// Somebody who came to this listener, from this address where there is one.
    pub fn new(address: Option<SocketAddr>, entrance: Entrance, listener: Arc<Listener>) -> Self {
        Self { address, forwarded: false, entrance, listener, certificate: Arc::default() }
    }

    /// The address without its port.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }

    /// The client for whom a request with these header fields is: the peer itself, unless it is believed to say another.
    #[must_use]
    pub fn for_whom(self, headers: &HeaderMap) -> Self {
        if !self.listener.forwarded.from.has(self.ip()) {
            return self;
        }
        match self.listener.forwarded.client(headers) {
            Some(client) => Self { address: Some(SocketAddr::new(client, 0)), forwarded: true, ..self },
            None => self,
        }
    }
}

/// A kind of listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// Plain HTTP.
    Plain,
    /// HTTPS.
    Tls,
    /// Plain HTTP, where clients are told to go elsewhere.
    Elsewhere(Arc<Redirect>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ClientAddress(self.address).fmt(f)
    }
}

/// Where a client is, as logs tell it.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub Option<SocketAddr>);

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) if address.port() == 0 => address.ip().fmt(f),
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["0.0.0.0:443", "[::]:443", "127.0.0.1:0", "unix:/run/snowbank/http.sock", "fd:web"] {
            let address: ListenAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        for text in
            ["", "443", ":443", "localhost:443", "0.0.0.0", "[::]", "unix:", "unix:relative", "fd:", "http://[::]:1"]
        {
            assert_eq!(text.parse::<ListenAddress>(), Err(NotAnAddress), "{text}");
        }
    }

    #[test]
    fn only_who_is_believed_says_for_whom_it_is() {
        let from = Believed::new(&["10.0.0.4".parse().unwrap()]);
        let listener = Listener { forwarded: Forwarded { from, ..Forwarded::default() }, ..Listener::default() };
        let listener = Arc::new(listener);
        let shown = |address: Option<&str>, said: &str| {
            let address = address.map(|address| address.parse().unwrap());
            let peer = Peer::new(address, Entrance::Plain, Arc::clone(&listener));
            let headers = [(http::HeaderName::from_static("x-forwarded-for"), said.parse().unwrap())];
            let peer = peer.for_whom(&headers.into_iter().collect());
            (peer.to_string(), peer.forwarded)
        };
        let said = "192.0.2.1, 198.51.100.7";
        assert_eq!(shown(Some("10.0.0.4:5"), said), ("198.51.100.7".to_owned(), true));
        assert_eq!(shown(Some("10.0.0.4:5"), "garbage"), ("10.0.0.4:5".to_owned(), false));
        assert_eq!(shown(Some("10.0.0.5:5"), said), ("10.0.0.5:5".to_owned(), false));
        assert_eq!(shown(None, said), ("unix".to_owned(), false));
    }

    #[test]
    fn a_bound_address_is_a_url() {
        let shown =
            |text: &str, tls| BoundAddress { address: text.parse().expect(text), tls, redirects: false }.to_string();
        assert_eq!(shown("127.0.0.1:43121", true), "https://127.0.0.1:43121");
        assert_eq!(shown("[::1]:80", false), "http://[::1]:80");
        assert_eq!(shown("unix:/run/s", false), "unix:/run/s");
    }
}
