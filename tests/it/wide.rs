//! A large NAR comes over several connections where that is faster: each byte once, in order, and whatever an upstream does with
//! ranges, no wrong byte.

mod odd;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::support::cache::{Key, Object};
use crate::support::client::End;
use crate::support::origin::{Break, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::trust::eventually;

const SIZE: usize = 48_000_000;
/// Room enough that a NAR of this size is fetched ahead.
const AHEAD: &str = "disk = \"512 MiB\"\nmemory = \"64 MiB\"";

fn key() -> Key {
    Key::new("wide-1")
}

/// A server in front of an origin that gives each connection some 15 MB in a second.
fn start() -> (Origin, Object, Snowbank) {
    let origin = Origin::start();
    let object = Object::new("large", SIZE);
    origin.publish(&object, &key());
    origin.serve(&object.file_target(), metered(&object.file));
    let keys = format!("public_keys = [{:?}]\nconnections = 64", key().public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).start();
    snowbank.wait_for_disk();
    (origin, object, snowbank)
}

fn metered(file: &Bytes) -> Reply {
    Reply::bytes(file.clone()).pieces(64 << 10, Duration::from_millis(4))
}

#[tokio::test]
async fn each_byte_comes_once_over_more_than_one_connection() {
    let (origin, object, snowbank) = start();
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    let parts = origin.parts(&object.file_target());
    assert!(parts.len() > 5, "{parts:?}");
    assert_eq!(parts[0], (0, Some((8 << 20) - 1)));
    assert!(origin.each_byte_once(&object.file_target()), "{parts:?}");
    let connections: std::collections::HashSet<_> =
        origin.requests_for(&object.file_target()).iter().map(|request| request.connection).collect();
    assert!(connections.len() > 2, "{}", connections.len());
    // Warm, nobody is asked.
    let asked = origin.total();
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.total(), asked);
}

#[tokio::test]
async fn who_gives_no_ranges_is_asked_once() {
    let (origin, object, snowbank) = start();
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).without_ranges());
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.count(&object.file_target()), 1);
    let other = Object::new("another", SIZE);
    origin.publish(&other, &key());
    snowbank.https().get(&other.served_target()).await.expect_bytes(&other.file);
    let asked = origin.requests_for(&other.file_target());
    assert!(asked.len() == 1 && asked[0].field("range").is_none(), "it is remembered");
}

#[tokio::test]
async fn a_part_that_breaks_off_is_asked_for_once_more_from_there() {
    let (origin, object, snowbank) = start();
    let (file, broken) = (object.file.clone(), Arc::new(AtomicUsize::new(0)));
    let breaks = Arc::clone(&broken);
    origin.script(&object.file_target(), move |request, _| {
        let is_part = request.field("range").is_some_and(|range| !range.starts_with("bytes=0-"));
        let reply = metered(&file);
        match is_part && breaks.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            true => reply.break_at(1_000_000, Break::Reset),
            false => reply,
        }
    });
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert!(broken.load(Ordering::Relaxed) > 3);
    assert_eq!(snowbank.counter(Count::FillsFailed), 0);
}

#[tokio::test]
async fn parts_that_are_refused_come_over_one_connection_and_are_not_asked_for_again() {
    let (origin, object, snowbank) = start();
    let objects: Vec<Object> = (0..6).map(|n| Object::new(&format!("refused-{n}"), SIZE / 2)).chain([object]).collect();
    for object in &objects {
        origin.publish(object, &key());
        let file = object.file.clone();
        origin.script(&object.file_target(), move |request, _| {
            let range = request.field("range").unwrap_or("bytes=0-");
            match range.starts_with("bytes=0-") || range.ends_with('-') {
                true => metered(&file),
                false => Reply::status(503),
            }
        });
    }
    for object in objects.iter().rev() {
        snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    }
    for object in &objects[..6] {
        assert_eq!(origin.parts(&object.file_target()), [(0, None)]);
    }
    assert_eq!(snowbank.counter(Count::FillsFailed) + snowbank.counter(Count::Unasked), 0);
}

/// What clients get of a NAR that is another one in each part but the first.
async fn another_in_later_parts(tagged: bool) {
    let (origin, object, snowbank) = start();
    let (file, others) = (object.file.clone(), Object::new("other", SIZE).file);
    origin.script(&object.file_target(), move |request, _| {
        let is_first = request.field("range").is_none_or(|range| range.starts_with("bytes=0-"));
        let (bytes, tag) = if is_first { (&file, "\"one\"") } else { (&others, "\"two\"") };
        if tagged { metered(bytes).field("ETag", tag) } else { metered(bytes) }
    });
    // What leaves may be of both, and never ends as if it were whole.
    let response = snowbank.https().get(&object.served_target()).await;
    assert!(matches!(response.end, End::Broken(_)) || response.status != 200, "{}", response.status);
    // Nobody is blamed, and the next time it is asked for in one piece.
    assert!(snowbank.metrics().contains("snowbank_fill_failed_total{reason=\"spliced\"} 1"), "{}", snowbank.metrics());
    origin.forget();
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.parts(&object.file_target()), [(0, None)]);
    assert_eq!(snowbank.counter(Count::NarinfosRefused), 0);
}

#[tokio::test]
async fn another_body_in_the_middle_is_neither_taken_for_this_one_nor_for_a_lie() {
    // Without tags only the hash tells.
    for tagged in [false, true] {
        another_in_later_parts(tagged).await;
    }
}

#[tokio::test]
async fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let (origin, object, snowbank) = start();
    let mut exchange = snowbank.https().start("GET", &object.served_target(), &[]).await;
    exchange.exactly(12_000_000).await;
    drop(exchange);
    snowbank.wait_until_stored();
    assert_eq!(snowbank.counter(Count::FillsRunning), 0);
    let asked = origin.total();
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.total(), asked, "the fill went on to its end");
}

#[tokio::test]
async fn of_another_that_is_still_fetching_it_it_comes_as_it_comes_there() {
    let (origin, object, inner) = start();
    let gate = Gate::new();
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(30_000_000, &gate));
    let keys = format!("public_keys = [{:?}]\nconnections = 64", key().public());
    let outer = Setup::new().upstream_with(&inner.http_url(), &keys).start();
    let mut exchange = outer.https().start("GET", &object.served_target(), &[]).await;
    // Each range of the inner one ends when all of it came there.
    let mut body = exchange.exactly(25_000_000).await;
    gate.open();
    let (rest, end) = exchange.rest().await;
    body.extend_from_slice(&rest);
    assert!(end == End::Clean && body == object.file);
    assert_eq!(outer.counter(Count::FillsFailed) + outer.counter(Count::Failovers), 0);
}

#[tokio::test]
async fn what_nobody_reads_does_not_tell_how_many_connections_are_worth_it() {
    let (origin, object, other) = (Origin::start(), Object::new("ahead", SIZE), Object::new("wanted", SIZE));
    for object in [&object, &other] {
        origin.publish(object, &key());
        origin.serve(&object.file_target(), metered(&object.file));
    }
    let keys = format!("public_keys = [{:?}]\nconnections = 64", key().public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).store(AHEAD).prefetching().start();
    snowbank.wait_for_disk();
    snowbank.https().get(&object.narinfo_target()).await.expect(200);
    eventually("it is fetched ahead", async || snowbank.counter(Count::Prefetched) >= SIZE as u64).await;
    let end = |n: usize| u64::try_from(n * (8 << 20)).unwrap();
    let one_by_one: Vec<_> = (0..6).map(|n| (end(n), (n < 5).then(|| end(n + 1) - 1))).collect();
    assert_eq!(origin.parts(&object.file_target()), one_by_one, "what nobody reads comes over one connection");
    snowbank.https().get(&other.served_target()).await.expect_bytes(&other.file);
    let parts = origin.parts(&other.file_target());
    assert!(parts.len() > 5, "{parts:?}");
}

#[tokio::test]
async fn what_is_being_fetched_ahead_comes_over_more_connections_once_somebody_reads_it() {
    let (origin, object) = (Origin::start(), Object::new("joined", SIZE));
    origin.publish(&object, &key());
    let gate = Gate::new();
    origin.script(&object.file_target(), {
        let (gate, file) = (gate.clone(), object.file.clone());
        move |request, _| match request.field("range").is_none_or(|range| range.starts_with("bytes=0-")) {
            true => metered(&file).gate_at(1_000_000, &gate),
            false => metered(&file),
        }
    });
    let keys = format!("public_keys = [{:?}]\nconnections = 64", key().public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).store(AHEAD).prefetching().start();
    snowbank.wait_for_disk();
    snowbank.https().get(&object.narinfo_target()).await.expect(200);
    gate.reached().await;
    let mut exchange = snowbank.https().start("GET", &object.served_target(), &[]).await;
    let mut body = exchange.exactly(500_000).await;
    gate.open();
    let (rest, end) = exchange.rest().await;
    body.extend_from_slice(&rest);
    assert!(end == End::Clean && body == object.file);
    let parts = origin.parts(&object.file_target());
    assert!(parts.len() > 7, "{parts:?}");
    assert!(origin.each_byte_once(&object.file_target()), "{parts:?}");
    assert_eq!(snowbank.counter(Count::FillsFailed), 0);
}

#[tokio::test]
async fn parts_that_are_dropped_count_as_what_a_nar_may_cost() {
    let (origin, second, object) = (Origin::start(), Origin::start(), Object::new("dropped", SIZE));
    let mut setup = Setup::new();
    for origin in [&origin, &second] {
        origin.publish(&object, &key());
        let file = object.file.clone();
        // What is read comes slowly and breaks off, the parts behind it come at once.
        origin.script(&object.file_target(), move |request, _| {
            let range = request.field("range").unwrap_or("bytes=0-").trim_start_matches("bytes=").to_owned();
            let (first, last) = range.split_once('-').expect("a range");
            let first: u64 = first.parse().expect("a number");
            match last.parse::<u64>() {
                Ok(last) if last - first < 4 << 20 => Reply::bytes(file.clone()),
                _ => Reply::bytes(file.clone())
                    .pieces(4096, Duration::from_millis(4))
                    .break_at(first + 1_000_000, Break::Reset),
            }
        });
        let keys = format!("public_keys = [{:?}]\nconnections = 64", key().public());
        setup = setup.upstream_with(&origin.url(), &keys);
    }
    let snowbank = setup.start();
    let response = snowbank.https().get(&object.served_target()).await;
    assert!(matches!(response.end, End::Broken(_)), "{}", response.status);
    let received = snowbank.counter(Count::Received);
    // Twice its size and a little, and what the last source had sent ahead.
    let most = 2 * SIZE as u64 + (4 << 20) + (28 << 20);
    assert!((SIZE as u64..most).contains(&received), "{received} bytes came, {most} at most");
}
