//! The rig by itself, without the program: real Nix builds from the upstreams that the other tests stand on, and the
//! clients see what they claim to see.

use crate::support::cache::{Compression, Key, Object, nix32, sha256};
use crate::support::client::{End, Target, assert_same};
use crate::support::fixture::{COMPRESSIONS, fixture};
use crate::support::nix::Machine;
use crate::support::nix_serve::NixServe;
use crate::support::origin::{Break, Framing, Gate, Origin, Reply};
use crate::support::pebble::{Pebble, Shape};
use crate::support::snowbank::certificates;
use crate::support::split;
use crate::support::static_cache;
use crate::support::tls::{Hello, tell};
use std::process::Command;
use std::time::Duration;

#[test]
fn real_nix_builds_hello_from_the_static_cache_in_every_compression() {
    let fixture = fixture();
    for compression in COMPRESSIONS {
        let origin = static_cache::serve(&fixture.cache(compression));
        let machine = Machine::new(&[&fixture.key().public()]);
        let path = machine.substitute("hello", &origin.url(), None);
        assert_eq!(path, fixture.path("hello"));
        assert_eq!(machine.ok(&[&format!("{path}/bin/hello")]), "hello from the store");
        machine.verify_all();
        assert!(origin.count(&format!("/{}.narinfo", fixture.hash_part("hello"))) >= 1);
    }
}

#[test]
fn real_nix_builds_hello_from_nginx() {
    let fixture = fixture();
    let nginx = static_cache::nginx(&fixture.cache("xz"));
    let machine = Machine::new(&[&fixture.key().public()]);
    let path = machine.substitute("hello", &nginx.url(), None);
    assert_eq!(machine.ok(&[&format!("{path}/bin/hello")]), "hello from the store");
}

#[test]
fn real_nix_builds_hello_from_the_imitation_of_nix_serve() {
    let fixture = fixture();
    let server = NixServe::of_fixture(fixture, Some(Key::new("nix-serve-1")));
    let machine = Machine::new(&[&Key::new("nix-serve-1").public()]);
    let path = machine.substitute("hello", &server.url(), None);
    assert_eq!(machine.ok(&[&format!("{path}/bin/hello")]), "hello from the store");
    machine.verify_all();
}

#[test]
fn real_nix_refuses_a_key_that_it_does_not_trust() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("none"));
    let machine = Machine::new(&[&Key::new("another-1").public()]);
    let words = ["nix-store", "--realise", fixture.path("file"), "--option", "substituters", &origin.url()];
    assert!(!machine.run(&words).status.success());
}

#[test]
fn real_nix_builds_from_three_caches_only_when_it_trusts_all_three_keys() {
    let fixture = fixture();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the caches");
    let parts = split::among(fixture, ["first-1", "second-1", "third-1"].map(Key::new).into(), dir.path());
    let keys: Vec<String> = parts.iter().map(|part| part.key.public()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let urls: Vec<String> = parts.iter().map(|part| part.origin.url()).collect();
    let machine = Machine::new(&keys);
    assert_eq!(machine.substitute("everything", &urls.join(" "), None), fixture.path("everything"));
    machine.ok(&["nix", "store", "verify", "--all", "--no-contents"]);
    let path = fixture.path("everything");
    let words = ["nix-store", "--realise", path, "--option", "substituters", &urls.join(" ")];
    for n in 0..3 {
        let (mut fewer, all) = (keys.clone(), &fixture.key().public());
        fewer[n] = all;
        assert!(!Machine::new(&fewer).run(&words).status.success(), "without the key of part {n}");
    }
}

#[test]
fn real_nix_accepts_made_up_objects_in_every_compression() {
    let key = Key::new("made-up-1");
    let origin = Origin::start();
    origin.serve("/nix-cache-info", Reply::bytes("StoreDir: /nix/store\n"));
    let machine = Machine::new(&[&key.public()]);
    for compression in [Compression::None, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        let object = Object::compressed("made-up", 300_000, compression);
        origin.publish(&object, &key);
        let path = format!("/nix/store/{}", object.base_name);
        machine.ok(&["nix-store", "--realise", &path, "--option", "substituters", &origin.url()]);
        let dumped = Command::new("nix-store").arg("--dump").arg(machine.real_store().join(&object.base_name)).output();
        assert_same(&dumped.expect("nix-store runs").stdout, &object.nar);
    }
}

#[test]
fn base_32_is_that_of_nix() {
    // `nix-hash --type sha256 --to-base32` of the digest of the empty string.
    assert_eq!(nix32(&sha256(b"")), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
}

#[tokio::test]
async fn a_cut_body_is_seen_in_every_framing() {
    let origin = Origin::start();
    let client = Target::Http(origin.address());
    let body = vec![7; 1000];
    for framing in [Framing::Length, Framing::Chunked] {
        for how in [Break::Close, Break::Reset] {
            origin.serve("/x", Reply::bytes(body.clone()).framing(framing).break_at(400, how));
            let response = client.get("/x").await;
            assert!(matches!(response.end, End::Broken(_)), "{framing:?} {how:?}");
            assert!(response.body.len() <= 400, "{framing:?} {how:?}");
        }
        origin.serve("/x", Reply::bytes(body.clone()).framing(framing).pieces(17, Duration::ZERO));
        client.get("/x").await.expect_bytes(&body);
    }
}

#[tokio::test]
async fn a_gate_holds_the_body_back_until_it_is_opened() {
    let origin = Origin::start();
    let gate = Gate::new();
    origin.serve("/x", Reply::bytes(vec![7; 1000]).gate_at(400, &gate));
    let mut exchange = Target::Http(origin.address()).start("GET", "/x", &[]).await;
    assert_eq!(exchange.exactly(400).await.len(), 400);
    gate.reached().await;
    gate.open();
    assert_eq!(exchange.finish().await.body.len(), 600);
}

#[tokio::test]
async fn ranges_are_honoured_or_not_as_told() {
    let origin = Origin::start();
    let client = Target::Http(origin.address());
    let body: Vec<u8> = (0..=255).collect();
    origin.serve("/x", Reply::bytes(body.clone()));
    let part = client.get_with("/x", &[("Range", "bytes=10-19")]).await.expect(206);
    assert_eq!(part.field("content-range"), Some("bytes 10-19/256"));
    assert_same(&part.body, &body[10..20]);
    client.get_with("/x", &[("Range", "bytes=256-")]).await.expect(416);
    origin.serve("/x", Reply::bytes(body.clone()).without_ranges());
    client.get_with("/x", &[("Range", "bytes=10-19")]).await.expect_bytes(&body);
    assert_eq!(origin.requests_for("/x")[0].field("range"), Some("bytes=10-19"));
}

#[tokio::test]
async fn the_imitation_answers_as_nix_serve_was_captured() {
    let server = NixServe::start(None);
    let object = Object::new("captured", 600);
    server.add(&object);
    let client = Target::Http(server.address());
    let info = client.get("/nix-cache-info").await.expect(200);
    assert_eq!(info.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    assert_eq!(info.field("transfer-encoding"), Some("chunked"));
    let names: Vec<&str> = info.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Content-Type", "Transfer-Encoding", "Date", "Connection"]);
    assert_eq!(client.get("/abc.narinfo").await.expect(500).text(), "Internal Server Error");
    assert_eq!(client.get("/00000000000000000000000000000000.narinfo").await.expect(404).text(), "No such path.\n");
    assert_eq!(client.get("/log/00000000000000000000000000000000-nope.drv").await.expect(200).text(), "");
    let nar = format!("/nar/{}-{}.nar", object.hash_part(), object.nar_hash());
    client.get(&nar).await.expect_bytes(&object.nar);
    client.get_with(&nar, &[("Range", "bytes=0-9")]).await.expect_bytes(&object.nar);
    client.get(&format!("/nar/{}.nar", object.hash_part())).await.expect_bytes(&object.nar);
    client.get(&format!("/nar/{}-{}.nar", object.hash_part(), "0".repeat(52))).await.expect(404);
    server.fail_dump(&object, Some(100));
    let short = client.get(&nar).await;
    assert!(matches!(short.end, End::Broken(_)) && short.body.len() == 100);
}

#[tokio::test]
async fn the_imitation_sends_a_body_on_head_and_closes_after_a_second() {
    let server = NixServe::start(None);
    let mut connection = Target::Http(server.address()).connect().await;
    connection.send(b"HEAD /nix-cache-info HTTP/1.1\r\nHost: o\r\n\r\n").await;
    let bytes = connection.until_closed().await;
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.ends_with("\r\n\r\nStoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"), "{text}");
    assert!(text.contains("Connection: keep-alive"), "{text}");
}

#[tokio::test]
async fn the_authority_can_be_cut_off_and_can_forget() {
    let pebble = Pebble::start(Shape::default());
    let door = pebble.directory().replace("https://", "").replace("/dir", "").parse().expect("an address");
    let directory = Target::Https(door, vec![certificates().authority.clone()]);
    assert!(directory.get("/dir").await.expect(200).text().contains("newOrder"));
    let root = pebble.root().await;
    assert_eq!(pebble.requests("/dir"), 1);
    pebble.shut();
    assert!(directory.is_gone().await);
    assert_eq!(pebble.root().await, root, "it runs on behind its door");
    pebble.open();
    directory.get("/dir").await.expect(200);
    pebble.start_again();
    assert_ne!(pebble.root().await, root);
    assert_eq!((pebble.requests("/dir"), pebble.issued(), pebble.accounts()), (2, 0, 0));
}

#[test]
fn the_hook_of_the_tests_notes_its_calls() {
    let pebble = Pebble::start(Shape::default());
    let hook = pebble.dns_hook();
    for action in ["add", "remove"] {
        let status = Command::new(&hook.path).args([action, "_acme-challenge.x.org", "value"]).status();
        assert!(status.expect("sh and curl are installed").success(), "{action}");
    }
    let calls: Vec<String> =
        hook.calls().into_iter().map(|(action, name, value)| action + " " + &name + " " + &value).collect();
    assert_eq!(calls, ["add _acme-challenge.x.org value", "remove _acme-challenge.x.org value"]);
}

#[tokio::test]
async fn a_chain_is_seen_as_it_is_presented() {
    let tls = Origin::start_tls();
    let chain = Hello::to("localhost").presented(tls.address()).await.expect("a handshake");
    assert_eq!(tell(&chain[0]).names, ["cache.example.test", "localhost"]);
    let own = [certificates().authority.clone()];
    Hello::to("localhost").verified(tls.address(), &own).await.expect("the right authority and name");
    Hello::to("127.0.0.1").verified(tls.address(), &own).await.expect("the right authority and address");
    assert!(Hello::to("other.example.org").verified(tls.address(), &own).await.is_err(), "another name");
}
