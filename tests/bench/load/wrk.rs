//! wrk: small objects over HTTP/1.1. A script has it go through a list of targets and print what a program can read.

use super::{Load, output};
use std::fs;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = r#"
local requests, n = {}, 0
function init()
    for target in io.lines(os.getenv("BENCH_TARGETS")) do
        requests[#requests + 1] = wrk.format("GET", target)
    end
end
function request()
    n = n % #requests + 1
    return requests[n]
end
function done(summary, latency)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.requests, summary.bytes, summary.duration,
        latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout, e.status))
end
"#;

/// What to ask.
pub struct Wrk<'a> {
    /// `https://127.0.0.1:1234`
    pub base: String,
    pub connections: u64,
    pub seconds: u64,
    pub targets: &'a [String],
    /// For its script and its list.
    pub dir: &'a Path,
    /// All answers must be 404; else none may be an error.
    pub missing: bool,
}

impl Wrk<'_> {
    /// Asks, and sees that all was answered as it must be.
    pub fn run(&self) -> Load {
        let files = tempfile::tempdir_in(self.dir).expect("a directory for wrk");
        let (list, script) = (files.path().join("targets"), files.path().join("script.lua"));
        fs::write(&list, self.targets.join("\n")).expect("a list of targets");
        fs::write(&script, SCRIPT).expect("a script");
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", &self.connections.to_string(), "-d", &format!("{}s", self.seconds)]);
        // Late is late and no failure: the latencies tell it.
        command.args(["--timeout", "60s", "-s"]);
        let text = output(command.arg(&script).arg(&self.base).env("BENCH_TARGETS", &list));
        let result =
            text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("no result:\n{text}"));
        let numbers: Vec<f64> = result.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [requests, bytes, duration, p50, p99, failed, statuses] = numbers[..] else { panic!("{result}") };
        let expected = if self.missing { requests } else { 0.0 };
        assert!(
            failed < 1.0 && requests > 0.0 && (statuses - expected).abs() < 1.0,
            "not all is answered as it must be:\n{text}"
        );
        Load { seconds: duration / 1e6, requests, bytes, p50: p50 / 1000.0, p99: p99 / 1000.0 }
    }
}
