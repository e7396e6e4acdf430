//! A library that is down, hangs, or loses what it had: clients get everything from the upstreams.

use super::{beside, fetch, sample, until_written};
use crate::support::cache::{Key, Object};
use crate::support::door::{Act, Door, Fault, Where};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::pail::{Conditions, Pail, error};
use crate::support::snowbank::{Setup, Snowbank};
use std::time::{Duration, Instant};

fn pair(url: &str) -> String {
    format!("s3://pail?endpoint={url}&region=us-east-1")
}

fn objects(count: usize) -> (Origin, Key, Vec<Object>) {
    let (origin, key) = (Origin::start(), Key::new("up-1"));
    let objects: Vec<Object> = (0..count).map(|n| Object::new(&format!("lost-{n}"), 20_000)).collect();
    objects.iter().for_each(|object| origin.publish(object, &key));
    (origin, key, objects)
}

/// How long the slowest of these objects took, narinfo and NAR, one after the other.
async fn slowest(snowbank: &Snowbank, objects: &[Object]) -> Duration {
    let mut slowest = Duration::ZERO;
    for object in objects {
        let begun = Instant::now();
        fetch(snowbank, object).await;
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test]
async fn one_that_is_down_costs_next_to_nothing() {
    let (origin, key, objects) = objects(20);
    let gone = Origin::start();
    let url = pair(&gone.url());
    let _off = gone.switch_off();
    let snowbank = beside(&origin, &key, &url).start();
    let took = slowest(&snowbank, &objects).await;
    println!("a library that refuses connections: at most {took:.1?}");
    assert!(took < Duration::from_secs(1), "{took:.1?}");
    // R18: what upstreams have not is missing, and not unknown.
    snowbank.http().get("/00000000000000000000000000000000.narinfo").await.expect(404);
}

#[tokio::test]
async fn one_that_says_nothing_costs_what_any_silent_upstream_costs() {
    let (origin, key, objects) = objects(20);
    let silent = Door::start(false);
    silent.misbehave(&Fault { name: "silent", place: Where::Accepting, acts: vec![Act::Hold] });
    let snowbank = beside(&origin, &key, &pair(&silent.url())).start();
    let begun = Instant::now();
    let took = slowest(&snowbank, &objects).await;
    println!("a library that says nothing: at most {took:.1?}, {:.1?} for twenty", begun.elapsed());
    // The next group is asked after 0.6 s, and soon nobody waits any more.
    assert!(took < Duration::from_millis(2500) && begun.elapsed() < Duration::from_secs(8), "{took:.1?}");
    snowbank.http().get("/00000000000000000000000000000000.narinfo").await.expect(404);
}

#[tokio::test]
async fn one_that_stops_in_the_middle_is_left_there() {
    let (origin, key) = (Origin::start(), Key::new("up-1"));
    let object = Object::new("half", 5_000_000);
    origin.publish(&object, &key);
    let pail = Pail::start(Conditions::Kept);
    let first = beside(&origin, &key, &pail.url()).start();
    fetch(&first, &object).await;
    until_written(&first, 1).await;
    let (gate, nar) = (Gate::new(), pail.object(&object.served_target()[1..]).expect("its NAR"));
    let target = format!("/pail{}", object.served_target());
    pail.fail(move |request| {
        let is_nar = request.method == "GET" && request.target == target;
        is_nar.then(|| Reply::bytes(nar.clone()).gate_at(2_000_000, &gate))
    });
    let tables = format!("[library]\nurl = {:?}\ntimeout = \"200 ms\"", pail.url());
    let second = Setup::in_front_of(&origin, &key).also(&tables).start();
    origin.forget();
    fetch(&second, &object).await;
    let ranges: Vec<_> =
        origin.requests_for(&object.file_target()).iter().map(|r| r.field("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some("bytes=2000000-".to_owned())], "only what was missing");
}

#[tokio::test]
async fn one_that_refuses_its_keys_is_as_good_as_none() {
    let (origin, key, objects) = objects(5);
    let pail = Pail::start(Conditions::Kept);
    pail.fail(|_| Some(error(403, "InvalidAccessKeyId")));
    let snowbank = beside(&origin, &key, &pail.url()).start();
    slowest(&snowbank, &objects).await;
    snowbank.http().get("/00000000000000000000000000000000.narinfo").await.expect(404);
    assert!(sample(&snowbank, "snowbank_upstream_answers_total{answer=\"unknown\",upstream=\"library\"}") > 0);
}

#[tokio::test]
async fn a_miss_costs_one_question_for_each_of_two() {
    let (origin, key, objects) = objects(1);
    let pail = Pail::start(Conditions::Kept);
    let tables = format!("[library]\nurl = {:?}\nwrite = false", pail.url());
    let snowbank = Setup::in_front_of(&origin, &key).also(&tables).start();
    fetch(&snowbank, &objects[0]).await;
    let asked: Vec<String> = pail.origin.requests().into_iter().map(|request| request.target).collect();
    let wanted = [objects[0].narinfo_target(), objects[0].served_target()];
    assert_eq!(asked, wanted.map(|target| format!("/pail{target}")));
    // What nobody has is not asked for again at once, and what another server put there is found soon after.
    snowbank.http().get("/log/9krlzvny65gdc8s7kpb6lkx8cd02c25b-x.drv").await.expect(404);
    snowbank.http().get(&format!("/{}.ls", objects[0].hash_part())).await.expect(404);
    assert_eq!(pail.origin.total(), 2, "nobody signs those");
}

#[tokio::test]
async fn what_another_server_puts_there_is_found_within_the_life_of_a_miss() {
    let (key, object) = (Key::new("up-1"), Object::new("fresh", 3_000));
    let (origin, nothing, pail) = (Origin::start(), Origin::start(), Pail::start(Conditions::Kept));
    let with = |origin: &Origin| beside(origin, &key, &pail.url()).also("[cache]\nnegative_ttl = \"1 s\"").start();
    let waiting = with(&nothing);
    waiting.http().get(&object.narinfo_target()).await.expect(404);
    origin.publish(&object, &key);
    let lucky = with(&origin);
    fetch(&lucky, &object).await;
    until_written(&lucky, 1).await;
    let begun = Instant::now();
    while waiting.http().get(&object.narinfo_target()).await.status == 404 {
        assert!(begun.elapsed() < Duration::from_secs(5), "remembered for too long");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fetch(&waiting, &object).await;
}
