//! h2load: NARs over either protocol, and small objects over HTTP/2.
//!
//! Each of its clients goes through the list of targets from its beginning. Percentiles come from its log of requests.

use super::{Load, output};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What to ask.
pub struct H2load<'a> {
    /// `https://127.0.0.1:1234`
    pub base: String,
    pub h1: bool,
    pub clients: u64,
    /// Requests of one client at a time.
    pub streams: u64,
    pub amount: Amount,
    pub targets: &'a [String],
    /// For its list and its log.
    pub dir: &'a Path,
    /// The status that every answer must have, by its first digit.
    pub status: u8,
}

/// When it is over.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    Requests(u64),
    Seconds(u64),
}

impl H2load<'_> {
    /// Asks, and sees that all was answered as it must be.
    pub fn run(&self) -> Load {
        let files = tempfile::tempdir_in(self.dir).expect("a directory for h2load");
        let (list, log) = (files.path().join("targets"), files.path().join("log"));
        let lines: Vec<String> = self.targets.iter().map(|target| format!("{}{target}\n", self.base)).collect();
        fs::write(&list, lines.concat()).expect("a list of targets");
        let mut command = Command::new("h2load");
        command.args(["-c", &self.clients.to_string(), "-m", &self.streams.to_string()]);
        // Windows as wide as curl's and so Nix's, which keep the servers from waiting.
        command.args(["-w", "24", "-W", "24"]);
        if self.h1 {
            command.arg("--h1");
        }
        match self.amount {
            Amount::Requests(requests) => command.args(["-n", &requests.to_string()]),
            Amount::Seconds(seconds) => command.args(["-D", &seconds.to_string()]),
        };
        command.arg("--log-file").arg(&log).arg("-i").arg(&list);
        let text = output(&mut command);
        self.understand(&text, &fs::read_to_string(&log).unwrap_or_default())
    }

    fn understand(&self, text: &str, log: &str) -> Load {
        let line = |begin: &str| {
            text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin}\n{text}"))
        };
        let requests = number_before(line("requests:"), " done");
        let codes = ["2xx", "3xx", "4xx", "5xx"].map(|code| number_before(line("status codes:"), &format!(" {code}")));
        let good = codes[usize::from(self.status) - 2];
        let failed = number_before(line("requests:"), " errored") + number_before(line("requests:"), " timeout");
        assert!(
            failed < 1.0 && good > 0.0 && good >= codes.iter().sum::<f64>(),
            "not all is answered with {}xx:\n{text}",
            self.status
        );
        if let Amount::Requests(asked) = self.amount {
            assert!(good as u64 == asked, "{asked} were asked:\n{text}");
        }
        let seconds = match self.amount {
            Amount::Seconds(seconds) => seconds as f64,
            Amount::Requests(_) => duration(line("finished in").split([' ', ',']).nth(2).unwrap_or_default()),
        };
        let data = line("traffic:").rsplit_once(") data").and_then(|(before, _)| before.rsplit_once('('));
        let bytes = data.and_then(|(_, number)| number.parse().ok()).unwrap_or_else(|| panic!("no bytes\n{text}"));
        let mut times: Vec<f64> = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
        times.sort_by(f64::total_cmp);
        let quantile =
            |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN) / 1000.0;
        Load { seconds, requests, bytes, p50: quantile(0.5), p99: quantile(0.99) }
    }
}

/// The number in front of a word: `… 25 2xx, …`.
fn number_before(line: &str, word: &str) -> f64 {
    let before = line.split(word).next().filter(|before| before.len() < line.len()).unwrap_or_default();
    let digits = before.rsplit([' ', ',']).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no number before {word:?} in {line:?}"))
}

/// `1.20s`, `260.12ms`, `87us`.
fn duration(text: &str) -> f64 {
    let parsed = |unit: &str, factor: f64| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor);
    parsed("us", 1e-6)
        .or_else(|| parsed("ms", 1e-3))
        .or_else(|| parsed("s", 1.0))
        .unwrap_or_else(|| panic!("no time: {text:?}"))
}
