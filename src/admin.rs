//! The pages for operators: metrics, health, and the live page at `/`, which asks for `/status` as long as somebody looks at it.
//!
//! Pure: a path in, a page out. `app` puts it on the address of `[admin]`, apart from what clients see (R25).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{Encoder, Registry, TextEncoder};

use crate::inherited::{NotAName, SocketName};
use crate::metrics::openmetrics;
use crate::page::{Asks, Document};

/// The page that shows how everything stands.
static LIVE: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("admin/live.html"), Asks::ItsServer));

crate::options! {
    /// Metrics and health, apart from what clients see.
    pub struct Options {
        /// Where to listen, over plain HTTP. Whoever reaches it can read everything it tells; so keep it to loopback or
        /// to a network of operators. On loopback it answers to IP addresses and `localhost` only, so that no page from elsewhere
        /// reads it by a name that leads here. `fd:NAME` is a socket that systemd opens; the commands that ask the running server
        /// (`verify`, `warm`, `pin`, `unpin`, `certificates`, `healthcheck`, `status`, `top`) need an address and port. Off unless set.
        pub address: Option<Address> = None,
    }
}

/// Where operators ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// Whatever the sockets of this name listen on.
    Inherited(SocketName),
}

crate::string_value!(
    Address,
    "an address and port such as \"127.0.0.1:9090\" or \"[::1]:9090\", or \"fd:NAME\" for a socket that systemd opens"
);

impl FromStr for Address {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let tcp = text.parse().map(Self::Tcp);
        tcp.or_else(|_| text.parse().map(Self::Inherited))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Inherited(name) => name.fmt(f),
        }
    }
}

impl Options {
    /// Whether only programs on this machine reach it.
    pub fn is_loopback(&self) -> bool {
        matches!(self.address, Some(Address::Tcp(address)) if address.ip().to_canonical().is_loopback())
    }

    /// Where a command asks the server that runs with these options.
    ///
    /// # Errors
    /// Why that cannot be known, and what to do.
    pub fn to_ask(&self) -> Result<SocketAddr, &'static str> {
        match &self.address {
            Some(Address::Tcp(address)) if address.port() == 0 => Err(
                "[admin] address has port 0, which is any that is free, so it is not in the configuration; set a port, or ask \
                     at the address that the log of the start tells",
            ),
            Some(Address::Tcp(address)) => Ok(*address),
            Some(Address::Inherited(_)) => Err(
                "[admin] address is a socket that systemd opens, so its address is not in the configuration; set an \
                     address and port, or ask the server at that socket (README, Endpoints)",
            ),
            None => {
                Err("the configuration has no [admin] address, at which the running server could be asked; set it and \
                         restart the server")
            }
        }
    }
}

/// What the pages tell about.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
    draining: AtomicBool,
}

/// A page.
#[derive(Debug)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// What it is filled from, where it is one for browsers: whose header fields go with it.
    pub document: Option<&'static Document>,
}

impl Admin {
    /// Tells about what is in `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry, draining: AtomicBool::new(false) }
    }

    /// From now on `/readyz` says that no new clients should come.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The page at `path`, for who takes what `accept` says.
    pub fn page(&self, path: &str, accept: &str) -> Page {
        match path {
            "/" => Page::html(&LIVE),
            "/metrics" => self.metrics(accept),
            "/healthz" => Page::text(200, "ok\n"),
            "/readyz" if self.is_draining() => Page::text(503, "draining\n"),
            "/readyz" => Page::text(200, "ready\n"),
            _ => Page::text(
                404,
                "not found; there are / (for a browser), /metrics, /healthz, /readyz, /status, /certificates, /pins, and with POST /reload, /purge?path=…, /verify, /warm, /pin, /unpin\n",
            ),
        }
    }

    fn metrics(&self, accept: &str) -> Page {
        let families = self.registry.gather();
        if openmetrics::is_wanted(accept) {
            let body = openmetrics::page(&families).into_bytes();
            return Page { status: 200, content_type: openmetrics::CONTENT_TYPE, body, document: None };
        }
        let mut body = Vec::new();
        match TextEncoder::new().encode(&families, &mut body) {
            Ok(()) => Page { status: 200, content_type: "text/plain; version=0.0.4", body, document: None },
            Err(error) => Page::text(500, &format!("metrics: {error}\n")),
        }
    }
}

impl Page {
    /// A value for programs, and laid out for people.
    pub fn json(value: &serde_json::Value) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: format!("{value:#}\n").into_bytes(),
            document: None,
        }
    }

    /// A line of text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.as_bytes().to_vec(), document: None }
    }

    /// One for browsers, as it is written down.
    pub fn html(document: &'static Document) -> Self {
        let body = document.text().as_bytes().to_vec();
        Self { status: 200, content_type: "text/html; charset=utf-8", body, document: Some(document) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_ends_with_the_drain_and_health_does_not() {
        let admin = Admin::new(Registry::new());
        assert_eq!((admin.page("/readyz", "").status, admin.page("/healthz", "").status), (200, 200));
        admin.drain();
        assert_eq!((admin.page("/readyz", "").status, admin.page("/healthz", "").status), (503, 200));
        assert_eq!(admin.page("/nothing", "").status, 404);
    }
}
