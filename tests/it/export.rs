//! `snowbank export`: a closure in a directory, from which it can be installed where there is no network.

use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, run};
use crate::support::static_cache;
use std::path::Path;

fn export(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let file = setup.write();
    let output = run(&[&["export", "--config", file.to_str().expect("text")], words].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A machine without a network.
fn installs_from(dir: &Path) {
    let fixture = fixture();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &format!("file://{}", dir.display()), None);
    machine.verify_all();
}

#[test]
fn a_closure_is_installed_from_a_directory() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let setup = Setup::in_front_of(&origin, fixture.key()).store("disk = \"512 MiB\"\nmemory = \"64 MiB\"");
    let (stick, paths) = (setup.home().join("stick/cache"), fixture.infos().len());
    let everything = fixture.path("everything");
    let (status, told) = export(&setup, &["--to", text(&stick), everything]);
    assert!(status == Some(0) && told.contains(&format!("{paths} of {paths} exported, 0 not")), "{told}");
    installs_from(&stick);
    // Broken off and taken up again: what is gone is written anew, and nobody is asked for it.
    let asked = origin.total();
    let gone = stick.join(format!("{}.narinfo", fixture.hash_part("hello")));
    std::fs::remove_file(&gone).expect("a narinfo");
    let (status, told) = export(&setup, &["--to", text(&stick), everything]);
    assert!(status == Some(0) && told.contains(&format!("{paths} of {paths} exported, 0 not")), "{told}");
    assert!(gone.is_file());
    assert_eq!(origin.total(), asked, "{:?}", origin.requests());
    // Without a network, in front of the stick.
    let behind = Setup::new().upstream(&format!("file://{}", text(&stick)), fixture.key());
    let snowbank = behind.store("disk = \"512 MiB\"\nmemory = \"64 MiB\"").start();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.http_url(), None);
}

#[test]
fn a_server_that_runs_is_exported_from_as_an_upstream() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("zstd"));
    let setup = Setup::in_front_of(&origin, fixture.key()).store("disk = \"512 MiB\"\nmemory = \"64 MiB\"");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.http_url(), None);
    let asked = origin.total();
    let (stick, other) = (setup.home().join("stick"), setup.home().join("other"));
    let words = ["--to", text(&stick), fixture.path("everything")];
    let (status, told) = export(&setup, &words);
    assert!(status == Some(2) && told.contains("in use by a running server: stop it, or give"), "{told}");
    let upstream = format!("{},{}", snowbank.http_url(), fixture.key().public());
    let (status, told) = export(&setup, &[&words[..], &["--dir", text(&other), "--upstream", &upstream]].concat());
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(origin.total(), asked, "{:?}", origin.requests());
    installs_from(&stick);
}

#[test]
fn what_nobody_could_verify_is_left_out_and_told() {
    let (origin, key) = (Origin::start(), Key::new("export-1"));
    let (signed, missing) = (Object::new("signed", 50_000), Object::new("missing", 1_000));
    let mut root = Object::new("unsigned", 50_000);
    root.references = vec![signed.base_name.clone()];
    origin.publish(&signed, &key);
    origin.serve(&root.narinfo_target(), Reply::bytes(root.narinfo(&[])));
    origin.serve(&root.file_target(), Reply::bytes(root.file.clone()));
    let keys = format!("trust = \"origin\"\npublic_keys = [{:?}]", key.public());
    let setup = Setup::new().upstream_with(&origin.url(), &keys);
    let stick = setup.home().join("stick");
    let (status, told) = export(&setup, &["--to", text(&stick), root.hash_part(), missing.hash_part()]);
    assert_eq!(status, Some(1), "{told}");
    assert!(
        told.contains(&format!("{}: no key signed it, so nobody could verify it there", root.hash_part())),
        "{told}"
    );
    assert!(told.contains(&format!("{}: no upstream has it", missing.hash_part())), "{told}");
    assert!(!stick.join(format!("{}.narinfo", root.hash_part())).exists());
    let (status, told) = export(&setup, &["--to", text(&stick), signed.hash_part()]);
    assert!(status == Some(0) && told.contains("1 of 1 exported, 0 not"), "{told}");
    let keyless = Setup::new().upstream_with(&origin.url(), "trust = \"origin\"");
    let (status, told) = export(&keyless, &["--to", text(&stick), signed.hash_part()]);
    assert!(status == Some(2) && told.contains("no key is known"), "{told}");
    let (status, told) = export(&setup, &["--to", "/dev/null/nowhere", signed.hash_part()]);
    assert!(status == Some(2) && told.contains("/dev/null/nowhere"), "{told}");
}
