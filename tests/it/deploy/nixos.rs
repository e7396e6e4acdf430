//! `flake.nix` and `deploy/nixos`, evaluated by real Nix over a library of a page (`tests/nixos`), without a network.

use super::systemd::section;
use super::{Machine, printed, text, tree};
use serde_json::Value;
use std::process::{Command, Output};

/// What the module makes of `services.snowbank`.
fn evaluated(services: &str) -> Result<Value, String> {
    let store = tempfile::tempdir().expect("a directory");
    let argument = format!("{{ snowbank = {services}; }}");
    let mut nix = Command::new("nix-instantiate");
    nix.args(["--eval", "--strict", "--json"]).arg(tree("tests/nixos/eval.nix")).args(["--arg", "services", &argument]);
    let output = of_its_own(&mut nix, store.path());
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Runs Nix with a store and a home of its own.
fn of_its_own(nix: &mut Command, home: &std::path::Path) -> Output {
    let store = home.join("store").display().to_string();
    nix.args(["--store", &store]).env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    nix.current_dir(home).output().expect("Nix")
}

/// The configuration file that the service is started with.
fn config(made: &Value) -> String {
    let start = made["systemd"]["services"]["snowbank"]["serviceConfig"]["ExecStart"].as_str().expect("a command");
    let (_, file) = start.split_once("/bin/snowbank serve --config FILE<").expect("a file");
    file.strip_suffix('>').expect("its end").to_owned()
}

#[test]
fn one_line_puts_it_in_front_of_nix_serve() {
    let made = evaluated("{ enable = true; hostName = \"cache.example.org\"; nixServe.enable = true; }")
        .expect("it evaluates");
    let config = config(&made);
    let machine = Machine::new();
    machine.check("the module", &config);
    let table: toml::Table = config.parse().expect("TOML");
    let urls: Vec<&str> =
        table["upstream"].as_array().expect("a list").iter().filter_map(|u| u["url"].as_str()).collect();
    assert_eq!(urls, ["http://127.0.0.1:5000", "https://cache.nixos.org"]);
    assert_eq!(made["services"]["nix-serve"], serde_json::json!({ "bindAddress": "127.0.0.1", "enable": true }));
    for (name, port) in [("http", "80"), ("https", "443")] {
        let socket = &made["systemd"]["sockets"][format!("snowbank-{name}")];
        assert_eq!(
            (&socket["socketConfig"]["FileDescriptorName"], &socket["listenStreams"][0]),
            (&name.into(), &port.into())
        );
        assert!(config.contains(&format!("\"fd:{name}\"")));
    }
    assert_eq!(made["networking"]["firewall"]["allowedTCPPorts"], serde_json::json!([]));
    assert_eq!(made["described"], true);
}

#[test]
fn settings_win_and_secrets_are_credentials() {
    let made = evaluated(
        "{ enable = true; hostName = \"cache.example.org\"; openFirewall = true; sockets.https = 8443;
           signingKeyFile = \"/var/keys/key\"; credentials.token = \"/var/keys/token\";
           settings = { listen = [ { address = \"fd:https\"; } ]; store = { disk = \"1 GiB\"; };
                        shutdown.drain = \"10 s\"; log.format = \"json\"; }; }",
    )
    .expect("it evaluates");
    let config = config(&made);
    Machine::new().check("the module", &config);
    let table: toml::Table = config.parse().expect("TOML");
    assert_eq!(table["listen"].as_array().map(Vec::len), Some(1), "a list replaces the one by default");
    assert_eq!(table["shutdown"]["drain"].as_str(), Some("10 s"));
    assert_eq!(table["admin"]["address"].as_str(), Some("127.0.0.1:9090"), "what is not set stays");
    let service = &made["systemd"]["services"]["snowbank"]["serviceConfig"];
    assert_eq!(service["LoadCredential"], serde_json::json!(["signing-key:/var/keys/key", "token:/var/keys/token"]));
    assert!(config.contains("/run/credentials/snowbank.service/signing-key") && !config.contains("/var/keys"));
    assert_eq!(made["networking"]["firewall"]["allowedTCPPorts"], serde_json::json!([8443]));
}

/// Everything else of the system is read-only for the service.
#[test]
fn a_library_in_a_directory_can_be_written() {
    let writable = |library: &str| {
        let services = format!("{{ enable = true; hostName = \"a\"; settings.library = {library}; }}");
        let made = evaluated(&services).expect("it evaluates");
        Machine::new().check("the module", &config(&made));
        made["systemd"]["services"]["snowbank"]["serviceConfig"]["ReadWritePaths"].clone()
    };
    assert_eq!(writable("{ url = \"file:///srv/library\"; }"), serde_json::json!(["-/srv/library"]));
    for library in [
        "{ url = \"file:///srv/library\"; write = false; }",
        "{ url = \"s3://shelf?endpoint=https://s3.example.org\"; }",
    ] {
        assert_eq!(writable(library), Value::Null, "{library}");
    }
}

#[test]
fn what_is_no_option_is_refused() {
    for (services, told) in [
        ("{ enable = true; }", "hostName is not set"),
        ("{ enable = true; hostName = \"a\"; listen = []; }", "no such option: listen"),
        ("{ enable = true; hostName = 1; }", "hostName is of another type"),
        ("{ enable = true; hostName = \"a\"; sockets.https = 70000; }", "sockets is of another type"),
    ] {
        let why = evaluated(services).expect_err(services);
        assert!(why.contains(told), "{why}");
    }
    let off = evaluated("{ hostName = \"a\"; }").expect("it evaluates");
    assert_eq!(off["systemd"], Value::Null, "nothing is done unless it is switched on");
}

/// The module's unit is the one of deploy/systemd.
#[test]
fn the_unit_is_that_of_other_systems() {
    let made = evaluated("{ enable = true; hostName = \"a\"; }").expect("it evaluates");
    let module = made["systemd"]["services"]["snowbank"]["serviceConfig"].as_object().expect("options");
    let unit = section(&text("deploy/systemd/snowbank.service"), "Service");
    let own = ["Type", "ExecStart", "ExecReload", "LoadCredential"];
    let as_written = |value: &Value| match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let values = |value: &Value| match value {
        Value::Array(values) => values.iter().map(as_written).collect(),
        value => vec![as_written(value)],
    };
    for (key, lines) in unit.iter().filter(|(key, _)| !own.contains(&key.as_str())) {
        let found = module.get(key).map(values).unwrap_or_default();
        let joined = [found.join(" ")];
        assert!(found == *lines || (key == "Sockets" && joined == **lines), "{key}: {found:?} and {lines:?}");
    }
    let unknown: Vec<&String> = module.keys().filter(|key| !unit.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "only in the module: {unknown:?}");
}

#[test]
fn the_flake_is_whole() {
    let home = tempfile::tempdir().expect("a directory");
    let flake = home.path().join("flake");
    std::fs::create_dir(&flake).expect("a directory");
    let parts = ["flake.nix", "Cargo.toml", "Cargo.lock", "src", "deploy"].map(tree);
    printed(&Command::new("cp").arg("-r").args(&parts).arg(&flake).output().expect("cp"));
    let mut nix = Command::new("nix");
    nix.args([
        "--extra-experimental-features",
        "nix-command flakes",
        "flake",
        "check",
        "--no-build",
        "--offline",
        "--no-write-lock-file",
    ]);
    nix.arg(format!("path:{}", flake.display()));
    nix.args(["--override-input", "nixpkgs", &format!("path:{}", tree("tests/nixos/nixpkgs").display())]);
    printed(&of_its_own(&mut nix, home.path()));
}
