//! A large body over several connections: parts that are asked for by range, side by side, and read in order.
//!
//! ```text
//! first part ──▶ │ part │ part │ part │ ... ──▶ one stream, in order
//!                  └── fetched ahead of where it is read, each over a connection of its own, into memory
//! ```
//!
//! Many a cache, or the way to it, gives each connection so much and no more. Whether more connections bring more is measured, for
//! each upstream, on a large body that somebody reads (`pace`). What is read is what one connection would have brought, from the
//! same upstream and with the same `ETag`; who follows behind (hash, chunks, readers) sees no difference. A part that breaks off is
//! asked for once more from where it broke. Where that fails too, or anything is not as it was, the rest is asked for over one
//! connection, from where it is needed. So it is from the beginning where another snowbank sends what it is still fetching itself: it
//! holds the end of each part back until all of it came.
//!
//! What bounds it: parts of 4 MiB, 32 of them in memory over all bodies, seven ahead of one body's reader, and none while clients
//! leave fewer than a quarter of the upstream's connections idle. What came of parts and was not read counts as what a fill may cost.

mod pace;
mod part;
mod pipe;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::pace::Pace;
use self::part::{Part, Whole};
use super::Source;
use super::state::HOLD;
use crate::upstream::{Body, Opened, UpstreamError};

/// The first part, which tells whether ranges are answered.
const FIRST: u64 = 8 << 20;
/// Every other one.
const PART: u64 = 4 << 20;
/// A body with less to come is not worth it.
pub(super) const LEAST: u64 = 16 << 20;
/// Parts in memory, over all bodies.
const PARTS: usize = 32;

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
    let (upstream, is_large) = (&source.upstream, size.is_some_and(|size| size >= from.saturating_add(LEAST)));
    (is_large && upstream.answers_ranges() && upstream.width() != Some(0)).then(|| from + FIRST - 1)
}

/// A body that is read in order, however it comes.
pub(super) struct Wide {
    whole: Whole,
    now: Now,
    from: u64,
    /// The next byte that is read.
    at: u64,
    /// Where what is read now ends, if that is not the end of the body.
    until: Option<u64>,
    /// Whether it is left there, with what comes behind.
    is_left: bool,
    ahead: Option<Ahead>,
    in_parts: bool,
}

enum Now {
    Body(Body),
    Part(Part),
    /// What was read is given up, and with it its connection, which others may wait for.
    Nothing,
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
    pub(super) fn begin(source: &Source, opened: Opened, asked: Option<u64>, size: Option<u64>, parts: &Parts) -> Self {
        let Opened { from, validator, body, is_part, is_filling, took, .. } = opened;
        if asked.is_some() && !is_part {
            source.upstream.ignores_ranges();
        }
        let end = asked.filter(|_| is_part).map(|last| last + 1);
        let ahead = end.zip(size).filter(|_| !is_filling).map(|(next, size)| {
            let pace = Pace::new(source.upstream.width(), took);
            Ahead { parts: parts.clone(), size, next, queue: VecDeque::new(), pace }
        });
        // Of a part that is being fetched there the end is held back; the rest of the body is not.
        let until = end.map(|end| if is_filling { end - HOLD } else { end });
        let whole = Whole { source: source.clone(), size, validator, came: Arc::default() };
        Self { whole, now: Now::Body(body), from, at: from, until, is_left: is_filling, ahead, in_parts: false }
    }

    /// Whether it was put together from several answers.
    pub(super) fn is_in_parts(&self) -> bool {
        self.in_parts
    }

    /// Bytes that came and were not read, nor will be.
    pub(super) fn wasted(&self) -> u64 {
        self.whole.came.load(Ordering::Relaxed).saturating_sub(self.at - self.from)
    }

    /// The next piece; `None` at the end of the body as HTTP sees it. `wanted`: somebody reads it.
    ///
    /// # Errors
    /// As of [`Body::next`].
    pub(super) async fn next(&mut self, wanted: bool) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let end = match self.piece().await {
                Some(Ok(mut piece)) => {
                    let room = self.until.map_or(u64::MAX, |until| until - self.at);
                    piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                    if !piece.is_empty() {
                        self.at += piece.len() as u64;
                        self.go_ahead(wanted);
                        return Some(Ok(piece));
                    }
                    // More than was asked for.
                    None
                }
                end => end,
            };
            let goes_on = match (end, self.until) {
                (None, Some(_)) => self.advance().await?,
                (Some(Err(_)), Some(_)) if matches!(self.now, Now::Part(_)) => {
                    // Whoever refuses so many connections must not be asked for them with each body.
                    self.whole.source.upstream.is_best_at(0);
                    self.rest().await
                }
                (end, _) => return end,
            };
            if let Err(error) = goes_on {
                return Some(Err(error));
            }
        }
    }

    /// What comes next of what is read now.
    async fn piece(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        match &mut self.now {
            Now::Body(_) if self.is_left && self.until == Some(self.at) => None,
            Now::Body(body) => {
                let piece = body.next().await;
                if let Some(Ok(piece)) = &piece {
                    self.whole.count(piece.len());
                }
                piece
            }
            Now::Part(part) => part.pipe.next().await,
            Now::Nothing => None,
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
                (self.now, self.in_parts) = (Now::Part(part), true);
                Some(Ok(()))
            }
            None => Some(self.rest().await),
        }
    }

    /// Asks for all that is left over one connection.
    async fn rest(&mut self) -> Result<(), UpstreamError> {
        (self.ahead, self.until, self.now) = (None, None, Now::Nothing);
        self.now = Now::Body(self.whole.rest(self.at).await?);
        self.in_parts = true;
        Ok(())
    }

    /// Has parts fetched that will be read, as many at a time as are worth it.
    fn go_ahead(&mut self, wanted: bool) {
        let Some(ahead) = &mut self.ahead else { return };
        while wanted && ahead.next < ahead.size && ahead.queue.len() < ahead.pace.connections() {
            let end = ahead.size.min(ahead.next + PART);
            let Some(part) = Part::begin(&ahead.parts, &self.whole, ahead.next..end) else { break };
            ahead.queue.push_back(part);
            ahead.next = end;
        }
        let all = wanted && ahead.queue.len() >= ahead.pace.connections();
        let open = ahead.queue.iter().all(|part| part.pipe.is_open());
        if let Some(best) = ahead.pace.came(self.whole.came.load(Ordering::Relaxed), all, open) {
            self.whole.source.upstream.is_best_at(best);
        }
    }
}
