//! Binding addresses, accepting connections, and the drain at the end.
//!
//! [`bind`] binds all addresses before anything is served, so that a wrong one stops the start. [`Listeners::serve`]
//! runs until asked to drain: it stops accepting, asks the connections to finish, waits for them up to a limit, and
//! breaks off the rest (R34).

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::ResolvesServerCert;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::{BoundAddress, Entrance, ListenAddress, Listener, Peer};
use super::connection::{self, Handler, Shared};
use super::options::{Bounds, Listen};
use crate::inherited::{self, Inherited};
use crate::metrics::EdgeMetrics;
use crate::tls::{self, Challenges};

/// Longest queue of connections that wait to be accepted; the system may have a lower bound of its own.
const BACKLOG: i32 = 4096;
/// Unsent bytes the system takes for one connection before it makes us wait. Without a bound its buffer for a slow
/// client grows to megabytes, and progress comes in jumps that long.
const UNSENT: u32 = 512 << 10;
/// A client that acknowledges nothing for this long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Pause after an accept that failed for want of something (files, memory), which a retry at once would not bring.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses it.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// The address.
        address: ListenAddress,
        /// Why not.
        source: io::Error,
    },
    /// A unix socket that something else serves.
    #[error("cannot listen on {0}: another process answers there")]
    Taken(ListenAddress),
    /// Something at that path is not a socket.
    #[error("cannot listen on {0}: there is a file that is no socket")]
    NotASocket(ListenAddress),
    /// There is no such socket that was given to this process.
    #[error("cannot listen on {address}: expected {expected}")]
    NotGiven {
        /// The address.
        address: ListenAddress,
        /// What should be there.
        expected: String,
    },
    /// TLS is asked for, but no certificate was loaded.
    #[error("cannot listen on {0} with TLS: there is no certificate")]
    NoCertificate(ListenAddress),
    /// The TLS settings cannot be made.
    #[error("cannot listen on {address} with TLS: {source}")]
    Tls {
        /// The address.
        address: ListenAddress,
        /// Why not.
        source: tls::Error,
    },
}

/// Bound addresses, not yet served; connections wait in the system's queue.
#[derive(Debug)]
pub struct Listeners(Vec<Bound>);

#[derive(Debug)]
struct Bound {
    door: Door,
    _file: Option<SocketFile>,
    tls: Option<Arc<tls::Acceptor>>,
    entrance: Entrance,
    listener: Arc<Listener>,
    address: BoundAddress,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds every address, or none. Needs the runtime it is to be served on. Those with TLS show the certificates of
/// `resolver`, and those of `challenges` to a CA.
///
/// Blocking: reads the CA files for clients.
///
/// # Errors
/// The first address that cannot be served.
pub fn bind(
    listen: &[Listen],
    resolver: Option<&Arc<dyn ResolvesServerCert>>,
    challenges: &Challenges,
) -> Result<Listeners, BindError> {
    bind_with(listen, resolver, challenges, &mut Inherited::default())
}

/// [`bind`], with the sockets that were opened for this process.
///
/// # Errors
/// As of [`bind`].
pub fn bind_with(
    listen: &[Listen],
    resolver: Option<&Arc<dyn ResolvesServerCert>>,
    challenges: &Challenges,
    inherited: &mut Inherited,
) -> Result<Listeners, BindError> {
    let mut bound = Vec::new();
    for one in listen {
        bound.extend(bind_one(one, resolver, challenges, inherited)?);
    }
    Ok(Listeners(bound))
}

fn acceptor(
    listen: &Listen,
    resolver: Option<&Arc<dyn ResolvesServerCert>>,
    challenges: &Challenges,
) -> Result<tls::Acceptor, BindError> {
    let resolver = resolver.ok_or_else(|| BindError::NoCertificate(listen.address.clone()))?;
    tls::Acceptor::new(Arc::clone(resolver), challenges.clone(), listen.clients())
        .map_err(|source| BindError::Tls { address: listen.address.clone(), source })
}

fn bind_one(
    listen: &Listen,
    resolver: Option<&Arc<dyn ResolvesServerCert>>,
    challenges: &Challenges,
    inherited: &mut Inherited,
) -> Result<Vec<Bound>, BindError> {
    let tls = listen.tls.then(|| acceptor(listen, resolver, challenges)).transpose()?.map(Arc::new);
    let entrance = match (&tls, &listen.redirect) {
        (Some(_), _) => Entrance::Tls,
        (None, None) => Entrance::Plain,
        (None, Some(redirect)) => Entrance::Elsewhere(Arc::new(redirect.clone())),
    };
    let redirects = matches!(entrance, Entrance::Elsewhere(_));
    let listener = Arc::new(listen.listener());
    let bound = open(&listen.address, inherited)?.into_iter().map(|(door, file, address)| Bound {
        door,
        _file: file,
        tls: tls.clone(),
        entrance: entrance.clone(),
        listener: Arc::clone(&listener),
        address: BoundAddress { address, tls: tls.is_some(), redirects },
    });
    Ok(bound.collect())
}

type Opened = (Door, Option<SocketFile>, ListenAddress);

/// The socket of an address, or those that were given.
fn open(address: &ListenAddress, inherited: &mut Inherited) -> Result<Vec<Opened>, BindError> {
    let refused = |source| BindError::Refused { address: address.clone(), source };
    match address {
        ListenAddress::Tcp(tcp) => {
            let listener = bind_tcp(*tcp).map_err(refused)?;
            let address = ListenAddress::Tcp(listener.local_addr().map_err(refused)?);
            Ok(vec![(Door::Tcp(listener), None, address)])
        }
        ListenAddress::Unix(path) => {
            clear_stale(path, address)?;
            let (listener, file) = bind_unix(path).map_err(refused)?;
            Ok(vec![(Door::Unix(listener), Some(file), address.clone())])
        }
        ListenAddress::Inherited(name) => {
            let not_given = |expected| BindError::NotGiven { address: address.clone(), expected };
            let sockets = inherited.take(name).map_err(not_given)?;
            sockets.into_iter().map(|socket| adopt(socket).map_err(refused)).collect()
        }
    }
}

/// Makes a socket that was given one of ours. Its queue is as long as whoever opened it made it; its file, if it has one, is
/// not ours.
fn adopt(socket: inherited::Socket) -> io::Result<Opened> {
    match socket {
        inherited::Socket::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let address = ListenAddress::Tcp(listener.local_addr()?);
            Ok((Door::Tcp(TcpListener::from_std(listener)?), None, address))
        }
        inherited::Socket::Unix(listener) => {
            listener.set_nonblocking(true)?;
            // One in the abstract namespace has a name and no path.
            let local = listener.local_addr()?;
            let name = || std::os::linux::net::SocketAddrExt::as_abstract_name(&local).map(String::from_utf8_lossy);
            let path = local.as_pathname().map(PathBuf::from);
            let path = path.unwrap_or_else(|| format!("@{}", name().unwrap_or_default()).into());
            Ok((Door::Unix(UnixListener::from_std(listener)?), None, ListenAddress::Unix(path)))
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // a restart must not wait for the old connections' TIME_WAIT
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Makes sure that nothing live is at `path`: connecting tells a server from the rest of a dead one.
fn clear_stale(path: &Path, address: &ListenAddress) -> Result<(), BindError> {
    let refused = |source| BindError::Refused { address: address.clone(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(address.clone())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Taken(address.clone())),
        // The file stays until the new socket takes its place in one step.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// Binds under a name of its own and renames it into place: clients see the old file or a socket that listens and
/// has its mode.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    let placed = place(&socket, &temporary, path);
    if placed.is_err() {
        let _ = std::fs::remove_file(&temporary); // what is told is the first error
    }
    let file = placed?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

fn place(socket: &Socket, temporary: &Path, path: &Path) -> io::Result<SocketFile> {
    socket.listen(BACKLOG)?;
    std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(0o666))?;
    let inode = std::fs::symlink_metadata(temporary)?.ino();
    std::fs::rename(temporary, path)?;
    Ok(SocketFile { path: path.into(), inode })
}

/// A unix socket's file, removed when we stop, unless another server has put its own there since.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path); // the next start replaces it in any case
        }
    }
}

/// How a server is asked to stop.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Begins the drain.
    pub drain: CancellationToken,
    /// Time for the connections to finish after that.
    pub limit: Duration,
}

impl Listeners {
    /// Where connections are taken.
    pub fn addresses(&self) -> Vec<BoundAddress> {
        self.0.iter().map(|bound| bound.address.clone()).collect()
    }

    /// What to [`refresh`](tls::Acceptor::refresh) while they are served: those that ask clients for certificates.
    pub fn with_client_certificates(&self) -> Vec<Arc<tls::Acceptor>> {
        self.0.iter().filter_map(|bound| bound.tls.clone()).filter(|tls| tls.asks_for_certificates()).collect()
    }

    /// Serves until `stop.drain` is cancelled and every connection has ended.
    ///
    /// Returns whether all of them finished in time; `false` when some were broken off.
    pub async fn serve<H: Handler>(self, handler: Arc<H>, metrics: EdgeMetrics, bounds: Bounds, stop: Stop) -> bool {
        let shared = Arc::new(Shared {
            handler,
            metrics,
            handshakes: Semaphore::new(bounds.handshakes),
            tasks: TaskTracker::new(),
            drain: stop.drain.clone(),
            abort: CancellationToken::new(),
        });
        let permits = Arc::new(Semaphore::new(bounds.connections));
        for bound in self.0 {
            shared.tasks.spawn(accept(bound, Arc::clone(&shared), Arc::clone(&permits)));
        }
        stop.drain.cancelled().await;
        shared.tasks.close();
        let finished = tokio::time::timeout(stop.limit, shared.tasks.wait()).await.is_ok();
        if !finished {
            tracing::warn!(limit = ?stop.limit, tasks = shared.tasks.len(), "the drain's time is up: breaking off what still runs");
            shared.abort.cancel();
            shared.tasks.wait().await;
        }
        finished
    }
}

/// Takes connections of one address until the drain begins.
async fn accept<H: Handler>(bound: Bound, shared: Arc<Shared<H>>, permits: Arc<Semaphore>) {
    let drain = shared.drain.clone();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => return,
            accepted = accept_one(&bound) => accepted,
        };
        match accepted {
            Ok(stream) => {
                failing = false;
                let permit = permit(&permits, &drain).await;
                let peer = stream.peer(&bound);
                let serving = stream.serve(Arc::clone(&shared), bound.tls.clone(), peer);
                shared.tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.metrics.accept_errors.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, address = %bound.address, "cannot accept connections; going on trying");
                }
                tokio::select! {
                    () = drain.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// A connection just accepted.
enum Accepted {
    Tcp(TcpStream, std::net::SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Accepted {
    fn peer(&self, bound: &Bound) -> Peer {
        let address = match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        };
        Peer::new(address, bound.entrance.clone(), Arc::clone(&bound.listener))
    }

    fn serve<H: Handler>(
        self,
        shared: Arc<Shared<H>>,
        tls: Option<Arc<tls::Acceptor>>,
        peer: Peer,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Tcp(stream, address) => {
                if let Err(error) = tune(&stream) {
                    // The client may have gone since; if not, serving it works all the same.
                    tracing::debug!(%error, peer = %address, "cannot set the connection's options");
                }
                Box::pin(connection::serve(shared, stream, tls, peer))
            }
            Self::Unix(stream) => Box::pin(connection::serve(shared, stream, tls, peer)),
        }
    }
}

async fn accept_one(bound: &Bound) -> io::Result<Accepted> {
    match &bound.door {
        Door::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
        Door::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
    }
}

/// Waits until a connection that was taken may be served. So at the bound one connection for each address is held
/// beyond it and the others wait in the system's queue; a permit taken first would be held by every idle address.
/// When the drain begins it is served in any case: nobody else would.
async fn permit(permits: &Arc<Semaphore>, drain: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        permit = Arc::clone(permits).acquire_owned() => permit.ok(),
        () = drain.cancelled() => None,
    }
}

/// Errors of accept(2) that tell of the connection that was to be accepted, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?; // what we write is whole; waiting for more would only add latency
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

#[cfg(test)]
mod tests;
