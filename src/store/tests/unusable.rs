//! Directories that cannot be used: the store works in memory and says why.

use super::*;

async fn works_in_memory(bench: &Bench) {
    bench.put_chunk(key(1, 0), bytes(1, 0)).await;
    bench.put_entry(entry(1), Bytes::from_static(b"x")).await;
    assert!(bench.flush_chunks().await);
    assert_eq!(bench.whole(1, 1).await, 1);
    assert!(bench.entry(entry(1)).await.is_some());
    assert_eq!(bench.metrics.store.disk_up.get(), 0);
    bench.remove_entry(&entry(1));
    assert_eq!(bench.entry(entry(1)).await, None);
}

#[tokio::test]
async fn no_directory_is_a_choice() {
    let metrics = Metrics::default();
    let options = <Options as crate::options::Table>::from_toml("").unwrap();
    let bench = Bench { store: Store::memory_only(&options, metrics.store.clone()), metrics };
    bench.open_disk().await.unwrap();
    works_in_memory(&bench).await;
    assert_eq!(bench.metrics.store.disk_failures.get(), 0);
}

#[tokio::test]
async fn no_disk_is_a_choice() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(&dir.path().join("cache"), 0);
    bench.open_disk().await.unwrap();
    works_in_memory(&bench).await;
    assert_eq!(bench.metrics.store.disk_failures.get(), 0);
    assert!(!dir.path().join("cache").exists());
    for (disk, mistakes) in [("0 B", 0), ("1 B", 1), ("63 MiB", 1), ("64 MiB", 0)] {
        let options = <Options as crate::options::Table>::from_toml(&format!("dir = '/d'\ndisk = '{disk}'")).unwrap();
        let mut told = Mistakes::default();
        options.check("store", &mut told);
        assert_eq!(told.lines().len(), mistakes, "{disk}: {told}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made() {
    let bench = closed_bench(Path::new("/dev/null/cache"), 64);
    let error = bench.open_disk().await.unwrap_err();
    assert!(matches!(&error, OpenError::Directory { .. }), "{error}");
    assert_eq!(bench.metrics.store.disk_failures.get(), 1);
    works_in_memory(&bench).await;
}

#[tokio::test]
async fn a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    let second = closed_bench(dir.path(), 64);
    let error = second.open_disk().await.unwrap_err();
    assert!(matches!(&error, OpenError::InUse { .. }), "{error}");
    works_in_memory(&second).await;
    // When the first ends the second takes over by itself.
    first.close().await;
    second.until(|second| second.metrics.store.disk_up.get() == 1).await;
    second.fill(1, 3).await;
}

#[tokio::test]
async fn too_little_disk_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 63);
    let error = bench.open_disk().await.unwrap_err().to_string();
    assert_eq!(error, "store.disk = 63 MiB is too small: the least is 64 MiB");
    let mut mistakes = Mistakes::default();
    Options { memory: ByteSize(1), ..bench.inner.options.clone() }.check("store", &mut mistakes);
    let lines = mistakes.lines();
    assert!(lines[0].starts_with("store.disk = \"63 MiB\": expected at least \"64 MiB\""), "{mistakes}");
    assert!(lines[1].starts_with("store.memory = \"1 B\": expected at least \"16 MiB\""), "{mistakes}");
    works_in_memory(&bench).await;
}

#[tokio::test]
async fn a_read_only_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path(), 100) else { return };
    disk.remount("ro");
    let bench = closed_bench(&disk.0.join("cache"), 64);
    let error = bench.open_disk().await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Directory { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem),
        "{error}"
    );
    works_in_memory(&bench).await;
    disk.remount("rw");
    bench.until(|bench| bench.metrics.store.disk_up.get() == 1).await;
    bench.fill(1, 3).await;
    bench.close().await;
}

#[tokio::test]
async fn a_closed_store_goes_on_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    bench.close().await;
    bench.close().await;
    works_in_memory(&bench).await;
}
