//! nix-serve as an origin, with all that starman does to a connection. See [`crate::support::nix_serve`] for the list.

use crate::support::cache::{Key, Object, narinfo_fields};
use crate::support::client::End;
use crate::support::nix_serve::NixServe;
use crate::support::snowbank::{Count, Setup, Snowbank};

fn start(key: Option<Key>) -> (NixServe, Snowbank) {
    let server = NixServe::start(key);
    let snowbank = Setup::new().upstream_with(&server.url(), "trust = \"origin\"").start();
    (server, snowbank)
}

#[tokio::test]
async fn its_narinfos_are_believed_unsigned_and_keep_their_signature_when_they_have_one() {
    for key in [None, Some(Key::new("nix-serve-1"))] {
        let signed = key.is_some();
        let (server, snowbank) = start(key);
        let object = Object::new("local", 700_000);
        server.add(&object);
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        let signatures = narinfo_fields(answer.text(), "Sig");
        let expected = Key::new("nix-serve-1").sign(&object.fingerprint());
        assert_eq!(signatures.contains(&expected.as_str()), signed, "{}", answer.text());
        // nix-serve's own URL has our shape already.
        let target = format!("/nar/{}-{}.nar", object.hash_part(), object.nar_hash());
        assert_eq!(narinfo_fields(answer.text(), "URL"), [&target[1..]]);
        snowbank.http().get(&target).await.expect_bytes(&object.nar);
        assert_eq!(server.count(&target), 1);
    }
}

#[tokio::test]
async fn heads_and_gets_in_turn_are_never_mixed_up() {
    let (server, snowbank) = start(None);
    let objects: Vec<Object> = (0..12).map(|n| Object::new(&format!("mixed-{n}"), 5_000 * n)).collect();
    objects.iter().for_each(|object| server.add(object));
    for object in &objects {
        snowbank.http().head("/nix-cache-info").await.expect(200);
        snowbank.http().head(&object.narinfo_target()).await.expect(200);
        let head = snowbank.http().head(&object.served_target()).await.expect(200);
        assert_eq!(head.field("content-length"), Some(object.nar.len().to_string().as_str()));
        let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        assert_eq!(narinfo_fields(narinfo.text(), "StorePath"), [format!("/nix/store/{}", object.base_name)]);
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.nar);
    }
    for request in server.requests().iter().filter(|r| r.method == "HEAD") {
        assert!(
            request.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
            "HEAD on a kept connection: its body would be read as the next answer"
        );
    }
}

#[tokio::test]
async fn a_dump_that_fails_half_way_is_never_complete_and_never_poisons_the_connection() {
    let (server, snowbank) = start(None);
    let small = Object::new("fails-small", 50_000);
    let large = Object::new("fails-large", 3_000_000);
    let fine = Object::new("fine", 3_000);
    [&small, &large, &fine].into_iter().for_each(|object| server.add(object));
    for (object, after) in [(&small, 24), (&small, 49_000), (&large, 24), (&large, 2_000_000)] {
        server.fail_dump(object, Some(after));
        let target = snowbank.http().nar_target(object).await;
        let failed = snowbank.counter(Count::FillsFailed);
        let response = snowbank.http().get(&target).await;
        response.expect_all_or_broken(&object.nar);
        assert!(!(response.status == 200 && response.end == End::Clean), "{after}");
        assert!(snowbank.counter(Count::FillsFailed) > failed);
        snowbank.http().get(&snowbank.http().nar_target(&fine).await).await.expect_bytes(&fine.nar);
        server.fail_dump(object, None);
        if after != 24 {
            snowbank.http().get(&target).await.expect_bytes(&object.nar);
        }
    }
}

#[tokio::test]
async fn the_second_of_silence_after_which_it_closes_loses_no_request() {
    let (server, snowbank) = start(None);
    let objects: Vec<Object> = (0..6).map(|n| Object::new(&format!("idle-{n}"), 3_000)).collect();
    objects.iter().for_each(|object| server.add(object));
    for (n, object) in objects.iter().enumerate() {
        snowbank.http().get(&snowbank.http().nar_target(object).await).await.expect_bytes(&object.nar);
        // Around the moment at which the server closes: before, at, after.
        tokio::time::sleep(std::time::Duration::from_millis(994 + 2 * n as u64)).await;
    }
}

#[tokio::test]
async fn its_five_workers_are_not_held_by_slow_clients() {
    let (server, snowbank) = start(None);
    let objects: Vec<Object> = (0..10).map(|n| Object::new(&format!("slow-{n}"), 4_000_000)).collect();
    objects.iter().for_each(|object| server.add(object));
    let mut slow = Vec::new();
    for object in &objects {
        let target = snowbank.http().nar_target(object).await;
        let mut exchange = snowbank.http().start("GET", &target, &[]).await;
        exchange.exactly(1_000).await;
        slow.push(exchange);
    }
    // All ten stand still, and yet the origin has time for others.
    let other = Object::new("other", 700_000);
    server.add(&other);
    snowbank.http().get(&snowbank.http().nar_target(&other).await).await.expect_bytes(&other.nar);
    for (exchange, object) in slow.into_iter().zip(&objects) {
        let rest = exchange.finish().await.expect(200);
        assert_eq!(rest.body, object.nar.slice(1_000..));
    }
}

#[tokio::test]
async fn a_path_that_was_rebuilt_gets_its_new_narinfo() {
    let (server, snowbank) = start(None);
    let before = Object::new("rebuilt", 700_000);
    server.add(&before);
    let old_target = snowbank.http().nar_target(&before).await;
    // The same store path with other bytes: the build is not reproducible.
    let mut after = Object::new("rebuilt-again", 700_500);
    after.base_name.clone_from(&before.base_name);
    server.add(&after);
    // The old bytes are gone, and nobody has them.
    let response = snowbank.http().get(&old_target).await;
    assert_eq!(response.status, 404, "{:?}", response.body);
    // So the narinfo that announced them is not served any longer, but the new one.
    let new_target = snowbank.http().nar_target(&after).await;
    assert_ne!(new_target, old_target);
    snowbank.http().get(&new_target).await.expect_bytes(&after.nar);
}

#[tokio::test]
async fn bytes_that_were_cached_outlive_the_rebuild() {
    let (server, snowbank) = start(None);
    let before = Object::new("kept-build", 700_000);
    server.add(&before);
    let old_target = snowbank.http().nar_target(&before).await;
    snowbank.http().get(&old_target).await.expect_bytes(&before.nar);
    let mut after = Object::new("kept-build-again", 700_500);
    after.base_name.clone_from(&before.base_name);
    server.add(&after);
    snowbank.http().get(&old_target).await.expect_bytes(&before.nar);
}

#[tokio::test]
async fn an_empty_log_is_no_log() {
    let (server, snowbank) = start(None);
    server.add_log("0123456789abcdfghijklmnpqrsvwxyz-hello.drv", "building\n");
    let there = snowbank.http().get("/log/0123456789abcdfghijklmnpqrsvwxyz-hello.drv").await.expect(200);
    assert_eq!(there.text(), "building\n");
    snowbank.http().get("/log/0123456789abcdfghijklmnpqrsvwxyz-other.drv").await.expect(404);
    // It is built a moment later, and then there is a log.
    server.add_log("0123456789abcdfghijklmnpqrsvwxyz-other.drv", "built\n");
    let mut tries = 0;
    while snowbank.http().get("/log/0123456789abcdfghijklmnpqrsvwxyz-other.drv").await.status == 404 {
        tries += 1;
        assert!(tries < 70, "not remembered for longer than a minute");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn its_missing_listing_and_realisation_are_misses() {
    let (_server, snowbank) = start(None);
    for target in [
        "/0123456789abcdfghijklmnpqrsvwxyz.ls".to_owned(),
        "/0123456789abcdfghijklmnpqrsvwxyz.narinfo".to_owned(),
        format!("/realisations/sha256:{}!out.doi", "0".repeat(64)),
        "/build-trace-v2/0123456789abcdfghijklmnpqrsvwxyz-x.drv/out.doi".to_owned(),
        format!("/debuginfo/{}", "0".repeat(40)),
    ] {
        let answer = snowbank.http().get(&target).await.expect(404);
        assert_eq!(answer.text().lines().count(), 1, "one plain line for {target}");
    }
}
