//! A cold NAR: one upstream request for all who want it, everyone reads along at their own pace, and nothing that is
//! not exactly the NAR ever looks complete.

use crate::support::cache::{Compression, Key, Object};
use crate::support::client::{End, Response, Target};
use crate::support::origin::{Break, Framing, Gate, Origin, Reply, Request};
use crate::support::snowbank::{Count, Setup, Snowbank};
use std::time::Duration;

const MB: usize = 1_000_000;

fn start() -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("fill-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    (origin, key, snowbank)
}

#[tokio::test]
async fn fifty_clients_of_a_cold_nar_are_one_upstream_request_and_all_stream() {
    let (origin, key, snowbank) = start();
    let object = Object::new("herd", 4 * MB);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(3 * MB as u64, &gate));
    let target = snowbank.http().nar_target(&object).await;
    let h2 = snowbank.https().h2().await;
    let mut clients = tokio::task::JoinSet::new();
    let halfway = std::sync::Arc::new(tokio::sync::Barrier::new(41));
    for n in 0..40 {
        let client = if n % 2 == 0 { snowbank.http() } else { snowbank.https() };
        let (target, file, halfway) = (target.clone(), object.file.clone(), std::sync::Arc::clone(&halfway));
        clients.spawn(async move {
            let mut exchange = client.start("GET", &target, &[]).await;
            let mut body = exchange.exactly(2 * MB).await;
            halfway.wait().await;
            let (rest, end) = exchange.rest().await;
            body.extend_from_slice(&rest);
            assert_eq!(end, End::Clean);
            crate::support::client::assert_same(&body, &file);
        });
    }
    // The gate opens only when every one of them has half of the body: they all stream.
    crate::support::within("forty clients have half of the body", halfway.wait()).await;
    let streams = futures_util::future::join_all((0..10).map(|_| h2.get(&target)));
    gate.open();
    for response in streams.await {
        response.expect_bytes(&object.file);
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no client failed");
    }
    assert_eq!(origin.count(&object.file_target()), 1);
}

#[tokio::test]
async fn the_first_client_leaves_and_the_others_finish() {
    let (origin, key, snowbank) = start();
    let object = Object::new("leaver", 4 * MB);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(MB as u64, &gate));
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let mut first = client.start("GET", &target, &[]).await;
    first.exactly(4 * MB / 10).await;
    let others = [client.start("GET", &target, &[]).await, client.start("GET", &target, &[]).await];
    drop(first);
    gate.open();
    for other in others {
        other.finish().await.expect_bytes(&object.file);
    }
    assert_eq!(origin.count(&object.file_target()), 1);
}

/// Clients that asked and left do not keep their connections for as long as the upstream takes.
#[tokio::test]
async fn who_asked_and_left_holds_no_connection() {
    let (origin, key, snowbank) = start();
    let object = Object::new("ghost", 4 * MB);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_before_head(&gate));
    let request = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", object.served_target());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = tokio::net::TcpStream::connect(snowbank.http_address()).await.expect("it listens");
        tokio::io::AsyncWriteExt::write_all(&mut client, request.as_bytes()).await.expect("it reads");
        clients.push(client);
    }
    while origin.count(&object.file_target()) == 0 || snowbank.counter(Count::Connections) < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(clients);
    let gone = async {
        // The one that is left asks for this page.
        while snowbank.counter(Count::Connections) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    crate::support::within("the connections of those who left are free", gone).await;
    gate.open();
}

#[tokio::test]
async fn the_fill_survives_its_only_client() {
    let (origin, key, snowbank) = start();
    let object = Object::new("survivor", 4 * MB);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(3 * MB as u64, &gate));
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let mut only = client.start("GET", &target, &[]).await;
    only.exactly(2 * MB).await;
    gate.reached().await;
    drop(only);
    // Time for the program to notice, so that this test would fail if noticing ended the fill.
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    client.get(&target).await.expect_bytes(&object.file);
    assert_eq!(origin.count(&object.file_target()), 1);
}

#[tokio::test]
async fn a_body_cut_anywhere_is_never_complete_and_is_fetched_again() {
    let (origin, key, snowbank) = start();
    let client = snowbank.http();
    let size = 2 * MB;
    for (n, at) in [0, 1, 99, 65_536, 261_999, 262_000, 262_001, 999_999, size - 1, size].into_iter().enumerate() {
        for framing in [Framing::Length, Framing::Chunked] {
            for how in [Break::Close, Break::Reset] {
                let object = Object::new(&format!("cut-{n}-{framing:?}-{how:?}"), size);
                let whole = Reply::bytes(object.file.clone()).without_ranges().framing(framing);
                let cut = whole.clone().break_at(at as u64, how);
                origin.publish_narinfo(&object, &key);
                origin.serve(&object.file_target(), cut);
                let target = client.nar_target(&object).await;
                let response = client.get(&target).await;
                response.expect_all_or_broken(&object.file);
                assert!(!(response.status == 200 && response.end == End::Clean), "cut at {at}, {framing:?}, {how:?}");
                origin.serve(&object.file_target(), whole);
                client.get(&target).await.expect_bytes(&object.file);
            }
        }
    }
}

#[tokio::test]
async fn a_body_without_any_framing_is_taken_when_it_is_whole_and_refused_when_it_is_cut() {
    let (origin, key, snowbank) = start();
    let client = snowbank.http();
    let whole = Object::new("until-close", MB);
    origin.publish_narinfo(&whole, &key);
    origin.serve(&whole.file_target(), Reply::bytes(whole.file.clone()).framing(Framing::UntilClose).without_ranges());
    client.get(&client.nar_target(&whole).await).await.expect_bytes(&whole.file);
    let short = Object::new("until-close-cut", 3 * MB);
    let reply = Reply::bytes(short.file.clone()).framing(Framing::UntilClose).without_ranges().cut_at(2 * MB as u64);
    origin.publish_narinfo(&short, &key);
    origin.serve(&short.file_target(), reply);
    let response = client.get(&client.nar_target(&short).await).await;
    assert!(matches!(response.end, End::Broken(_)), "{:?}", response.end);
}

/// No client can take this for the whole body. What it got may hold the wrong byte: it left before the end proved it so.
#[track_caller]
fn incomplete(response: &Response, object: &Object, name: &str) {
    match &response.end {
        End::Broken(_) => assert!(response.body.len() < object.file.len(), "{name}: all bytes, then an error"),
        End::Clean => assert!(
            response.status == 404 || response.status >= 500,
            "{name}: complete with status {}",
            response.status
        ),
    }
}

/// A body that does not fit its narinfo, small enough to be held back whole and large enough not to be.
async fn refused(name: &str, body: impl Fn(&Object) -> Reply) {
    let (origin, key, snowbank) = start();
    for (n, size) in [100_000, 3 * MB].into_iter().enumerate() {
        for compression in [Compression::None, Compression::Zstd] {
            let object = Object::compressed(&format!("{name}-{n}"), size, compression);
            let before = snowbank.counter(Count::FillsFailed);
            origin.publish_narinfo(&object, &key);
            origin.serve(&object.file_target(), body(&object));
            let target = snowbank.http().nar_target(&object).await;
            for client in [snowbank.http(), snowbank.https()] {
                incomplete(&client.get(&target).await, &object, name);
                // A part of it is not proven either.
                let part = client.get_with(&target, &[("Range", "bytes=0-49999")]).await;
                assert!(
                    part.end != End::Clean || part.status == 404 || part.status >= 500,
                    "{name}: a complete part of it"
                );
            }
            let h2 = snowbank.https().h2().await;
            incomplete(&h2.get(&target).await, &object, name);
            assert!(snowbank.counter(Count::FillsFailed) > before, "{name}: counted");
            // Nothing of it was kept as complete: the right body is fetched and served.
            origin.publish(&object, &key);
            snowbank.http().get(&target).await.expect_bytes(&object.file);
        }
    }
}

#[tokio::test]
async fn a_body_with_another_hash_is_refused() {
    refused("wrong-hash", |object| {
        let mut wrong = object.file.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        Reply::bytes(wrong)
    })
    .await;
}

#[tokio::test]
async fn a_body_whose_last_byte_is_wrong_is_refused() {
    refused("wrong-end", |object| {
        let mut wrong = object.file.to_vec();
        *wrong.last_mut().expect("a byte") ^= 1;
        Reply::bytes(wrong)
    })
    .await;
}

#[tokio::test]
async fn a_body_longer_than_its_narinfo_says_is_refused() {
    refused("longer", |object| Reply::bytes([&object.file[..], b"more"].concat())).await;
}

#[tokio::test]
async fn a_chunked_body_longer_than_its_narinfo_says_is_refused() {
    refused("longer-chunked", |object| {
        Reply::bytes([&object.file[..], b"more"].concat()).framing(Framing::Chunked).without_ranges()
    })
    .await;
}

#[tokio::test]
async fn a_body_shorter_than_its_narinfo_says_is_refused() {
    refused("shorter", |object| Reply::bytes(object.file.slice(..object.file.len() - 1))).await;
}

#[tokio::test]
async fn a_body_shorter_than_its_own_length_is_refused() {
    refused("promised", |object| {
        let length = object.file.len();
        Reply::bytes(object.file.slice(..length - 1)).without_ranges().promise(length as u64)
    })
    .await;
}

#[tokio::test]
async fn an_error_page_of_the_upstream_is_not_a_nar() {
    let (origin, key, snowbank) = start();
    let object = Object::new("error-page", MB);
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes("<html>down for maintenance</html>").without_ranges());
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let response = client.get(&target).await;
    assert!(!(response.status == 200 && response.end == End::Clean));
    assert!(!String::from_utf8_lossy(&response.body).contains("maintenance"));
}

#[tokio::test]
async fn a_slow_reader_slows_nobody() {
    let (origin, key, snowbank) = start();
    let object = Object::new("slow-and-fast", 24 * MB);
    origin.publish(&object, &key);
    let client = snowbank.http();
    let target = client.nar_target(&object).await;
    let mut slow = client.start("GET", &target, &[]).await;
    let mut body = slow.exactly(10_000).await;
    // The fast one gets all of it while the slow one stands still.
    client.get(&target).await.expect_bytes(&object.file);
    // 10 kB/s for two seconds, then as it comes.
    for _ in 0..20 {
        body.extend(slow.exactly(1_000).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (rest, end) = slow.rest().await;
    body.extend_from_slice(&rest);
    assert_eq!(end, End::Clean);
    crate::support::client::assert_same(&body, &object.file);
    assert!(origin.each_byte_once(&object.file_target()));
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_a_bounded_amount_of_memory() {
    let (origin, key, snowbank) = start();
    let warm = Object::new("warm-up", 24 * MB);
    origin.publish(&warm, &key);
    let client = snowbank.http();
    client.get(&client.nar_target(&warm).await).await.expect_bytes(&warm.file);
    let before = snowbank.resident();
    let object = Object::new("standing-still", 48 * MB);
    origin.publish(&object, &key);
    let target = client.nar_target(&object).await;
    let mut still = Vec::new();
    for _ in 0..20 {
        let mut exchange = client.start("GET", &target, &[]).await;
        exchange.exactly(1_000).await;
        still.push(exchange);
    }
    client.get(&target).await.expect_bytes(&object.file);
    // 20 readers x 48 MB would be 960 MB; the memory tier (64 MiB) may fill meanwhile.
    let grown = snowbank.resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB more", grown >> 20);
    drop(still);
}

#[tokio::test]
async fn a_nar_streams_over_every_listener() {
    let (origin, key, snowbank) = start();
    let object = Object::compressed("listeners", 2 * MB, Compression::Zstd);
    origin.publish(&object, &key);
    for client in [snowbank.http(), snowbank.https(), snowbank.unix()] {
        let target = client.nar_target(&object).await;
        check_head(&client, &target, &object).await;
        client.get(&target).await.expect_bytes(&object.file);
    }
    let target = object.served_target();
    snowbank.https().h2().await.get(&target).await.expect_bytes(&object.file);
    // A HEAD of what is not here asks the upstream for no more than a byte.
    let whole = |r: &&Request| r.field("range") != Some("bytes=0-0");
    assert_eq!(origin.requests_for(&object.file_target()).iter().filter(whole).count(), 1);
    assert!(origin.requests().iter().all(|r| r.method == "GET"), "an upstream may send a body on HEAD");
}

/// HEAD tells the truth, and has no body.
async fn check_head(client: &Target, target: &str, object: &Object) {
    let head = client.head(target).await.expect(200);
    assert_eq!(head.field("content-length"), Some(object.file.len().to_string().as_str()));
    assert_eq!(head.field("accept-ranges"), Some("bytes"));
    assert_eq!(head.field("content-encoding"), None);
    assert!(head.field("etag").is_some_and(|tag| tag.starts_with('"')), "a strong entity tag");
    // Anything after the head would be read as the next answer.
    let mut connection = client.connect().await;
    connection.send(format!("HEAD {target} HTTP/1.1\r\nHost: cache.test\r\n\r\n").as_bytes()).await;
    let mut answer = connection.answer("HEAD").await;
    assert_eq!(answer.rest().await.0.len(), 0);
    let mut connection = client.connect().await;
    let both = format!(
        "HEAD {target} HTTP/1.1\r\nHost: cache.test\r\n\r\n\
         GET /nix-cache-info HTTP/1.1\r\nHost: cache.test\r\nConnection: close\r\n\r\n"
    );
    connection.send(both.as_bytes()).await;
    let bytes = connection.until_closed().await;
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{text}");
    assert!(text.contains("StoreDir: /nix/store"), "{text}");
}

#[tokio::test]
async fn two_hundred_small_nars_at_once_are_all_right() {
    let (origin, key, snowbank) = start();
    let objects: Vec<Object> = (0..200).map(|n| Object::new(&format!("small-{n}"), n * 997)).collect();
    for object in &objects {
        origin.publish(object, &key);
    }
    let h2 = std::sync::Arc::new(snowbank.https().h2().await);
    let mut clients = tokio::task::JoinSet::new();
    for object in objects.clone() {
        let h2 = std::sync::Arc::clone(&h2);
        clients.spawn(async move {
            h2.get(&object.narinfo_target()).await.expect(200);
            h2.get(&object.served_target()).await.expect_bytes(&object.file);
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no client failed");
    }
    for object in &objects {
        assert_eq!(origin.count(&object.file_target()), 1, "{} bytes", object.file.len());
    }
}
