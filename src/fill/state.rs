//! What a fill and its readers share: how far it is, the bytes at hand, how it ended.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::FillFailure;
use super::live::Live;
use crate::metrics::Refusal;
use crate::store::geometry::chunk_at;
use crate::store::{BlobId, CHUNK, Manifest};

/// Complete chunks a fill keeps for readers close behind it.
pub(super) const WINDOW: usize = 8;

/// R9: so many bytes at the end of a response, or all of a response up to [`HOLD_WHOLE`], wait for the verification.
pub(super) const HOLD: u64 = 64 * 1024;
/// See [`HOLD`].
pub(super) const HOLD_WHOLE: u64 = 1024 * 1024;

/// Why a reader cannot go on. Shown to nobody but the log: the response is aborted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Broken {
    /// What kind of failure.
    pub reason: FillFailure,
    /// Why the bytes were refused, where they were.
    pub refusal: Option<Refusal>,
    /// Which upstream, what it did.
    pub text: Arc<str>,
}

impl Broken {
    /// A failure, with which upstream did what.
    pub fn new(reason: FillFailure, text: impl Into<Arc<str>>) -> Self {
        Self { reason, refusal: None, text: text.into() }
    }

    /// Bytes that are not what was announced: asked for again they would be as wrong.
    pub fn refused(refusal: Refusal, text: impl Into<Arc<str>>) -> Self {
        Self { reason: FillFailure::Refused, refusal: Some(refusal), text: text.into() }
    }
}

/// What is known when a response can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Size of the whole body in bytes; `None` when neither narinfo nor upstream told it.
    pub size: Option<u64>,
}

/// One running fill.
#[derive(Debug)]
pub struct Fill {
    blob: BlobId,
    kind: Kind,
    /// Whether all of it waits for the verification, not only its end.
    held: AtomicBool,
    state: Mutex<State>,
    /// Sends after every change of the state.
    changed: watch::Sender<()>,
    /// Its task is over.
    over: CancellationToken,
    /// Who waits for it or reads along.
    readers: AtomicUsize,
    /// Whether the store has a note of how far it is.
    noted: AtomicBool,
    /// Whether it was begun before anybody asked for it.
    ahead: bool,
    /// Whether it ends as long as nobody has wanted it, for one that somebody waits for.
    makes_way: AtomicBool,
    /// Whether anybody has wanted it: who leaves changes nothing (R28).
    joined: AtomicBool,
    begun: Instant,
}

/// Somebody who wants a fill's bytes, as long as it lives.
#[derive(Debug)]
pub(super) struct Wanted(Arc<Fill>);

impl Wanted {
    pub(super) fn new(fill: Arc<Fill>) -> Self {
        fill.joined.store(true, Ordering::Relaxed);
        fill.readers.fetch_add(1, Ordering::Relaxed);
        Self(fill)
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.0
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Kind {
    Whole,
    Hole(Arc<Manifest>),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    size: Option<u64>,
    /// The chunks this fill is for; a whole fill's end is not known before its size is.
    wanted: Range<u32>,
    /// The last complete chunks, oldest first.
    window: VecDeque<(u32, Bytes)>,
    /// Complete chunks so far: all before this one went to the store.
    next: u32,
    /// Who sends it, the last one of several.
    sender: Option<Arc<str>>,
    /// Digests of a whole fill's complete chunks.
    digests: Vec<[u8; 16]>,
    live: Live,
}

#[derive(Debug, Clone)]
enum Phase {
    /// No source has answered yet.
    Opening,
    Streaming,
    /// Size and hash fit.
    Verified(Arc<Manifest>),
    Failed(Broken),
}

/// What a reader finds at its position.
#[derive(Debug)]
pub(super) enum Seen {
    /// Bytes from the position on.
    Data(Bytes),
    /// Nothing yet: wait for a change.
    Wait,
    /// The fill is past this chunk: ask the store. The digest to hold it against.
    Behind([u8; 16]),
    /// The whole body has been read.
    End,
    Failed(Broken),
}

impl Fill {
    pub(super) fn whole(blob: BlobId, size: Option<u64>, held: bool) -> Self {
        Self { held: AtomicBool::new(held), ..Self::new(blob, Kind::Whole, size, 0..u32::MAX) }
    }

    /// The same, which nobody has asked for.
    pub(super) fn ahead(blob: BlobId, size: Option<u64>, held: bool) -> Self {
        Self { ahead: true, ..Self::whole(blob, size, held) }
    }

    pub(super) fn hole(blob: BlobId, manifest: Arc<Manifest>, wanted: Range<u32>) -> Self {
        let size = manifest.size;
        Self::new(blob, Kind::Hole(manifest), Some(size), wanted)
    }

    fn new(blob: BlobId, kind: Kind, size: Option<u64>, wanted: Range<u32>) -> Self {
        let next = wanted.start;
        let state = State {
            phase: Phase::Opening,
            size,
            wanted,
            window: VecDeque::with_capacity(WINDOW),
            next,
            sender: None,
            digests: Vec::new(),
            live: Live::default(),
        };
        Self {
            blob,
            kind,
            held: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            over: CancellationToken::new(),
            readers: AtomicUsize::new(0),
            noted: AtomicBool::new(false),
            ahead: false,
            makes_way: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            begun: Instant::now(),
        }
    }

    /// How long ago it was asked for first.
    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Bytes of the body, where they are known.
    pub(super) fn size(&self) -> Option<u64> {
        self.lock().size
    }

    /// How many wait for it or read along.
    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// The NAR being filled.
    pub fn blob(&self) -> BlobId {
        self.blob
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Whole)
    }

    pub(super) fn manifest_of_hole(&self) -> Option<&Arc<Manifest>> {
        match &self.kind {
            Kind::Hole(manifest) => Some(manifest),
            Kind::Whole => None,
        }
    }

    /// Waits until a response can begin: the size is known to be that of a large NAR and bytes are coming, or, for a
    /// NAR small enough to be held back whole (R9), until it is verified, so that a bad one is an error and not an abort.
    ///
    /// # Errors
    /// The fill ended before that.
    pub async fn ready(self: &Arc<Self>) -> Result<Ready, Broken> {
        let _wanted = Wanted::new(Arc::clone(self));
        let mut changed = self.changed.subscribe();
        loop {
            {
                let state = self.lock();
                match &state.phase {
                    Phase::Failed(broken) => return Err(broken.clone()),
                    Phase::Verified(manifest) => return Ok(Ready { size: Some(manifest.size) }),
                    Phase::Streaming if !self.is_held() && state.size.is_none_or(|size| size > HOLD_WHOLE) => {
                        return Ok(Ready { size: state.size });
                    }
                    Phase::Streaming | Phase::Opening => {}
                }
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changed.changed().await;
        }
    }

    /// Whether nothing of it leaves before all of it is verified.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// From the next source's answer on nothing of it leaves before all of it is verified: what came before is doubted.
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Waits until all of it is verified, and the store has it as far as it takes it.
    ///
    /// # Errors
    /// The fill ended otherwise.
    pub async fn kept(self: &Arc<Self>) -> Result<Arc<Manifest>, Broken> {
        let manifest = self.done().await?;
        self.over.cancelled().await;
        Ok(manifest)
    }

    /// Its task is over: what was to be kept is kept.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Waits until all of it is verified.
    ///
    /// # Errors
    /// The fill ended otherwise.
    pub async fn done(self: &Arc<Self>) -> Result<Arc<Manifest>, Broken> {
        let wanted = Wanted::new(Arc::clone(self));
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(manifest) = wanted.fill().manifest() {
                return Ok(manifest);
            }
            if let Some(broken) = wanted.fill().failure() {
                return Err(broken);
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    /// Waits until it ends, without wanting it; whether all of it is here.
    pub async fn ended(self: &Arc<Self>) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.manifest().is_some() {
                return true;
            }
            if self.failure().is_some() {
                return false;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    /// Whether it ended because nobody wanted it.
    pub fn was_abandoned(&self) -> bool {
        self.failure().is_some_and(|broken| broken.reason == FillFailure::Abandoned)
    }

    /// Bytes that came so far.
    pub fn brought(&self) -> u64 {
        let state = self.lock();
        match &state.phase {
            Phase::Verified(manifest) => manifest.size,
            _ => state.received(),
        }
    }

    /// Whether it was begun before anybody asked for it.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Has it end at its next bytes if nobody has wanted it by then; false where that was said already, or somebody has.
    pub(super) fn make_way(&self) -> bool {
        self.is_for_nobody() && !self.makes_way.swap(true, Ordering::Relaxed)
    }

    /// Whether it was begun before anybody asked for it, and nobody has since.
    pub(super) fn is_for_nobody(&self) -> bool {
        self.ahead && !self.joined.load(Ordering::Relaxed)
    }

    /// Whether it is to end now.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.makes_way.load(Ordering::Relaxed) && self.is_for_nobody()
    }

    /// How it failed, if it did.
    pub(super) fn failure(&self) -> Option<Broken> {
        match &self.lock().phase {
            Phase::Failed(broken) => Some(broken.clone()),
            _ => None,
        }
    }

    /// An upstream begins to send.
    pub(super) fn is_sent_by(&self, upstream: &Arc<str>) {
        self.lock().sender = Some(Arc::clone(upstream));
    }

    /// The upstream that sends it, or sent the end of it.
    pub fn sender(&self) -> Option<Arc<str>> {
        self.lock().sender.clone()
    }

    /// The chunks a hole fill is for.
    pub(super) fn wanted(&self) -> Range<u32> {
        self.lock().wanted.clone()
    }

    /// A receiver that is told of every change from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether anybody waits for it or reads along.
    pub(super) fn is_wanted(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// The manifest, once everything is verified.
    pub(super) fn manifest(&self) -> Option<Arc<Manifest>> {
        match &self.lock().phase {
            Phase::Verified(manifest) => Some(Arc::clone(manifest)),
            _ => None,
        }
    }

    /// Whether a running hole fill still has chunk `index` before it or in its window.
    pub(super) fn will_bring(&self, index: u32) -> bool {
        let state = self.lock();
        let oldest = state.window.front().map_or(state.next, |(n, _)| *n);
        !matches!(state.phase, Phase::Failed(_)) && index >= oldest && state.wanted.contains(&index)
    }

    /// What there is at `pos` for a response that began at `start` and ends before `end` (`None`: at the body's end).
    pub(super) fn read(&self, pos: u64, start: u64, end: Option<u64>) -> Seen {
        let state = self.lock();
        let end = end.or(state.size);
        if end.is_some_and(|end| pos >= end) {
            return Seen::End;
        }
        let allowed = match (&state.phase, &self.kind) {
            // Chunks of a hole are checked one by one, so what is there may leave.
            (_, Kind::Hole(_)) | (Phase::Verified(_), Kind::Whole) => end.unwrap_or(u64::MAX),
            (_, Kind::Whole) if self.is_held() => start,
            (_, Kind::Whole) => held_back(start, end, state.received()),
        };
        if pos < allowed
            && let Some(data) = state.data(pos, allowed)
        {
            return Seen::Data(data);
        }
        let (index, _) = split(pos);
        if pos < allowed && index < state.next {
            return match &self.kind {
                Kind::Hole(manifest) => Seen::Behind(digest_of(&manifest.digests, index)),
                Kind::Whole => Seen::Behind(digest_of(&state.digests, index)),
            };
        }
        match (&state.phase, &self.kind) {
            (Phase::Failed(broken), _) => Seen::Failed(broken.clone()),
            (Phase::Verified(manifest), _) if pos >= manifest.size => Seen::End,
            // The NAR was stored already when the task looked, so nothing passes by here.
            (Phase::Verified(manifest), Kind::Whole) => Seen::Behind(digest_of(&manifest.digests, index)),
            _ => Seen::Wait,
        }
    }

    // What follows is called by the fill's task only.

    /// A source answered; `size` is the whole body's when it is known.
    pub(super) fn begin(&self, size: Option<u64>) {
        let mut state = self.lock();
        state.phase = Phase::Streaming;
        state.size = size;
        self.tell(state);
    }

    /// Bytes of the body that came so far.
    pub(super) fn received(&self) -> u64 {
        self.lock().received()
    }

    /// Whether a source has answered since the last (re)start.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.lock().phase, Phase::Streaming)
    }

    /// Whether readers may have some of what came.
    pub(super) fn may_have_left(&self) -> bool {
        let state = self.lock();
        !self.is_held() && state.received() > 0 && state.size.map_or(state.received() > HOLD, |size| size > HOLD_WHOLE)
    }

    /// Forgets what came from a source that failed, while nothing of it had left: the next source starts from scratch.
    /// False when readers may have seen some of it, or its size, which another source need not have (`planned`: they all
    /// must have it).
    pub(super) fn restart(&self, planned: bool) -> bool {
        let mut state = self.lock();
        let seen = match state.size {
            _ if self.is_held() => false,
            Some(size) => size > HOLD_WHOLE && (state.received() > 0 || !planned),
            None => state.received() > HOLD,
        };
        if seen {
            return false;
        }
        state.phase = Phase::Opening;
        state.window.clear();
        state.digests.clear();
        state.next = 0;
        state.live = Live::default();
        self.tell(state);
        true
    }

    /// Adds bytes at the live edge, at most up to the end of the chunk being built.
    pub(super) fn push(&self, bytes: Bytes) {
        let mut state = self.lock();
        state.live.push(bytes);
        self.tell(state);
    }

    /// Bytes missing in the chunk being built.
    pub(super) fn room(&self) -> usize {
        CHUNK - self.lock().live.len()
    }

    /// Completes the chunk being built: it moves to the window, and is returned with its number and digest.
    /// `None` when nothing was being built.
    pub(super) fn complete_live(&self) -> Option<(u32, Bytes, [u8; 16])> {
        let mut state = self.lock();
        if state.live.len() == 0 {
            return None;
        }
        let chunk = state.live.take();
        let index = state.next;
        let digest = Manifest::digest(&chunk);
        state.digests.push(digest);
        state.keep(index, chunk.clone());
        self.tell(state);
        Some((index, chunk, digest))
    }

    /// Chunk `index` of a hole, checked against the manifest.
    pub(super) fn checked_chunk(&self, index: u32, chunk: Bytes) {
        let mut state = self.lock();
        state.keep(index, chunk);
        self.tell(state);
    }

    /// A hole fill whose upstream sends everything goes on to the end.
    pub(super) fn widen(&self, wanted: Range<u32>) {
        let mut state = self.lock();
        state.next = wanted.start;
        state.wanted = wanted;
        self.tell(state);
    }

    /// Sets whether the store has a note of how far it is; whether it had one.
    pub(super) fn noted(&self, now: bool) -> bool {
        self.noted.swap(now, Ordering::Relaxed)
    }

    /// How many chunks are complete.
    pub(super) fn chunks_done(&self) -> usize {
        self.lock().digests.len()
    }

    /// Digests of the complete chunks, for the manifest.
    pub(super) fn digests(&self) -> Vec<[u8; 16]> {
        self.lock().digests.clone()
    }

    pub(super) fn verified(&self, manifest: Arc<Manifest>) {
        let mut state = self.lock();
        state.size = Some(manifest.size);
        state.phase = Phase::Verified(manifest);
        self.tell(state);
    }

    pub(super) fn fail(&self, broken: Broken) {
        let mut state = self.lock();
        state.phase = Phase::Failed(broken);
        self.tell(state);
    }

    /// The task is gone: a fill that had not ended is broken, so that nobody waits for ever (R35).
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Opening | Phase::Streaming) {
            state.phase = Phase::Failed(Broken::new(FillFailure::Internal, "the fill's task died"));
        }
        self.tell(state);
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Bytes received so far, counted from the beginning of the body.
    fn received(&self) -> u64 {
        u64::from(self.next) * CHUNK as u64 + self.live.len() as u64
    }

    fn keep(&mut self, index: u32, chunk: Bytes) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back((index, chunk));
        self.next = index + 1;
    }

    /// Bytes at `pos`, up to `allowed`, from the window or the live edge.
    fn data(&self, pos: u64, allowed: u64) -> Option<Bytes> {
        let (index, at) = split(pos);
        let bytes = if let Some((_, chunk)) = self.window.iter().find(|(n, _)| *n == index) {
            chunk.get(at..).filter(|rest| !rest.is_empty()).map(|_| chunk.slice(at..))?
        } else if index == self.next && at < self.live.len() {
            self.live.at(at)
        } else {
            return None;
        };
        let allowed = usize::try_from(allowed - pos).unwrap_or(usize::MAX);
        Some(if bytes.len() > allowed { bytes.slice(..allowed) } else { bytes })
    }
}

/// The chunk in which a byte lies, and its place there; past the largest chunk number, which no NAR reaches, one that no
/// manifest has.
pub(super) fn split(pos: u64) -> (u32, usize) {
    chunk_at(pos).unwrap_or((u32::MAX, 0))
}

fn digest_of(digests: &[[u8; 16]], index: u32) -> [u8; 16] {
    // Only asked for chunks before `next`, whose digests are there; a digest of zeros would fit nothing.
    digests.get(index as usize).copied().unwrap_or_default()
}

/// Where a response over `start..end` of an unverified fill has to stop (R9): its last 64 KiB, or all of it when it is
/// short, wait. Where the end is not known, the last 64 KiB received wait.
fn held_back(start: u64, end: Option<u64>, received: u64) -> u64 {
    match end {
        Some(end) if end - start <= HOLD_WHOLE => start,
        Some(end) => received.min(end - HOLD),
        None => received.saturating_sub(HOLD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_response_waits_for_the_verification() {
        let mib = 1024 * 1024;
        assert_eq!(held_back(0, Some(mib), mib), 0, "a short response waits as a whole");
        assert_eq!(held_back(0, Some(4 * mib), mib), mib);
        assert_eq!(held_back(0, Some(4 * mib), 4 * mib), 4 * mib - HOLD);
        assert_eq!(held_back(3 * mib, Some(4 * mib), 4 * mib), 3 * mib, "so does a short range");
        assert_eq!(held_back(0, None, 10), 0);
        assert_eq!(held_back(0, None, HOLD + 10), 10);
    }
}
