//! One connection from accept to close: handshake, HTTP version by ALPN, requests, drain.
//!
//! TLS decides between HTTP/2 and HTTP/1.1; a plain connection is HTTP/1.1, with no upgrade to anything (R24). HTTP/2
//! over TLS is [corked](super::cork). The task that runs [`serve`] polls everything of the connection but the HTTP/2
//! streams, which the tracker knows.
//!
//! A drain breaks off nobody who was let in. HTTP/2 says which requests are still taken (GOAWAY, twice); only a connection that
//! had none yet is given [`PARTING`] for its first ones, since clients take it for a failure that a new one is good for
//! nothing. HTTP/1.1 cannot say it: a request may be on its way when an idle connection is closed, and a client cannot know
//! whether it was heard. So idle connections stay for [`PARTING`], the next response says `Connection: close`, and that is
//! the last one.
//!
//! Out of scope: what is answered (the [`Handler`]'s part).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Interval, interval_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{self, Activity, InFlight, Verdict, Watch, Watched};
use super::address::Peer;
use super::arrival::arrive;
use super::body::{Body, H2_SLICE};
use super::cork::cork;
use super::handshake::{Permits, part, shake};
use super::limits::{Clients, Seat, Seldom};
use super::respond;
use crate::metrics::{ConnectionEnd, EdgeMetrics, TlsSession, TlsVersion};
use crate::tls::{self, Acceptor};

/// Time for a whole HTTP/1.1 request head (R22). hyper starts it when it begins to wait for one, so it also ends idle
/// HTTP/1.1 connections.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request head, or of an HTTP/2 header list (R22). hyper's own limit of 100 fields stays.
const HEAD_SIZE: u32 = 16 << 10;
/// Nix keeps up to 125 transfers in flight on one connection. What is more only makes it cheaper to ask for what one does not want.
const H2_STREAMS: u32 = 128;
/// Requests have no bodies, so clients have nothing to send that would need a larger window.
const H2_RECEIVE_WINDOW: u32 = 65_535;
/// An HTTP/2 client that is gone without a word is noticed after both of these together. The answer to a ping comes
/// after all that was sent before it, so the second must leave a slow reader the time to get through that.
const H2_PING_INTERVAL: Duration = Duration::from_secs(60);
const H2_PING_LIMIT: Duration = Duration::from_secs(240);

/// Floods can come as fast as connections.
static FLOODS_TOLD: Seldom = Seldom::new();

/// How long, at least, a connection without a request stays when the drain begins; at most twice as long.
const PARTING: Duration = Duration::from_secs(1);

/// How long a handshake may go on when the drain begins. It takes computing on both sides, on machines that may be busy.
const SHAKING: Duration = Duration::from_secs(5);

/// What answers the requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. A panic becomes a 500 for this request only.
    fn handle(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;

    /// What limits each client, if anything does.
    fn clients(&self) -> Option<&Clients> {
        None
    }
}

/// What all connections of a server have in common.
#[derive(Debug)]
pub struct Shared<H> {
    /// Answers the requests.
    pub handler: Arc<H>,
    /// What is counted.
    pub metrics: EdgeMetrics,
    /// Bounds how many handshakes run at a time.
    pub handshakes: Semaphore,
    /// Knows every task there is.
    pub tasks: TaskTracker,
    /// Asks the connections to finish what runs and take nothing new.
    pub drain: CancellationToken,
    /// Makes them break off.
    pub abort: CancellationToken,
}

/// Serves one connection until it ends, and counts how.
pub async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<Arc<Acceptor>>,
    peer: Peer,
) {
    shared.metrics.connections_open.inc();
    let activity = Arc::new(Activity::default());
    let mut io = Watched::new(io, Arc::clone(&activity));
    let arrived = arrive(&mut io, peer, shared.handler.clients(), &shared.drain).await;
    if let Ok((_, Some(seat))) = &arrived {
        activity.is_of(seat.patience());
    }
    let end = match (arrived, tls) {
        (Err(end), _) => end,
        (Ok((peer, _seat)), None) => serve_http1(&shared, io, peer, activity).await,
        (Ok((peer, seat)), Some(acceptor)) => serve_tls(&shared, io, &acceptor, peer, seat.as_ref(), activity).await,
    };
    shared.metrics.connections_open.dec();
    shared.metrics.connections.of(end).inc();
}

/// A connection on its way to its end. On the heap, with nothing of what came before it: there may be ten thousand of them,
/// each kept for long and doing nothing, and what a future holds, it holds for as long as it runs.
type Session<'a> = Pin<Box<dyn Future<Output = ConnectionEnd> + Send + 'a>>;

async fn serve_tls<H: Handler, IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &Arc<Shared<H>>,
    io: IO,
    acceptor: &Acceptor,
    peer: Peer,
    seat: Option<&Seat>,
    activity: Arc<Activity>,
) -> ConnectionEnd {
    match Box::pin(shake_hands(shared, io, acceptor, peer, seat, activity)).await {
        Ok(session) => session.await,
        Err(end) => end,
    }
}

/// The session that a handshake begins; or what came of the connection without one.
async fn shake_hands<'a, H: Handler, IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &'a Arc<Shared<H>>,
    io: IO,
    acceptor: &Acceptor,
    peer: Peer,
    seat: Option<&Seat>,
    activity: Arc<Activity>,
) -> Result<Session<'a>, ConnectionEnd> {
    let permits = Permits { of_client: seat.map(Seat::handshakes), of_all: &shared.handshakes };
    // A drain waits for handshakes as for requests: a client that gets as far as this does not ask elsewhere.
    let parting = async {
        shared.drain.cancelled().await;
        let _ = tokio::time::timeout(SHAKING, shared.abort.cancelled()).await;
    };
    let begun = Instant::now();
    let shaken = tokio::select! {
        shaken = shake(io, acceptor, permits) => shaken,
        () = parting => return Err(ConnectionEnd::Closed),
    };
    match shaken {
        Ok(Some(stream)) => {
            shared.metrics.handshake.observe(begun.elapsed().as_secs_f64());
            Ok(begin(shared, stream, acceptor, peer, activity))
        }
        Ok(None) => Err(ConnectionEnd::Closed),
        Err((why, io)) => {
            tracing::debug!(%peer, %why, "TLS handshake failed");
            if let Some(io) = io {
                shared.drain.run_until_cancelled(part(io)).await;
            }
            Err(ConnectionEnd::Handshake)
        }
    }
}

/// The session, once the handshake is done.
fn begin<'a, H: Handler, IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &'a Arc<Shared<H>>,
    stream: TlsStream<IO>,
    acceptor: &Acceptor,
    peer: Peer,
    activity: Arc<Activity>,
) -> Session<'a> {
    let tls = stream.get_ref().1;
    let (version, session) = session_of(tls);
    shared.metrics.sessions.of(version, session).inc();
    let peer = match acceptor.asks_for_certificates() {
        true => Peer { certificate: tls::shown_names(tls).into(), ..peer },
        false => peer,
    };
    if tls.alpn_protocol() == Some(b"h2") {
        let (io, tls) = stream.into_inner();
        serve_http2(shared, io, tls, peer, activity)
    } else {
        serve_http1(shared, stream, peer, activity)
    }
}

fn serve_http1<H: Handler>(
    shared: &Arc<Shared<H>>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    activity: Arc<Activity>,
) -> Session<'_> {
    let service = {
        let (shared, of, activity) = (Arc::clone(shared), peer.clone(), Arc::clone(&activity));
        service_fn(move |request| answer(Arc::clone(&shared), request, of.clone(), activity.begin(), usize::MAX))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_header_size(HEAD_SIZE as usize)
        .max_buf_size(HEAD_SIZE as usize)
        // A client that closes its half is gone, as at nginx: otherwise one that asked and left would hold its place for as
        // long as the upstream takes. (What is at hand is written before the end is looked for.)
        .half_close(false)
        .serve_connection(TokioIo::new(io), service);
    Box::pin(drive(shared, Box::pin(connection), |_| Poll::Ready(Ok(())), peer, activity))
}

fn serve_http2<H: Handler>(
    shared: &Arc<Shared<H>>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: rustls::ServerConnection,
    peer: Peer,
    activity: Arc<Activity>,
) -> Session<'_> {
    let service = {
        let (shared, of, activity) = (Arc::clone(shared), peer.clone(), Arc::clone(&activity));
        service_fn(move |request| answer(Arc::clone(&shared), request, of.clone(), activity.begin(), H2_SLICE))
    };
    let (corked, mut uncork) = cork(io, tls);
    let connection = http2::Builder::new(TrackedExecutor(shared.tasks.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(HEAD_SIZE)
        .initial_stream_window_size(H2_RECEIVE_WINDOW)
        .initial_connection_window_size(H2_RECEIVE_WINDOW)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_LIMIT)
        .serve_connection(TokioIo::new(corked), service);
    let flush = {
        let activity = Arc::clone(&activity);
        move |cx: &mut Context<'_>| uncork.poll(activity.is_answering(), cx)
    };
    Box::pin(drive(shared, Box::pin(connection), flush, peer, activity))
}

/// What is counted of a TLS session.
fn session_of(tls: &rustls::ServerConnection) -> (TlsVersion, TlsSession) {
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    let session = match tls.handshake_kind() {
        Some(rustls::HandshakeKind::Resumed) => TlsSession::Resumed,
        _ => TlsSession::New,
    };
    (version, session)
}

/// Answers one request, whatever the handler does (R35).
async fn answer<H: Handler>(
    shared: Arc<Shared<H>>,
    request: Request<Incoming>,
    peer: Peer,
    in_flight: InFlight,
    slice: usize,
) -> Result<Response<Body>, Infallible> {
    let can_be_closed = request.version() < Version::HTTP_2;
    // On the heap: hyper makes room for it beside each connection, and moves it several times before it runs.
    let answered = AssertUnwindSafe(Box::pin(shared.handler.handle(request, peer))).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_panic| {
        // The panic hook has told where; the message is not for clients.
        shared.metrics.panics.inc();
        respond::failed()
    });
    if can_be_closed && shared.drain.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.sliced(slice).in_flight(in_flight.answered())))
}

/// A connection that can be asked to end.
trait Connection: Future<Output = hyper::Result<()>> {
    /// Whether its client is told which of its requests will be answered.
    const TELLS: bool;
    fn finish(self: Pin<&mut Self>);
}

impl<IO, S> Connection for http1::Connection<IO, S>
where
    Self: Future<Output = hyper::Result<()>>,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const TELLS: bool = false;
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<IO, S> Connection for http2::Connection<IO, S, TrackedExecutor>
where
    Self: Future<Output = hyper::Result<()>>,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TrackedExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, Body>,
{
    const TELLS: bool = true;
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Polls a connection to its end, and `flush` after it each time; asks it to finish when a drain begins or it is idle,
/// and drops it when its client stalls, floods, or the drain's time is up.
async fn drive<H, C: Connection>(
    shared: &Shared<H>,
    mut connection: Pin<Box<C>>,
    mut flush: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    peer: Peer,
    activity: Arc<Activity>,
) -> ConnectionEnd {
    let activity = &*activity;
    // Own tokens: each poll looks at one, and all connections doing so at the same one would be in each other's way.
    let (drain, abort) = (shared.drain.child_token(), shared.abort.child_token());
    let mut watch = Watch::default();
    let mut ticks = interval_at(Instant::now() + activity::PERIOD, activity::PERIOD);
    let (mut draining, mut asked_for_idleness) = (false, false);
    let mut parting: Option<Parting> = None;
    let mut ended = None;
    loop {
        let signal = if draining { &abort } else { &drain };
        tokio::select! {
            biased;
            result = poll_fn(|cx| {
                if activity.is_flood() {
                    return Poll::Ready(None);
                }
                // Read on without them, and a flood of resets would heap up tasks, before which no other client has its turn.
                if activity.poll_caught_up(H2_STREAMS as usize, cx).is_pending() {
                    // What was made before does not wait for them.
                    return match flush(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                        _ => Poll::Pending,
                    };
                }
                poll_and_flush(connection.as_mut(), &mut flush, &mut ended, cx).map(Some)
            }) => {
                let Some(result) = result else {
                    if let Some(left_out) = FLOODS_TOLD.due() {
                        tracing::warn!(%peer, left_out, "a client abandons what it asks for: its connection is closed");
                    }
                    return ConnectionEnd::Flood;
                };
                return match result {
                    Ok(()) => ConnectionEnd::Closed,
                    // A client may close as soon as it reads our GOAWAY, while we still write the end of it.
                    Err(_) if (draining || asked_for_idleness) && activity.is_quiet() => ConnectionEnd::Closed,
                    Err(error) => {
                        tracing::debug!(%peer, error = %Causes(error.as_ref()), "connection ended");
                        ConnectionEnd::Error
                    }
                };
            }
            () = signal.cancelled() => {
                if draining {
                    return ConnectionEnd::Aborted;
                }
                draining = true;
                match C::TELLS && !activity.is_new() {
                    true => connection.as_mut().finish(),
                    false => parting = Some(Parting::begin(activity)),
                }
            }
            () = parted::<C>(&mut parting, activity) => {
                parting = None;
                connection.as_mut().finish();
            }
            _ = ticks.tick() => match watch.verdict(activity) {
                Verdict::Busy => asked_for_idleness = false,
                // Asked already, and still here: the client does not take part in the farewell.
                Verdict::Idle if asked_for_idleness => return ConnectionEnd::Idle,
                Verdict::Idle => {
                    asked_for_idleness = true;
                    connection.as_mut().finish();
                }
                Verdict::Stalled => {
                    tracing::debug!(%peer, "the client no longer reads");
                    return ConnectionEnd::Stalled;
                }
            },
        }
    }
}

/// The wait of a draining connection for the last request, or for the end of what runs.
struct Parting {
    watch: Watch,
    ticks: Interval,
}

impl Parting {
    fn begin(activity: &Activity) -> Self {
        let mut watch = Watch::default();
        watch.verdict(activity); // from now on counts
        Self { watch, ticks: interval_at(Instant::now() + PARTING, PARTING) }
    }
}

/// Ready when there was no request for [`PARTING`], or, over HTTP/2, when that is over; never, where nothing parts.
async fn parted<C: Connection>(parting: &mut Option<Parting>, activity: &Activity) {
    let Some(Parting { watch, ticks }) = parting else { return std::future::pending().await };
    loop {
        ticks.tick().await;
        if C::TELLS || watch.verdict(activity) == Verdict::Idle {
            return;
        }
    }
}

/// One poll of the connection and what it left to be written. Ready when it has ended and all of that is out.
fn poll_and_flush(
    connection: Pin<&mut impl Connection>,
    flush: &mut impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ended: &mut Option<hyper::Result<()>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Box<dyn std::error::Error + Send + Sync>>> {
    if ended.is_none()
        && let Poll::Ready(result) = connection.poll(cx)
    {
        *ended = Some(result);
    }
    match (flush(cx), ended.take()) {
        (Poll::Ready(Ok(())), Some(result)) => Poll::Ready(result.map_err(Into::into)),
        (Poll::Ready(Err(_)), Some(Err(first))) => Poll::Ready(Err(first.into())),
        (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error.into())),
        (_, unfinished) => {
            *ended = unfinished;
            Poll::Pending
        }
    }
}

/// An error and what caused it, on one line.
struct Causes<'a>(&'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Spawns the streams of an HTTP/2 connection where the drain waits for them.
#[derive(Debug, Clone)]
struct TrackedExecutor(TaskTracker);

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for TrackedExecutor {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

#[cfg(test)]
mod tests;
