//! curl: downloads of which each one's first byte and end are told, one or several at a time.

use super::output;
use std::process::Command;

/// One download, in seconds since it was begun.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    pub first_byte: f64,
    pub done: f64,
    pub bytes: f64,
}

/// Gets all of these over HTTP/1.1, so many at a time, by one process.
pub fn get(urls: &[String], at_once: usize) -> Vec<Download> {
    get_from("127.0.0.1", urls, at_once)
}

/// The same from another address of loopback.
pub fn get_from(address: &str, urls: &[String], at_once: usize) -> Vec<Download> {
    let mut command = Command::new("curl");
    command.args(["--interface", address]);
    command.args(["--silent", "--show-error", "--insecure", "--http1.1", "--fail", "--no-progress-meter"]);
    command.args(["--parallel", "--parallel-immediate", "--parallel-max", &at_once.to_string()]);
    command.args(["--write-out", "%{time_starttransfer} %{time_total} %{size_download}\n"]);
    for url in urls {
        command.args(["--output", "/dev/null", url]);
    }
    let text = output(&mut command);
    let downloads: Vec<Download> = text.lines().filter_map(understand).collect();
    assert_eq!(downloads.len(), urls.len(), "{text}");
    downloads
}

fn understand(line: &str) -> Option<Download> {
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [first_byte, done, bytes] = numbers[..] else { return None };
    Some(Download { first_byte, done, bytes })
}
