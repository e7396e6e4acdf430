//! A large body over several connections: parts that are asked for by range, side by side, and read in order.
//!
//! ```text
//! first part ──▶ │ part │ part │ part │ ... ──▶ one stream, in order
//!                  └── fetched ahead of where it is read, each over a connection of its own, into memory
//! ```
//!
//! Many a cache, or the way to it, gives each connection so much and no more. Whether more connections bring more is measured, for
//! each upstream, on the first large body: one connection, then three, then eight, each kept only if it brings a fifth
//! more. What is read is what one connection would have brought, from the same upstream and with the same `ETag`; who follows
//! behind (hash, chunks, readers) sees no difference. A part that breaks off is asked for once more from where it broke. Where that
//! fails too, or anything is not as it was, the rest is asked for over one connection, from where it is needed.
//!
//! What bounds it: parts of 4 MiB, 32 of them in memory over all bodies, eight of one body, and none while clients leave fewer
//! than a quarter of the upstream's connections idle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Source;
use crate::upstream::{Body, Opened, Said, UpstreamError};

/// The first part, which tells whether ranges are answered.
const FIRST: u64 = 8 << 20;
/// Every other one.
const PART: u64 = 4 << 20;
/// A body with less to come is not worth it.
pub(super) const LEAST: u64 = 16 << 20;
/// Parts in memory, over all bodies.
const PARTS: usize = 32;
/// Connections beside the one that is read, one after the other tried.
const WIDTHS: [usize; 3] = [0, 2, 7];
/// What the next width must bring of what the one before brought, in percent.
const WORTH: u128 = 120;
/// What is measured after a width was reached: this long, and twice what it takes to get an answer.
const MEASURED: Duration = Duration::from_millis(200);

/// What all bodies share.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Parts {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { room: Arc::new(Semaphore::new(PARTS)), tasks, stop }
    }
}

/// The last byte of the first part of a body of which this is wanted; `None` where all of it is to be asked for at once.
pub(super) fn first_part(source: &Source, from: u64, size: Option<u64>) -> Option<u64> {
    let is_large = size.is_some_and(|size| size >= from.saturating_add(LEAST));
    (is_large && source.upstream.answers_ranges()).then(|| from + FIRST - 1)
}

/// A body that is read in order, however it comes.
pub(super) struct Wide {
    source: Source,
    validator: Option<HeaderValue>,
    now: Now,
    /// The next byte that is read.
    at: u64,
    /// Where the connection that is read ends, if that is not the end of the body.
    until: Option<u64>,
    ahead: Option<Ahead>,
}

enum Now {
    Body(Body),
    Part(Part),
}

/// A part that is being fetched, or is in memory.
struct Part {
    end: u64,
    pieces: UnboundedReceiver<Result<Bytes, UpstreamError>>,
    /// Ends the fetching of it.
    _guard: DropGuard,
    _room: OwnedSemaphorePermit,
}

/// What is fetched beside what is read.
struct Ahead {
    parts: Parts,
    size: u64,
    /// The first byte that nobody fetches yet.
    next: u64,
    queue: VecDeque<Part>,
    pace: Pace,
}

impl Wide {
    /// A body of which `opened` is the beginning: up to `last`, if it was asked for by that and answered so.
    pub(super) fn begin(
        source: &Source,
        opened: Opened,
        asked: Option<u64>,
        size: Option<u64>,
        took: Duration,
        parts: &Parts,
    ) -> Self {
        let Opened { from, validator, body, is_part, .. } = opened;
        let until = asked.filter(|_| is_part).map(|last| last + 1);
        if asked.is_some() && !is_part {
            source.upstream.ignores_ranges();
        }
        let ahead = until.zip(size).map(|(next, size)| {
            let pace = Pace::new(source.upstream.width(), took);
            Ahead { parts: parts.clone(), size, next, queue: VecDeque::new(), pace }
        });
        Self { source: source.clone(), validator, now: Now::Body(body), at: from, until, ahead }
    }

    /// The next piece; `None` at the end of the body as HTTP sees it. `wanted`: somebody reads it.
    ///
    /// # Errors
    /// As of [`Body::next`].
    pub(super) async fn next(&mut self, wanted: bool) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let piece = match &mut self.now {
                Now::Body(body) => body.next().await,
                Now::Part(part) => part.pieces.recv().await,
            };
            match (piece, self.until) {
                (Some(Ok(mut piece)), until) => {
                    let room = until.map_or(u64::MAX, |until| until - self.at);
                    piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                    if piece.is_empty() {
                        // More than was asked for.
                        if let Err(error) = self.advance().await? {
                            return Some(Err(error));
                        }
                        continue;
                    }
                    self.at += piece.len() as u64;
                    let received = match &self.now {
                        Now::Body(_) => piece.len() as u64,
                        Now::Part(_) => 0,
                    };
                    self.go_ahead(received, wanted);
                    return Some(Ok(piece));
                }
                (None, Some(_)) => {
                    if let Err(error) = self.advance().await? {
                        return Some(Err(error));
                    }
                }
                (Some(Err(_)), Some(_)) if matches!(self.now, Now::Part(_)) => {
                    self.ahead = None;
                    if let Err(error) = self.rest().await {
                        return Some(Err(error));
                    }
                }
                (end, _) => return end,
            }
        }
    }

    /// Goes on with what comes after what was read; `None` at the end.
    async fn advance(&mut self) -> Option<Result<(), UpstreamError>> {
        let Some(ahead) = &mut self.ahead else { return Some(self.rest().await) };
        if self.at >= ahead.size {
            return None;
        }
        let is_there = self.until == Some(self.at);
        match ahead.queue.pop_front().filter(|_| is_there) {
            Some(part) => {
                self.until = Some(part.end);
                self.now = Now::Part(part);
                Some(Ok(()))
            }
            None => Some(self.rest().await),
        }
    }

    /// Asks for all that is left over one connection.
    async fn rest(&mut self) -> Result<(), UpstreamError> {
        (self.ahead, self.until) = (None, None);
        let (source, at) = (&self.source, self.at);
        let opened = open_part(source, at, None, self.validator.as_ref()).await?;
        self.now = Now::Body(opened);
        Ok(())
    }

    /// Has parts fetched that will be read, as many at a time as are worth it.
    fn go_ahead(&mut self, received: u64, wanted: bool) {
        let Some(ahead) = &mut self.ahead else { return };
        ahead.pace.received(received);
        let connections = ahead.pace.connections(&self.source);
        while wanted
            && ahead.next < ahead.size
            && ahead.queue.len() < connections
            && self.source.upstream.has_connections_to_spare()
        {
            let Ok(room) = Arc::clone(&ahead.parts.room).try_acquire_owned() else { return };
            let (start, end) = (ahead.next, ahead.size.min(ahead.next + PART));
            let (sender, pieces) = unbounded_channel();
            let (stop, counted) = (ahead.parts.stop.child_token(), Arc::clone(&ahead.pace.counted));
            let fetching = fetch(self.source.clone(), start..end, self.validator.clone(), sender, counted);
            let task = stop.clone().run_until_cancelled_owned(fetching);
            ahead.parts.tasks.spawn(crate::trail::carry(task));
            ahead.queue.push_back(Part { end, pieces, _guard: stop.drop_guard(), _room: room });
            ahead.next = end;
        }
    }
}

/// Fetches a part; where it breaks off, the rest of it once more.
async fn fetch(
    source: Source,
    part: std::ops::Range<u64>,
    validator: Option<HeaderValue>,
    pieces: UnboundedSender<Result<Bytes, UpstreamError>>,
    counted: Arc<AtomicU64>,
) {
    let mut at = part.start;
    for last_try in [false, true] {
        let broken = match open_part(&source, at, Some(part.end - 1), validator.as_ref()).await {
            Err(error) => Some(error),
            Ok(mut body) => loop {
                match body.next().await {
                    Some(Ok(mut piece)) => {
                        let (came, room) = (piece.len() as u64, part.end - at);
                        piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                        at += piece.len() as u64;
                        counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
                        // The end is waited for, so that the connection can be used again; but not for more than was asked for.
                        if pieces.send(Ok(piece)).is_err() || came > room {
                            return;
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
        };
        match broken {
            _ if at == part.end => return,
            Some(error) if last_try => return drop(pieces.send(Err(error))),
            _ => {}
        }
    }
    let error = source.upstream.sent_another_part();
    let _ = pieces.send(Err(error));
}

/// A part of the very body that `validator` stands for, where anything does.
async fn open_part(
    source: &Source,
    from: u64,
    last: Option<u64>,
    validator: Option<&HeaderValue>,
) -> Result<Body, UpstreamError> {
    match source.upstream.open(&source.target, from, last).await? {
        Said::Have(opened) if opened.from == from && opened.validator.as_ref() == validator => Ok(opened.body),
        _ => Err(source.upstream.sent_another_part()),
    }
}

/// How many connections are worth it.
struct Pace {
    /// What came, over all connections.
    counted: Arc<AtomicU64>,
    /// The place in [`WIDTHS`].
    width: usize,
    /// Whether more are not tried.
    settled: bool,
    interval: Duration,
    since: Instant,
    at: u64,
    before: Option<u128>,
}

impl Pace {
    fn new(known: Option<usize>, took: Duration) -> Self {
        Self {
            counted: Arc::default(),
            width: known.unwrap_or(0).min(WIDTHS.len() - 1),
            settled: known.is_some(),
            interval: MEASURED + 2 * took,
            since: Instant::now(),
            at: 0,
            before: None,
        }
    }

    fn received(&self, bytes: u64) {
        self.counted.fetch_add(bytes, Ordering::Relaxed);
    }

    fn connections(&mut self, source: &Source) -> usize {
        if !self.settled && self.since.elapsed() >= self.interval {
            self.measure();
            if self.settled {
                source.upstream.is_best_at(self.width);
            }
        }
        WIDTHS[self.width]
    }

    fn measure(&mut self) {
        let (now, counted) = (Instant::now(), self.counted.load(Ordering::Relaxed));
        let rate = u128::from(counted - self.at) * 1_000_000 / now.duration_since(self.since).as_micros().max(1);
        match self.before {
            Some(before) if rate * 100 < before * WORTH => (self.width, self.settled) = (self.width - 1, true),
            _ if self.width + 1 == WIDTHS.len() => self.settled = true,
            _ => self.width += 1,
        }
        (self.before, self.since, self.at) = (Some(rate), now, counted);
    }
}
