//! What a connection did lately: enough to see that it is idle or that its client no longer reads (R22).
//!
//! The socket and the requests note what happens in [`Activity`]; once in [`PERIOD`] the connection's task asks its
//! [`Watch`] for a verdict. So there is one timer for each connection and none for each request or write, and the
//! limits are kept within one to two periods.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::farewell::Farewell;

/// Time between two verdicts.
pub const PERIOD: Duration = Duration::from_secs(60);

/// A client that takes fewer bytes than this in a whole period, while more wait to be sent, has stalled: 1 kB/s.
const LEAST_PROGRESS: u64 = 60_000;

/// What happened on one connection so far. Counters only: nothing is ordered by them.
#[derive(Debug, Default)]
pub struct Activity {
    in_flight: AtomicUsize,
    requests: AtomicU64,
    written: AtomicU64,
    write_waits: AtomicBool,
}

impl Activity {
    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// No request is in flight.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// There was no request yet.
    pub fn is_new(&self) -> bool {
        self.requests.load(Relaxed) == 0
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.write_waits.store(true, Relaxed),
            Poll::Ready(Ok(written)) => {
                self.write_waits.store(false, Relaxed);
                self.written.fetch_add(*written as u64, Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

/// A request whose response has not ended.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What a connection is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has requests, or had some lately.
    Busy,
    /// No request was there for a whole period.
    Idle,
    /// Bytes waited to be sent for a whole period, and the client took next to none.
    Stalled,
}

/// Compares what happened from one period to the next.
#[derive(Debug, Default)]
pub struct Watch {
    requests: u64,
    written: u64,
    waited: bool,
}

impl Watch {
    /// To be asked once in [`PERIOD`].
    pub fn verdict(&mut self, activity: &Activity) -> Verdict {
        let before = std::mem::replace(
            self,
            Self {
                requests: activity.requests.load(Relaxed),
                written: activity.written.load(Relaxed),
                waited: activity.write_waits.load(Relaxed),
            },
        );
        // Waiting at both ends of the period: a response that only just began to wait has its time still before it.
        if before.waited && self.waited && self.written - before.written < LEAST_PROGRESS {
            Verdict::Stalled
        } else if activity.is_quiet() && self.requests == before.requests {
            Verdict::Idle
        } else {
            Verdict::Busy
        }
    }
}

/// A socket that notes what is written to it.
#[derive(Debug)]
pub struct Watched<IO> {
    io: IO,
    activity: Arc<Activity>,
    farewell: Farewell,
}

impl<IO> Watched<IO> {
    /// Notes the writes to `io` in `activity`.
    pub fn new(io: IO, activity: Arc<Activity>) -> Self {
        Self { io, activity, farewell: Farewell::default() }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.note_write(&result);
        result
    }

    /// Losing this on the way would cost 30 % more CPU for each byte sent.
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ready when the client has closed too, or a while has passed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, farewell, .. } = &mut *self;
        farewell.poll(io, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_requests_is_idle() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let request = activity.begin();
        assert_eq!(watch.verdict(&activity), Verdict::Busy);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "a request in flight for long keeps it busy");
        drop(request);
        assert_eq!(watch.verdict(&activity), Verdict::Idle);
        drop(activity.begin());
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "there was one since the last look");
        assert_eq!(watch.verdict(&activity), Verdict::Idle);
    }

    #[test]
    fn a_client_that_takes_next_to_nothing_has_stalled() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let _request = activity.begin();
        activity.note_write(&Poll::Pending);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "it may have begun to wait just now");
        activity.note_write(&Poll::Ready(Ok(100_000)));
        activity.note_write(&Poll::Pending);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "slow, not stalled");
        activity.note_write(&Poll::Ready(Ok(59_999)));
        activity.note_write(&Poll::Pending);
        assert_eq!(watch.verdict(&activity), Verdict::Stalled);
        activity.note_write(&Poll::Ready(Ok(1)));
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "nothing waits: the client took all there was");
    }
}
