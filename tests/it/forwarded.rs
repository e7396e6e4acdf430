//! Who a client is behind a proxy: what is believed of whom, and what it decides. Each promise is tried over every way
//! (`PROXY`, `X-Forwarded-For`, `Forwarded`) and transport that has it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::cache::{Key, Object};
use crate::support::client::{Connection, Target, tls_over};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::within;

/// So many requests for each client, and another one each second.
const BUDGET: usize = 20;
const LIMIT: &str = "[limits.client]\nrequests = 1\nrequest_burst = 20\nexempt = []";

/// Spends the budget of whoever asks so; whether it was spent before. Who has a whole budget is never refused, and who has none
/// is, unless each request takes a second.
async fn was_spent(mut ask: impl AsyncFnMut() -> u16) -> bool {
    for _ in 0..BUDGET {
        match ask().await {
            503 => return true,
            status => assert_eq!(status, 404),
        }
    }
    false
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 10.0.0.4 4711 443\r\n").into_bytes()
}

fn v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let block = [&source[..], &[10, 0, 0, 4, 0x12, 0x67, 1, 0xbb], &[4, 0, 2, 0, 0]].concat();
    let length = u16::try_from(block.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, &block].concat()
}

fn request(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n").into_bytes()
}

/// The status of what comes back for these bytes; 0 for nothing at all.
async fn status(target: &Target, bytes: &[u8]) -> u16 {
    let mut connection = target.connect().await;
    connection.try_send(bytes).await;
    status_in(&connection.until_closed().await)
}

fn status_in(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

/// The same over TLS, with the header in front of it.
async fn status_over_tls(snowbank: &Snowbank, header: &[u8], bytes: &[u8]) -> u16 {
    let Target::Https(address, authorities) = snowbank.https() else { panic!("a TLS listener") };
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    stream.write_all(header).await.expect("it reads");
    let Ok(mut stream) = tls_over(stream, &authorities, &[b"http/1.1"]).await else { return 0 };
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    status_in(&answer)
}

/// In front of an origin that has nothing.
fn start(origin: &Origin, setup: impl FnOnce(Setup) -> Setup) -> Snowbank {
    origin.otherwise(|_, _| Reply::status(404));
    setup(Setup::in_front_of(origin, &Key::new("forwarded-1"))).start()
}

/// Some narinfo: something that counts as a request.
const MISSING: &str = "/00000000000000000000000000000000.narinfo";

/// The last line of the access log; there are as many as there were requests.
fn logged(snowbank: &Snowbank, nth: usize) -> String {
    snowbank.log_line(" access: ", nth)
}

#[tokio::test]
async fn a_header_of_who_is_not_believed_changes_nothing() {
    let origin = Origin::start();
    let believed = "forwarded_from = ['192.0.2.1']";
    let snowbank = start(&origin, |setup| setup.plain_listener(believed).also(LIMIT));
    for (n, fields) in
        ["X-Forwarded-For: 198.51.100.7\r\n", "Forwarded: for=198.51.100.8\r\n", "X-Real-IP: 198.51.100.9\r\n"]
            .into_iter()
            .enumerate()
    {
        let asks = async || status(&snowbank.http(), &request(MISSING, fields)).await;
        assert_eq!(was_spent(asks).await, n > 0, "{fields}");
    }
    let lines = snowbank.log();
    let mut accesses = lines.iter().filter(|line| line.contains(" access: "));
    assert!(accesses.all(|line| line.contains(" client=127.0.0.1:")), "{lines:?}");
    // Over a unix socket nobody is believed either, and all are one.
    for (source, spent) in [("198.51.100.7", false), ("198.51.100.8", true)] {
        let fields = format!("X-Forwarded-For: {source}\r\n");
        assert_eq!(was_spent(async || status(&snowbank.unix(), &request(MISSING, &fields)).await).await, spent);
    }
}

#[tokio::test]
async fn clients_behind_a_believed_proxy_have_budgets_of_their_own() {
    for (header, field) in [("x-forwarded-for", "X-Forwarded-For: "), ("forwarded", "Forwarded: for=")] {
        let origin = Origin::start();
        let believed = format!("forwarded_from = ['127.0.0.1', '10.0.0.0/24']\nforwarded_header = '{header}'");
        let snowbank = start(&origin, |setup| setup.plain_listener(&believed).also(LIMIT));
        let spent =
            async |fields: &str| was_spent(async || status(&snowbank.http(), &request(MISSING, fields)).await).await;
        let asks = async |value: &str| spent(&format!("{field}{value}\r\n")).await;
        assert_eq!([asks("198.51.100.7").await, asks("198.51.100.7").await], [false, true]);
        assert_eq!([asks("198.51.100.8").await, asks("198.51.100.8").await], [false, true]);
        let line = logged(&snowbank, 0);
        assert!(line.contains(" client=198.51.100.7 "), "{line}");
        // What a client puts in front is nobody's word, and a second proxy is no client.
        let item = |address: &str| if header == "forwarded" { format!("for={address}") } else { address.to_owned() };
        let spoofed = format!("203.0.113.1, {}, {}", item("198.51.100.7"), item("10.0.0.9"));
        assert!(asks(&spoofed).await);
        // The other header is not read: of the proxy itself nobody asked yet.
        let other =
            if header == "forwarded" { "X-Forwarded-For: 198.51.100.9\r\n" } else { "Forwarded: for=198.51.100.9\r\n" };
        assert_eq!([spent(other).await, spent(other).await], [false, true]);
        assert!(asks("not an address").await, "the proxy's own");
        assert!(!asks("198.51.100.9").await);
    }
}

#[tokio::test]
async fn what_a_proxy_says_goes_no_further() {
    let (origin, key, object) = (Origin::start(), Key::new("forwarded-2"), Object::new("private-address", 1_000));
    origin.publish(&object, &key);
    let snowbank = Setup::in_front_of(&origin, &key).plain_listener("forwarded_from = ['127.0.0.1']").start();
    let fields =
        [("X-Forwarded-For", "198.51.100.7"), ("Forwarded", "for=198.51.100.7"), ("X-Forwarded-Proto", "https")];
    for target in [object.narinfo_target(), object.served_target()] {
        snowbank.http().get_with(&target, &fields).await.expect(200);
    }
    assert!(origin.total() >= 2);
    for request in origin.requests() {
        let told = request
            .fields
            .iter()
            .any(|(name, value)| name.to_ascii_lowercase().contains("forwarded") || value.contains("198.51"));
        assert!(!told, "{request:?}");
    }
}

#[tokio::test]
async fn a_network_grants_by_the_address_that_is_believed() {
    let (origin, key, object) = (Origin::start(), Key::new("forwarded-3"), Object::new("granted", 1_000));
    origin.publish(&object, &key);
    let private = format!("name = 'work'\nprivate = true\npublic_keys = [{:?}]", key.public());
    let snowbank = Setup::new()
        .upstream_with(&origin.url(), &private)
        .plain_listener("forwarded_from = ['127.0.0.1']\nproxy_protocol_from = ['127.0.0.2']")
        .also("[[access]]\nupstreams = ['work']\nnetworks = ['198.51.100.0/24']")
        .start();
    let target = object.narinfo_target();
    for (fields, expected) in [
        ("X-Forwarded-For: 198.51.100.7\r\n", 200),
        ("X-Forwarded-For: 198.51.100.7, 192.0.2.1\r\n", 404),
        ("X-Forwarded-For: x\r\n", 404),
        ("", 404),
    ] {
        assert_eq!(status(&snowbank.http(), &request(&target, fields)).await, expected, "{fields}");
    }
}

#[tokio::test]
async fn a_reload_that_grants_by_addresses_which_are_not_believed_yet_is_refused() {
    let origin = Origin::start();
    let key = Key::new("forwarded-5");
    let private = format!("name = 'work'\nprivate = true\npublic_keys = [{:?}]", key.public());
    let access = |networks: &str| format!("[[access]]\nupstreams = ['work']\nnetworks = ['{networks}']");
    let setup = Setup::new().upstream_with(&origin.url(), &private);
    let snowbank = setup.clone().also(&access("192.0.2.0/24")).start();
    // The proxy is in the network, its clients are not; this server would take them all for the proxy.
    setup.clone().plain_listener("forwarded_from = ['127.0.0.1']").also(&access("127.0.0.0/8")).write();
    snowbank.hang_up();
    snowbank.log_line("reload refused, nothing changes: [[access]] asks for `networks`", 0);
    setup.also(&access("127.0.0.0/8")).write();
    snowbank.hang_up();
    snowbank.log_line("reloaded: the new configuration is in force", 0);
}

#[tokio::test]
async fn the_proxy_protocol_is_read_before_tls_and_before_http() {
    let origin = Origin::start();
    let believed = "proxy_protocol_from = ['127.0.0.0/8']";
    let snowbank = start(&origin, |setup| setup.plain_listener(believed).tls_listener(believed).also(LIMIT));
    let ask = request(MISSING, "");
    for (header, source, spent) in [
        (v1("198.51.100.7"), "198.51.100.7:4711", false),
        (v2(0x21, [198, 51, 100, 7]), "198.51.100.7:4711", true),
        (v2(0x21, [198, 51, 100, 8]), "198.51.100.8:4711", false),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:", false),
        (v2(0x20, [198, 51, 100, 9]), "127.0.0.1:", true),
    ] {
        let asks = async || status(&snowbank.http(), &[&header[..], &ask].concat()).await;
        assert_eq!(was_spent(asks).await, spent, "{header:?}");
        snowbank.log_line(&format!("client={source}"), 0);
        // And again, by who has asked already, over TLS.
        assert!(was_spent(async || status_over_tls(&snowbank, &header, &ask).await).await, "{header:?}");
    }
    // Who does not say it is not served, whatever he says instead.
    assert_eq!(status(&snowbank.http(), &ask).await, 0);
    assert_eq!(status_over_tls(&snowbank, b"", &ask).await, 0);
    assert_eq!(status(&snowbank.http(), &[b"PROXY NONSENSE 1 2 3\r\n", &ask[..]].concat()).await, 0);
    snowbank.log_line("proxy_protocol_from is not served", 0);
    let told = snowbank.log().iter().filter(|line| line.contains("proxy_protocol_from is not served")).count();
    assert_eq!(told, 1, "one line for all that come within ten seconds");
    assert!(snowbank.metrics().contains("snowbank_edge_connections_total{end=\"proxy-header\"} 3"));
}

#[tokio::test]
async fn the_proxy_protocol_of_who_is_not_believed_is_garbage() {
    let origin = Origin::start();
    let believed = "proxy_protocol_from = ['192.0.2.1']";
    let snowbank = start(&origin, |setup| setup.plain_listener(believed).tls_listener(believed));
    let ask = request("/nix-cache-info", "");
    for header in [v1("198.51.100.7"), v2(0x21, [198, 51, 100, 7])] {
        assert_eq!(status(&snowbank.http(), &[&header[..], &ask].concat()).await, 400);
        assert_eq!(status_over_tls(&snowbank, &header, &ask).await, 0);
    }
    assert_eq!(status(&snowbank.http(), &ask).await, 200);
    assert_eq!(status_over_tls(&snowbank, b"", &ask).await, 200);
}

#[tokio::test]
async fn proxies_on_a_unix_socket_are_believed_where_it_says_so() {
    let origin = Origin::start();
    let setup = |setup: Setup| {
        let path = setup.home().join("proxied.sock");
        let table = format!("[[listen]]\naddress = 'unix:{}'\ntls = false\nforwarded_from = ['unix']", path.display());
        let other =
            format!("[[listen]]\naddress = 'unix:{}2'\ntls = false\nproxy_protocol_from = ['unix']", path.display());
        setup.also(&table).also(&other).also(LIMIT)
    };
    origin.otherwise(|_, _| Reply::status(404));
    let setup = setup(Setup::in_front_of(&origin, &Key::new("forwarded-4")));
    let (forwarding, passing) = (setup.home().join("proxied.sock"), setup.home().join("proxied.sock2"));
    let snowbank = setup.start();
    snowbank.log_after("listening on unix:");
    let forwarding = Target::Unix(forwarding);
    for (source, spent) in [("198.51.100.7", false), ("198.51.100.7", true), ("198.51.100.8", false)] {
        let fields = format!("X-Forwarded-For: {source}\r\n");
        assert_eq!(was_spent(async || status(&forwarding, &request(MISSING, &fields)).await).await, spent);
    }
    let passing = Target::Unix(passing);
    let ask = request(MISSING, "");
    for (header, spent) in [(v1("198.51.100.8"), true), (v1("198.51.100.9"), false)] {
        let asks = async || status(&passing, &[&header[..], &ask].concat()).await;
        assert_eq!(was_spent(asks).await, spent);
    }
    assert_eq!(status(&passing, &ask).await, 0);
}

#[tokio::test]
async fn requests_on_one_connection_are_for_whom_each_says() {
    let origin = Origin::start();
    let snowbank = start(&origin, |setup| setup.plain_listener("forwarded_from = ['127.0.0.1']").also(LIMIT));
    let mut connection: Connection = snowbank.http().connect().await;
    let sources = ["198.51.100.7"; 4 * BUDGET].into_iter().chain(["198.51.100.8"]);
    let asks: Vec<u8> = sources
        .flat_map(|source| {
            format!("GET {MISSING} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {source}\r\n\r\n").into_bytes()
        })
        .collect();
    connection.send(&[&asks[..], &request("/nix-cache-info", "")].concat()).await;
    let answers = String::from_utf8_lossy(&connection.until_closed().await).into_owned();
    let found: Vec<&str> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    let (first, rest) = found.split_at(4 * BUDGET);
    assert!(first[..BUDGET].iter().all(|status| *status == "404") && first.contains(&"503"), "{found:?}");
    assert_eq!(rest, ["404", "200"]);
}
