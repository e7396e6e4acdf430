//! What is fetched is written: all of it, in order, once, as it is served.

use super::{Shelf, beside, fetch, sample, until_written, with_library, written_as};
use crate::support::cache::{Compression, Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::Origin;
use crate::support::pail::{Conditions, Pail, error};
use crate::support::snowbank::Setup;
use crate::support::static_cache;
use crate::support::within;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Of each size that is written in another way: in one go, in two parts, in several.
fn objects() -> Vec<Object> {
    vec![
        Object::new("small", 3_000),
        Object::compressed("packed", 200_000, Compression::Xz),
        Object::new("medium", 3_000_000),
        Object::new("large", 9_000_000),
        Object::compressed("larger", 21_000_000, Compression::Zstd),
    ]
}

fn origin_of(objects: &[Object], key: &Key) -> Origin {
    let origin = Origin::start();
    objects.iter().for_each(|object| origin.publish(object, key));
    origin
}

#[tokio::test]
async fn what_one_server_fetched_another_one_has_without_asking_upstream() {
    let (key, shelf, objects) = (Key::new("up-1"), Shelf::new(), objects());
    let origin = origin_of(&objects, &key);
    let first = beside(&origin, &key, &shelf.url()).start();
    let mut narinfos = Vec::new();
    for object in &objects {
        narinfos.push(fetch(&first, object).await);
    }
    until_written(&first, 5).await;
    let files = shelf.files();
    assert_eq!(files.len(), 11, "{:?}", files.keys());
    assert!(files["nix-cache-info"].starts_with(b"StoreDir: /nix/store\n"));
    for (object, narinfo) in objects.iter().zip(&narinfos) {
        assert_eq!(files[&object.narinfo_target()[1..]], narinfo.as_bytes());
        assert!(files[&object.served_target()[1..]] == object.file, "{}", object.base_name);
    }
    assert_eq!((written_as(&first, "nar", "created"), written_as(&first, "narinfo", "created")), (5, 5));
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!(sample(&first, "snowbank_library_written_bytes_total"), bytes as u64);

    // One with an empty store, another one's URLs first.
    origin.forget();
    let second = beside(&origin, &key, &shelf.url()).start();
    second.http().get(&objects[3].served_target()).await.expect_bytes(&objects[3].file);
    for (object, narinfo) in objects.iter().zip(&narinfos) {
        assert_eq!(&fetch(&second, object).await, narinfo);
    }
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    let part = second.http().get_with(&objects[4].served_target(), &[("Range", "bytes=9000000-9000999")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &objects[4].file[9_000_000..9_001_000]));
    // What came from there is not written there.
    assert_eq!(shelf.files().len(), 11);
    assert_eq!(["created", "there", "replaced"].map(|result| written_as(&second, "narinfo", result)), [0; 3]);
    assert!(second.stop().success() && first.stop().success());
}

#[tokio::test]
async fn a_nar_is_there_before_its_narinfo() {
    let (key, objects) = (Key::new("up-1"), objects());
    let (origin, pail) = (origin_of(&objects, &key), Pail::start(Conditions::Kept));
    let snowbank = beside(&origin, &key, &pail.url()).start();
    for object in &objects {
        fetch(&snowbank, object).await;
    }
    until_written(&snowbank, 5).await;
    let written = pail.written();
    let place =
        |name: &str| written.iter().position(|key| key == name).unwrap_or_else(|| panic!("{name}: {written:?}"));
    for object in &objects {
        assert!(place(&object.served_target()[1..]) < place(&object.narinfo_target()[1..]), "{written:?}");
        assert!(pail.object(&object.served_target()[1..]).expect("its NAR") == object.file);
    }
    assert_eq!(written.len(), 11, "each once: {written:?}");
    assert_eq!(written[0], "nix-cache-info");
    let requests = pail.origin.requests();
    assert!(requests.iter().filter(|request| request.method == "PUT").all(|request| request.body.len() <= 9 << 20));
    assert_eq!(pail.open_uploads(), 0);
}

#[tokio::test]
async fn who_fills_the_same_at_once_does_no_harm_whatever_becomes_of_the_condition() {
    for conditions in [Conditions::Kept, Conditions::Ignored, Conditions::Refused] {
        let (key, objects) = (Key::new("up-1"), objects());
        let (origin, pail) = (origin_of(&objects, &key), Pail::start(conditions));
        let servers: Vec<_> = (0..3).map(|_| beside(&origin, &key, &pail.url()).start()).collect();
        for object in &objects {
            let fetched = servers.iter().map(|server| fetch(server, object));
            let texts = futures_util::future::join_all(fetched).await;
            assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        }
        for server in &servers {
            within("it has written", async {
                while sample(server, "snowbank_library_queue") > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            assert!(server.log().iter().all(|line| !line.contains("not written into")), "{conditions:?}");
        }
        let fourth = beside(&origin, &key, &pail.url()).start();
        within("somebody has written everything", async {
            while objects.iter().any(|object| pail.object(&object.narinfo_target()[1..]).is_none()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        origin.forget();
        for object in &objects {
            fetch(&fourth, object).await;
        }
        assert_eq!(origin.total(), 0, "{conditions:?}");
    }
}

#[tokio::test]
async fn a_library_that_takes_nothing_for_a_while_is_tried_again() {
    let (key, object) = (Key::new("up-1"), Object::new("late", 12_000_000));
    let (origin, pail) = (origin_of(std::slice::from_ref(&object), &key), Pail::start(Conditions::Kept));
    let (parts, ends) = (AtomicUsize::new(0), AtomicUsize::new(0));
    pail.fail(move |request| {
        let is_first = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed) == 0;
        let is_end = request.method == "POST" && request.target.contains("uploadId=");
        match () {
            () if request.target.contains("partNumber=2") && is_first(&parts) => Some(error(503, "SlowDown")),
            // It had begun to answer when it failed.
            () if is_end && is_first(&ends) => Some(error(200, "InternalError")),
            () => None,
        }
    });
    let snowbank = beside(&origin, &key, &pail.url()).start();
    fetch(&snowbank, &object).await;
    until_written(&snowbank, 1).await;
    assert!(pail.object(&object.served_target()[1..]).expect("its NAR") == object.file);
    assert!(pail.open_uploads() <= 1, "the one whose part failed was given up");

    // One that takes nothing at all is given up, and clients notice nothing.
    let (other, shut) = (Object::new("never", 3_000), Pail::start(Conditions::Kept));
    origin.publish(&other, &key);
    shut.fail(|request| (request.method != "GET").then(|| error(403, "AccessDenied")));
    let snowbank = beside(&origin, &key, &shut.url()).start();
    fetch(&snowbank, &other).await;
    snowbank.log_line("the library cannot be written to: upstream library may not be written to", 0);
    within("it is given up", async {
        while sample(&snowbank, "snowbank_library_dropped_total{reason=\"failed\"}") < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(shut.written().is_empty());
}

#[tokio::test]
async fn what_waits_is_written_before_the_end() {
    let (key, object, shelf) = (Key::new("up-1"), Object::new("last", 12_000_000), Shelf::new());
    let origin = origin_of(std::slice::from_ref(&object), &key);
    let snowbank = beside(&origin, &key, &shelf.url()).start();
    fetch(&snowbank, &object).await;
    assert!(snowbank.stop().success());
    assert!(shelf.file(&object.narinfo_target()).is_file(), "{:?}", shelf.files().keys());
    assert!(std::fs::read(shelf.file(&object.served_target())).expect("its NAR") == object.file);
}

#[tokio::test]
async fn a_server_that_only_reads_writes_nothing() {
    let (key, object, shelf) = (Key::new("up-1"), Object::new("read-only", 3_000), Shelf::new());
    let origin = origin_of(std::slice::from_ref(&object), &key);
    let tables = format!("[library]\nurl = {:?}\nwrite = false", shelf.url());
    let snowbank = Setup::in_front_of(&origin, &key).also(&tables).start();
    fetch(&snowbank, &object).await;
    assert!(snowbank.stop().success());
    assert!(shelf.files().is_empty(), "{:?}", shelf.files().keys());
}

#[tokio::test]
async fn a_library_that_comes_with_a_reload_gets_what_is_asked_for_from_then_on() {
    let (key, object, shelf) = (Key::new("up-1"), Object::new("reloaded", 3_000), Shelf::new());
    let origin = origin_of(std::slice::from_ref(&object), &key);
    let setup = Setup::in_front_of(&origin, &key);
    let snowbank = setup.start();
    with_library(setup, &shelf.url()).write();
    snowbank.hang_up();
    snowbank.log_line("the new configuration is in force", 0);
    fetch(&snowbank, &object).await;
    until_written(&snowbank, 1).await;
    assert_eq!(shelf.files().len(), 3);
}

#[test]
fn real_nix_builds_from_the_library_alone() {
    let fixture = fixture();
    let shelf = Shelf::new();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let snowbank = beside(&origin, fixture.key(), &shelf.url()).start();
    let machine = Machine::new(&[&fixture.key().public()]);
    assert_eq!(machine.substitute("everything", &snowbank.http_url(), None), fixture.path("everything"));
    assert!(snowbank.stop().success());
    let paths = fixture.infos().len();
    assert_eq!(shelf.files().len(), 1 + 2 * paths, "{:?}", shelf.files().keys());
    // As a directory, and through a server that knows nothing of all this.
    let copied = Machine::new(&[&fixture.key().public()]);
    copied.ok(&["nix", "copy", "--from", &shelf.url(), fixture.path("everything")]);
    copied.verify_all();
    let nginx = static_cache::nginx(shelf.path());
    let built = Machine::new(&[&fixture.key().public()]);
    assert_eq!(built.substitute("everything", &nginx.url(), None), fixture.path("everything"));
    built.verify_all();
}
