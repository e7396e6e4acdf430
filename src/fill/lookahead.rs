//! The chunk that a reader will want next, read while its client takes the one before.
//!
//! ```text
//! a chunk is handed out ── is the next one on disk, the client quick, a place left? ── read it, and hold it
//! ```
//!
//! What is read ahead is held besides the memory tier, so there are [`PLACES`] for all readers together. A client that takes
//! longer for a chunk than a disk does waits for no disk to speak of: it gets none, so that those that gain by it find one.
//!
//! Out of scope: chunks that are in no tier (the reader has them filled).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::metrics::Place;
use crate::store::{ChunkKey, Store, manifest};

/// Chunks that are read before they are wanted, at most: 4 MiB, and more than a disk needs to be busy.
const PLACES: usize = 16;
/// Who takes longer for a chunk (2.6 MB/s) is not read ahead for.
const QUICK: Duration = Duration::from_millis(100);

/// The places of all readers.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

/// What one reader has read ahead.
#[derive(Debug, Default)]
pub(super) struct Lookahead {
    next: Option<Next>,
    /// When its client was given the last chunk.
    handed: Option<Instant>,
    is_slow: bool,
}

#[derive(Debug)]
struct Next {
    index: u32,
    task: JoinHandle<Option<(Bytes, Place)>>,
    _place: OwnedSemaphorePermit,
}

impl Lookahead {
    /// The client wants more: the chunk `index`, if it was read.
    pub(super) async fn take(&mut self, index: u32) -> Option<(Bytes, Place)> {
        self.is_slow = self.handed.take().is_some_and(|handed| handed.elapsed() > QUICK);
        let mut next = self.next.take().filter(|next| next.index == index)?;
        (&mut next.task).await.ok().flatten()
    }

    /// The client has something to take: reads the chunk after it, where that is worth it.
    pub(super) fn begin(&mut self, places: &Places, store: &Store, key: ChunkKey, digest: [u8; manifest::DIGEST]) {
        self.handed = Some(Instant::now());
        if self.is_slow || store.place_of_chunk(key) != Place::Disk {
            return;
        }
        let Ok(place) = Arc::clone(&places.0).try_acquire_owned() else { return };
        let (index, store) = (key.index, store.clone());
        let task = tokio::spawn(async move { store.chunk_from(key, &digest).await });
        self.next = Some(Next { index, task, _place: place });
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::options::Table;
    use crate::store::{BlobId, CHUNK, Manifest, Options};

    const CHUNKS: u32 = 120;

    fn key(index: u32) -> ChunkKey {
        ChunkKey::new(BlobId::new(&[7; 32], 0), index)
    }

    fn chunk(index: u32) -> Bytes {
        vec![u8::try_from(index).unwrap(); CHUNK].into()
    }

    /// A store with more chunks than its memory holds, and one that is on disk only.
    async fn store(dir: &std::path::Path) -> (Store, ChunkKey, [u8; manifest::DIGEST]) {
        let text = format!("dir = {dir:?}\nmemory = '16 MiB'\ndisk = '64 MiB'\nscrub = '0 s'");
        let store = Store::memory_only(&Options::from_toml(&text).unwrap(), Metrics::default().store);
        store.open_disk().await.unwrap();
        for index in 0..CHUNKS {
            store.put_chunk(key(index), chunk(index)).await;
        }
        assert!(store.flush_chunks().await);
        let index = (0..CHUNKS).find(|index| store.place_of_chunk(key(*index)) == Place::Disk).unwrap();
        (store, key(index), Manifest::digest(&chunk(index)))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_on_disk_is_read_ahead_and_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, key, digest) = store(dir.path()).await;
        let (places, mut ahead) = (Places::new(), Lookahead::default());
        ahead.begin(&places, &store, key, digest);
        assert_eq!(places.0.available_permits(), PLACES - 1);
        assert_eq!(ahead.take(key.index).await, Some((chunk(key.index), Place::Disk)));
        assert_eq!(ahead.take(key.index).await, None);
        // It is in memory now: nothing to read.
        ahead.begin(&places, &store, key, digest);
        assert_eq!((ahead.take(key.index).await, places.0.available_permits()), (None, PLACES));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_is_slow_or_finds_no_place_reads_when_he_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, key, digest) = store(dir.path()).await;
        let (places, mut slow) = (Places::new(), Lookahead::default());
        slow.handed = Instant::now().checked_sub(QUICK * 2);
        assert_eq!(slow.take(key.index).await, None);
        slow.begin(&places, &store, key, digest);
        assert!(slow.next.is_none());
        // As soon as he is quick again he gets one.
        assert_eq!(slow.take(key.index).await, None);
        slow.begin(&places, &store, key, digest);
        assert!(slow.next.is_some());

        let _others = places.0.acquire_many(u32::try_from(PLACES).unwrap() - 1).await.unwrap();
        let mut late = Lookahead::default();
        late.begin(&places, &store, key, digest);
        assert!(late.next.is_none());
        drop(slow);
        late.begin(&places, &store, key, digest);
        assert!(late.next.is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_chunk_than_expected_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let (store, key, digest) = store(dir.path()).await;
        let (places, mut ahead) = (Places::new(), Lookahead::default());
        ahead.begin(&places, &store, key, digest);
        assert_eq!(ahead.take(key.index + 1).await, None);
        assert_eq!(places.0.available_permits(), PLACES);
    }
}
