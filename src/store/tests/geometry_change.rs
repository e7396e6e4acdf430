//! Another size in the configuration: the store opens, and the old space comes back.

use super::*;

#[tokio::test]
async fn a_smaller_disk_gives_its_space_back_and_goes_on_writing() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 96).await;
    // 20 blocks of 15 chunks, filled once and then up to the 13th: the clean blocks are behind it and go with the
    // smaller size. Among the 12 that stay none is clean, and foyer alone would never write again.
    for n in 0..61 {
        first.fill(n, 8).await;
    }
    first.close().await;
    assert_eq!(allocated(dir.path()), 96 * MIB);

    let second = bench(dir.path(), 64).await;
    assert_eq!(allocated(dir.path()), 64 * MIB);
    let mut kept = 0;
    for n in 0..61 {
        kept += second.whole(n, 8).await;
    }
    assert!(kept > 150, "the blocks that stay keep what they hold: {kept}");
    tokio::time::timeout(Duration::from_secs(20), second.fill(50, 300)).await.expect("writes go on");
    assert_eq!(second.metrics.store.lost.get(), 0);
}

#[tokio::test]
async fn another_block_size_starts_anew_and_frees_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.fill(1, 20).await;
    first.close().await;
    let other_peoples = dir.path().join("nar/v1-notes");
    std::fs::create_dir(&other_peoples).unwrap();
    std::fs::write(dir.path().join("nar/README"), "mine").unwrap();

    let second = bench(dir.path(), 400).await;
    assert_eq!(second.whole(1, 20).await, 0);
    second.fill(2, 20).await;
    second.close().await;
    assert!(other_peoples.exists() && dir.path().join("nar/README").exists(), "what is not ours is left alone");
    std::fs::remove_dir(other_peoples).unwrap();
    std::fs::remove_file(dir.path().join("nar/README")).unwrap();
    assert!(allocated(dir.path()) <= 400 * MIB);

    let third = bench(dir.path(), 64).await;
    assert_eq!(third.whole(2, 20).await, 0);
    third.close().await;
    assert_eq!(allocated(dir.path()), 64 * MIB);
}

#[tokio::test]
async fn all_space_is_taken_from_the_start_and_never_more() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    assert_eq!(allocated(dir.path()), 64 * MIB);
    assert_eq!(bench.metrics.store.disk_bytes.get(), 64 * 1024 * 1024);
    for n in 0..4 {
        bench.fill(n, 200).await;
    }
    bench.close().await;
    assert_eq!(allocated(dir.path()), 64 * MIB);
}
