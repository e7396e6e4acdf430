//! Certificates from the real pebble: every way of proof, accounts, names that come and go, and a crash in the middle.

use super::{NAME, entries, entry, shown, stands_in, trusted};
use crate::support::client::Target;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::pebble::{EAB_KEY, EAB_KEY_ID, Pebble, Shape};
use crate::support::snowbank::Setup;
use crate::support::static_cache;
use crate::support::tls::Hello;
use crate::support::trust::eventually;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const HTTP: &str = "challenge = \"http-01\"";

#[tokio::test]
async fn by_http_and_only_known_tokens_are_answered() {
    let pebble = Pebble::start(Shape::default());
    let snowbank = pebble.setup(&[NAME], HTTP).start();
    let told = trusted(pebble.secure(), NAME, &pebble.root().await).await;
    assert_eq!(told.names, [NAME]);
    assert_eq!((pebble.accounts(), pebble.issued()), (1, 1));
    assert!(pebble.requests("/order-plz") == 1, "one order for one name");
    Target::Http(pebble.plain()).get("/.well-known/acme-challenge/unknown").await.expect(404);
    assert_eq!(entry(&snowbank, NAME).expect("an entry")["source"], "acme");
}

#[tokio::test]
async fn by_http_beside_a_redirect() {
    let pebble = Pebble::start(Shape::default());
    let redirect = format!("redirect = \"https://{NAME}:{}\"", pebble.secure().port());
    let _snowbank = pebble.setup(&[NAME], "").plain_listener(&redirect).start();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
    let plain = Target::Http(pebble.plain());
    plain.get("/.well-known/acme-challenge/unknown").await.expect(404);
    let elsewhere = plain.get("/nix-cache-info?x=1").await;
    assert!([301, 308].contains(&elsewhere.status), "{elsewhere:?}");
    let place = format!("https://{NAME}:{}/nix-cache-info?x=1", pebble.secure().port());
    assert_eq!(elsewhere.field("location"), Some(place.as_str()));
}

#[tokio::test]
async fn by_tls_and_nothing_is_shown_to_a_validator_that_nobody_waits_for() {
    let pebble = Pebble::start(Shape::default());
    let _snowbank = pebble.setup(&[NAME], "challenge = \"tls-alpn-01\"").start();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
    let stranger = Hello::to(NAME).protocol(b"acme-tls/1").presented(pebble.secure()).await;
    assert!(stranger.is_err(), "{:?}", stranger.map(|chain| super::tell(&chain[0])));
}

#[tokio::test]
async fn by_dns_for_a_wildcard_and_the_record_is_removed() {
    let pebble = Pebble::start(Shape::default());
    let hook = pebble.dns_hook();
    let wildcard = format!("*.{NAME}");
    let _snowbank = pebble.setup(&[&wildcard], &hook.lines()).start();
    let told = trusted(pebble.secure(), &format!("a.{NAME}"), &pebble.root().await).await;
    assert_eq!(told.names, [wildcard]);
    eventually("the record is removed", async || hook.calls().len() >= 2).await;
    let calls = hook.calls();
    let record = format!("_acme-challenge.{NAME}");
    let [(add, added, value), (remove, removed, same)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!([add, added, remove, removed], ["add", &record, "remove", &record]);
    assert!(value == same && value.len() == 43, "{calls:?}");
}

#[tokio::test]
async fn a_dns_hook_that_fails_is_told_with_what_it_said() {
    let pebble = Pebble::start(Shape::default());
    let hook = pebble.dns_hook();
    std::fs::write(&hook.path, "#!/bin/sh\necho 'the zone is locked' >&2\nexit 3\n").expect("a hook");
    let snowbank = pebble.setup(&[NAME], &hook.lines()).start();
    snowbank.log_line("the zone is locked", 0);
    assert!(stands_in(pebble.secure(), NAME).await);
    assert_eq!(pebble.issued(), 0);
}

#[tokio::test]
async fn with_an_account_that_is_bound() {
    let pebble = Pebble::start(Shape { bound: true, ..Shape::default() });
    let _snowbank = pebble.setup(&[NAME], &binding(pebble.dir(), EAB_KEY)).start();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
}

#[tokio::test]
async fn a_wrong_binding_is_one_clear_line() {
    let pebble = Pebble::start(Shape { bound: true, ..Shape::default() });
    let wrong = EAB_KEY.replace("zWND", "AAAA");
    let setup = pebble.setup(&[NAME], &binding(pebble.dir(), &wrong));
    let snowbank = setup.start();
    eventually("the failure is told", async || entry(&snowbank, NAME).is_some_and(|e| !e["last_error"].is_null()))
        .await;
    let said = snowbank.warnings_with(&["external account binding"]);
    assert_eq!(said.len(), 1, "{}", snowbank.log().join("\n"));
    assert!(stands_in(pebble.secure(), NAME).await);
    assert!(!said[0].contains(&wrong), "the key is in the log");
}

fn binding(dir: &Path, key: &str) -> String {
    let file = dir.join("eab");
    crate::support::authority::replace(&file, &format!("{key}\n"));
    format!("{HTTP}\neab_key_id = {EAB_KEY_ID:?}\neab_key_file = {file:?}")
}

#[tokio::test]
async fn until_the_first_certificate_a_self_signed_one_is_shown() {
    let pebble = Pebble::start(Shape::default());
    pebble.shut();
    let snowbank = pebble.setup(&[NAME], HTTP).start();
    assert!(stands_in(pebble.secure(), NAME).await);
    eventually("the failure is told", async || entry(&snowbank, NAME).is_some_and(|e| !e["last_error"].is_null()))
        .await;
    assert!(entries(&snowbank, NAME).iter().any(|entry| entry["source"] == "self-signed"));
    assert!(!snowbank.warnings_with(&[&pebble.directory()]).is_empty(), "{}", snowbank.log().join("\n"));
    pebble.open();
    // The next attempt is a matter of the back-off; a reload asks for one now.
    snowbank.hang_up();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
}

#[tokio::test]
async fn a_restart_shows_the_same_certificate_at_once() {
    let pebble = Pebble::start(Shape::default());
    let setup = pebble.setup(&[NAME], HTTP);
    let snowbank = setup.start();
    let told = trusted(pebble.secure(), NAME, &pebble.root().await).await;
    only_for_its_owner(&setup.dir().join("acme"));
    assert!(snowbank.stop().success());
    pebble.shut();
    let _snowbank = setup.start();
    assert_eq!(shown(pebble.secure(), NAME).await, told);
    assert_eq!((pebble.accounts(), pebble.issued()), (1, 1));
}

/// Every file below is 0600 and every directory 0700; there are some.
fn only_for_its_owner(dir: &Path) {
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    let mut files = 0;
    while let Some(dir) = open.pop() {
        let mode = dir.metadata().expect("a directory").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", dir.display());
        for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
                continue;
            }
            files += 1;
            let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
        }
    }
    assert!(files >= 2, "an account and a certificate");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_an_order_costs_nothing_but_time() {
    let pebble = Pebble::start(Shape::default());
    let hook = pebble.dns_hook();
    hook.hold();
    let setup = pebble.setup(&[NAME], &hook.lines());
    let snowbank = setup.start();
    eventually("the hook is called", async || !hook.calls().is_empty()).await;
    snowbank.kill();
    hook.release();
    let _snowbank = setup.start();
    trusted(pebble.secure(), NAME, &pebble.root().await).await;
    assert_eq!((pebble.accounts(), pebble.issued()), (1, 1));
    assert!(pebble.requests("/order-plz") <= 2, "at most one more order");
}

#[tokio::test]
async fn a_name_that_fails_does_not_take_the_others_with_it() {
    let pebble = Pebble::start(Shape::default());
    let bad = "nobody.example.org";
    pebble.set_address(bad, "127.0.0.2").await;
    let snowbank = pebble.setup(&[bad, NAME], HTTP).start();
    let root = pebble.root().await;
    assert_eq!(trusted(pebble.secure(), NAME, &root).await.names, [NAME]);
    eventually("the failure is told", async || entry(&snowbank, bad).is_some_and(|e| !e["last_error"].is_null())).await;
    assert!(stands_in(pebble.secure(), bad).await);
    let said = snowbank.warnings_with(&[bad]);
    assert_eq!(said.len(), 1, "{said:#?}");
    // The reason is the authority's own: it could not connect.
    assert!(said[0].contains("127.0.0.2") || said[0].contains("connection"), "{said:#?}");
    assert_eq!(entry(&snowbank, NAME).expect("an entry")["last_error"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_name_that_is_added_is_ordered_at_once_and_one_that_is_removed_is_dropped() {
    let pebble = Pebble::start(Shape::default());
    let (first, second) = (NAME, "second.example.org");
    let setup = pebble.setup(&[first], HTTP);
    let snowbank = setup.start();
    let root = pebble.root().await;
    trusted(pebble.secure(), first, &root).await;
    snowbank.reload(&setup.clone().tls(&pebble.tls(&[first, second], HTTP)));
    assert_eq!(trusted(pebble.secure(), second, &root).await.names, [second]);
    assert_eq!(pebble.issued(), 2, "the first name needed nothing");
    snowbank.reload(&setup.tls(&pebble.tls(&[second], HTTP)));
    eventually("the name is dropped", async || entry(&snowbank, first).is_none()).await;
    assert_ne!(shown(pebble.secure(), first).await.names, [first]);
    assert_eq!(trusted(pebble.secure(), second, &root).await.names, [second]);
    assert_eq!((pebble.accounts(), pebble.issued()), (1, 2));
}

#[tokio::test]
async fn many_names_are_ordered_one_after_the_other() {
    let pebble = Pebble::start(Shape { nonce_reject: 30, ..Shape::default() });
    let names = ["a.example.org", "b.example.org", "c.example.org", "d.example.org"];
    let _snowbank = pebble.setup(&names, HTTP).start();
    let root = pebble.root().await;
    for name in names {
        assert_eq!(trusted(pebble.secure(), name, &root).await.names, [name]);
    }
    assert_eq!((pebble.accounts(), pebble.issued()), (1, 4));
}

#[test]
fn a_directory_whose_authority_file_is_missing_is_refused() {
    let pebble = Pebble::start(Shape::default());
    let setup = pebble.setup(&[NAME], HTTP);
    std::fs::remove_file(pebble.ca_file()).expect("the file is there");
    super::broken::refused(&setup, &["directory-ca.pem"]);
}

#[tokio::test]
async fn a_directory_behind_an_unknown_authority_is_told() {
    let pebble = Pebble::start(Shape::default());
    let lines = format!("names = [{NAME:?}]\n[tls.acme]\ndirectory = {:?}\n{HTTP}", pebble.directory());
    let snowbank = pebble.setup(&[NAME], HTTP).tls(&lines).start();
    eventually("the failure is told", async || entry(&snowbank, NAME).is_some_and(|e| !e["last_error"].is_null()))
        .await;
    let said = snowbank.warnings_with(&["ca_file"]);
    assert_eq!(said.len(), 1, "{}", snowbank.log().join("\n"));
    assert!(stands_in(pebble.secure(), NAME).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn real_nix_builds_over_it() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let pebble = Pebble::start(Shape::default());
    // Nix verifies the name of the URL, which must lead here without a name server.
    let name = "localhost";
    let _snowbank = pebble.order(Setup::in_front_of(&origin, fixture.key()), &[name], HTTP).start();
    trusted(pebble.secure(), name, &pebble.root().await).await;
    let root = pebble.dir().join("root.pem");
    std::fs::write(&root, pebble.root_pem().await).expect("a certificate file");
    let machine = Machine::new(&[&fixture.key().public()]);
    let url = format!("https://{name}:{}", pebble.secure().port());
    let path = machine.substitute("hello", &url, Some(&root));
    assert_eq!(machine.ok(&[&format!("{path}/bin/hello")]), "hello from the store");
}
