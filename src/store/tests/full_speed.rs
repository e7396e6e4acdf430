//! The write gate keeps everything, and foyer's recovery finds it again.

use super::*;

/// Eight writers as fast as they can. The store is opened again before counting, so that every chunk is read from disk:
/// this also fails when two writers' sequence numbers cross, at which foyer's recovery gives up the rest of a block.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fill_at_full_speed_keeps_every_chunk() {
    const WRITERS: u32 = 8;
    const EACH: u32 = 188;
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 512).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store = first.store.clone();
            tokio::spawn(async move {
                for index in 0..EACH {
                    store.put_chunk(key(n, index), bytes(n, index)).await;
                }
                assert!(store.flush_chunks().await);
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(first.foyer("foyer_storage_inner_op_total", "buffer_overflow"), 0.0);
    assert_eq!(first.foyer("foyer_storage_inner_op_total", "channel_overflow"), 0.0);
    assert_eq!(first.metrics.store.lost.get(), 0);
    assert_eq!(first.metrics.store.written.get(), u64::from(WRITERS * EACH));
    first.close().await;

    let second = bench(dir.path(), 512).await;
    for n in 0..WRITERS {
        assert_eq!(second.whole(n, EACH).await, EACH, "blob {n}");
    }
    assert_eq!(second.metrics.store.bad_reads.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_entries_at_full_speed_are_all_kept() {
    const WRITERS: u32 = 8;
    const EACH: u32 = 300;
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    let text = |n: u32| Bytes::from(format!("StorePath: /nix/store/{n}\n").repeat(20));
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let store = first.store.clone();
            tokio::spawn(async move {
                for n in w * EACH..(w + 1) * EACH {
                    store.put_entry(entry(n), text(n)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    first.close().await;
    assert_eq!(first.metrics.store.lost.get(), 0);
    assert_eq!(first.foyer("foyer_storage_inner_op_total", "buffer_overflow"), 0.0);

    let second = bench(dir.path(), 64).await;
    for n in 0..WRITERS * EACH {
        assert_eq!(second.entry(entry(n)).await, Some(text(n)), "entry {n}");
    }
}

/// Chunks of every length, so that entries end anywhere in a page, a flush buffer and a block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_any_length_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cut = |n: u32, index: u32| bytes(n, index).slice(..(n as usize * 7919 + index as usize * 4093) % (CHUNK + 1));
    let first = bench(dir.path(), 128).await;
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let store = first.store.clone();
            tokio::spawn(async move {
                for index in 0..150 {
                    store.put_chunk(key(n, index), cut(n, index)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    first.close().await;
    assert_eq!(first.metrics.store.lost.get(), 0);
    assert_eq!(first.foyer("foyer_storage_inner_op_total", "buffer_overflow"), 0.0);

    let second = bench(dir.path(), 128).await;
    for n in 0..4 {
        for index in 0..150 {
            assert!(
                second.chunk(key(n, index), &Manifest::digest(&cut(n, index))).await == Some(cut(n, index)),
                "chunk {index} of {n}"
            );
        }
    }
}

#[tokio::test]
async fn a_chunk_is_readable_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    bench.put_chunk(key(1, 0), bytes(1, 0)).await;
    assert!(bench.has_chunk(key(1, 0)));
    assert_eq!(bench.chunk(key(1, 0), &Manifest::digest(&bytes(1, 0))).await, Some(bytes(1, 0)));
    bench.remove_chunk(key(1, 0));
    assert!(bench.flush_chunks().await, "a removed chunk is not a lost one");
    assert!(!bench.has_chunk(key(1, 0)));
    assert_eq!(bench.chunk(key(1, 0), &Manifest::digest(&bytes(1, 0))).await, None);
}
