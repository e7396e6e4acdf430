//! A client's cursor over a NAR: wherever its next chunk is, the reader gets it.
//!
//! Beside a running fill it reads the live edge and the window; behind the window, and for a stored NAR, it reads the
//! store, one chunk ahead of the client; a chunk that is nowhere is a hole, which it has filled. Each reader holds one
//! chunk and the one ahead, whatever the NAR's size, and waits for nobody but the bytes it needs.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::state::{Broken, Fill, Seen, Wanted, split};
use super::{FillFailure, Fills, Locate, Witness};
use crate::metrics::Place;
use crate::store::{BlobId, CHUNK, ChunkKey, Manifest};

/// A chunk that was filled again and is gone once more before its reader came by: so often is tried again.
const REFILLS: u32 = 4;

/// See the module.
pub struct Reader {
    fills: Fills,
    blob: BlobId,
    locate: Arc<dyn Locate>,
    source: From,
    start: u64,
    pos: u64,
    end: Option<u64>,
    /// The chunk in hand, beginning at `pos`.
    rest: Bytes,
    ahead: Option<(u32, JoinHandle<Option<(Bytes, Place)>>)>,
    witness: Arc<Witness>,
}

enum From {
    Fill(Wanted, watch::Receiver<()>),
    Store(Arc<Manifest>),
}

impl Reader {
    /// Reads `range` of a NAR whose manifest is complete.
    pub fn stored(
        fills: Fills,
        blob: BlobId,
        manifest: Arc<Manifest>,
        locate: Arc<dyn Locate>,
        range: Option<Range<u64>>,
    ) -> Self {
        let range = range.unwrap_or(0..manifest.size);
        Self::new(fills, blob, locate, From::Store(manifest), range.start, Some(range.end))
    }

    /// Reads `range` of a NAR that is being filled.
    pub fn following(fills: Fills, fill: Arc<Fill>, locate: Arc<dyn Locate>, range: Option<Range<u64>>) -> Self {
        let changed = fill.subscribe();
        let (start, end) = range.map_or((0, None), |range| (range.start, Some(range.end)));
        let blob = fill.blob();
        Self::new(fills, blob, locate, From::Fill(Wanted::new(fill), changed), start, end)
    }

    fn new(fills: Fills, blob: BlobId, locate: Arc<dyn Locate>, source: From, start: u64, end: Option<u64>) -> Self {
        let (rest, witness) = (Bytes::new(), Arc::default());
        Self { fills, blob, locate, source, start, pos: start, end, rest, ahead: None, witness }
    }

    /// Notes where the bytes come from.
    #[must_use]
    pub fn seen_by(mut self, witness: Arc<Witness>) -> Self {
        self.witness = witness;
        self
    }

    /// The bytes as a stream: pieces of at most a chunk, then the end, or an error after which nothing comes.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
        futures_util::stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
                Ok(None) => None,
                Err(broken) => {
                    reader.fills.inner.metrics.aborted.inc();
                    Some((Err(broken), None))
                }
            }
        })
    }

    /// The next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// The NAR cannot be had, or not proven: the response must be aborted, never ended (R8).
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if !self.rest.is_empty() {
                return Ok(Some(self.hand_out()));
            }
            if self.end.is_some_and(|end| self.pos >= end) {
                return Ok(None);
            }
            match &mut self.source {
                From::Store(manifest) => {
                    let manifest = Arc::clone(manifest);
                    self.rest = self.stored_at_pos(&manifest).await?;
                }
                From::Fill(fill, changed) => {
                    // Seen before the look, so that a change between the look and the wait is not lost.
                    changed.mark_unchanged();
                    match fill.fill().read(self.pos, self.start, self.end) {
                        Seen::Data(bytes) => self.rest = bytes,
                        Seen::End => return Ok(None),
                        Seen::Failed(broken) => return Err(broken),
                        Seen::Wait => {
                            // The sender lives in the fill, which this reader holds.
                            let _ = changed.changed().await;
                        }
                        Seen::Behind(digest) => {
                            let fill = Arc::clone(fill.fill());
                            self.rest = self.behind(&fill, &digest).await?;
                        }
                    }
                }
            }
        }
    }

    /// Hands out what is in hand, cut at the end of the range.
    fn hand_out(&mut self) -> Bytes {
        let mut bytes = std::mem::take(&mut self.rest);
        if let Some(end) = self.end {
            bytes.truncate(usize::try_from(end - self.pos).unwrap_or(usize::MAX));
        }
        self.pos += bytes.len() as u64;
        bytes
    }

    /// A chunk that the fill has left behind.
    async fn behind(&mut self, fill: &Fill, digest: &[u8; 16]) -> Result<Bytes, Broken> {
        if let Some(manifest) = fill.manifest() {
            return self.follow_store(manifest).await;
        }
        let (index, at) = split(self.pos);
        let key = ChunkKey { blob: self.blob, index };
        match self.fills.inner.store.chunk_from(key, digest).await {
            Some((chunk, place)) if chunk.len() == CHUNK => {
                self.witness.read_from(place);
                Ok(chunk.slice(at..))
            }
            _ => {
                // It left the memory tier and no disk tier had it. The fill will end soon, well or badly; only then is
                // there a manifest to fill a hole against.
                let mut changed = fill.subscribe();
                loop {
                    changed.mark_unchanged();
                    if let Some(manifest) = fill.manifest() {
                        return self.follow_store(manifest).await;
                    }
                    if let Some(broken) = fill.failure() {
                        return Err(broken);
                    }
                    let _ = changed.changed().await;
                }
            }
        }
    }

    /// Leaves the fill for the store, which knows nothing of an end unless the reader does.
    async fn follow_store(&mut self, manifest: Arc<Manifest>) -> Result<Bytes, Broken> {
        self.witness.sent_by(sender(&self.source));
        self.source = From::Store(Arc::clone(&manifest));
        self.end.get_or_insert(manifest.size);
        self.stored_at_pos(&manifest).await
    }

    /// The rest of the chunk at `pos` from the store, or from a refill.
    async fn stored_at_pos(&mut self, manifest: &Arc<Manifest>) -> Result<Bytes, Broken> {
        let (index, at) = split(self.pos);
        let chunk = match self.stored_chunk(manifest, index).await {
            Some(chunk) => chunk,
            None => self.refilled(manifest, index).await?,
        };
        self.look_ahead(manifest, index + 1);
        Ok(chunk.slice(at..))
    }

    async fn stored_chunk(&mut self, manifest: &Manifest, index: u32) -> Option<Bytes> {
        let mut found = match self.ahead.take() {
            Some((ahead, task)) if ahead == index => task.await.ok().flatten(),
            _ => None,
        };
        if found.is_none() {
            // Also when nothing was there ahead of time: a refill may have brought it since.
            let digest = manifest.digests.get(index as usize)?;
            found = self.fills.inner.store.chunk_from(ChunkKey { blob: self.blob, index }, digest).await;
        }
        let (chunk, place) = found.filter(|(chunk, _)| chunk.len() == manifest.chunk_len(index))?;
        self.witness.read_from(place);
        Some(chunk)
    }

    /// Starts reading a chunk that is not in memory, while the client takes the one before.
    fn look_ahead(&mut self, manifest: &Manifest, index: u32) {
        let begins = u64::from(index) * CHUNK as u64;
        if index >= manifest.chunks() || self.end.is_some_and(|end| begins >= end) {
            return;
        }
        let key = ChunkKey { blob: self.blob, index };
        let store = self.fills.inner.store.clone();
        if let Some(digest) = manifest.digests.get(index as usize).copied() {
            self.ahead = Some((index, tokio::spawn(async move { store.chunk_from(key, &digest).await })));
        }
    }

    async fn refilled(&self, manifest: &Arc<Manifest>, index: u32) -> Result<Bytes, Broken> {
        let end = self.end.unwrap_or(manifest.size).clamp(1, manifest.size);
        let (last, _) = split(end - 1);
        for _ in 0..REFILLS {
            let fill = self.fills.refill(manifest, self.blob, index..=last, &self.locate, self.witness.trace());
            let mut changed = fill.subscribe();
            let begins = u64::from(index) * CHUNK as u64;
            loop {
                changed.mark_unchanged();
                match fill.read(begins, begins, Some(manifest.size)) {
                    Seen::Data(chunk) => {
                        self.witness.sent_by(fill.sender());
                        return Ok(chunk);
                    }
                    Seen::Failed(broken) => return Err(broken),
                    Seen::Wait => {
                        let _ = changed.changed().await;
                    }
                    Seen::Behind(digest) => {
                        if let Some(chunk) =
                            self.fills.inner.store.chunk(ChunkKey { blob: self.blob, index }, &digest).await
                        {
                            self.witness.sent_by(fill.sender());
                            return Ok(chunk);
                        }
                        break;
                    }
                    Seen::End => break,
                }
            }
        }
        Err(Broken::new(
            FillFailure::Internal,
            format!("chunk {index} was filled again {REFILLS} times and is gone each time"),
        ))
    }
}

/// Who sends what is read beside a fill.
fn sender(source: &From) -> Option<Arc<str>> {
    match source {
        From::Fill(fill, _) => fill.fill().sender(),
        From::Store(_) => None,
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.witness.sent_by(sender(&self.source));
        if let Some((_, task)) = self.ahead.take() {
            task.abort();
        }
    }
}
