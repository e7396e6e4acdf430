use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::super::testing::{
    HASH, NAR_PATH, SOON, Server, exchange, get, head_of, http1, http2, listen, nar, nar_from, noise, soon, text,
};
use crate::metrics::{Outcome, ResponseEnd, Route};

fn server() -> Server {
    Server::start(|_| text("StoreDir: /nix/store\n"))
}

/// The status line's code for a request of these lines.
async fn status(server: &Server, head: &str) -> String {
    let answer = exchange(server.plain, head).await;
    answer.split(' ').nth(1).unwrap_or(&answer).to_owned()
}

#[tokio::test]
async fn a_request_with_a_body_is_refused_and_the_connection_closed() {
    let server = server();
    let next = "GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    ] {
        let request = format!("GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n{fields}{next}");
        let answer = exchange(server.plain, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "what follows is not taken for a request: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let with_zero = "GET /nix-cache-info HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server, with_zero).await, "200");
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_host_is_demanded_once_and_well_formed() {
    let server = server();
    for (fields, expected) in [
        ("Host: cache.example.org:8080\r\n", "200"),
        ("Host: [::1]:80\r\n", "200"),
        ("Host: a:\r\n", "200"),
        ("", "400"),
        ("Host: :80\r\n", "400"),
        ("Host: a:+80\r\n", "400"),
        ("Host: a:65536\r\n", "400"),
        ("Host: [zz]\r\n", "400"),
        ("Host: [::1\r\n", "400"),
        ("Host: [::1]x\r\n", "400"),
        ("Host: a\r\nHost: a\r\n", "400"),
        ("Host: \r\n", "400"),
        ("Host: a b\r\n", "400"),
        ("Host: user@a\r\n", "400"),
        ("Host: a/b\r\n", "400"),
    ] {
        let request = format!("GET /nix-cache-info HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
        assert_eq!(status(&server, &request).await, expected, "{fields:?}");
    }
    assert_eq!(status(&server, "GET /nix-cache-info HTTP/1.0\r\n\r\n").await, "200");
    let absolute = "GET http://other.example/nix-cache-info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server, absolute).await, "200", "the authority chooses nothing");
    assert!(server.stop().await);
}

#[tokio::test]
async fn other_methods_are_told_what_is_allowed() {
    let server = server();
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let answer = exchange(server.plain, &format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    let put =
        "PUT /nix-cache-info HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nx\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = exchange(server.plain, put).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    let connect = status(&server, "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n").await;
    assert_eq!(connect, "405");
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(status(&server, upgrade).await, "404", "there is nothing to upgrade to");
    assert!(server.stop().await);
}

#[tokio::test]
async fn heads_have_their_bounds() {
    let server = server();
    let with = |fields: &str| format!("GET /nix-cache-info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n");
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    assert_eq!(status(&server, &with(&fields(98))).await, "200");
    assert_eq!(status(&server, &with(&fields(99))).await, "431", "more than 100 fields");
    assert_eq!(status(&server, &with(&format!("x: {}\r\n", "y".repeat(15_000)))).await, "200");
    assert_eq!(status(&server, &with(&format!("x: {}\r\n", "y".repeat(17_000)))).await, "431");
    let target =
        |length: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "a".repeat(length));
    assert_eq!(status(&server, &target(2047)).await, "404");
    assert_eq!(status(&server, &target(2048)).await, "414");
    assert!(server.stop().await);
}

#[tokio::test]
async fn what_means_nothing_is_not_found_and_nobody_is_asked() {
    let server = Server::start(|asked| panic!("asked for {asked:?}"));
    for path in ["/y", "/x", "/e123456789abcdfghijklmnpqrsvwxyz.narinfo"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert!(exchange(server.plain, &request).await.ends_with("\r\n\r\nnot a path of a binary cache\n"));
    }
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.requests.of(Route::Other, Outcome::NotFound).get(), 3);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = server();
    let one = format!("GET /{HASH}.narinfo HTTP/1.1\r\nHost: h\r\n\r\n");
    let last = "HEAD /nix-cache-info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.plain, &format!("{one}{one}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(answer.matches("StoreDir").count(), 2, "no body for HEAD: {answer}");
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_client_that_closes_its_half_at_once_gets_what_is_at_hand() {
    let server = server();
    let mut stream = tokio::net::TcpStream::connect(server.plain).await.unwrap();
    stream.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)).await.unwrap();
    assert!(answer.ends_with("StoreDir: /nix/store\n"), "{answer}");
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_body_that_fails_is_cut_and_not_ended() {
    for size in [Some(8), None] {
        let go_on = Arc::new(Semaphore::new(0));
        let server = Server::start({
            let go_on = Arc::clone(&go_on);
            move |_| {
                let go_on = Arc::clone(&go_on);
                let failure = stream::once(async move {
                    go_on.acquire().await.expect("it is never closed").forget();
                    Err("the upstream went away".into())
                });
                nar_from(size, |_| Box::pin(stream::iter([Ok(Bytes::from_static(b"half"))]).chain(failure)))
            }
        });
        let response = http1(server.plain, get(NAR_PATH)).await;
        assert_eq!(response.headers().contains_key("content-length"), size.is_some());
        let mut body = response.into_body();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
        go_on.add_permits(1);
        // Closed short of Content-Length, or without the last chunk.
        assert!(soon(body.collect()).await.is_err());
        let metrics = server.metrics.clone();
        assert!(server.stop().await);
        assert_eq!(metrics.responses.of(ResponseEnd::Broken).get(), 1);
    }
}

/// P10: every request is counted once, whatever becomes of it.
#[tokio::test]
async fn there_are_as_many_outcomes_as_requests() {
    let server = Server::start(|_| nar(&noise(1000), 100));
    let (mut sender, connection) = http2(server.tls).await;
    for request in [get(NAR_PATH), head_of(NAR_PATH), get("/x")] {
        soon(sender.send_request(request)).await.unwrap().into_body().collect().await.unwrap();
    }
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.requests.of(Route::Nar, Outcome::Hit).get(), 2);
    assert_eq!(metrics.requests.of(Route::Other, Outcome::NotFound).get(), 1);
    assert_eq!(metrics.responses.of(ResponseEnd::Complete).get(), 3);
    assert_eq!(metrics.response_bytes.total(), 1000 + "not a path of a binary cache\n".len() as u64);
}

/// Never answers; a permit for each request it was asked.
struct Never(Arc<Semaphore>);

impl super::Answers for Never {
    async fn answer(
        &self,
        _: crate::proxy::request::Request,
        _: bool,
        _: &crate::access::Visitor<'_>,
    ) -> crate::proxy::answer::Answer {
        self.0.add_permits(1);
        std::future::pending().await
    }

    fn is_granted(&self, _: &crate::access::Visitor<'_>) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_counted() {
    let asked = Arc::new(Semaphore::new(0));
    let server = Server::start_bounded(Never(Arc::clone(&asked)), 10, SOON);
    let (mut sender, connection) = http2(server.tls).await;
    tokio::select! {
        _ = sender.send_request(get(NAR_PATH)) => panic!("there is no answer"),
        asked = soon(asked.acquire()) => drop(asked),
    }
    drop(sender);
    let _ = soon(connection).await.unwrap();
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.requests.of(Route::Nar, Outcome::Abandoned).get(), 1);
    assert_eq!(metrics.responses.of(ResponseEnd::ClientGone).get(), 1);
}

/// Head and body of the answer to a request of this line and these fields.
async fn ask(address: std::net::SocketAddr, line: &str, fields: &str) -> (String, String) {
    let answer = exchange(address, &format!("{line} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer}"));
    (head.to_owned(), body.to_owned())
}

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
const HOST: &str = "Host: cache.example.org\r\n";

#[tokio::test]
async fn a_known_token_is_answered_at_every_entrance() {
    let redirecting = listen("tls = false\nredirect = 'https://cache.example.org'");
    let server = Server::listening(&[listen("tls = false"), redirecting, listen("")]);
    let authorization = format!("{TOKEN}.thumbprint");
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    let guard = server.challenges.answer_token(TOKEN, &authorization);
    for address in &server.addresses[..2] {
        let (head, body) = ask(*address, &format!("GET {path}"), HOST).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: application/octet-stream\r\n"), "{head}");
        assert!(head.contains("cache-control: no-store\r\n"), "{head}");
        assert_eq!(body, authorization);
        let (head, body) = ask(*address, &format!("HEAD {path}"), HOST).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", authorization.len())), "{head}");
        let (head, _) = ask(*address, &format!("POST {path}"), HOST).await;
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
        for other in [
            "/.well-known/acme-challenge/".to_owned(),
            "/.well-known/acme-challenge/other".to_owned(),
            format!("{path}/"),
            format!("{path}x"),
            format!("{path}{}", "x".repeat(1000)),
            path.replace("evaG", "%65vaG"),
            path.replace("evaG", "EVAG"),
        ] {
            let (head, body) = ask(*address, &format!("GET {other}"), HOST).await;
            assert!(head.starts_with("HTTP/1.1 404 "), "{other}: {head}");
            assert_eq!(body, "not a path of a binary cache\n");
        }
    }
    let (mut sender, connection) = http2(server.tls).await;
    let response = soon(sender.send_request(get(&path))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), authorization);
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    drop(guard);
    let (head, _) = ask(server.plain, &format!("GET {path}"), HOST).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.requests.of(Route::AcmeChallenge, Outcome::Local).get(), 5);
    assert_eq!(metrics.requests.of(Route::AcmeChallenge, Outcome::NotFound).get(), 15);
}

#[tokio::test]
async fn a_redirecting_address_sends_everyone_to_the_same_host() {
    let listens = [listen("tls = false\nredirect = 'https://cache.example.org:8443/nix'"), listen("")];
    let server = Server::start_at(
        &listens,
        super::super::testing::Fake(|asked| panic!("asked for {asked:?}")),
        super::super::Bounds { connections: 10, handshakes: 10 },
        SOON,
    );
    let base = "https://cache.example.org:8443/nix";
    for (line, fields, to) in [
        ("GET /nix-cache-info", HOST, "/nix-cache-info"),
        ("HEAD /nix-cache-info", HOST, "/nix-cache-info"),
        ("GET /nar/x.nar?hash=y&z=%20", HOST, "/nar/x.nar?hash=y&z=%20"),
        ("GET /", "Host: evil.example\r\nX-Forwarded-Host: evil.example\r\n", "/"),
        ("GET http://evil.example/x", HOST, "/x"),
        ("GET //evil.example/x", HOST, "//evil.example/x"),
        ("GET /.well-known/other", HOST, "/.well-known/other"),
    ] {
        let (head, body) = ask(server.plain, line, fields).await;
        assert!(head.starts_with("HTTP/1.1 308 "), "{line}: {head}");
        assert!(head.contains(&format!("\r\nlocation: {base}{to}\r\n")), "{line}: {head}");
        assert!(!head.contains("https://evil") && !head.contains("http://"), "{head}");
        assert_eq!(body.is_empty(), line.starts_with("HEAD"), "{body:?}");
    }
    let (head, _) = ask(server.plain, "POST /nix-cache-info", HOST).await;
    assert!(head.starts_with("HTTP/1.1 405 ") && !head.contains("location"), "{head}");
    let (head, _) = ask(server.plain, "GET /nix-cache-info", "").await;
    assert!(head.starts_with("HTTP/1.1 400 "), "the rules for a head come first: {head}");
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.requests.of(Route::CacheInfo, Outcome::Local).get(), 2);
}
