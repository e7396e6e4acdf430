//! The access log: one line for each request, true in every field, and nothing in it that was not understood.

use crate::support::cache::{Key, Object};
use crate::support::client::{End, Target};
use crate::support::origin::{Break, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank, run};
use crate::support::trust::eventually;
use serde_json::Value;
use std::collections::BTreeMap;

const MB: usize = 1_000_000;
const JSON: &str = "[log]\nformat = \"json\"\n";
const MISSING: &str = "00000000000000000000000000000000.narinfo";

type Line = serde_json::Map<String, Value>;

/// In front of one origin called `one`, with these further lines in the table of the log.
fn start(lines: &str) -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("access-1"));
    let snowbank = setup(&origin, &key, lines).start();
    (origin, key, snowbank)
}

fn setup(origin: &Origin, key: &Key, lines: &str) -> Setup {
    origin.otherwise(|_, _| Reply::status(404));
    let upstream = format!("name = \"one\"\npublic_keys = [{:?}]", key.public());
    Setup::new().upstream_with(&origin.url(), &upstream).also(&format!("{JSON}{lines}"))
}

/// The first `n` lines; waits for them.
#[track_caller]
fn lines(snowbank: &Snowbank, n: usize) -> Vec<Line> {
    if n > 0 {
        snowbank.log_line("\"target\":\"access\"", n - 1);
    }
    let log = snowbank.log();
    let is_access = |line: &Line| line.get("target").is_some_and(|target| target == "access");
    log.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(is_access).collect()
}

/// What is told of a request besides the times, as text; `-` for what is not there.
fn told(line: &Line) -> String {
    let field = |name: &str| match line.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    ["method", "route", "path", "outcome", "status", "upstream", "tier", "bytes", "ended"].map(field).join(" ")
}

fn text<'a>(line: &'a Line, field: &str) -> &'a str {
    line.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(line: &Line, field: &str) -> u64 {
    line.get(field).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {field} in {line:?}"))
}

#[tokio::test]
async fn a_line_tells_what_was_asked_and_what_became_of_it() {
    let (origin, key, snowbank) = start("");
    snowbank.wait_for_disk();
    let object = Object::new("told", 2 * MB);
    origin.publish(&object, &key);
    let (client, hash) = (snowbank.http(), object.hash_part().to_owned());
    let narinfo = client.get(&object.narinfo_target()).await.expect(200).body.len();
    client.get(&object.narinfo_target()).await.expect(200);
    client.head(&object.narinfo_target()).await.expect(200);
    let nar = object.served_target();
    client.get(&nar).await.expect_bytes(&object.file);
    eventually("it is kept", async || snowbank.counter(Count::FillsRunning) == 0).await;
    client.get(&nar).await.expect_bytes(&object.file);
    client.get_with(&nar, &[("Range", "bytes=10-29")]).await.expect(206);
    let tag = format!("{:?}", client.head(&nar).await.expect(200).field("etag").expect("a tag").trim_matches('"'));
    client.get_with(&nar, &[("If-None-Match", &tag)]).await.expect(304);
    for _ in 0..2 {
        client.get(&format!("/{MISSING}")).await.expect(404);
    }
    client.get("/nix-cache-info").await.expect(200);
    client.get(&format!("/{hash}%2Els?zqmark")).await.expect(404);
    client.get("/zqmark?zqmark").await.expect(404);
    client.request("ZQMARK", "/zqmark", &[]).await.expect(405);
    client.request("POST", "/zqmark", &[]).await.expect(405);
    client.get_with("/nix-cache-info", &[("Content-Length", "4")]).await.expect(400);
    let found = lines(&snowbank, 16);
    let nar = &nar[1..];
    let missing_narinfo = found[8].get("bytes").expect("bytes").clone();
    let size = object.file.len();
    let expected = [
        format!("GET narinfo {hash}.narinfo miss 200 one - {narinfo} complete"),
        format!("GET narinfo {hash}.narinfo hit 200 - memory {narinfo} complete"),
        format!("HEAD narinfo {hash}.narinfo hit 200 - memory 0 complete"),
        format!("GET nar {nar} miss 200 one - {size} complete"),
        format!("GET nar {nar} hit 200 - memory {size} complete"),
        format!("GET nar {nar} hit 206 - memory 20 complete"),
        format!("HEAD nar {nar} hit 200 - memory 0 complete"),
        format!("GET nar {nar} hit 304 - memory 0 complete"),
        format!("GET narinfo {MISSING} not-found 404 - - {missing_narinfo} complete"),
        format!("GET narinfo {MISSING} negative 404 - - {missing_narinfo} complete"),
    ];
    for (line, expected) in found.iter().zip(&expected) {
        // What is read beside a fill may have been in memory already.
        let told = told(line).replace("miss 200 one memory", "miss 200 one -");
        assert_eq!(told, *expected);
    }
    let rest: Vec<String> =
        found[10..].iter().map(|line| told(line).rsplit_once(" - ").unwrap().0.to_owned()).collect();
    assert_eq!(
        rest,
        [
            "GET cache-info nix-cache-info local 200 -".to_owned(),
            format!("GET listing {hash}.ls not-found 404 -"),
            "GET other - not-found 404 -".to_owned(),
            "other other - bad-request 405 -".to_owned(),
            "POST other - bad-request 405 -".to_owned(),
            "GET other - bad-request 400 -".to_owned(),
        ]
    );
    for line in &found {
        assert!(text(line, "client").starts_with("127.0.0.1:"), "{line:?}");
        let seconds = |field: &str| line.get(field).and_then(Value::as_f64).expect(field);
        assert!(seconds("first_byte") <= seconds("total") && seconds("total") < 30.0, "{line:?}");
        assert!(text(line, "trace").len() == 32 && !line.contains_key("name"), "{line:?}");
    }
    assert!(!snowbank.log().iter().any(|line| line.to_lowercase().contains("zqmark")), "what was not understood");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_at_once_are_a_thousand_lines_that_add_up() {
    const AT_ONCE: usize = 50;
    let (origin, key, snowbank) = start("");
    let objects: Vec<Object> = (0..5).map(|n| Object::new(&format!("thousand-{n}"), 300_000 + n)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    let mut targets: Vec<String> =
        objects.iter().flat_map(|object| [object.narinfo_target(), object.served_target()]).collect();
    targets.extend([format!("/{MISSING}"), "/nix-cache-info".to_owned(), "/nothing".to_owned()]);
    let h2 = snowbank.https().h2().await;
    let mut received = 0;
    for batch in 0..1000 / AT_ONCE {
        let asked = (0..AT_ONCE).map(|n| {
            let (target, plain, h2) = (&targets[(batch * AT_ONCE + n) % targets.len()], snowbank.http(), &h2);
            async move { if n % 2 == 0 { plain.get(target).await } else { h2.get(target).await } }
        });
        for response in futures_util::future::join_all(asked).await {
            assert_eq!(response.end, End::Clean);
            received += response.body.len() as u64;
        }
    }
    let found = lines(&snowbank, 1000);
    assert_eq!(found.len(), 1000);
    assert_eq!(found.iter().map(|line| number(line, "bytes")).sum::<u64>(), received);
    let mut outcomes = BTreeMap::<(&str, &str), u64>::new();
    for line in &found {
        *outcomes.entry((text(line, "route"), text(line, "outcome"))).or_default() += 1;
        assert_eq!(text(line, "ended"), "complete");
    }
    // One question each, and the rest came from here or along with it. (A NAR may have had its narinfo asked for.)
    let asked = |of: fn(&Object) -> String| objects.iter().map(|object| origin.count(&of(object))).sum::<usize>();
    assert_eq!((asked(Object::narinfo_target), asked(Object::file_target)), (5, 5));
    assert_eq!(outcomes[&("nar", "miss")], 5, "{outcomes:?}");
    assert!(outcomes.get(&("narinfo", "miss")).is_none_or(|n| *n <= 5), "{outcomes:?}");
    let page = snowbank.metrics();
    for ((route, outcome), n) in &outcomes {
        let sample = format!("snowbank_edge_requests_total{{outcome=\"{outcome}\",route=\"{route}\"}} {n}\n");
        assert!(page.contains(&sample), "{sample}{page}");
    }
    let traces: std::collections::BTreeSet<&str> = found.iter().map(|line| text(line, "trace")).collect();
    assert_eq!(traces.len(), 1000);
}

#[tokio::test]
async fn a_client_that_leaves_and_an_upstream_that_dies_are_told_apart() {
    let (origin, key, snowbank) = start("");
    let client = snowbank.http();
    // Before there is an answer.
    let (slow, gate) = (Object::new("left-before", 2 * MB), Gate::new());
    origin.serve(&slow.narinfo_target(), Reply::bytes(slow.narinfo(&[&key])).gate_before_head(&gate));
    let mut connection = client.connect().await;
    connection.send(format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", slow.narinfo_target()).as_bytes()).await;
    gate.reached().await;
    drop(connection);
    let found = lines(&snowbank, 1);
    let path = &slow.narinfo_target()[1..];
    assert_eq!(told(&found[0]), format!("GET narinfo {path} abandoned 499 - - 0 client-gone"));
    gate.open();
    // In the middle.
    let (object, gate) = (Object::new("left-midway", 4 * MB), Gate::new());
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2 * MB as u64, &gate));
    let target = client.nar_target(&object).await;
    let mut exchange = client.start("GET", &target, &[]).await;
    exchange.exactly(MB).await;
    drop(exchange);
    let line = lines(&snowbank, 3).pop().expect("a line");
    assert_eq!((text(&line, "ended"), text(&line, "upstream"), number(&line, "status")), ("client-gone", "one", 200));
    let bytes = number(&line, "bytes");
    assert!(bytes >= MB as u64 && bytes <= 2 * MB as u64, "{line:?}");
    gate.open();
    // The upstream breaks off, and nobody else has it.
    let object = Object::new("cut", 4 * MB);
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).break_at(2 * MB as u64, Break::Close));
    let target = client.nar_target(&object).await;
    let response = client.get(&target).await;
    assert!(matches!(response.end, End::Broken(_)));
    let line = lines(&snowbank, 5).pop().expect("a line");
    assert_eq!((text(&line, "ended"), text(&line, "upstream"), number(&line, "status")), ("broken", "one", 200));
    assert!(number(&line, "bytes") >= response.body.len() as u64, "{line:?}");
    let warning = snowbank.log_line("response broken off", 0);
    assert!(warning.contains(text(&line, "trace")) && warning.contains(&target[1..]), "{warning}");
}

#[tokio::test]
async fn the_tier_and_the_upstream_are_those_of_the_bytes() {
    let (first, second, key) = (Origin::start(), Origin::start(), Key::new("access-2"));
    let keys = format!("public_keys = [{:?}]", key.public());
    let setup = Setup::new()
        .upstream_with(&first.url(), &format!("name = \"first\"\n{keys}"))
        .upstream_with(&second.url(), &format!("name = \"second\"\n{keys}"))
        // The scrubber would bring it into memory.
        .store("disk = \"256 MiB\"\nmemory = \"64 MiB\"\nscrub = \"0 s\"")
        .also(JSON);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let object = Object::new("tiers", 3 * MB);
    first.publish_narinfo(&object, &key);
    first.serve(&object.file_target(), Reply::bytes(object.file.clone()).break_at(MB as u64, Break::Close));
    second.publish(&object, &key);
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    let found = lines(&snowbank, 2);
    assert_eq!([text(&found[0], "upstream"), text(&found[1], "upstream")], ["first", "second"]);
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    // From disk once, from memory then.
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    for tier in ["disk", "memory"] {
        for (target, n) in [(object.narinfo_target(), 0), (target.clone(), object.file.len())] {
            let response = snowbank.http().get(&target).await.expect(200);
            let status = response.field("cache-status").expect("a field").to_owned();
            assert!(status.starts_with(&format!("snowbank; hit; detail={tier}")), "{status}");
            assert!(n == 0 || response.body.len() == n);
        }
    }
    let found = lines(&snowbank, 4);
    let tiers: Vec<&str> = found.iter().map(|line| text(line, "tier")).collect();
    assert_eq!(tiers, ["disk", "disk", "memory", "memory"], "{found:?}");
    assert!(found.iter().all(|line| text(line, "outcome") == "hit" && !line.contains_key("upstream")));
    // A chunk that the disk lost comes from an upstream, as a part of the trace of who noticed.
    assert!(snowbank.stop().success());
    crate::holes::damage(setup.dir(), &object.file, 5);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    second.forget();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-00");
    first.serve(&object.file_target(), Reply::status(404));
    snowbank.http().get_with(&target, &[("traceparent", &parent)]).await.expect_bytes(&object.file);
    assert_eq!(snowbank.counter(Count::ChunksRefilled), 1);
    let line = lines(&snowbank, 1).pop().expect("a line");
    let fields = ["outcome", "tier", "upstream", "trace"].map(|field| text(&line, field));
    assert_eq!(fields, ["hit", "disk", "second", trace]);
    let asked = second.requests_for(&object.file_target());
    assert!(asked[0].field("traceparent").is_some_and(|sent| sent.starts_with(&format!("00-{trace}-"))));
}

#[tokio::test]
async fn hits_are_sampled_and_nothing_else_is() {
    for (lines_of_log, least, most) in [("sample_hits = 0", 0, 0), ("sample_hits = 0.5", 50, 150), ("", 200, 200)] {
        let (origin, key, snowbank) = start(lines_of_log);
        let object = Object::new("sampled", 300_000);
        origin.publish(&object, &key);
        let target = snowbank.http().nar_target(&object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
        let mut connection = snowbank.http().connect().await;
        for _ in 0..200 {
            let (response, next) = connection.get(&object.narinfo_target()).await;
            response.expect(200);
            connection = next;
        }
        // A hit that its client does not stay for is none of many alike.
        let large = Object::new("sampled-large", 30 * MB);
        origin.publish(&large, &key);
        let target = snowbank.http().nar_target(&large).await;
        snowbank.http().get(&target).await.expect_bytes(&large.file);
        // Its first reader has all of it a moment before the store has: until then a second one follows the fill.
        eventually("it is kept", async || snowbank.counter(Count::FillsRunning) == 0).await;
        let mut exchange = snowbank.http().start("GET", &target, &[]).await;
        exchange.exactly(1000).await;
        drop(exchange);
        snowbank.log_line("client-gone", 0);
        snowbank.http().get(&format!("/{MISSING}")).await.expect(404);
        snowbank.log_line(MISSING, 0);
        let found = lines(&snowbank, least + 6);
        let of = |outcome: &str| found.iter().filter(|line| text(line, "outcome") == outcome).count();
        assert_eq!((of("miss"), of("not-found")), (4, 1), "{found:?}");
        let hits = of("hit") - 1;
        assert!((least..=most).contains(&hits), "{lines_of_log}: {hits} of 200");
    }
}

#[tokio::test]
async fn the_log_is_off_where_it_is_not_wanted_and_the_counters_are_not() {
    let (_origin, _key, snowbank) = start("access = false");
    for _ in 0..10 {
        snowbank.http().get("/nix-cache-info").await.expect(200);
    }
    snowbank.hang_up();
    snowbank.log_line("reloaded", 0);
    assert!(lines(&snowbank, 0).is_empty());
    let sample = "snowbank_edge_requests_total{outcome=\"local\",route=\"cache-info\"} 10\n";
    assert!(snowbank.metrics().contains(sample), "admin requests are not counted among them");
}

#[tokio::test]
async fn a_secret_is_told_by_its_name() {
    let made = run(&["token", "ci"]);
    let made = String::from_utf8(made.stdout).expect("text");
    let [line, netrc] = made.lines().collect::<Vec<_>>()[..] else { panic!("two lines: {made}") };
    let secret = netrc.rsplit(' ').next().expect("a password");
    let (origin, key) = (Origin::start(), Key::new("access-3"));
    origin.otherwise(|_, _| Reply::status(404));
    let keys = format!("public_keys = [{:?}]", key.public());
    let setup = Setup::new().upstream_with(&origin.url(), &format!("name = 'work'\nprivate = true\n{keys}"));
    let file = setup.home().join("tokens");
    std::fs::write(&file, line).expect("a file of tokens");
    let access = format!("[[access]]\nupstreams = ['work']\ntoken_files = [{file:?}]");
    // For people, this time.
    let snowbank = setup.also(&access).start();
    let shown = format!("Bearer {secret}");
    let target = format!("/{MISSING}");
    snowbank.http().get_with(&target, &[("Authorization", &shown)]).await.expect(404);
    snowbank.http().get_with(&target, &[("Authorization", "Bearer zqmark")]).await.expect(404);
    snowbank.unix().get(&target).await.expect(404);
    let [named, unnamed, unix] = [0, 1, 2].map(|nth| snowbank.log_line(" access: ", nth));
    assert!(named.contains(" name=token:ci method=GET route=narinfo path=0000"), "{named}");
    assert!(!unnamed.contains("name=") && unix.contains(" client=unix "), "{unnamed}\n{unix}");
    assert!(!snowbank.log().iter().any(|line| line.contains(secret) || line.contains("zqmark")));
}

/// The `traceparent` fields of what the origin was asked for this target.
fn parents(origin: &Origin, target: &str) -> Vec<Option<String>> {
    origin.requests_for(target).iter().map(|request| request.field("traceparent").map(str::to_owned)).collect()
}

async fn ask(client: &Target, target: &str, parent: &str) {
    let state = ("tracestate", "zqmark=1");
    client.get_with(target, &[("traceparent", parent), state]).await.expect(200);
}

#[tokio::test]
async fn a_trace_is_taken_over_and_sent_on_with_a_span_of_ours() {
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (origin, key, snowbank) = start("");
    let wrong = GOOD.to_uppercase();
    for (n, sent) in [GOOD, &wrong, "00-zqmark", ""].into_iter().enumerate() {
        let object = Object::new(&format!("traced-{n}"), 2000);
        origin.publish(&object, &key);
        ask(&snowbank.http(), &object.narinfo_target(), sent).await;
        let line = lines(&snowbank, n + 1).pop().expect("a line");
        let heard = parents(&origin, &object.narinfo_target()).pop().flatten().expect("a traceparent");
        let parts: Vec<&str> = heard.split('-').collect();
        let (trace, flags) = if n == 0 { (&GOOD[3..35], "01") } else { (text(&line, "trace"), "00") };
        assert_eq!((parts.len(), parts[0], parts[1], parts[3]), (4, "00", trace, flags), "{heard}");
        assert_eq!(text(&line, "trace"), trace);
        assert!(!heard.contains(&GOOD[36..52]), "the span is ours: {heard}");
        assert!(n == 0 || trace != &GOOD[3..35]);
    }
    assert!(origin.requests().iter().all(|request| request.field("tracestate").is_none()));
}

#[tokio::test]
async fn what_clients_share_has_the_trace_of_the_first() {
    let (origin, key, snowbank) = start("");
    let (object, gate) = (Object::new("shared-trace", 2 * MB), Gate::new());
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(MB as u64, &gate));
    let target = snowbank.http().nar_target(&object).await;
    let (first, second) = ("1".repeat(32), "2".repeat(32));
    let parent = |trace: &str| format!("00-{trace}-00f067aa0ba902b7-00");
    let one = snowbank.http().start("GET", &target, &[("traceparent", &parent(&first))]).await;
    let other = snowbank.http().start("GET", &target, &[("traceparent", &parent(&second))]).await;
    gate.open();
    for exchange in [one, other] {
        exchange.finish().await.expect_bytes(&object.file);
    }
    let heard = parents(&origin, &object.file_target());
    assert!(matches!(&heard[..], [Some(heard)] if heard.starts_with(&format!("00-{first}-"))), "{heard:?}");
    let found = lines(&snowbank, 3);
    let mut outcomes: Vec<[&str; 3]> =
        found[1..].iter().map(|line| ["trace", "outcome", "upstream"].map(|field| text(line, field))).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, [[&*first, "miss", "one"], [&*second, "follower", "one"]]);
}

#[tokio::test]
async fn traces_stay_here_where_that_is_wanted() {
    let (origin, key, snowbank) = start("traceparent = false");
    let object = Object::new("untraced", 2000);
    origin.publish(&object, &key);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    ask(&snowbank.http(), &object.narinfo_target(), &format!("00-{trace}-00f067aa0ba902b7-01")).await;
    assert_eq!(parents(&origin, &object.narinfo_target()), [None]);
    let line = lines(&snowbank, 1).pop().expect("a line");
    assert!(text(&line, "trace").len() == 32 && text(&line, "trace") != trace);
}
