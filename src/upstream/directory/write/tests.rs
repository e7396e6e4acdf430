use std::os::unix::fs::symlink;

use super::*;
use crate::metrics::Metrics;
use crate::options::Table as _;
use crate::upstream::{Kind, Options, Upstream};

fn shelf(dir: &Path) -> Arc<Upstream> {
    let options =
        Options::from_toml(&format!("url = 'file://{}'\ntrust = 'origin'\nname = 'library'", dir.display())).unwrap();
    Upstream::library(options, true, Metrics::default().upstream("library")).unwrap()
}

async fn put(upstream: &Upstream, key: &str, text: &'static str, replace: bool) -> Result<Put, String> {
    upstream.put(Kind::Nar, key, Bytes::from_static(text.as_bytes()), replace).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (upstream, file) = (shelf(dir.path()), dir.path().join("nar/x"));
    for (text, replace, end, read) in
        [("one", false, Put::Written, "one"), ("two", false, Put::There, "one"), ("three", true, Put::Written, "three")]
    {
        assert_eq!(put(&upstream, "nar/x", text, replace).await, Ok(end));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), read);
    }
    // A web server reads it too.
    assert_eq!(file.metadata().unwrap().mode() & 0o400, 0o400);
}

#[tokio::test]
async fn nobody_sees_a_file_that_grows_and_one_that_is_given_up_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = shelf(dir.path());
    let growing = || std::fs::read_dir(dir.path().join(GROWING)).unwrap().count();
    let mut upload = upstream.begin(Kind::Nar, "nar/x").await.unwrap();
    upload.part(Bytes::from_static(b"one")).await.unwrap();
    assert!(!dir.path().join("nar/x").exists() && growing() == 1);
    upload.part(Bytes::from_static(b"two")).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!((std::fs::read_to_string(dir.path().join("nar/x")).unwrap().as_str(), growing()), ("onetwo", 0));
    let mut upload = upstream.begin(Kind::Nar, "nar/y").await.unwrap();
    upload.part(Bytes::from_static(b"one")).await.unwrap();
    upload.give_up().await;
    while growing() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!dir.path().join("nar/y").exists());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_after_a_day_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let growing = dir.path().join(GROWING);
    std::fs::create_dir(&growing).unwrap();
    let (old, new, other) = (growing.join("0".repeat(32)), growing.join("1".repeat(32)), growing.join("notes"));
    for (file, age) in [(&old, LEFT + 60), (&new, LEFT - 60), (&other, 2 * LEFT)] {
        let file = File::create(file).unwrap();
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(UnixSeconds::now().0 - age);
        file.set_modified(now).unwrap();
    }
    put(&shelf(dir.path()), "x.narinfo", "text", false).await.unwrap();
    assert_eq!([old, new, other].map(|file| file.exists()), [false, true, true]);
}

#[tokio::test]
async fn r17_no_link_leads_out_of_it_and_what_is_not_mounted_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("library"), dir.path().join("outside"));
    for made in [&inside, &outside] {
        std::fs::create_dir(made).unwrap();
    }
    let upstream = shelf(&inside);
    symlink(&outside, inside.join("nar")).unwrap();
    let told = put(&upstream, "nar/x", "text", true).await.unwrap_err();
    assert!(told.starts_with("upstream library could not be written to: "), "{told}");
    std::fs::remove_file(inside.join("nar")).unwrap();
    std::fs::remove_dir_all(inside.join(GROWING)).unwrap();
    symlink(&outside, inside.join(GROWING)).unwrap();
    assert!(put(&upstream, "nar/x", "text", true).await.is_err());
    // One in place of a file is replaced itself.
    std::fs::remove_file(inside.join(GROWING)).unwrap();
    symlink(outside.join("secret"), inside.join("x.narinfo")).unwrap();
    put(&upstream, "x.narinfo", "text", true).await.unwrap();
    assert!(!inside.join("x.narinfo").is_symlink());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let nowhere = dir.path().join("not-mounted");
    assert!(put(&shelf(&nowhere), "x.narinfo", "text", false).await.is_err() && !nowhere.exists());
}
