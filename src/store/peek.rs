//! Looking at a chunk without using it: for who checks what is kept, not for who serves it.
//!
//! Nothing comes into memory and nothing is counted as a read. [`Store::peek_chunk_on_disk`] touches the memory tier not
//! at all. [`Store::peek_chunk`] finds chunks that are in memory only, too; there foyer has no way to look at an entry
//! that does not count as a use of it.

use bytes::Bytes;

use super::{ChunkKey, Manifest, Store, manifest};

/// What was found under the name of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peeked {
    /// The chunk that was meant.
    Right(Bytes),
    /// Other bytes. They were removed.
    Wrong,
    /// Nothing that can be read.
    Absent,
}

impl Store {
    /// Looks at a chunk in memory, else on disk.
    pub async fn peek_chunk(&self, key: ChunkKey, digest: &[u8; manifest::DIGEST]) -> Peeked {
        let kept = self.space.chunk(key);
        let in_memory = self.inner.nar.get(&kept).map(|entry| entry.value().clone());
        match in_memory {
            Some(bytes) => self.compare(kept, bytes, digest),
            None => self.peek_chunk_on_disk(key, digest).await,
        }
    }

    /// Looks at the copy of a chunk on disk, whatever is in memory. A chunk that is queued to be written counts as on
    /// disk already; see [`Store::flush_chunks`].
    pub async fn peek_chunk_on_disk(&self, key: ChunkKey, digest: &[u8; manifest::DIGEST]) -> Peeked {
        let key = self.space.chunk(key);
        let Some(disk) = self.inner.disk.load_full() else { return Peeked::Absent };
        match disk.nar.get(&key).await {
            Some(found) => self.compare(key, found.value.0, digest),
            None => Peeked::Absent,
        }
    }

    fn compare(&self, key: ChunkKey, bytes: Bytes, digest: &[u8; manifest::DIGEST]) -> Peeked {
        if self.is_right(key, &bytes, digest) { Peeked::Right(bytes) } else { Peeked::Wrong }
    }

    /// Whether the bytes kept as chunk `key` have this digest. If not the chunk is removed, and that is counted (R11).
    pub(super) fn is_right(&self, key: ChunkKey, bytes: &[u8], digest: &[u8; manifest::DIGEST]) -> bool {
        let right = Manifest::digest(bytes) == *digest;
        if !right {
            tracing::warn!(key = %key.blob, chunk = key.index, "a stored chunk is not the one of its manifest: removed");
            self.inner.metrics.wrong_chunks.inc();
            self.remove_kept_chunk(key);
        }
        right
    }
}
