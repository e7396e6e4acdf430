//! The real Prometheus, scraping the program under test each second.

use super::PATIENCE;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A Prometheus of its own; dropping it kills it.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _home: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes this admin address as the job `snowbank`, and waits until it answers.
    pub fn scraping(target: SocketAddr) -> Self {
        Self::alerting(target, "groups: []\n")
    }

    /// The same, with these rules, which it looks at each second.
    pub fn alerting(target: SocketAddr, rules: &str) -> Self {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for Prometheus");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{ job_name: snowbank, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        let file = home.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a configuration file");
        std::fs::write(home.path().join("rules.yml"), rules).expect("a file of rules");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", home.path().join("series").display()))
            .arg(format!("--web.listen-address={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        let prometheus = Self { child, address: port, _home: home };
        prometheus.eventually("it is ready", || prometheus.get("/-/ready").starts_with("HTTP/1.0 200"));
        prometheus
    }

    /// Asks again until `holds`; an answer over the network is the pause between.
    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::yield_now();
        }
    }

    /// The series of an instant query: labels and value. An expression that is none fails the test.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let answer = self.get(&format!("/api/v1/query?query={}", escaped(expression)));
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["status"], "success", "{expression}: {body}");
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a value");
        let series = body["data"]["result"].as_array().expect("series");
        series.iter().map(|series| (series["metric"].clone(), value(series))).collect()
    }

    /// The sum of the series of an expression.
    #[track_caller]
    pub fn sum(&self, expression: &str) -> f64 {
        self.query(expression).iter().map(|(_, value)| value).sum()
    }

    /// An answer of HTTP/1.0, whole; nothing while it does not listen.
    fn get(&self, target: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            write!(stream, "GET {target} HTTP/1.0\r\nHost: prometheus\r\n\r\n").expect("a request");
            stream.read_to_string(&mut answer).expect("an answer of text");
        }
        answer
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
