//! The end, step by step (R34), and a log that nobody reads.

use crate::support::cache::{Key, Object};
use crate::support::client::{End, Target};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::{PATIENCE, within};
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

/// A program with a download that goes on when the gate opens.
async fn downloading(
    setup: Setup,
    origin: &Origin,
    key: &Key,
) -> (Snowbank, crate::support::client::Exchange, Object, Gate) {
    let object = Object::new("downloading", 3_000_000);
    let gate = Gate::new();
    origin.publish_narinfo(&object, key);
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).gate_at(2_000_000, &gate));
    let program = setup.start();
    let target = program.http().nar_target(&object).await;
    let exchange = program.http().start("GET", &target, &[]).await;
    (program, exchange, object, gate)
}

async fn until_gone(target: &Target) {
    while !target.is_gone().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn readiness_ends_first_and_new_clients_are_served_for_the_delay() {
    let (origin, key) = (Origin::start(), Key::new("delay-1"));
    let delay = Duration::from_secs(3);
    let mut program = Setup::in_front_of(&origin, &key).also("[shutdown]\ndelay = \"3 s\"\n").start();
    let http = program.http();
    let begun = Instant::now();
    program.ask_to_stop();
    while program.operator("GET", "/readyz", "").0 != 503 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (answer, kept) = http.connect().await.get("/nix-cache-info").await;
    answer.expect(200);
    let (answer, _) = kept.get("/nix-cache-info").await;
    assert_eq!(answer.expect(200).field("connection"), None, "nobody is sent away yet");
    assert!(begun.elapsed() < delay, "the machine is too slow for this test");
    until_gone(&http).await;
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
    assert!(program.wait().success());
}

#[tokio::test]
async fn told_twice_it_ends_at_once_and_cuts_what_runs() {
    let (origin, key) = (Origin::start(), Key::new("twice-1"));
    let kept = Object::new("kept", 700_000);
    origin.publish(&kept, &key);
    let setup = Setup::in_front_of(&origin, &key);
    let (mut program, mut exchange, _, _gate) = downloading(setup.clone(), &origin, &key).await;
    program.wait_for_disk();
    program.http().get(&program.http().nar_target(&kept).await).await.expect_bytes(&kept.file);
    let http = program.http();
    program.ask_to_stop();
    until_gone(&http).await;
    assert!(program.runs(), "it waits for the download");
    let begun = Instant::now();
    program.ask_to_stop();
    let (status, (rest, end)) =
        tokio::join!(tokio::task::spawn_blocking(move || (program.wait(), program)), exchange.rest());
    let (status, program) = status.expect("a thread");
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(end, End::Broken(_)), "a clean end after {} bytes", rest.len());
    assert!(program.log().iter().any(|line| line.contains("SIGTERM once more")));
    // What it left is a store to start with.
    let again = setup.start();
    again.wait_for_disk();
    again.http().get(&again.http().nar_target(&kept).await).await.expect_bytes(&kept.file);
    assert!(again.stop().success());
}

#[tokio::test]
async fn nothing_is_reloaded_while_it_ends() {
    let (origin, key) = (Origin::start(), Key::new("drain-2"));
    let setup = Setup::in_front_of(&origin, &key);
    let (mut program, mut exchange, object, gate) = downloading(setup, &origin, &key).await;
    let http = program.http();
    program.ask_to_stop();
    until_gone(&http).await;
    assert_eq!(program.operator("POST", "/reload", "").0, 503);
    program.hang_up();
    program.log_line("SIGHUP: nothing is read again", 0);
    assert!(program.runs());
    gate.open();
    let (body, end) = exchange.rest().await;
    assert_eq!(end, End::Clean);
    crate::support::client::assert_same(&body, &object.file);
    assert!(program.wait().success());
}

/// Its stderr is a pipe that is never read while 20,000 requests are made, each of which is a line.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    const REQUESTS: usize = 20_000;
    const CLIENTS: usize = 4;
    let setup = Setup::new().upstream("http://127.0.0.1:9", &Key::new("unread-1"));
    let path = setup.home().join("http.sock");
    let config = setup.write();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_snowbank"))
        .args(["serve", "--config", config.to_str().expect("text")])
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(writer)
        .spawn()
        .expect("the program starts");
    let client = Target::Unix(path);
    let deadline = Instant::now() + PATIENCE;
    while client.is_gone().await {
        assert!(Instant::now() < deadline, "it does not listen: {:?}", program.try_wait());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    let asking = (0..CLIENTS).map(|_| async {
        let mut connection = client.connect().await;
        for _ in 0..REQUESTS / CLIENTS {
            let (answer, kept) = connection.get("/nix-cache-info").await;
            answer.expect(200);
            connection = kept;
        }
    });
    futures_util::future::join_all(asking).await;
    println!("{REQUESTS} requests in {:?} with a log that nobody reads", begun.elapsed());
    let id = rustix::process::Pid::from_raw(i32::try_from(program.id()).expect("an id")).expect("an id");
    let (read, mut catching_up) = tokio::sync::watch::channel(0);
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.inspect(|line| read.send_modify(|bytes| *bytes += line.len())).collect::<Vec<_>>()
    });
    // Half of the queue is free then: whoever reads is not behind when the end is told.
    let caught_up = catching_up.wait_for(|bytes| *bytes > 512 << 10);
    within("somebody to read the log", caught_up).await.expect("a reader");
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
    let status = tokio::task::spawn_blocking(move || program.wait()).await.expect("a thread").expect("its end");
    assert_eq!(status.code(), Some(0), "{status}");
    let lines = reading.join().expect("the log is read");
    let requests = lines.iter().filter(|line| line.contains("nix-cache-info")).count();
    let told: usize = lines
        .iter()
        .filter(|line| line.contains("lines of the log were dropped"))
        .filter_map(|line| line.split("lines=").nth(1)?.split_whitespace().next()?.parse::<usize>().ok())
        .sum();
    assert!(told > 0, "nothing was dropped: {requests} requests are in the log");
    assert!(requests + told >= REQUESTS, "{requests} requests in the log, and {told} lines dropped");
    assert!(lines.iter().any(|line| line.contains("stopped")), "the last lines are there");
}
