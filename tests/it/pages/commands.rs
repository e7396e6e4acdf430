//! The document of `/status`, and the commands that show it.

use super::{Halfway, MB, status};
use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::origin::{Origin, Reply};
use crate::support::pebble::free_port;
use crate::support::snowbank::{Setup, Snowbank, run};
use crate::support::trust::eventually;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn file(setup: &Setup) -> String {
    setup.home().join("snowbank.toml").to_str().expect("a path of text").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_follows_what_happens() {
    let halfway = Halfway::new("document");
    let snowbank = halfway.setup.start();
    snowbank.wait_for_disk();
    let before = status(&snowbank);
    assert_eq!(before["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(before["fills"], json!({ "running": 0, "wanted": 0, "list": [] }));
    assert_eq!(before["store"]["disk"]["state"], "up");
    assert!(before["store"]["disk"]["capacity_bytes"].as_u64() > Some(200 << 20), "{before}");

    let client = snowbank.http();
    let target = client.nar_target(&halfway.object).await;
    let mut exchange = client.start("GET", &target, &[]).await;
    halfway.gate.reached().await;
    exchange.exactly(MB).await;
    eventually("all that was sent is there", async || {
        status(&snowbank)["fills"]["list"][0]["received_bytes"] == json!(2 * MB)
    })
    .await;
    let now = status(&snowbank);
    let fill = &now["fills"]["list"][0];
    assert_eq!(
        (&fill["what"], &fill["upstream"], &fill["size_bytes"], &fill["readers"]),
        (&json!(halfway.what()), &json!("one"), &json!(halfway.object.file.len()), &json!(1))
    );
    assert_eq!((&now["fills"]["running"], &now["fills"]["wanted"]), (&json!(1), &json!(1)));
    assert!(now["traffic"]["received_bytes"].as_u64() >= Some(2 * MB as u64), "{now}");

    halfway.gate.open();
    exchange.finish().await;
    client.get(&halfway.object.narinfo_target()).await.expect(200);
    eventually("it is done", async || status(&snowbank)["fills"]["wanted"] == 0).await;
    let after = status(&snowbank);
    assert_eq!((&after["requests"]["lookups"], &after["requests"]["hits"]), (&json!(3), &json!(1)), "{after}");
    assert_eq!(after["requests"]["by_outcome"]["miss"], 2);
    assert!(after["traffic"]["sent_bytes"].as_u64() > Some(8 * MB as u64), "{after}");
    let upstream = &after["upstreams"][0];
    assert_eq!(
        (&upstream["name"], &upstream["state"], &upstream["requests"]),
        (&json!("one"), &json!("up"), &json!(2))
    );
    assert!(upstream["mean_seconds"].as_f64() > Some(0.0), "{after}");
    assert!(after["certificates"][0]["days_left"].as_f64().is_some(), "{after}");
    assert!(after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64());
    assert_eq!(halfway.origin.count(&halfway.object.file_target()), 1);
}

#[tokio::test]
async fn the_last_warnings_are_told_without_a_secret() {
    let (origin, key) = (Origin::start(), Key::new("pages-2"));
    let object = Object::new("refused", 1000);
    origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&Key::new("another-1")])));
    let snowbank = Setup::in_front_of(&origin, &key).also("[log]\nformat = \"json\"").start();
    let secret = "Bearer thisisasecret";
    let answer = snowbank.http().get_with(&object.narinfo_target(), &[("Authorization", secret)]).await;
    answer.expect(404);
    eventually("it is told", async || {
        let errors = status(&snowbank)["errors"].to_string();
        assert!(!errors.contains("thisisasecret"), "{errors}");
        errors.contains(object.hash_part())
    })
    .await;
    let told = &status(&snowbank)["errors"][0];
    assert!(told["level"] == "warning" && told["times"] == 1, "{told}");
    assert!(snowbank.log_line(object.hash_part(), 0).contains("WARN"), "what is told is in the log");
}

#[tokio::test]
async fn the_live_page_may_ask_its_server_and_nobody_else() {
    let snowbank = Setup::new().upstream("http://127.0.0.1:9", &Key::new("pages-7")).start();
    let address = snowbank.log_after("admin on http://").parse().expect("an address");
    let mut connection = Target::Http(address).connect().await;
    connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let page = connection.answer("GET").await.finish().await.expect(200);
    let field = |name: &str| {
        let mut found = page.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name}: {:?}", page.fields));
        assert!(found.next().is_none(), "two of {name}");
        value.clone()
    };
    assert_eq!(field("content-type"), "text/html; charset=utf-8");
    assert_eq!((field("x-content-type-options"), field("referrer-policy")), ("nosniff".into(), "no-referrer".into()));
    let policy = field("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("; connect-src 'self'; "), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    // What it says is in the document, which is asked for by itself: there is nothing to fill in.
    assert!(!page.text().contains("127.0.0.1:9") && !page.text().contains(" onclick"), "{}", page.text());
    assert!(page.text().contains("<noscript>") && page.text().contains("/status"), "{}", page.text());
}

#[test]
fn status_is_for_people_and_json_for_programs() {
    let setup = Setup::new().admin_port(free_port()).upstream("http://127.0.0.1:9", &Key::new("pages-3"));
    let snowbank = setup.start();
    let config = file(&setup);
    let shown = run(&["status", "--config", &config]);
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.status.success() && shown.stderr.is_empty(), "{text}");
    for part in ["snowbank ", "requests ", "upstreams\n  127.0.0.1:9 ", "store\n  memory (nar)", "certificates\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let shown = run(&["status", "--config", &config, "--json"]);
    let document: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert!(shown.status.success() && document["upstreams"][0]["name"] == "127.0.0.1:9", "{document}");
    assert!(snowbank.stop().success());
    for arguments in [vec!["status", "--config", &config], vec!["top", "--config", &config], vec!["status", "--json"]] {
        let shown = run(&arguments);
        let error = String::from_utf8(shown.stderr).expect("text");
        assert_eq!((shown.status.code(), shown.stdout.len(), error.lines().count()), (Some(2), 0, 1), "{error}");
        assert!(error.contains("[admin] address"), "{error}");
    }
}

#[test]
fn something_else_at_the_address_is_told_apart() {
    let origin = Origin::start();
    let port = origin.address().port();
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("not-snowbank-{port}.toml"));
    std::fs::write(&config, format!("[admin]\naddress = \"127.0.0.1:{port}\"")).expect("a configuration");
    for (body, said) in [("{}", "not what snowbank tells"), ("\u{1b}[31m<html>", "not what snowbank tells")] {
        origin.serve("/status", Reply::bytes(body));
        let shown = run(&["status", "--config", config.to_str().expect("text")]);
        let error = String::from_utf8(shown.stderr).expect("text");
        assert!(shown.status.code() == Some(2) && error.contains(said) && !error.contains('\u{1b}'), "{error}");
    }
    origin.serve("/status", Reply::with_status(500, "\u{1b}[31mno"));
    let shown = run(&["status", "--config", config.to_str().expect("text")]);
    let error = String::from_utf8(shown.stderr).expect("text");
    assert!(shown.status.code() == Some(2) && error.contains("500") && !error.contains('\u{1b}'), "{error}");
    std::fs::remove_file(config).expect("it is there");
}

/// `top`, writing into a pipe.
struct Top {
    child: Child,
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
}

impl Top {
    fn start(config: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snowbank"))
            .args(["top", "--config", config, "--interval", "0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines: Some(lines) }
    }

    fn line(&mut self) -> String {
        self.lines.as_mut().expect("a pipe").next().expect("a line").expect("text")
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_writes_lines_into_a_pipe_and_outlives_the_server() {
    let (origin, key) = (Origin::start(), Key::new("pages-4"));
    let (object, port) = (Object::new("top", 3 * MB), free_port());
    origin.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &key).admin_port(port);
    let snowbank = setup.start();
    let mut top = Top::start(&file(&setup));
    assert!(top.line().starts_with("0.0 requests/s, - hits, "), "nothing happens");
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
    let sent = |line: &str| !line.contains(" 0 B/s sent");
    let found = (0..100).map(|_| top.line()).find(|line| sent(line)).expect("a line with what was sent");
    assert!(found.ends_with(" 0 of 1 upstreams down") && !found.contains('\u{1b}'), "{found}");
    // It waits for the next server at the same address.
    assert!(snowbank.stop().success());
    let _snowbank: Snowbank = setup.start();
    while top.line() == found {}
    // Whoever reads has seen enough: no error.
    top.lines = None;
    assert!(top.child.wait().expect("its end").success());

    let mut top = Top::start(&file(&setup));
    top.line();
    let id = rustix::process::Pid::from_raw(i32::try_from(top.child.id()).expect("an id")).expect("an id");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    assert!(top.child.wait().expect("its end").success());
}

/// `script` is the terminal: it says what is drawn, and what it is given are the keys.
#[test]
fn top_draws_in_a_terminal_and_leaves_it_as_it_was() {
    let setup = Setup::new().admin_port(free_port()).upstream("http://127.0.0.1:9", &Key::new("pages-5"));
    let _snowbank = setup.start();
    let top = format!("{} top --config {} --interval 0.1", env!("CARGO_BIN_EXE_snowbank"), file(&setup));
    for key in ["q", "\u{3}"] {
        let command = format!("trap : INT; stty rows 20 cols 60; stty -g; {top}; echo ended=$?; stty -g");
        let mut terminal = Command::new("script")
            .args(["--quiet", "--flush", "--command", &command, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is installed");
        let (mut drawn, mut piece) = (String::new(), [0; 4096]);
        let mut output = terminal.stdout.take().expect("a pipe");
        // Twice: the second time with rates.
        while drawn.matches("now  ").count() < 2 {
            let read = output.read(&mut piece).expect("what is drawn");
            assert!(read > 0, "{drawn:?}");
            drawn.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        let mut keys = terminal.stdin.take().expect("a pipe");
        keys.write_all(key.as_bytes()).expect("a key");
        output.read_to_string(&mut drawn).expect("what is drawn");
        drop(keys);
        terminal.wait().expect("its end");
        let (settings, rest) = drawn.split_once("\r\n").expect("settings");
        let (page, rest) = rest.split_once("\u{1b}[?25h\u{1b}[?1049l").expect("the end of the page");
        assert!(page.starts_with("\u{1b}[?1049h\u{1b}[?25l\u{1b}[H"), "{page:?}");
        assert!(page.contains("snowbank ") && page.contains("\u{1b}[20;1H\u{1b}[2mq ends it"), "{page:?}");
        assert_eq!(rest.replace("\r\n", "|"), format!("ended=0|{settings}|"), "after {key:?}");
        let longest =
            page.split("\r\n").map(|line| line.trim_start_matches("\u{1b}[H").find("\u{1b}[K").unwrap_or(0)).max();
        assert!(longest <= Some(60), "{page:?}");
    }
}
