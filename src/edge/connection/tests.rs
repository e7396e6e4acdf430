//! Time limits, with the clock paused: it jumps to the next timer whenever nothing else can go on.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::Answers;
use super::super::testing::served::{NO_LIMITS, Served, ask_by_hand, narrow_pair};
use super::super::testing::{NAR_PATH, get, handshake_over, http2_over, nar_from, text};
use super::*;
use crate::access::Visitor;
use crate::proxy::answer::Answer;
use crate::proxy::request;

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_time() {
    let (client, server) = narrow_pair();
    let begun = Instant::now();
    let metrics = Served::start(server, || text("")).end_in_time().await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(metrics.connections.of(ConnectionEnd::Handshake).get(), 1);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_has_its_time() {
    let (client, server) = narrow_pair();
    let served = Served::start(server, || text(""));
    let mut client = handshake_over(client, "http/1.1").await.unwrap();
    let begun = Instant::now();
    let trickle = async {
        while client.write_all(b"G").await.is_ok() && client.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let (metrics, ()) = tokio::join!(served.end_in_time(), trickle);
    assert!((10..13).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(metrics.connections.of(ConnectionEnd::Error).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_in_order() {
    let (client, server) = narrow_pair();
    let served = Served::start(server, || text("hello\n"));
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let begun = Instant::now();
    let response = sender.send_request(get("/nix-cache-info")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello\n");
    client.await.unwrap().expect("GOAWAY without an error");
    let metrics = served.end_in_time().await;
    assert!((60..=125).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(metrics.connections.of(ConnectionEnd::Closed).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_is_not_idle() {
    let (client, server) = narrow_pair();
    let served = Served::start(server, || {
        let late = stream::once(async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            Ok(Bytes::from_static(b"late"))
        });
        nar_from(Some(4), |_| Box::pin(late))
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let response = sender.send_request(get(NAR_PATH)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "late");
    drop(sender);
    client.await.unwrap().unwrap();
    served.end_in_time().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped() {
    let (client, server) = narrow_pair();
    let piece = Bytes::from(vec![7; 100_000]);
    let served = Served::start(server, move || {
        let pieces = stream::iter(vec![piece.clone(); 100]).map(Ok);
        nar_from(Some(10_000_000), |_| Box::pin(pieces))
    });
    let mut client = handshake_over(client, "h2").await.unwrap();
    ask_by_hand(&mut client).await;
    let begun = Instant::now();
    let metrics = served.end_in_time().await;
    assert!((60..=125).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 1);
    assert_eq!(metrics.connections_open.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not() {
    const SIZE: usize = 3_000_000;
    let (client, server) = narrow_pair();
    let served = Served::start(server, || {
        let pieces = stream::iter(vec![Bytes::from(vec![7; 100_000]); SIZE / 100_000]).map(Ok);
        nar_from(Some(SIZE as u64), |_| Box::pin(pieces))
    });
    let mut client = handshake_over(client, "h2").await.unwrap();
    ask_by_hand(&mut client).await;
    // 10 kB/s
    let (mut received, mut buffer) = (0, vec![0; 10_000]);
    while received < SIZE {
        let taken = client.read(&mut buffer).await.unwrap();
        assert!(taken > 0, "cut after {received} bytes");
        received += taken;
        tokio::time::sleep(Duration::from_millis(taken as u64 / 10)).await;
    }
    drop(client);
    let metrics = served.end_in_time().await;
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_paced_has_not_stalled() {
    const SIZE: usize = 4_000_000;
    let (client, server) = narrow_pair();
    let answer = || {
        let pieces = stream::iter(vec![Bytes::from(vec![7; 100_000]); SIZE / 100_000]).map(Ok);
        nar_from(Some(SIZE as u64), |_| Box::pin(pieces))
    };
    let served = Served::start_limited(server, answer, "[client]\nbytes = '64 kB'\nexempt = []");
    let (sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let begun = Instant::now();
    let fetching = (0..3).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let response = sender.send_request(get(NAR_PATH)).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), SIZE);
            Instant::now()
        })
    });
    let ends: Vec<Instant> = futures_util::future::try_join_all(fetching.collect::<Vec<_>>()).await.unwrap();
    // All of them at the rate of one client, and none before the others.
    let expected = Duration::from_secs(3 * SIZE as u64 / 64_000);
    for end in ends {
        let took = end - begun;
        assert!(
            took > expected - Duration::from_secs(2) && took < expected + Duration::from_secs(2),
            "{took:?} of {expected:?}"
        );
    }
    drop(sender);
    client.await.unwrap().unwrap();
    let metrics = served.end_in_time().await;
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 0);
    assert_eq!(metrics.limits.paced_bytes.get() / 1_000_000, 11, "nearly all of twelve million");
}

#[tokio::test(start_paused = true)]
async fn a_paced_client_that_stops_reading_is_dropped_all_the_same() {
    let (client, server) = narrow_pair();
    let piece = Bytes::from(vec![7; 100_000]);
    let answer = move || {
        let pieces = stream::iter(vec![piece.clone(); 100]).map(Ok);
        nar_from(Some(10_000_000), |_| Box::pin(pieces))
    };
    let served = Served::start_limited(server, answer, "[client]\nbytes = '64 kB'\nexempt = []");
    let mut client = handshake_over(client, "h2").await.unwrap();
    ask_by_hand(&mut client).await;
    let begun = Instant::now();
    let metrics = served.end_in_time().await;
    assert!((60..=125).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_no_window_is_dropped_although_it_answers_pings() {
    let (client, server) = narrow_pair();
    let piece = Bytes::from(vec![7; 100_000]);
    let served = Served::start(server, move || {
        let pieces = stream::iter(vec![piece.clone(); 100]).map(Ok);
        nar_from(Some(10_000_000), |_| Box::pin(pieces))
    });
    let (mut sender, _client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let begun = Instant::now();
    // What is not taken of these leaves the windows shut.
    let _untaken =
        [sender.send_request(get(NAR_PATH)).await.unwrap(), sender.send_request(get(NAR_PATH)).await.unwrap()];
    let metrics = tokio::time::timeout(Duration::from_secs(600), served.end_in_time()).await.expect("an end");
    assert!((60..=185).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_its_window_slowly_is_not() {
    const SIZE: usize = 1_000_000;
    let (client, server) = narrow_pair();
    let served = Served::start(server, || {
        let pieces = stream::iter(vec![Bytes::from(vec![7; 100_000]); SIZE / 100_000]).map(Ok);
        nar_from(Some(SIZE as u64), |_| Box::pin(pieces))
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let mut body = sender.send_request(get(NAR_PATH)).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let taken = frame.expect("no cut").into_data().unwrap().len();
        received += taken;
        tokio::time::sleep(Duration::from_millis(taken as u64 / 3)).await; // 3 kB/s
    }
    assert_eq!(received, SIZE);
    drop(sender);
    client.await.unwrap().unwrap();
    let metrics = served.end_in_time().await;
    assert_eq!(metrics.connections.of(ConnectionEnd::Stalled).get(), 0);
}

/// Never knows.
struct Undecided;

impl Answers for Undecided {
    async fn answer(&self, _: request::Request, _: bool, _: &Visitor<'_>) -> Answer {
        std::future::pending().await
    }

    fn is_granted(&self, _: &Visitor<'_>) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_only_to_abandon_is_dropped() {
    let (client, server) = narrow_pair();
    let served = Served::start_with(server, Undecided, NO_LIMITS);
    let metrics = served.metrics.clone();
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    for abandoned in 0..2000 {
        let asked = sender.send_request(get("/nix-cache-info"));
        if client.is_finished() {
            assert!(abandoned > 150, "{abandoned}");
            break;
        }
        // Paced, so that each was taken up when its reset comes: the clock goes on when all has come to rest.
        let _ = tokio::time::timeout(Duration::from_millis(1), asked).await;
    }
    assert!(client.is_finished());
    served.end_in_time().await;
    assert_eq!(metrics.connections.of(ConnectionEnd::Flood).get(), 1);
}
