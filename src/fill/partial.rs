//! What a fill leaves behind that ends in the middle, and how the next one goes on from there.
//!
//! While a NAR comes, the digests of its chunks so far are noted now and then, when the program is stopped, and when no
//! source is left. The next fill of the same bytes asks its source for the rest by range, hashes what is stored, and goes
//! on; the hash of the whole decides as ever. A source that knows no ranges is read from the start.
//!
//! Among what was kept may be a wrong byte of a source that failed. Therefore nothing leaves of a fill that goes on from
//! it before all is verified, as long as the rest is short ([`HOLD_REST`]); if it is wrong, it is forgotten and the whole
//! is fetched from one source (see `course`).
//!
//! Only for bytes that a FileHash binds, of a known size: an upstream that compresses anew makes others each time.

use bytes::{BufMut, Bytes, BytesMut};

use super::state::{Broken, Fill};
use super::verify::Verifier;
use super::{FillFailure, Fills, Plan};
use crate::store::{BlobId, CHUNK, ChunkKey, EntryKey};

/// The store's kind of entry for these notes; the proxy's kinds are below it.
const KIND: u8 = 16;
/// While at most so many bytes (32 MiB) are to come, clients wait for all of them: far less than the 300 s after which Nix
/// gives up on a silent server.
pub(super) const HOLD_REST: u64 = 32 << 20;
/// The first note is made after so many chunks (2 MiB), and a further one after as many more or an eighth more.
const FIRST: usize = 8;

/// When the next note is made.
pub(super) struct Notes {
    next: usize,
}

impl Default for Notes {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Notes {
    /// For a fill that has no chunk yet, or those that an earlier one left.
    pub(super) fn new(done: usize) -> Self {
        Self { next: done + FIRST }
    }

    /// After a chunk was stored.
    pub(super) async fn chunk_stored(&mut self, fills: &Fills, fill: &Fill, plan: &Plan) {
        let done = fill.chunks_done();
        if done >= self.next {
            self.next = done + FIRST.max(done / 8);
            note(fills, fill, plan).await;
        }
    }
}

/// Notes the chunks a fill has now; false where nothing can be gone on from.
pub(super) async fn note(fills: &Fills, fill: &Fill, plan: &Plan) -> bool {
    let digests = fill.digests();
    if plan.size.is_none() || plan.file_hash.is_none() || digests.is_empty() {
        return false;
    }
    let mut out = BytesMut::with_capacity(32 + digests.len() * 16);
    out.put_slice(plan.digest.as_bytes());
    out.put_slice(digests.as_flattened());
    fill.noted(true);
    fills.inner.store.put_entry(key(fill.blob()), out.freeze()).await;
    true
}

/// Forgets what was noted by this fill or the one it went on from.
pub(super) fn forget(fills: &Fills, fill: &Fill) {
    if fill.noted(false) {
        fills.inner.store.remove_entry(&key(fill.blob()));
    }
}

/// The digests of the chunks that an earlier fill of these bytes left, as far as the chunks seem to be there still.
pub(super) async fn left(fills: &Fills, plan: &Plan) -> Vec<[u8; 16]> {
    let (Some(size), Some(_)) = (plan.size, plan.file_hash) else { return Vec::new() };
    let Some(noted) = fills.inner.store.entry(key(plan.blob())).await else { return Vec::new() };
    let mut digests = decode(&noted, plan).unwrap_or_default();
    let blob = plan.blob();
    let there = (0_u32..).zip(&digests).take_while(|(index, _)| {
        let end = (u64::from(*index) + 1) * CHUNK as u64;
        end < size && fills.inner.store.has_chunk(ChunkKey { blob, index: *index })
    });
    digests.truncate(there.count());
    digests
}

fn decode(noted: &Bytes, plan: &Plan) -> Option<Vec<[u8; 16]>> {
    let (digest, rest) = noted.split_first_chunk::<32>()?;
    let (digests, []) = rest.as_chunks::<16>() else { return None };
    (digest == plan.digest.as_bytes()).then(|| digests.to_vec())
}

/// Takes the chunks that are there into the fill, as if they had just come.
pub(super) async fn take_up(
    fills: &Fills,
    fill: &Fill,
    digests: &[[u8; 16]],
    verifier: &mut Verifier,
) -> Result<(), Broken> {
    fill.noted(true);
    for (index, digest) in (0_u32..).zip(digests) {
        let key = ChunkKey { blob: fill.blob(), index };
        let chunk = fills.inner.store.chunk(key, digest).await.filter(|chunk| chunk.len() == CHUNK);
        let Some(chunk) = chunk else {
            return Err(Broken::new(FillFailure::Cut, "a chunk that an earlier fill had stored is gone"));
        };
        verifier.update(&chunk).await?;
        fill.push(chunk);
        if fill.complete_live().is_none_or(|(_, _, found)| found != *digest) {
            return Err(Broken::new(FillFailure::Cut, "a chunk that an earlier fill had stored is another one"));
        }
    }
    Ok(())
}

/// Where the note of a body is.
pub(super) fn key(blob: BlobId) -> EntryKey {
    let mut id = [0; 32];
    id[..16].copy_from_slice(&blob.0);
    EntryKey::new(KIND, id)
}
