//! Connections to an upstream: over TCP or a unix socket, with TLS where the address says so, kept in pools.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use super::options::Options;
use super::reach::Limit;

/// Idle connections kept to an upstream: as many as it may be asked over.
const IDLE: usize = 128;
/// A kept plain-HTTP connection is used for less than nix-serve's keep-alive of one second.
const PLAIN_IDLE: Duration = Duration::from_millis(700);
const TLS_IDLE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connections of one upstream.
pub(super) type Pool = Client<HttpsConnector<Dial>, Empty<Bytes>>;

/// What connections are made for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Small things at the configured address, many over one connection where it speaks HTTP/2.
    Small,
    /// NARs at the configured address, a connection each.
    Nars,
    /// Wherever redirects lead, within the limit: without the client certificate, which is for the configured address.
    Elsewhere(&'a Limit),
}

/// A pool for one purpose.
///
/// # Errors
/// A file of certificates cannot be used, with the reason in words.
pub(super) fn pool(options: &Options, purpose: Purpose<'_>) -> Result<Pool, String> {
    let own = match purpose {
        Purpose::Small | Purpose::Nars => options.client_certificate(),
        Purpose::Elsewhere(_) => None,
    };
    let tls = crate::tls::client_config(options.ca_file.as_deref(), own)?;
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    let dial = Dial::new(options, purpose);
    let https = match purpose {
        Purpose::Small => https.enable_http2().wrap_connector(dial),
        Purpose::Nars | Purpose::Elsewhere(_) => https.wrap_connector(dial),
    };
    let idle = if options.url.is_https() { TLS_IDLE } else { PLAIN_IDLE };
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(IDLE)
        // A pooled HTTP/2 connection that went dead is found by a ping, not by a client's patience.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(16 << 20)
        .http1_max_headers(100);
    Ok(builder.build(https))
}

/// How a connection is made.
#[derive(Debug, Clone)]
pub(super) enum Dial {
    /// To the host and port of the URL.
    Tcp(HttpConnector<Resolver>),
    /// To this socket, whatever the URL says.
    Unix(Arc<Path>, Duration),
}

impl Dial {
    fn new(options: &Options, purpose: Purpose<'_>) -> Self {
        let limit = match (purpose, &options.socket) {
            (Purpose::Elsewhere(limit), _) => Some(limit.clone()),
            (_, Some(path)) => return Self::Unix(path.as_path().into(), options.connect_timeout.0),
            (_, None) => None,
        };
        let mut tcp = HttpConnector::new_with_resolver(Resolver { names: GaiResolver::new(), limit });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout.0));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        Self::Tcp(tcp)
    }
}

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = Failure;
    type Future = Soon<Result<Line, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_ready(context).map_err(Failure::from),
            Self::Unix(..) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Tcp(tcp) => {
                let connecting = tcp.call(uri);
                Box::pin(async move { Ok(Line::Tcp(connecting.await?)) })
            }
            Self::Unix(path, limit) => {
                let (path, limit) = (Arc::clone(path), *limit);
                Box::pin(async move {
                    let connecting = tokio::time::timeout(limit, UnixStream::connect(&path));
                    Ok(Line::Unix(TokioIo::new(
                        connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
                    )))
                })
            }
        }
    }
}

/// The system's resolver, within a limit where there is one.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    names: GaiResolver,
    limit: Option<Limit>,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Soon<io::Result<Self::Response>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.names.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, limit) = (self.names.call(name), self.limit.clone());
        Box::pin(async move {
            let mut addresses: Vec<SocketAddr> = resolving.await?.collect();
            let allowed = |address: IpAddr| limit.as_ref().is_none_or(|limit| limit.allows(address));
            let found = addresses.len();
            addresses.retain(|address| allowed(address.ip()));
            match addresses.is_empty() && found > 0 {
                true => Err(io::Error::new(io::ErrorKind::PermissionDenied, NOT_THERE)),
                false => Ok(addresses.into_iter()),
            }
        })
    }
}

/// What is said of a redirect to an address that the upstream may not lead to.
pub(super) const NOT_THERE: &str =
    "its address is of this machine or of an internal network, where the upstream is not";

/// A connection.
#[derive(Debug)]
pub(super) enum Line {
    Tcp(TokioIo<TcpStream>),
    Unix(TokioIo<UnixStream>),
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        match self {
            Self::Tcp(stream) => stream.connected(),
            Self::Unix(stream) => stream.connected(),
        }
    }
}

impl Read for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl Write for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r14_a_name_of_this_machine_is_not_connected_to_unless_its_own_upstream_is_here() {
        let limit = Limit::new();
        let mut resolver = Resolver { names: GaiResolver::new(), limit: Some(limit.clone()) };
        let error = resolver.call("localhost".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), NOT_THERE);
        limit.saw(super::super::reach::Reach::Machine);
        assert!(resolver.call("localhost".parse().unwrap()).await.unwrap().len() > 0);
    }
}
