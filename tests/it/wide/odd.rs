//! Parts never make it worse: whatever a server does with them, a NAR comes as it would have come in one piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{SIZE, key, metered, start};
use crate::support::cache::Object;
use crate::support::client::End;
use crate::support::origin::{Framing, Gate, Reply, Request};
use crate::support::snowbank::Count;

/// The bytes that were asked for; to the end, where nothing else was said.
fn asked(request: &Request) -> (u64, Option<u64>) {
    let range = request.field("range").unwrap_or("bytes=0-").trim_start_matches("bytes=").to_owned();
    let (first, last) = range.split_once('-').expect("a range");
    (first.parse().expect("a number"), last.parse().ok())
}

/// Neither the first part nor the rest.
fn is_beside(request: &Request) -> bool {
    matches!(asked(request), (1.., Some(_)))
}

#[tokio::test]
async fn a_download_goes_on_while_its_upstream_is_taken_for_down() {
    let (origin, object, snowbank) = start();
    // Slow enough to be in the middle of it.
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).pieces(64 << 10, Duration::from_millis(20)));
    origin.otherwise(|_, _| Reply::status(500));
    let mut exchange = snowbank.https().start("GET", &object.served_target(), &[]).await;
    let mut body = exchange.exactly(1_000_000).await;
    let failing = async {
        loop {
            let missing = Object::new(&format!("missing-{}", origin.total()), 10);
            snowbank.https().get(&missing.narinfo_target()).await;
        }
    };
    let (rest, end) = tokio::select! {
        rest = exchange.rest() => rest,
        () = failing => return,
    };
    body.extend_from_slice(&rest);
    assert!(end == End::Clean && body == object.file, "{} of {SIZE} bytes", body.len());
    assert!(snowbank.counter(Count::Unasked) > 0);
    assert_eq!(snowbank.counter(Count::FillsFailed) + snowbank.counter(Count::Failovers), 0);
    assert!(origin.parts(&object.file_target()).len() > 5, "it came in parts");
}

#[tokio::test]
async fn parts_that_get_no_answer_do_not_take_the_upstream_down() {
    let (origin, object, snowbank) = start();
    let (file, refused) = (object.file.clone(), Arc::new(AtomicUsize::new(0)));
    let refuses = Arc::clone(&refused);
    origin.script(&object.file_target(), move |request, _| match is_beside(request) {
        true => {
            refuses.fetch_add(1, Ordering::Relaxed);
            metered(&file).unanswered()
        }
        false => metered(&file),
    });
    let mut exchange = snowbank.https().start("GET", &object.served_target(), &[]).await;
    let mut body = Vec::new();
    // Others are asked for as ever.
    while body.len() < SIZE / 2 {
        body.extend_from_slice(&exchange.exactly(SIZE / 48).await);
        let other = Object::new(&format!("beside-{}", body.len()), 1000);
        origin.publish(&other, &key());
        snowbank.https().get(&other.narinfo_target()).await.expect(200);
    }
    // A kept connection may have been closed before it was asked over.
    let once = refused.load(Ordering::Relaxed) as u64 - snowbank.counter(Count::Resends);
    assert!((1..=3).contains(&once), "each was tried once: {refused:?}");
    let (rest, end) = exchange.rest().await;
    body.extend_from_slice(&rest);
    assert!(end == End::Clean && body == object.file);
    assert_eq!(snowbank.counter(Count::Unasked) + snowbank.counter(Count::FillsFailed), 0);
}

#[tokio::test]
async fn who_gives_less_than_was_asked_for_is_gone_on_with_and_asked_for_all_of_the_next() {
    let (origin, object, snowbank) = start();
    let other = Object::new("next", SIZE / 2);
    origin.publish(&other, &key());
    for object in [&object, &other] {
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).at_most(1 << 20));
    }
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert_eq!(origin.count(&object.file_target()), SIZE.div_ceil(1 << 20));
    assert_eq!(snowbank.counter(Count::FillsFailed) + snowbank.counter(Count::Failovers), 0);
    snowbank.https().get(&other.served_target()).await.expect_bytes(&other.file);
    assert_eq!(origin.parts(&other.file_target()), [(0, None)]);
}

#[tokio::test]
async fn who_gives_next_to_nothing_at_a_time_is_not_asked_for_ever() {
    let (origin, object, snowbank) = start();
    origin.script(&object.file_target(), {
        let file = object.file.clone();
        move |request, _| match request.field("range") {
            Some(_) => Reply::bytes(file.clone()).at_most(1000),
            None => Reply::bytes(file.clone()),
        }
    });
    snowbank.https().get(&object.served_target()).await;
    assert!(origin.count(&object.file_target()) < 20, "{}", origin.count(&object.file_target()));
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
}

#[tokio::test]
async fn servers_that_call_the_same_bytes_by_names_of_their_own_cost_no_break() {
    let (origin, object, snowbank) = start();
    let (file, servers) = (object.file.clone(), AtomicUsize::new(0));
    origin.script(&object.file_target(), move |_, _| {
        metered(&file).field("ETag", &format!("\"of-{}\"", servers.fetch_add(1, Ordering::Relaxed)))
    });
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    let rests = origin.requests_for(&object.file_target()).iter().filter(|request| asked(request).1.is_none()).count();
    assert_eq!((rests, snowbank.counter(Count::Failovers)), (1, 0));
}

#[tokio::test]
async fn a_part_is_over_when_its_bytes_are_there() {
    let (origin, object, snowbank) = start();
    let (file, gate) = (object.file.clone(), Gate::new());
    let late = gate.clone();
    // The end of each part is never told.
    origin.script(&object.file_target(), move |request, _| {
        let reply = metered(&file).framing(Framing::Chunked);
        match asked(request) {
            (_, Some(last)) if last + 1 < SIZE as u64 => reply.gate_at(last + 1, &late),
            _ => reply,
        }
    });
    snowbank.https().get(&object.served_target()).await.expect_bytes(&object.file);
    assert!(origin.each_byte_once(&object.file_target()), "{:?}", origin.parts(&object.file_target()));
    gate.open();
}

#[tokio::test]
async fn who_asks_too_often_is_not_answered_by_asking_again() {
    for status in [401, 429] {
        let (origin, object, snowbank) = start();
        origin.serve(&object.file_target(), Reply::status(status));
        snowbank.https().get(&object.served_target()).await;
        assert_eq!(origin.count(&object.file_target()), 1, "{status}");
    }
}
