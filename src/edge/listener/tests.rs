use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::testing::{
    CERTIFICATE, Fake, NAR_PATH, SOON, Server, exchange, get, handshake, handshake_over, http1, http2, http2_over, log,
    nar, nar_from, noise, soon, tcp, text,
};
use super::super::{Book, Service};
use super::*;
use crate::metrics::{ConnectionEnd, Metrics, Outcome, ResponseEnd, Route};

const GET_INFO: &str = "GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn listen(address: &str, tls: bool) -> Listen {
    Listen { tls, ..Listen::plain(address.parse().expect(address)) }
}

const FEW: Bounds = Bounds { connections: 10, handshakes: 10 };

fn bind(listen: &[Listen], resolver: Option<&Arc<dyn ResolvesServerCert>>) -> Result<Listeners, BindError> {
    super::bind(listen, resolver, &Challenges::default())
}

#[tokio::test]
async fn each_address_answers_in_its_own_way() {
    let server = Server::start(|_| text("StoreDir: /nix/store\n"));
    let plain = exchange(server.plain, GET_INFO).await;
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\n") && plain.ends_with("\r\n\r\nStoreDir: /nix/store\n"), "{plain}");

    let mut stream = handshake(server.tls, "http/1.1").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(GET_INFO.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nStoreDir: /nix/store\n"), "{answer}");

    let (mut sender, connection) = http2(server.tls).await;
    let response = soon(sender.send_request(get("/nix-cache-info"))).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "StoreDir: /nix/store\n");
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    assert!(server.stop().await);
}

#[tokio::test]
async fn no_handshake_without_a_common_protocol() {
    let server = Server::start(|_| text(""));
    let stream = TcpStream::connect(server.tls).await.unwrap();
    let error = handshake_over(stream, "spdy/1").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.connections.of(ConnectionEnd::Handshake).get(), 1);
}

#[tokio::test]
async fn plain_text_on_the_tls_address_is_a_failed_handshake() {
    let server = Server::start(|_| text(""));
    let answer = exchange(server.tls, GET_INFO).await;
    assert!(!answer.contains("200"), "{answer}");
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.connections.of(ConnectionEnd::Handshake).get(), 1);
    assert_eq!(metrics.connections_open.get(), 0);
}

#[tokio::test]
async fn an_accepted_connection_is_tuned() {
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    tune(&stream).unwrap();
    let socket = SockRef::from(&stream);
    assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
}

#[tokio::test]
async fn all_addresses_are_bound_or_none() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let error = bind(&[listen("127.0.0.1:0", false), listen(&taken, false)], None).unwrap_err();
    assert!(matches!(&error, BindError::Refused { .. }) && error.to_string().contains(&taken), "{error}");
    let error = bind(&[listen("127.0.0.1:0", true)], None).unwrap_err();
    assert!(matches!(error, BindError::NoCertificate(_)));
}

fn stop(drain: &CancellationToken) -> Stop {
    Stop { drain: drain.clone(), limit: SOON }
}

#[tokio::test]
async fn a_unix_socket_is_made_for_all_and_removed_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let address = format!("unix:{}", path.display());
    let listeners = bind(&[listen(&address, false)], None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");

    let drain = CancellationToken::new();
    let metrics = Metrics::default().edge;
    let service =
        Arc::new(Service::new(Fake(|_| text("hello\n")), Challenges::default(), Book::new(metrics.clone(), log())));
    let serving = tokio::spawn(listeners.serve(service, metrics, FEW, stop(&drain)));
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(GET_INFO.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");

    let error = bind(&[listen(&address, false)], None).unwrap_err();
    assert!(matches!(error, BindError::Taken(_)), "{error}");
    drain.cancel();
    assert!(soon(serving).await.unwrap());
    assert!(!path.exists());
}

#[tokio::test]
async fn what_a_dead_server_left_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let address = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // closing leaves the file, as a crash does
    let first = bind(&[listen(&address, false)], None).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());

    // Another server's socket in our place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(other);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = bind(&[listen(&address, false)], None).unwrap_err();
    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let server = Server::start_bounded(Fake(|_| text("hello\n")), 2, SOON);
    let held = [TcpStream::connect(server.plain).await.unwrap(), TcpStream::connect(server.plain).await.unwrap()];
    let metrics = server.metrics.clone();
    let both_are_served = async {
        while metrics.connections_open.get() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(both_are_served).await;
    let waiting = tokio::spawn(exchange(server.plain, GET_INFO));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(metrics.connections_open.get() <= 2);
    }
    assert!(!waiting.is_finished());
    drop(held);
    assert!(soon(waiting).await.unwrap().ends_with("hello\n"));
    assert!(server.stop().await);
}

/// A server whose every NAR waits in its middle until it is let go on.
fn waiting_server(limit: Duration) -> (Server, Arc<Semaphore>) {
    let go_on = Arc::new(Semaphore::new(0));
    let answers = Fake({
        let go_on = Arc::clone(&go_on);
        move |_| {
            let go_on = Arc::clone(&go_on);
            nar_from(Some(2), move |_| {
                let second = futures_util::stream::once(async move {
                    go_on.acquire().await.expect("it is never closed").forget();
                    Ok(bytes::Bytes::from_static(b"b"))
                });
                Box::pin(futures_util::StreamExt::chain(
                    futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"a"))]),
                    second,
                ))
            })
        }
    });
    (Server::start_bounded(answers, 10, limit), go_on)
}

#[tokio::test]
async fn a_drain_lets_responses_finish_and_takes_nothing_new() {
    let (server, go_on) = waiting_server(SOON);
    let address = server.plain;
    let mut over_http1 = http1(address, get(NAR_PATH)).await.into_body();
    let (mut sender, connection) = http2(server.tls).await;
    let mut over_http2 = soon(sender.send_request(get(NAR_PATH))).await.unwrap().into_body();
    for body in [&mut over_http1, &mut over_http2] {
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "a");
    }
    let mut idle = handshake(server.tls, "http/1.1").await;
    let metrics = server.metrics.clone();
    let stopping = tokio::spawn(server.stop());
    // The idle connection ends soon, which also shows that the drain has begun.
    assert_eq!(soon(idle.read(&mut [0])).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    assert!(!stopping.is_finished());
    go_on.add_permits(2);
    for body in [over_http1, over_http2] {
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "b");
    }
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    assert!(soon(stopping).await.unwrap(), "everything finished in time");
    assert_eq!(metrics.responses.of(ResponseEnd::Complete).get(), 2);
}

/// R34: a client that was let in cannot know that it should ask elsewhere.
#[tokio::test]
async fn whoever_was_let_in_before_the_drain_is_answered_once_more() {
    const GET: &[u8] = b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let server = Server::start(|_| text("hello\n"));
    let mut kept = TcpStream::connect(server.plain).await.unwrap();
    kept.write_all(GET).await.unwrap();
    let mut answer = [0; 4096];
    let n = soon(kept.read(&mut answer)).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..n]).contains("connection: close"), "it is kept");
    let fresh = TcpStream::connect(server.plain).await.unwrap();
    let shaking = TcpStream::connect(server.tls).await.unwrap();
    let metrics = server.metrics.clone();
    let shaking_h2 = TcpStream::connect(server.tls).await.unwrap();
    while metrics.connections_open.get() < 4 {
        tokio::task::yield_now().await;
    }
    let address = server.plain;
    let stopping = tokio::spawn(server.stop());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let (mut sender, connection) =
        http2_over(handshake_over(shaking_h2, "h2").await.expect("a handshake"), 65_535).await;
    let response = soon(sender.send_request(get("/nix-cache-info"))).await.expect("no GOAWAY before the first request");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello\n");
    let shaken = soon(handshake_over(shaking, "http/1.1")).await.expect("a handshake");
    let last = |mut stream: Box<dyn Both>| async move {
        stream.write_all(GET).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    for stream in [Box::new(kept) as Box<dyn Both>, Box::new(fresh), Box::new(shaken)] {
        let answer = last(stream).await;
        assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("hello\n"), "{answer}");
    }
    soon(connection).await.unwrap().expect("GOAWAY without an error");
    assert!(soon(stopping).await.unwrap());
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Both for T {}

#[tokio::test]
async fn what_does_not_finish_in_time_is_broken_off_and_not_ended() {
    let (server, _never) = waiting_server(Duration::from_millis(50));
    let mut over_http1 = http1(server.plain, get(NAR_PATH)).await.into_body();
    let (mut sender, connection) = http2(server.tls).await;
    let mut over_http2 = soon(sender.send_request(get(NAR_PATH))).await.unwrap().into_body();
    for body in [&mut over_http1, &mut over_http2] {
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "a");
    }
    let metrics = server.metrics.clone();
    assert!(!server.stop().await, "some were broken off");
    assert!(soon(over_http1.collect()).await.is_err());
    assert!(soon(over_http2.collect()).await.is_err());
    drop(sender);
    let _ = soon(connection).await.unwrap();
    assert_eq!(metrics.connections.of(ConnectionEnd::Aborted).get(), 2);
    assert_eq!(metrics.responses.of(ResponseEnd::ClientGone).get(), 2);
    assert_eq!(metrics.connections_open.get(), 0);
}

#[tokio::test]
async fn a_panic_costs_its_own_request_only() {
    let calls = Mutex::new(0);
    let server = Server::start(move |_| {
        let mut calls = calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *calls += 1;
        match *calls {
            1 => panic!("a bug in the handler"),
            2 => nar_from(Some(10), |_| Box::pin(futures_util::stream::poll_fn(|_| panic!("a bug in the source")))),
            _ => nar(&noise(10), 10),
        }
    });
    let (mut sender, connection) = http2(server.tls).await;
    let response = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "internal error\n");
    let broken = async { sender.send_request(get(NAR_PATH)).await?.into_body().collect().await };
    assert!(soon(broken).await.is_err());
    let response = soon(sender.send_request(get(NAR_PATH))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), noise(10));
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.panics.get(), 2);
    let total = |outcome| metrics.requests.of(Route::Nar, outcome).get();
    assert_eq!((total(Outcome::Internal), total(Outcome::Hit)), (1, 2));
}

#[tokio::test]
async fn a_new_certificate_is_for_the_next_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let (resolver, ..) = crate::tls::for_tests(dir.path());
    let shown: Arc<dyn ResolvesServerCert> = Arc::clone(&resolver) as _;
    let listeners = bind(&[listen("127.0.0.1:0", true)], Some(&shown)).unwrap();
    let address = tcp(&listeners.addresses()[0]);
    let drain = CancellationToken::new();
    let metrics = Metrics::default().edge;
    let service = Arc::new(Service::new(Fake(|_| text("")), Challenges::default(), Book::new(metrics.clone(), log())));
    let serving = tokio::spawn(listeners.serve(service, metrics, FEW, stop(&drain)));
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        handshake_over(stream, "h2").await
    };
    assert!(connect().await.is_err(), "the client trusts another CA");
    resolver.replace(vec![CERTIFICATE.certificate.clone()], None);
    assert!(connect().await.is_ok());
    drain.cancel();
    assert!(soon(serving).await.unwrap());
}
