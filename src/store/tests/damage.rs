//! Files that rot: what is damaged is a miss, never wrong bytes and never an error.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;

async fn filled(dir: &Path) {
    let bench = bench(dir, 64).await;
    bench.fill(1, 100).await;
    for n in 0..50 {
        bench.put_entry(entry(n), bytes(n, 0).slice(..2000)).await;
    }
    bench.close().await;
}

/// Chunks and entries that are still there, after all were compared.
async fn survivors(dir: &Path) -> (u32, u32) {
    let bench = bench(dir, 64).await;
    let chunks = bench.whole(1, 100).await;
    let mut entries = 0;
    for n in 0..50 {
        if let Some(found) = bench.entry(entry(n)).await {
            assert!(found == bytes(n, 0).slice(..2000), "entry {n} has wrong bytes");
            entries += 1;
        }
    }
    // What is missing can be put again, and then is there.
    bench.fill(1, 100).await;
    assert_eq!(bench.whole(1, 100).await, 100);
    bench.close().await;
    (chunks, entries)
}

#[tokio::test]
async fn flipped_bits_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let mut seed = 1u64;
    for file in block_files(dir.path()) {
        let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
        let length = file.metadata().unwrap().len();
        for _ in 0..20 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut byte = [0];
            file.read_exact_at(&mut byte, (seed >> 8) % length).unwrap();
            byte[0] ^= 1 << (seed & 7);
            file.write_all_at(&byte, (seed >> 8) % length).unwrap();
        }
    }
    let (chunks, _) = survivors(dir.path()).await;
    assert!((1..100).contains(&chunks), "some chunks were hit, some not: {chunks}");
}

#[tokio::test]
async fn blank_and_foreign_pages_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let files = block_files(dir.path());
    for (n, file) in files.iter().enumerate() {
        let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
        // A page of zeros in the middle, and the first pages of another block.
        file.write_all_at(&[0; 4096], 1 << 19).unwrap();
        let mut pages = vec![0; 65_536];
        let other = std::fs::File::open(&files[(n + 1) % files.len()]).unwrap();
        other.read_exact_at(&mut pages, 0).unwrap();
        if n % 3 == 0 {
            file.write_all_at(&pages, 0).unwrap();
        }
    }
    let (chunks, _) = survivors(dir.path()).await;
    assert!((1..100).contains(&chunks), "{chunks}");
}

#[tokio::test]
async fn truncated_and_deleted_files_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    for (n, file) in block_files(dir.path()).iter().enumerate() {
        match n % 4 {
            0 => std::fs::remove_file(file).unwrap(),
            1 => OpenOptions::new().write(true).open(file).unwrap().set_len(100_001).unwrap(),
            2 => OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap(),
            _ => {}
        }
    }
    let before = allocated(dir.path());
    let (chunks, _) = survivors(dir.path()).await;
    assert!(chunks < 100, "{chunks}");
    assert!(allocated(dir.path()) > before, "what was cut is allocated again");
    assert_eq!(allocated(dir.path()), 64 * MIB);
}

/// A file that shrinks while the store is open: the read itself fails, which foyer reports as an error each time.
#[tokio::test]
async fn a_read_that_fails_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    bench.fill(1, 100).await;
    for file in block_files(&dir.path().join(".")) {
        OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    let found = bench.whole(1, 100).await;
    assert!(found < 100);
    assert!(bench.metrics.store.bad_reads.get() > 0);
    let missing: Vec<u32> = (0..100).filter(|index| !bench.has_chunk(key(1, *index))).collect();
    assert!(!missing.is_empty(), "what failed once is forgotten");
}

/// A fill that was killed before its hash turned out wrong leaves chunks under the name of the right ones (R11).
#[tokio::test]
async fn a_chunk_that_is_not_its_manifests_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    first.put_chunk(key(1, 0), bytes(2, 0)).await;
    first.close().await;

    let second = bench(dir.path(), 64).await;
    assert_eq!(second.chunk(key(1, 0), &Manifest::digest(&bytes(1, 0))).await, None);
    assert_eq!(second.metrics.store.wrong_chunks.get(), 1);
    second.put_chunk(key(1, 0), bytes(1, 0)).await;
    assert!(second.flush_chunks().await);
    assert_eq!(second.chunk(key(1, 0), &Manifest::digest(&bytes(1, 0))).await, Some(bytes(1, 0)));
}
