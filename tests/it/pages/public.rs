//! `/` on the cache listener: what it says, to whom, and with which header fields.

use crate::support::cache::Key;
use crate::support::client::Response;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank, run};

fn start(tables: &str) -> (Key, Snowbank) {
    let key = Key::new("theirs-1");
    let setup = Setup::new().upstream("http://127.0.0.1:9", &key).also(tables);
    (key, setup.start())
}

/// Asks with this Host and no other.
async fn with_host(snowbank: &Snowbank, host: &str) -> Response {
    let mut connection = snowbank.http().connect().await;
    connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await;
    connection.answer("GET").await.finish().await
}

#[tokio::test]
async fn it_says_how_this_cache_is_used_and_lets_nothing_else_in() {
    let (key, snowbank) = start("");
    let page = snowbank.http().get("/").await.expect(200);
    for text in [
        "extra-substituters = http://cache.test\n".to_owned(),
        format!("extra-trusted-public-keys = {}<", key.public()),
        "substituters = [ &quot;http://cache.test&quot; ];".to_owned(),
        format!("&quot;{}&quot;", key.public()),
        "--option extra-substituters http://cache.test ".to_owned(),
        "/nix/store".to_owned(),
    ] {
        assert!(page.text().contains(&text), "{text}\n{}", page.text());
    }
    let field = |name: &str| page.field(name).unwrap_or_else(|| panic!("no {name}: {:?}", page.fields)).to_owned();
    assert_eq!(field("content-type"), "text/html; charset=utf-8");
    assert_eq!(field("cache-control"), "no-store");
    assert_eq!(field("x-content-type-options"), "nosniff");
    assert_eq!(field("referrer-policy"), "no-referrer");
    assert_eq!(field("cache-status"), "snowbank; detail=local");
    let policy = field("content-security-policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "'sha256-"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    // Nobody is told who stands behind, or what runs.
    let text = page.text();
    for secret in ["127.0.0.1:9", "cache.nixos.org", env!("CARGO_PKG_VERSION")] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(!text.contains("style=") && !text.contains(" onclick") && !text.contains("src="), "nothing inline");

    let head = snowbank.http().head("/").await.expect(200);
    assert_eq!((head.body.len(), head.field("content-length")), (0, Some(page.body.len().to_string().as_str())));
    assert_eq!(head.field("content-security-policy"), Some(policy.as_str()));
    let metrics = snowbank.metrics();
    assert!(metrics.contains("snowbank_edge_requests_total{outcome=\"local\",route=\"page\"} 2\n"), "{metrics}");
    snowbank.http().get("/index.html").await.expect(404);
    snowbank.http().request("POST", "/", &[]).await.expect(405);
}

#[tokio::test]
async fn the_address_is_the_client_s_own_and_never_more_than_a_host() {
    let (_, snowbank) = start("");
    for host in ["cache.example.org", "10.0.0.7:5080", "[2001:db8::1]:5080"] {
        let page = with_host(&snowbank, host).await.expect(200);
        assert!(page.text().contains(&format!("extra-substituters = http://{host}\n")), "{}", page.text());
    }
    // Well formed, and not only hosts: each means something to a shell, to Nix or to a browser.
    for hostile in ["a;reboot", "a$(reboot)", "a'b", "a&b", "a*", "(a)", "a!b", "a,b", "a=b", "-a", "a~b"] {
        let page = with_host(&snowbank, hostile).await.expect(200);
        let text = page.text();
        assert!(text.contains("extra-substituters = https://ADDRESS-OF-THIS-CACHE\n"), "{hostile}: {text}");
        assert!(!text.contains(&format!("http://{hostile}")), "{hostile}: {text}");
    }
    for refused in ["a b", "a<script>", "a\"b", "user@a", "a/b", "a\\b", "", "a:99999", "%61"] {
        let page = with_host(&snowbank, refused).await;
        assert!(page.status == 400 && !page.text().contains("<script>"), "{refused}: {}", page.status);
    }
    // Over TLS, and as a proxy says it that nobody believes.
    let page = snowbank.https().get_with("/", &[("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "evil")]).await;
    let page = page.expect(200);
    assert!(page.text().contains("extra-substituters = https://cache.test\n") && page.text().contains("ssl-cert-file"));
    assert!(!snowbank.http().get("/").await.expect(200).text().contains("ssl-cert-file"), "there is no certificate");
    let page = snowbank.https().h2().await.get("/").await.expect(200);
    assert!(page.text().contains("extra-substituters = https://localhost\n"), "{}", page.text());
}

#[tokio::test]
async fn behind_a_believed_proxy_the_scheme_is_what_that_says() {
    let key = Key::new("theirs-1");
    let setup = Setup::new().upstream("http://127.0.0.1:9", &key);
    let snowbank = setup.plain_listener("forwarded_from = [\"127.0.0.1\"]").start();
    let said = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https")];
    for (fields, scheme) in [(&said[..], "https"), (&said[..1], "http"), (&said[1..], "http")] {
        let page = snowbank.http().get_with("/", fields).await.expect(200);
        assert!(page.text().contains(&format!("extra-substituters = {scheme}://cache.test\n")), "{fields:?}");
    }
}

#[tokio::test]
async fn the_keys_are_those_that_clients_need() {
    let (theirs, passed, private) = (Key::new("theirs-1"), Key::new("passed-1"), Key::new("hidden-1"));
    let (own, origin) = (Key::new("own-1"), Origin::start());
    let setup = |sign: &str| {
        let keys = |key: &Key| format!("public_keys = [{:?}]", key.public());
        Setup::new()
            .upstream_with(&origin.url(), &format!("name = \"public\"\n{}", keys(&theirs)))
            .upstream_with(
                "http://127.0.0.1:9/pass",
                &format!("name = \"passing\"\ntrust = \"pass\"\n{}", keys(&passed)),
            )
            .upstream_with("http://127.0.0.1:9", &format!("name = \"secretive\"\nprivate = true\n{}", keys(&private)))
            .also(&format!("[[access]]\nupstreams = [\"secretive\"]\nnetworks = [\"192.0.2.0/24\"]\n{sign}"))
    };
    let listed = |page: &Response| {
        let list =
            page.text().split_once("<ul class=\"keys\">").expect("a list").1.split_once("</ul>").expect("an end").0;
        list.replace("<li><code>", "").replace("</code></li>", "\n").lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // What is passed on as it came is signed by its makers only.
    let snowbank = setup("").start();
    let page = snowbank.http().get("/").await.expect(200);
    assert_eq!(listed(&page), [theirs.public(), passed.public()]);
    assert!(page.text().contains("passed on as it came"));
    for hidden in ["secretive", "hidden-1"] {
        assert!(!page.text().contains(hidden), "{}", page.text());
    }
    // Ours stands for everything else, as soon as there is one: a reload is enough.
    let setup = setup("[sign]\nkey_files = [\"KEY\"]");
    let file = setup.home().join("own.key");
    let made = run(&["keygen", "own-1", "--output", file.to_str().expect("a path of text")]);
    assert!(made.status.success(), "{made:?}");
    let public = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    assert_ne!(public, own.public());
    let config = setup.config().replace("KEY", file.to_str().expect("a path of text"));
    let path = setup.home().join("signing.toml");
    std::fs::write(&path, config).expect("a configuration");
    let snowbank = Snowbank::spawn(&[], &["serve", "--config", path.to_str().expect("text")], &[], setup.home());
    let page = snowbank.http().get("/").await.expect(200);
    assert_eq!(listed(&page), [public, passed.public()]);
    assert!(!page.text().contains("hidden-1") && !page.text().contains("theirs-1"), "{}", page.text());
}

#[tokio::test]
async fn without_a_key_it_says_so() {
    let snowbank = Setup::new().upstream_with("http://127.0.0.1:9", "trust = \"pass\"").start();
    let page = snowbank.http().get("/").await.expect(200);
    assert!(page.text().contains("passed on as it came") && !page.text().contains("trusted-public-keys"));
}

#[tokio::test]
async fn it_can_be_switched_off_and_is_not_for_whom_nothing_is() {
    let (key, listener) = (Key::new("theirs-1"), "serves = \"granted\"");
    let setup = Setup::new().upstream("http://127.0.0.1:9", &key);
    let snowbank = setup.clone().also("[cache]\npage = false").start();
    let page = snowbank.http().get("/").await.expect(404);
    assert_eq!(page.text(), "not a path of a binary cache\n");
    // A reload is enough.
    std::fs::write(setup.home().join("snowbank.toml"), setup.config()).expect("a configuration");
    let (status, told) = snowbank.operator("POST", "/reload", "");
    assert_eq!(status, 200, "{told}");
    snowbank.http().get("/").await.expect(200);
    drop(snowbank);

    let tokens = setup.home().join("tokens");
    std::fs::write(
        &tokens,
        String::from_utf8(run(&["token", "ci"]).stdout).expect("text").lines().next().expect("a line"),
    )
    .expect("tokens");
    let access = format!("[[access]]\nupstreams = [\"work\"]\ntoken_files = [{tokens:?}]");
    let work = "name = \"work\"\nprivate = true\ntrust = \"pass\"";
    let snowbank = setup.upstream_with("http://127.0.0.1:9/w", work).plain_listener(listener).also(&access).start();
    let page = snowbank.http().get("/").await.expect(401);
    assert!(!page.text().contains("theirs-1"), "{}", page.text());
    snowbank.https().get("/").await.expect(200);
}

#[tokio::test]
async fn a_listener_that_redirects_redirects_this_too() {
    let setup = Setup::new().upstream("http://127.0.0.1:9", &Key::new("theirs-1"));
    let snowbank = setup.plain_listener("redirect = \"https://cache.example.org\"").start();
    let answer = snowbank.http().get("/").await.expect(308);
    assert_eq!(answer.field("location"), Some("https://cache.example.org/"));
}
