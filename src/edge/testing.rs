//! What the room's tests share: a server on ports of its own, and clients that speak to it over real sockets.

pub(super) mod served;
pub(super) mod shaking;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Answers, Book, BoundAddress, Bounds, Listen, Service, Stop, bind};
use crate::access::Visitor;
use crate::metrics::{EdgeMetrics, Metrics, Outcome};
use crate::options::Table as _;
use crate::proxy::answer::{Answer, BodyStream, Nar, Object, ObjectBody, Reply};
use crate::proxy::request;
use crate::telemetry;
use crate::tls::{self, Challenges};

/// A deadline for what should take milliseconds: a lost wake-up then fails the test instead of hanging it.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// The options of the log.
pub(super) fn log() -> telemetry::Options {
    telemetry::Options::from_toml("").expect("options without which it works")
}

/// A store path's hash part, and our NAR URL for it.
pub(super) const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";
pub(super) const NAR_PATH: &str =
    "/nar/0123456789abcdfghijklmnpqrsvwxyz-0000000000000000000000000000000000000000000000000000.nar.xz";

/// Answers with what a closure says.
pub(super) struct Fake<F>(pub(super) F);

impl<F: Fn(request::Request) -> Answer + Send + Sync + 'static> Answers for Fake<F> {
    async fn answer(&self, request: request::Request, _head: bool, _: &Visitor<'_>) -> Answer {
        (self.0)(request)
    }

    /// Who shows anything.
    fn is_granted(&self, visitor: &Visitor<'_>) -> bool {
        visitor.authorization.is_some()
    }
}

/// A certificate of our own and the CA that signed it, made once for all tests.
pub(super) struct Certificate {
    pub(super) resolver: Arc<dyn rustls::server::ResolvesServerCert>,
    pub(super) certificate: tls::certificate::Certificate,
    pub(super) ca: CertificateDer<'static>,
}

pub(super) static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let (resolver, certificate, ca) = tls::for_tests(dir.path());
    let ca = CertificateDer::from_pem_file(ca).expect("a CA");
    Certificate { resolver, certificate, ca }
});

/// A server, by default with one plain and one TLS address.
pub(super) struct Server {
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) challenges: Challenges,
    pub(super) acceptors: Vec<Arc<tls::Acceptor>>,
    pub(super) metrics: EdgeMetrics,
    pub(super) drain: CancellationToken,
    task: JoinHandle<bool>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(request::Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_bounded(Fake(answer), 100, SOON)
    }

    pub(super) fn start_bounded(answers: impl Answers, connections: usize, limit: Duration) -> Self {
        Self::start_at(&[listen("tls = false"), listen("")], answers, Bounds { connections, handshakes: 100 }, limit)
    }

    /// Serves "hello" at these addresses.
    pub(super) fn listening(listens: &[Listen]) -> Self {
        let bounds = Bounds { connections: 100, handshakes: 100 };
        Self::start_at(listens, Fake(|_| text("hello\n")), bounds, SOON)
    }

    pub(super) fn start_at(listens: &[Listen], answers: impl Answers, bounds: Bounds, limit: Duration) -> Self {
        let challenges = Challenges::default();
        let listeners = bind(listens, Some(&CERTIFICATE.resolver), &challenges).expect("free ports");
        let (bound, acceptors) = (listeners.addresses(), listeners.with_client_certificates());
        let first = |tls| tcp(bound.iter().find(|bound| bound.tls == tls).unwrap_or(&bound[0]));
        let (plain, tls) = (first(false), first(true));
        let metrics = Metrics::default().edge;
        let drain = CancellationToken::new();
        let stop = Stop { drain: drain.clone(), limit };
        let service = Arc::new(Service::new(answers, challenges.clone(), Book::new(metrics.clone(), log())));
        let task = tokio::spawn(listeners.serve(service, metrics.clone(), bounds, stop));
        let addresses = bound.iter().map(tcp).collect();
        Self { plain, tls, addresses, challenges, acceptors, metrics, drain, task }
    }

    /// Stops, and says whether everything finished in time.
    pub(super) async fn stop(self) -> bool {
        self.drain.cancel();
        soon(self.task).await.expect("the server does not panic")
    }
}

/// An address on loopback with these other options.
pub(super) fn listen(rest: &str) -> Listen {
    Listen::from_toml(&format!("address = '127.0.0.1:0'\n{rest}")).expect(rest)
}

pub(super) fn tcp(bound: &BoundAddress) -> SocketAddr {
    match bound.address {
        super::ListenAddress::Tcp(address) => address,
        super::ListenAddress::Unix(_) | super::ListenAddress::Inherited(_) => panic!("a TCP address"),
    }
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it does not hang")
}

/// Sends text over a plain connection and returns all that comes back until the server closes.
pub(super) async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(text.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // A server that closes with bytes of ours unread resets the connection after its answer.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A TLS session that offers `protocol` by ALPN.
pub(super) async fn handshake(address: SocketAddr, protocol: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    handshake_over(stream, protocol).await.expect("a handshake")
}

pub(super) async fn handshake_over<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    protocol: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<IO>> {
    let config = shaking::client(&shaking::VERSIONS, &[protocol], None);
    let name = ServerName::try_from("localhost").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io).await
}

/// An HTTP/2 client with windows as large as libcurl's, and the task that runs its connection.
pub(super) async fn http2_over<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: IO,
    stream_window: u32,
) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(32 << 20)
        .handshake(TokioIo::new(io))
        .await
        .expect("an HTTP/2 connection");
    (sender, tokio::spawn(connection))
}

pub(super) async fn http2(address: SocketAddr) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    http2_over(handshake(address, "h2").await, 10 << 20).await
}

/// One GET or HEAD over a connection of its own, plain HTTP/1.1.
pub(super) async fn http1(address: SocketAddr, request: Request<Empty<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let response = soon(sender.send_request(request)).await.expect("a response");
    drop(sender);
    drop(connection); // detached: it ends with the response's body
    response
}

pub(super) fn get(path: &str) -> Request<Empty<Bytes>> {
    let builder = Request::builder().uri(format!("https://localhost{path}")).header("host", "localhost");
    builder.body(Empty::new()).expect("a request")
}

pub(super) fn head_of(path: &str) -> Request<Empty<Bytes>> {
    let mut request = get(path);
    *request.method_mut() = http::Method::HEAD;
    request
}

/// Bytes that differ from place to place.
pub(super) fn noise(length: usize) -> Bytes {
    (0..length).map(|n| (n * 31 + n / 251).to_le_bytes()[0]).collect::<Vec<u8>>().into()
}

pub(super) fn in_memory(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")
}

/// A NAR out of memory, in chunks of `chunk` bytes.
pub(super) fn nar(bytes: &Bytes, chunk: usize) -> Answer {
    let (size, bytes) = (bytes.len() as u64, bytes.clone());
    nar_from(Some(size), move |range| {
        let range = range.map_or(0..bytes.len(), in_memory);
        let pieces: Vec<_> = bytes.slice(range).chunks(chunk).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Box::pin(stream::iter(pieces))
    })
}

pub(super) fn nar_from(
    size: Option<u64>,
    open: impl FnOnce(Option<std::ops::Range<u64>>) -> BodyStream + Send + 'static,
) -> Answer {
    Answer::public(Outcome::Hit, Reply::Nar(Nar { size, etag: "tag".into(), open: Box::new(open) }))
}

pub(super) fn text(text: &'static str) -> Answer {
    let body = ObjectBody::Whole(Bytes::from_static(text.as_bytes()));
    let object = Object { content_type: "text/x-nix-narinfo", encoding: None, body, max_age: 60 };
    Answer::public(Outcome::Miss, Reply::Object(object))
}
