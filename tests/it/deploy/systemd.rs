//! `deploy/systemd`: systemd understands the units, judges them safe, and starts the program by them.

use super::{Machine, printed, seconds_to_stop, text, tool, tree};
use crate::support::snowbank::Snowbank;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const SERVICE: &str = "deploy/systemd/snowbank.service";
const SOCKETS: [&str; 2] = ["http", "https"];

/// The lines of a section, as they are written, for each key.
pub(super) fn section(unit: &str, name: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let header = format!("[{name}]");
    let lines = unit.lines().skip_while(|line| **line != header).skip(1).take_while(|line| !line.starts_with('['));
    for (key, value) in lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        found.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    found
}

/// The units in a directory of their own, where their program exists.
fn units(home: &Path) -> Vec<String> {
    let names = ["snowbank.service", "snowbank-http.socket", "snowbank-https.socket"];
    let write = |name: &str| {
        let unit = text(&format!("deploy/systemd/{name}"));
        let path = home.join(name);
        std::fs::write(&path, unit.replace("/usr/local/bin/snowbank", env!("CARGO_BIN_EXE_snowbank"))).expect("a unit");
        path.display().to_string()
    };
    names.map(write).to_vec()
}

#[test]
fn systemd_understands_every_line() {
    let home = tempfile::tempdir().expect("a directory");
    let units = units(home.path());
    let arguments: Vec<&str> = ["verify"].into_iter().chain(units.iter().map(String::as_str)).collect();
    let Some(output) = tool("systemd-analyze", &arguments) else { return };
    assert_eq!((printed(&output).as_str(), String::from_utf8_lossy(&output.stderr).as_ref()), ("", ""));

    let broken = std::fs::read_to_string(&units[0]).expect("a unit").replace("ProtectHome=yes", "ProtectHomes=yes");
    std::fs::write(&units[0], broken).expect("a unit");
    let output = tool("systemd-analyze", &arguments).expect("it was there");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ProtectHomes"), "a mistake would be told");
}

/// R38.
#[test]
fn systemd_judges_the_service_safe() {
    // Of 100; 15 is an exposure of 1.5.
    let arguments = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let path = tree(SERVICE).display().to_string();
    let Some(output) = tool("systemd-analyze", &[&arguments[..], &[&path]].concat()) else { return };
    assert!(printed(&output).contains("Overall exposure level"));
}

#[test]
fn the_units_fit_each_other_and_the_configuration() {
    let (service, config) = (text(SERVICE), text("deploy/systemd/snowbank.toml"));
    let (service, unit) = (section(&service, "Service"), section(&service, "Unit"));
    let sockets = SOCKETS.map(|name| format!("snowbank-{name}.socket")).join(" ");
    for (section, key) in [(&service, "Sockets"), (&unit, "Requires"), (&unit, "After")] {
        assert_eq!(section[key][0], sockets, "{key}");
    }
    for (name, port) in SOCKETS.iter().zip(["80", "443"]) {
        let socket = section(&text(&format!("deploy/systemd/snowbank-{name}.socket")), "Socket");
        assert_eq!((&socket["FileDescriptorName"][0], socket["ListenStream"][0].as_str()), (&(*name).to_owned(), port));
        assert!(config.contains(&format!("address = \"fd:{name}\"")), "{name}");
    }
    let key = "/run/credentials/snowbank.service/snowbank.signing-key";
    assert!(config.contains(key) && service["LoadCredential"].iter().any(|name| key.ends_with(name)));
    let stop: u64 = service["TimeoutStopSec"][0].parse().expect("seconds");
    assert!(stop > seconds_to_stop(&config), "systemd would kill what drains");
    assert!(service["ExecStart"][0].ends_with("/snowbank serve --config /etc/snowbank/snowbank.toml"));
}

#[test]
fn the_sockets_are_served_by_their_names() {
    let machine = Machine::new();
    let config = machine.here(&text("deploy/systemd/snowbank.toml"));
    // No CA and no fixed port on the machine of a test.
    let config: Vec<&str> = config.lines().filter(|line| !line.starts_with("acme")).collect();
    let config = config.join("\n").replace("200 GiB", "64 MiB").replace("4 GiB", "64 MiB").replace(":9090", ":0");
    let file = machine.home().join("snowbank.toml");
    std::fs::write(&file, config).expect("a file");
    let state = machine.home().join("state");
    let at = |name: &str| machine.home().join(format!("{name}.sock")).display().to_string();
    if tool("systemd-socket-activate", &["--version"]).is_none() {
        return;
    }
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &at("http"), "--listen", &at("https"), "--fdname", &SOCKETS.join(":")]);
    command.args(["--setenv", &format!("STATE_DIRECTORY={}", state.display())]);
    command.args([env!("CARGO_BIN_EXE_snowbank"), "serve", "--config", file.to_str().expect("text")]);
    let program = Snowbank::run(&mut command, machine.home());
    program.log_line("Listening on", 1);
    let ask = |name: &str, url: &str| {
        let socket = at(name);
        let arguments = ["--silent", "--show-error", "--insecure", "--include", "--max-time", "60", "--unix-socket"];
        printed(&tool("curl", &[&arguments[..], &[&socket, url]].concat()).expect("curl"))
    };
    // The first who comes has it started.
    let plain = ask("http", "http://cache.example.org/nix-cache-info");
    assert!(plain.contains("308") && plain.contains("location: https://cache.example.org/nix-cache-info"), "{plain}");
    assert!(ask("https", "https://cache.example.org/nix-cache-info").contains("StoreDir: /nix/store"));
    assert!(state.join("tls").is_dir(), "its state is where systemd said");
    assert!(program.stop().success());
}
