use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::body::H2_SLICE;
use super::super::testing::served::{Served, ask_by_hand, narrow_pair};
use super::super::testing::{NAR_PATH, get, handshake_over, head_of, http2_over, nar, nar_from, noise, soon, text};
use crate::metrics::{ConnectionEnd, ResponseEnd};
use crate::proxy::answer::Answer;

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

#[tokio::test]
async fn three_mebibytes_go_out_in_full_records_and_few_writes() {
    let bytes = noise(3 << 20);
    let (client, server) = tcp_pair().await;
    let served = Served::start(server, {
        let bytes = bytes.clone();
        move || nar(&bytes, 262_000)
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 10 << 20).await;
    // The first exchange takes the settings' acknowledgements out of the way, which are records of 9 B by right.
    let head = soon(sender.send_request(head_of(NAR_PATH))).await.unwrap();
    assert_eq!(head.headers()["content-length"], bytes.len().to_string());
    drop(head);
    let (writes_before, records_before) = {
        let written = served.written.lock().unwrap();
        (written.writes, written.records().len())
    };
    let response = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    assert_eq!(response.headers()["content-length"], bytes.len().to_string());
    let received = soon(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(received, bytes, "the bytes are those of the source");

    let (writes, records) = {
        let written = served.written.lock().unwrap();
        (written.writes - writes_before, written.records().split_off(records_before))
    };
    assert!(records.iter().all(|length| *length != 9), "no record holds a frame head alone: {records:?}");
    let full = records.iter().filter(|length| **length == 16_384).count();
    // A short slice ends each chunk and the body; a few frames beside them speak of settings and windows.
    assert!(full >= bytes.len() / H2_SLICE - 16, "{full} full records of {}", records.len());
    assert!(records.len() <= full + 32, "{} records, {full} of them full", records.len());
    // 3 MiB are 49 times 64 KiB. The client's window updates wake the connection more often than that.
    assert!(writes <= 110, "{writes} writes for 3 MiB");

    drop(sender);
    soon(client).await.unwrap().unwrap();
    let metrics = served.end().await;
    assert_eq!(metrics.connections.of(ConnectionEnd::Closed).get(), 1);
    assert_eq!(metrics.response_bytes.total(), 3 << 20);
}

/// One worker, which runs what was woken last first: the connection, after each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_to_what_was_asked_at_once_go_out_at_once() {
    let (client, server) = tcp_pair().await;
    let served = Served::start(server, || text("StorePath: one\n"));
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 1 << 20).await;
    let written = Arc::clone(&served.written);
    // On the worker, so that all are asked for before the client's connection has its turn.
    let asking = tokio::spawn(async move {
        soon(sender.send_request(get(NAR_PATH))).await.unwrap();
        let before = written.lock().unwrap().writes;
        for _ in 0..4 {
            let asked: Vec<_> = (0..100).map(|_| sender.send_request(get(NAR_PATH))).collect();
            let answered = soon(futures_util::future::try_join_all(asked)).await.unwrap();
            for response in answered {
                assert_eq!(soon(response.into_body().collect()).await.unwrap().to_bytes(), "StorePath: one\n");
            }
        }
        written.lock().unwrap().writes - before
    });
    let writes = asking.await.unwrap();
    // A read of the connection may find half of a hundred; acknowledgements of settings and windows go by themselves.
    assert!(writes <= 40, "{writes} writes for 4 times 100 answers");
    soon(client).await.unwrap().unwrap();
    served.end().await;
}

#[tokio::test]
async fn every_byte_arrives_through_a_pipe_that_always_makes_us_wait() {
    let bytes = noise(1 << 20);
    let (client, server) = narrow_pair();
    let served = Served::start(server, {
        let bytes = bytes.clone();
        move || nar(&bytes, 262_000)
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 1 << 20).await;
    for _ in 0..3 {
        let response = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
        let received = soon(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(received, bytes);
    }
    drop(sender);
    soon(client).await.unwrap().unwrap();
    served.end().await;
}

#[tokio::test]
async fn responses_side_by_side_do_not_starve() {
    let bytes = noise(300_000);
    let (client, server) = narrow_pair();
    let served = Served::start(server, {
        let bytes = bytes.clone();
        move || nar(&bytes, 50_000)
    });
    let (sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (mut sender, bytes) = (sender.clone(), bytes.clone());
            tokio::spawn(async move {
                let response = sender.send_request(get(NAR_PATH)).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), bytes);
            })
        })
        .collect();
    for request in requests {
        soon(request).await.unwrap();
    }
    drop(sender);
    soon(client).await.unwrap().unwrap();
    served.end().await;
}

/// A source that counts what was taken from it.
fn counted(taken: &Arc<Mutex<u64>>, pieces: usize, piece: usize) -> Answer {
    let taken = Arc::clone(taken);
    nar_from(Some((pieces * piece) as u64), move |_| {
        let source = stream::iter(0..pieces).map(move |_| {
            *taken.lock().unwrap() += piece as u64;
            Ok(Bytes::from(vec![7; piece]))
        });
        Box::pin(source)
    })
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_source_back() {
    const PIECE: usize = 100_000;
    let taken = Arc::new(Mutex::new(0));
    let (client, server) = narrow_pair();
    let served = Served::start(server, {
        let taken = Arc::clone(&taken);
        move || counted(&taken, 1000, PIECE)
    });
    // This client opens all windows, asks, and never reads again.
    let mut client = handshake_over(client, "h2").await.unwrap();
    ask_by_hand(&mut client).await;

    // It takes what its buffers hold and then nothing more: wait until the count stands still while the runtime is idle.
    let taken_at_rest = soon(async {
        let mut before = u64::MAX;
        loop {
            for _ in 0..10_000 {
                tokio::task::yield_now().await;
            }
            let now = *taken.lock().unwrap();
            if now == before && now > 0 {
                return now;
            }
            before = now;
        }
    })
    .await;
    // hyper's send buffer (400 KiB), the cork, and the pieces under way.
    assert!(taken_at_rest <= (400 << 10) + 2 * 65_536 + 3 * PIECE as u64, "{taken_at_rest} bytes wait in memory");
    drop(client);
    let metrics = served.end().await;
    assert_eq!(metrics.responses.of(ResponseEnd::ClientGone).get(), 1);
}

#[tokio::test]
async fn a_half_closed_client_ends_the_connection() {
    let (client, server) = tcp_pair().await;
    // A source that never gives anything: only the client's end can end this.
    let served = Served::start(server, || nar_from(Some(10), |_| Box::pin(stream::pending())));
    let mut client = handshake_over(client, "h2").await.unwrap();
    ask_by_hand(&mut client).await;
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.expect("the server says close_notify, too");
    assert!(!rest.is_empty());
    let metrics = served.end().await;
    assert_eq!(metrics.responses.of(ResponseEnd::Complete).get(), 0);
    assert_eq!(metrics.connections_open.get(), 0);
}

#[tokio::test]
async fn a_stream_the_client_resets_leaves_the_others_alone() {
    let bytes = noise(2 << 20);
    let (client, server) = tcp_pair().await;
    let served = Served::start(server, {
        let bytes = bytes.clone();
        move || nar(&bytes, 262_000)
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let reset = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    let kept = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    drop(reset); // hyper sends RST_STREAM for a body that is dropped before its end
    assert_eq!(soon(kept.into_body().collect()).await.unwrap().to_bytes(), bytes);
    drop(sender);
    soon(client).await.unwrap().unwrap();
    let metrics = served.end().await;
    assert_eq!(metrics.responses.of(ResponseEnd::ClientGone).get(), 1);
    assert_eq!(metrics.responses.of(ResponseEnd::Complete).get(), 1);
}

#[tokio::test]
async fn a_body_that_fails_is_reset_and_never_ended() {
    let (client, server) = tcp_pair().await;
    let (fail, failing) = tokio::sync::oneshot::channel::<()>();
    let failing = Mutex::new(Some(failing));
    let served = Served::start(server, move || {
        let failing = failing.lock().unwrap().take().expect("one request");
        nar_from(Some(100), |_| {
            let failure = stream::once(async {
                failing.await.expect("the test says when");
                Err("the upstream went away".into())
            });
            Box::pin(stream::iter([Ok(Bytes::from_static(&[1; 40]))]).chain(failure))
        })
    });
    let (mut sender, client) = http2_over(handshake_over(client, "h2").await.unwrap(), 65_535).await;
    let response = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), [1; 40][..]);
    fail.send(()).unwrap();
    let error = soon(body.frame()).await.expect("not an end").unwrap_err();
    let reset = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(reset.starts_with("stream error received"), "{reset}");
    drop((sender, body));
    soon(client).await.unwrap().unwrap();
    let metrics = served.end().await;
    assert_eq!(metrics.responses.of(ResponseEnd::Broken).get(), 1);
}
