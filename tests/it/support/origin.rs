//! An upstream that does exactly what the test says, on a raw socket: answers, waits on a gate, sends this much, breaks.
//!
//! ```text
//! let gate = Gate::new();
//! let origin = Origin::start();
//! origin.serve("/nar/x.nar", Reply::bytes(body).gate_at(1000, &gate).cut_at(5000));
//! ...
//! assert_eq!(origin.count("/nar/x.nar"), 1);
//! ```
//!
//! Every request is recorded before it is answered. A path that nobody serves is 404. Connections are kept alive unless
//! a reply ends its own. Out of scope: HTTP/2, and what nix-serve does to a connection (see [`super::nix_serve`]).

use super::wire::{Head, read_head, single_range};
use super::{cache, runtime, within};
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// Field names and values.
    pub fields: Vec<(String, String)>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// The body, for requests whose `Content-Length` tells it.
    pub body: Bytes,
}

impl Request {
    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        super::wire::field(&self.fields, name)
    }

    fn new(head: Head, connection: usize, body: Bytes) -> Self {
        let mut words = head.start.split(' ').map(str::to_owned);
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        Self { method, target, fields: head.fields, connection, body }
    }
}

/// A place in a body where the origin stops until the test opens it.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { arrived: Arc::new(watch::Sender::new(0)), open: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until somebody stands before the gate (or has passed it).
    pub async fn reached(&self) {
        let mut arrived = self.arrived.subscribe();
        within("a request reaches the gate", arrived.wait_for(|n| *n > 0)).await.expect("the gate is there");
    }

    async fn pass(&self) {
        self.arrived.send_modify(|n| *n += 1);
        let mut open = self.open.subscribe();
        // The sender lives in `self`, so this ends only by opening.
        let _ = open.wait_for(|open| *open).await;
    }
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection closes.
    UntilClose,
}

/// How a reply breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The connection closes in order (FIN).
    Close,
    /// The connection is reset (RST).
    Reset,
}

/// An answer, told beforehand.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Bytes,
    framing: Framing,
    promise: Option<u64>,
    ranges: bool,
    before_head: Vec<Gate>,
    away: Duration,
    gates: Vec<(u64, Gate)>,
    cut: Option<(u64, Break)>,
    pieces: Option<(usize, Duration)>,
    close: bool,
    at_most: u64,
    unanswered: bool,
}

impl Reply {
    /// `200 OK` with this body, `Content-Length`, `Accept-Ranges` and ranges honoured.
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            fields: Vec::new(),
            body: body.into(),
            framing: Framing::Length,
            promise: None,
            ranges: true,
            before_head: Vec::new(),
            away: Duration::ZERO,
            gates: Vec::new(),
            cut: None,
            pieces: None,
            close: false,
            at_most: u64::MAX,
            unanswered: false,
        }
    }

    /// This status with a line of text as body.
    pub fn status(status: u16) -> Self {
        let mut reply = Self::bytes(format!("status {status}\n"));
        reply.status = status;
        reply.ranges = false;
        reply
    }

    /// This status with this body.
    pub fn with_status(status: u16, body: impl Into<Bytes>) -> Self {
        let mut reply = Self::bytes(body);
        reply.status = status;
        reply.ranges = false;
        reply
    }

    /// Adds a header field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Tells the end of the body this way.
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Promises this many bytes, whatever is sent. The connection closes after the body.
    pub fn promise(mut self, length: u64) -> Self {
        self.promise = Some(length);
        self.close = true;
        self
    }

    /// Answers a `Range` with the whole body, as an origin without ranges does.
    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    /// Answers a `Range` with so many bytes at most, as a server may (RFC 9110 section 15.3.7).
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.at_most = bytes;
        self
    }

    /// Resets the connection instead of an answer.
    pub fn unanswered(mut self) -> Self {
        self.unanswered = true;
        self
    }

    /// Stops before the status line until the gate opens.
    pub fn gate_before_head(mut self, gate: &Gate) -> Self {
        self.before_head.push(gate.clone());
        self
    }

    /// As an origin that is so far away: this passes before the status line.
    pub fn after(mut self, away: Duration) -> Self {
        self.away = away;
        self
    }

    /// Stops after `at` bytes of the whole body (its own offsets, also within a range) until the gate opens.
    pub fn gate_at(mut self, at: u64, gate: &Gate) -> Self {
        self.gates.push((at, gate.clone()));
        self.gates.sort_by_key(|(at, _)| *at);
        self
    }

    /// Closes the connection after `at` bytes of the whole body.
    pub fn cut_at(self, at: u64) -> Self {
        self.break_at(at, Break::Close)
    }

    /// Breaks the connection in this way after `at` bytes of the whole body.
    pub fn break_at(mut self, at: u64, how: Break) -> Self {
        self.cut = Some((at, how));
        self
    }

    /// Sends the body in pieces of this size with a pause after each.
    pub fn pieces(mut self, size: usize, pause: Duration) -> Self {
        self.pieces = Some((size.max(1), pause));
        self
    }

    /// Writes the answer to `request`. `Ok(Some(_))` when the connection must end now, and how.
    async fn write(&self, request: &Request, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<Option<Break>> {
        for gate in &self.before_head {
            gate.pass().await;
        }
        if !self.away.is_zero() {
            tokio::time::sleep(self.away).await;
        }
        if self.unanswered {
            return Ok(Some(Break::Reset));
        }
        let size = self.body.len() as u64;
        let wanted = if self.ranges { single_range(request.field("range"), size) } else { None };
        let (status, first, end) = match wanted {
            None => (self.status, 0, size),
            Some(Ok((first, last))) => (206, first, (last + 1).min(first.saturating_add(self.at_most))),
            Some(Err(())) => (416, 0, 0),
        };
        let close = self.close || self.framing == Framing::UntilClose;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.ranges {
            head.push_str("Accept-Ranges: bytes\r\n");
        }
        match status {
            206 => head.push_str(&format!("Content-Range: bytes {first}-{}/{size}\r\n", end - 1)),
            416 => head.push_str(&format!("Content-Range: bytes */{size}\r\n")),
            _ => {}
        }
        match self.framing {
            Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", self.promise.unwrap_or(end - first))),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::UntilClose => {}
        }
        if close {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        to.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            if let Some(how) = self.write_body(first, end, to).await? {
                return Ok(Some(how));
            }
            if self.framing == Framing::Chunked {
                to.write_all(b"0\r\n\r\n").await?;
            }
        }
        to.flush().await?;
        Ok(close.then_some(Break::Close))
    }

    /// Writes the bytes `first..end` of the body with its gates, pieces and cut.
    async fn write_body(&self, first: u64, end: u64, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<Option<Break>> {
        let mut at = first;
        loop {
            for (_, gate) in self.gates.iter().filter(|(stop, _)| *stop == at) {
                to.flush().await?;
                gate.pass().await;
            }
            if let Some((cut, how)) = self.cut
                && at >= cut
            {
                to.flush().await?;
                return Ok(Some(how));
            }
            if at >= end {
                return Ok(None);
            }
            let mut stop = end;
            stop = self.gates.iter().map(|(stop, _)| *stop).filter(|gate| *gate > at).fold(stop, u64::min);
            stop = self.cut.map_or(stop, |(cut, _)| stop.min(cut));
            stop = self.pieces.map_or(stop, |(size, _)| stop.min(at + size as u64));
            let piece = self.body.slice(index(at)..index(stop));
            match self.framing {
                Framing::Chunked => {
                    to.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                    to.write_all(&piece).await?;
                    to.write_all(b"\r\n").await?;
                }
                Framing::Length | Framing::UntilClose => to.write_all(&piece).await?,
            }
            at = stop;
            if let Some((_, pause)) = self.pieces
                && !pause.is_zero()
            {
                to.flush().await?;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("bodies of tests fit into memory")
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        _ => "Status",
    }
}

/// What answers a request; the number counts the requests for this target, from 0.
type Handler = Arc<dyn Fn(&Request, usize) -> Reply + Send + Sync>;

#[derive(Default)]
struct Script {
    handlers: HashMap<String, Handler>,
    fallback: Option<Handler>,
    requests: Vec<Request>,
    counts: HashMap<String, usize>,
    connections: usize,
}

/// A scripted upstream on a free port of 127.0.0.1. Dropping it closes the port and every connection.
pub struct Origin {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    accepting: JoinHandle<()>,
    tls: bool,
}

impl Origin {
    /// An origin that answers 404 to everything, until told otherwise.
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    /// The same at a given address: an origin that comes back.
    pub fn start_at(address: SocketAddr) -> Self {
        Self::listen(address, None)
    }

    /// The same behind TLS, with a certificate by the authority of the tests, HTTP/1.1 only.
    pub fn start_tls() -> Self {
        Self::listen("127.0.0.1:0".parse().expect("an address"), Some(super::snowbank::certificates().acceptor()))
    }

    fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let _entered = runtime().enter();
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        let listener = TcpListener::from_std(listener).expect("a listener on the runtime");
        let address = listener.local_addr().expect("a bound address");
        let script = Arc::new(Mutex::new(Script::default()));
        let behind_tls = tls.is_some();
        let accepting = runtime().spawn(accept(listener, tls, Arc::clone(&script)));
        Self { address, script, accepting, tls: behind_tls }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers every request for `target` (path and query) with this reply.
    pub fn serve(&self, target: &str, reply: Reply) {
        self.script(target, move |_, _| reply.clone());
    }

    /// Answers the requests for `target` as the closure says; it gets the request and its number, from 0.
    pub fn script(&self, target: &str, handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) {
        self.lock().handlers.insert(target.to_owned(), Arc::new(handler));
    }

    /// Answers whatever has no handler of its own.
    pub fn otherwise(&self, handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) {
        self.lock().fallback = Some(Arc::new(handler));
    }

    /// Serves the narinfo of `object`, signed with `key`, and its file.
    pub fn publish(&self, object: &cache::Object, key: &cache::Key) {
        self.publish_narinfo(object, key);
        self.serve(&object.file_target(), Reply::bytes(object.file.clone()));
    }

    /// Serves only the narinfo of `object`, signed with `key`.
    pub fn publish_narinfo(&self, object: &cache::Object, key: &cache::Key) {
        self.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[key])));
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// The requests for this target so far, HEAD and GET alike.
    pub fn requests_for(&self, target: &str) -> Vec<Request> {
        self.lock().requests.iter().filter(|r| r.target == target).cloned().collect()
    }

    /// How many requests for this target arrived.
    pub fn count(&self, target: &str) -> usize {
        self.lock().counts.get(target).copied().unwrap_or_default()
    }

    /// The parts of this target that were asked for, in order: the first byte, and the last one where it was said.
    pub fn parts(&self, target: &str) -> Vec<(u64, Option<u64>)> {
        let part = |request: &Request| {
            let range = request.field("range").unwrap_or("bytes=0-").trim_start_matches("bytes=");
            let (first, last) = range.split_once('-').expect("a range");
            (first.parse().expect("a number"), last.parse().ok())
        };
        let mut parts: Vec<_> = self.requests_for(target).iter().map(part).collect();
        parts.sort_unstable();
        parts
    }

    /// Whether this target was asked for, as a whole or in parts, and no byte of it twice.
    pub fn each_byte_once(&self, target: &str) -> bool {
        let parts = self.parts(target);
        let begins = parts.first().is_some_and(|(first, _)| *first == 0);
        begins && parts.windows(2).all(|pair| pair[0].1.is_some_and(|last| last + 1 == pair[1].0))
    }

    /// How many requests arrived.
    pub fn total(&self) -> usize {
        self.lock().requests.len()
    }

    /// Forgets the requests so far, so that a test can count from here.
    pub fn forget(&self) {
        let mut script = self.lock();
        script.requests.clear();
        script.counts.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no handler panicked")
    }
}

/// The address of an origin that was switched off: nobody listens there, and nobody else gets it.
pub struct SwitchedOff {
    _held: socket2::Socket,
}

impl Origin {
    /// Nothing listens at its address any more. Merely dropped, its port may be given to the next origin of another test.
    pub fn switch_off(self) -> SwitchedOff {
        let address = self.address;
        drop(self);
        let deadline = std::time::Instant::now() + super::PATIENCE;
        loop {
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
            let socket = socket.expect("a socket");
            socket.set_reuse_address(true).expect("an option");
            match socket.bind(&address.into()) {
                Ok(()) => return SwitchedOff { _held: socket },
                Err(error) => assert!(std::time::Instant::now() < deadline, "its port is not free: {error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, script: Arc<Mutex<Script>>) {
    // Dropping the set with this task ends every connection.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = {
            let mut script = script.lock().expect("no handler panicked");
            script.connections += 1;
            script.connections - 1
        };
        let _ = stream.set_nodelay(true);
        let (tls, script) = (tls.clone(), Arc::clone(&script));
        connections.spawn(async move {
            match tls {
                None => converse(BufReader::new(stream), number, &script).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(BufReader::new(stream), number, &script).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A stream that can be told to reset its connection instead of closing it in order.
trait Breakable: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Breakable for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Breakable for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// The body of a request; empty without a `Content-Length`.
async fn read_body(head: &Head, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = head.field("content-length").and_then(|value| value.parse().ok()).unwrap_or_default();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}

/// Answers the requests of one connection. I/O errors end it silently: a client that left is part of many tests.
async fn converse<S: Breakable>(mut stream: BufReader<S>, number: usize, script: &Mutex<Script>) {
    while let Ok(Some(head)) = read_head(&mut stream).await {
        let Ok(body) = read_body(&head, &mut stream).await else { return };
        let request = Request::new(head, number, body);
        let handler = {
            let mut script = script.lock().expect("no handler panicked");
            let count = script.counts.entry(request.target.clone()).or_default();
            let nth = *count;
            *count += 1;
            script.requests.push(request.clone());
            let handler = script.handlers.get(&request.target).or(script.fallback.as_ref()).cloned();
            handler.map(|handler| (handler, nth))
        };
        let reply = handler.map_or_else(|| Reply::status(404), |(handler, nth)| handler(&request, nth));
        let wants_close = request.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        match reply.write(&request, stream.get_mut()).await {
            Ok(None) if !wants_close => {}
            Ok(Some(Break::Reset)) => {
                // A zero linger time turns the close into a reset.
                let _ = socket2::SockRef::from(stream.get_ref().tcp()).set_linger(Some(Duration::ZERO));
                return;
            }
            _ => {
                let _ = stream.get_mut().shutdown().await;
                return;
            }
        }
    }
}
