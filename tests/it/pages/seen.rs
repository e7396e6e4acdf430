//! Both pages in the real Chromium: on a phone and on a desk, by day and by night, with and without JavaScript.
//!
//! The pictures that are made are for people; what can be told by a program is asserted.

use super::{Halfway, MB};
use crate::support::browser::{Browser, Look, NAME};
use crate::support::cache::{Key, Object};
use crate::support::pebble::free_port;
use crate::support::snowbank::{Setup, Snowbank};

const LOOKS: [Look; 4] = [
    Look { width: 360, dark: false, script: true },
    Look { width: 360, dark: true, script: true },
    Look { width: 1440, dark: false, script: true },
    Look { width: 1440, dark: true, script: true },
];

/// The key code of WebDriver for the tabulator.
const TAB: char = '\u{e004}';
/// For Enter.
const ENTER: char = '\u{e007}';

fn admin(snowbank: &Snowbank) -> String {
    snowbank.log_after("admin on ").trim_end_matches('/').to_owned()
}

/// With keys as long as they come, and one upstream whose paths are passed on.
fn public() -> Snowbank {
    Setup::new()
        .upstream("http://127.0.0.1:9", &Key::new("cache.nixos.org-1"))
        .upstream_with(
            "http://127.0.0.1:9/other",
            &format!(
                "name = \"other\"\ntrust = \"pass\"\npublic_keys = [{:?}]",
                Key::new("nix-community.cachix.example.org-1").public()
            ),
        )
        .start()
}

#[test]
fn the_page_is_readable_everywhere_and_for_everybody() {
    let snowbank = public();
    for look in &LOOKS {
        let Some(browser) = Browser::start(look) else { return };
        browser.open(&snowbank.http_url());
        browser.picture("public");
        browser.expect_no_overflow();
        browser.expect_quiet(&snowbank.http_url());
        browser.expect_accessible();
    }
}

#[test]
fn the_page_says_everything_without_javascript() {
    let snowbank = public();
    let Some(browser) = Browser::start(&Look { width: 360, script: false, ..Look::default() }) else { return };
    browser.open(&snowbank.http_url());
    browser.picture("public-without-javascript");
    let said = browser.said();
    let lines = format!("extra-substituters = {}", snowbank.http_url());
    for text in [lines.as_str(), "nix.settings = {", "If it does not work"] {
        assert!(said.iter().any(|said| said.contains(text)), "{text}: {said:?}");
    }
    assert!(!said.iter().any(|said| said.contains("Copy")), "a button that does nothing: {said:?}");

    browser.open(&admin(&snowbank));
    browser.picture("live-without-javascript");
    let said = browser.said();
    assert!(said.iter().any(|said| said.contains("/status")), "{said:?}");
    assert!(!said.iter().any(|said| said.contains("Upstreams")), "empty headings: {said:?}");
}

/// From now on notes what elements say, however shortly.
fn listen(browser: &Browser) {
    browser.run(
        "window.heard = []; new MutationObserver((changes) => { \
         for (const { target } of changes) heard.push(`${target.nodeName} ${target.textContent}`); \
         }).observe(document.body, { childList: true, subtree: true })",
    );
}

/// Whether an element of this name has said this since then.
fn heard(browser: &Browser, element: &str, text: &str) -> bool {
    browser.run(&format!("return heard.includes({:?})", format!("{element} {text}"))) == true
}

#[test]
fn each_button_copies_its_lines() {
    let snowbank = public();
    let Some(browser) = Browser::start(&Look::default()) else { return };
    let base = snowbank.http_url();
    let granted =
        serde_json::json!({ "origin": base, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.devtools("Browser.grantPermissions", &granted);
    let in_clipboard = || browser.run_until_done("navigator.clipboard.readText().then(done, (e) => done(`${e}`))");
    browser.open(&base);
    for lines in ["nix-conf-lines", "nixos-lines", "once-lines"] {
        let button = format!("button[data-copies={lines}]");
        listen(&browser);
        browser.click(&button);
        browser.eventually("it says so", || heard(&browser, "BUTTON", "Copied"));
        browser.eventually("it says so to who cannot see it", || heard(&browser, "P", "Copied"));
        let text = browser.run(&format!("return document.getElementById({lines:?}).textContent"));
        assert!(text.as_str().is_some_and(|text| text.contains(&base)), "{text}");
        assert_eq!(in_clipboard(), text);
        browser.eventually("it is a button again", || browser.text(&button) == "Copy");
    }
    // By the keyboard: the first thing that can be reached, and it is seen that it was.
    browser.open(&base);
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.dataset.copies"), "nix-conf-lines");
    assert_eq!(browser.run("return getComputedStyle(document.activeElement).outlineStyle"), "solid");
    browser.picture("public-focus");
    listen(&browser);
    browser.press(ENTER);
    browser.eventually("it says so", || heard(&browser, "P", "Copied"));
    browser.expect_quiet(&base);

    // Where a browser gives pages no clipboard: over plain HTTP, by a name.
    let named = base.replace("127.0.0.1", NAME);
    browser.open(&named);
    assert_eq!(browser.run("return isSecureContext"), false);
    listen(&browser);
    browser.click("button[data-copies=once-lines]");
    browser.eventually("it says so", || heard(&browser, "P", "Copied"));
    let text = browser.run("return document.getElementById('once-lines').textContent");
    assert!(text.as_str().is_some_and(|text| text.contains(&named)), "the address is the one that was opened: {text}");
    browser.expect_quiet(&named);
    browser.open(&base);
    assert_eq!(in_clipboard(), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_page_follows_a_fill() {
    let halfway = Halfway::new("a-package-with-quite-a-long-name-1.2.3");
    let down = "name = \"office.example.org\"\npublic_keys = [\"k-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"]";
    let snowbank = halfway.setup.clone().upstream_with("http://127.0.0.1:9", down).start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    // What nobody has is asked of the one that is down, until it is taken for that.
    for n in 0..8 {
        let missing = Object::new(&format!("missing-{n}"), 10);
        client.get(&missing.narinfo_target()).await;
    }
    let target = client.nar_target(&halfway.object).await;
    let mut exchange = client.start("GET", &target, &[]).await;
    halfway.gate.reached().await;
    exchange.exactly(MB).await;
    let admin = admin(&snowbank);
    for look in &LOOKS {
        let Some(browser) = Browser::start(look) else { return };
        browser.open(&admin);
        browser.eventually("the fill is there", || {
            browser.run("return document.querySelector('#fills progress')?.value") == 2 * MB
        });
        assert_eq!(browser.text("#fills .name"), "a-package-with-quite-a-long-name-1.2.3");
        assert!(browser.text("#fills .detail").contains("from one"), "{}", browser.text("#fills .detail"));
        let upstreams = browser.text("#upstreams");
        assert!(upstreams.contains("office.example.org") && upstreams.contains("down"), "{upstreams}");
        browser.eventually("there are rates", || browser.text("#requests").ends_with(" /s"));
        assert_eq!(browser.text("#link"), "live");
        browser.picture("live");
        browser.expect_no_overflow();
        browser.expect_quiet(&admin);
        browser.expect_accessible();
    }
    let Some(browser) = Browser::start(&Look::default()) else { return };
    browser.open(&admin);
    browser.eventually("it is half way", || browser.text("#fills").contains(" of 8.0 MB"));
    halfway.gate.open();
    exchange.finish().await;
    browser
        .eventually("it is done", || browser.text("#fills").is_empty() && browser.text("#fills-empty") == "Nothing.");
    browser.expect_quiet(&admin);
}

#[test]
fn the_live_page_says_when_nobody_answers_and_goes_on_when_somebody_does() {
    let setup = Setup::new().admin_port(free_port()).upstream("http://127.0.0.1:9", &Key::new("pages-6"));
    let snowbank = setup.start();
    let Some(browser) = Browser::start(&Look { width: 360, ..Look::default() }) else { return };
    browser.open(&admin(&snowbank));
    browser.eventually("it is live", || browser.text("#link") == "live");
    assert!(snowbank.stop().success());
    browser.eventually("it says so", || browser.text("#link").starts_with("The server is not heard"));
    assert_eq!(browser.run("return document.getElementById('link').getAttribute('role')"), "status");
    browser.picture("live-not-heard");
    browser.expect_no_overflow();
    browser.expect_accessible();
    let _snowbank = setup.start();
    browser.eventually("it is live again", || browser.text("#link") == "live");

    // Nobody looks: nobody is asked.
    browser.run("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); performance.clearResourceTimings()");
    browser.run_until_done("setTimeout(done, 5000)");
    assert_eq!(browser.run("return performance.getEntriesByType('resource').length"), 0);
    browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))");
    browser.eventually("it asks again", || browser.run("return performance.getEntriesByType('resource').length") != 0);
}
