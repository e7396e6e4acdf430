//! How full the tiers are, as operators see it.

use super::*;

#[tokio::test]
async fn what_is_put_is_counted_and_never_more_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 64);
    assert_eq!(bench.usage().disk, DiskUsage::Opening);
    assert_eq!((bench.usage().nar.used, bench.usage().meta.used), (0, 0));
    bench.open_disk().await.unwrap();
    let DiskUsage::Up(empty) = bench.usage().disk else { panic!("{:?}", bench.usage()) };
    assert_eq!(empty.used, 0);
    assert!(empty.capacity > 60 * MIB && empty.capacity <= 64 * MIB, "{empty:?}");
    bench.fill(1, 400).await; // 100 MiB
    let usage = bench.usage();
    let DiskUsage::Up(full) = usage.disk else { panic!("{usage:?}") };
    assert!(full.used > full.capacity / 2 && full.used <= full.capacity, "{full:?}");
    assert!(usage.nar.used > 0 && usage.nar.used <= usage.nar.capacity, "{usage:?}");
    assert_eq!(usage.nar.capacity + usage.meta.capacity, LEAST_MEMORY);
    bench.close().await;
}

#[tokio::test]
async fn without_a_disk_it_says_why() {
    let options = Options { dir: None, disk: ByteSize(0), memory: ByteSize(LEAST_MEMORY), scrub: Period::seconds(0) };
    let store = Store::memory_only(&options, Metrics::default().store);
    assert_eq!(store.usage().disk, DiskUsage::Off);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let bench = closed_bench(&file, 64);
    assert!(bench.open_disk().await.is_err());
    assert_eq!(bench.usage().disk, DiskUsage::Down);
}
