//! A connection to an upstream, whatever it is made of, with what is to be known of it: how the upstream is reached, whether a
//! proxy reads the requests, and when something was heard last.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use super::reach::Reach;
use super::stale::Heard;

/// What bytes go over.
trait Stream: Read + Write + Send + Unpin {}
impl<S: Read + Write + Send + Unpin> Stream for S {}

/// A connection, over which requests to an upstream can be sent.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    heard: Heard,
    /// How the upstream is reached, as far as that is known.
    pub(super) reach: Reach,
    /// Whether a proxy reads the requests.
    pub(super) is_forwarded: bool,
}

impl Line {
    pub(super) fn new(stream: impl Read + Write + Send + Unpin + 'static, reach: Reach) -> Self {
        Self { stream: Box::new(stream), heard: Heard::new(), reach, is_forwarded: false }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded).extra(self.reach).extra(self.heard.clone())
    }
}

impl Read for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        self.heard.now();
        Poll::Ready(read)
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}
