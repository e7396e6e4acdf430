//! Looking at a cache from outside: it is opened as it is, or not at all.

use super::*;

async fn filled(dir: &Path, mib: u64) {
    let bench = bench(dir, mib).await;
    bench.fill(1, 20).await;
    bench.put_manifest(blob(1), manifest(1, 20)).await;
    bench.close().await;
}

#[tokio::test]
async fn a_cache_of_this_size_opens_and_is_whole_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 64).await;
    for _ in 0..3 {
        let looking = closed_bench(dir.path(), 64);
        looking.open_existing().await.unwrap();
        let mut walk = looking.walk();
        assert_eq!(walk.next().await, Some(vec![Kept::Manifest(blob(1), manifest(1, 20))]));
        assert_eq!(walk.next().await, None);
        looking.close().await;
    }
    assert_eq!(bench(dir.path(), 64).await.whole(1, 20).await, 20);
}

#[tokio::test]
async fn a_cache_of_another_size_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 64).await;
    let before = block_files(dir.path());
    // More blocks of the same size, and another block size.
    for given in [96, 400] {
        let looking = closed_bench(dir.path(), given);
        let error = looking.open_existing().await.unwrap_err();
        let text = format!("{} holds a cache of another size than store.disk = {given} MiB", dir.path().display());
        assert_eq!(error.to_string(), text);
        assert_eq!(looking.metrics.store.disk_up.get(), 0);
    }
    assert_eq!(block_files(dir.path()), before);
    // Fewer.
    bench(dir.path(), 96).await.close().await;
    let looking = closed_bench(dir.path(), 64);
    assert!(matches!(looking.open_existing().await.unwrap_err(), OpenError::OtherSize { .. }));
    let grown = bench(dir.path(), 96).await;
    assert_eq!(grown.whole(1, 20).await, 20);
}

#[tokio::test]
async fn no_cache_is_said_and_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    let looking = closed_bench(&nowhere, 64);
    let error = looking.open_existing().await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} holds no cache", nowhere.display()));
    assert!(!nowhere.exists());
    let in_memory = closed_bench(dir.path(), 0);
    assert!(matches!(in_memory.open_existing().await.unwrap_err(), OpenError::Nothing { .. }));
}

#[tokio::test]
async fn a_cache_in_use_is_left_to_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let server = bench(dir.path(), 64).await;
    let error = closed_bench(dir.path(), 64).open_existing().await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by another process", dir.path().display()));
    server.close().await;
    closed_bench(dir.path(), 64).open_existing().await.unwrap();
}
