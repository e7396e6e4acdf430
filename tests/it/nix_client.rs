//! The main promise: a real Nix client builds through the program, cold and warm, whatever the cache behind it is.

use crate::support::cache::Key;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::nix_serve::NixServe;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::static_cache;
use std::path::Path;

/// How a client reaches the program.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain,
    Tls,
}

impl Way {
    fn url(self, snowbank: &Snowbank) -> String {
        match self {
            Self::Plain => snowbank.http_url(),
            Self::Tls => snowbank.https_url(),
        }
    }
}

/// A fresh machine builds everything, and every path of it is right.
#[track_caller]
fn builds_everything(snowbank: &Snowbank, way: Way, authority: &Path) {
    let fixture = fixture();
    let machine = Machine::new(&[&fixture.key().public()]);
    let path = machine.substitute("everything", &way.url(snowbank), Some(authority));
    assert_eq!(path, fixture.path("everything"));
    let count = std::fs::read_dir(machine.real_store()).expect("its store").flatten();
    let paths = count.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count();
    assert!(paths >= fixture.infos().len(), "{paths} of {} paths", fixture.infos().len());
    assert_eq!(machine.ok(&[&format!("{}/bin/hello", fixture.path("hello"))]), "hello from the store");
    machine.verify_all();
}

/// Cold, warm on a second machine with no upstream request, after a crash, and with the origin switched off.
fn the_whole_story(compression: &str, way: Way) {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache(compression));
    let setup = Setup::in_front_of(&origin, fixture.key()).store("disk = \"512 MiB\"\nmemory = \"64 MiB\"");
    let authority = setup.authority_file();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    builds_everything(&snowbank, way, &authority);
    each_nar_was_asked_for_once(&origin);
    origin.forget();
    builds_everything(&snowbank, way, &authority);
    assert_eq!(origin.total(), 0, "the second machine: {:?}", origin.requests());
    snowbank.wait_until_stored();
    snowbank.kill();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    builds_everything(&snowbank, way, &authority);
    assert_eq!(origin.total(), 0, "after the crash: {:?}", origin.requests());
    let _off = origin.switch_off();
    builds_everything(&snowbank, way, &authority);
    assert!(snowbank.stop().success());
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    builds_everything(&snowbank, way, &authority);
}

fn each_nar_was_asked_for_once(origin: &Origin) {
    for request in origin.requests().into_iter().filter(|request| request.target.starts_with("/nar/")) {
        assert!(origin.each_byte_once(&request.target), "{}: {:?}", request.target, origin.parts(&request.target));
    }
}

#[test]
fn two_hundred_paths_in_xz_over_tls() {
    the_whole_story("xz", Way::Tls);
}

#[test]
fn two_hundred_paths_in_zstd_over_plain_http() {
    the_whole_story("zstd", Way::Plain);
}

#[test]
fn two_hundred_paths_uncompressed_over_tls() {
    the_whole_story("none", Way::Tls);
}

#[test]
fn two_hundred_paths_in_bzip2_over_plain_http() {
    the_whole_story("bzip2", Way::Plain);
}

#[test]
fn two_hundred_paths_from_nginx() {
    let fixture = fixture();
    let nginx = static_cache::nginx(&fixture.cache("zstd"));
    let setup = Setup::new().upstream(&nginx.url(), fixture.key());
    let authority = setup.authority_file();
    let snowbank = setup.start();
    builds_everything(&snowbank, Way::Plain, &authority);
    builds_everything(&snowbank, Way::Tls, &authority);
}

#[test]
fn two_hundred_paths_from_nix_serve() {
    let fixture = fixture();
    // Signed with the fixture's key, as a nix-serve with NIX_SECRET_KEY_FILE does.
    let server = NixServe::of_fixture(fixture, Some(Key::new("fixture-1")));
    let setup = Setup::new().upstream_with(&server.url(), "trust = \"origin\"");
    let authority = setup.authority_file();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    builds_everything(&snowbank, Way::Tls, &authority);
    let asked = server.requests().len();
    builds_everything(&snowbank, Way::Plain, &authority);
    assert_eq!(server.requests().len(), asked, "the second machine");
}

#[test]
fn hello_from_an_unsigned_nix_serve_for_a_client_that_takes_it() {
    let fixture = fixture();
    let server = NixServe::of_fixture(fixture, None);
    let setup = Setup::new().upstream_with(&server.url(), "trust = \"origin\"");
    let authority = setup.authority_file();
    let snowbank = setup.start();
    let machine = Machine::new(&[]);
    let url = format!("{}?trusted=1", snowbank.https_url());
    let path = machine.substitute("hello", &url, Some(&authority));
    assert_eq!(machine.ok(&[&format!("{path}/bin/hello")]), "hello from the store");
    // A client that wants a signature does not get one by going through us.
    let strict = Machine::new(&[&fixture.key().public()]);
    let words = ["nix-store", "--realise", fixture.path("hello"), "--option", "substituters", &snowbank.http_url()];
    assert!(!strict.run(&words).status.success());
}

#[test]
fn every_tool_of_nix_sees_what_it_sees_at_the_origin() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let snowbank = Setup::in_front_of(&origin, fixture.key()).start();
    let (direct, through) = (origin.url(), snowbank.http_url());
    let machine = Machine::new(&[&fixture.key().public()]);
    let everything = fixture.path("everything");
    // Store paths of the whole closure, with all that the narinfos say, except where the file is.
    let infos = |url: &str| -> Vec<serde_json::Value> {
        let text = machine.ok(&["nix", "path-info", "--store", url, "--recursive", "--json", "--sigs", everything]);
        let mut infos: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        for info in &mut infos {
            info.as_object_mut().expect("an object").remove("url");
        }
        infos
    };
    assert_eq!(infos(&through), infos(&direct));
    assert_eq!(infos(&through).len(), fixture.infos().len());
    let same = |words: &[&str]| {
        let on = |url: &str| {
            let words: Vec<&str> = words.iter().map(|word| if *word == "URL" { url } else { *word }).collect();
            machine.ok(&words)
        };
        let found = on(&through);
        assert_eq!(found, on(&direct), "{words:?}");
        assert!(!found.is_empty(), "{words:?}");
    };
    let hello = fixture.path("hello");
    same(&["nix", "store", "ls", "--store", "URL", "--long", "--recursive", hello]);
    same(&["nix", "store", "ls", "--store", "URL", "--json", "--recursive", fixture.path("multi")]);
    same(&["nix", "store", "cat", "--store", "URL", &format!("{hello}/bin/hello")]);
    same(&["nix", "log", "--store", "URL", hello]);
    machine.ok(&["nix", "store", "verify", "--store", &through, "--recursive", everything]);
    let log = machine.ok(&["nix", "log", "--store", &through, hello]);
    assert!(log.contains("building hello"), "{log}");
    let missing = machine.run(&["nix", "log", "--store", &through, fixture.path("file")]);
    assert!(!missing.status.success());
}

#[test]
fn nix_copy_takes_the_odd_ones_too() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("zstd"));
    let snowbank = Setup::in_front_of(&origin, fixture.key()).start();
    let machine = Machine::new(&[&fixture.key().public()]);
    // Among them a fixed output, a symlink, a file, names with `+ ? =` and a NAR of 64 MiB.
    machine.ok(&["nix", "copy", "--from", &snowbank.http_url(), fixture.path("everything")]);
    for info in fixture.infos() {
        assert!(machine.real_store().join(&info.base_name).symlink_metadata().is_ok(), "{}", info.base_name);
    }
    machine.verify_all();
    // Signatures came along.
    machine.ok(&["nix", "store", "verify", "--all", "--no-contents"]);
}

#[test]
fn a_client_takes_the_cache_that_has_the_better_priority_for_its_network() {
    let fixture = fixture();
    for (for_it, for_others, is_taken) in [(10, 90, true), (90, 10, false)] {
        let (origin, other) = (static_cache::serve(&fixture.cache("xz")), static_cache::serve(&fixture.cache("xz")));
        other.serve("/nix-cache-info", Reply::bytes("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 50\n"));
        let cache = format!("[cache]\npriority = {for_others}\n[[cache.priority_for]]\nnetworks = ['127.0.0.0/8']\n");
        let cache = format!("{cache}priority = {for_it}");
        let snowbank = Setup::in_front_of(&origin, fixture.key()).also(&cache).start();
        let machine = Machine::new(&[&fixture.key().public()]);
        // The better one comes last.
        let both = match is_taken {
            true => format!("{} {}", other.url(), snowbank.http_url()),
            false => format!("{} {}", snowbank.http_url(), other.url()),
        };
        machine.substitute("hello", &both, None);
        let nars = |of: &Origin| of.requests().iter().filter(|request| request.target.starts_with("/nar/")).count();
        assert_eq!((nars(&origin) > 0, nars(&other) > 0), (is_taken, !is_taken), "priority {for_it} beside 50");
    }
}

#[test]
fn a_path_that_nobody_has_is_a_plain_miss() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("none"));
    let snowbank = Setup::in_front_of(&origin, fixture.key()).start();
    let machine = Machine::new(&[&fixture.key().public()]);
    let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nothing";
    let output = machine.run(&["nix-store", "--realise", path, "--option", "substituters", &snowbank.http_url()]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("HTTP error") && !said.contains("retrying"), "{said}");
}
