//! What the tests about trust share: a program that signs, who was refused and why, a configuration that is read again,
//! and what a signed narinfo must look like.
//!
//! The names of the metric and of its labels stand here and nowhere else: [`Refusals`].

use super::PATIENCE;
use super::cache::{Key, narinfo_fields};
use super::snowbank::{Setup, Snowbank};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

/// Every reason for which something of an upstream is refused.
pub const REASONS: [&str; 16] = [
    "not-a-narinfo",
    "malformed",
    "other-path",
    "untrusted",
    "bad-url",
    "unprovable",
    "quarantined",
    "wrong-file-hash",
    "wrong-size",
    "wrong-nar-hash",
    "wrong-nar-size",
    "bad-nar",
    "too-deep",
    "undecodable",
    "wrong-address",
    "conflict",
];

impl Setup {
    /// Signs with these keys; `lines` go into `[sign]` as well.
    pub fn signing(self, keys: &[&Key], lines: &str) -> Self {
        let files: Vec<String> = keys
            .iter()
            .map(|key| {
                let path = self.home().join(format!("{}.key", key.name()));
                let _ = std::fs::remove_file(&path);
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .expect("a file for the key");
                file.write_all(key.secret().as_bytes()).expect("the key is written");
                format!("{path:?}")
            })
            .collect();
        self.also(&format!("[sign]\nkey_files = [{}]\n{lines}\n", files.join(", ")))
    }

    /// Adds an upstream with a name; `lines` say what makes it trusted.
    pub fn named_upstream(self, name: &str, url: &str, lines: &str) -> Self {
        self.upstream_with(url, &format!("name = {name:?}\n{lines}"))
    }
}

/// The lines of an upstream whose narinfos need a signature by one of these keys.
pub fn by_keys(keys: &[&Key]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("{:?}", key.public())).collect();
    format!("public_keys = [{}]", keys.join(", "))
}

impl Snowbank {
    /// Writes the configuration of this setup over that of the running program, and sends SIGHUP. Returns at once: what
    /// the new configuration changes shows when it shows, see [`eventually`].
    pub fn reload(&self, setup: &Setup) {
        self.reload_text(setup, &setup.config());
    }

    /// The same with any text as the configuration file.
    pub fn reload_text(&self, setup: &Setup, text: &str) {
        std::fs::write(setup.home().join("snowbank.toml"), text).expect("a configuration file");
        self.hang_up();
    }

    /// What was refused so far.
    pub fn refusals(&self) -> Refusals {
        Refusals::read(&self.metrics())
    }

    /// The lines of the log, warnings and worse, that hold all of these texts. A line is read a moment after what it tells of can be
    /// seen elsewhere, so the first one is waited for.
    pub fn warnings_with(&self, texts: &[&str]) -> Vec<String> {
        let grave = |line: &String| line.contains("WARN") || line.contains("ERROR");
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let lines =
                self.log().into_iter().filter(|line| grave(line) && texts.iter().all(|text| line.contains(text)));
            let lines: Vec<String> = lines.collect();
            if !lines.is_empty() || Instant::now() > deadline {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How often something was refused, by upstream and reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals(BTreeMap<(String, String), u64>);

impl Refusals {
    fn read(page: &str) -> Self {
        let label = |labels: &str, name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let samples = page.lines().filter_map(|line| line.strip_prefix("snowbank_upstream_refused_total{"));
        let counts = samples.map(|sample| {
            let (labels, value) = sample.rsplit_once("} ").expect("a sample");
            let upstream = label(labels, "upstream").expect("the upstream's name");
            let reason = label(labels, "reason").expect("a reason");
            assert!(REASONS.contains(&reason.as_str()), "{reason} is none of the known reasons");
            ((upstream, reason), value.parse().expect("a count"))
        });
        Self(counts.filter(|(_, count)| *count > 0).collect())
    }

    /// What came since `before`: upstream, reason, how often.
    pub fn since(&self, before: &Self) -> Vec<(String, String, u64)> {
        let grown = |key: &(String, String), now: u64| now - before.0.get(key).copied().unwrap_or_default();
        let new = self.0.iter().map(|(key, now)| (key.0.clone(), key.1.clone(), grown(key, *now)));
        new.filter(|(_, _, count)| *count > 0).collect()
    }

    /// How often this upstream was refused for any of these reasons.
    pub fn of(&self, upstream: &str, reasons: &[&str]) -> u64 {
        let fits = |(who, why): &(String, String)| who == upstream && reasons.contains(&why.as_str());
        self.0.iter().filter(|(key, _)| fits(key)).map(|(_, count)| count).sum()
    }
}

/// The values of the `Sig` lines by a key of this name.
pub fn signatures_named<'a>(narinfo: &'a str, name: &str) -> Vec<&'a str> {
    let named = |value: &&str| value.split_once(':').is_some_and(|(by, _)| by == name);
    narinfo_fields(narinfo, "Sig").into_iter().filter(named).collect()
}

/// Panics unless the narinfo has exactly one signature by each of these keys, each over this fingerprint.
#[track_caller]
pub fn expect_signed(narinfo: &str, fingerprint: &str, keys: &[&Key]) {
    for key in keys {
        let found = signatures_named(narinfo, key.name());
        assert_eq!(found.len(), 1, "signatures by {} in\n{narinfo}", key.name());
        assert!(key.made(found[0], fingerprint), "{} is no signature over {fingerprint}", found[0]);
    }
}

/// Asks again and again until the answer is the one that is waited for, for at most [`PATIENCE`]. For what the program
/// does by itself, at a time of its own: a new configuration, a proof in the background.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
