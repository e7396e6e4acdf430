//! One path into the library: the NAR, and when it is there, the narinfo.
//!
//! What is there already is left, after a look that costs less than to send it. A NAR is sent whole up to [`PART`], above that
//! in parts, so no more than one part of it is in memory.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Holding, Inner, PAUSE, TRIES, Task};
use crate::metrics::{Dropped, Written, WrittenAs};
use crate::nix::cache_info;
use crate::nix::narinfo::MAX_LEN;
use crate::nix::store_path::HashPart;
use crate::store::{CHUNK, ChunkKey, Peeked};
use crate::upstream::{Asked, Kind, Put, Said, Upstream, UpstreamError};

/// How much of a NAR is sent at a time: 8 MiB. Buckets want 5 MiB at least, and take ten thousand parts.
const PART: usize = 8 << 20;

/// Why a path was not written.
enum Unwritten {
    /// A part of it is not here any more.
    Hole,
    /// The library did not take it.
    Failed(UpstreamError),
}

impl From<UpstreamError> for Unwritten {
    fn from(error: UpstreamError) -> Self {
        Self::Failed(error)
    }
}

/// Writes what the task says, in several tries.
pub(super) async fn task(library: &Arc<Inner>, task: &Task) {
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        let error = match attempt(library, task).await {
            Ok(_) => return,
            Err(Unwritten::Hole) => return library.metrics.dropped.of(Dropped::Hole).inc(),
            Err(Unwritten::Failed(error)) => error,
        };
        if left == 0 {
            library.metrics.dropped.of(Dropped::Failed).inc();
            match task.path {
                Some(path) => tracing::warn!(key = %path, "not written into the library: {error}"),
                None => tracing::warn!("the library cannot be written to: {error}"),
            }
            return;
        }
        tracing::debug!("not written into the library yet: {error}");
        tokio::time::sleep(pause).await;
        pause *= 4;
    }
}

/// The same, once, with why not.
pub(super) async fn once(library: &Arc<Inner>, task: &Task) -> Result<bool, String> {
    attempt(library, task).await.map_err(|unwritten| match unwritten {
        Unwritten::Hole => "a part of its NAR is not here any more".to_owned(),
        Unwritten::Failed(error) => error.to_string(),
    })
}

/// Whether there is anything to be there.
async fn attempt(library: &Arc<Inner>, task: &Task) -> Result<bool, Unwritten> {
    prepare(library, task).await?;
    let Some(hash) = task.path else { return Ok(true) };
    let Some(holding) = task.holder.holding(hash).await else { return Ok(false) };
    let writing = Writing { library, to: &task.to, hash, doubted: library.is_doubted(hash) };
    writing.nar(&holding).await?;
    writing.narinfo(task, &holding).await?;
    if writing.doubted {
        library.settle(hash);
    }
    Ok(true)
}

/// Has the library say what it is, once.
async fn prepare(library: &Inner, task: &Task) -> Result<(), UpstreamError> {
    let mut prepared = library.prepared.lock().await;
    if prepared.as_ref().is_some_and(|prepared| Arc::ptr_eq(prepared, &task.to)) {
        return Ok(());
    }
    // A directory without one cannot even tell that it has none.
    let there = matches!(task.to.small(cache_info::NAME, cache_info::MAX_LEN).await, Ok(Said::Have(_)));
    if !there {
        let text = task.holder.cache_info();
        let put = task.to.put(Kind::Info, cache_info::NAME, text.clone(), false).await?;
        library.note(Written::Info, put, false, text.len());
    }
    *prepared = Some(Arc::clone(&task.to));
    Ok(())
}

impl Inner {
    fn note(&self, kind: Written, put: Put, replace: bool, bytes: usize) {
        let end = match put {
            Put::There => WrittenAs::There,
            Put::Written if replace => WrittenAs::Replaced,
            Put::Written => WrittenAs::Created,
        };
        self.metrics.writes.of(kind, end).inc();
        if put == Put::Written {
            self.metrics.bytes.inc_by(bytes as u64);
        }
    }
}

/// One path on its way.
struct Writing<'a> {
    library: &'a Inner,
    to: &'a Arc<Upstream>,
    hash: HashPart,
    /// Whether what is there is known to be wrong.
    doubted: bool,
}

impl Writing<'_> {
    async fn nar(&self, holding: &Holding) -> Result<(), Unwritten> {
        let size = holding.manifest.size;
        let found = self.to.size_of(&holding.nar).await?;
        if found == Some(size) && !self.doubted {
            self.library.note(Written::Nar, Put::There, false, 0);
            return Ok(());
        }
        // One of another size is cut, or something else.
        let replace = self.doubted || found.is_some();
        let mut reading = Reading { holding, next: 0 };
        let first = reading.part().await?;
        let put = if reading.is_over() {
            self.to.put(Kind::Nar, &holding.nar, first, replace).await?
        } else {
            self.in_parts(first, reading).await?;
            Put::Written
        };
        self.library.note(Written::Nar, put, replace && found.is_some(), usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }

    async fn in_parts(&self, first: Bytes, mut reading: Reading<'_>) -> Result<(), Unwritten> {
        let mut upload = self.to.begin(Kind::Nar, &reading.holding.nar).await?;
        let mut part = first;
        loop {
            if let Err(error) = upload.part(part).await {
                upload.give_up().await;
                return Err(error.into());
            }
            if reading.is_over() {
                return Ok(upload.finish().await?);
            }
            part = match reading.part().await {
                Ok(part) => part,
                Err(hole) => {
                    upload.give_up().await;
                    return Err(hole);
                }
            };
        }
    }

    async fn narinfo(&self, task: &Task, holding: &Holding) -> Result<(), UpstreamError> {
        let (key, text) = (format!("{}.narinfo", self.hash), holding.narinfo.clone());
        let replace = match self.to.narinfo(&key, MAX_LEN).await? {
            Said::HaveNot => false,
            Said::Have(Asked::TooLong(_)) => true,
            Said::Have(Asked::Whole { body, .. }) => {
                if body == text || task.holder.may_stay(self.hash, &body, holding, self.doubted) {
                    self.library.note(Written::NarInfo, Put::There, false, 0);
                    return Ok(());
                }
                true
            }
        };
        let length = text.len();
        let put = self.to.put(Kind::NarInfo, &key, text, replace).await?;
        self.library.note(Written::NarInfo, put, replace, length);
        Ok(())
    }
}

/// A NAR that is read from the store. Looked at only: that it is written does not mean that anybody wants it.
struct Reading<'a> {
    holding: &'a Holding,
    next: u32,
}

impl Reading<'_> {
    fn is_over(&self) -> bool {
        self.next >= self.holding.manifest.chunks()
    }

    /// The next [`PART`] bytes, rounded up to a chunk, or what is left.
    async fn part(&mut self) -> Result<Bytes, Unwritten> {
        let Holding { manifest, store, .. } = self.holding;
        let left = manifest.size.saturating_sub(u64::from(self.next) * CHUNK as u64);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(PART + CHUNK);
        let mut part = BytesMut::with_capacity(most);
        while part.len() < PART
            && let Some(digest) = manifest.digests.get(self.next as usize)
        {
            let key = ChunkKey { blob: manifest.blob, index: self.next };
            let Peeked::Right(chunk) = store.peek_chunk(key, digest).await else { return Err(Unwritten::Hole) };
            part.extend_from_slice(&chunk);
            self.next += 1;
        }
        Ok(part.freeze())
    }
}
