//! What is told: of each request one span, of each request to an upstream one below it, and of nobody's secrets anything.

use crate::support::cache::{Key, Object};
use crate::support::collector::{Collector, Span};
use crate::support::origin::{Break, Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

/// In front of an origin called `one`, with these further lines in the table of the log.
fn start(collector: &Collector, lines: &str) -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("otlp-1"));
    origin.otherwise(|_, _| Reply::status(404));
    let upstream = format!("name = \"one\"\npublic_keys = [{:?}]", key.public());
    let log = format!("[log]\n{}{lines}\n", collector.options());
    let snowbank = Setup::new().upstream_with(&origin.url(), &upstream).also(&log).start();
    snowbank.wait_for_disk();
    (origin, key, snowbank)
}

/// What is told of a span besides ids and times.
fn told(span: &Span) -> String {
    let attributes =
        ["snowbank.outcome", "http.response.status_code", "snowbank.upstream", "snowbank.tier", "snowbank.ended"];
    format!("{} {}", span.name, attributes.map(|name| span.get(name)).join(" "))
}

/// The span that the origin was told by the n-th request for this target.
fn heard(origin: &Origin, target: &str, nth: usize) -> String {
    let requests = origin.requests_for(target);
    let field = requests[nth].field("traceparent").expect("a traceparent").to_owned();
    field.split('-').nth(2).expect("a span").to_owned()
}

#[tokio::test]
async fn a_miss_is_a_span_with_one_for_its_upstream_below_it_and_a_hit_is_one_alone() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "");
    let object = Object::new("traced", 300_000);
    origin.publish(&object, &key);
    let (client, target) = (snowbank.http(), object.narinfo_target());
    let size = client.get_with(&target, &[("traceparent", &traceparent(true))]).await.expect(200).body.len();
    let [miss, asked] = &collector.wait_for(2).await[..] else { unreachable!() };
    assert_eq!(told(miss), "narinfo miss 200 one - complete");
    assert_eq!((&*miss.trace, &*miss.parent, miss.is_server), (TRACE, PARENT, true));
    assert_eq!(miss.get("url.path"), target);
    assert_eq!((miss.get("http.request.method"), miss.get("http.response.body.size")), ("GET", &*size.to_string()));
    assert_eq!(told(asked), "GET - 200 one - complete");
    assert_eq!((&*asked.trace, &asked.parent, asked.is_server), (TRACE, &miss.id, false));
    assert_eq!(heard(&origin, &target, 0), asked.id, "the upstream's spans are below this one");
    assert!(miss.time.0 <= asked.time.0 && asked.time.1 <= miss.time.1, "{miss:?} {asked:?}");
    assert_eq!(asked.get("server.port"), origin.address().port().to_string());
    assert!(!miss.is_error && !asked.is_error);

    client.get_with(&target, &[("traceparent", &traceparent(true))]).await.expect(200);
    let spans = collector.wait_for(3).await;
    assert_eq!(told(&spans[2]), "narinfo hit 200 - memory complete");
    assert!(spans[2].parent == PARENT && spans[2].id != miss.id);
}

#[tokio::test]
async fn a_fill_is_one_question_whoever_follows_it() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "");
    let (object, gate) = (Object::new("followed", 3_000_000), Gate::new());
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(1_000_000, &gate));
    let target = object.served_target();
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let first = snowbank.http().start("GET", &target, &[]).await;
    gate.reached().await;
    let second = snowbank.http().start("GET", &target, &[]).await;
    gate.open();
    let (first, second) = tokio::join!(first.finish(), second.finish());
    first.expect_bytes(&object.file);
    second.expect_bytes(&object.file);
    let spans = collector.wait_for(5).await;
    let nars: Vec<&Span> = spans.iter().filter(|span| span.name == "nar").collect();
    let outcomes: Vec<&str> = nars.iter().map(|span| span.get("snowbank.outcome")).collect();
    assert_eq!(outcomes, ["miss", "follower"]);
    assert_ne!(nars[0].trace, nars[1].trace);
    assert!(nars.iter().all(|span| span.parent.is_empty()), "they began here");
    let asked: Vec<&Span> = spans.iter().filter(|span| !span.is_server && span.trace == nars[0].trace).collect();
    assert_eq!((asked.len(), &asked[0].parent), (1, &nars[0].id));
    assert_eq!(asked[0].get("http.response.body.size"), object.file.len().to_string());
    assert!(spans.iter().all(|span| span.is_server || span.trace != nars[1].trace), "who follows asks nobody");
}

#[tokio::test]
async fn who_asks_says_whether_a_trace_is_sent_and_for_all_others_the_share_does() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "otlp_share = 0");
    let objects: Vec<Object> = (0..3).map(|n| Object::new(&format!("sampled-{n}"), 1000)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    let [one, other, third] = [0, 1, 2].map(|n: usize| objects[n].narinfo_target());
    let client = snowbank.http();
    client.get(&one).await.expect(200);
    client.get_with(&other, &[("traceparent", &traceparent(false))]).await.expect(200);
    client.get_with(&third, &[("traceparent", &traceparent(true))]).await.expect(200);
    let flags = |target: &str| origin.requests_for(target)[0].field("traceparent").expect("a field")[53..].to_owned();
    assert_eq!([&one, &other, &third].map(|target| flags(target)), ["00", "00", "01"]);
    let spans = collector.wait_for(2).await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    assert_eq!(spans[0].get("url.path"), third);
    assert!(snowbank.stop().success());
    assert_eq!(collector.spans().len(), 2, "nothing of the others");
}

#[tokio::test]
async fn what_goes_wrong_is_told_where_it_did() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "");
    let object = Object::new("broken", 2_000_000);
    origin.publish_narinfo(&object, &key);
    let reply = Reply::bytes(object.file.clone()).break_at(1_000_000, Break::Reset);
    origin.script(&object.file_target(), move |_, _| reply.clone());
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let broken = snowbank.http().start("GET", &object.served_target(), &[]).await.finish().await;
    broken.expect_all_or_broken(&object.file);
    origin.script("/11111111111111111111111111111111.narinfo", |_, _| Reply::status(500));
    let refused = snowbank.http().get("/11111111111111111111111111111111.narinfo").await.expect(502);
    assert!(!refused.body.is_empty());
    assert!(snowbank.stop().success());
    let spans = collector.spans();
    let nar = spans.iter().find(|span| span.name == "nar").expect("the NAR's");
    assert_eq!((nar.is_error, nar.get("error.type")), (true, "broken"));
    let below: Vec<&Span> = spans.iter().filter(|span| span.parent == nar.id).collect();
    assert!(
        !below.is_empty() && below.iter().all(|span| span.is_error && span.get("error.type") == "cut"),
        "{below:?}"
    );
    let unknown = spans.iter().find(|span| span.get("snowbank.outcome") == "unknown").expect("the narinfo's");
    assert_eq!((unknown.is_error, unknown.get("http.response.status_code")), (true, "502"));
    let below = spans.iter().find(|span| span.parent == unknown.id).expect("the question's");
    assert_eq!((below.get("error.type"), below.get("http.response.status_code")), ("status", "500"));
}

#[tokio::test]
async fn upstreams_are_told_of_no_trace_where_that_is_switched_off() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "traceparent = false");
    let object = Object::new("untold", 1000);
    origin.publish(&object, &key);
    let target = object.narinfo_target();
    snowbank.http().get_with(&target, &[("traceparent", &traceparent(true))]).await.expect(200);
    let spans = collector.wait_for(2).await;
    assert!(spans[0].trace != TRACE && spans[0].parent.is_empty() && spans[1].parent == spans[0].id);
    assert_eq!(origin.requests_for(&target)[0].field("traceparent"), None);
}

#[tokio::test]
async fn no_secret_and_no_field_of_a_client_is_in_a_span() {
    let collector = Collector::start();
    let (origin, key, snowbank) = start(&collector, "");
    let object = Object::new("secret", 1000);
    origin.publish(&object, &key);
    let fields = [
        ("authorization", "Bearer zqmark-token"),
        ("user-agent", "zqmark-agent"),
        ("cookie", "zqmark=1"),
        ("tracestate", "zqmark=1"),
        ("baggage", "zqmark=1"),
        ("traceparent", &traceparent(true)),
    ];
    snowbank.http().get_with(&object.narinfo_target(), &fields).await.expect(200);
    snowbank.http().get_with(&format!("{}?zqmark=1", object.served_target()), &fields).await;
    snowbank.http().get_with("/zqmark/../zqmark", &fields).await;
    snowbank.http().request("ZQMARK", "/nix-cache-info", &fields).await;
    assert!(snowbank.stop().success());
    assert!(collector.spans().len() >= 5);
    for request in collector.requests() {
        let body = String::from_utf8_lossy(&request.body).to_lowercase();
        assert!(!body.contains("zqmark"), "{body}");
        assert!(!body.contains("127.0.0.1:"), "nor who asked: {body}");
    }
}
