//! The server side of one connection, over any stream, with what it wrote and what it counted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::connection::{self, Shared};
use super::super::{Answers, Book, Clients, Entrance, Limits, Peer, Service};
use super::{CERTIFICATE, Fake, NAR_PATH, log};
use crate::metrics::{EdgeMetrics, Metrics};
use crate::options::Table as _;
use crate::proxy::answer::Answer;
use crate::tls::{Acceptor, Challenges};

/// A socket that keeps a copy of what is written, and counts in how many writes.
pub(in crate::edge) struct Counting<IO> {
    io: IO,
    pub(in crate::edge) written: Arc<Mutex<Written>>,
}

#[derive(Default)]
pub(in crate::edge) struct Written {
    pub(in crate::edge) writes: usize,
    pub(in crate::edge) bytes: Vec<u8>,
}

impl Written {
    /// The lengths of the plaintexts of all records written so far: TLS 1.3 adds a type and a tag, 17 B.
    pub(in crate::edge) fn records(&self) -> Vec<usize> {
        let mut records = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some((head, after)) = rest.split_at_checked(5) {
            let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if head[0] == 23 {
                records.push(length - 17);
            }
            rest = &after[length..];
        }
        records
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counting<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counting<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(taken)) = &result {
            let mut taken = *taken;
            let mut written = self.written.lock().unwrap();
            written.writes += 1;
            for buf in bufs {
                let part = taken.min(buf.len());
                written.bytes.extend_from_slice(&buf[..part]);
                taken -= part;
            }
        }
        result
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What shows the tests' certificate to everyone.
pub(in crate::edge) fn acceptor() -> Acceptor {
    Acceptor::new(Arc::clone(&CERTIFICATE.resolver), Challenges::default(), None).expect("settings")
}

/// For what is not about limits.
pub(in crate::edge) const NO_LIMITS: &str = "[client]\nrequests = 0";

/// One connection's server side: its task, what it wrote, what it counted.
pub(in crate::edge) struct Served {
    pub(in crate::edge) task: JoinHandle<()>,
    pub(in crate::edge) tasks: TaskTracker,
    pub(in crate::edge) written: Arc<Mutex<Written>>,
    pub(in crate::edge) metrics: EdgeMetrics,
}

impl Served {
    /// Serves `io` with one answer to everything.
    pub(in crate::edge) fn start<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        io: IO,
        answer: impl Fn() -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(io, Fake(move |_| answer()), NO_LIMITS)
    }

    /// The same within limits.
    pub(in crate::edge) fn start_limited<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        io: IO,
        answer: impl Fn() -> Answer + Send + Sync + 'static,
        limits: &str,
    ) -> Self {
        Self::start_with(io, Fake(move |_| answer()), limits)
    }

    /// Serves `io` with these answers.
    pub(in crate::edge) fn start_with<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        io: IO,
        answers: impl Answers,
        limits: &str,
    ) -> Self {
        let metrics = Metrics::default().edge;
        let limits = Limits::from_toml(limits).expect(limits);
        let clients = Clients::new(&limits, limits.bounds(0), metrics.limits.clone());
        let service = Service::new(answers, Challenges::default(), Book::new(metrics.clone(), log()));
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared {
            handler: Arc::new(service.limited_by(clients)),
            metrics: metrics.clone(),
            handshakes: Semaphore::new(1),
            tasks: tasks.clone(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        let written = Arc::new(Mutex::new(Written::default()));
        let io = Counting { io, written: Arc::clone(&written) };
        let peer = Peer::new(None, Entrance::Tls, Arc::default());
        let task = tokio::spawn(connection::serve(shared, io, Some(Arc::new(acceptor())), peer));
        Self { task, tasks, written, metrics }
    }

    /// As [`end_in_time`](Self::end_in_time), which should not take long.
    pub(in crate::edge) async fn end(self) -> EdgeMetrics {
        super::soon(self.end_in_time()).await
    }

    /// Waits for the connection and its streams to end, and returns how it did.
    pub(in crate::edge) async fn end_in_time(self) -> EdgeMetrics {
        self.task.await.expect("the connection does not panic");
        self.tasks.close();
        self.tasks.wait().await;
        assert_eq!(self.metrics.panics.get(), 0);
        self.metrics
    }
}

/// A pipe that takes little at a time, so that every write has to wait.
pub(in crate::edge) fn narrow_pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(4096)
}

pub(in crate::edge) fn small(length: usize) -> u8 {
    u8::try_from(length).expect("one byte holds it")
}

/// Opens all windows and asks for a NAR, in h2 frames made by hand.
pub(in crate::edge) async fn ask_by_hand(client: &mut (impl AsyncWrite + Unpin)) {
    let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0][..], &[0, 4, 0x7f, 0xff, 0xff, 0xff]].concat();
    let window_update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0];
    // HPACK: GET and https from the static table, :path and :authority as literals.
    let fields = [&[0x82, 0x87, 0x04, small(NAR_PATH.len())], NAR_PATH.as_bytes(), &[0x01, 9], b"localhost"].concat();
    let head = [0, 0, small(fields.len()), 1, 5, 0, 0, 0, 1];
    let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &window_update, &head, &fields].concat();
    client.write_all(&all).await.unwrap();
    client.flush().await.unwrap();
}
