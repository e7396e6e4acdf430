//! What a connection did lately: enough to see that it is idle, that its client no longer reads (R22), or that it asks only to
//! abandon what it asked for.
//!
//! The socket, the requests and the bodies note what happens in [`Activity`]; once in [`PERIOD`] the connection's task asks its
//! [`Watch`] for a verdict. So there is one timer for each connection and none for each request or write, and the
//! limits are kept within one to two periods.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::farewell::Farewell;
use super::limits::Patience;

/// Time between two verdicts.
pub const PERIOD: Duration = Duration::from_secs(60);

/// A client that takes fewer bytes than this in a whole period, while more wait to be sent, has stalled: 1 kB/s.
const LEAST_PROGRESS: u64 = 60_000;

/// So many requests abandoned before there was an answer, and more than half of all, are no client's change of mind but a
/// flood: each costs its sender two small frames. More than a connection may have open, so that a client may give up on all it
/// waits for, once. (The HTTP/2 library ends a connection whose resets come in the same read as the requests; those that come
/// a moment later it does not count.)
const ABANDONED: u64 = 150;
/// The same on each connection of a client that has abandoned too much on all of them ([`Patience`]), unless it is being served: behind
/// one address may be many clients, who give up together on an upstream that is slow, with downloads that go on.
const ABANDONED_OF_MANY: u64 = 32;

/// What happened on one connection so far. Counters only: nothing is ordered by them.
#[derive(Debug, Default)]
pub struct Activity {
    in_flight: AtomicUsize,
    /// Who waits for requests to end.
    behind: AtomicWaker,
    /// Those of them that have an answer: the client is being served.
    served: AtomicUsize,
    requests: AtomicU64,
    abandoned: AtomicU64,
    /// What is borne of the client, where clients are counted; and whether it was, to the end.
    patience: OnceLock<Arc<Patience>>,
    is_over: AtomicBool,
    /// Bodies that gave a piece and were not asked for the next since.
    untaken: AtomicUsize,
    written: AtomicU64,
    write_waits: AtomicBool,
}

impl Activity {
    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { activity: Arc::clone(self), answered: false, untaken: false }
    }

    /// The client asks only to abandon what it asked for.
    pub fn is_flood(&self) -> bool {
        let is_over = self.is_over.load(Relaxed) && self.served.load(Relaxed) == 0;
        let borne = if is_over { ABANDONED_OF_MANY } else { ABANDONED };
        let abandoned = self.abandoned.load(Relaxed);
        abandoned > borne && abandoned > self.requests.load(Relaxed) / 2
    }

    /// Ready when no more is in flight than the connection may have at a time. What is more was abandoned by the client, and its
    /// task, which is about to run, had no turn yet to find out. Who asks must be the connection's task alone.
    pub fn poll_caught_up(&self, streams: usize, cx: &Context<'_>) -> Poll<()> {
        let caught_up = || self.in_flight.load(SeqCst) <= streams;
        if caught_up() {
            return Poll::Ready(());
        }
        self.behind.register(cx.waker());
        // One may have ended before it could know that it is waited for.
        if caught_up() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// It is one of the connections of a client, of all of which together no more is borne than this.
    pub fn is_of(&self, client: &Arc<Patience>) {
        let _ = self.patience.set(Arc::clone(client));
    }

    fn note_abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
        if self.patience.get().is_some_and(|patience| !patience.bears_one_more()) {
            self.is_over.store(true, Relaxed);
        }
    }

    /// There are requests without an answer.
    pub fn is_answering(&self) -> bool {
        self.in_flight.load(Relaxed) > self.served.load(Relaxed)
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
pub struct InFlight {
    activity: Arc<Activity>,
    answered: bool,
    untaken: bool,
}

impl InFlight {
    /// There is an answer: what ends from now on was not abandoned before.
    pub fn answered(mut self) -> Self {
        self.activity.served.fetch_add(1, Relaxed);
        self.answered = true;
        self
    }

    /// Whether a piece of the body waits for the client (`true`), or the client for the body.
    pub fn note_untaken(&mut self, untaken: bool) {
        if untaken == self.untaken {
            return;
        }
        self.untaken = untaken;
        match untaken {
            true => self.activity.untaken.fetch_add(1, Relaxed),
            false => self.activity.untaken.fetch_sub(1, Relaxed),
        };
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.note_untaken(false);
        self.activity.in_flight.fetch_sub(1, SeqCst);
        match self.answered {
            true => _ = self.activity.served.fetch_sub(1, Relaxed),
            false => self.activity.note_abandoned(),
        }
        self.activity.behind.wake();
    }
}

/// What a connection is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has requests, or had some lately.
    Busy,
    /// No request was there for a whole period.
    Idle,
    /// Bytes waited to be sent for a whole period, and the client took next to none: it does not read, or it opens no window for
    /// them (which costs it nothing, and an answer to a ping now and then).
    Stalled,
}

/// Compares what happened from one period to the next.
#[derive(Debug, Default)]
pub struct Watch {
    requests: u64,
    written: u64,
    waited: bool,
    untaken: bool,
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
                untaken: activity.untaken.load(Relaxed) > 0,
            },
        );
        // Waiting at both ends of the period: a response that only just began to wait has its time still before it.
        let waited = before.waited && self.waited || before.untaken && self.untaken;
        if waited && self.written - before.written < LEAST_PROGRESS {
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

    #[test]
    fn so_has_one_that_opens_no_window() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let (mut stuck, mut slow) = (activity.begin(), activity.begin());
        stuck.note_untaken(true);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "it may have begun to wait just now");
        activity.note_write(&Poll::Ready(Ok(60_000)));
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "slow, not stalled");
        stuck.note_untaken(false);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "the client waits for the body");
        slow.note_untaken(true);
        drop(slow);
        assert_eq!(watch.verdict(&activity), Verdict::Busy, "what had waited is over");
        stuck.note_untaken(true);
        assert_eq!(watch.verdict(&activity), Verdict::Busy);
        assert_eq!(watch.verdict(&activity), Verdict::Stalled);
    }

    #[test]
    fn who_abandons_what_it_asks_for_is_a_flood_unless_it_takes_as_much() {
        let activity = Arc::new(Activity::default());
        (0..ABANDONED).for_each(|_| drop(activity.begin()));
        let open = activity.begin();
        assert!(!activity.is_flood());
        drop(open);
        assert!(activity.is_flood());
        (0..ABANDONED + 2).for_each(|_| drop(activity.begin().answered()));
        assert!(!activity.is_flood());
    }

    #[tokio::test]
    async fn who_is_behind_is_woken_by_what_ends() {
        let activity = Arc::new(Activity::default());
        let (first, second, third) = (activity.begin(), activity.begin(), activity.begin());
        let caught_up = |streams| {
            let activity = &activity;
            std::future::poll_fn(move |cx| activity.poll_caught_up(streams, cx))
        };
        caught_up(3).await;
        let ended = async {
            tokio::task::yield_now().await;
            drop(first);
            tokio::task::yield_now().await;
            drop((second, third));
        };
        tokio::join!(caught_up(1), ended);
    }

    #[tokio::test(start_paused = true)]
    async fn less_is_borne_of_each_where_a_client_abandons_on_many() {
        let client = Arc::new(Patience::default());
        let connection = || {
            let activity = Arc::new(Activity::default());
            activity.is_of(&client);
            activity
        };
        let abandon = |activity: &Arc<Activity>, times: u64| (0..times).for_each(|_| drop(activity.begin()));
        let connections: Vec<_> = (0..20).map(|_| connection()).collect();
        let mut floods = 0;
        for activity in &connections {
            abandon(activity, ABANDONED_OF_MANY + 1);
            floods += usize::from(activity.is_flood());
        }
        assert!((5..20).contains(&floods), "{floods}: what is borne of all is used up on the way");
        let served = connection();
        let download = served.begin().answered();
        abandon(&served, ABANDONED_OF_MANY + 1);
        assert!(!served.is_flood(), "it is being served");
        drop(download);
        assert!(served.is_flood());
        let other = connection();
        abandon(&other, ABANDONED_OF_MANY);
        assert!(!other.is_flood(), "few");
        let honest = connection();
        (0..ABANDONED_OF_MANY + 2).for_each(|_| drop(honest.begin().answered()));
        abandon(&honest, ABANDONED_OF_MANY + 1);
        assert!(!honest.is_flood(), "it takes as much");
    }
}
