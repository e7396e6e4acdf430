//! Looking at a chunk: no use of it, and no mercy for a wrong one.

use super::*;

fn digest(n: u32, index: u32) -> [u8; manifest::DIGEST] {
    Manifest::digest(&bytes(n, index))
}

impl Bench {
    fn reads(&self) -> u64 {
        let of = |place| self.metrics.store.reads.of(StoreTier::Nar, place).get();
        of(Place::Memory) + of(Place::Disk) + of(Place::Nowhere)
    }
}

#[tokio::test]
async fn a_peek_brings_nothing_into_memory_and_is_no_read() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.fill(1, 2).await;
    first.close().await;

    let second = bench(dir.path(), 64).await;
    for _ in 0..2 {
        assert_eq!(second.peek_chunk(key(1, 0), &digest(1, 0)).await, Peeked::Right(bytes(1, 0)));
        assert_eq!(second.peek_chunk_on_disk(key(1, 0), &digest(1, 0)).await, Peeked::Right(bytes(1, 0)));
    }
    assert_eq!(second.peek_chunk(key(3, 0), &digest(3, 0)).await, Peeked::Absent);
    assert!(!second.inner.nar.contains(&key(1, 0)));
    assert_eq!(second.reads(), 0);
    assert!(second.chunk(key(1, 0), &digest(1, 0)).await.is_some());
    assert!(second.inner.nar.contains(&key(1, 0)) && second.reads() == 1, "a read does both");
}

#[tokio::test]
async fn what_is_in_memory_only_is_found_there_only() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 0);
    bench.put_chunk(key(1, 0), bytes(1, 0)).await;
    assert_eq!(bench.peek_chunk(key(1, 0), &digest(1, 0)).await, Peeked::Right(bytes(1, 0)));
    assert_eq!(bench.peek_chunk_on_disk(key(1, 0), &digest(1, 0)).await, Peeked::Absent);
    assert_eq!(bench.reads(), 0);
}

#[tokio::test]
async fn a_wrong_chunk_is_removed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    for n in [1, 2] {
        first.put_chunk(key(n, 0), bytes(9, 0)).await;
    }
    assert!(first.flush_chunks().await);
    assert_eq!(first.peek_chunk(key(1, 0), &digest(1, 0)).await, Peeked::Wrong);
    assert_eq!(first.peek_chunk_on_disk(key(2, 0), &digest(2, 0)).await, Peeked::Wrong);
    assert_eq!(first.metrics.store.wrong_chunks.get(), 2);
    for n in [1, 2] {
        assert_eq!(first.peek_chunk(key(n, 0), &digest(n, 0)).await, Peeked::Absent);
        assert!(!first.has_chunk(key(n, 0)));
    }
}

/// The copy on disk rots while the one in memory is well: only a look at the disk tells.
#[tokio::test]
async fn the_disk_is_looked_at_behind_the_memory() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    bench.fill(1, 1).await;
    for file in block_files(dir.path()) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
        // The second page of the first entry of each block.
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 8192).unwrap();
        page[7] ^= 1;
        file.write_all_at(&page, 8192).unwrap();
    }
    assert_eq!(bench.peek_chunk(key(1, 0), &digest(1, 0)).await, Peeked::Right(bytes(1, 0)));
    assert_eq!(bench.peek_chunk_on_disk(key(1, 0), &digest(1, 0)).await, Peeked::Absent);
    assert_eq!(bench.whole(1, 1).await, 1, "what is in memory stays");
}
