//! The programs that ask: h2load and wrk for many requests, curl for single ones, Nix for builds. They run on this program's core.

pub mod curl;
pub mod h2load;
pub mod nix;
pub mod wrk;

use std::process::Command;

/// What a load program saw. Latencies are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub seconds: f64,
    pub requests: f64,
    /// Bytes of bodies; heads too where the program does not tell them apart.
    pub bytes: f64,
    pub p50: f64,
    pub p99: f64,
}

/// The output of a load program; one that fails ends the benchmark.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/bench/run installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
