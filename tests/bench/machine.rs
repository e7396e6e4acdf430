//! What is told of the machine beside the figures: they mean nothing without.

use crate::namespace::CONGESTION_FILE;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The servers' core and that of the load, of those this program may use.
pub fn cores() -> (usize, usize) {
    let list = field("/proc/self/status", "Cpus_allowed_list");
    let all: Vec<usize> = list.split(',').flat_map(range).collect();
    (*all.first().expect("a core"), *all.last().expect("a core"))
}

/// The core of the load, once this program is bound to it.
pub fn load_core() -> usize {
    cores().1
}

fn range(text: &str) -> std::ops::RangeInclusive<usize> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.parse().expect("the number of a core")..=last.parse().expect("the number of a core")
}

/// Processor, kernel and the like.
pub fn describe() -> Value {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "congestion_control": read(CONGESTION_FILE),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        "curl": version("curl", &["--version"]),
        "h2load": version("h2load", &["--version"]),
        "wrk": version("wrk", &["--version"]),
    })
}

/// The first line that a program says of itself, on whichever output; wrk says it and fails.
pub fn version(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(arguments).output();
    output.map_or_else(
        |error| error.to_string(),
        |output| {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
        },
    )
}

/// The value of the first `name: value` of a file below /proc.
pub fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
