//! HTTP clients with every byte under control.
//!
//! [`Target::get`] and friends are the everyday ones: one request, one connection, the whole answer. [`Exchange`] is one
//! answer read at the test's own pace. [`H2`] is an HTTP/2 connection over TLS, where a broken body is a reset stream.
//!
//! A body's end is part of the answer: [`End::Clean`] or [`End::Broken`]. A body that neither has a length nor is chunked
//! panics, because snowbank must never send one (a cut would look complete).

use super::cache::{Object, narinfo_fields};
use super::wire::{Head, field, read_head, read_line};
use super::within;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// A byte stream of any transport.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where a listener is, and what it speaks.
#[derive(Debug, Clone)]
pub enum Target {
    /// Plain HTTP/1.1 over TCP.
    Http(SocketAddr),
    /// TLS over TCP; the certificate authorities to trust.
    Https(SocketAddr, Vec<CertificateDer<'static>>),
    /// Plain HTTP/1.1 over a unix socket.
    Unix(PathBuf),
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As its framing promised.
    Clean,
    /// Earlier, with this error.
    Broken(String),
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields.
    pub fields: Vec<(String, String)>,
    /// What arrived of the body.
    pub body: Bytes,
    /// How it ended.
    pub end: End,
}

impl Response {
    /// No answer at all, which to a client is a broken one: status 0.
    fn nothing(error: String) -> Self {
        Self { status: 0, fields: Vec::new(), body: Bytes::new(), end: End::Broken(error) }
    }

    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// Panics unless the answer is this status, with a body that ended cleanly.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert!(
            self.status == status && self.end == End::Clean,
            "expected {status} and a clean end: {} {:?} {:?} ({} bytes: {:?})",
            self.status,
            self.fields,
            self.end,
            self.body.len(),
            String::from_utf8_lossy(&self.body[..self.body.len().min(200)])
        );
        self
    }

    /// Panics unless the answer is a complete 200 with exactly these bytes. Says where the first difference is.
    #[track_caller]
    pub fn expect_bytes(self, bytes: &[u8]) -> Self {
        let response = self.expect(200);
        assert_same(&response.body, bytes);
        response
    }

    /// Panics unless what arrived is a prefix of `bytes`, and either all of them with a clean end, or an error.
    #[track_caller]
    pub fn expect_all_or_broken(&self, bytes: &[u8]) {
        match &self.end {
            End::Clean if self.status == 200 => assert_same(&self.body, bytes),
            End::Clean => assert!(self.status >= 400, "a clean {} that is not the body", self.status),
            End::Broken(_) => {
                assert!(self.body.len() < bytes.len(), "a broken end after all {} bytes", bytes.len());
                assert_same(&self.body, &bytes[..self.body.len()]);
            }
        }
    }
}

/// Compares bodies without printing megabytes.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8]) {
    if found != expected {
        let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
        panic!("bodies differ at byte {at}: {} bytes found, {} expected", found.len(), expected.len());
    }
}

impl Target {
    /// GET.
    pub async fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[]).await
    }

    /// HEAD.
    pub async fn head(&self, target: &str) -> Response {
        self.request("HEAD", target, &[]).await
    }

    /// GET with header fields.
    pub async fn get_with(&self, target: &str, fields: &[(&str, &str)]) -> Response {
        self.request("GET", target, fields).await
    }

    /// One request on a connection of its own. A connection that breaks before the head of the answer gives
    /// [`Response::nothing`].
    pub async fn request(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        match self.send(method, target, fields).await.try_answer(method).await {
            Ok(exchange) => exchange.finish().await,
            Err(error) => Response::nothing(error),
        }
    }

    /// Asks for the narinfo of `object` as a client does; the request target of its NAR. Panics unless the URL has the
    /// one shape that says all there is to know: `nar/<store hash>-<digest>.nar[.ext]`.
    pub async fn nar_target(&self, object: &Object) -> String {
        let narinfo = self.get(&object.narinfo_target()).await.expect(200);
        let target = format!("/{}", narinfo_fields(narinfo.text(), "URL")[0]);
        assert_eq!(target, object.served_target());
        target
    }

    /// Sends a request on a connection of its own and reads the head of the answer.
    pub async fn start(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Exchange {
        self.send(method, target, fields).await.answer(method).await
    }

    async fn send(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Connection {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n");
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut connection = self.connect().await;
        connection.send(text.as_bytes()).await;
        connection
    }

    /// GET from a plain listener that may be gone at any moment; `None` when it went before the head of its answer.
    pub async fn attempt(&self, target: &str) -> Option<Response> {
        let Self::Http(address) = self else { panic!("only plain HTTP is attempted") };
        let stream: Box<dyn Stream> = Box::new(TcpStream::connect(address).await.ok()?);
        let mut connection = Connection { stream: BufReader::new(stream) };
        let text = format!("GET {target} HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n\r\n");
        connection.stream.get_mut().write_all(text.as_bytes()).await.ok()?;
        Some(connection.try_answer("GET").await.ok()?.finish().await)
    }

    /// A connection on which nothing has been sent.
    pub async fn connect(&self) -> Connection {
        let stream: Box<dyn Stream> = match self {
            Self::Http(address) => Box::new(tcp(*address).await),
            Self::Https(address, authority) => Box::new(tls(*address, authority, &[b"http/1.1"]).await),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await.expect("a connection to the unix socket")),
        };
        Connection { stream: BufReader::new(stream) }
    }

    /// True when nothing listens there any longer.
    pub async fn is_gone(&self) -> bool {
        match self {
            Self::Http(address) | Self::Https(address, _) => TcpStream::connect(address).await.is_err(),
            Self::Unix(path) => UnixStream::connect(path).await.is_err(),
        }
    }

    /// An HTTP/2 connection. Only for TLS.
    pub async fn h2(&self) -> H2 {
        let Self::Https(address, authority) = self else { panic!("HTTP/2 is spoken over TLS only") };
        let stream = tls(*address, authority, &[b"h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the server chose HTTP/2");
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .expect("an HTTP/2 handshake");
        let running = tokio::spawn(async move {
            // Its error reaches every stream of the connection, where the test sees it.
            let _ = connection.await;
        });
        H2 { sender, running }
    }
}

async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = within("connect", TcpStream::connect(address)).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// TLS as a client that trusts these authorities and offers these protocols.
pub async fn tls(
    address: SocketAddr,
    authorities: &[CertificateDer<'static>],
    protocols: &[&[u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    tls_over(tcp(address).await, authorities, protocols).await.expect("a TLS handshake")
}

/// The same over a connection on which something may have been said already.
///
/// # Errors
/// There is no session.
pub async fn tls_over(
    stream: TcpStream,
    authorities: &[CertificateDer<'static>],
    protocols: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).expect("a certificate authority");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a server name");
    within("TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// A connection that speaks HTTP/1.1 as the test says.
pub struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    /// Sends raw bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        within("send", self.stream.get_mut().write_all(bytes)).await.expect("the server reads the request");
        within("flush", self.stream.get_mut().flush()).await.expect("the server reads the request");
    }

    /// Sends raw bytes to a server that may have had enough of them.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        let sending = async {
            self.stream.get_mut().write_all(bytes).await?;
            self.stream.get_mut().flush().await
        };
        let _: std::io::Result<()> = within("send", sending).await;
    }

    /// Sends a GET that keeps the connection, and reads the whole answer.
    pub async fn get(mut self, target: &str) -> (Response, Self) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: cache.test\r\n\r\n").as_bytes()).await;
        let mut exchange = self.answer("GET").await;
        let (body, end) = exchange.rest().await;
        (exchange.response(body, end), exchange.connection)
    }

    /// Reads the head of the answer to a request with this method.
    pub async fn answer(self, method: &str) -> Exchange {
        self.try_answer(method).await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    async fn try_answer(mut self, method: &str) -> Result<Exchange, String> {
        let head = within("the head of an answer", read_head(&mut self.stream)).await.map_err(|e| e.to_string())?;
        Ok(Exchange::new(self, head.ok_or("closed before the head")?, method))
    }

    /// Reads until the server closes; what came until then.
    pub async fn until_closed(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is a close too.
        let _ = within("the server closes the connection", self.stream.read_to_end(&mut bytes)).await;
        bytes
    }
}

enum Left {
    Bytes(u64),
    Chunked { in_chunk: u64 },
}

/// An answer whose head was read and whose body is read at the test's pace.
pub struct Exchange {
    connection: Connection,
    head: Head,
    /// The status code.
    pub status: u16,
    left: Left,
}

impl Exchange {
    fn new(connection: Connection, head: Head, method: &str) -> Self {
        let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {:?}", head.start));
        let bodiless = method == "HEAD" || status == 304 || status == 204;
        let left = match (head.field("transfer-encoding"), head.field("content-length")) {
            _ if bodiless => Left::Bytes(0),
            (Some("chunked"), _) => Left::Chunked { in_chunk: 0 },
            (None, Some(length)) => Left::Bytes(length.parse().expect("a length")),
            _ => panic!("the end of this body is told by nothing but the close: {head:?}"),
        };
        Self { connection, head, status, left }
    }

    /// The next bytes of the body, at most `most` of them. Empty at a clean end.
    ///
    /// # Errors
    /// The body broke.
    pub async fn some(&mut self, most: usize) -> Result<Vec<u8>, String> {
        within("a piece of a body", self.read_some(most)).await
    }

    async fn read_some(&mut self, most: usize) -> Result<Vec<u8>, String> {
        let stream = &mut self.connection.stream;
        if let Left::Chunked { in_chunk: in_chunk @ 0 } = &mut self.left {
            let line = read_line(stream).await.map_err(|e| e.to_string())?.ok_or("closed before the last chunk")?;
            let size = line.split(';').next().unwrap_or_default();
            *in_chunk = u64::from_str_radix(size, 16).map_err(|_| format!("not a chunk size: {line:?}"))?;
            if *in_chunk == 0 {
                while !read_line(stream).await.map_err(|e| e.to_string())?.ok_or("closed in the trailer")?.is_empty() {}
                self.left = Left::Bytes(0);
            }
        }
        let (Left::Bytes(left) | Left::Chunked { in_chunk: left }) = &mut self.left;
        if *left == 0 {
            return Ok(Vec::new());
        }
        let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
        let mut piece = vec![0; wanted];
        let read = stream.read(&mut piece).await.map_err(|e| e.to_string())?;
        if read == 0 {
            return Err(format!("closed {left} bytes before the end"));
        }
        piece.truncate(read);
        *left -= read as u64;
        if let Left::Chunked { in_chunk: 0 } = self.left {
            read_line(stream).await.map_err(|e| e.to_string())?.ok_or("closed after a chunk")?;
        }
        Ok(piece)
    }

    /// Exactly `n` bytes of the body.
    pub async fn exactly(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < n {
            let piece = self.some(n - bytes.len()).await.expect("more of the body");
            assert!(!piece.is_empty(), "the body ended after {} of {n} bytes", bytes.len());
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    /// All that is left of the body, and how it ended.
    pub async fn rest(&mut self) -> (Bytes, End) {
        let mut bytes = Vec::new();
        loop {
            match self.some(1 << 20).await {
                Ok(piece) if piece.is_empty() => return (bytes.into(), End::Clean),
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) => return (bytes.into(), End::Broken(error)),
            }
        }
    }

    /// The answer with what is left of the body.
    pub async fn finish(mut self) -> Response {
        let (body, end) = self.rest().await;
        self.response(body, end)
    }

    fn response(&self, body: Bytes, end: End) -> Response {
        Response { status: self.status, fields: self.head.fields.clone(), body, end }
    }
}

/// An HTTP/2 connection over TLS; any number of requests side by side.
pub struct H2 {
    sender: hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    running: tokio::task::JoinHandle<()>,
}

impl H2 {
    /// GET on a stream of its own; the body is read in pieces by the caller.
    pub async fn start(&self, target: &str, fields: &[(&str, &str)]) -> hyper::Response<hyper::body::Incoming> {
        self.try_start(target, fields).await.expect("an answer")
    }

    async fn try_start(
        &self,
        target: &str,
        fields: &[(&str, &str)],
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        let mut request = hyper::Request::builder().uri(format!("https://localhost{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let mut sender = self.sender.clone();
        within("a stream", sender.ready()).await.expect("an open connection");
        within("an answer", sender.send_request(request)).await
    }

    /// GET, the whole answer. A reset stream is [`End::Broken`].
    pub async fn get(&self, target: &str) -> Response {
        let answer = match self.try_start(target, &[]).await {
            Ok(answer) => answer,
            Err(error) => return Response::nothing(format!("{error:?}")),
        };
        let status = answer.status().as_u16();
        let fields = answer
            .headers()
            .iter()
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        let end = loop {
            match within("a frame", body.frame()).await {
                None => break End::Clean,
                Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => break End::Broken(format!("{error:?}")),
            }
        };
        Response { status, fields, body: bytes.into(), end }
    }
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.running.abort();
    }
}
