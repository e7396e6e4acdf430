//! `snowbank healthcheck`, through the life of a server as a container engine and Kubernetes see it.

use crate::support::cache::Key;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, run};
use std::net::TcpListener;
use std::path::PathBuf;

/// What it exits with and says.
fn asked(file: &std::path::Path) -> (Option<i32>, String) {
    let output = run(&["healthcheck", "--config", file.to_str().expect("text")]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

/// A configuration in which nothing but the address for operators is right.
fn only_admin(home: &std::path::Path, address: &str) -> PathBuf {
    let file = home.join("health.toml");
    let text = format!("mistake = 1\n[sign]\nkey_files = [\"/does/not/exist\"]\n[admin]\naddress = \"{address}\"\n");
    std::fs::write(&file, text).expect("a file");
    file
}

/// The order of the kubelet: probes, SIGTERM, probes and clients that still come, the end.
#[tokio::test]
async fn it_is_well_until_it_is_told_to_stop_and_serves_on_for_the_delay() {
    let (origin, key) = (Origin::start(), Key::new("health-1"));
    let setup = Setup::in_front_of(&origin, &key).also("[shutdown]\ndelay = \"3 s\"\n");
    let mut program = setup.start();
    let address = program.log_after("admin on http://");
    let file = only_admin(setup.home(), &address);
    assert_eq!(asked(&file), (Some(0), "ready\n".to_owned()));
    program.ask_to_stop();
    program.log_line("not ready any more", 0);
    let (status, said) = asked(&file);
    assert_eq!(status, Some(1));
    assert_eq!(said, format!("not ready: the [admin] address {address}: 503 Service Unavailable: draining\n"));
    assert_eq!(program.operator("GET", "/healthz", "").0, 200, "no reason to kill it");
    program.http().get("/nix-cache-info").await.expect(200);
    assert!(program.wait().success());
    let (status, said) = asked(&file);
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[test]
fn a_server_that_hangs_or_is_another_one_is_not_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let file = only_admin(dir.path(), &hangs.local_addr().expect("an address").to_string());
    let (status, said) = asked(&file);
    assert_eq!(status, Some(1));
    assert!(said.ends_with(": no answer within 3 seconds\n"), "{said}");

    // A server's own address for clients has no such page.
    let snowbank = Setup::new().start();
    let file = only_admin(dir.path(), &snowbank.http_address().to_string());
    let (status, said) = asked(&file);
    assert!(status == Some(1) && said.contains(": 404 Not Found: "), "{status:?} {said}");
}
