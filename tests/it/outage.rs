//! Upstreams that are dead, silent or slow: what is cached is served as ever, the rest is told at once why not, and a recovery is
//! noticed.

use std::time::{Duration, Instant};

use crate::support::cache::{Key, Object, narinfo_fields};
use crate::support::client::Response;
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};

/// Within this a recovery must have been noticed.
const NOTICED: Duration = Duration::from_secs(15);

/// The status of what nobody can tell, with the seconds of its Retry-After.
fn unavailable(answer: &Response) -> Option<u64> {
    assert!([502, 503].contains(&answer.status), "{}: {:?}", answer.status, answer.body);
    let after = answer.field("retry-after").map(|after| after.parse().expect("seconds"));
    assert_eq!(after.is_some(), answer.status == 503);
    assert!(after.is_none_or(|after| (1..=5).contains(&after)), "{after:?}");
    after
}

/// Asks about paths that nobody has asked for until the breaker is open; how many questions that took.
async fn until_open(snowbank: &Snowbank) -> usize {
    for n in 0..100 {
        let target = Object::new(&format!("until-open-{n}"), 100).narinfo_target();
        if unavailable(&snowbank.http().get(&target).await).is_some() {
            return n + 1;
        }
    }
    panic!("100 questions to a dead upstream, and it is asked still");
}

/// What the metrics page has for this upstream's breaker.
fn breaker(snowbank: &Snowbank) -> u64 {
    snowbank.counter(Count::BreakerState)
}

/// What operators are told of the only upstream.
fn standing(snowbank: &Snowbank) -> serde_json::Value {
    let answer = snowbank.admin("/status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status: serde_json::Value = serde_json::from_str(body).expect("JSON");
    status["upstreams"][0].clone()
}

#[tokio::test]
async fn a_dead_upstream_is_told_of_at_once_and_its_recovery_is_noticed() {
    let (origin, key) = (Origin::start(), Key::new("outage-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let address = origin.address();
    assert_eq!(breaker(&snowbank), 0);
    let off = origin.switch_off();
    assert!(until_open(&snowbank).await <= 6);
    assert_ne!(breaker(&snowbank), 0);
    let told = standing(&snowbank);
    assert!(["down", "probing"].contains(&told["state"].as_str().expect("a word")), "{told}");
    assert!(told["why"].as_str().is_some_and(|why| why.contains("refused")), "{told}");
    let (asked, begun) = (snowbank.counter(Count::UpstreamRequests), Instant::now());
    let mut unasked = 0;
    for n in 0..50 {
        let target = Object::new(&format!("while-open-{n}"), 100).narinfo_target();
        let answer = snowbank.http().get(&target).await;
        unasked += u64::from(unavailable(&answer).is_some());
        let line = answer.text();
        assert!(line.starts_with(&format!("upstream {address} ")) && line.lines().count() == 1, "{line:?}");
    }
    assert!(unasked >= 45, "{unasked}");
    // Not one connection each: probes only.
    let probes = snowbank.counter(Count::UpstreamRequests) - asked;
    assert!(probes <= 1 + begun.elapsed().as_secs(), "{probes}");
    assert_eq!(snowbank.log().iter().filter(|line| line.contains("it is taken for down")).count(), 1);

    drop(off);
    let origin = Origin::start_at(address);
    let object = Object::new("after-the-outage", 3_000);
    origin.publish(&object, &key);
    let back = Instant::now();
    loop {
        let answer = snowbank.http().get(&object.narinfo_target()).await;
        if answer.status == 200 {
            break;
        }
        unavailable(&answer);
        assert!(back.elapsed() < NOTICED, "not noticed");
    }
    snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(breaker(&snowbank), 0);
    snowbank.log_line("answers again", 0);
    assert_eq!(standing(&snowbank)["state"], "up");
}

#[tokio::test]
async fn an_upstream_whose_absence_is_a_miss_costs_nothing_once_it_is_known_to_be_down() {
    let (gone, other, key) = (Origin::start(), Origin::start(), Key::new("outage-1"));
    let keys = format!("public_keys = [{:?}]\nwhen_down = \"miss\"", key.public());
    let snowbank = Setup::new().upstream_with(&gone.url(), &keys).upstream(&other.url(), &key).start();
    let _off = gone.switch_off();
    for n in 0..40 {
        let object = Object::new(&format!("elsewhere-{n}"), 100);
        snowbank.http().get(&object.narinfo_target()).await.expect(404);
        other.publish_narinfo(&object, &key);
    }
    let there = Object::new("there", 3_000);
    other.publish(&there, &key);
    let target = snowbank.http().nar_target(&there).await;
    snowbank.http().get(&target).await.expect_bytes(&there.file);
    assert!(snowbank.counter(Count::Unasked) > 30);
}

/// What is asked of a black hole: it takes connections, and says nothing.
#[tokio::test]
async fn a_black_hole_is_found_out_and_nobody_waits_for_it_any_more() {
    let (hole, other, key) = (Origin::start(), Origin::start(), Key::new("outage-1"));
    let gate = Gate::new();
    let held = gate.clone();
    hole.otherwise(move |_, _| Reply::status(404).gate_before_head(&held));
    let keys = format!("public_keys = [{:?}]\nnarinfo_timeout = \"500 ms\"\nconnections = 32", key.public());
    let snowbank = Setup::new().upstream_with(&hole.url(), &keys).upstream(&other.url(), &key).start();
    let objects: Vec<Object> = (0..108).map(|n| Object::new(&format!("behind-{n}"), 100)).collect();
    for object in &objects {
        other.publish_narinfo(object, &key);
    }
    let http = snowbank.http();
    let ask = |object: &Object| {
        let (http, target) = (http.clone(), object.narinfo_target());
        async move { http.get(&target).await.expect(200) }
    };
    // Side by side, as Nix asks: one budget for all of them.
    futures_util::future::join_all(objects[..8].iter().map(ask)).await;
    assert_ne!(breaker(&snowbank), 0);
    let waited = hole.total();
    for object in &objects[8..] {
        ask(object).await;
    }
    assert!(hole.total() - waited <= 3, "{} waited for it", hole.total() - waited);
}

#[tokio::test]
async fn without_any_upstream_it_starts_and_serves_what_is_kept_as_ever() {
    let (first, second, key) = (Origin::start(), Origin::start(), Key::new("outage-1"));
    // Nothing stays fresh, so that every hit would have reason to ask.
    let lines = format!("public_keys = [{:?}]\nnarinfo_ttl = \"0 s\"", key.public());
    let setup = Setup::new().upstream_with(&first.url(), &lines).upstream_with(&second.url(), &lines);
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let objects: Vec<Object> = (0..20).map(|n| Object::new(&format!("offline-{n}"), 30_000)).collect();
    for object in &objects {
        second.publish(object, &key);
        let target = snowbank.http().nar_target(object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
    }
    snowbank.wait_until_stored();
    assert!(snowbank.stop().success());
    let _off = (first.switch_off(), second.switch_off());

    let snowbank = setup.start();
    snowbank.wait_for_disk();
    until_open(&snowbank).await;
    let begun = Instant::now();
    let asked = snowbank.counter(Count::UpstreamRequests);
    for round in 0..5 {
        for object in &objects {
            let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
            assert!(
                answer.field("cache-status").is_some_and(|f| f.starts_with("snowbank; hit; detail=stale")),
                "{round}"
            );
            assert_eq!(narinfo_fields(answer.text(), "NarSize"), [object.nar.len().to_string()]);
            snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
        }
        snowbank.http().get("/nix-cache-info").await.expect(200);
    }
    // Nobody waited for a connection: what was sent at all were probes.
    let probes = snowbank.counter(Count::UpstreamRequests) - asked;
    assert!(probes <= 2 * (1 + begun.elapsed().as_secs()), "{probes} of 100");
}

#[tokio::test]
async fn what_is_not_fresh_is_served_while_a_slow_upstream_is_asked_behind_it() {
    let (origin, key) = (Origin::start(), Key::new("outage-1"));
    let lines = format!("public_keys = [{:?}]\nnarinfo_ttl = \"0 s\"\nnarinfo_timeout = \"50 s\"", key.public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &lines).start();
    let object = Object::new("slow-refresh", 100);
    origin.publish_narinfo(&object, &key);
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let gate = Gate::new();
    origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&key])).gate_before_head(&gate));
    let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    assert!(answer.field("cache-status").is_some_and(|field| field.starts_with("snowbank; hit; detail=stale")));
    gate.reached().await;
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    assert_eq!(origin.count(&object.narinfo_target()), 2, "one question behind all who ask");
    gate.open();
}

#[tokio::test]
async fn a_nar_that_cannot_be_fetched_is_told_like_a_narinfo() {
    let (origin, key) = (Origin::start(), Key::new("outage-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::new("nar-of-the-dead", 3_000);
    origin.publish(&object, &key);
    let target = snowbank.http().nar_target(&object).await;
    let _off = origin.switch_off();
    until_open(&snowbank).await;
    let answer = snowbank.http().get(&target).await;
    assert!(unavailable(&answer).is_some(), "{}", answer.text());
    assert!(answer.text().contains("is taken for down"), "{}", answer.text());
}
