//! What stands beside narinfos and NARs in a cache: listings, build logs, realisations of both kinds, debug information.

use crate::support::cache::{Compression, Key, Object};
use crate::support::client::End;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};

const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

fn start() -> (Origin, Key, Setup, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("small-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let snowbank = setup.start();
    (origin, key, setup, snowbank)
}

/// Every kind that is passed on as it is: target, content.
fn kinds() -> Vec<(String, String)> {
    vec![
        (format!("/{HASH}.ls"), r#"{"version":1,"root":{"type":"regular","size":3}}"#.to_owned()),
        (format!("/log/{HASH}-hello-2.12.1.drv"), "building hello\nwith ünicode\n".to_owned()),
        (format!("/log/{HASH}-odd+name=1.drv"), "building odd\n".to_owned()),
        (
            format!("/realisations/sha256:{}!out.doi", "0a".repeat(32)),
            format!(r#"{{"id":"sha256:{}!out","outPath":"{HASH}-x","signatures":[]}}"#, "0a".repeat(32)),
        ),
        (format!("/build-trace-v2/{HASH}-x.drv/out.doi"), format!(r#"{{"outPath":"{HASH}-x","signatures":[]}}"#)),
    ]
}

#[tokio::test]
async fn each_is_served_as_it_is_and_kept() {
    let (origin, _, setup, snowbank) = start();
    for (target, content) in kinds() {
        origin.serve(&target, Reply::bytes(content.clone()).without_ranges());
        for client in [snowbank.http(), snowbank.https(), snowbank.unix()] {
            let answer = client.get(&target).await.expect(200);
            assert_eq!(answer.text(), content);
            assert!(answer.field("content-type").is_some(), "{target}");
            let head = client.head(&target).await.expect(200);
            assert_eq!(head.field("content-length"), Some(content.len().to_string().as_str()), "{target}");
        }
        assert_eq!(origin.count(&target), 1, "{target}");
    }
    let _off = origin.switch_off();
    assert!(snowbank.stop().success());
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    for (target, content) in kinds() {
        assert_eq!(snowbank.http().get(&target).await.expect(200).text(), content, "{target}");
    }
}

#[tokio::test]
async fn a_miss_is_404_with_one_plain_line_and_a_broken_upstream_is_not_a_miss() {
    let (origin, _, _, snowbank) = start();
    for (target, content) in kinds() {
        let answer = snowbank.http().get(&target).await.expect(404);
        assert_eq!(answer.text().lines().count(), 1, "{target}: {:?}", answer.text());
        let (path, broken) = (target.replace(HASH, "1123456789abcdfghijklmnpqrsvwxyz").replace("0a", "1b"), content);
        origin.serve(&path, Reply::status(500));
        let answer = snowbank.http().get(&path).await;
        assert!([502, 503, 504].contains(&answer.status), "{path}: {}", answer.status);
        origin.serve(&path, Reply::bytes(broken.clone()).without_ranges().cut_at(10));
        let answer = snowbank.http().get(&path).await;
        assert!(answer.status >= 500 || matches!(answer.end, End::Broken(_)), "{path}: cut and yet complete");
        origin.serve(&path, Reply::bytes(broken.clone()).without_ranges());
        assert_eq!(snowbank.http().get(&path).await.expect(200).text(), broken);
    }
}

#[tokio::test]
async fn malformed_names_are_404_without_asking_anybody() {
    let (origin, _, _, snowbank) = start();
    for target in [
        "/abc.ls",
        "/eeee456789abcdfghijklmnpqrsvwxyz.ls",
        "/log/",
        "/log/hello.drv",
        "/log/../nix-cache-info",
        "/log/0123456789abcdfghijklmnpqrsvwxyz-a/b.drv",
        "/realisations/sha256:zz!out.doi",
        "/realisations/md5:00!out.doi",
        "/build-trace-v2/x.drv/out.doi",
        "/debuginfo/xyz",
        "/debuginfo/../x",
    ] {
        snowbank.http().get(target).await.expect(404);
    }
    assert_eq!(origin.requests().iter().filter(|r| r.target != "/nix-cache-info").count(), 0);
}

#[tokio::test]
async fn an_empty_log_is_no_log() {
    let (origin, _, _, snowbank) = start();
    let target = format!("/log/{HASH}-empty.drv");
    origin.serve(&target, Reply::bytes("").without_ranges());
    snowbank.http().get(&target).await.expect(404);
}

#[tokio::test]
async fn a_log_longer_than_anything_that_is_kept_in_memory_is_passed_on() {
    let (origin, _, _, snowbank) = start();
    let target = format!("/log/{HASH}-long.drv");
    let line = "a build log is text that somebody wants to read to its end\n";
    let log = line.repeat(24_000_000 / line.len());
    origin.serve(&target, Reply::bytes(log.clone()).without_ranges());
    snowbank.http().get(&target).await.expect_bytes(log.as_bytes());
}

#[tokio::test]
async fn a_log_that_the_upstream_keeps_compressed_keeps_its_content_encoding() {
    let (origin, _, _, snowbank) = start();
    let target = format!("/log/{HASH}-compressed.drv");
    let body: &[u8] = b"\x0b\x02\x80hello\x03";
    origin.serve(&target, Reply::bytes(body).without_ranges().field("Content-Encoding", "br"));
    for _ in 0..2 {
        let answer = snowbank.http().get(&target).await.expect_bytes(body);
        assert_eq!(answer.field("content-encoding"), Some("br"));
    }
    assert_eq!(origin.count(&target), 1);
}

#[tokio::test]
async fn debug_information_leads_to_the_nar_under_our_url() {
    let (origin, key, _, snowbank) = start();
    let object = Object::compressed("program-debug", 300_000, Compression::Xz);
    origin.publish(&object, &key);
    let id = "abcdef0123456789abcdef0123456789abcdef01";
    let member = "lib/debug/.build-id/ab/cdef.debug";
    let content = format!(r#"{{"archive":"../{}","member":"{member}"}}"#, object.url);
    // Nix writes the file with `.debug` at its end; clients ask with and without.
    for name in [id.to_owned(), format!("{id}.debug")] {
        let target = format!("/debuginfo/{name}");
        origin.serve(&target, Reply::bytes(content.clone()).without_ranges());
        for narinfo_first in [false, true] {
            if narinfo_first {
                snowbank.http().nar_target(&object).await;
            }
            let answer = snowbank.http().get(&target).await.expect(200);
            let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(json["member"], member);
            let archive = json["archive"].as_str().expect("an archive");
            let archive = archive.strip_prefix("../").expect("relative to debuginfo/");
            snowbank.http().get(&format!("/{archive}")).await.expect_bytes(&object.file);
        }
    }
}
