//! The pages for operators: metrics and health.
//!
//! Pure: a path in, a page out. `app` puts it on the address of `[admin]`, apart from what clients see (R25).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{Encoder, Registry, TextEncoder};

crate::options! {
    /// Metrics and health, apart from what clients see.
    pub struct Options {
        /// Where to listen, over plain HTTP. Whoever reaches it can read everything it tells; so keep it to loopback or
        /// to a network of operators. Off unless set.
        pub address: Option<SocketAddr> = None,
    }
}

/// What the pages tell about.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
    draining: AtomicBool,
}

/// A page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
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

    /// The page at `path`.
    pub fn page(&self, path: &str) -> Page {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => Page::text(200, "ok\n"),
            "/readyz" if self.is_draining() => Page::text(503, "draining\n"),
            "/readyz" => Page::text(200, "ready\n"),
            _ => Page::text(
                404,
                "not found; there are /metrics, /healthz, /readyz, /status, /certificates, and with POST /reload, /purge?path=…, /verify\n",
            ),
        }
    }

    fn metrics(&self) -> Page {
        let mut body = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut body) {
            Ok(()) => Page { status: 200, content_type: "text/plain; version=0.0.4", body },
            Err(error) => Page::text(500, &format!("metrics: {error}\n")),
        }
    }
}

impl Page {
    /// A value for programs, and laid out for people.
    pub fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: "application/json", body: format!("{value:#}\n").into_bytes() }
    }

    /// A line of text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.as_bytes().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_ends_with_the_drain_and_health_does_not() {
        let admin = Admin::new(Registry::new());
        assert_eq!((admin.page("/readyz").status, admin.page("/healthz").status), (200, 200));
        admin.drain();
        assert_eq!((admin.page("/readyz").status, admin.page("/healthz").status), (503, 200));
        assert_eq!(admin.page("/").status, 404);
    }
}
