//! A full disk: at the start, and later where nothing could be allocated in advance.

use std::fs::{File, OpenOptions};
use std::io::Write;

use super::*;

/// Takes all the space that is left.
fn take_the_rest(disk: &SmallDisk) -> PathBuf {
    let path = disk.0.join("junk");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[1; 65_536]).is_ok() {}
    while file.write_all(&[1; 4096]).is_ok() {}
    path
}

#[tokio::test]
async fn a_disk_without_the_space_is_refused_and_used_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path(), 100) else { return };
    let junk = take_the_rest(&disk);
    let bench = closed_bench(&disk.0.join("cache"), 64);
    let error = bench.open_disk().await.unwrap_err();
    assert!(
        matches!(&error, OpenError::NoSpace { missing, .. } if *missing == 64 * MIB)
            || matches!(&error, OpenError::Directory { .. }),
        "{error}"
    );
    bench.put_chunk(key(1, 0), bytes(1, 0)).await;
    assert_eq!(bench.whole(1, 1).await, 1);
    std::fs::remove_file(junk).unwrap();
    bench.until(|bench| bench.metrics.store.disk_up.get() == 1).await;
    bench.fill(2, 30).await;
    bench.close().await;
}

#[tokio::test]
async fn too_little_space_is_told_in_numbers_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path(), 66) else { return };
    let bench = closed_bench(&disk.0.join("cache"), 64);
    let error = bench.open_disk().await.unwrap_err().to_string();
    assert!(error.contains("needs 64 MiB more") && error.contains("lower store.disk"), "{error}");
    assert_eq!(allocated(&disk.0.join("cache")), 0);
}

/// As on a file system that cannot allocate in advance: the blocks are made sparse behind the store's back, then the
/// disk fills up. foyer's flusher ends at the first failed write and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stops_taking_writes_is_taken_out_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path(), 100) else { return };
    let cache = disk.0.join("cache");
    let bench = bench(&cache, 64).await;
    for file in block_files(&cache) {
        let file = OpenOptions::new().write(true).open(file).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(0).unwrap();
        file.set_len(length).unwrap();
    }
    let junk = take_the_rest(&disk);
    for index in 0..100 {
        let put = bench.put_chunk(key(1, index), bytes(1, index));
        tokio::time::timeout(Duration::from_secs(10), put).await.expect("nobody waits for a sick disk");
    }
    bench.until(|bench| bench.metrics.store.disk_up.get() == 0).await;
    assert!(bench.metrics.store.lost.get() > 0);
    assert!(bench.flush_chunks().await, "in memory there is nothing to wait for");
    bench.put_chunk(key(2, 0), bytes(2, 0)).await;
    assert_eq!(bench.whole(2, 1).await, 1, "it goes on in memory");

    std::fs::remove_file(junk).unwrap();
    bench.until(|bench| bench.metrics.store.disk_up.get() == 1).await;
    bench.fill(3, 60).await;
    bench.close().await;
    let again = super::bench(&cache, 64).await;
    assert_eq!(again.whole(3, 60).await, 60);
    again.close().await;
}
