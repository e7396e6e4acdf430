//! Keys come and go: rotation of ours while clients build, removal of an upstream's, a configuration that is wrong, and key
//! files that are none.

use super::{own, published, refuses};
use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::static_cache;
use crate::support::trust::{by_keys, eventually, expect_signed, signatures_named};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Fresh machines that trust these keys build one after the other, until `done`; how many have.
fn building<'a>(
    scope: &'a std::thread::Scope<'a, '_>,
    key: Key,
    url: String,
    done: &'a AtomicBool,
    built: &'a AtomicUsize,
) -> std::thread::ScopedJoinHandle<'a, ()> {
    scope.spawn(move || {
        while !done.load(Ordering::Relaxed) {
            let machine = Machine::new(&[&key.public()]);
            machine.substitute("hello", &url, None);
            built.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// While machines that trust `key` build, `step` is taken; they go on to build, and none fails.
fn while_building(snowbank: &Snowbank, key: &Key, step: impl FnOnce()) {
    let (done, built) = (AtomicBool::new(false), AtomicUsize::new(0));
    let more = |count: usize| {
        let goal = built.load(Ordering::Relaxed) + count;
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while built.load(Ordering::Relaxed) < goal && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        built.load(Ordering::Relaxed) >= goal
    };
    std::thread::scope(|scope| {
        let loops = [0, 1].map(|_| building(scope, Key::new(key.name()), snowbank.http_url(), &done, &built));
        let before = more(2);
        step();
        let after = more(4);
        done.store(true, Ordering::Relaxed);
        for building in loops {
            building.join().expect("no build failed");
        }
        assert!(before && after, "{} builds", built.load(Ordering::Relaxed));
    });
}

#[test]
fn r5_keys_are_rotated_while_clients_build() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("zstd"));
    let (old, new) = (Key::new("old-1"), Key::new("new-1"));
    let base = Setup::in_front_of(&origin, fixture.key());
    let snowbank = base.clone().signing(&[&old], "").start();
    snowbank.wait_for_disk();
    let url = snowbank.http_url();
    let hello = fixture.infos().iter().find(|info| fixture.path("hello").ends_with(&info.base_name)).expect("hello");
    let narinfo = || {
        let target = format!("/{}.narinfo", fixture.hash_part("hello"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { snowbank.http().get(&target).await.expect(200).text().to_owned() })
    };
    let signed_by = |wanted: &[&Key], gone: &[&Key]| {
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        loop {
            let text = narinfo();
            let by = |key: &Key| !signatures_named(&text, key.name()).is_empty();
            if wanted.iter().all(|key| by(key)) && !gone.iter().any(|key| by(key)) {
                return expect_signed(&text, &hello.fingerprint(), wanted);
            }
            assert!(std::time::Instant::now() < deadline, "the new keys do not show:\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };

    signed_by(&[&old], &[&new]);
    while_building(&snowbank, &old, || {
        snowbank.reload(&base.clone().signing(&[&old, &new], ""));
        signed_by(&[&old, &new], &[]);
    });
    while_building(&snowbank, &new, || {
        snowbank.reload(&base.clone().signing(&[&new], ""));
        signed_by(&[&new], &[&old]);
    });
    let machine = Machine::new(&[&new.public()]);
    machine.substitute("hello", &url, None);
    machine.ok(&["nix", "store", "verify", "--all"]);
    refuses(&Machine::new(&[&old.public()]), fixture.path("hello"), &url);
    // The narinfos were signed anew, not fetched anew.
    assert_eq!(origin.count(&format!("/{}.narinfo", fixture.hash_part("hello"))), 1);
}

#[tokio::test]
async fn what_only_a_removed_key_vouched_for_is_a_miss_from_then_on() {
    let (origin, stays, goes) = (Origin::start(), Key::new("stays-1"), Key::new("goes-1"));
    let [by_stays, by_goes, by_both] = ["by-stays", "by-goes", "by-both"].map(|name| Object::new(name, 3_000));
    for (object, keys) in [(&by_stays, &[&stays][..]), (&by_goes, &[&goes]), (&by_both, &[&goes, &stays])] {
        origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(keys)));
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()));
    }
    let base = Setup::new().also("[cache]\nnegative_ttl = \"0 s\"").signing(&[&own()], "");
    let with = |keys: &[&Key]| base.clone().named_upstream("upstream", &origin.url(), &by_keys(keys));
    let snowbank = with(&[&stays, &goes]).start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    for object in [&by_stays, &by_goes, &by_both] {
        let answer = client.get(&object.narinfo_target()).await.expect(200);
        expect_signed(answer.text(), &object.fingerprint(), &[&own()]);
        client.get(&object.served_target()).await.expect_bytes(&object.file);
    }
    snowbank.reload(&with(&[&stays]));
    eventually("the removed key counts no more", async || client.get(&by_goes.narinfo_target()).await.status == 404)
        .await;
    // Nor for the NAR that it brought here, whatever URL a client remembers.
    client.get(&by_goes.served_target()).await.expect(404);
    for object in [&by_stays, &by_both] {
        let answer = client.get(&object.narinfo_target()).await.expect(200);
        expect_signed(answer.text(), &object.fingerprint(), &[&own()]);
        client.get(&object.served_target()).await.expect_bytes(&object.file);
    }
    // It comes back with the key.
    snowbank.reload(&with(&[&goes, &stays]));
    eventually("the key counts again", async || client.get(&by_goes.narinfo_target()).await.status == 200).await;
}

#[tokio::test]
async fn an_upstream_comes_and_goes_with_the_configuration() {
    let (stays, comes, key) = (Origin::start(), Origin::start(), Key::new("upstream-1"));
    let [here, there] = ["here", "there"].map(|name| Object::new(name, 3_000));
    stays.publish(&here, &key);
    comes.publish(&there, &key);
    let alone =
        Setup::new().also("[cache]\nnegative_ttl = \"0 s\"").signing(&[&own()], "").upstream(&stays.url(), &key);
    let both = alone.clone().upstream(&comes.url(), &key);
    let snowbank = alone.start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    client.get(&there.narinfo_target()).await.expect(404);
    for (setup, status) in [(&both, 200), (&alone, 404), (&both, 200)] {
        snowbank.reload(setup);
        eventually("the upstreams change", async || client.get(&there.narinfo_target()).await.status == status).await;
        let answer = client.get(&here.narinfo_target()).await.expect(200);
        expect_signed(answer.text(), &here.fingerprint(), &[&own()]);
        if status == 200 {
            client.get(&there.served_target()).await.expect_bytes(&there.file);
        }
    }
    assert_eq!(stays.count(&here.narinfo_target()), 1, "what stays is kept");
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_in_the_log() {
    let (_origin, object, key, setup) = published("broken-file", "", "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let before = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    // The file, and a word of it that the log must have.
    let files = [
        ("this is no TOML ][".to_owned(), "snowbank.toml"),
        (format!("{}\n[frobnicate]\nx = 1\n", setup.config()), "frobnicate"),
        (setup.config().replace("own-1.key", "no-such.key"), "no-such.key"),
        (setup.config().replace("public_keys", "pubic_keys"), "pubic_keys"),
    ];
    for (n, (text, word)) in files.into_iter().enumerate() {
        let lines = snowbank.log().len();
        snowbank.reload_text(&setup, &text);
        eventually("it is logged", async || snowbank.log()[lines..].iter().any(|line| line.contains(word))).await;
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        assert_eq!(answer.text(), before.text(), "file {n}");
        expect_signed(answer.text(), &object.fingerprint(), &[&own(), &key]);
    }
    // And a right one is still taken.
    let new = Key::new("own-2");
    let right = setup.config().replace("own-1.key", "own-2.key");
    let _writes_the_key = setup.clone().signing(&[&new], "");
    snowbank.reload_text(&setup, &right);
    eventually("the new key signs", async || {
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        !signatures_named(answer.text(), "own-2").is_empty() && signatures_named(answer.text(), "own-1").is_empty()
    })
    .await;
}

#[test]
fn r4_a_key_that_others_can_read_or_that_is_none_stops_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let base = Setup::new().upstream("http://127.0.0.1:9", &Key::new("upstream-1"));
    let setup = base.signing(&[&own()], "");
    let (key, config) = (setup.home().join("own-1.key"), setup.home().join("snowbank.toml"));
    std::fs::write(&config, setup.config()).expect("a configuration file");
    let config = config.to_str().expect("a path of text");
    let secret = own().secret();
    let digits = secret.split_once(':').expect("a name").1.to_owned();
    let starts = |text: &str, mode: u32| {
        let _ = std::fs::remove_file(&key);
        std::fs::write(&key, text).expect("a key file");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("its mode");
        let mut snowbank = Snowbank::spawn(&[], &["serve", "--config", config], &[], setup.home());
        let failed = loop {
            if !snowbank.runs() {
                break true;
            }
            if snowbank.log().iter().any(|line| line.contains("admin on http://")) {
                break false;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let log = snowbank.log().join("\n");
        assert!(!log.contains(&digits[..40]), "the secret is in the log: {log}");
        !failed
    };
    assert!(starts(&secret, 0o600));
    assert!(starts(&format!("{secret}\n"), 0o400), "a line end belongs to a file");
    for mode in [0o644, 0o604, 0o606, 0o666, 0o660, 0o777] {
        assert!(!starts(&secret, mode), "{mode:o}");
    }
    let other = Key::new("other-1").secret();
    let mixed = format!("own-1:{}", &{
        // The seed of one key with the public half of another.
        let [a, b] = [&secret, &other].map(|s| STANDARD.decode(s.split_once(':').expect("a name").1).expect("base 64"));
        STANDARD.encode([&a[..32], &b[32..]].concat())
    });
    for text in ["", "own-1", "own-1:", &own().public(), &secret[..40], &mixed, &secret.replacen("own-1", "", 1)] {
        assert!(!starts(text, 0o600), "{} bytes", text.len());
    }
}
