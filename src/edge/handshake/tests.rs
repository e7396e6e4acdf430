use std::path::Path;
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::ClientConfig;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::testing::served::{acceptor, narrow_pair};
use super::super::testing::shaking::{
    CLIENT_CA, Ca, Identity, OTHER_CA, VERSIONS, ask, client, client_of, connect, trusting_client,
};
use super::super::testing::{CERTIFICATE, Fake, SOON, Server, handshake_over, listen, soon, text};
use super::super::{Bounds, Listen};
use super::*;
use crate::metrics::{CertificateFailure, ConnectionEnd};

// Bounds in time and number, with the clock paused: it jumps to the next timer whenever nothing else can go on.

type Shaken = Result<Option<TlsStream<DuplexStream>>, (Failure, Option<DuplexStream>)>;

/// Those of everybody, for a client that is not told from others.
fn all(permits: &Semaphore) -> Permits<'_> {
    Permits { of_client: None, of_all: permits }
}

/// Shakes hands over one end of a pipe; the other end is returned.
fn shake_one(permits: &Arc<Semaphore>) -> (DuplexStream, tokio::task::JoinHandle<Shaken>) {
    let (client, server) = narrow_pair();
    let permits = Arc::clone(permits);
    (client, tokio::spawn(async move { shake(server, &acceptor(), all(&permits)).await }))
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_has_its_time_and_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let begun = Instant::now();
    let (_silent, waiting) = shake_one(&permits);
    let (client, served) = shake_one(&permits);
    let _client = handshake_over(client, "h2").await.expect("the other one is not in its way");
    assert!(matches!(served.await.unwrap(), Ok(Some(_))));
    assert_eq!(begun.elapsed().as_secs(), 0);
    let (failure, _) = waiting.await.unwrap().expect_err("the time was up");
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(failure.to_string(), "not done within 10s");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_all_of_its_own_permits_takes_none_of_the_others() {
    let (own, all) = (Semaphore::new(0), Semaphore::new(1));
    let (client, server) = narrow_pair();
    let permits = Permits { of_client: Some(&own), of_all: &all };
    let acceptor = acceptor();
    let (mut waiting, mut shaking) =
        (Box::pin(shake(server, &acceptor, permits)), Box::pin(handshake_over(client, "h2")));
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut shaking).is_pending() && futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(all.available_permits(), 1);
        tokio::task::yield_now().await;
    }
    own.add_permits(1);
    let (shaken, connected) = tokio::join!(waiting, shaking);
    assert!(matches!(shaken, Ok(Some(_))) && connected.is_ok());
    assert_eq!((own.available_permits(), all.available_permits()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_permit_counts() {
    let permits = Arc::new(Semaphore::new(0));
    let begun = Instant::now();
    let (client, served) = shake_one(&permits);
    assert!(handshake_over(client, "h2").await.is_err());
    assert!(matches!(served.await.unwrap(), Err((Failure::TooSlow, None))));
    assert_eq!(begun.elapsed().as_secs(), 10);
}

/// A client that says its ClientHello and nothing more; it has been answered, so it holds a permit.
async fn stuck(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.tls).await.unwrap();
    let config = Arc::new(client(&VERSIONS, &["h2"], None));
    let mut session = rustls::ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    stream.write_all(&hello).await.unwrap();
    soon(stream.read_exact(&mut [0])).await.unwrap();
    stream
}

#[tokio::test]
async fn more_handshakes_than_allowed_wait_their_turn() {
    let bounds = Bounds { connections: 100, handshakes: 2 };
    let server = Server::start_at(&[listen("")], Fake(|_| text("hello\n")), bounds, SOON);
    let held = [stuck(&server).await, stuck(&server).await];
    let address = server.tls;
    let waiting = tokio::spawn(async move { ask(address, &Arc::new(client(&VERSIONS, &[], None))).await });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    let [first, _second] = held;
    drop(first);
    let (answer, _) = soon(waiting).await.unwrap().expect("one ended");
    assert!(answer.ends_with("hello\n"), "{answer}");
    assert!(server.stop().await);
}

#[tokio::test]
async fn a_client_without_a_server_name_is_served() {
    let server = Server::listening(&[listen("")]);
    for version in VERSIONS {
        let mut config = client(&[version], &[], None);
        config.enable_sni = false;
        let (answer, _) = ask(server.tls, &Arc::new(config)).await.unwrap();
        assert!(answer.ends_with("hello\n"), "{answer}");
    }
    assert!(server.stop().await);
}

// What a CA asks to see (RFC 8737).

/// The certificate that `name` is shown, and the protocol chosen; the connection is closed at once after it.
async fn shown(server: &Server, config: ClientConfig, name: &str) -> io::Result<(Vec<u8>, Option<Vec<u8>>)> {
    let mut stream = connect(server.tls, &Arc::new(config), name).await?;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().expect("one")[0].to_vec();
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    if protocol.as_deref() == Some(b"acme-tls/1") {
        assert_eq!(soon(stream.read(&mut [0])).await?, 0, "closed in order");
    }
    Ok((certificate, protocol))
}

#[tokio::test]
async fn a_challenge_is_shown_to_who_asks_for_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    write(&ca, &CLIENT_CA.pem);
    let server = Server::listening(&[listen(""), asking("required", &ca, "[]")]);
    let (chain, key) = OTHER_CA.sign(&["name.example"], 2020..4000, ServerAuth);
    let key = rustls::sign::CertifiedKey::from_der(chain.clone(), key, &tls::provider()).unwrap();
    let guard = server.challenges.show_certificate("Name.Example.", key);
    for version in VERSIONS {
        let offering = |protocols: &[&str]| trusting_client(&[version], protocols);
        let (certificate, protocol) = shown(&server, offering(&["acme-tls/1"]), "NAME.example").await.unwrap();
        assert_eq!((certificate.as_slice(), protocol.as_deref()), (chain[0].as_ref(), Some(&b"acme-tls/1"[..])));
        // A CA has no certificate for a client of ours, and is let no further than this.
        let mut closed =
            connect(server.addresses[1], &Arc::new(offering(&["acme-tls/1"])), "name.example").await.unwrap();
        assert_eq!(closed.get_ref().1.peer_certificates().unwrap()[0], chain[0]);
        let _ = closed.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = soon(closed.read_to_end(&mut answer)).await; // what was sent may have been answered with a reset
        assert!(answer.is_empty(), "{answer:?}");
        assert!(shown(&server, offering(&["acme-tls/1"]), "other.example").await.is_err(), "an unknown name");
        let mut nameless = offering(&["acme-tls/1"]);
        nameless.enable_sni = false;
        assert!(shown(&server, nameless, "name.example").await.is_err(), "no name");
        // Beside other protocols it is not what a CA offers: the ordinary certificate, and h2 if that is among them.
        let ordinary = CERTIFICATE.certificate.key.cert[0].to_vec();
        let (certificate, protocol) = shown(&server, offering(&["acme-tls/1", "h2"]), "name.example").await.unwrap();
        assert_eq!((certificate, protocol.as_deref()), (ordinary.clone(), Some(&b"h2"[..])));
        assert!(shown(&server, offering(&["acme-tls/1", "x"]), "name.example").await.is_err());
        assert_eq!(shown(&server, offering(&[]), "name.example").await.unwrap(), (ordinary, None));
    }
    drop(guard);
    assert!(shown(&server, trusting_client(&VERSIONS, &["acme-tls/1"]), "name.example").await.is_err());
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.connections.of(ConnectionEnd::Handshake).get(), 7);
}

// Clients' certificates.

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn asking(how: &str, ca_file: &Path, names: &str) -> Listen {
    listen(&format!("client_certificates = '{how}'\nclient_ca_file = '{}'\nclient_names = {names}", ca_file.display()))
}

/// Whether a client that shows this is served; over TLS 1.3 it learns at its first read that it is not.
async fn is_served(address: std::net::SocketAddr, version: usize, identity: Option<Identity>) -> bool {
    let config = Arc::new(client(&[VERSIONS[version]], &["http/1.1"], identity));
    match ask(address, &config).await {
        Ok((answer, _)) => answer.ends_with("hello\n"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn clients_are_let_in_by_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    write(&ca, &CLIENT_CA.pem);
    let names = "['a.example', '*.build.example']";
    let server = Server::listening(&[
        listen(""),
        asking("optional", &ca, "[]"),
        asking("required", &ca, "[]"),
        asking("optional", &ca, names),
        asking("required", &ca, names),
    ]);
    type Make = fn() -> Option<Identity>;
    // Served: off, optional, required; optional and required with names.
    let cases: [(&str, Make, [bool; 5]); 9] = [
        ("none", || None, [true, true, false, true, false]),
        ("an allowed name", || Some(CLIENT_CA.client("A.example")), [true; 5]),
        ("an allowed label", || Some(CLIENT_CA.client("x.build.example")), [true; 5]),
        ("two labels", || Some(CLIENT_CA.client("x.y.build.example")), [true, true, true, false, false]),
        ("another name", || Some(CLIENT_CA.client("b.example")), [true, true, true, false, false]),
        ("a wildcard", || Some(CLIENT_CA.client("*.build.example")), [true, true, true, false, false]),
        ("another CA", || Some(OTHER_CA.client("a.example")), [true, false, false, false, false]),
        (
            "expired",
            || Some(CLIENT_CA.sign(&["a.example"], 2000..2001, ClientAuth)),
            [true, false, false, false, false],
        ),
        (
            "a server's",
            || Some(CLIENT_CA.sign(&["a.example"], 2020..4000, ServerAuth)),
            [true, false, false, false, false],
        ),
    ];
    let mut refused = 0;
    for (what, identity, expected) in cases {
        for (n, address) in server.addresses.iter().enumerate() {
            for version in [0, 1] {
                let served = is_served(*address, version, identity()).await;
                assert_eq!(served, expected[n], "{what}, listener {n}, TLS version {version}");
                refused += u64::from(!served);
            }
        }
    }
    let metrics = server.metrics.clone();
    assert!(server.stop().await);
    assert_eq!(metrics.connections.of(ConnectionEnd::Handshake).get(), refused);
}

#[tokio::test]
async fn the_log_says_why_a_client_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    write(&ca, &CLIENT_CA.pem);
    let clients = asking("required", &ca, "['a.example']").clients();
    let acceptor = Acceptor::new(Arc::clone(&CERTIFICATE.resolver), tls::Challenges::default(), clients).unwrap();
    for (identity, why) in [
        (None, "showed no certificate"),
        (Some(CLIENT_CA.sign(&["a.example"], 2000..2001, ClientAuth)), "has expired"),
        (Some(CLIENT_CA.sign(&["a.example"], 3999..4000, ClientAuth)), "not valid yet"),
        (Some(OTHER_CA.client("a.example")), "no CA of client_ca_file"),
        (Some(CLIENT_CA.client("b.example")), "none of client_names"),
    ] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client(&VERSIONS, &[], identity)));
        let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), near);
        let permits = Semaphore::new(1);
        let (shaken, _) = soon(async { tokio::join!(shake(far, &acceptor, all(&permits)), connecting) }).await;
        let told = shaken.expect_err(why).0.to_string();
        assert!(told.starts_with("the client") && told.contains(why), "{told}");
    }
    // And the other way round.
    let everyone = super::super::testing::served::acceptor();
    for (client, why) in [
        (client_of(&CLIENT_CA.der, &VERSIONS, &[], None), "the client does not trust this server's certificate"),
        (trusting_client(&VERSIONS, &["acme-tls/1"]), "there is no certificate for what the client asked for"),
    ] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), near);
        let permits = Semaphore::new(1);
        let (shaken, _) = soon(async { tokio::join!(shake(far, &everyone, all(&permits)), connecting) }).await;
        let told = shaken.expect_err(why).0.to_string();
        assert!(told.starts_with(why), "{told}");
    }
}

/// Over TLS 1.3 it has asked already; its connection is closed in order, not reset, so that it can read the alert.
#[tokio::test]
async fn a_client_that_is_refused_can_read_why() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    write(&ca, &CLIENT_CA.pem);
    let server = Server::listening(&[asking("required", &ca, "[]")]);
    let config = Arc::new(client(&[VERSIONS[0]], &["http/1.1"], None));
    let mut stream = connect(server.tls, &config, "localhost").await.unwrap();
    stream.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let error = soon(stream.read(&mut [0])).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    assert!(stream.get_ref().0.peer_addr().is_ok(), "the system still knows the connection");
    drop(stream);
    assert!(server.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_and_stays_has_a_second() {
    let begun = Instant::now();
    let (mut client, server) = narrow_pair();
    client.write_all(&[7; 100]).await.unwrap();
    let parting = tokio::spawn(part(server));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it sees the end at once");
    assert_eq!(begun.elapsed().as_secs(), 0);
    parting.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 1);
    drop(client);

    let (client, server) = narrow_pair();
    drop(client);
    part(server).await;
    assert_eq!(begun.elapsed().as_secs(), 1, "nobody is waited for who is gone");
}

/// A link is swapped, as Kubernetes does with the files of a secret.
#[tokio::test]
async fn a_new_ca_file_is_for_the_next_handshake_and_a_broken_one_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let (link, new) = (dir.path().join("data"), dir.path().join("data.new"));
    let publish = |version: &str, text: &str| {
        let target = dir.path().join(version);
        std::fs::create_dir(&target).unwrap();
        write(&target.join("ca.pem"), text);
        std::os::unix::fs::symlink(&target, &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
    };
    let ca = Ca::new("clients");
    publish("1", &ca.pem);
    let server = Server::listening(&[asking("required", &link.join("ca.pem"), "['a.example']")]);
    let refresh = || server.acceptors.iter().find_map(|acceptor| acceptor.refresh());
    let served = async || {
        let old = is_served(server.tls, 0, Some(ca.client("a.example"))).await;
        (old, is_served(server.tls, 1, Some(OTHER_CA.client("a.example"))).await)
    };
    assert_eq!(served().await, (true, false));
    publish("2", "no PEM");
    assert_eq!((refresh(), refresh()), (Some(CertificateFailure::Malformed), None), "it is counted once");
    assert_eq!(served().await, (true, false), "the old one stays");
    std::fs::remove_file(&link).unwrap();
    assert_eq!((refresh(), refresh()), (Some(CertificateFailure::Unreadable), None));
    assert_eq!(served().await, (true, false), "even without a file");
    publish("3", &OTHER_CA.pem);
    assert_eq!(served().await, (true, false), "nobody looked yet");
    assert_eq!(refresh(), None);
    assert_eq!(served().await, (false, true));
    publish("4", &format!("{}{}", ca.pem, OTHER_CA.pem));
    assert_eq!(refresh(), None);
    assert_eq!(served().await, (true, true));
    assert!(server.stop().await);
}

// Tickets.

#[tokio::test]
async fn a_session_is_resumed_where_it_began_and_nowhere_else() {
    let server = Server::listening(&[listen(""), listen("")]);
    let [here, there] = server.addresses[..] else { panic!("two addresses") };
    for version in VERSIONS {
        let mut config = client(&[version], &[], None);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let kind = async |address| ask(address, &config).await.unwrap().1;
        assert_eq!(kind(here).await, Full);
        assert_eq!(kind(here).await, Resumed);
        assert_eq!(kind(there).await, Full, "it has no key for that ticket");
        assert_eq!(kind(there).await, Resumed);
    }
    assert!(server.stop().await);
}

#[tokio::test]
async fn no_session_is_resumed_where_clients_show_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    write(&ca, &CLIENT_CA.pem);
    let server = Server::listening(&[asking("required", &ca, "[]"), asking("optional", &ca, "[]")]);
    for address in &server.addresses {
        for version in VERSIONS {
            let mut config = client(&[version], &[], Some(CLIENT_CA.client("a.example")));
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            for _ in 0..2 {
                assert_eq!(ask(*address, &config).await.unwrap().1, Full);
            }
        }
    }
    assert!(server.stop().await);
}
