//! Starting, being told what to do, and stopping.

use crate::support::PATIENCE;
use crate::support::cache::{Key, Object};
use crate::support::client::{End, Target};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{self, Setup, Snowbank};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn without_a_file_it_mirrors_cache_nixos_org_and_prints_what_to_paste() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let state = home.path().join("state");
    let environment = [("STATE_DIRECTORY".to_owned(), state.to_str().expect("text").to_owned())];
    // A network namespace of its own, because its ports are fixed.
    let mut wrapper = vec!["unshare", "--net"];
    let root = rustix::process::getuid().is_root();
    if !root {
        wrapper.push("--map-root-user");
    }
    wrapper.extend(["sh", "-c", "busybox ip link set lo up && exec \"$@\"", "sh"]);
    let wrapper: Vec<String> = wrapper.into_iter().map(str::to_owned).collect();
    let mut certificates = Vec::new();
    for _ in 0..2 {
        let program = Snowbank::spawn(&wrapper, &["serve"], &environment, home.path());
        let url = program.log_after("substituters = ");
        assert!(url.starts_with("https://"), "{url}");
        let key = program.log_after("trusted-public-keys = ");
        assert_eq!(key, "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=");
        let file = program.log_after("ssl-cert-file = ");
        certificates.push(std::fs::read_to_string(&file).expect("the file that is told"));
        let plain = format!("http://{}", program.log_after("listening on http://"));
        let encrypted = format!("https://{}", program.log_after("listening on https://"));
        for url in [&url, &plain, &encrypted] {
            let id = program.id().to_string();
            let user: &[&str] = if root { &[] } else { &["--user", "--preserve-credentials"] };
            let output = Command::new("nsenter")
                .args(["--target", &id, "--net"])
                .args(user)
                .args(["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", &file])
                .arg(format!("{url}/nix-cache-info"))
                .output()
                .expect("nsenter and curl run");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("StoreDir: /nix/store"), "{url}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(program.stop().success());
    }
    assert_eq!(certificates[0], certificates[1], "the certificate is kept");
}

#[tokio::test]
async fn an_upstream_and_listeners_from_the_command_line() {
    let (origin, key) = (Origin::start(), Key::new("flag-1"));
    let object = Object::new("flagged", 700_000);
    origin.publish(&object, &key);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (dir, socket) = (home.path().join("state"), home.path().join("s"));
    let upstream = format!("{},{}", origin.url(), key.public());
    let unix = format!("unix:{}", socket.display());
    let arguments = [
        "serve",
        "--upstream",
        &upstream,
        "--dir",
        dir.to_str().expect("text"),
        "--listen",
        "http://127.0.0.1:0",
        "--listen",
        "https://127.0.0.1:0",
        "--listen",
        &unix,
    ];
    let program = Snowbank::spawn(&[], &arguments, &[], home.path());
    let ca = program.log_after("ssl-cert-file = ");
    let ca = CertificateDer::pem_file_iter(ca).expect("the file that is told");
    let ca = ca.collect::<Result<Vec<_>, _>>().expect("certificates");
    let https = program.log_after("listening on https://").parse().expect("an address");
    for client in [program.http(), Target::Https(https, ca), program.unix()] {
        client.get(&client.nar_target(&object).await).await.expect_bytes(&object.file);
    }
    assert!(program.log_after("trusted-public-keys = ").contains(&key.public()));
    drop(program);
}

#[tokio::test]
async fn sigterm_lets_running_downloads_finish_and_takes_no_new_ones() {
    let (origin, key) = (Origin::start(), Key::new("drain-1"));
    let object = Object::new("drained", 3_000_000);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2_000_000, &gate));
    let mut program = Setup::in_front_of(&origin, &key).start();
    let target = program.http().nar_target(&object).await;
    let mut plain = program.http().start("GET", &target, &[]).await;
    let mut encrypted = program.https().start("GET", &target, &[]).await;
    let h2 = program.https().h2().await;
    let stream = h2.start(&target, &[]).await;
    let (mut first, mut second) = (plain.exactly(1_000_000).await, encrypted.exactly(1_000_000).await);
    let clients = [program.http(), program.https(), program.unix()];
    program.ask_to_stop();
    for client in &clients {
        while !client.is_gone().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    assert!(program.runs(), "it waits for the downloads");
    gate.open();
    for (exchange, body) in [(&mut plain, &mut first), (&mut encrypted, &mut second)] {
        let (rest, end) = exchange.rest().await;
        body.extend_from_slice(&rest);
        assert_eq!(end, End::Clean);
        crate::support::client::assert_same(body, &object.file);
    }
    use http_body_util::BodyExt as _;
    let body = stream.into_body().collect().await.expect("the whole of the stream").to_bytes();
    crate::support::client::assert_same(&body, &object.file);
    assert!(program.wait().success());
}

#[tokio::test]
async fn downloads_longer_than_the_drain_are_cut_and_not_ended() {
    let (origin, key) = (Origin::start(), Key::new("drain-1"));
    let object = Object::new("cut-at-exit", 3_000_000);
    let gate = Gate::new();
    origin.publish_narinfo(&object, &key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2_000_000, &gate));
    let program = Setup::in_front_of(&origin, &key).also("[shutdown]\ndrain = \"1 s\"\n").start();
    let target = program.http().nar_target(&object).await;
    let mut plain = program.http().start("GET", &target, &[]).await;
    let h2 = program.https().h2().await;
    let (response, (rest, end), _) = tokio::join!(h2.get(&target), plain.rest(), async { program.ask_to_stop() });
    assert!(matches!(end, End::Broken(_)), "a clean end after {} bytes", rest.len());
    assert!(matches!(response.end, End::Broken(_)), "a clean end after {} bytes", response.body.len());
}

/// A log on a full disk and a reader of stdout that is gone, then the other way round.
#[tokio::test]
async fn it_serves_though_nothing_can_be_told() {
    for (stdout, stderr) in [(full(), closed_pipe()), (closed_pipe(), full()), (full(), full())] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let socket = home.path().join("s");
        let mut program = Command::new(env!("CARGO_BIN_EXE_snowbank"))
            .args(["serve", "--upstream", "http://127.0.0.1:9", "--listen"])
            .arg(format!("unix:{}", socket.display()))
            .arg("--dir")
            .arg(home.path().join("state"))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("the program starts");
        let client = Target::Unix(socket);
        let deadline = Instant::now() + PATIENCE;
        while client.is_gone().await {
            assert!(Instant::now() < deadline, "it does not listen: {:?}", program.try_wait());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..3 {
            let answer = client.get("/nix-cache-info").await;
            answer.expect(200);
        }
        ask(program.id(), Signal::TERM);
        let status = tokio::task::spawn_blocking(move || program.wait()).await.expect("a thread").expect("its end");
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").expect("a device that is always full").into()
}

/// The end of a pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

fn ask(process: u32, signal: Signal) {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("it runs");
}

#[test]
fn a_terminal_that_is_gone_ends_it_in_order() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = home.path().join("state");
    // Without a file there is nothing to read again.
    let arguments = ["serve", "--upstream", "http://127.0.0.1:9", "--listen", "http://127.0.0.1:0", "--dir"];
    let arguments = [&arguments[..], &[dir.to_str().expect("text")]].concat();
    let mut program = Snowbank::spawn(&[], &arguments, &[], home.path());
    program.log_after("listening on http://");
    ask(program.id(), Signal::HUP);
    assert!(program.wait().success());
    program.log_line("SIGHUP: draining", 0);
}

#[test]
fn an_idle_program_stops_at_once() {
    let (origin, key) = (Origin::start(), Key::new("idle-1"));
    let program = Setup::in_front_of(&origin, &key).start();
    assert!(program.stop().success());
}

#[test]
fn a_wrong_configuration_tells_every_mistake_and_exits_64() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = home.path().join("wrong.toml");
    let text = "[store]\ndisk = \"much\"\ndist = 3\n\n[[listen]]\naddress = \"nowhere\"\n\n\
                [[upstream]]\nurl = \"gopher://example.org\"\ntrust = \"blindly\"\n\n[nonsense]\n";
    std::fs::write(&file, text).expect("a file");
    let path = file.to_str().expect("text");
    for arguments in [["serve", "--config", path].as_slice(), &["check-config", path]] {
        let output = snowbank::run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        for wrong in
            ["store.disk", "much", "store.dist", "listen[0].address", "nowhere", "gopher", "blindly", "nonsense"]
        {
            assert!(said.contains(wrong), "{wrong} is not mentioned:\n{said}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_printed_configuration_is_one_and_the_same_again() {
    let setup = Setup::new().upstream("https://cache.example.org", &Key::new("printed-1"));
    let file = setup.home().join("first.toml");
    std::fs::write(&file, setup.config()).expect("a file");
    let printed = snowbank::run(&["print-config", "--config", file.to_str().expect("text")]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let again = setup.home().join("again.toml");
    std::fs::write(&again, &printed.stdout).expect("a file");
    let checked = snowbank::run(&["check-config", again.to_str().expect("text")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let twice = snowbank::run(&["print-config", "--config", again.to_str().expect("text")]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&twice.stdout));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("cache.example.org"));
}

#[test]
fn an_address_in_use_is_told_and_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = home.path().join("state");
    let listen = format!("http://{address}");
    let arguments = ["serve", "--listen", &listen, "--dir", dir.to_str().expect("text")];
    let mut program = Snowbank::spawn(&[], &arguments, &[], home.path());
    assert!(!program.wait().success());
    let line = program.log_line(&address, 0);
    assert_eq!(line.matches("os error").count(), 1, "the reason is told once: {line}");
}

#[tokio::test]
async fn other_methods_are_refused_and_do_nothing() {
    let (origin, key) = (Origin::start(), Key::new("methods-1"));
    let object = Object::new("methods", 1_000);
    origin.publish(&object, &key);
    let program = Setup::in_front_of(&origin, &key).start();
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let answer = program.http().request(method, &object.narinfo_target(), &[]).await;
        assert!([405, 501].contains(&answer.status), "{method}: {}", answer.status);
    }
    assert_eq!(origin.count(&object.narinfo_target()), 0);
}

#[tokio::test]
async fn a_kept_connection_answers_many_requests_in_turn() {
    let (origin, key) = (Origin::start(), Key::new("kept-1"));
    let program = Setup::in_front_of(&origin, &key).start();
    for client in [program.http(), program.https(), program.unix()] {
        let mut connection = client.connect().await;
        for n in 0..20 {
            let object = Object::new(&format!("kept-{n}"), n * 40_000);
            origin.publish(&object, &key);
            let (narinfo, kept) = connection.get(&object.narinfo_target()).await;
            narinfo.expect(200);
            let (nar, kept) = kept.get(&object.served_target()).await;
            nar.expect_bytes(&object.file);
            let (miss, kept) = kept.get("/0123456789abcdfghijklmnpqrsvwxyz.ls").await;
            miss.expect(404);
            connection = kept;
        }
    }
}
