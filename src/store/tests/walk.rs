//! A walk tells everything that holds, and nothing else.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

/// The text of small object `n` in its version `version`, longer than a page now and then.
fn text(n: u32, version: u32) -> Bytes {
    let len = if n.is_multiple_of(50) { 9000 } else { 600 };
    let mut text = format!("{n} {version} ").into_bytes();
    text.resize(len, b'x');
    text.into()
}

/// Everything a walk tells, with how often; values that contradict each other fail the test.
async fn walked(store: &Store) -> (BTreeMap<MetaKey, (Kept, u32)>, Walked) {
    let (mut found, mut walk) = (BTreeMap::new(), store.walk());
    while let Some(step) = walk.next().await {
        assert!(!step.is_empty());
        for kept in step {
            let key = match &kept {
                Kept::Manifest(blob, _) => MetaKey::Manifest(*blob),
                Kept::Entry(key, _) => MetaKey::Entry(*key),
            };
            let (before, times) = found.entry(key).or_insert((kept.clone(), 0));
            assert_eq!(*before, kept);
            *times += 1;
        }
    }
    assert_eq!(walk.next().await, None);
    (found, walk.walked())
}

/// The text of each object told. A manifest that is not one of `manifest` fails the test.
async fn texts(store: &Store) -> BTreeMap<EntryKey, Bytes> {
    let (found, walked) = walked(store).await;
    assert!(walked.complete && walked.unreadable == 0, "{walked:?}");
    let text = |(kept, _)| match kept {
        Kept::Entry(key, text) => Some((key, text)),
        Kept::Manifest(..) => None,
    };
    found.into_values().filter_map(text).collect()
}

#[tokio::test]
async fn everything_put_is_told_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    // The meta tier is 16 blocks of 1 MiB, of which this fills nine. In memory is room for a fourth.
    let first = bench(dir.path(), 64).await;
    for n in 0..2000 {
        first.put_entry(entry(n), text(n, 0)).await;
    }
    for n in 0..100 {
        first.put_manifest(blob(n), manifest(n % 4, 3)).await;
    }
    let check = async |store: &Store| {
        let (found, walked) = walked(store).await;
        assert_eq!(found.len(), 2100);
        assert!(found.values().all(|(_, times)| *times == 1));
        for n in 0..2000 {
            assert_eq!(found[&MetaKey::Entry(entry(n))].0, Kept::Entry(entry(n), text(n, 0)));
        }
        for n in 0..100 {
            assert_eq!(found[&MetaKey::Manifest(blob(n))].0, Kept::Manifest(blob(n), manifest(n % 4, 3)));
        }
        assert!(walked.complete && walked.unreadable == 0 && walked.blocks >= 16, "{walked:?}");
    };
    check(&first).await;
    first.close().await;
    let (found, walked) = walked(&first).await;
    assert!(!found.is_empty() && !walked.complete, "what is in memory, and that there should be more: {walked:?}");

    let second = bench(dir.path(), 64).await;
    check(&second).await;
    assert_eq!(second.inner.catalog.in_memory(), 0, "nothing comes into memory");
    let reads = |place| second.metrics.store.reads.of(StoreTier::Meta, place).get();
    assert_eq!(reads(Place::Memory) + reads(Place::Disk) + reads(Place::Nowhere), 0);
}

#[tokio::test]
async fn replaced_and_removed_ones_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    for version in 0..3 {
        for n in 0..500 {
            first.put_entry(entry(n), text(n, version)).await;
        }
    }
    for n in 0..100 {
        first.remove_entry(&entry(n));
    }
    first.put_manifest(blob(1), manifest(1, 3)).await;
    first.remove_manifest(blob(1));
    let expected: BTreeMap<_, _> = (100..500).map(|n| (entry(n), text(n, 2))).collect();
    assert!(texts(&first).await == expected);
    first.close().await;

    let second = bench(dir.path(), 64).await;
    assert!(texts(&second).await == expected);
    second.put_entry(entry(7), text(7, 9)).await;
    second.remove_entry(&entry(400));
    let found = texts(&second).await;
    assert_eq!((found.len(), found.get(&entry(7)), found.get(&entry(400))), (400, Some(&text(7, 9)), None));
}

#[tokio::test]
async fn what_changed_before_the_disk_was_open_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    for n in 0..3 {
        first.put_entry(entry(n), text(n, 0)).await;
    }
    first.close().await;

    let second = closed_bench(dir.path(), 64);
    second.put_entry(entry(0), text(0, 1)).await;
    second.remove_entry(&entry(1));
    second.put_entry(entry(3), text(3, 0)).await;
    let (found, walked) = walked(&second).await;
    assert_eq!(found.len(), 2, "what is in memory");
    assert!(!walked.complete);
    let expected: BTreeMap<_, _> = [(0, 1), (2, 0), (3, 0)].into_iter().map(|(n, v)| (entry(n), text(n, v))).collect();
    second.open_disk().await.unwrap();
    assert!(texts(&second).await == expected);
}

#[tokio::test]
async fn a_store_in_memory_tells_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 0);
    // There is room for 2 MiB: the oldest have gone.
    for n in 0..4000 {
        bench.put_entry(entry(n), text(n, 0)).await;
    }
    bench.put_manifest(blob(1), manifest(1, 3)).await;
    bench.put_entry(entry(4000), text(4000, 0)).await;
    bench.remove_entry(&entry(4000));
    let (mut found, walked) = walked(&bench).await;
    assert!(walked.complete && walked.blocks == 0);
    assert_eq!(found.len(), bench.inner.catalog.in_memory());
    assert_eq!(found.remove(&MetaKey::Manifest(blob(1))), Some((Kept::Manifest(blob(1), manifest(1, 3)), 1)));
    let newest = u32::try_from(found.len()).unwrap();
    assert!((500..3500).contains(&newest), "{newest}");
    let expected: BTreeMap<_, _> =
        (4000 - newest..4000).map(|n| (MetaKey::Entry(entry(n)), (Kept::Entry(entry(n), text(n, 0)), 1))).collect();
    assert!(found == expected);
}

/// The order in which values leave the memory is the same as if nobody had walked.
#[tokio::test]
async fn a_walk_is_no_use_of_what_it_tells() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 0);
    let mut put = 4000;
    for n in 0..put {
        bench.put_entry(entry(n), text(n, 0)).await;
    }
    for _ in 0..20 {
        let (found, _) = walked(&bench).await;
        let newest = u32::try_from(found.len()).unwrap();
        assert!((put - newest..put).all(|n| found.contains_key(&MetaKey::Entry(entry(n)))), "the oldest have gone");
        for n in put..put + 100 {
            bench.put_entry(entry(n), text(n, 0)).await;
        }
        put += 100;
    }
}

#[tokio::test]
async fn a_walk_ends_when_the_disk_goes() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..1000 {
        bench.put_entry(entry(n), text(n, 0)).await;
    }
    let mut walk = bench.walk();
    assert!(walk.next().await.is_some());
    bench.close().await;
    assert_eq!(walk.next().await, None);
    assert!(!walk.walked().complete);
}

#[tokio::test]
async fn damage_is_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..1000 {
        bench.put_entry(entry(n), text(n, 0)).await;
    }
    bench.close().await;
    let mut damaged = 0;
    for file in meta_files(dir.path()) {
        let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
        // In a value, in a length, and in an index page: only the first two cost anything.
        for (at, blank) in [(20 * 4096 + 50, false), (40 * 4096 + 4, false), (0, true)] {
            let mut header = [0; 36];
            file.read_exact_at(&mut header, at / 4096 * 4096).unwrap();
            let is_entry = header[32..] == [0x97, 3, 0x27, 0];
            if is_entry || blank && header != [0; 36] {
                damaged += u64::from(is_entry);
                file.write_all_at(&[0xff], at).unwrap();
            }
        }
    }
    assert!(damaged >= 6);
    let looking = super::bench(dir.path(), 64).await;
    let (found, walked) = walked(&looking).await;
    assert!(walked.complete && walked.unreadable >= damaged, "{walked:?}");
    // Of the blocks whose index page is damaged foyer recovers less, and the walk tells what the store can answer.
    for n in 0..1000 {
        let kept = looking.entry(entry(n)).await.map(|text| Kept::Entry(entry(n), text));
        assert_eq!(found.get(&MetaKey::Entry(entry(n))).map(|(kept, _)| kept.clone()), kept);
    }
}

/// With the store open foyer knows where everything is: damage of its index pages hides nothing.
#[tokio::test]
async fn a_damaged_index_page_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..1000 {
        bench.put_entry(entry(n), text(n, 0)).await;
    }
    assert_eq!(texts(&bench).await.len(), 1000);
    for file in meta_files(dir.path()) {
        let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100).unwrap();
        file.write_all_at(&[!byte[0]], 100).unwrap();
    }
    assert_eq!(texts(&bench).await.len(), 1000);
}

fn meta_files(dir: &Path) -> Vec<PathBuf> {
    block_files(dir).into_iter().filter(|file| file.strip_prefix(dir).unwrap().starts_with("meta")).collect()
}

/// The writers go around the meta tier twice while walks are under way, and come back to the same keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_among_writers_tells_no_wrong_value() {
    const KEYS: u32 = 400;
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    for n in 0..200 {
        bench.put_entry(entry(KEYS + n), text(1, n)).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                for version in 1..=12 {
                    for n in (w..KEYS).step_by(2) {
                        store.put_entry(entry(n), text(n, version)).await;
                        if n % 8 == 0 {
                            store.remove_entry(&entry(n));
                        }
                    }
                }
            })
        })
        .collect();
    let walker = {
        let (store, done) = (bench.store.clone(), done.clone());
        // In a task, which also shows that a walk can be sent to one.
        tokio::spawn(async move {
            let (mut walks, mut told) = (0, 0);
            while !done.load(Ordering::Relaxed) || walks < 2 {
                let (mut walk, mut versions) = (store.walk(), BTreeMap::new());
                while let Some(step) = walk.next().await {
                    for kept in step {
                        let Kept::Entry(key, found) = kept else { panic!("nobody put a manifest") };
                        let mut words = std::str::from_utf8(&found).unwrap().split(' ');
                        let mut word = || words.next().unwrap().parse::<u32>().unwrap();
                        let (n, version) = (word(), word());
                        assert!(found == text(n, version) && (key == entry(n) || key == entry(KEYS + version)));
                        let before = versions.insert(key, version).unwrap_or(0);
                        assert!(before <= version, "{n} went from version {before} back to {version}");
                        told += 1;
                    }
                }
                assert!(walk.walked().complete);
                walks += 1;
            }
            (walks, told)
        })
    };
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let (walks, told) = walker.await.unwrap();
    assert!(told > 500, "{told} told in {walks} walks");
    let expected = (0..KEYS).filter(|n| n % 8 != 0).count();
    let found = texts_of_busy(&bench).await;
    assert_eq!((0..KEYS).filter(|n| found.get(&entry(*n)) == Some(&text(*n, 12))).count(), expected);
    assert!((0..KEYS).all(|n| n % 8 != 0 || !found.contains_key(&entry(n))));
}

async fn texts_of_busy(store: &Store) -> BTreeMap<EntryKey, Bytes> {
    let (found, walked) = walked(store).await;
    assert!(walked.complete);
    let text = |(kept, _)| match kept {
        Kept::Entry(key, text) => Some((key, text)),
        Kept::Manifest(..) => None,
    };
    found.into_values().filter_map(text).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any bytes anywhere in the block files, before the store opens or while it is open.
    #[test]
    fn random_bytes_on_disk_are_skipped(
        damage in proptest::collection::vec((0usize..16, 0u64..1 << 20, proptest::collection::vec(any::<u8>(), 1..5000)), 1..40),
        cut in proptest::option::of((0usize..16, 0u64..1 << 20)),
        open: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let first = bench(dir.path(), 64).await;
            for n in 0..700 {
                first.put_entry(entry(n), text(n, 0)).await;
            }
            first.close().await;
            let ahead = if open { Some(bench(dir.path(), 64).await) } else { None };
            let files = meta_files(dir.path());
            for (file, at, bytes) in &damage {
                let file = OpenOptions::new().write(true).open(&files[*file]).unwrap();
                let len = bytes.len().min(usize::try_from((1 << 20) - at).unwrap());
                file.write_all_at(&bytes[..len], *at).unwrap();
            }
            if let Some((file, len)) = cut {
                OpenOptions::new().write(true).open(&files[file]).unwrap().set_len(len).unwrap();
            }
            let store = match ahead {
                Some(store) => store,
                None => bench(dir.path(), 64).await,
            };
            let (found, walked) = walked(&store).await;
            assert!(walked.complete && found.len() <= 700);
            for (key, (kept, times)) in found {
                assert_eq!(times, 1);
                let Kept::Entry(entry_key, found) = kept else { panic!("nobody put a manifest") };
                let n: u32 = std::str::from_utf8(&found).unwrap().split(' ').next().unwrap().parse().unwrap();
                assert!(found == text(n, 0) && entry_key == entry(n) && key == MetaKey::Entry(entry_key));
            }
        });
    }
}
