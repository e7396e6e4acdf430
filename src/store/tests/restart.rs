//! What survives the end of the process.

use super::*;

#[tokio::test]
async fn a_restart_keeps_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.fill(1, 60).await;
    first.put_manifest(blob(1), manifest(1, 60)).await;
    first.put_entry(entry(1), Bytes::from_static(b"old")).await;
    first.put_entry(entry(1), Bytes::from_static(b"new")).await;
    first.close().await;

    let second = bench(dir.path(), 64).await;
    assert_eq!(second.manifest(blob(1)).await, Some(manifest(1, 60)));
    assert_eq!(second.whole(1, 60).await, 60);
    assert_eq!(second.entry(entry(1)).await.as_deref(), Some(&b"new"[..]));
    assert_eq!(second.entry(entry(2)).await, None);
}

#[tokio::test]
async fn a_store_that_is_dropped_keeps_what_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.fill(1, 60).await;
    first.put_chunk(key(2, 0), bytes(2, 0)).await;
    drop(first);

    let second = closed_bench(dir.path(), 64);
    // The first one may still be ending: the store then tries again by itself.
    let _ = second.open_disk().await;
    second.until(|second| second.metrics.store.disk_up.get() == 1).await;
    assert_eq!(second.whole(1, 60).await, 60);
    assert!(second.whole(2, 1).await <= 1);
}

#[tokio::test]
async fn after_a_restart_the_oldest_still_go_first() {
    let dir = tempfile::tempdir().unwrap();
    // 48 MiB of chunks are 180; the files are not in the order of their age, because some were reused.
    for n in 0..5 {
        let bench = bench(dir.path(), 64).await;
        bench.fill(n, 50).await;
        bench.close().await;
    }
    let last = bench(dir.path(), 64).await;
    let mut kept = Vec::new();
    for n in 0..5 {
        kept.push(last.whole(n, 50).await);
    }
    assert!(kept[0] == 0 && kept[3] == 50 && kept[4] == 50 && kept.is_sorted(), "{kept:?}");
}

#[tokio::test]
async fn a_removed_entry_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    // More than a page of foyer's tombstone log holds, over two restarts: there some would come back.
    for n in 0..600 {
        first.put_entry(entry(n), Bytes::from_static(b"narinfo")).await;
    }
    first.put_manifest(blob(1), manifest(1, 3)).await;
    first.close().await;

    let second = bench(dir.path(), 64).await;
    for n in 0..400 {
        second.remove_entry(&entry(n));
        assert_eq!(second.entry(entry(n)).await, None);
    }
    second.remove_manifest(blob(1));
    second.put_entry(entry(7), Bytes::from_static(b"again")).await;
    second.close().await;

    for _ in 0..2 {
        let next = bench(dir.path(), 64).await;
        for n in 0..600 {
            let found = next.entry(entry(n)).await;
            let expected = if n == 7 { Some(&b"again"[..]) } else { (n >= 400).then_some(&b"narinfo"[..]) };
            assert_eq!(found.as_deref(), expected, "entry {n}");
        }
        assert_eq!(next.manifest(blob(1)).await, None);
        next.remove_entry(&entry(599));
        next.put_entry(entry(599), Bytes::from_static(b"narinfo")).await;
        next.close().await;
    }
}

#[tokio::test]
async fn what_changes_before_the_disk_is_open_is_right_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.put_entry(entry(1), Bytes::from_static(b"old")).await;
    first.put_entry(entry(2), Bytes::from_static(b"old")).await;
    first.close().await;

    let second = closed_bench(dir.path(), 64);
    second.put_entry(entry(1), Bytes::from_static(b"new")).await;
    second.remove_entry(&entry(2));
    second.put_chunk(key(1, 0), bytes(1, 0)).await;
    second.open_disk().await.unwrap();
    assert_eq!(second.entry(entry(1)).await.as_deref(), Some(&b"new"[..]));
    assert_eq!(second.entry(entry(2)).await, None);
    assert_eq!(second.whole(1, 1).await, 1, "what was put before stays readable");
    second.close().await;

    let third = bench(dir.path(), 64).await;
    assert_eq!(third.entry(entry(1)).await.as_deref(), Some(&b"new"[..]));
    assert_eq!(third.entry(entry(2)).await, None);
}

/// A copy taken while writes are under way is what a crash leaves behind: blocks and indexes half written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_copy_gives_right_bytes_or_none() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = bench(dir.path(), 64).await;
    first.fill(0, 30).await;
    let writer = {
        let store = first.store.clone();
        // Twice the capacity, so that blocks are reused while they are copied.
        tokio::spawn(async move {
            for n in 1..10 {
                for index in 0..40 {
                    store.put_chunk(key(n, index), bytes(n, index)).await;
                    store.put_entry(entry(n * 40 + index), bytes(n, index).slice(..600)).await;
                }
            }
        })
    };
    let mut seen = 0;
    for round in 0..4 {
        let copy = copies.path().join(round.to_string());
        for file in block_files(dir.path()) {
            let to = copy.join(file.strip_prefix(dir.path()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&file, &to).unwrap();
        }
        let torn = bench(&copy, 64).await;
        for n in 0..10 {
            seen += torn.whole(n, 40).await;
            for index in 0..40 {
                if let Some(found) = torn.entry(entry(n * 40 + index)).await {
                    assert!(found == bytes(n, index).slice(..600));
                }
            }
        }
        // It goes on working.
        torn.fill(99, 8).await;
        assert_eq!(torn.whole(99, 8).await, 8);
        torn.close().await;
        std::fs::remove_dir_all(&copy).unwrap();
    }
    writer.await.unwrap();
    assert!(seen > 30, "the copies held chunks: {seen}");
}

/// The directory itself holds what clients read as well (the CA of a self-signed certificate).
#[tokio::test]
async fn nobody_else_can_read_what_is_cached() {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cache");
    for _ in 0..2 {
        bench(&dir, 64).await.close().await;
        let mode = |name: &str| metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["nar", "meta", "lock", ""].map(mode), [0o700, 0o700, 0o600, 0o755]);
        // As an earlier version left them.
        for (name, mode) in [("nar", 0o755), ("meta", 0o755), ("lock", 0o644)] {
            set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// A version that is still being written when the key is removed must not be found once it is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_while_it_is_written_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..500 {
        bench.put_entry(entry(n), Bytes::from_static(b"old")).await;
        let putting = {
            let store = bench.store.clone();
            tokio::spawn(async move { store.put_entry(entry(n), Bytes::from_static(b"new")).await })
        };
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        putting.await.unwrap();
        bench.remove_entry(&entry(n));
        for _ in 0..n % 50 {
            assert_eq!(bench.entry(entry(n)).await, None, "entry {n}");
        }
    }
    for n in 0..500 {
        assert_eq!(bench.entry(entry(n)).await, None, "entry {n}");
    }
}
