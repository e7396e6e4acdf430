//! What is pinned stays, however much is put; what is not pinned any more goes.

use super::*;

const CHUNKS: u32 = 40;

/// A body of [`CHUNKS`] chunks that is whole, with a narinfo of its own.
async fn whole(bench: &Bench, n: u32) -> Hold {
    bench.fill(n, CHUNKS).await;
    let digests = (0..CHUNKS).map(|index| Manifest::digest(&bytes(n, index))).collect();
    let manifest = Arc::new(Manifest {
        blob: blob(n),
        size: u64::from(CHUNKS) * CHUNK as u64,
        file_hash: [1; 32],
        compression: 0,
        inside: None,
        announced: None,
        digests,
    });
    bench.keep_body(Arc::clone(&manifest)).await;
    bench.put_entry(entry(n), Bytes::from_static(b"narinfo")).await;
    bench.hold(entry(n), 7, entry(n + 1_000_000), &manifest)
}

/// Three times the capacity of both tiers, as fast as they take it.
async fn flood(bench: &Bench, from: u32) {
    for n in from..from + 30 {
        bench.fill(n, 20).await;
        for small in 0..500 {
            bench.put_entry(entry(n * 1000 + small), Bytes::from_static(b"cold")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_survives_three_times_the_capacity_until_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    let (pinned, control) = (whole(&first, 0).await, whole(&first, 1).await);
    assert!(pinned.size().fits(first.most_pinned().unwrap()), "{:?}", pinned.size());
    assert!(!(pinned.size() + pinned.size() + pinned.size()).fits(first.most_pinned().unwrap()));
    first.pin(&pinned);
    let mut turns = first.turns();
    turns.mark_unchanged();
    flood(&first, 10).await;
    assert!(turns.has_changed().unwrap(), "who waits for a turn is told");
    assert_eq!(first.is_held(&pinned).await, Some(true));
    assert_eq!(first.is_held(&control).await, Some(false));
    assert_eq!(first.metrics.store.lost.get(), 0);
    first.close().await;
    assert_eq!(first.is_held(&pinned).await, None, "there is no disk");

    // What is pinned is not written down here: who did says it again.
    let second = bench(dir.path(), 64).await;
    assert_eq!(second.is_held(&pinned).await, Some(true));
    assert_eq!(second.entry(entry(1)).await, None, "not pinned");
    second.pin(&pinned);
    flood(&second, 50).await;
    assert_eq!(second.whole(0, CHUNKS).await, CHUNKS);
    assert_eq!(second.manifest(blob(0)).await.map(|manifest| manifest.chunks()), Some(CHUNKS));
    assert_eq!(second.entry(entry(0)).await.as_deref(), Some(&b"narinfo"[..]));
    second.pin_only([]);
    flood(&second, 90).await;
    assert_eq!(second.is_held(&pinned).await, Some(false));
    assert_eq!(second.whole(0, CHUNKS).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_part_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let pinned = whole(&bench, 0).await;
    bench.pin(&pinned);
    assert_eq!(bench.is_held(&pinned).await, Some(true));
    bench.remove_chunk(key(0, 7));
    assert_eq!(bench.is_held(&pinned).await, Some(false));
    bench.put_chunk(key(0, 7), bytes(0, 7)).await;
    assert_eq!(bench.is_held(&pinned).await, Some(true));
    bench.remove_entry(&entry(0));
    assert_eq!(bench.is_held(&pinned).await, Some(false));
}
