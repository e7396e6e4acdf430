use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A state directory with a self-signed certificate in it.
struct State(tempfile::TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn load(&self, names: &[&str], now: UnixSeconds) -> SelfSigned {
        kept_or_passing(self.0.path(), &super::tests::names(names), now).unwrap().1.expect("kept")
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("tls/self-signed").join(name)
    }
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }
}

#[test]
fn the_first_start_makes_a_certificate_and_the_next_one_keeps_it() {
    let state = State::new();
    let made = state.load(&[], NOW);
    assert_eq!((made.origin, made.ca), (Origin::Made, state.file("ca.pem")));
    let cert = state.text("cert.pem");
    let kept = state.load(&[], NOW.plus(YEAR));
    assert_eq!(kept.origin, Origin::Kept);
    assert_eq!(state.text("cert.pem"), cert);
}

#[test]
fn only_we_can_read_the_key() {
    let state = State::new();
    state.load(&[], NOW);
    assert_eq!(mode(&state.file("key.pem")), 0o600);
    assert!(!state.text("ca.pem").contains("KEY"), "the CA's key is nowhere");
    let names: Vec<_> = fs::read_dir(state.file("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "key, certificate, CA and bundle: {names:?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn every_user_can_read_the_ca() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let dir = state.join("tls/self-signed");
    let load = || kept_or_passing(&state, &[], NOW).unwrap().1.expect("kept");
    let files = load();
    assert_eq!(files.ca, dir.join("ca.pem"));
    let bundle = files.bundle.expect("it could be written");
    let directories = [state.clone(), state.join("tls"), dir.clone()];
    let check = |state_mode: u32| {
        assert_eq!(directories.each_ref().map(|path| mode(path)), [state_mode, 0o755, 0o755]);
        assert_eq!([&dir.join("ca.pem"), &bundle, &dir.join("key.pem")].map(|path| mode(path)), [0o644, 0o644, 0o600]);
    };
    check(0o755);
    // What an earlier version or a narrow umask left; the state directory may be narrow on purpose.
    let narrow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    directories.iter().for_each(|path| narrow(path, 0o700));
    [&files.ca, &bundle].into_iter().for_each(|path| narrow(path, 0o600));
    assert_eq!(load().origin, Origin::Kept);
    check(0o700);
}

#[test]
fn a_name_that_is_missing_makes_a_new_one() {
    let state = State::new();
    assert_eq!(state.load(&["cache.example.org", "192.0.2.7"], NOW).origin, Origin::Made);
    assert_eq!(state.load(&["cache.example.org"], NOW).origin, Origin::Kept, "a name more does no harm");
    assert_eq!(state.load(&["192.0.2.7"], NOW).origin, Origin::Kept);
    let ca = state.text("ca.pem");
    assert_eq!(state.load(&["other.example.org"], NOW).origin, Origin::Made);
    assert_ne!(state.text("ca.pem"), ca, "there is no key left to sign with, so the CA is new, too");
    assert_eq!(state.load(&["192.0.2.8"], NOW).origin, Origin::Made);
}

#[test]
fn one_that_is_near_its_end_is_made_anew() {
    let state = State::new();
    state.load(&[], NOW);
    assert_eq!(state.load(&[], NOW.plus(9 * YEAR)).origin, Origin::Kept);
    assert_eq!(state.load(&[], NOW.plus(3600 * DAY)).origin, Origin::Made);
}

#[test]
fn files_that_do_not_belong_together_are_made_anew() {
    for damaged in ["key.pem", "cert.pem", "ca.pem"] {
        let (state, other) = (State::new(), State::new());
        state.load(&[], NOW);
        other.load(&[], NOW);
        fs::copy(other.file(damaged), state.file(damaged)).unwrap();
        assert_eq!(state.load(&[], NOW).origin, Origin::Made, "{damaged} of another set");
        fs::write(state.file(damaged), "garbage").unwrap();
        assert_eq!(state.load(&[], NOW).origin, Origin::Made, "{damaged} of garbage");
        fs::remove_file(state.file(damaged)).unwrap();
        assert_eq!(state.load(&[], NOW).origin, Origin::Made, "no {damaged}");
        assert_eq!(state.load(&[], NOW).origin, Origin::Kept);
    }
}

#[test]
fn the_bundle_is_the_systems_roots_and_our_ca_however_often_we_start() {
    let state = State::new();
    let bundle = state.load(&[], NOW).bundle.expect("it could be written");
    let first = fs::read_to_string(&bundle).unwrap();
    assert!(first.ends_with(&state.text("ca.pem")));
    state.load(&[], NOW);
    assert_eq!(fs::read_to_string(&bundle).unwrap(), first);
    fs::write(&bundle, "old roots").unwrap();
    state.load(&[], NOW);
    assert_eq!(fs::read_to_string(&bundle).unwrap(), first, "it is refreshed at each start");
}

#[test]
fn a_bundle_never_takes_itself_for_the_systems_roots() {
    let dir = tempfile::tempdir().unwrap();
    let (own, system) = (dir.path().join("own"), dir.path().join("system"));
    fs::write(&own, "own").unwrap();
    fs::write(&system, "system").unwrap();
    let made = bundle([own.clone(), dir.path().join("none"), system].into_iter(), &own, b"ca\n");
    assert_eq!(made, b"system\nca\n");
    assert_eq!(bundle(std::iter::empty(), &own, b"ca\n"), b"ca\n");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told_by_name() {
    let state = State::new();
    fs::write(state.0.path().join("tls"), "a file where a directory should be").unwrap();
    let error = load_or_make(state.0.path(), &[], NOW).unwrap_err().to_string();
    assert!(error.contains("tls/self-signed") && error.contains("cannot write"), "{error}");
}

/// A file where the directory should be: root may write everywhere, but nobody can make a directory below a file.
#[test]
fn without_a_place_to_keep_it_a_certificate_serves_for_this_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (certificate, kept) = kept_or_passing(&file, &names(&["cache.example.org"]), NOW).unwrap();
    assert_eq!(kept, None);
    assert_eq!(certificate.facts.names.len(), 4);
}
