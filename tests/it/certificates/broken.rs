//! Certificates that must not be taken: each is refused with one clear line, before the start and while running.

use super::files::{in_force, lines, secure};
use super::{entry, shown};
use crate::support::authority::{Authority, Leaf, Pair};
use crate::support::snowbank::{Count, Setup, run};
use crate::support::tls::tell;
use crate::support::trust::eventually;

const NAME: &str = "cache.example.org";
/// What is said about the certificate before a broken one.
const KEPT: &str = "stays in force";

/// `check-config` refuses this setup with one line that has all of these words, and so does the start.
#[track_caller]
pub(super) fn refused(setup: &Setup, words: &[&str]) {
    let path = setup.write();
    let output = run(&["check-config", path.to_str().expect("a path of text")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "one clear line:\n{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("PRIVATE KEY-----\n"), "a key is in the message");
}

/// A pair that is broken in this way, and the words that must tell a person about it.
struct Broken {
    what: &'static str,
    pair: Pair,
    words: &'static [&'static str],
}

fn all(authority: &Authority) -> Vec<Broken> {
    let good = || authority.issue(&[NAME], Leaf::default());
    let dated = |from, until| authority.issue(&[NAME], Leaf { from, until, ..Leaf::default() });
    let mut empty = good();
    empty.certificate_pem = String::new();
    let mut no_key = good();
    no_key.key_pem = no_key.certificate_pem.clone();
    let broken = |what, pair, words| Broken { what, pair, words };
    vec![
        broken("expired", dated(-7200, -3600), &["pair.crt", "expired"]),
        broken("not yet valid", dated(3600, 7200), &["pair.crt", "not valid before"]),
        broken("wrong name", authority.issue(&["other.example.net"], Leaf::default()), &["other.example.net", NAME]),
        broken("mismatched key", good().with_key_of(&good()), &["pair.key", "pair.crt"]),
        broken("truncated", good().cut(), &["pair.crt"]),
        broken("empty", empty, &["pair.crt"]),
        broken("no key in the key's file", no_key, &["pair.key"]),
        broken("behind a passphrase", good().locked(), &["pair.key", "passphrase"]),
    ]
}

fn with_names(files: &crate::support::authority::Files) -> String {
    format!("names = [{NAME:?}]\n{}", lines(&[files]))
}

#[test]
fn each_is_refused_before_the_start() {
    let (authority, setup) = (Authority::new("broken"), Setup::new());
    for Broken { what, pair, words } in all(&authority) {
        eprintln!("{what}");
        let files = pair.write(setup.home(), "pair");
        refused(&setup.clone().tls(&with_names(&files)), words);
    }
    let gone = Setup::new();
    let files = authority.issue(&[NAME], Leaf::default()).write(gone.home(), "pair");
    std::fs::remove_file(&files.key).expect("the key is there");
    refused(&gone.tls(&with_names(&files)), &["pair.key"]);
}

#[tokio::test]
async fn each_is_refused_while_running_and_the_good_one_is_kept() {
    let (authority, setup) = (Authority::new("broken later"), Setup::new());
    let good = authority.issue(&[NAME], Leaf::default());
    let files = good.write(setup.home(), "pair");
    let snowbank = setup.clone().tls(&with_names(&files)).start();
    let address = secure(&snowbank);
    in_force(address, NAME, &good).await;
    for Broken { what, pair, words } in all(&authority) {
        let words = [words, &[KEPT]].concat();
        let (counted, told) = (snowbank.counter(Count::CertificatesFailed), snowbank.warnings_with(&words).len());
        pair.write_to(&files);
        snowbank.hang_up();
        eventually(what, async || snowbank.counter(Count::CertificatesFailed) > counted).await;
        eventually(what, async || snowbank.warnings_with(&words).len() > told).await;
        assert_eq!(shown(address, NAME).await, tell(&good.certificate), "{what}");
        let entry = entry(&snowbank, NAME).expect("an entry");
        assert!(entry["last_error"].is_string(), "{what}: {entry}");
    }
    // The same broken files are told once, not with every look at them; that a reload is refused is another line.
    let told = snowbank.warnings_with(&["pair.key", "passphrase", KEPT]);
    assert_eq!(told.len(), 1, "{told:#?}");
    let better = authority.issue(&[NAME], Leaf::default());
    better.write_to(&files);
    in_force(address, NAME, &better).await;
    eventually("the error is forgotten", async || entry(&snowbank, NAME).expect("an entry")["last_error"].is_null())
        .await;
}
