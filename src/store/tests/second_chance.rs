//! What is in use stays, what is not goes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_use_survives_three_times_the_capacity() {
    const HOT: u32 = 16;
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 128).await;
    first.touch(blob(0));
    first.fill(0, HOT).await;
    first.fill(1, HOT).await;
    // 128 MiB hold about 400 chunks.
    for n in 2..62 {
        first.fill(n, 20).await;
        first.touch(blob(0));
        // As fast as a fast network, not as fast as memory: saving runs beside the writes, not before them.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first.metrics.store.second_chances.get() >= u64::from(HOT));
    assert_eq!(first.metrics.store.lost.get(), 0);
    first.close().await;

    // Also over a restart, which foyer's own reinsertion would not survive.
    let second = bench(dir.path(), 128).await;
    assert_eq!(second.whole(0, HOT).await, HOT, "in use");
    assert_eq!(second.whole(1, HOT).await, 0, "used once");
    assert_eq!(second.whole(61, 20).await, 20, "new");
    let mut kept = 0;
    for n in 2..62 {
        kept += second.whole(n, 20).await;
    }
    assert!(kept > 200, "saving the one costs little of the rest: {kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_is_in_use_there_is_still_room_for_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..30 {
        bench.fill(n, 20).await;
        (0..30).for_each(|n| bench.touch(blob(n)));
    }
    assert!(bench.metrics.store.second_chances.get() > 0);
    assert_eq!(bench.metrics.store.lost.get(), 0);
    assert_eq!(bench.whole(29, 20).await, 20);
}

/// A small object that is asked for often is in memory, where the disk does not see it: it must not be lost there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_in_use_survives_three_times_the_capacity() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.put_entry(entry(0), Bytes::from_static(b"hot")).await;
    // 16 MiB hold about 4000 entries.
    for n in 1..12_000 {
        first.put_entry(entry(n), Bytes::from_static(b"cold")).await;
        if n % 50 == 0 {
            assert!(first.entry(entry(0)).await.is_some());
        }
    }
    first.close().await;

    let second = bench(dir.path(), 64).await;
    assert_eq!(second.entry(entry(0)).await.as_deref(), Some(&b"hot"[..]));
    assert_eq!(second.entry(entry(1)).await, None);
    assert!(second.entry(entry(11_999)).await.is_some());
}
