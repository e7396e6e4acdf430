//! Who is granted what.

use std::path::Path;

use super::*;
use crate::options::Table as _;

fn table(toml: &str) -> Options {
    Options::from_toml(toml).expect(toml)
}

fn access(tables: &[&str]) -> Access {
    let tables: Vec<Options> = tables.iter().map(|toml| table(toml)).collect();
    Access::load(&tables).unwrap()
}

fn from(address: &str) -> Visitor<'static> {
    Visitor { address: Some(address.parse().unwrap()), ..Visitor::default() }
}

/// A file with one token, and what a client shows.
fn token(path: &Path) -> HeaderValue {
    let token = NewToken::generate("ci").unwrap();
    std::fs::write(path, token.line()).unwrap();
    let netrc = token.netrc("m");
    HeaderValue::from_str(&format!("Bearer {}", netrc.rsplit(' ').next().unwrap())).unwrap()
}

#[test]
fn without_tables_nobody_is_granted_anything() {
    let access = Access::default();
    assert!(!access.grants(&from("127.0.0.1")).is_some());
    assert!(!access.grant_of("work").is_some());
    assert!(!Grants(u64::MAX).include(access.grant_of("work")), "not even to who may see everything");
}

#[test]
fn every_kind_of_condition_must_hold_and_of_each_one_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    let shown = token(&path);
    let access = access(&[&format!(
        "upstreams = ['work']\nnetworks = ['10.0.0.0/8', '::1']\ntoken_files = [{path:?}]\n\
         certificates = ['*.example.org', 'a.test']\nlisteners = ['inside', 'lab']"
    )]);
    let (certificate, wrong) = (["b.test".to_owned(), "ci.example.org".to_owned()], ["example.org".to_owned()]);
    let all = Visitor {
        address: Some("10.1.2.3".parse().unwrap()),
        listener: Some("lab"),
        certificate: &certificate,
        authorization: Some(&shown),
        prefetch: None,
    };
    assert!(!format!("{all:?}").contains("snowbank-"), "{all:?}");
    let granted = |visitor: &Visitor<'_>| access.grants(visitor).include(access.grant_of("work"));
    assert!(granted(&all));
    assert!(granted(&Visitor { address: Some("::1".parse().unwrap()), listener: Some("inside"), ..all }));
    assert!(granted(&Visitor { address: Some("::ffff:10.1.2.3".parse().unwrap()), ..all }), "the same address");
    let other = HeaderValue::from_static("Bearer other");
    for short in [
        Visitor { address: None, ..all },
        Visitor { address: Some("11.0.0.1".parse().unwrap()), ..all },
        Visitor { listener: None, ..all },
        Visitor { listener: Some("outside"), ..all },
        Visitor { certificate: &[], ..all },
        Visitor { certificate: &wrong, ..all },
        Visitor { authorization: None, ..all },
        Visitor { authorization: Some(&other), ..all },
    ] {
        assert!(!granted(&short), "{short:?}");
    }
}

#[test]
fn tables_add_up_and_grant_no_more_than_they_say() {
    let access = access(&[
        "upstreams = ['work']\nnetworks = ['10.0.0.0/8']",
        "upstreams = ['play', 'work']\nnetworks = ['10.1.0.0/16']",
        "upstreams = ['secret']\nlisteners = ['vault']",
    ]);
    let sees = |visitor: &Visitor<'_>| {
        let grants = access.grants(visitor);
        ["work", "play", "secret"].map(|name| grants.include(access.grant_of(name)))
    };
    assert_eq!(sees(&from("10.2.0.1")), [true, false, false]);
    assert_eq!(sees(&from("10.1.0.1")), [true, true, false]);
    assert_eq!(sees(&from("192.0.2.1")), [false; 3]);
    assert_eq!(sees(&Visitor { listener: Some("vault"), ..from("10.2.0.1") }), [true, false, true]);
}

#[test]
fn a_token_that_was_taken_out_grants_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    let shown = token(&path);
    let access = access(&[&format!("upstreams = ['work']\ntoken_files = [{path:?}]")]);
    let visitor = Visitor { authorization: Some(&shown), ..Visitor::default() };
    assert!(access.grants(&visitor).is_some());
    std::fs::write(&path, "").unwrap();
    access.refresh();
    assert!(!access.grants(&visitor).is_some());
}

#[test]
fn more_upstreams_than_can_be_told_apart_are_granted_to_nobody() {
    let names: Vec<String> = (0..=MOST).map(|n| format!("u{n}")).collect();
    let access = access(&[&format!("upstreams = {names:?}\nnetworks = ['0.0.0.0/0']")]);
    let grants = access.grants(&from("10.0.0.1"));
    assert!(grants.include(access.grant_of(&names[0])) && grants.include(access.grant_of(&names[MOST - 1])));
    assert!(!grants.include(access.grant_of(&names[MOST])));
}

#[test]
fn a_table_that_grants_to_everybody_or_nothing_is_a_mistake() {
    let said = |toml: &str| {
        let mut mistakes = Mistakes::default();
        table(toml).check("access[0]", &mut mistakes);
        mistakes.lines().to_vec()
    };
    assert_eq!(said("upstreams = ['work']\nlisteners = ['inside']"), [""; 0]);
    assert!(said("upstreams = ['work']")[0].starts_with("access[0]: this would grant everything to everybody"));
    assert!(said("upstreams = []\nlisteners = ['inside']")[0].starts_with("access[0].upstreams = []"));
    assert!(Options::from_toml("listeners = ['inside']").is_err());
}
