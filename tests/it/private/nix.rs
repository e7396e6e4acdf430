//! Real Nix, with a netrc file and without one.

use super::Token;
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::Origin;
use crate::support::snowbank::Setup;
use crate::support::static_cache;

/// `nix-build -A hello` from this substituter; what it said when it failed.
fn build(machine: &Machine, url: &str, netrc: Option<&str>) -> Result<String, String> {
    let file = machine.home().join("netrc");
    let words =
        ["nix-build", "<nixpkgs>", "-A", "hello", "--no-out-link", "--max-jobs", "0", "--option", "substituters"];
    let mut words = [&words[..], &[url]].concat();
    if let Some(netrc) = netrc {
        std::fs::write(&file, netrc).expect("a netrc file");
        words.extend(["--option", "netrc-file", file.to_str().expect("a path of text")]);
    }
    let output = machine.run(&words);
    let (said, path) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if output.status.success() { Ok(path.trim_end().to_owned()) } else { Err(said.into_owned()) }
}

#[test]
fn who_has_the_token_in_netrc_builds_and_to_others_it_is_as_if_nobody_had_it() {
    let fixture = fixture();
    let (work, nothing) = (static_cache::serve(&fixture.cache("xz")), Origin::start());
    let token = Token::new("alice");
    let setup = Setup::new();
    let file = setup.home().join("tokens");
    std::fs::write(&file, &token.line).expect("a file of tokens");
    let keys = format!("public_keys = [{:?}]", fixture.key().public());
    let private = setup
        .upstream_with(&nothing.url(), &format!("name = \"public\"\n{keys}"))
        .upstream_with(&work.url(), &format!("name = \"work\"\nprivate = true\n{keys}"))
        .also(&format!("[[access]]\nupstreams = [\"work\"]\ntoken_files = [{file:?}]"));
    let snowbank = private.start();
    let netrc = format!("machine 127.0.0.1 login alice password {}\n", token.text);

    let inside = Machine::new(&[&fixture.key().public()]);
    assert_eq!(build(&inside, &snowbank.http_url(), Some(&netrc)).as_deref(), Ok(fixture.path("hello")));
    assert_eq!(inside.ok(&[&format!("{}/bin/hello", fixture.path("hello"))]), "hello from the store");
    inside.verify_all();

    // The same words as from a cache that has nothing, although all of it is here by now.
    let empty = Setup::in_front_of(&nothing, fixture.key()).start();
    let told = |netrc: Option<&str>, url: &str| {
        let said = build(&Machine::new(&[&fixture.key().public()]), url, netrc).expect_err("nothing to build from");
        assert!(!said.contains("HTTP error") && !said.contains("retrying"), "{said}");
        let mut lines: Vec<String> = said.lines().map(|line| line.replace(url, "URL")).collect();
        lines.sort();
        lines
    };
    let (plain, of_nobody) = (snowbank.http_url(), empty.http_url());
    let wrong = "machine 127.0.0.1 login alice password snowbank-wrong\n";
    assert_eq!(told(None, &plain), told(None, &of_nobody));
    assert_eq!(told(Some(wrong), &plain), told(Some(wrong), &of_nobody));
    assert!(work.requests().iter().all(|request| request.field("authorization").is_none()));
}
