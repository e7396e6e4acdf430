//! What is not written: what is private (R15), and what nobody who reads it there could verify (R1).

use super::{Shelf, fetch, sample, until_written, with_library};
use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::trust::by_keys;
use crate::support::within;
use std::time::Duration;

/// Waits until nothing is fetched or written any more.
async fn at_rest(snowbank: &Snowbank) {
    within("it comes to rest", async {
        while sample(snowbank, "snowbank_fill_running") + sample(snowbank, "snowbank_library_queue") > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn r15_nothing_private_is_in_the_library() {
    let (public, work, shelf, key) = (Origin::start(), Origin::start(), Shelf::new(), Key::new("office-1"));
    let (open, secret) = (Object::new("open", 30_000), Object::new("secret", 30_000));
    public.publish(&open, &key);
    work.publish(&secret, &key);
    let made = run(&["token", "ci"]);
    let text = String::from_utf8(made.stdout).expect("text");
    let (line, netrc) = text.trim_end().split_once('\n').expect("two lines");
    let bearer = format!("Bearer {}", netrc.rsplit(' ').next().expect("a password"));
    let setup = Setup::new();
    let file = setup.home().join("tokens");
    std::fs::write(&file, line).expect("a file of tokens");
    let keys = format!("public_keys = [{:?}]", key.public());
    let setup = setup
        .upstream_with(&public.url(), &format!("name = \"public\"\n{keys}"))
        .upstream_with(&work.url(), &format!("name = \"work\"\nprivate = true\npriority = 1\n{keys}"))
        .also(&format!("[[access]]\nupstreams = [\"work\"]\ntoken_files = [{file:?}]\n"));
    let snowbank = with_library(setup, &shelf.url()).start();
    for target in [secret.narinfo_target(), secret.served_target()] {
        snowbank.http().get_with(&target, &[("Authorization", &bearer)]).await.expect(200);
        snowbank.http().get(&target).await.expect(404);
    }
    fetch(&snowbank, &open).await;
    until_written(&snowbank, 1).await;
    at_rest(&snowbank).await;
    assert!(snowbank.stop().success());
    let files = shelf.files();
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| !name.contains(secret.hash_part())), "{names:?}");
}

#[tokio::test]
async fn r15_what_is_in_the_library_is_believed_by_public_keys_only() {
    let (public, work, shelf) = (Origin::start(), Origin::start(), Shelf::new());
    let (inner, outer) = (Key::new("inner-1"), Key::new("outer-1"));
    let object = Object::new("planted", 3_000);
    std::fs::create_dir(shelf.file("nar")).expect("a directory");
    std::fs::write(shelf.file("nix-cache-info"), "StoreDir: /nix/store\n").expect("a file");
    std::fs::write(shelf.file(&object.narinfo_target()), object.narinfo(&[&inner])).expect("a narinfo");
    std::fs::write(shelf.file(&object.file_target()), &object.file).expect("a NAR");
    let setup = Setup::new()
        .upstream_with(&public.url(), &format!("name = \"public\"\n{}", by_keys(&[&outer])))
        .upstream_with(&work.url(), &format!("name = \"work\"\nprivate = true\n{}", by_keys(&[&inner])))
        .also("[[access]]\nupstreams = [\"work\"]\nnetworks = [\"192.0.2.1\"]\n");
    let snowbank = with_library(setup.clone(), &shelf.url()).start();
    snowbank.http().get(&object.narinfo_target()).await.expect(404);
    snowbank.http().get(&object.served_target()).await.expect(404);
    assert!(snowbank.stop().success());
    // Unless the operator says that it counts there.
    let table = format!("[library]\nurl = {:?}\npublic_keys = [{:?}]", shelf.url(), inner.public());
    let snowbank = setup.also(&table).start();
    fetch(&snowbank, &object).await;
}

#[tokio::test]
async fn what_nobody_signed_is_written_only_with_a_signature_of_ours() {
    let (origin, shelf, ours) = (Origin::start(), Shelf::new(), Key::new("ours-1"));
    let objects = [
        Object::new("unsigned-small", 5_000),
        Object::compressed("unsigned-packed", 300_000, Compression::Xz),
        Object::new("unsigned-large", 3_000_000),
    ];
    for object in &objects {
        origin.serve(&object.narinfo_target(), crate::support::origin::Reply::bytes(object.narinfo(&[])));
        origin.serve(&object.file_target(), crate::support::origin::Reply::bytes(object.file.clone()));
    }
    let other = Key::new("other-1");
    // Somebody's key must be there, or nothing in the library could be believed at all.
    let keys = format!("trust = \"origin\"\npublic_keys = [{:?}]", other.public());
    let setup = Setup::new().upstream_with(&origin.url(), &keys);
    let unsigned = with_library(setup.clone(), &shelf.url()).start();
    for object in &objects {
        fetch(&unsigned, object).await;
    }
    at_rest(&unsigned).await;
    assert!(unsigned.stop().success());
    assert_eq!(shelf.files().len(), 1, "{:?}", shelf.files().keys());

    let setup = || Setup::new().upstream_with(&origin.url(), &keys).signing(&[&ours], "");
    let first = with_library(setup(), &shelf.url()).start();
    let mut narinfos = Vec::new();
    for object in &objects {
        narinfos.push(fetch(&first, object).await);
    }
    until_written(&first, 3).await;
    origin.forget();
    let setup_of_second = with_library(setup(), &shelf.url());
    let second = setup_of_second.start();
    for (object, narinfo) in objects.iter().zip(&narinfos) {
        assert_eq!(&fetch(&second, object).await, narinfo);
        let signature = narinfo_fields(narinfo, "Sig");
        assert!(signature.len() == 1 && ours.made(signature[0], &object.fingerprint()), "{narinfo}");
        assert_eq!(std::fs::read(shelf.file(&object.narinfo_target())).expect("a narinfo"), narinfo.as_bytes());
    }
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    // A change of the configuration does not make it forget what only its own key vouches for.
    let changed = setup_of_second.config().replace("trust = \"origin\"", "trust = \"origin\"\nname = \"another\"");
    std::fs::remove_dir_all(shelf.path()).expect("the library");
    second.reload_text(&setup_of_second, &changed);
    second.log_line("the new configuration is in force", 0);
    for (object, narinfo) in objects.iter().zip(&narinfos) {
        assert_eq!(&fetch(&second, object).await, narinfo);
    }
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
}

#[tokio::test]
async fn what_an_upstream_without_trust_has_is_not_written() {
    let (origin, passed, shelf, key) = (Origin::start(), Origin::start(), Shelf::new(), Key::new("up-1"));
    let object = Object::new("passed-on", 5_000);
    passed.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &Key::new("first-1"))
        .upstream_with(&passed.url(), &format!("trust = \"pass\"\npublic_keys = [{:?}]", key.public()));
    let snowbank = with_library(setup, &shelf.url()).start();
    fetch(&snowbank, &object).await;
    at_rest(&snowbank).await;
    assert!(snowbank.stop().success());
    assert_eq!(shelf.files().len(), 1, "{:?}", shelf.files().keys());
}
