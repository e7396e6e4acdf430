//! `Cache-Status` (RFC 9211) is on every answer, whoever makes it, and says what became of the request; `Server-Timing` is there if wanted.

use crate::support::cache::{Key, Object};
use crate::support::client::{Response, Target};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::trust::eventually;

const MB: usize = 1_000_000;
/// Method, target, further fields, status, and what is told.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);
const MISSING: &str = "/00000000000000000000000000000000.narinfo";

#[track_caller]
fn status_of(response: &Response) -> String {
    let field = response.field("cache-status").unwrap_or_else(|| panic!("no Cache-Status: {response:?}"));
    // A lifetime goes by.
    match field.split_once("ttl=") {
        Some((before, ttl)) => format!("{before}ttl={}", if ttl.starts_with('-') { "-" } else { "+" }),
        None => field.to_owned(),
    }
}

fn start(lines: &str) -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("cache-status-1"));
    origin.otherwise(|_, _| Reply::status(404));
    let upstream = format!("public_keys = [{:?}]\n{lines}", key.public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &upstream).start();
    (origin, key, snowbank)
}

#[tokio::test]
async fn each_way_of_answering_has_its_words() {
    let (origin, key, snowbank) = start("");
    snowbank.wait_for_disk();
    let client = snowbank.http();
    let object = Object::new("words", 2 * MB);
    origin.publish(&object, &key);
    let (narinfo, nar) = (object.narinfo_target(), object.served_target());
    let broken = Object::new("words-broken", 2000);
    origin.serve(&broken.narinfo_target(), Reply::status(500));
    let liar = Object::new("words-liar", 2000);
    origin.publish(&liar, &Key::new("stranger-1"));
    let (hash, etag) = (object.hash_part(), format!("\"{}\"", object.file_hash()));
    origin.serve(&format!("/{hash}.ls"), Reply::bytes("{}"));
    origin.serve(&format!("/log/{}.drv", object.base_name), Reply::bytes(vec![b'x'; 2 * MB]));
    let ranged = [("Range", "bytes=0-9")];
    let same = [("If-None-Match", etag.as_str())];
    let table: [Row<'_>; 24] = [
        ("GET", "/nix-cache-info", &[], 200, "snowbank; detail=local"),
        ("HEAD", "/nix-cache-info", &[], 200, "snowbank; detail=local"),
        ("GET", &narinfo, &[], 200, "snowbank; fwd=uri-miss; stored; detail=miss; ttl=+"),
        ("GET", &narinfo, &[], 200, "snowbank; hit; detail=memory; ttl=+"),
        ("HEAD", &narinfo, &[], 200, "snowbank; hit; detail=memory; ttl=+"),
        ("HEAD", &nar, &[], 200, "snowbank; fwd=uri-miss; detail=miss"),
        ("GET", &nar, &ranged, 206, "snowbank; fwd=uri-miss; fwd-status=200; stored; detail=miss"),
        ("GET", &nar, &[], 200, "snowbank; hit; detail=memory"),
        ("HEAD", &nar, &[], 200, "snowbank; hit; detail=memory"),
        ("GET", &nar, &ranged, 206, "snowbank; hit; detail=memory"),
        ("GET", &nar, &same, 304, "snowbank; hit; detail=memory"),
        ("GET", &nar, &[("Range", "bytes=9000000-")], 416, "snowbank; hit; detail=memory"),
        ("GET", MISSING, &[], 404, "snowbank; fwd=uri-miss; detail=not-found"),
        ("GET", MISSING, &[], 404, "snowbank; hit; detail=negative"),
        ("HEAD", MISSING, &[], 404, "snowbank; hit; detail=negative"),
        ("GET", &broken.narinfo_target(), &[], 502, "snowbank; fwd=uri-miss; detail=unknown"),
        ("GET", &liar.narinfo_target(), &[], 404, "snowbank; fwd=uri-miss; detail=refused"),
        ("GET", &format!("/{hash}.ls"), &[], 200, "snowbank; fwd=uri-miss; stored; detail=miss; ttl=+"),
        ("GET", &format!("/log/{}.drv", object.base_name), &[], 200, "snowbank; fwd=uri-miss; detail=miss"),
        ("GET", "/no/such/thing", &[], 404, "snowbank; fwd=uri-miss; detail=not-found"),
        ("PUT", "/nix-cache-info", &[], 405, "snowbank; detail=bad-request"),
        ("GET", "/nix-cache-info", &[("Content-Length", "5")], 400, "snowbank; detail=bad-request"),
        ("GET", &format!("/{}", "x".repeat(3000)), &[], 414, "snowbank; detail=bad-request"),
        ("GET", "/.well-known/acme-challenge/token", &[], 404, "snowbank; fwd=uri-miss; detail=not-found"),
    ];
    for (method, target, fields, status, told) in table {
        let response = client.request(method, target, fields).await.expect(status);
        // The fill goes on after the first ten bytes.
        if told.contains("fwd-status") {
            client.get(target).await.expect_bytes(&object.file);
            eventually("it is kept", async || snowbank.counter(Count::FillsRunning) == 0).await;
        }
        assert_eq!(status_of(&response), told, "{method} {target} {fields:?}");
        assert_eq!(response.field("server-timing"), None);
    }
    // Over HTTP/2 as well.
    assert_eq!(status_of(&snowbank.https().h2().await.get(&nar).await.expect(200)), "snowbank; hit; detail=memory");
    // A request that comes back: what upstreams are told is what it is known by.
    let passed = origin.requests()[0].field("cdn-loop").expect("a trail").to_owned();
    let looped = client.get_with(&narinfo, &[("CDN-Loop", &passed)]).await.expect(508);
    assert_eq!(status_of(&looped), "snowbank; fwd=uri-miss; detail=unknown");
}

#[tokio::test]
async fn who_joins_is_collapsed() {
    let (origin, key, snowbank) = start("");
    let (object, gate) = (Object::new("joined", 4 * MB), Gate::new());
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2 * MB as u64, &gate));
    let target = snowbank.http().nar_target(&object).await;
    let first = snowbank.http().start("GET", &target, &[]).await;
    let second = snowbank.http().start("GET", &target, &[]).await;
    let third = snowbank.http().start("GET", &target, &[("Range", "bytes=5-")]).await;
    gate.open();
    let expected = [
        "snowbank; fwd=uri-miss; stored; detail=miss",
        "snowbank; fwd=uri-miss; collapsed; detail=follower",
        "snowbank; fwd=uri-miss; fwd-status=200; collapsed; detail=follower",
    ];
    for (exchange, told) in [first, second, third].into_iter().zip(expected) {
        assert_eq!(status_of(&exchange.finish().await), told);
    }
}

#[tokio::test]
async fn what_is_stale_says_since_when() {
    let (origin, key, snowbank) = start("narinfo_ttl = \"0 s\"");
    let object = Object::new("stale", 2000);
    origin.publish(&object, &key);
    let target = object.narinfo_target();
    let first = snowbank.http().get(&target).await.expect(200);
    assert_eq!(status_of(&first), "snowbank; fwd=uri-miss; stored; detail=miss; ttl=+");
    origin.serve(&target, Reply::status(500));
    let stale = snowbank.http().get(&target).await.expect(200);
    let field = stale.field("cache-status").expect("a field");
    let ttl: i64 = field.strip_prefix("snowbank; hit; detail=stale; ttl=").expect(field).parse().expect("seconds");
    assert!((-60..=0).contains(&ttl), "{field}");
}

#[tokio::test]
async fn whoever_is_turned_away_is_told_so() {
    let (origin, key) = (Origin::start(), Key::new("cache-status-2"));
    origin.otherwise(|_, _| Reply::status(404));
    let private = format!("name = \"work\"\nprivate = true\npublic_keys = [{:?}]", key.public());
    let snowbank = Setup::new()
        .upstream_with(&origin.url(), &private)
        .also("[[access]]\nupstreams = [\"work\"]\nnetworks = [\"192.0.2.0/24\"]")
        .tls_listener("serves = \"granted\"")
        .plain_listener("name = \"plain\"")
        .also("[limits.client]\nrequests = 1\nrequest_burst = 20\nexempt = []")
        .start();
    let denied = snowbank.https().get("/nix-cache-info").await.expect(401);
    assert_eq!(status_of(&denied), "snowbank; detail=denied");
    let client = snowbank.http();
    let limited = loop {
        let response = client.get(MISSING).await;
        if response.status == 503 {
            break response;
        }
    };
    assert_eq!(status_of(&limited), "snowbank; detail=limited");
}

#[tokio::test]
async fn how_long_it_took_is_told_where_that_is_wanted() {
    let (origin, key) = (Origin::start(), Key::new("cache-status-3"));
    origin.otherwise(|_, _| Reply::status(404));
    let snowbank = Setup::in_front_of(&origin, &key).also("[log]\nserver_timing = true").start();
    // What is not found before that is asked for twice.
    snowbank.wait_for_disk();
    let told = async |client: Target, method: &str, target: &str| {
        let response = client.request(method, target, &[]).await;
        let field = response.field("server-timing").expect("a field").to_owned();
        let (before, milliseconds) = field.rsplit_once("dur=").expect("a duration");
        assert!(milliseconds.parse::<f64>().expect("a number") < 30_000.0, "{field}");
        before.to_owned()
    };
    assert_eq!(told(snowbank.http(), "GET", "/nix-cache-info").await, "snowbank;desc=local;");
    assert_eq!(told(snowbank.https(), "HEAD", MISSING).await, "snowbank;desc=not-found;");
    assert_eq!(told(snowbank.unix(), "PUT", MISSING).await, "snowbank;desc=bad-request;");
}
