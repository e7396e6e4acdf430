//! What is pinned stays, however much is put; what is not pinned any more goes.

use tokio::time::{Instant, timeout};

use super::*;
use crate::store::line::PATIENCE;

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

/// What is pinned is looked through each second while blocks are reused, however much it is.
#[tokio::test]
async fn a_long_look_lets_others_run() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let pinned = whole(&bench, 0).await;
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    // 400 chunks, as of a hundred megabytes.
    let look = async {
        for _ in 0..10 {
            assert_eq!(bench.is_held(&pinned).await, Some(true));
        }
    };
    tokio::select! {
        biased;
        () = look => {}
        () = others => {}
    }
    assert!(turns >= 3, "{turns} turns of others");
}

/// What is pinned in one row is written again in one row. For that a new body waits, but not for long: then it passes
/// through, and is not on disk. What is small does not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_long_while_pinned_bodies_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let disk = bench.store.inner.disk.load_full().unwrap();
    let began = Instant::now();
    disk.nar.line.stall(true);
    bench.put_entry(entry(2), Bytes::from_static(b"x")).await;
    assert!(began.elapsed() < PATIENCE, "those are blocks of another tier");
    assert!(timeout(PATIENCE / 4, bench.put_chunk(key(2, 0), bytes(2, 0))).await.is_err(), "it waits for the row");
    bench.put_chunk(key(2, 0), bytes(2, 0)).await;
    assert!(began.elapsed() >= PATIENCE);
    let on_disk = || disk.nar.contains(&bench.store.space.chunk(key(2, 0)));
    assert!(bench.chunk(key(2, 0), &Manifest::digest(&bytes(2, 0))).await.is_some() && !on_disk());
    disk.nar.line.stall(false);
    bench.put_chunk(key(2, 0), bytes(2, 0)).await;
    assert!(on_disk());
}

/// The same for what is small: it is on disk as soon as the row is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_small_is_on_disk_later_while_pinned_narinfos_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let disk = bench.store.inner.disk.load_full().unwrap();
    disk.meta.line.stall(true);
    bench.put_entry(entry(2), Bytes::from_static(b"x")).await;
    assert_eq!(bench.entry(entry(2)).await.as_deref(), Some(&b"x"[..]));
    let on_disk = || disk.meta.contains(&MetaKey::Entry(bench.store.space.entry(entry(2))));
    bench.flush_chunks().await;
    assert!(!on_disk());
    disk.meta.line.stall(false);
    bench.close().await;
    let again = super::bench(dir.path(), 64).await;
    assert_eq!(again.entry(entry(2)).await.as_deref(), Some(&b"x"[..]));
}

/// Two bodies that are nearly half of the disk, so that the row is long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_much_as_can_be_pinned_survives_on_a_busy_machine() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let pinned = [whole(&bench, 0).await, whole(&bench, 1).await];
    pinned.iter().for_each(|hold| bench.pin(hold));
    let busy = Arc::new(());
    let spin = |_| {
        let busy = Arc::downgrade(&busy);
        std::thread::spawn(move || {
            while busy.strong_count() > 0 {
                std::hint::spin_loop();
            }
        })
    };
    let threads: Vec<_> = (0..4).map(spin).collect();
    flood(&bench, 10).await;
    drop(busy);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for hold in &pinned {
        assert_eq!(bench.is_held(hold).await, Some(true));
    }
}
