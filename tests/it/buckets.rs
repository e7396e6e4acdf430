//! Upstreams that are buckets, by the real SeaweedFS, and directories, as real Nix writes them.

use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::seaweedfs::{SeaweedFs, hidden};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::tap::{Tap, Then};
use crate::support::within;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A path that no cache has.
const NOWHERE: &str = "/00000000000000000000000000000000.narinfo";

fn keys(dir: &Path, profile: &str, [key, secret]: [&str; 2]) -> PathBuf {
    let path = dir.join("aws-credentials");
    let text = format!("[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    std::fs::write(&path, text).expect("a file of keys");
    path
}

fn trusting(key: &Key, lines: &str) -> String {
    format!("public_keys = [{:?}]\nname = \"pail\"\n{lines}", key.public())
}

/// A program in front of a bucket that is read with the reader's keys.
fn with_keys(url: &str, key: &Key, pair: [&str; 2]) -> Setup {
    let setup = Setup::new();
    let file = keys(setup.home(), "default", pair);
    setup.upstream_with(url, &trusting(key, &format!("credentials_file = {file:?}")))
}

#[tokio::test]
async fn a_private_bucket_is_read_with_keys_from_a_file() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let key = Key::new("bucket-1");
    let objects = [Object::new("private-small", 3_000), Object::new("private-large", 3_000_000)];
    for object in &objects {
        seaweedfs.publish(SeaweedFs::PRIVATE, object, &key);
    }
    // A name that is signed in another spelling than it is written in.
    let (log, escaped) =
        ("/log/9krlzvny65gdc8s7kpb6lkx8cd02c25b-gtk+3=x.drv", "log/9krlzvny65gdc8s7kpb6lkx8cd02c25b-gtk%2B3%3Dx.drv");
    seaweedfs.put(SeaweedFs::PRIVATE, &[(escaped, b"built\n")]);
    let snowbank = with_keys(&seaweedfs.url(SeaweedFs::PRIVATE), &key, SeaweedFs::READER).start();
    snowbank.http().get(log).await.expect_bytes(b"built\n");
    for object in &objects {
        let target = snowbank.http().nar_target(object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
    }
    let part = snowbank.https().get_with(&objects[1].served_target(), &[("Range", "bytes=1000000-1000999")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &objects[1].file[1_000_000..1_001_000]));
    snowbank.http().get(NOWHERE).await.expect(404);
    snowbank.log_line("upstream pail is asked with the keys from its credentials_file", 0);
    assert!(snowbank.log().iter().all(|line| !line.contains("readersecret") && !line.contains("READERKEY")));
}

#[tokio::test]
async fn a_private_bucket_is_read_with_keys_from_the_environment() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let (key, object) = (Key::new("bucket-1"), Object::new("private-by-environment", 3_000));
    seaweedfs.publish(SeaweedFs::PRIVATE, &object, &key);
    let setup = Setup::new().upstream_with(&seaweedfs.url(SeaweedFs::PRIVATE), &trusting(&key, ""));
    let path = setup.write();
    let arguments = ["serve", "--config", path.to_str().expect("a path of text")];
    let [id, secret] = SeaweedFs::READER.map(str::to_owned);
    let variables = [("AWS_ACCESS_KEY_ID".to_owned(), id), ("AWS_SECRET_ACCESS_KEY".to_owned(), secret)];
    let snowbank = Snowbank::spawn(&[], &arguments, &variables, setup.home());
    snowbank.log_line("upstream pail is asked with the keys from the environment", 0);
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    snowbank.http().get(NOWHERE).await.expect(404);
}

#[tokio::test]
async fn wrong_keys_are_told_and_nothing_is_missing_until_they_are_right() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let (key, object) = (Key::new("bucket-1"), Object::new("behind-wrong-keys", 5_000));
    seaweedfs.publish(SeaweedFs::PRIVATE, &object, &key);
    let setup = with_keys(&seaweedfs.url(SeaweedFs::PRIVATE), &key, [SeaweedFs::READER[0], "wrong"]);
    let snowbank = setup.start();
    for (pair, code) in
        [([SeaweedFs::READER[0], "wrong"], "SignatureDoesNotMatch"), (["NOBODY", "x"], "InvalidAccessKeyId")]
    {
        keys(setup.home(), "default", pair);
        for target in [NOWHERE, &object.narinfo_target()] {
            let refused = snowbank.http().get(target).await.expect(502);
            let line = format!("upstream pail refused the keys from its credentials_file as {code}: 403 Forbidden");
            assert!(refused.text().contains(&line), "{}", refused.text());
        }
    }
    keys(setup.home(), "default", SeaweedFs::READER);
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    snowbank.http().get(NOWHERE).await.expect(404);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_has_not_everything_missing() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let key = Key::new("bucket-1");
    let snowbank = with_keys(&seaweedfs.url("misspelt"), &key, SeaweedFs::READER).start();
    let said = snowbank.http().get(NOWHERE).await.expect(502);
    assert!(said.text().contains("upstream pail has no bucket `misspelt` (NoSuchBucket)"), "{}", said.text());
}

#[tokio::test]
async fn a_public_bucket_is_read_without_keys() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let (key, object) = (Key::new("bucket-1"), Object::new("public", 100_000));
    seaweedfs.publish(SeaweedFs::PUBLIC, &object, &key);
    let url = seaweedfs.url(SeaweedFs::PUBLIC);
    let snowbank = Setup::new().upstream_with(&url, &trusting(&key, "credentials = \"anonymous\"")).start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    snowbank.http().get(NOWHERE).await.expect(404);
    snowbank.log_line("upstream pail is asked without credentials", 0);
}

#[tokio::test]
async fn a_bucket_behind_tls_is_trusted_by_the_ca_file_of_its_upstream() {
    let (origin, key, object) = (Origin::start_tls(), Key::new("bucket-1"), Object::new("tls", 50_000));
    for (target, body) in
        [(object.narinfo_target(), object.narinfo(&[&key]).into_bytes()), (object.file_target(), object.file.to_vec())]
    {
        origin.serve(&format!("/pail/prefix{target}"), Reply::bytes(body));
    }
    let missing = "<Error><Code>NoSuchKey</Code></Error>";
    origin.otherwise(move |_, _| Reply::with_status(404, missing));
    let url = format!("s3://pail/prefix?endpoint={}", origin.url());
    let setup = Setup::new();
    let authority = setup.authority_file();
    let lines = trusting(&key, &format!("credentials = \"anonymous\"\nca_file = {authority:?}"));
    let snowbank = setup.upstream_with(&url, &lines).start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    snowbank.http().get(NOWHERE).await.expect(404);
    let stranger = Setup::new().upstream_with(&url, &trusting(&key, "credentials = \"anonymous\"")).start();
    let said = stranger.http().get(NOWHERE).await.expect(502);
    assert!(said.text().contains("upstream pail could not be asked"), "{}", said.text());
}

#[tokio::test]
async fn in_a_bucket_that_may_not_be_listed_denied_means_missing() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let (key, object) = (Key::new("bucket-1"), hidden());
    seaweedfs.publish(SeaweedFs::UNLISTABLE, &object, &key);
    let lines = trusting(&key, "credentials = \"anonymous\"");
    let snowbank = Setup::new().upstream_with(&seaweedfs.url(SeaweedFs::UNLISTABLE), &lines).start();
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    snowbank.http().get(NOWHERE).await.expect(404);
    // One of which nothing may be read has nothing to tell; unless that is said.
    let shut = seaweedfs.url(SeaweedFs::SHUT);
    let snowbank = Setup::new().upstream_with(&shut, &lines).start();
    let said = snowbank.http().get(NOWHERE).await.expect(502);
    assert!(
        said.text().contains("upstream pail answered 403 Forbidden (AccessDenied) without cred"),
        "{}",
        said.text()
    );
    let snowbank = Setup::new().upstream_with(&shut, &format!("{lines}\nforbidden = \"have-not\"")).start();
    snowbank.http().get(NOWHERE).await.expect(404);
}

#[tokio::test]
async fn a_nar_from_a_bucket_goes_on_by_range() {
    let Some(seaweedfs) = SeaweedFs::shared() else { return };
    let key = Key::new("bucket-1");
    let (cut, killed) = (Object::new("cut", 4_000_000), Object::new("killed", 8_000_000));
    seaweedfs.publish(SeaweedFs::PRIVATE, &cut, &key);
    seaweedfs.publish(SeaweedFs::PRIVATE, &killed, &key);
    let tap = Tap::to(seaweedfs.port());
    let url = format!("s3://{}?endpoint={}&scheme=http", SeaweedFs::PRIVATE, tap.address());
    let setup = with_keys(&url, &key, SeaweedFs::READER);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    // A connection that breaks is a pause.
    let target = snowbank.http().nar_target(&cut).await;
    tap.limit(Some((2_000_000, Then::Cut)));
    snowbank.http().get(&target).await.expect_bytes(&cut.file);
    let ranges = tap.ranges(&cut.url);
    assert!(ranges.len() == 2 && ranges[0].is_none() && ranges[1].is_some(), "{ranges:?}");
    // What a kill interrupts is gone on with.
    let target = snowbank.http().nar_target(&killed).await;
    tap.limit(Some((6_100_000, Then::Hold)));
    let (client, before) = (snowbank.http(), snowbank.counter(Count::Received));
    let reader = tokio::spawn(async move { client.attempt(&target).await });
    let stored = async {
        while snowbank.counter(Count::Received) < before + 6_000_000 || snowbank.counter(Count::Unwritten) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("six megabytes are stored", stored).await;
    snowbank.kill();
    reader.await.expect("it was only cut off");
    tap.limit(None);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    snowbank.http().get(&killed.served_target()).await.expect_bytes(&killed.file);
    assert_eq!(snowbank.counter(Count::FillsResumed), 1);
    let ranges = tap.ranges(&killed.url);
    assert!(ranges.last().is_some_and(|range| range.as_deref().is_some_and(|range| range != "bytes=0-")), "{ranges:?}");
}

#[test]
fn real_nix_builds_from_a_directory_that_real_nix_wrote() {
    let fixture = fixture();
    let url = format!("file://{}", fixture.cache("xz").display());
    let snowbank = Setup::new().upstream(&url, fixture.key()).start();
    let machine = Machine::new(&[&fixture.key().public()]);
    let path = machine.substitute("hello", &snowbank.http_url(), None);
    assert_eq!(path, fixture.path("hello"));
    machine.verify_all();
}

#[tokio::test]
async fn a_directory_that_vanishes_has_not_everything_missing() {
    let (key, object) = (Key::new("bucket-1"), Object::new("on-a-stick", 2_000_000));
    let setup = Setup::new();
    let (mounted, away) = (setup.home().join("my stick"), setup.home().join("away"));
    std::fs::create_dir_all(mounted.join("nar")).expect("a directory");
    for (name, contents) in [
        ("nix-cache-info", b"StoreDir: /nix/store\n".as_slice()),
        (&object.narinfo_target()[1..], object.narinfo(&[&key]).as_bytes()),
        (&object.url, &object.file),
    ] {
        std::fs::write(mounted.join(name), contents).expect("a file of the cache");
    }
    let url = format!("file://{}/my%20stick", setup.home().display());
    let setup = setup.upstream_with(&url, &trusting(&key, ""));
    let snowbank = setup.start();
    snowbank.http().get(NOWHERE).await.expect(404);
    let target = snowbank.http().nar_target(&object).await;
    std::fs::rename(&mounted, &away).expect("a directory that is gone");
    let other = NOWHERE.replace("000.", "111.");
    let said = snowbank.http().get(&other).await.expect(502);
    let line = format!("upstream pail could not be asked: {}: No such file", mounted.display());
    assert!(said.text().contains(&line), "{}", said.text());
    // An empty mount point is no cache either.
    std::fs::create_dir(&mounted).expect("a mount point");
    let said = snowbank.http().get(&other).await;
    assert!(matches!(said.status, 502 | 503) && said.text().contains("upstream pail"), "{}", said.text());
    std::fs::remove_dir(&mounted).expect("a mount point");
    std::fs::rename(&away, &mounted).expect("the directory is back");
    snowbank.http().get(&target).await.expect_bytes(&object.file);
}
