//! Moving from nginx: what it kept is taken over, clients go on under the same URL with the narinfos that they remember, and the
//! upstream is not asked again for anything that nginx had. And a way back.

use crate::support::cache::Key;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::nix_serve::NixServe;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, run};
use crate::support::static_cache::{self, Nginx};
use std::path::{Path, PathBuf};
use std::process::Output;

const CACHE: &str = "proxy_cache_path cache levels=1:2 keys_zone=nix:10m max_size=10g inactive=365d use_temp_path=off;";

/// The recipe that most mirrors run: everything is kept for long, one download at a time of each. (`more` is for the way back.)
fn recipe(upstream: &str, more: &str) -> String {
    format!(
        "location / {{ {more} proxy_pass {upstream}; proxy_cache nix; proxy_cache_valid 200 365d; proxy_cache_lock on;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; }}"
    )
}

fn nginx_in_front_of(upstream: &str) -> Nginx {
    Nginx::start(CACHE, &recipe(upstream, ""))
}

/// What the README has for the way back: our NAR URLs, as clients remember them, are those of the upstream.
const REWRITE: &str = "rewrite \"^/nar/[0-9a-z]{32}-([0-9a-z]{52}\\.nar\\..*)$\" /nar/$1 break;";

fn import(setup: &Setup, dir: &Path) -> (Output, String) {
    let file = setup.write();
    let words = [Path::new("import"), Path::new("--config"), &file, dir];
    let output = run(&words.map(|word| word.to_str().expect("text")));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

fn store() -> &'static str {
    "disk = \"512 MiB\"\nmemory = \"64 MiB\""
}

/// Another machine whose user remembers what this one's does, with an empty store.
fn as_if_reinstalled(machine: &Machine, dir: &Path, keys: &[&str]) -> Machine {
    let fresh = Machine::at(dir, keys);
    let copied = std::process::Command::new("cp").arg("-a").arg(machine.home()).arg(dir).status();
    assert!(copied.expect("cp").success());
    fresh
}

/// Everything from nginx, then everything from the program in its place, on a machine that remembers nginx's narinfos and on
/// one that does not; then from nginx again. `asked`: how often the upstream was, so far.
fn moves(upstream: &str, setup: Setup, asked: impl Fn() -> usize, more: &str) {
    let attribute = "everything";
    let keys = [fixture().key().public()];
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let nginx = nginx_in_front_of(upstream);
    let remembers_nginx = Machine::new(&keys);
    remembers_nginx.substitute(attribute, &nginx.url(), None);
    let port = nginx.port();
    let home = nginx.stop();
    let asked_by_nginx = asked();

    let setup = setup.ports(port, 0).store(store());
    let (output, told) = import(&setup, &home.path().join("cache"));
    let paths = fixture().infos().len();
    assert!(output.status.success() && told.contains(&format!("{paths} of {paths}: {paths} imported (")), "{told}");
    let (output, told) = import(&setup, &home.path().join("cache"));
    let nothing_new = format!("0 imported (0 MiB), {paths} were here already");
    assert!(output.status.success() && told.contains(&nothing_new), "{told}");

    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let url = snowbank.http_url();
    assert_eq!(snowbank.http_address().port(), port);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let remembers_both = Machine::new(&keys);
    for machine in [&as_if_reinstalled(&remembers_nginx, dir.path(), &keys), &remembers_both] {
        machine.substitute(attribute, &url, None);
        machine.verify_all();
    }
    assert_eq!(asked(), asked_by_nginx, "for what nginx had");
    assert!(snowbank.stop().success());

    let Ok(_nginx) = Nginx::start_at(home, port, CACHE, &recipe(upstream, more)) else {
        panic!("nginx does not start")
    };
    let back = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let machine = as_if_reinstalled(&remembers_both, back.path(), &keys);
    machine.substitute(attribute, &url, None);
    machine.verify_all();
    for dir in [dir, back] {
        let _ = std::process::Command::new("chmod").args(["-R", "u+w"]).arg(dir.path()).status();
    }
}

#[test]
fn from_nginx_in_front_of_a_signed_cache() {
    let origin = static_cache::serve(&fixture().cache("xz"));
    let setup = Setup::in_front_of(&origin, fixture().key());
    moves(&origin.url(), setup, || origin.total(), REWRITE);
}

#[test]
fn from_nginx_in_front_of_nix_serve() {
    let server = NixServe::of_fixture(fixture(), Some(Key::new("fixture-1")));
    let setup = Setup::new().upstream_with(&server.url(), "trust = \"origin\"");
    moves(&server.url(), setup, || server.requests().len(), "");
}

/// A file below `dir` that has this in it.
fn kept_file(dir: &Path, text: &str) -> PathBuf {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            if entry.path().is_dir() {
                left.push(entry.path());
            } else if std::fs::read(entry.path()).expect("a file").windows(text.len()).any(|at| at == text.as_bytes()) {
                return entry.path();
            }
        }
    }
    panic!("nothing has {text}");
}

/// What was damaged, lost or forged where it lay is not believed, told, and had from the upstream when it is wanted.
#[test]
fn what_nginx_kept_is_checked() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let nginx = nginx_in_front_of(&origin.url());
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &nginx.url(), None);
    let kept = nginx.stop();
    let cache = kept.path().join("cache");

    let nar_url = |attribute: &str| {
        let narinfo = fixture.cache("xz").join(format!("{}.narinfo", fixture.hash_part(attribute)));
        let text = std::fs::read_to_string(narinfo).expect("a narinfo");
        text.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL").to_owned()
    };
    let damaged = kept_file(&cache, &format!("KEY: {}/{}\n", origin.url(), nar_url("hello")));
    let mut bytes = std::fs::read(&damaged).expect("a file");
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    std::fs::write(&damaged, bytes).expect("a file");
    let setup = Setup::in_front_of(&origin, fixture.key()).store(store());
    let (output, told) = import(&setup, &cache);
    let (all, rest) = (fixture.infos().len(), fixture.infos().len() - 1);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("{all} of {all}: {rest} imported")) && told.contains("1 not imported"), "{told}");
    assert!(told.contains(&format!("{}: ", fixture.hash_part("hello"))), "{told}");

    // Of another key nothing is believed.
    let strangers = Setup::new().upstream(&origin.url(), &Key::new("stranger-1")).store(store());
    let (output, told) = import(&strangers, &cache);
    assert!(output.status.code() == Some(1) && told.contains(": 0 imported"), "{told}");

    origin.forget();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let (output, told) = import(&setup, &cache);
    assert!(output.status.code() == Some(2) && told.contains("in use by a running server: stop it"), "{told}");
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.http_url(), None);
    machine.verify_all();
    let asked: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
    assert!(asked.iter().any(|target| target.ends_with(&nar_url("hello"))), "{asked:?}");
    assert!(asked.len() <= 2, "what was lost, and nothing else: {asked:?}");
}

/// A binary cache in a directory, as `nix copy` or nginx's `proxy_store` leaves it.
#[test]
fn from_a_directory() {
    let fixture = fixture();
    let origin = Origin::start();
    let setup = Setup::in_front_of(&origin, fixture.key()).store(store());
    let (output, told) = import(&setup, &fixture.cache("zstd"));
    assert!(output.status.success(), "{told}");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.http_url(), None);
    machine.verify_all();
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    drop(snowbank);
    let (output, told) = import(&setup, &setup.home().join("nowhere"));
    assert!(output.status.code() == Some(2) && told.contains("nowhere"), "{told}");
}

/// The line of the README for a server that was started before: root takes over for the user of the server.
#[test]
fn what_nginx_keeps_for_itself_is_taken_over_by_the_user_of_the_server() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    const SERVER: u32 = 61_234;
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let origin = static_cache::serve(&fixture().cache("zstd"));
    let nginx = nginx_in_front_of(&origin.url());
    let key = fixture().key().public();
    Machine::new(&[&key]).substitute("everything", &nginx.url(), None);
    let home = nginx.stop();
    let cache = home.path().join("cache");
    // As systemd has it: the directory belongs to a user that comes and goes, below one that only root can enter.
    let setup = Setup::in_front_of(&origin, fixture().key()).store(store());
    let (private, mode) = (setup.home().join("private"), |mode| std::fs::Permissions::from_mode(mode));
    let setup = setup.store_dir(&private.join("snowbank"));
    std::fs::create_dir_all(setup.dir()).expect("a directory");
    std::os::unix::fs::chown(setup.dir(), Some(SERVER), Some(SERVER)).expect("another owner");
    for (dir, bits) in [(&private, 0o700), (&setup.dir().to_owned(), 0o700), (&cache, 0o700)] {
        std::fs::set_permissions(dir, mode(bits)).expect("rights");
    }
    let config = setup.write();
    let take_over = "exec setpriv --reuid \"$(stat --format %u \"$1/\")\" --regid \"$(stat --format %g \"$1/\")\" \
         --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search \"$2\" import --config \"$3\" \"$4\"";
    let output = std::process::Command::new("sh")
        .args(["-c", take_over, "sh"])
        .args([setup.dir(), Path::new(env!("CARGO_BIN_EXE_snowbank")), &config, &cache])
        .output()
        .expect("setpriv");
    let (told, paths) = (String::from_utf8_lossy(&output.stderr), fixture().infos().len());
    assert!(output.status.success() && told.contains(&format!("{paths} of {paths}: {paths} imported (")), "{told}");
    let made: Vec<_> = std::fs::read_dir(setup.dir()).expect("a directory").flatten().collect();
    assert!(!made.is_empty());
    for made in made {
        assert_eq!(made.metadata().expect("its owner").uid(), SERVER, "{}", made.path().display());
    }
    // Who is not allowed for this once to read everything, sees nothing.
    let plain = take_over.replace("--inh-caps +dac_read_search --ambient-caps +dac_read_search", "");
    let output = std::process::Command::new("sh")
        .args(["-c", &plain, "sh"])
        .args([setup.dir(), Path::new(env!("CARGO_BIN_EXE_snowbank")), &config, &cache])
        .output()
        .expect("setpriv");
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
