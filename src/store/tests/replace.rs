//! A manifest is replaced only by who knows the one that stands there.

use super::*;

/// Another manifest of the same body.
fn proven(n: u32) -> Arc<Manifest> {
    let announced =
        Announced { store_hash: [b'a'; 32], nar_hash: [n.to_le_bytes()[0]; 32], nar_size: 1, basis: [0; 16] };
    Arc::new(Manifest { announced: Some(announced), ..(*manifest(n, 3)).clone() })
}

#[tokio::test]
async fn the_new_one_stands_there_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path(), 64).await;
    for n in [1, 2] {
        first.put_manifest(blob(n), manifest(n, 3)).await;
    }
    assert!(first.replace_manifest(&manifest(1, 3), proven(1)).await);
    assert_eq!(first.manifest(blob(1)).await, Some(proven(1)));
    first.close().await;

    let second = bench(dir.path(), 64).await;
    let entries = || second.inner.catalog.in_memory();
    assert!(second.replace_manifest(&manifest(2, 3), proven(2)).await);
    assert_eq!(entries(), 0, "what was on disk only stays there");
    for n in [1, 2] {
        assert_eq!(second.manifest(blob(n)).await, Some(proven(n)));
        assert!(!second.replace_manifest(&manifest(n, 3), manifest(n, 3)).await, "it is not the old one any more");
    }
    assert_eq!(entries(), 2);
    second.close().await;

    let third = bench(dir.path(), 64).await;
    for n in [1, 2] {
        assert_eq!(third.manifest(blob(n)).await, Some(proven(n)));
    }
}

#[tokio::test]
async fn without_a_disk_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let bench = closed_bench(dir.path(), 0);
    assert!(!bench.replace_manifest(&manifest(1, 3), proven(1)).await, "nothing stands there");
    bench.put_manifest(blob(1), manifest(1, 3)).await;
    assert!(!bench.replace_manifest(&manifest(1, 3), proven(2)).await, "that is another body's");
    assert!(bench.replace_manifest(&manifest(1, 3), proven(1)).await);
    assert_eq!(bench.manifest(blob(1)).await, Some(proven(1)));
    bench.remove_manifest(blob(1));
    assert!(!bench.replace_manifest(&proven(1), manifest(1, 3)).await);
    assert_eq!(bench.manifest(blob(1)).await, None);
}

/// Whatever the order: what was removed stays removed, and of two that replace the same one only one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_and_another_replacement_win() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), 64).await;
    let mut replaced = 0;
    for n in 0..300 {
        bench.put_manifest(blob(n), manifest(n, 3)).await;
        let replace = |new| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.replace_manifest(&manifest(n, 3), new).await })
        };
        if n % 2 == 0 {
            let replacing = replace(proven(n));
            bench.remove_manifest(blob(n));
            replaced += u32::from(replacing.await.unwrap());
            assert_eq!(bench.manifest(blob(n)).await, None);
        } else {
            let other = Arc::new(Manifest { compression: 9, ..(*manifest(n, 3)).clone() });
            let (one, two) = (replace(proven(n)), replace(other.clone()));
            let (one, two) = (one.await.unwrap(), two.await.unwrap());
            assert!(one != two, "just one of them");
            assert_eq!(bench.manifest(blob(n)).await, Some(if one { proven(n) } else { other }));
        }
    }
    println!("{replaced} replaced before they were removed");
    bench.close().await;
    let again = super::bench(dir.path(), 64).await;
    for n in (0..300).step_by(2) {
        assert_eq!(again.manifest(blob(n)).await, None);
    }
}
