//! What one client may take: at the defaults more than it needs, beyond that a refusal that says when to come again, or a slower
//! response, never a cut one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::cache::{Key, Object};
use crate::support::client::{Response, Target, tls_over};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::within;

/// Some narinfo that nobody has: something that counts as a request.
const MISSING: &str = "/00000000000000000000000000000000.narinfo";

/// In front of an origin that has nothing but this.
fn start(objects: &[Object], tables: &str) -> (Origin, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("limits-1"));
    origin.otherwise(|_, _| Reply::status(404));
    objects.iter().for_each(|object| origin.publish(object, &key));
    let snowbank = Setup::in_front_of(&origin, &key).also(tables).start();
    (origin, snowbank)
}

/// The sample of a metric.
fn sample(snowbank: &Snowbank, name: &str) -> u64 {
    let page = snowbank.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.trim().parse().expect("a count")
}

/// Asks until it is refused.
async fn refused(client: &Target, target: &str, fields: &[(&str, &str)]) -> Response {
    for _ in 0..1000 {
        let response = client.get_with(target, fields).await;
        if response.status != 404 {
            return response;
        }
    }
    panic!("never refused");
}

#[tokio::test]
async fn a_fresh_machine_is_never_limited_at_the_defaults() {
    let objects: Vec<Object> = (0..50).map(|n| Object::new(&format!("fresh-{n}"), 100 + n)).collect();
    let (_origin, snowbank) = start(&objects, "[limits.client]\nexempt = []");
    let h2 = Arc::new(snowbank.https().h2().await);
    // What is asked for often comes from the cache, so faster than anything that has to be fetched. As many side by side as
    // Nix has.
    let targets: Vec<String> =
        objects.iter().flat_map(|object| [object.narinfo_target(), object.served_target()]).collect();
    let targets: Arc<Vec<String>> = Arc::new((0..100).flat_map(|_| targets.clone()).collect());
    assert_eq!(targets.len(), 2 * 5_000);
    let asking: Vec<_> = (0..100)
        .map(|first| {
            let (h2, targets) = (Arc::clone(&h2), Arc::clone(&targets));
            tokio::spawn(async move {
                for target in targets.iter().skip(first).step_by(100) {
                    h2.get(target).await.expect(200);
                }
            })
        })
        .collect();
    for asked in asking {
        asked.await.expect("all of it");
    }
    // And again as a client of HTTP/1.1 without a kept connection would.
    for target in targets.iter().take(300) {
        snowbank.http().get(target).await.expect(200);
    }
    for limit in ["requests", "connections", "new-connections"] {
        assert_eq!(sample(&snowbank, &format!("snowbank_edge_limited_total{{limit=\"{limit}\"}}")), 0);
    }
    assert_eq!(sample(&snowbank, "snowbank_edge_paced_bytes_total"), 0);
}

#[tokio::test]
async fn this_machine_has_no_limits_of_its_own_unless_it_is_said() {
    let narrow =
        "[limits.client]\nrequests = 1\nrequest_burst = 1\nconnections = 1\nnew_connections = 1\nbytes = '64 kB'";
    let object = Object::new("local", 1_000_000);
    let (_origin, snowbank) = start(std::slice::from_ref(&object), narrow);
    let begun = Instant::now();
    for client in [snowbank.http(), snowbank.unix(), snowbank.https()] {
        let _held = client.connect().await;
        for _ in 0..20 {
            client.get(MISSING).await.expect(404);
        }
        client.nar_target(&object).await;
        client.get(&object.served_target()).await.expect_bytes(&object.file);
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}: paced to 45 seconds", begun.elapsed());
}

#[tokio::test]
async fn who_asks_too_much_is_told_when_to_come_again() {
    for (option, status) in [("", 503), ("refuse_with = '503'", 503), ("refuse_with = '429'", 429)] {
        let (origin, snowbank) =
            start(&[], &format!("[limits.client]\nexempt = []\nrequests = 1\nrequest_burst = 3\n{option}"));
        let refused = refused(&snowbank.http(), MISSING, &[]).await;
        assert_eq!(refused.status, status);
        let after: u64 = refused.field("retry-after").and_then(|value| value.parse().ok()).expect("a Retry-After");
        assert!((1..=5).contains(&after), "{after}");
        assert_eq!(refused.text().lines().count(), 1);
        assert!(refused.text().contains("limits.client.requests"), "{}", refused.text());
        assert_eq!(refused.field("cache-status"), Some("snowbank; detail=limited"));
        assert_eq!(refused.field("cache-control"), Some("no-store"));
        let before = origin.total();
        // What costs nothing is not counted, what is malformed is told so, and a CA is never kept out.
        for _ in 0..20 {
            snowbank.http().get("/nix-cache-info").await.expect(200);
            snowbank.http().get("/.well-known/acme-challenge/none").await.expect(404);
            snowbank.http().request("POST", MISSING, &[]).await.expect(405);
        }
        assert_eq!(origin.total(), before);
        let counted = sample(&snowbank, "snowbank_edge_limited_total{limit=\"requests\"}");
        assert_eq!(counted, 1);
        let told = snowbank.log_line("a client is over its limit", 0);
        assert!(told.contains("client=127.0.0.1") && told.contains("limit=requests"), "{told}");
        assert_eq!(sample(&snowbank, "snowbank_edge_requests_total{outcome=\"limited\",route=\"narinfo\"}"), 1);
    }
}

#[tokio::test]
async fn a_token_is_a_client_wherever_it_is_shown() {
    let made = run(&["token", "ci"]);
    let text = String::from_utf8(made.stdout).expect("text");
    let [line, netrc] = text.lines().collect::<Vec<_>>()[..] else { panic!("two lines: {text}") };
    let bearer = format!("Bearer {}", netrc.rsplit(' ').next().expect("a password"));
    let (origin, key) = (Origin::start(), Key::new("limits-2"));
    origin.otherwise(|_, _| Reply::status(404));
    let keys = format!("public_keys = [{:?}]", key.public());
    let setup = Setup::new().upstream_with(&origin.url(), &format!("name = 'work'\nprivate = true\n{keys}"));
    let file = setup.home().join("tokens");
    std::fs::write(&file, line).expect("a file of tokens");
    let access = format!("[[access]]\nupstreams = ['work']\ntoken_files = [{file:?}]");
    let limit = "[limits.client]\nexempt = []\nrequests = 1\nrequest_burst = 20";
    let snowbank = setup.also(&access).also(limit).start();
    let shown = [("Authorization", bearer.as_str())];
    // A whole budget is never refused, whoever spent another.
    let whole = async |client: Target, fields: &[(&str, &str)]| {
        for _ in 0..20 {
            client.get_with(MISSING, fields).await.expect(404);
        }
    };
    whole(snowbank.http(), &[]).await;
    whole(snowbank.http(), &shown).await;
    assert_eq!(refused(&snowbank.unix(), MISSING, &shown).await.status, 503);
    whole(snowbank.unix(), &[]).await;
    // One that nobody gave out is none.
    let made_up = [("Authorization", "Bearer snowbank-made-up")];
    assert_eq!(refused(&snowbank.http(), MISSING, &made_up).await.status, 503);
}

#[tokio::test]
async fn a_client_with_all_its_connections_is_closed_and_the_others_are_served() {
    let (_origin, snowbank) = start(&[], "[limits.client]\nexempt = []\nconnections = 2");
    let hold = async || snowbank.http().connect().await.get("/nix-cache-info").await;
    let held = [hold().await, hold().await];
    // Before TLS: nothing is said on either.
    let Target::Https(secure, _) = snowbank.https() else { panic!("a TLS listener") };
    for target in [snowbank.http(), Target::Http(secure)] {
        assert_eq!(target.connect().await.until_closed().await, b"");
    }
    // Over a unix socket come others.
    snowbank.unix().get("/nix-cache-info").await.expect(200);
    assert!(sample(&snowbank, "snowbank_edge_limited_total{limit=\"connections\"}") >= 2);
    assert!(sample(&snowbank, "snowbank_edge_connections_total{end=\"limited\"}") >= 2);
    drop(held);
    // The server learns of it a moment later.
    while snowbank.http().request("GET", "/nix-cache-info", &[]).await.status != 200 {}
}

#[tokio::test]
async fn connections_that_come_too_fast_are_closed() {
    let (_origin, snowbank) = start(&[], "[limits.client]\nexempt = []\nnew_connections = 1");
    let mut served = 0;
    while snowbank.http().request("GET", "/nix-cache-info", &[]).await.status == 200 {
        served += 1;
    }
    assert!(served >= 10, "{served}: ten seconds' worth may come at once");
    assert!(sample(&snowbank, "snowbank_edge_limited_total{limit=\"new-connections\"}") >= 1);
    snowbank.unix().get("/nix-cache-info").await.expect(200);
}

/// A client that says its first message and no more, over TLS from this address.
async fn stuck(from: [u8; 4], to: SocketAddr, wait_for_an_answer: bool) -> tokio::net::TcpStream {
    let mut stream = connect_from(from, to).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default protocol versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("memory");
    stream.write_all(&hello).await.expect("it reads");
    if wait_for_an_answer {
        within("an answer", stream.read_u8()).await.expect("an answer");
    }
    stream
}

async fn connect_from(from: [u8; 4], to: SocketAddr) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of loopback");
    socket.connect(to).await.expect("it listens")
}

#[tokio::test]
async fn one_address_does_not_hold_all_handshakes() {
    let (_origin, snowbank) = start(&[], "[limits]\nhandshakes = 32\n[limits.client]\nexempt = []");
    let Target::Https(address, authorities) = snowbank.https() else { panic!("a TLS listener") };
    let mut held = Vec::new();
    for n in 0..64 {
        // The first sixteen are in the middle of their handshakes then.
        held.push(stuck([127, 0, 0, 2], address, n < 16).await);
    }
    let begun = Instant::now();
    let other = connect_from([127, 0, 0, 3], address).await;
    tls_over(other, &authorities, &[b"h2"]).await.expect("there is room for others");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: not before theirs were over", begun.elapsed());
}

/// How long these take side by side, all from the cache.
async fn together(client: Target, objects: &[Object]) -> Duration {
    for object in objects {
        client.nar_target(object).await;
    }
    let begun = Instant::now();
    let asking: Vec<_> = objects
        .iter()
        .map(|object| {
            let (client, object) = (client.clone(), object.clone());
            tokio::spawn(async move { client.get(&object.served_target()).await.expect_bytes(&object.file).clone() })
        })
        .collect();
    for asked in asking {
        asked.await.expect("all of it");
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_client_gets_its_bytes_in_their_time_and_all_of_them() {
    let objects = ["one", "two"].map(|name| Object::new(name, 500_000));
    for tables in ["[limits.client]\nexempt = []\nbytes = '500 kB'", "[limits]\nbytes = '500 kB'"] {
        let (_origin, snowbank) = start(&objects, tables);
        // 1 MB at 500 kB each second; half a second less for what may be sent at once, and for the last pieces.
        let took = together(snowbank.http(), &objects).await;
        assert!(took >= Duration::from_millis(1_500), "{tables}: {took:?}");
        let paced = sample(&snowbank, "snowbank_edge_paced_bytes_total");
        assert!((500_000..=1_000_000).contains(&paced), "{paced}");
    }
}

#[tokio::test]
async fn streams_of_one_client_go_side_by_side() {
    let (small, large) = (Object::new("small", 100_000), Object::new("large", 4_000_000));
    let (_origin, snowbank) = start(&[small.clone(), large.clone()], "[limits.client]\nexempt = []\nbytes = '1 MB'");
    let h2 = snowbank.https().h2().await;
    for object in [&small, &large] {
        h2.get(&object.narinfo_target()).await.expect(200);
    }
    let large_begun = h2.start(&large.served_target(), &[]).await;
    assert_eq!(large_begun.status(), 200);
    // The large one is in the row first, and takes four seconds; who had to wait for it would take as long.
    let begun = Instant::now();
    h2.get(&small.served_target()).await.expect_bytes(&small.file);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(large_begun);
}

#[tokio::test]
async fn limits_change_with_a_reload() {
    let (origin, key) = (Origin::start(), Key::new("limits-3"));
    origin.otherwise(|_, _| Reply::status(404));
    let setup = Setup::in_front_of(&origin, &key);
    let snowbank = setup.clone().also("[limits.client]\nexempt = []\nrequests = 1\nrequest_burst = 3").start();
    assert_eq!(refused(&snowbank.http(), MISSING, &[]).await.status, 503);
    setup.clone().also("[limits]\nhandshakes = 7\n[limits.client]\nexempt = []\nrequests = 0").write();
    snowbank.hang_up();
    snowbank.log_line("reloaded: the new configuration is in force", 0);
    for _ in 0..50 {
        snowbank.http().get(MISSING).await.expect(404);
    }
    // What does not change is told, and nothing else.
    let told = snowbank.log_line("takes effect with the next start only", 0);
    assert!(told.contains("what changed in limits.handshakes takes"), "{told}");
    setup.also("[limits.client]\nexempt = []\nrequests = 1\nrequest_burst = 3\nrefuse_with = '429'").write();
    snowbank.hang_up();
    snowbank.log_line("reloaded: the new configuration is in force", 1);
    assert_eq!(refused(&snowbank.http(), MISSING, &[]).await.status, 429);
    assert!(snowbank.stop().success());
}
