//! What the page says is enough: real Nix, told nothing else, takes everything from the cache.

use crate::support::cache::Key;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::static_cache;
use serde_json::{Value, json};
use std::io::Write as _;

/// A key's name that means something to shells, to Nix and to browsers.
const ODD: &str = "it's\"$(touch${HOME}/odd)<b>&`id`-1";

/// A page as it comes over the real address.
struct Page(String);

impl Page {
    async fn of(snowbank: &Snowbank) -> Self {
        let mut connection = snowbank.http().connect().await;
        let host = snowbank.http_address();
        connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        Self(connection.answer("GET").await.finish().await.expect(200).text().to_owned())
    }

    /// The text of the element with this id, as a browser copies it.
    fn lines(&self, id: &str) -> String {
        let (_, after) = self.0.split_once(&format!("<code id=\"{id}\">")).expect("the lines");
        let text = after.split_once("</code>").expect("their end").0;
        assert!(!text.contains('<'), "{text}");
        let references = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
        references.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// A machine that trusts nobody takes `hello`, by the lines for nix.conf, and another by the command; and NixOS reads its lines.
async fn enough(setup: &Setup, keys: &[String]) {
    let fixture = fixture();
    let snowbank = setup.start();
    let page = Page::of(&snowbank).await;

    let machine = Machine::new(&[]);
    let mut conf =
        std::fs::OpenOptions::new().append(true).open(machine.home().join("../conf/nix.conf")).expect("nix.conf");
    writeln!(conf, "{}", page.lines("nix-conf-lines")).expect("its lines");
    let built = machine.ok(&["nix-build", "<nixpkgs>", "-A", "hello", "--no-out-link", "--max-jobs", "0"]);
    assert_eq!(built, fixture.path("hello"));

    let machine = Machine::new(&[]);
    // The machines have no network to get a registry from.
    let here = "--file '<nixpkgs>' hello --no-link --max-jobs 0";
    let command = page.lines("once-lines").replace("nixpkgs#hello", here);
    machine.ok(&["sh", "-c", &command]);
    machine.ok(&["nix-store", "--check-validity", fixture.path("hello")]);
    assert!(!machine.home().join("odd").exists(), "{command}");

    let expression = format!("({{ {} }}).nix.settings", page.lines("nixos-lines"));
    let settings = machine.ok(&["nix-instantiate", "--eval", "--strict", "--json", "--expr", &expression]);
    let settings: Value = serde_json::from_str(&settings).expect("JSON");
    assert_eq!(settings, json!({ "substituters": [snowbank.http_url()], "trusted-public-keys": keys }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cache_that_does_not_sign() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let (key, odd) = (fixture.key().public(), Key::new(ODD).public());
    let keys = format!("public_keys = [{odd:?}, {key:?}]");
    enough(&Setup::new().upstream_with(&origin.url(), &keys), &[odd, key]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cache_that_signs() {
    let origin = static_cache::serve(&fixture().cache("xz"));
    let setup = Setup::in_front_of(&origin, fixture().key());
    let file = setup.home().join("own.key");
    let made = run(&["keygen", "own-1", "--output", file.to_str().expect("a path of text")]);
    let public = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    enough(&setup.also(&format!("[sign]\nkey_files = [{file:?}]")), &[public]).await;
}
