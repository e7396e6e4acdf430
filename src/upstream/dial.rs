//! Connections to an upstream: over TCP or a unix socket, or made by a proxy; with TLS where the address says so; kept in
//! pools.
//!
//! A proxy is connected to wherever it is, and what it may connect to is checked by the text alone (R14): it resolves the
//! names. Its password goes to it and nowhere else.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Empty;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::connect::Tcp;
use super::line::Line;
use super::names::Names;
use super::options::Options;
use super::proxy::{self, Routes, Speaks, Via};
use super::reach::{Limit, NOT_THERE, Reach};
use super::tunnel;

/// Idle connections kept to an upstream: as many as it may be asked over.
const IDLE: usize = 128;
/// A kept plain-HTTP connection is used for less than nix-serve's keep-alive of one second.
const PLAIN_IDLE: Duration = Duration::from_millis(700);
const TLS_IDLE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connections of one upstream.
pub(super) type Pool = PoolOf<Empty<Bytes>>;

/// The same for requests with this kind of body.
pub(super) type PoolOf<B> = Client<HttpsConnector<Dial>, B>;

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

/// What the pools of one upstream share: the ways that lead to it.
#[derive(Clone)]
pub(super) struct Ways {
    tcp: Tcp,
    routes: Arc<Routes>,
    /// For a proxy that is spoken to over TLS, where there is one.
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways").field("tcp", &self.tcp).field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl Ways {
    /// Blocking: reads files.
    ///
    /// # Errors
    /// A file or a variable of the environment cannot be used, with the reason in words.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let tcp = Tcp::new(Names::new(), options.connect_timeout.0);
        let routes = Arc::new(Routes::new(options)?);
        let tls = match routes.speak_tls() {
            true => Some(Arc::new(crate::tls::client_config(options.ca_file.as_deref(), None)?).into()),
            false => None,
        };
        let ways = Self { tcp, routes, tls };
        if let Some(via) = options.url.base().as_str().parse().ok().and_then(|uri| ways.via(&uri)) {
            tracing::info!("upstream {} is asked through its proxy {}", options.display_name(), via.proxy);
        }
        Ok(ways)
    }

    /// The proxy for an address.
    pub(super) fn via(&self, uri: &Uri) -> Option<&Via> {
        self.routes.of(uri)
    }
}

/// A pool for one purpose.
///
/// # Errors
/// A file of certificates cannot be used, with the reason in words.
pub(super) fn pool<B>(options: &Options, ways: &Ways, purpose: Purpose<'_>) -> Result<PoolOf<B>, String>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let own = match purpose {
        Purpose::Small | Purpose::Nars => options.client_certificate(),
        Purpose::Elsewhere(_) => None,
    };
    let tls = crate::tls::client_config(options.ca_file.as_deref(), own)?;
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    let dial = Dial::new(options, ways, purpose);
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
#[derive(Clone)]
pub(super) struct Dial(Arc<Dialling>);

struct Dialling {
    ways: Ways,
    /// Instead of everything else.
    socket: Option<std::path::PathBuf>,
    /// Which addresses may be connected to, where not all may.
    limit: Option<Limit>,
    /// For each step.
    patience: Duration,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

impl Dial {
    fn new(options: &Options, ways: &Ways, purpose: Purpose<'_>) -> Self {
        let (socket, limit) = match purpose {
            Purpose::Elsewhere(limit) => (None, Some(limit.clone())),
            Purpose::Small | Purpose::Nars => (options.socket.clone(), None),
        };
        Self(Arc::new(Dialling { ways: ways.clone(), socket, limit, patience: options.connect_timeout.0 }))
    }
}

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = Failure;
    type Future = Soon<Result<Line, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialling = Arc::clone(&self.0);
        Box::pin(async move { dialling.line(&uri).await })
    }
}

impl Dialling {
    async fn line(&self, uri: &Uri) -> Result<Line, Failure> {
        if let Some(path) = &self.socket {
            let connecting = timeout(self.patience, UnixStream::connect(path)).await;
            let stream = connecting.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            return Ok(Line::new(TokioIo::new(stream), Reach::Machine));
        }
        let (Some(host), Some(port)) = (uri.host(), port(uri)) else { return Err("an address without a host".into()) };
        if let Some(via) = self.ways.via(uri) {
            return self.through(via, uri, host, port).await;
        }
        let stream = self.ways.tcp.connect(host, port, self.limit.as_ref()).await?;
        let reach = Reach::of(stream.peer_addr()?.ip());
        Ok(Line::new(TokioIo::new(stream), reach))
    }

    async fn through(&self, via: &Via, uri: &Uri, host: &str, port: u16) -> Result<Line, Failure> {
        let reach = proxy::reach(uri);
        if self.limit.as_ref().is_some_and(|limit| !limit.allows_reach(reach)) {
            return Err(NOT_THERE.into());
        }
        let told = |why: String| format!("its proxy {} {why}", via.proxy);
        let mut line = self.to_proxy(via).await.map_err(|why| told(format!("cannot be reached: {why}")))?;
        line.reach = reach;
        if via.forwards(uri) {
            line.is_forwarded = true;
            return Ok(line);
        }
        let made = async {
            match via.proxy.speaks {
                Speaks::Socks => {
                    let to = Uri::try_from(format!("http://{host}:{port}/")).map_err(|error| error.to_string())?;
                    tunnel::socks(line, to, via.login().await).await
                }
                _ => tunnel::connect(line, &format!("{host}:{port}"), via.authorization().await).await,
            }
        };
        let made = timeout(self.patience, made).await;
        let made = made.unwrap_or_else(|_| Err(format!("made no connection within {:?}", self.patience)));
        made.map_err(|why| told(why).into())
    }

    /// A connection to the proxy itself.
    async fn to_proxy(&self, via: &Via) -> io::Result<Line> {
        let proxy = &via.proxy;
        let stream = self.ways.tcp.connect(&proxy.host, proxy.port, None).await?;
        let Some(tls) = self.ways.tls.as_ref().filter(|_| proxy.speaks == Speaks::Https) else {
            return Ok(Line::new(TokioIo::new(stream), Reach::Public));
        };
        let name = proxy.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let shaken = timeout(self.patience, tls.connect(name, stream)).await;
        Ok(Line::new(TokioIo::new(shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??), Reach::Public))
    }
}

/// The port, written or implied.
fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme_str()? {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })
}
