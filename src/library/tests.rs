//! The queue against a holder that says what the test wants, over a directory.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use super::*;
use crate::metrics::{Metrics, Written, WrittenAs};
use crate::options::Table as _;
use crate::store::{BlobId, CHUNK, ChunkKey};

/// Holds one NAR under whatever path it is asked for, after a permit.
#[derive(Debug)]
struct Held {
    manifest: Option<Arc<Manifest>>,
    store: Store,
    asked: AtomicUsize,
    permits: Semaphore,
    stays: bool,
    /// Asked for this one it dies.
    deadly: Option<HashPart>,
}

impl Holder for Held {
    fn holding(&self, hash: HashPart) -> BoxFuture<'_, Option<Holding>> {
        async move {
            assert_ne!(Some(hash), self.deadly, "on purpose");
            self.permits.acquire().await.ok()?.forget();
            self.asked.fetch_add(1, Ordering::Relaxed);
            Some(Holding {
                narinfo: format!("the narinfo of {hash}\n").into(),
                nar: format!("nar/{hash}-x.nar"),
                manifest: self.manifest.clone()?,
                store: self.store.clone(),
            })
        }
        .boxed()
    }

    fn may_stay(&self, _: HashPart, _: &[u8], _: &Holding, doubted: bool) -> bool {
        self.stays && !doubted
    }

    fn cache_info(&self) -> Bytes {
        Bytes::from_static(b"StoreDir: /nix/store\n")
    }
}

struct Shelf {
    dir: tempfile::TempDir,
    library: Library,
    metrics: LibraryMetrics,
    to: Arc<Upstream>,
    held: Arc<Held>,
    nar: Vec<u8>,
}

/// With a NAR of so many bytes in the store.
async fn shelf(size: usize) -> Shelf {
    let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::default());
    let options = Options::from_toml(&format!("url = 'file://{}'", dir.path().display())).unwrap();
    let to = Upstream::library(options.as_upstream(vec![]).unwrap(), true, metrics.upstream("library")).unwrap();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    let nar: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let blob = BlobId::new(&[7; 32], 0);
    let mut digests = Vec::new();
    for (index, chunk) in (0..).zip(nar.chunks(CHUNK)) {
        digests.push(Manifest::digest(chunk));
        store.put_chunk(ChunkKey { blob, index }, Bytes::copy_from_slice(chunk)).await;
    }
    let manifest = Manifest {
        blob,
        size: size as u64,
        file_hash: [7; 32],
        compression: 0,
        inside: None,
        announced: None,
        digests,
    };
    let (asked, permits) = (AtomicUsize::new(0), Semaphore::new(0));
    let held = Arc::new(Held {
        manifest: Some(Arc::new(manifest)),
        store,
        asked,
        permits,
        stays: true,
        deadly: Some(path(666)),
    });
    let (library, metrics) = (Library::new(metrics.proxy.library.clone()), metrics.proxy.library);
    Shelf { dir, library, metrics, to, held, nar }
}

fn path(n: usize) -> HashPart {
    HashPart::parse(&format!("{n:032}")).unwrap()
}

impl Shelf {
    fn offer(&self, n: usize) {
        self.library.offer(path(n), &self.to, Arc::clone(&self.held) as Arc<dyn Holder>);
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(name)).ok()
    }

    fn wrote(&self, kind: Written, end: WrittenAs) -> u64 {
        self.metrics.writes.of(kind, end).get()
    }
}

#[tokio::test]
async fn what_is_offered_is_written_whole_whatever_its_size() {
    // A chunk, exactly one part and a little, several.
    for size in [1, CHUNK, 9 << 20, 20 << 20] {
        let shelf = shelf(size).await;
        shelf.held.permits.add_permits(9);
        shelf.offer(1);
        shelf.library.finish(Duration::from_secs(30)).await;
        assert!(shelf.read(&format!("nar/{}-x.nar", path(1))) == Some(shelf.nar.clone()), "{size}");
        assert_eq!(
            shelf.read(&format!("{}.narinfo", path(1))).unwrap(),
            format!("the narinfo of {}\n", path(1)).as_bytes()
        );
        assert_eq!(shelf.read("nix-cache-info").unwrap(), b"StoreDir: /nix/store\n");
        assert_eq!(std::fs::read_dir(shelf.dir.path().join(".snowbank")).unwrap().count(), 0);
        assert_eq!(shelf.metrics.queue.get(), 0);
    }
}

#[tokio::test]
async fn a_path_waits_once_and_no_more_than_so_many_wait() {
    let shelf = shelf(1).await;
    for _ in 0..3 {
        (0..WAITING + 10).for_each(|n| shelf.offer(n));
        tokio::task::yield_now().await;
    }
    assert!(shelf.metrics.queue.get() <= i64::try_from(WAITING + WORKERS).unwrap());
    assert!(shelf.metrics.dropped.of(Dropped::Full).get() > 0);
    shelf.held.permits.add_permits(10);
    while shelf.held.asked.load(Ordering::Relaxed) < 10 {
        tokio::task::yield_now().await;
    }
    // The end comes, and most of them are left.
    let before = shelf.metrics.queue.get();
    shelf.library.finish(Duration::from_millis(200)).await;
    let stopped = shelf.metrics.dropped.of(Dropped::Stopping).get();
    assert!(stopped > 4000 && stopped <= u64::try_from(before).unwrap(), "{stopped} of {before}");
    assert_eq!(shelf.metrics.queue.get(), 0);
    shelf.offer(9_999);
    assert_eq!(shelf.metrics.queue.get(), 0, "nothing is taken any more");
}

#[tokio::test]
async fn what_is_there_is_left_unless_it_is_doubted() {
    let shelf = shelf(300_000).await;
    shelf.held.permits.add_permits(9);
    let rest = async |written| {
        while shelf.metrics.queue.get() > 0 || shelf.held.asked.load(Ordering::Relaxed) < written {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    shelf.offer(1);
    rest(1).await;
    let nar = shelf.dir.path().join(format!("nar/{}-x.nar", path(1)));
    let narinfo = shelf.dir.path().join(format!("{}.narinfo", path(1)));
    // Of the right size, so that nobody can tell by a look.
    std::fs::write(&nar, vec![0; 300_000]).unwrap();
    std::fs::write(&narinfo, "another one\n").unwrap();
    shelf.offer(1);
    rest(2).await;
    assert_eq!((std::fs::read(&nar).unwrap()[9], std::fs::read(&narinfo).unwrap().len()), (0, 12));
    assert_eq!((shelf.wrote(Written::Nar, WrittenAs::There), shelf.wrote(Written::NarInfo, WrittenAs::There)), (1, 1));
    shelf.library.doubt(path(1));
    shelf.offer(1);
    rest(3).await;
    assert!(std::fs::read(&nar).unwrap() == shelf.nar && std::fs::read(&narinfo).unwrap().len() > 12);
    assert!(!shelf.library.is_doubted(path(1)), "it is right now");
    // A cut one is seen by its size.
    std::fs::write(&nar, "cut").unwrap();
    shelf.offer(1);
    rest(4).await;
    assert!(std::fs::read(&nar).unwrap() == shelf.nar);
    let replaced = [Written::Nar, Written::NarInfo].map(|kind| shelf.wrote(kind, WrittenAs::Replaced));
    assert_eq!(replaced, [2, 1]);
}

#[tokio::test]
async fn what_is_not_whole_any_more_is_left_out_without_a_trace() {
    let shelf = shelf(20 << 20).await;
    shelf.held.permits.add_permits(9);
    shelf.held.store.remove_chunk(ChunkKey { blob: BlobId::new(&[7; 32], 0), index: 70 });
    shelf.offer(1);
    shelf.library.finish(Duration::from_secs(30)).await;
    assert_eq!(shelf.metrics.dropped.of(Dropped::Hole).get(), 1);
    assert_eq!(shelf.read(&format!("{}.narinfo", path(1))), None);
    assert_eq!(std::fs::read_dir(shelf.dir.path().join("nar")).unwrap().count(), 0);
}

#[tokio::test]
async fn doubts_are_bounded() {
    let library = Library::new(Metrics::default().proxy.library);
    (0..DOUBTED + 5).for_each(|n| library.doubt(path(n)));
    assert!(library.is_doubted(path(0)) && !library.is_doubted(path(DOUBTED)));
}

#[tokio::test]
async fn r35_a_path_that_kills_its_worker_keeps_no_other_from_being_written() {
    let shelf = shelf(1).await;
    shelf.held.permits.add_permits(9);
    for _ in 0..WORKERS + 1 {
        shelf.offer(666);
        while shelf.metrics.queue.get() > 0 {
            tokio::task::yield_now().await;
        }
    }
    shelf.offer(1);
    shelf.library.finish(Duration::from_secs(30)).await;
    assert!(shelf.read(&format!("{}.narinfo", path(1))).is_some());
}
