//! Second chance: chunks of bodies in use are written again before the block that holds them is reused.
//!
//! foyer evicts whole blocks in order and knows no use. Its reinsertion filter could save entries, but reinserted
//! entries keep their old sequence number, at which its recovery stops: after a restart the rest of each such block
//! would be lost. So a block whose turn is near is looked at from outside: its index pages name the hashes of its
//! entries, a hash names its body (see `geometry`), and the chunks of a body that was used since the block was full are
//! read and put again like new ones, through the gate.
//!
//! What is saved is limited to [`SHARE`] of what leaves, so that what is new always has room and an entry is written at
//! most 1.7 times on average. The limit is kept over many blocks, not in each: a large NAR fills whole blocks, and half
//! of it is worth little. What is pinned is saved whatever the limit says (see `pinned`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;

use super::device::{Area, INDEX};
use super::geometry::{Chunk, ChunkHash, ChunkKey, PAGE, padded, unpack_hash};
use super::heat::Heat;
use super::line::{Due, Line};
use super::pinned::Pinned;
use super::tier::{Found, Tier};
use crate::metrics::StoreMetrics;

/// The most of what leaves that is saved, in percent.
const SHARE: usize = 40;
/// The most that is saved in one go, as a part of the tier: a fourth.
const BURST: usize = 4;
/// Chunks that are saved at a time.
const AT_A_TIME: usize = 8;

/// How many blocks ahead of its turn a block is looked at: late enough that the last uses count, early enough that
/// saving ends before the block is reused. While one is saved at most two blocks are filled, the gate's and its own, and
/// one is being reused: with three the last chunks of a block came too late now and then.
pub fn near(blocks: usize) -> usize {
    (blocks / 8).clamp(4, 16)
}

/// The task that saves.
#[derive(Debug)]
pub struct Saver {
    /// Where the blocks are.
    pub area: Area,
    /// The line they wait in.
    pub line: Arc<Line>,
    /// What is in use.
    pub heat: Arc<Heat>,
    /// What is pinned.
    pub pinned: Arc<Pinned>,
    /// Where chunks are read and put.
    pub tier: Tier<ChunkKey, Chunk, ChunkHash>,
    /// What is counted.
    pub metrics: StoreMetrics,
}

impl Saver {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let most = usize::try_from(self.area.capacity()).unwrap_or(usize::MAX) / BURST;
        let mut credit = most;
        loop {
            self.line.moved().await;
            while let Some(due) = self.line.next_look() {
                credit = (credit + self.area.block / 100 * SHARE).min(most);
                credit = credit.saturating_sub(self.save(due, credit).await);
            }
            self.pinned.looked();
        }
    }

    /// Saves what is pinned of a block, and of what is in use at most `credit` bytes; returns how many were saved.
    async fn save(&self, due: Due, credit: usize) -> usize {
        let hashes = entries_of(&self.area, due.block).await;
        let mut left = credit;
        let hot = hashes.into_iter().filter_map(|(hash, bytes)| {
            let (prefix, index) = unpack_hash(hash);
            if let Some(blob) = self.pinned.body(prefix) {
                left = left.saturating_sub(bytes);
                return Some(ChunkKey::new(blob, index));
            }
            let blob = self.heat.used_since(prefix, due.full_at)?;
            left = left.checked_sub(bytes)?;
            Some(ChunkKey::new(blob, index))
        });
        let saved = futures_util::stream::iter(hot).map(|key| self.put_again(key)).buffer_unordered(AT_A_TIME);
        saved.fold(0, async |sum, bytes| sum + bytes).await
    }

    /// Writes a chunk again; returns the bytes it takes, or 0 if there was nothing to save.
    async fn put_again(&self, key: ChunkKey) -> usize {
        let found = self.tier.get(&key).await;
        // An entry that is not leaving was found in another block: this one holds an older copy of it. Or it has left
        // while it was read.
        let is_kept = |found: &Found<Chunk>| !found.leaving && self.tier.contains(&key);
        let Some(found) = found.filter(|found| !is_kept(found)) else { return 0 };
        let size = padded(ChunkKey::ENCODED, size_of::<u64>() + found.value.0.len());
        if !self.tier.save(key, found.value, size).await {
            return 0;
        }
        self.metrics.second_chances.inc();
        size
    }
}

/// See [`entries`]: those of a block, read on a thread for that; none where its index cannot be read.
pub async fn entries_of(area: &Area, block: u32) -> Vec<(u64, usize)> {
    let (file, size) = (area.file(block), area.block);
    match tokio::task::spawn_blocking(move || entries(&file, size)).await {
        Ok(Ok(hashes)) => hashes,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the index of a block cannot be read; nothing is saved");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// The hashes of a block's entries and the bytes each takes, from its index pages.
///
/// A page is `checksum u64, count u32`, then for each entry `hash u64, sequence u64, offset u32, length u32`, all
/// big-endian; the next page follows the last entry. Pages of the block's previous use may follow: an entry that is not
/// there any more is not found when it is read, so the checksum is not needed.
fn entries(path: &Path, block: usize) -> io::Result<Vec<(u64, usize)>> {
    let file = File::open(path)?;
    let (mut found, mut at) = (Vec::new(), 0);
    let mut page = [0; INDEX];
    while at + INDEX <= block {
        file.read_exact_at(&mut page, at as u64)?;
        let Some(step) = read_index(&page, &mut found) else { break };
        at += step;
    }
    Ok(found)
}

/// Adds the entries of one index page; returns where the next page is, or `None` if this is not an index page.
fn read_index(page: &[u8; INDEX], found: &mut Vec<(u64, usize)>) -> Option<usize> {
    let (_checksum, rest) = page.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (entries, _) = rest.as_chunks::<24>();
    let count = usize::try_from(u32::from_be_bytes(*count)).ok().filter(|count| (1..=entries.len()).contains(count))?;
    let mut end = INDEX;
    for entry in &entries[..count] {
        let (hash, rest) = entry.split_first_chunk::<8>()?;
        let (offset, length) = rest.split_at_checked(8)?.1.split_first_chunk::<4>()?;
        let offset = usize::try_from(u32::from_be_bytes(*offset)).ok()?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        if offset < end || length == 0 {
            return None;
        }
        end = offset + length.next_multiple_of(PAGE);
        found.push((u64::from_be_bytes(*hash), end - offset));
    }
    Some(end)
}
