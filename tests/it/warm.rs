//! `snowbank warm`: what is asked for later is fetched before.

use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::static_cache;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn warm(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let file = setup.home().join("snowbank.toml");
    let output = run(&[&["warm", "--config", file.to_str().expect("text")], words].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_closure_is_here_before_a_client_asks() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let setup = Setup::in_front_of(&origin, fixture.key())
        .store("disk = \"512 MiB\"\nmemory = \"64 MiB\"")
        .admin_port(free_port());
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let (status, told) = warm(&setup, &[fixture.path("everything")]);
    let paths = fixture.infos().len();
    assert!(status == Some(0) && told.contains(&format!("{paths} of {paths}: {paths} fetched (")), "{told}");
    // The same again asks nobody.
    let asked = origin.total();
    let (status, told) = warm(&setup, &[fixture.path("everything")]);
    let all_here = format!("{paths} of {paths}: 0 fetched (0 MiB), {paths} were here already, 0 not fetched");
    assert!(status == Some(0) && told.contains(&all_here), "{told}");
    assert_eq!(origin.total(), asked);
    snowbank.wait_until_stored();
    snowbank.kill();
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let _off = origin.switch_off();
    let machine = Machine::new(&[&fixture.key().public()]);
    machine.substitute("everything", &snowbank.http_url(), None);
    machine.verify_all();
}

/// A server in front of two paths, the first of which refers to the second.
fn two_paths() -> (Origin, Setup, Snowbank, Object, Object) {
    let (origin, key) = (Origin::start(), Key::new("warm-1"));
    let referred = Object::new("referred", 50_000);
    let mut root = Object::new("root", 50_000);
    root.references = vec![referred.base_name.clone(), root.base_name.clone()];
    origin.publish(&referred, &key);
    origin.publish(&root, &key);
    let setup = Setup::in_front_of(&origin, &key).admin_port(free_port());
    let snowbank = setup.start();
    (origin, setup, snowbank, root, referred)
}

#[test]
fn a_list_may_come_from_a_file_or_from_stdin_and_may_be_all_there_is() {
    let (origin, setup, _snowbank, root, referred) = two_paths();
    let (status, told) = warm(&setup, &["--no-closure", root.hash_part()]);
    assert!(status == Some(0) && told.contains("1 of 1: 1 fetched (0 MiB), 0 were here"), "{told}");
    assert_eq!(origin.count(&referred.narinfo_target()), 0);
    let file = setup.home().join("list");
    std::fs::write(&file, format!("\n/nix/store/{}\n", root.base_name)).expect("a list");
    let (status, told) = warm(&setup, &["--from", file.to_str().expect("text")]);
    assert!(status == Some(0) && told.contains("2 of 2: 1 fetched (0 MiB), 1 were here already, 0 not"), "{told}");
    let Output { status, stderr, .. } = {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snowbank"))
            .args(["warm", "--from", "-", "--config"])
            .arg(setup.home().join("snowbank.toml"))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        writeln!(child.stdin.take().expect("its stdin"), "{}", referred.hash_part()).expect("a list");
        child.wait_with_output().expect("its end")
    };
    let told = String::from_utf8_lossy(&stderr);
    assert!(status.success() && told.contains("1 of 1: 0 fetched (0 MiB), 1 were here"), "{told}");
}

#[test]
fn what_is_not_to_be_had_is_told_and_the_rest_comes() {
    let (origin, setup, snowbank, root, referred) = two_paths();
    let missing = Object::new("missing", 1_000);
    origin.serve(&referred.file_target(), Reply::bytes(vec![0; referred.file.len()]));
    let (status, told) = warm(&setup, &[root.hash_part(), missing.hash_part()]);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains(&format!("{}: no upstream has it", missing.hash_part())), "{told}");
    assert!(told.contains(&format!("{}: ", referred.hash_part())), "{told}");
    assert!(told.contains("3 of 3: 1 fetched (0 MiB), 0 were here already, 2 not fetched"), "{told}");
    for (words, status, said) in [
        (&["hello"][..], 2, "400 Bad Request: hello is no store path"),
        (&["--from", "/nonexistent/list"], 2, "/nonexistent/list"),
        (&[], 64, "required"),
    ] {
        let (found, told) = warm(&setup, words);
        assert!(found == Some(status) && told.contains(said), "{words:?}: {found:?} {told}");
    }
    assert_eq!(snowbank.operator("GET", "/warm", "").0, 405);
    assert_eq!(snowbank.operator("POST", "/warm", "Origin: https://elsewhere.example.org\r\n").0, 403);
    assert_eq!(snowbank.operator("POST", "/warm?closure=maybe", "").0, 400);
    assert_eq!(snowbank.operator("POST", "/warm", "Content-Length: 99999999\r\n").0, 413);
    drop(snowbank);
    let (status, told) = warm(&setup, &[root.hash_part()]);
    assert!(status == Some(2) && told.contains("asking the server at the [admin] address"), "{told}");
}

/// One list at a time; and it is over when the command is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_the_command() {
    let (origin, setup, snowbank, root, _) = two_paths();
    let (gate, setup, snowbank) = (Gate::new(), Arc::new(setup), Arc::new(snowbank));
    let waited_for = Object::new("waited-for", 1_000);
    origin.serve(&waited_for.narinfo_target(), Reply::status(404).gate_before_head(&gate));
    let file = setup.home().join("snowbank.toml");
    let mut first = Command::new(env!("CARGO_BIN_EXE_snowbank"))
        .args(["warm", "--config"])
        .arg(&file)
        .arg(waited_for.hash_part())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    gate.reached().await;
    let again = |setup: &Arc<Setup>| {
        let (setup, path) = (Arc::clone(setup), root.hash_part().to_owned());
        tokio::task::spawn_blocking(move || warm(&setup, &[&path]))
    };
    let (status, told) = again(&setup).await.expect("a thread");
    assert!(status == Some(2) && told.contains("409 Conflict: another list is being fetched"), "{told}");
    first.kill().and_then(|()| first.wait()).expect("its end");
    // The server notices that it is gone when it is.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let (status, told) = again(&setup).await.expect("a thread");
        if status == Some(0) {
            break;
        }
        assert!(told.contains("409") && std::time::Instant::now() < deadline, "{told}");
    }
    gate.open();
    drop(snowbank);
}
