//! `snowbank verify`: what is kept is examined, by the command itself or by the server that has the store.

use crate::holes::damage;
use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::lies::lie;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::trust::{by_keys, eventually};
use serde_json::Value;
use std::process::Output;

/// What came of the command: its exit status and its report.
fn report(output: &Output) -> (Option<i32>, Value) {
    let told = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    (output.status.code(), report)
}

fn verify(setup: &Setup, arguments: &[&str]) -> Output {
    let config = setup.home().join("snowbank.toml").display().to_string();
    run(&[&["verify", "--config", &config], arguments].concat())
}

/// A program that keeps an honest small NAR, an honest large one, and a lie, because it verifies nothing.
async fn with_a_lie() -> (Origin, Setup, Snowbank, [Object; 3]) {
    let (origin, key) = (Origin::start(), Key::new("upstream-1"));
    let small = Object::compressed("small", 20_000, Compression::Zstd);
    let large = Object::compressed("large", 3_000_000, Compression::Zstd);
    let lied = Object::compressed("lied-about", 20_000, Compression::Xz);
    origin.publish(&small, &key);
    origin.publish(&large, &key);
    let lie = lie("another-nar-of-one-size", &lied, &[&key]);
    origin.serve(&lied.narinfo_target(), Reply::bytes(lie.narinfo));
    origin.serve(&lie.file_target, Reply::bytes(lie.file.clone()));
    let setup = Setup::new().named_upstream("liar", &origin.url(), &by_keys(&[&key]));
    let setup = setup.also("[cache]\nverify = \"off\"");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    for object in [&small, &large, &lied] {
        let url = url(&snowbank, object).await;
        let body = client.get(&url).await.expect(200).body.clone();
        assert_eq!(body == object.file, object.base_name != lied.base_name);
    }
    snowbank.wait_until_stored();
    (origin, setup, snowbank, [small, large, lied])
}

/// The URL under which the NAR is offered.
async fn url(snowbank: &Snowbank, object: &Object) -> String {
    let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    format!("/{}", narinfo_fields(narinfo.text(), "URL")[0])
}

fn number(report: &Value, group: &str, name: &str) -> u64 {
    report[group][name].as_u64().unwrap_or_else(|| panic!("no {group}.{name} in {report:#}"))
}

#[tokio::test]
async fn a_stored_lie_and_a_damaged_chunk_are_found_with_no_server() {
    let (origin, setup, snowbank, [_, large, lied]) = with_a_lie().await;
    assert!(snowbank.stop().success());
    damage(setup.dir(), &large.file, 3);
    let (status, found) = report(&verify(&setup, &[]));
    assert_eq!(status, Some(1), "{found:#}");
    assert_eq!((number(&found, "narinfos", "seen"), number(&found, "narinfos", "wrong")), (3, 0), "{found:#}");
    assert_eq!((number(&found, "nars", "seen"), number(&found, "nars", "wrong")), (3, 1), "{found:#}");
    assert_eq!(number(&found, "nars", "proven"), 1, "{found:#}");
    let problems = found["problems"].as_array().expect("a list");
    let lie = problems.iter().find(|problem| problem["what"] == "nar").expect("the lie");
    assert_eq!((&lie["key"], &lie["upstream"]), (&lied.base_name[..32].into(), &"liar".into()), "{found:#}");
    assert_eq!(lie["reason"], "wrong-nar-hash");
    assert_eq!((number(&found, "chunks", "wrong"), number(&found, "chunks", "absent")), (1, 0), "{found:#}");
    // The lie is gone; the chunk is damaged until a server has fetched it again.
    let (status, again) = report(&verify(&setup, &[]));
    assert_eq!((status, number(&again, "nars", "seen"), number(&again, "nars", "wrong")), (Some(1), 2, 0), "{again:#}");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let answer = snowbank.http().get(&format!("/{}.narinfo", &lied.base_name[..32])).await;
    answer.expect(404);
    snowbank.http().get(&large.served_target()).await.expect_bytes(&large.file);
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    let file = setup.home().join("report.json");
    let again = verify(&setup, &["--json", file.to_str().expect("text")]);
    assert_eq!((again.status.code(), again.stdout.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(!again.stderr.is_empty(), "it tells how far it is");
    let again: Value = serde_json::from_slice(&std::fs::read(file).expect("the report")).expect("JSON");
    assert_eq!((again["wrong"].as_u64(), number(&again, "nars", "proven")), (Some(0), 2), "{again:#}");
    drop(origin);
}

#[tokio::test]
async fn a_running_server_is_asked_and_mends_what_it_can() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let (_origin, setup, snowbank, [_, large, lied]) = with_a_lie().await;
    let lie = url(&snowbank, &lied).await;
    let config = setup
        .config()
        .replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"127.0.0.1:{port}\""));
    assert!(snowbank.stop().success());
    let path = setup.home().join("with-admin.toml");
    std::fs::write(&path, config).expect("a configuration");
    let path = path.to_str().expect("text");
    let snowbank = Snowbank::spawn(&[], &["serve", "--config", path], &[], setup.home());
    snowbank.log_after("admin on http://");
    snowbank.wait_for_disk();
    damage(setup.dir(), &large.file, 3);
    let (status, found) = report(&run(&["verify", "--config", path]));
    assert_eq!((status, number(&found, "nars", "wrong")), (Some(1), 1), "{found:#}");
    assert_eq!(
        found["problems"][0]["key"].as_str().map(|key| lied.base_name.starts_with(key)),
        Some(true),
        "{found:#}"
    );
    let http = snowbank.log_after("listening on http://");
    let client = crate::support::client::Target::Http(http.parse().expect("an address"));
    client.get(&lie).await.expect(404);
    client.get(&large.served_target()).await.expect_bytes(&large.file);
    let (status, found) = report(&run(&["verify", "--config", path]));
    assert_eq!(status, Some(0), "{found:#}");
    assert!(snowbank.stop().success());
}

#[tokio::test]
async fn it_says_why_it_cannot_be_done() {
    let (_origin, setup, snowbank, _) = with_a_lie().await;
    // The store is in use, and the address for operators is not that of a server.
    let config = setup.config().replace("[admin]\naddress = \"127.0.0.1:0\"\n", "");
    let path = setup.home().join("no-admin.toml");
    std::fs::write(&path, config).expect("a configuration");
    let path = path.to_str().expect("text");
    let in_use = run(&["verify", "--config", path]);
    let told = String::from_utf8_lossy(&in_use.stderr).into_owned();
    assert_eq!(in_use.status.code(), Some(2), "{told}");
    assert!(told.contains("in use by a running server") && told.contains("[admin] address"), "{told}");
    assert!(snowbank.stop().success());
    let nothing = run(&["verify", "--dir", setup.home().join("nowhere").to_str().expect("text")]);
    assert_eq!(nothing.status.code(), Some(2), "{}", String::from_utf8_lossy(&nothing.stderr));
    assert!(!setup.home().join("nowhere").exists(), "it makes nothing");
    assert_eq!(run(&["verify", "--config", "no-such-file"]).status.code(), Some(64));
}

#[tokio::test]
async fn r11_the_scrubber_finds_a_damaged_chunk_and_has_it_fetched_again() {
    let (origin, key) = (Origin::start(), Key::new("scrubbed-1"));
    let object = Object::compressed("scrubbed", 3_000_000, Compression::Zstd);
    origin.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &key).store("disk = \"256 MiB\"\nmemory = \"16 MiB\"\nscrub = \"1 s\"");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    snowbank.http().get(&snowbank.http().nar_target(&object).await).await.expect_bytes(&object.file);
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    // Nothing of it is in memory now.
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    eventually("it walks", async || scrubbed(&snowbank, "right") > 0).await;
    assert_eq!((scrubbed(&snowbank, "wrong"), scrubbed(&snowbank, "mended")), (0, 0));
    origin.forget();
    damage(setup.dir(), &object.file, 5);
    eventually("it is mended", async || scrubbed(&snowbank, "mended") == 1).await;
    assert_eq!(scrubbed(&snowbank, "wrong"), 1);
    assert_eq!(origin.total(), 1, "one range: {:?}", origin.requests());
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    origin.forget();
    snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.total(), 0, "it was written again: {:?}", origin.requests());
}

fn scrubbed(snowbank: &Snowbank, result: &str) -> u64 {
    let prefix = format!("snowbank_scrub_chunks_total{{result=\"{result}\"}} ");
    let page = snowbank.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(&prefix)).expect("the counter");
    line.parse().expect("a number")
}
