//! Signing: a client that trusts nobody but us builds from caches with keys of their own, and nothing is signed that was
//! not proven or vouched for.

mod addressed;
mod keys;

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::split;
use crate::support::trust::{by_keys, expect_signed, signatures_named};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;

fn own() -> Key {
    Key::new("own-1")
}

/// An origin with an object, and the setup of a program that signs what comes from it.
fn published(name: &str, lines: &str, sign: &str) -> (Origin, Object, Key, Setup) {
    let (origin, key) = (Origin::start(), Key::new("upstream-1"));
    let object = Object::compressed(name, 3_000, Compression::Xz);
    origin.publish(&object, &key);
    let lines = if lines.is_empty() { by_keys(&[&key]) } else { lines.to_owned() };
    let setup = Setup::new().named_upstream("upstream", &origin.url(), &lines).signing(&[&own()], sign);
    (origin, object, key, setup)
}

fn refuses(machine: &Machine, path: &str, substituter: &str) {
    let words = ["nix-store", "--realise", path, "--option", "substituters", substituter];
    assert!(!machine.run(&words).status.success(), "a client that does not trust the key took {path}");
}

#[tokio::test]
async fn a_client_that_trusts_only_our_key_builds_from_three_upstreams_with_three_keys() {
    let fixture = fixture();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the caches");
    let keys = ["first-1", "second-1", "third-1"].map(Key::new);
    let parts = split::among(fixture, keys.into(), dir.path());
    let mut setup = Setup::new().store("disk = \"512 MiB\"\nmemory = \"64 MiB\"");
    for part in &parts {
        setup = setup.upstream(&part.origin.url(), &part.key);
    }
    let setup = setup.signing(&[&own()], "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let (url, everything) = (snowbank.http_url(), fixture.path("everything"));

    let machine = Machine::new(&[&own().public()]);
    assert_eq!(machine.substitute("everything", &url, None), everything);
    machine.verify_all();
    // Contents and signatures, of what was copied here and of what is offered there.
    machine.ok(&["nix", "store", "verify", "--all"]);
    machine.ok(&["nix", "store", "verify", "--store", &url, "--recursive", "--no-contents", everything]);
    for part in &parts {
        let taken = part.origin.requests().iter().filter(|r| r.target.starts_with("/nar/")).count();
        assert!(taken > 10, "a third of the closure came from each");
    }
    // A client that trusts another key, or one of the upstreams only, is not served by our signature.
    let stranger = Machine::new(&[&Key::new("stranger-1").public()]);
    let words = ["nix", "store", "verify", "--store", &url, "--recursive", "--no-contents", everything];
    assert!(!stranger.run(&words).status.success(), "verify can fail");
    refuses(&stranger, fixture.path("hello"), &url);

    let client = snowbank.http();
    for (n, info) in fixture.infos().iter().enumerate() {
        let answer = client.get(&format!("/{}.narinfo", &info.base_name[..32])).await.expect(200);
        expect_signed(answer.text(), &info.fingerprint(), &[&own(), &parts[n % 3].key]);
        assert_eq!(narinfo_fields(answer.text(), "Sig").len(), 2, "{}", answer.text());
    }
}

#[tokio::test]
async fn r5_a_signature_under_our_name_that_an_upstream_sent_is_replaced_by_ours() {
    let forged = |n: u8| format!("Sig: own-1:{}\n", STANDARD.encode([n; 64]));
    for lines in ["", "trust = \"origin\"", "trust = \"pass\""] {
        let (origin, object, key, setup) = published("forged", lines, "");
        let text = format!("{}{}{}", object.narinfo(&[&key]), forged(1), forged(2));
        origin.serve(&object.narinfo_target(), Reply::bytes(text));
        let snowbank = setup.start();
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        if lines.contains("pass") {
            assert!(signatures_named(answer.text(), "own-1").is_empty(), "{}", answer.text());
        } else {
            expect_signed(answer.text(), &object.fingerprint(), &[&own()]);
        }
        expect_signed(answer.text(), &object.fingerprint(), &[&key]);
    }
}

#[tokio::test]
async fn the_signatures_of_upstreams_are_kept_or_dropped_as_configured() {
    for (lines, kept) in
        [("", true), ("upstream_signatures = \"keep\"", true), ("upstream_signatures = \"drop\"", false)]
    {
        let (origin, object, key, setup) = published("kept-or-dropped", "", lines);
        let other = Key::new("somebody-else-1");
        origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&other, &key])));
        let snowbank = setup.start();
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        expect_signed(answer.text(), &object.fingerprint(), &[&own()]);
        let expected: &[&Key] = if kept { &[&other, &key] } else { &[] };
        expect_signed(answer.text(), &object.fingerprint(), expected);
        assert_eq!(narinfo_fields(answer.text(), "Sig").len(), 1 + expected.len(), "{lines}: {}", answer.text());
    }
}

#[tokio::test]
async fn several_keys_sign_side_by_side() {
    let (origin, key) = (Origin::start(), Key::new("upstream-1"));
    let ours = ["own-1", "own-2", "own-3"].map(Key::new);
    let object = Object::compressed("several", 3_000, Compression::Xz);
    origin.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &key).signing(&[&ours[0], &ours[1], &ours[2]], "");
    let snowbank = setup.start();
    let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    expect_signed(answer.text(), &object.fingerprint(), &[&ours[0], &ours[1], &ours[2], &key]);
    // Kept over a restart, and over one with other keys.
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    let fewer = Setup::in_front_of(&origin, &key).store_dir(setup.dir()).signing(&[&ours[1]], "");
    let snowbank = fewer.start();
    snowbank.wait_for_disk();
    let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    expect_signed(answer.text(), &object.fingerprint(), &[&ours[1], &key]);
    assert_eq!(narinfo_fields(answer.text(), "Sig").len(), 2, "{}", answer.text());
    assert_eq!(origin.count(&object.narinfo_target()), 1);
}

/// `pass`: served as it came, signed by nobody here, whatever `prove_first` says and even when its NAR was proven.
#[tokio::test]
async fn r1_what_is_only_passed_on_is_never_signed() {
    for prove_first in ["unsigned", "all", "never"] {
        let (origin, object, key, setup) =
            published("passed-on", "trust = \"pass\"", &format!("prove_first = {prove_first:?}"));
        for signers in [&[][..], &[&key][..]] {
            let object = Object::compressed(&format!("passed-on-{}", signers.len()), 3_000, Compression::Xz);
            origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(signers)));
            origin.serve(&object.file_target(), Reply::bytes(object.file.clone()));
        }
        let snowbank = setup.start();
        for name in ["passed-on", "passed-on-0", "passed-on-1"] {
            let object = Object::compressed(name, 3_000, Compression::Xz);
            for _ in 0..2 {
                let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
                assert!(signatures_named(answer.text(), "own-1").is_empty(), "{}", answer.text());
                snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
            }
        }
        refuses(&Machine::new(&[&own().public()]), &format!("/nix/store/{}", object.base_name), &snowbank.http_url());
    }
}

/// Asks for the narinfo while the NAR stands at a gate: true when the answer did not wait for it. Then opens the gate.
async fn answers_before_the_nar(origin: &Origin, object: &Object, snowbank: &Snowbank) -> bool {
    let gate = Gate::new();
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_before_head(&gate));
    let (client, target) = (snowbank.http(), object.narinfo_target());
    let mut asking = tokio::spawn(async move { client.get(&target).await });
    // Whether it would answer without the NAR shows only by giving it time.
    let early = tokio::time::timeout(Duration::from_secs(1), &mut asking).await;
    let waited = early.is_err();
    let answer = match early {
        Ok(answer) => answer,
        Err(_) => {
            gate.reached().await;
            gate.open();
            asking.await
        }
    };
    gate.open();
    let answer = answer.expect("no panic").expect(200);
    expect_signed(answer.text(), &object.fingerprint(), &[&own()]);
    !waited
}

#[tokio::test]
async fn r3_what_is_proven_before_it_is_signed_is_as_configured() {
    let origin_trust = "trust = \"origin\"";
    // Trust, whether the narinfo is signed, `prove_first`, whether the answer waits for the NAR.
    let rows = [
        ("", true, "", false),
        ("", true, "unsigned", false),
        ("", true, "all", true),
        ("", true, "never", false),
        (origin_trust, false, "", true),
        (origin_trust, false, "unsigned", true),
        (origin_trust, false, "all", true),
        (origin_trust, false, "never", false),
    ];
    for (lines, signed, prove_first, waits) in rows {
        let row = format!("{lines:?} signed {signed} {prove_first:?}");
        let sign = if prove_first.is_empty() { String::new() } else { format!("prove_first = {prove_first:?}") };
        let (origin, object, key, setup) = published("proven-first", lines, &sign);
        let signers: &[&Key] = if signed { &[&key] } else { &[] };
        origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(signers)));
        let snowbank = setup.start();
        snowbank.wait_for_disk();
        assert_eq!(answers_before_the_nar(&origin, &object, &snowbank).await, !waits, "{row}");
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
        assert_eq!(origin.count(&object.file_target()), 1, "{row}: proving it was the fetch");
        let machine = Machine::new(&[&own().public()]);
        let path = format!("/nix/store/{}", object.base_name);
        machine.ok(&["nix-store", "--realise", &path, "--option", "substituters", &snowbank.http_url()]);
    }
}

/// An upstream that the operator vouches for and that has keys: what they signed needs no proof.
#[tokio::test]
async fn what_an_origin_signed_with_its_own_key_is_signed_at_once() {
    let key = Key::new("upstream-1");
    let lines = format!("trust = \"origin\"\n{}", by_keys(&[&key]));
    let (origin, object, _, setup) = published("signed-origin", &lines, "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    assert!(answers_before_the_nar(&origin, &object, &snowbank).await);
    // Another key's signature counts for nothing there.
    let unsigned = Object::compressed("badly-signed-origin", 3_000, Compression::Xz);
    origin.publish(&unsigned, &Key::new("other-1"));
    assert!(!answers_before_the_nar(&origin, &unsigned, &snowbank).await);
}
