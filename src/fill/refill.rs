//! Getting the chunks of a hole again: by range, or by skipping where an upstream knows no ranges.
//!
//! The manifest has a digest for each chunk, so each is checked by itself before a byte of it leaves or is stored, and
//! any source whose whole has the same hash will do. Chunks that come by on the way and are missing too are kept.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::state::{Broken, Fill};
use super::{FillFailure, Fills, Locate, Registered, Source};
use crate::metrics::Refusal;
use crate::store::{BlobId, CHUNK, ChunkKey, Manifest, Store};
use crate::upstream::{Opened, Said};

/// At most so many chunks (8 MiB) are asked for at once: about what a reader takes before it looks again.
const MOST: u32 = 32;

/// The last chunk of the hole that begins at `first`, at most `last` and at most [`MOST`] chunks long.
pub(super) fn extent(store: &Store, blob: BlobId, first: u32, last: u32) -> u32 {
    let last = last.min(first.saturating_add(MOST - 1));
    (first + 1..=last).take_while(|index| !store.has_chunk(ChunkKey { blob, index: *index })).last().unwrap_or(first)
}

pub(super) async fn run(fills: Fills, registered: Registered, locate: Arc<dyn Locate>) {
    let fill = Arc::clone(&registered.fill);
    let Some(manifest) = fill.manifest_of_hole().cloned() else { return };
    let Some(_place) = fills.place().await else {
        return registered.fail(Broken::new(FillFailure::Unknown, "too many NARs are fetched at once; try again"));
    };
    let mut asked = Vec::new();
    let mut refilled = refill_from_any(&fills, &fill, &manifest, &*locate, false, &mut asked).await;
    if let Err(first) = refilled {
        // Others may have it, who were not asked because one of these knew it.
        let second = refill_from_any(&fills, &fill, &manifest, &*locate, true, &mut asked).await;
        refilled = second.map_err(|second| graver(first, second));
    }
    match refilled {
        Ok(()) => {
            fill.verified(manifest);
            locate.filled();
        }
        Err(broken) => {
            // Whoever made the body anew under the same URL has other bytes; only a FileHash binds them.
            let made_anew = broken.refusal.is_some() && !is_named_by_its_bytes(&manifest);
            if broken.reason == FillFailure::Gone || made_anew {
                // It can never be whole again: who asks next is told so, or has it filled anew, before a response begins.
                fills.inner.store.remove_manifest(fill.blob());
            }
            fills.inner.metrics.failed.of(broken.reason).inc();
            registered.fail(broken);
        }
    }
}

/// Whether the body's name is the hash of its bytes, and not that of the NAR inside.
fn is_named_by_its_bytes(manifest: &Manifest) -> bool {
    manifest.blob == BlobId::new(&manifest.file_hash, manifest.compression)
}

/// What is told of two failures. "Gone" says least, as in a fill.
fn graver(first: Broken, second: Broken) -> Broken {
    if first.reason == FillFailure::Gone || second.reason != FillFailure::Gone { second } else { first }
}

/// From whoever of these has it and was not asked before.
async fn refill_from_any(
    fills: &Fills,
    fill: &Fill,
    manifest: &Manifest,
    locate: &dyn Locate,
    again: bool,
    asked: &mut Vec<Source>,
) -> Result<(), Broken> {
    let mut last = Broken::new(FillFailure::Gone, "no upstream has this NAR any more");
    for source in locate.sources(again).await? {
        if asked.iter().any(|known| known.is(&source)) {
            continue;
        }
        asked.push(source.clone());
        match refill_from(fills, fill, manifest, &source).await {
            Ok(()) => return Ok(()),
            Err(broken) => {
                tracing::warn!(upstream = %source.upstream.name(), outcome = %broken.reason, "hole not filled: {broken}");
                if let Some(refusal) = broken.refusal {
                    source.upstream.metrics().refused.of(refusal).inc();
                }
                if broken.refusal.is_some() || broken.reason == FillFailure::Gone {
                    locate.failed(&source, broken.refusal.is_some());
                }
                last = graver(last, broken);
            }
        }
    }
    Err(last)
}

async fn refill_from(fills: &Fills, fill: &Fill, manifest: &Manifest, source: &Source) -> Result<(), Broken> {
    let mut wanted = fill.wanted();
    let hole = wanted.start;
    let mut opened = open(source, manifest, &wanted).await?;
    if opened.total.is_some_and(|total| total != manifest.size) {
        let text = format!("upstream {} has another size for this NAR now", source.upstream.name());
        return Err(Broken::refused(Refusal::WrongSize, text));
    }
    if opened.from == 0 && wanted.start > 0 {
        // It sends everything: one pass then mends every hole there is.
        wanted = 0..manifest.chunks();
        fill.widen(wanted.clone());
    }
    fill.is_sent_by(source.upstream.name());
    let mut left_over = Bytes::new();
    for index in wanted {
        let len = manifest.chunk_len(index);
        let chunk = read_exactly(&mut opened, &mut left_over, len, source).await?;
        if !manifest.accepts(index, &chunk) {
            let text = format!("upstream {} sent other bytes than before for chunk {index}", source.upstream.name());
            return Err(Broken::refused(Refusal::WrongFileHash, text));
        }
        let key = ChunkKey { blob: fill.blob(), index };
        fill.checked_chunk(index, chunk.clone());
        // The hole itself is written even where the store believes that it has it: a reader found out that it has not.
        if index == hole || !fills.inner.store.has_chunk(key) {
            fills.inner.store.put_chunk(key, chunk).await;
            fills.inner.metrics.refilled.inc();
        }
    }
    Ok(())
}

async fn open(source: &Source, manifest: &Manifest, wanted: &Range<u32>) -> Result<Opened, Broken> {
    let first = u64::from(wanted.start) * CHUNK as u64;
    let end = (u64::from(wanted.end) * CHUNK as u64).min(manifest.size);
    match source.upstream.open(&source.target, first, Some(end.saturating_sub(1))).await {
        Ok(Said::Have(opened)) => Ok(opened),
        Ok(Said::HaveNot) => {
            Err(Broken::new(FillFailure::Gone, format!("upstream {} has it not any more", source.upstream.name())))
        }
        Err(error) => Err(Broken::new(FillFailure::Unknown, error.to_string())),
    }
}

async fn read_exactly(
    opened: &mut Opened,
    left_over: &mut Bytes,
    len: usize,
    source: &Source,
) -> Result<Bytes, Broken> {
    let mut chunk = BytesMut::with_capacity(len);
    while chunk.len() < len {
        if left_over.is_empty() {
            *left_over = match opened.body.next().await {
                Some(piece) => piece.map_err(|e| Broken::new(FillFailure::Cut, e.to_string()))?,
                None => {
                    let text = format!("upstream {} ended before the end of the range", source.upstream.name());
                    return Err(Broken::new(FillFailure::Short, text));
                }
            };
        }
        let now = left_over.len().min(len - chunk.len());
        chunk.extend_from_slice(&left_over.split_to(now));
    }
    Ok(chunk.freeze())
}
