//! Tests of the whole store on real files, one file for each promise.

mod damage;
mod disk_full;
mod existing;
mod full_speed;
mod geometry_change;
mod peek;
mod pinned;
mod replace;
mod restart;
mod second_chance;
mod unusable;
mod usage;
mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::metrics::Metrics;

const MIB: u64 = 1 << 20;

/// A store and what it counts.
struct Bench {
    store: Store,
    metrics: Metrics,
}

impl std::ops::Deref for Bench {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

/// A store with the least memory, so that most reads come from disk, that has not been opened.
fn closed_bench(dir: &Path, disk_mib: u64) -> Bench {
    let options = Options {
        dir: Some(dir.to_owned()),
        disk: ByteSize(disk_mib * MIB),
        memory: ByteSize(LEAST_MEMORY),
        scrub: Period::seconds(0),
    };
    let metrics = Metrics::default();
    Bench { store: Store::memory_only(&options, metrics.store.clone()), metrics }
}

async fn bench(dir: &Path, disk_mib: u64) -> Bench {
    let bench = closed_bench(dir, disk_mib);
    bench.open_disk().await.unwrap();
    bench
}

impl Bench {
    /// Puts the chunks `0..count` of blob `n` and waits until they are written.
    async fn fill(&self, n: u32, count: u32) {
        for index in 0..count {
            self.put_chunk(key(n, index), bytes(n, index)).await;
        }
        assert!(self.flush_chunks().await);
    }

    /// How many of the chunks `0..count` of blob `n` are there. Wrong bytes fail the test.
    async fn whole(&self, n: u32, count: u32) -> u32 {
        let mut found = 0;
        for index in 0..count {
            let expected = bytes(n, index);
            if let Some(chunk) = self.chunk(key(n, index), &Manifest::digest(&expected)).await {
                assert!(chunk == expected, "chunk {index} of {n} has wrong bytes");
                found += 1;
            }
        }
        // foyer itself never gives wrong bytes: the digests had nothing to do.
        assert_eq!(self.metrics.store.wrong_chunks.get(), 0);
        found
    }

    /// The value of one of foyer's counters for operation `op`, over both tiers.
    fn foyer(&self, family: &str, op: &str) -> f64 {
        let families = self.metrics.registry.gather();
        let family = families.iter().find(|f| f.name() == family).expect("foyer has this metric");
        let of_op = |m: &&prometheus::proto::Metric| m.get_label().iter().any(|l| l.name() == "op" && l.value() == op);
        let metrics: Vec<_> = family.get_metric().iter().filter(of_op).collect();
        assert_eq!(metrics.len(), 2, "one for each tier");
        metrics.iter().map(|m| m.get_counter().get_value()).sum()
    }

    /// Waits until `what` is true.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if what(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited 20 s in vain");
    }
}

fn blob(n: u32) -> BlobId {
    BlobId::new(blake3::hash(&n.to_le_bytes()).as_bytes(), 0)
}

fn key(n: u32, index: u32) -> ChunkKey {
    ChunkKey::new(blob(n), index)
}

/// The bytes of a chunk, different in each.
fn bytes(n: u32, index: u32) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&n.to_le_bytes()).update(&index.to_le_bytes());
    let mut bytes = vec![0; CHUNK];
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn entry(n: u32) -> EntryKey {
    EntryKey::new(1, *blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn manifest(n: u32, chunks: u32) -> Arc<Manifest> {
    Arc::new(Manifest {
        blob: blob(n),
        size: u64::from(chunks) * CHUNK as u64,
        file_hash: *blake3::hash(&n.to_le_bytes()).as_bytes(),
        compression: 2,
        inside: None,
        announced: None,
        digests: (0..chunks).map(|index| Manifest::digest(&bytes(n, index))).collect(),
    })
}

/// The block files of both tiers.
fn block_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tier in ["nar", "meta"] {
        for geometry in std::fs::read_dir(dir.join(tier)).unwrap() {
            let geometry = std::fs::read_dir(geometry.unwrap().path()).unwrap();
            files.extend(geometry.map(|file| file.unwrap().path()));
        }
    }
    files
}

/// Bytes that a directory takes on disk.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    block_files(dir).iter().map(|file| std::fs::metadata(file).unwrap().blocks() * 512).sum()
}

/// A file system of its own in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, after saying why, where nothing can be mounted.
    fn new(under: &Path, mib: u64) -> Option<Self> {
        let dir = under.join("small");
        std::fs::create_dir(&dir).unwrap();
        let size = format!("size={mib}m");
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            other => {
                println!("skipped: cannot mount a small file system: {other:?}");
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = std::process::Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the threads of a disk tier may still hold files.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
