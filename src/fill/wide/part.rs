//! One part: fetched over a connection of its own, by a task of its own, into memory, until it is its turn to be read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use super::Parts;
use super::pipe::{Feed, Pipe, pipe};
use crate::fill::Source;
use crate::upstream::{Body, Opened, Said, UpstreamError};

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

    /// The rest of it, over one connection.
    pub(super) async fn rest(&self, from: u64) -> Result<Body, UpstreamError> {
        self.belongs(from, self.source.upstream.open(&self.source.target, from, None).await?)
    }

    /// What was answered, if it is of this body as far as one can tell.
    fn belongs(&self, from: u64, said: Said<Opened>) -> Result<Body, UpstreamError> {
        let total = |opened: &Opened| opened.total.is_none() || opened.total == self.size;
        match said {
            Said::Have(opened) if opened.from == from && opened.validator == self.validator && total(&opened) => {
                Ok(opened.body)
            }
            _ => Err(self.source.upstream.sent_another_part()),
        }
    }
}

/// See the module.
pub(super) struct Part {
    pub(super) end: u64,
    pub(super) pipe: Pipe,
    /// Ends the fetching of it.
    _guard: DropGuard,
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
        Some(Self { end, pipe, _guard: stop.drop_guard(), _room: room })
    }
}

/// Fetches a part; where it breaks off, the rest of it once more.
async fn fetch(whole: Whole, part: Range<u64>, connection: OwnedSemaphorePermit, feed: Feed) {
    let (upstream, target, last) = (&whole.source.upstream, &whole.source.target, Some(part.end - 1));
    let mut at = part.start;
    let mut said = upstream.open_beside(connection, target, at, last).await;
    for is_last in [false, true] {
        // Its end would come with that of the whole.
        let waits = matches!(&said, Ok(Said::Have(opened)) if opened.is_filling);
        let broken = match said.and_then(|said| whole.belongs(at, said)) {
            Ok(body) if !waits => receive(&whole, body, &mut at, part.end, &feed).await.err(),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if at == part.end {
            return;
        }
        if is_last || waits {
            return feed.fail(broken.unwrap_or_else(|| upstream.sent_another_part()));
        }
        said = upstream.open(target, at, last).await;
    }
}

/// Hands on what comes, up to `end`.
async fn receive(whole: &Whole, mut body: Body, at: &mut u64, end: u64, feed: &Feed) -> Result<(), UpstreamError> {
    feed.open();
    // The end is waited for, so that the connection can be used again; but not for more than was asked for.
    while let Some(piece) = body.next().await {
        let mut piece: Bytes = piece?;
        let (came, room) = (piece.len(), end - *at);
        whole.count(came);
        piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        *at += piece.len() as u64;
        feed.push(piece);
        if came as u64 > room {
            break;
        }
    }
    Ok(())
}
