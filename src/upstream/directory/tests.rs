//! Directories as they are found: whole, unmounted, with links, and hanging.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::metrics::Metrics;
use crate::nix::cache_info;
use crate::options::Table as _;
use crate::upstream::tests::{nar, small};
use crate::upstream::{Said, Upstream, UpstreamError};

struct Cache {
    dir: tempfile::TempDir,
    upstream: Arc<Upstream>,
}

fn cache(more: &str) -> Cache {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a cache");
    std::fs::create_dir_all(root.join("nar")).unwrap();
    std::fs::write(root.join(cache_info::NAME), "StoreDir: /nix/store\n").unwrap();
    let url = format!("file://{}/a%20cache", dir.path().display());
    let options = Options::from_toml(&format!("url = '{url}'\nname = 'test'\ntrust = 'origin'\n{more}")).unwrap();
    Cache { dir, upstream: Upstream::new(options, 10, Metrics::default().upstream("test")).unwrap() }
}

impl Cache {
    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("a cache")
    }

    fn put(&self, name: &str, text: &[u8]) {
        std::fs::write(self.root().join(name), text).unwrap();
    }

    async fn nar(&self, name: &str, from: u64) -> Result<Said<(u64, Vec<u8>)>, UpstreamError> {
        let target = format!("{}{name}", self.upstream.base().path());
        nar(&self.upstream, &target, from).await
    }
}

#[tokio::test]
async fn files_are_given_whole_and_in_part() {
    let cache = cache("");
    let long: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    cache.put("nar/x.nar", &long);
    cache.put("x?.narinfo", b"StorePath: x");
    assert_eq!(small(&cache.upstream, "x%3F.narinfo").await, "StorePath: x");
    for from in [0, 1, 262_144, 699_999] {
        let Ok(Said::Have((first, body))) = cache.nar("nar/x.nar", from).await else { panic!("{from}") };
        assert_eq!((first, &body[..]), (from, &long[usize::try_from(from).unwrap()..]));
    }
    let target = format!("{}nar/x.nar", cache.upstream.base().path());
    let Ok(Said::Have(mut part)) = cache.upstream.open(&target, 10, Some(19)).await else { panic!() };
    assert_eq!((part.from, part.total), (10, Some(700_000)));
    assert_eq!(part.body.next().await.unwrap().unwrap(), &long[10..20]);
    assert!(part.body.next().await.is_none());
    let tag = part.validator.unwrap();
    cache.put("nar/x.nar", &long[1..]);
    let Ok(Said::Have(other)) = cache.upstream.open(&target, 10, None).await else { panic!() };
    assert_ne!(other.validator.unwrap(), tag);
    assert!(cache.nar("nar/x.nar", 699_999).await.is_err(), "past its end");
    cache.put("empty", b"");
    assert_eq!(small(&cache.upstream, "empty").await, "");
}

#[tokio::test]
async fn r18_what_is_not_there_is_have_not_only_in_a_cache() {
    let cache = cache("");
    for name in ["x.narinfo", "log/x", "nar", "nix-cache-info/x", &"x".repeat(300)] {
        assert_eq!(small(&cache.upstream, name).await, "have not", "{name}");
    }
    std::fs::remove_file(cache.root().join(cache_info::NAME)).unwrap();
    let said = small(&cache.upstream, "x.narinfo").await;
    assert!(said.starts_with("upstream test could not be asked: /") && said.contains("is it mounted"), "{said}");
    std::fs::rename(cache.root(), cache.dir.path().join("gone")).unwrap();
    let said = small(&cache.upstream, "x.narinfo").await;
    assert!(said.contains("a cache: No such file or directory"), "{said}");
}

#[tokio::test]
async fn r14_links_are_followed_inside_and_not_outside() {
    let cache = cache("");
    cache.put("there", b"inside");
    std::fs::write(cache.dir.path().join("secret"), "outside").unwrap();
    symlink("there", cache.root().join("in")).unwrap();
    symlink("../secret", cache.root().join("out")).unwrap();
    symlink("/etc/passwd", cache.root().join("absolute")).unwrap();
    symlink(cache.dir.path(), cache.root().join("up")).unwrap();
    symlink("round", cache.root().join("round")).unwrap();
    assert_eq!(small(&cache.upstream, "in").await, "inside");
    for name in ["out", "absolute", "up/secret", "round"] {
        let said = small(&cache.upstream, name).await;
        assert!(said.starts_with(&format!("upstream test cannot give `{name}`: a link")), "{said}");
    }
    for name in ["../secret", "nar/../../secret", "./there", "nar//x", "", "a%2fb", "/etc/passwd"] {
        assert!(cache.nar(name, 0).await.is_err(), "{name}");
    }
    assert!(nar(&cache.upstream, "/etc/passwd", 0).await.is_err());
}

#[test]
fn r14_without_the_kernels_help_no_link_is_followed() {
    let cache = cache("");
    cache.put("nar/x", b"x");
    symlink("nar", cache.root().join("link")).unwrap();
    symlink("nar/x", cache.root().join("file")).unwrap();
    let root = openat(CWD, cache.root(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let opened = |key: &str| step_by_step(&root, key, OFlags::RDONLY).map(|_| ());
    assert_eq!(opened("nar/x"), Ok(()));
    assert_eq!(opened(cache_info::NAME), Ok(()));
    assert_eq!(opened("nar/y"), Err(Errno::NOENT));
    assert_eq!(opened("link/x"), Err(Errno::LOOP), "not as one that is not there");
    assert_eq!(opened("nix-cache-info/x"), Err(Errno::NOTDIR));
    assert_eq!(opened("file"), Err(Errno::LOOP));
}

#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let cache = cache("");
    rustix::fs::mknodat(CWD, cache.root().join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let said = small(&cache.upstream, "pipe").await;
    assert_eq!(
        said, "upstream test cannot give `pipe`: it is a pipe or a device",
        "nobody knows what it would say (R18)"
    );
}

#[tokio::test]
async fn a_file_system_that_hangs_takes_a_few_threads_and_nobody_waits_for_ever() {
    let (threads, gate) = (Arc::new(Semaphore::new(2)), Arc::new(std::sync::Barrier::new(3)));
    let hang = || {
        let gate = Arc::clone(&gate);
        blocking(Arc::clone(&threads), move || _ = gate.wait())
    };
    for _ in 0..5 {
        assert!(tokio::time::timeout(Duration::from_millis(20), hang()).await.is_err());
    }
    assert_eq!(threads.available_permits(), 0, "two hang, and no others were begun");
    gate.wait();
    let turn = tokio::time::timeout(Duration::from_secs(60), threads.acquire_many(2)).await;
    assert!(turn.is_ok(), "what hung came back");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_cut_not_short() {
    let cache = cache("");
    cache.put("nar/x", &[7; 600_000]);
    let target = format!("{}nar/x", cache.upstream.base().path());
    let Ok(Said::Have(mut opened)) = cache.upstream.open(&target, 0, None).await else { panic!() };
    assert_eq!(opened.total, Some(600_000));
    assert!(opened.body.next().await.unwrap().is_ok());
    File::options().write(true).open(cache.root().join("nar/x")).unwrap().set_len(1000).unwrap();
    let told = loop {
        match opened.body.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.to_string(),
            None => panic!("it ended as if it were whole"),
        }
    };
    assert_eq!(told, "upstream test cut its answer short: the file became shorter");
    assert!(opened.body.next().await.is_none());
}
