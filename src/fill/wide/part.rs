//! One part: fetched over a connection of its own, by a task of its own, into memory, until it is its turn to be read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::Parts;
use super::pipe::{Feed, Pipe, pipe};
use crate::fill::Source;
use crate::upstream::{Body, Opened, Said, UpstreamError};

/// Before a part that broke off is asked for once more.
const PAUSE: Duration = Duration::from_millis(100);

/// What all parts of a body have in common.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) source: Source,
    /// Its size, where that is announced.
    pub(super) size: Option<u64>,
    /// What the source calls these very bytes.
    pub(super) validator: Option<HeaderValue>,
    /// What came of it, over all connections.
    pub(super) came: Arc<AtomicU64>,
}

impl Whole {
    pub(super) fn count(&self, bytes: usize) {
        self.came.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What is left of it from there (up to `last`), or the beginning of that, over the connection that had it until now.
    pub(super) async fn rest(
        &self,
        from: u64,
        last: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Opened, UpstreamError> {
        let (upstream, target) = (&self.source.upstream, &self.source.target);
        match upstream.open_beside(permit, target, from, last).await? {
            // Its name for these bytes may be another one where several servers stand behind an address: the hash will tell.
            Said::Have(opened) if opened.from == from && self.is_of_its_size(&opened) => Ok(opened),
            _ => Err(upstream.sent_another_part()),
        }
    }

    /// The body of what was answered, if it is these bytes of this body as far as one can tell.
    fn part(&self, bytes: &Range<u64>, said: Said<Opened>) -> Result<Body, UpstreamError> {
        match said {
            Said::Have(opened)
                if opened.from == bytes.start
                    && opened.end == Some(bytes.end)
                    && opened.validator == self.validator
                    && self.is_of_its_size(&opened) =>
            {
                Ok(opened.body)
            }
            _ => Err(self.source.upstream.sent_another_part()),
        }
    }

    fn is_of_its_size(&self, opened: &Opened) -> bool {
        opened.total.is_none() || opened.total == self.size
    }
}

/// See the module.
pub(super) struct Part {
    pub(super) end: u64,
    pub(super) pipe: Pipe,
    /// Ends the fetching of it.
    guard: DropGuard,
    _room: OwnedSemaphorePermit,
}

impl Part {
    /// Has it fetched, if there is room for it and a connection to spare.
    pub(super) fn begin(parts: &Parts, whole: &Whole, bytes: Range<u64>) -> Option<Self> {
        let room = Arc::clone(&parts.room).try_acquire_owned().ok()?;
        // Taken before the task is begun, so that nothing that is asked for has to wait for others.
        let connection = whole.source.upstream.spare_connection()?;
        let ((feed, pipe), stop, end) = (pipe(), parts.stop.child_token(), bytes.end);
        let fetching = fetch(whole.clone(), bytes, connection, feed);
        parts.tasks.spawn(crate::trail::carry(stop.clone().run_until_cancelled_owned(fetching)));
        Some(Self { end, pipe, guard: stop.drop_guard(), _room: room })
    }

    /// All of it was read: who fetched it ends by himself, in a moment.
    pub(super) fn ended(self) {
        self.guard.disarm();
    }
}

/// Fetches a part; where it breaks off in the middle, the rest of it once more, if there is a connection to spare for that too.
async fn fetch(whole: Whole, mut part: Range<u64>, connection: OwnedSemaphorePermit, feed: Feed) {
    let upstream = &whole.source.upstream;
    let begun = part.start;
    let Err(mut broken) = receive(&whole, &mut part, connection, &feed).await else { return };
    if part.start > begun && upstream.may_be_asked_again() {
        sleep(PAUSE).await;
        if let Some(connection) = upstream.spare_connection() {
            match receive(&whole, &mut part, connection, &feed).await {
                Ok(()) => return upstream.asked_again_well(),
                Err(again) => broken = again,
            }
        }
    }
    // Whoever refuses so many connections must not be asked for them with each body.
    upstream.is_best_at(0);
    feed.fail(broken);
}

/// Hands on what comes of it; what is left to come is then in `part`.
async fn receive(
    whole: &Whole,
    part: &mut Range<u64>,
    connection: OwnedSemaphorePermit,
    feed: &Feed,
) -> Result<(), UpstreamError> {
    let (upstream, target) = (&whole.source.upstream, &whole.source.target);
    let said = upstream.open_beside(connection, target, part.start, Some(part.end - 1)).await?;
    // Its end would come with that of the whole.
    let waits = matches!(&said, Said::Have(opened) if opened.is_filling);
    let mut body = whole.part(part, said)?;
    if waits {
        return Err(upstream.sent_another_part());
    }
    feed.open();
    while !part.is_empty() {
        let Some(piece) = body.next().await else { return Err(upstream.sent_another_part()) };
        let mut piece: Bytes = piece?;
        whole.count(piece.len());
        piece.truncate(usize::try_from(part.end - part.start).unwrap_or(usize::MAX));
        part.start += piece.len() as u64;
        feed.push(piece);
    }
    drop(body.ended().await);
    Ok(())
}
