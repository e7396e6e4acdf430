//! Upstreams behind proxies: real ones and scripted ones. What a proxy does wrong is told with its name and without its
//! password, which nobody else is shown.

use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::support::cache::{Key, Object};
use crate::support::door::{Act, Door, Fault, Where};
use crate::support::origin::{Origin, Reply};
use crate::support::proxies::{NAME, Passage, microsocks, tinyproxy};
use crate::support::snowbank::{Setup, Snowbank, run};

const USER: &str = "builder";
const PASSWORD: &str = "pass-w0rd";
const TOKEN: &str = "upstreams-t0ken";

/// Upstreams over http and https, with the name that only proxies know.
fn origins() -> [(Origin, String); 2] {
    [(Origin::start(), "http"), (Origin::start_tls(), "https")].map(|(origin, scheme)| {
        let url = format!("{scheme}://{NAME}:{}", origin.address().port());
        (origin, url)
    })
}

/// A program with one upstream behind a proxy: it shows this password to the proxy, and a token to the upstream.
fn behind(proxy: &str, url: &str, key: &Key, password: &str) -> Setup {
    let setup = Setup::new();
    let (authority, file) = (setup.authority_file(), setup.home().join("proxy-password"));
    std::fs::write(&file, format!("{password}\n")).expect("a password file");
    let token = setup.home().join("token");
    std::fs::write(&token, TOKEN).expect("a token file");
    let lines = format!(
        "public_keys = [{:?}]\nca_file = {authority:?}\ntoken_file = {token:?}\n\
         proxy = {proxy:?}\nproxy_user = {USER:?}\nproxy_password_file = {file:?}",
        key.public()
    );
    setup.upstream_with(url, &lines)
}

/// Nothing that the program says of itself has the password in it, as it is or encoded.
async fn says_no_password(snowbank: &Snowbank) {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let said = [snowbank.log().join("\n"), snowbank.metrics()];
    for text in said {
        assert!([PASSWORD, &encoded, TOKEN].iter().all(|secret| !text.contains(secret)), "{text}");
    }
}

async fn serves(snowbank: &Snowbank, object: &Object) {
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
}

/// What is told about a path that nobody could be asked for.
async fn refusal(snowbank: &Snowbank, name: &str) -> String {
    let answer = snowbank.http().get(&Object::new(name, 100).narinfo_target()).await;
    assert!([502, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
    assert_eq!(answer.text().lines().count(), 1, "{}", answer.text());
    answer.text().to_owned()
}

#[tokio::test]
async fn a_cache_is_mirrored_through_real_proxies_that_want_a_password() {
    let key = Key::new("proxies-1");
    let (http, socks) = (tinyproxy(USER, PASSWORD), microsocks(USER, PASSWORD));
    let entrance = Passage::to(http.address, true);
    let proxies = [
        format!("http://{}", http.address),
        format!("https://{}", entrance.address),
        format!("socks5://{}", socks.address),
        format!("socks5h://{}", socks.address),
    ];
    for proxy in &proxies {
        for (origin, url) in origins() {
            let object = Object::new("through-a-proxy", 300_000);
            origin.publish(&object, &key);
            let snowbank = behind(proxy, &url, &key, PASSWORD).start();
            serves(&snowbank, &object).await;
            let requests = origin.requests();
            assert!(requests.iter().all(|request| request.field("proxy-authorization").is_none()), "{proxy} {url}");
            assert!(requests.iter().all(|request| request.target.starts_with('/')), "{proxy} {url}");
            let token = format!("Bearer {TOKEN}");
            assert!(requests.iter().all(|request| request.field("authorization") == Some(&token)), "{proxy} {url}");
            says_no_password(&snowbank).await;
            drop(snowbank);

            let snowbank = behind(proxy, &url, &key, "another").start();
            let told = refusal(&snowbank, "with-a-wrong-password").await;
            let shown = proxy.replace("socks5h", "socks5");
            assert!(told.contains("could not be asked") && told.contains(&format!(" its proxy {shown} ")), "{told}");
            // tinyproxy says 401 where others say 407.
            assert!(
                told.contains(if shown.starts_with("socks") { "credentials not accepted" } else { "401" }),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn the_environment_names_a_proxy_for_all_but_this_machine_and_its_exceptions() {
    let (key, object) = (Key::new("proxies-2"), Object::new("environment", 5_000));
    let proxy = tinyproxy(USER, PASSWORD);
    for (origin, url) in origins() {
        origin.publish(&object, &key);
        let setup = Setup::new();
        let lines = format!("public_keys = [{:?}]\nca_file = {:?}", key.public(), setup.authority_file());
        let setup = setup.upstream_with(&url, &lines);
        let variable = format!("all_proxy=http://{USER}:{PASSWORD}@{}", proxy.address);
        let snowbank = setup.clone().through(&["env", &variable]).start();
        serves(&snowbank, &object).await;
        says_no_password(&snowbank).await;
        drop(snowbank);
        // What is excepted is asked directly, and nobody here knows this name.
        let snowbank = setup.through(&["env", &variable, "no_proxy=example.test"]).start();
        assert!(refusal(&snowbank, "excepted").await.contains("has no address"));
    }
    // A proxy that is not there: it is not even tried for this machine.
    let origin = Origin::start();
    origin.publish(&object, &key);
    let dead = ["env", "all_proxy=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1"];
    serves(&Setup::in_front_of(&origin, &key).through(&dead).start(), &object).await;
}

#[tokio::test]
async fn what_a_proxy_does_wrong_is_told_with_its_name() {
    let key = Key::new("proxies-3");
    let wanting = Origin::start();
    wanting.otherwise(|_, _| Reply::status(407).field("Proxy-Authenticate", "Basic realm=\"x\""));
    let unable = Origin::start();
    unable.otherwise(|_, _| Reply::status(503).field("X-Squid-Error", "ERR_CONNECT_FAIL 111"));
    let closing = Door::start(false);
    closing.misbehave(&Fault { name: "closing", place: Where::Accepting, acts: Vec::new() });
    let babbling = Door::start(false);
    babbling.misbehave(&Fault { name: "babble", place: Where::Accepting, acts: vec![Act::Send(vec![b'?'; 100_000])] });
    let silent = Door::start(false);
    silent.misbehave(&Fault { name: "silent", place: Where::Accepting, acts: vec![Act::Hold] });
    for (proxy, https, http) in [
        (
            "http://127.0.0.1:1".to_owned(),
            "cannot be reached: 127.0.0.1:1: Connection refused",
            "cannot be reached: 127.0.0.1:1",
        ),
        ("socks5://127.0.0.1:1".to_owned(), "cannot be reached: 127.0.0.1:1", "cannot be reached: 127.0.0.1:1"),
        (wanting.url(), "that it was shown: 407", "that it was shown: 407"),
        (unable.url(), "answered CONNECT with 503", "answered 503 Service Unavailable itself"),
        (closing.url(), "gave no answer to CONNECT", ""),
        (closing.url().replace("http", "socks5"), "made no connection", "made no connection"),
        (babbling.url(), "gave no answer to CONNECT", ""),
        (babbling.url().replace("http", "socks5"), "made no connection", "made no connection"),
        (silent.url(), "or who is behind it did not answer within 2s", "or who is behind it did not answer within 2s"),
        (silent.url().replace("http", "socks5"), "did not answer within 2s", "did not answer within 2s"),
    ] {
        for ((_, url), expected) in origins().into_iter().zip([http, https]) {
            let snowbank = behind(&proxy, &url, &key, PASSWORD).start();
            let begun = Instant::now();
            let told = refusal(&snowbank, "fault").await;
            assert!(begun.elapsed() < Duration::from_secs(8), "{proxy} {url}: {:?}", begun.elapsed());
            assert!(told.contains(expected), "{proxy} {url}: {told}");
            assert!(expected.is_empty() || told.contains(&format!("its proxy {proxy} ")), "{proxy} {url}: {told}");
            says_no_password(&snowbank).await;
        }
    }
}

#[tokio::test]
async fn what_is_missing_behind_a_proxy_without_via_takes_nothing_down() {
    let (key, proxy, object) = (Key::new("proxies-6"), Origin::start(), Object::new("there-all-the-same", 5_000));
    for (at, body) in
        [(object.narinfo_target(), object.narinfo(&[&key]).into()), (object.file_target(), object.file.clone())]
    {
        proxy.serve(&format!("http://{NAME}{at}"), Reply::bytes(body));
    }
    proxy.otherwise(|_, _| Reply::status(404));
    let snowbank = behind(&proxy.url(), &format!("http://{NAME}"), &key, PASSWORD).start();
    for n in 0..10 {
        assert!(refusal(&snowbank, &format!("missing-{n}")).await.contains("without the Via"));
    }
    serves(&snowbank, &object).await;
}

#[tokio::test]
async fn each_is_shown_its_own_credentials() {
    let (key, proxy) = (Key::new("proxies-4"), Origin::start());
    proxy.otherwise(|_, _| Reply::status(502));
    for scheme in ["http", "https"] {
        proxy.forget();
        let url = format!("{scheme}://{NAME}");
        let snowbank = behind(&proxy.url(), &url, &key, PASSWORD).start();
        refusal(&snowbank, "whose").await;
        let requests = proxy.requests();
        assert!(!requests.is_empty());
        for request in requests {
            let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
            assert_eq!(request.field("proxy-authorization"), Some(&*format!("Basic {expected}")), "{request:?}");
            let (method, target, token) = match scheme {
                "https" => ("CONNECT", format!("{NAME}:443"), None),
                _ => ("GET", format!("http://{NAME}/"), Some(format!("Bearer {TOKEN}"))),
            };
            assert_eq!(request.method, method);
            assert!(request.target.starts_with(&target), "{request:?}");
            assert_eq!(request.field("authorization"), token.as_deref());
        }
    }
}

#[tokio::test]
async fn r14_a_redirect_behind_a_proxy_leads_to_no_name_of_an_internal_network() {
    let (key, proxy) = (Key::new("proxies-5"), Origin::start());
    let object = Object::new("redirected", 3_000);
    let narinfo = object.narinfo(&[&key]);
    let there = "http://bucket.example.test/there";
    proxy.serve(there, Reply::bytes(narinfo));
    let target = |at: &str| format!("http://{NAME}{at}");
    proxy.serve(&target(&object.narinfo_target()), Reply::status(302).field("Location", there));
    for (n, inside) in ["localhost:9", "169.254.169.254", "metadata.internal", "minio", "10.0.0.1"].iter().enumerate() {
        let path = Object::new(&format!("inside-{n}"), 100).narinfo_target();
        proxy.serve(&target(&path), Reply::status(302).field("Location", &format!("http://{inside}/x")));
    }
    let snowbank = behind(&proxy.url(), &format!("http://{NAME}"), &key, PASSWORD).start();
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    for n in 0..5 {
        let told = refusal(&snowbank, &format!("inside-{n}")).await;
        assert!(told.contains("of this machine or of an internal network"), "{n}: {told}");
    }
    let requests = proxy.requests();
    assert!(requests.iter().all(|request| request.target.contains(".example.test/")), "{requests:?}");
    let elsewhere: Vec<_> = requests.iter().filter(|request| request.target == there).collect();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].field("authorization"), None);
    assert!(elsewhere[0].field("proxy-authorization").is_some());
}

#[test]
fn what_is_printed_and_refused_shows_no_password() {
    let setup = behind("http://127.0.0.1:3128", "https://a.example", &Key::new("proxies-6"), PASSWORD);
    let path = setup.write();
    let said = |command: &str| {
        let output = run(&[command, "--config", path.to_str().expect("a path of text")]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("text"))
    };
    let (success, text) = said("print-config");
    assert!(success && text.contains("proxy = \"http://127.0.0.1:3128\"") && !text.contains(PASSWORD), "{text}");
    let with_password = format!("http://{USER}:{PASSWORD}@127.0.0.1:3128");
    std::fs::write(&path, setup.config().replace("http://127.0.0.1:3128", &with_password))
        .expect("a configuration file");
    let (success, text) = said("check-config");
    assert!(!success && text.contains("proxy_password_file") && !text.contains(PASSWORD), "{text}");
}
