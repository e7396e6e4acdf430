//! A large body over several connections: parts that are asked for by range, side by side, and read in order.
//!
//! ```text
//! first part ──▶ │ part │ part │ part │ ... ──▶ one stream, in order
//!                  └── fetched ahead of where it is read, each over a connection of its own, into memory
//! ```
//!
//! Many a cache, or the way to it, gives each connection so much and no more. Whether more connections bring more is measured, for
//! each upstream, on a large body that somebody reads (`pace`). What is read is what one connection would have brought, from the
//! same upstream and with the same `ETag` (or without one, each of them); who follows behind (hash, chunks, readers) sees no difference. A part that breaks off is
//! asked for once more from where it broke. Where that fails too, or anything is not as it was, the rest is asked for over one
//! connection, from where it is needed. What nobody reads yet comes one part after the other, so that parts can be fetched beside it
//! as soon as somebody does. Over one connection it is from the beginning where another snowbank sends what it is still fetching itself: it
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
/// Who gives only so much of the rest at a time must give this much: each time costs a round trip.
const LEAST_AT_ONCE: u64 = 64 << 10;
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
pub(super) fn first_part(source: &Source, from: u64, size: Option<u64>, parts: &Parts) -> Option<u64> {
    let (upstream, is_large) = (&source.upstream, size.is_some_and(|size| size >= from.saturating_add(LEAST)));
    let is_worth_it = is_large && upstream.answers_ranges() && upstream.width() != Some(0);
    let has_room = || parts.room.available_permits() > 0 && upstream.has_spare_connection();
    (is_worth_it && has_room()).then(|| from + FIRST - 1)
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
    ahead: Option<Ahead>,
    /// Where the rest was asked for last.
    asked: Option<u64>,
    /// From where on it was read by somebody, if it is.
    wanted_from: Option<u64>,
    in_parts: bool,
}

enum Now {
    Body(Body),
    /// With the permit of the connection over which the body began: whatever becomes of the parts, the rest need not wait for one.
    Part(Part, OwnedSemaphorePermit),
    /// What was read is given up.
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

impl Ahead {
    /// Has parts fetched that will be read, as many at a time as are worth it. How many are on their way.
    fn go_on(&mut self, whole: &Whole) -> usize {
        let (worth, best) = (self.pace.connections(), whole.source.upstream.width());
        let mut running = self.queue.iter().filter(|part| part.pipe.is_running()).count();
        let fails = best == Some(0) || self.queue.iter().any(|part| part.pipe.has_failed());
        while !fails && self.next < self.size && running < worth && self.queue.len() < 2 * worth {
            let end = self.size.min(self.next + PART);
            let Some(part) = Part::begin(&self.parts, whole, self.next..end) else { break };
            self.queue.push_back(part);
            self.next = end;
            running += 1;
        }
        running
    }
}

/// What was answered where a body or a part of it was asked for.
struct Answer {
    /// Where it ends, where that is told.
    end: Option<u64>,
    /// The last byte that was asked for, where not all that is left was.
    asked: Option<u64>,
    /// The upstream is another snowbank, which is fetching it itself.
    is_filling: bool,
}

impl Answer {
    fn is_as_asked(&self) -> bool {
        self.asked.is_some() && self.end == self.asked.map(|last| last + 1)
    }

    /// Where it ends, if further parts may be asked for beside it.
    fn part(&self) -> Option<u64> {
        self.end.filter(|_| self.is_as_asked() && !self.is_filling)
    }

    /// Up to where it is read, if that is not the end of a body of that size.
    fn until(&self, size: Option<u64>) -> Option<u64> {
        // Of a part that is being fetched there the end is held back; the rest of the body is not.
        let held_back = if self.is_filling && self.is_as_asked() { HOLD } else { 0 };
        self.end.filter(|end| size.is_some_and(|size| *end < size)).map(|end| end - held_back)
    }
}

impl Wide {
    /// A body of which `opened` is the beginning: up to `last`, if it was asked for by that and answered so.
    pub(super) fn begin(source: &Source, opened: Opened, asked: Option<u64>, size: Option<u64>, parts: &Parts) -> Self {
        let Opened { from, validator, body, end, is_filling, took, .. } = opened;
        let upstream = &source.upstream;
        let answer = Answer { end, is_filling, asked };
        if asked.is_some() && !answer.is_as_asked() {
            upstream.ignores_ranges();
        }
        let ahead = answer.part().zip(size).map(|(next, size)| {
            let pace = Pace::new(upstream.width(), took);
            Ahead { parts: parts.clone(), size, next, queue: VecDeque::new(), pace }
        });
        let until = answer.until(size);
        let whole = Whole { source: source.clone(), size, validator, came: Arc::default() };
        let now = Now::Body(body);
        Self { whole, now, from, at: from, until, ahead, asked: None, wanted_from: None, in_parts: false }
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
        self.wanted_from = if wanted { self.wanted_from.or(Some(self.at)) } else { None };
        loop {
            match self.piece().await {
                Some(Ok(mut piece)) => {
                    let room = self.until.map_or(u64::MAX, |until| until - self.at);
                    piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                    self.at += piece.len() as u64;
                    self.go_ahead();
                    return Some(Ok(piece));
                }
                None if self.until == Some(self.at) => {}
                // Less came than that, or a part broke off: what is left comes over one connection.
                None if self.until.is_some() => self.ahead = None,
                Some(Err(_)) if matches!(self.now, Now::Part(..)) => self.ahead = None,
                end => return end,
            }
            if let Err(error) = self.advance().await? {
                return Some(Err(error));
            }
        }
    }

    /// What comes next of what is read now; nothing where that is all that is wanted of it, whether its end has come or not.
    async fn piece(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        if self.until == Some(self.at) {
            return None;
        }
        match &mut self.now {
            Now::Body(body) => {
                let piece = body.next().await;
                if let Some(Ok(piece)) = &piece {
                    self.whole.count(piece.len());
                }
                piece
            }
            Now::Part(part, _) => part.pipe.next().await,
            Now::Nothing => None,
        }
    }

    /// Goes on with what comes after what was read; `None` at the end.
    async fn advance(&mut self) -> Option<Result<(), UpstreamError>> {
        if self.whole.size == Some(self.at) {
            return None;
        }
        let permit = match std::mem::replace(&mut self.now, Now::Nothing) {
            Now::Body(body) => body.ended().await,
            Now::Part(part, permit) => {
                if self.until == Some(self.at) {
                    part.ended();
                }
                permit
            }
            Now::Nothing => return None,
        };
        match self.ahead.as_mut().and_then(|ahead| ahead.queue.pop_front()) {
            Some(part) => {
                self.until = Some(part.end);
                (self.now, self.in_parts) = (Now::Part(part, permit), true);
                Some(Ok(()))
            }
            None => Some(self.rest(permit).await),
        }
    }

    /// Asks for what is left over one connection: all of it, or the next part, so long as more connections may be worth it soon.
    async fn rest(&mut self, permit: OwnedSemaphorePermit) -> Result<(), UpstreamError> {
        // Some give so much at a time and no more.
        let before = self.asked.replace(self.at);
        if before.is_some_and(|asked| self.at - asked < LEAST_AT_ONCE) {
            return Err(self.whole.source.upstream.sent_another_part());
        }
        let was_wanted = self.wanted_from.is_some_and(|wanted| wanted <= before.unwrap_or(self.from));
        let ahead = self.ahead.take();
        if was_wanted && ahead.as_ref().is_some_and(|ahead| ahead.pace.is_undecided()) {
            // A part was through before anything could be measured: there is nothing to gain.
            self.whole.source.upstream.is_best_at(0);
        }
        let ahead = ahead.filter(|ahead| !was_wanted && ahead.size - self.at > FIRST);
        let last = ahead.as_ref().map(|_| self.at + FIRST - 1);
        let Opened { end, body, is_filling, .. } = self.whole.rest(self.at, last, permit).await?;
        let answer = Answer { end, is_filling, asked: last };
        self.ahead = ahead.zip(answer.part()).map(|(ahead, next)| Ahead { next, ..ahead });
        self.until = answer.until(self.whole.size);
        (self.now, self.in_parts) = (Now::Body(body), true);
        Ok(())
    }

    /// Has parts fetched, and notes what they brought.
    fn go_ahead(&mut self) {
        let (Some(ahead), Some(_)) = (&mut self.ahead, self.wanted_from) else { return };
        let all = ahead.go_on(&self.whole) >= ahead.pace.connections();
        let open = ahead.queue.iter().all(|part| part.pipe.is_open());
        if let Some(best) = ahead.pace.came(self.whole.came.load(Ordering::Relaxed), all, open) {
            self.whole.source.upstream.is_best_at(best);
        }
    }
}
