//! From the task that fetches a part to who reads it: what came and was not read yet.
//!
//! It holds as many bytes as the part has, in a few dozen pieces, however small or large those are in which it comes. They are
//! gathered while nobody takes them; who waits for them gets each at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::upstream::UpstreamError;

/// What comes is copied into pieces of this size: it may be slices of larger buffers, which would be kept for as long.
const PIECE: usize = 64 << 10;

/// The two ends.
pub(super) fn pipe() -> (Feed, Pipe) {
    let shared = Arc::new(Shared::default());
    (Feed(Arc::clone(&shared)), Pipe(shared))
}

/// The end of who fetches.
pub(super) struct Feed(Arc<Shared>);

/// The end of who reads.
pub(super) struct Pipe(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    /// What was gathered after them.
    tail: BytesMut,
    is_open: bool,
    is_over: bool,
    error: Option<UpstreamError>,
}

impl Feed {
    /// The part is answered.
    pub(super) fn open(&self) {
        self.0.lock().is_open = true;
    }

    /// These bytes came.
    pub(super) fn push(&self, bytes: Bytes) {
        self.0.lock().push(bytes);
        self.0.changed.notify_one();
    }

    /// No more will come, for this reason.
    pub(super) fn fail(&self, error: UpstreamError) {
        self.0.lock().error = Some(error);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_one();
    }
}

impl Pipe {
    /// The next bytes; `None` after the last ones, or when whoever fetched them is gone.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(piece) = state.take() {
                    return Some(Ok(piece));
                }
                if state.is_over {
                    return state.error.take().map(Err);
                }
            }
            // What is told between the look and this is kept for it.
            self.0.changed.notified().await;
        }
    }

    /// Whether more of the part is on its way.
    pub(super) fn is_running(&self) -> bool {
        !self.0.lock().is_over
    }

    /// Whether it came to nothing.
    pub(super) fn has_failed(&self) -> bool {
        self.0.lock().error.is_some()
    }

    /// Whether the part is answered, and has not failed.
    pub(super) fn is_open(&self) -> bool {
        let state = self.0.lock();
        state.is_open && state.error.is_none()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let room = PIECE - self.tail.len();
            if self.tail.capacity() == 0 {
                self.tail = BytesMut::with_capacity(PIECE);
            }
            self.tail.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.tail.len() == PIECE {
                self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| (!self.tail.is_empty()).then(|| self.tail.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tiny_pieces_are_gathered_while_nobody_reads_and_none_waits_for_more() {
        let body: Bytes = (0..400_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        for step in [1, 3, 1000, PIECE - 1, PIECE, PIECE + 1, 200_000] {
            let (feed, mut pipe) = pipe();
            assert!(!pipe.is_open());
            feed.open();
            let (at_once, gathered) = body.split_at(10);
            feed.push(Bytes::copy_from_slice(at_once));
            let mut read = pipe.next().await.unwrap().unwrap().to_vec();
            assert!(read == at_once && pipe.is_open());
            for piece in gathered.chunks(step) {
                feed.push(Bytes::copy_from_slice(piece));
            }
            let held = pipe.0.lock().pieces.len();
            assert!(held <= 2 * (body.len() / PIECE + 1), "{held} pieces of {step}");
            drop(feed);
            while let Some(piece) = pipe.next().await {
                read.extend_from_slice(&piece.unwrap());
            }
            assert!(read == body, "pieces of {step}");
        }
    }
}
