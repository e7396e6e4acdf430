//! The real OpenTelemetry Collector, which prints what it takes.
//!
//! It is no Debian package and in no registry that `tests/run` uses: it runs where `SNOWBANK_TEST_OTELCOL` names it or it is on the PATH (any
//! distribution with the receiver `otlp` and the exporter `debug`), and else its tests say so and do nothing.

use super::PATIENCE;
use super::pebble::free_port;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A running collector; dropping it kills it.
pub struct Otelcol {
    child: Child,
    port: u16,
    home: tempfile::TempDir,
}

impl Otelcol {
    /// Starts one; `None`, and a line that says why, where there is none.
    pub fn start() -> Option<Self> {
        let named = std::env::var_os("SNOWBANK_TEST_OTELCOL").map_or_else(|| "otelcol".into(), PathBuf::from);
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the collector");
        let (port, file) = (free_port(), home.path().join("config.yaml"));
        let config = format!(
            "receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: \"127.0.0.1:{port}\" }} }} }} }}\n\
             exporters: {{ debug: {{ verbosity: detailed }} }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  \
             pipelines: {{ traces: {{ receivers: [otlp], exporters: [debug] }} }}\n"
        );
        std::fs::write(&file, config).expect("a configuration for the collector");
        let log = std::fs::File::create(home.path().join("log")).expect("a log");
        let mut command = Command::new(named);
        command.arg(format!("--config={}", file.display())).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        match command.spawn() {
            Ok(child) => {
                let collector = Self { child, port, home };
                collector.wait_for("Everything is ready");
                Some(collector)
            }
            Err(error) => {
                eprintln!("NOT RUN: no OpenTelemetry Collector here: {error}");
                None
            }
        }
    }

    /// Where it takes spans.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until it has printed this; all that it has printed.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.home.path().join("log")).expect("its log");
            if log.contains(text) {
                return log;
            }
            assert!(began.elapsed() < PATIENCE, "no {text:?} in\n{log}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Otelcol {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
