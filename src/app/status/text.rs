//! The document of `/status` as text for people: the whole as `status` and `top` show it, and one line of it.
//!
//! Names and errors come from outside; control characters in them are not for terminals.

use std::fmt::Write as _;

use super::document::{Document, Fill, Said, Upstream};

/// How fast things go: what changed between two documents.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::app) struct Rates {
    /// Requests in a second.
    pub(in crate::app) requests: f64,
    /// The share of the lookups since the first document that were hits; `None` without lookups.
    pub(in crate::app) hits: Option<f64>,
    /// Bytes to clients in a second.
    pub(in crate::app) sent: f64,
    /// Bytes from upstreams in a second.
    pub(in crate::app) received: f64,
}

impl Rates {
    /// `None` where the later document is that of a program that was started again meanwhile.
    pub(in crate::app) fn between(before: &Document, now: &Document) -> Option<Self> {
        let seconds = now.uptime_seconds - before.uptime_seconds;
        // What a reload took out no longer counts, so sums may shrink.
        #[expect(clippy::cast_precision_loss, reason = "differences of some seconds")]
        let each = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let lookups = now.requests.lookups.saturating_sub(before.requests.lookups);
        (seconds > 0.0).then(|| Self {
            requests: each(before.requests.total, now.requests.total),
            hits: share(now.requests.hits.saturating_sub(before.requests.hits), lookups),
            sent: each(before.traffic.sent_bytes, now.traffic.sent_bytes),
            received: each(before.traffic.received_bytes, now.traffic.received_bytes),
        })
    }

    /// One line, for who keeps it.
    pub(in crate::app) fn line(&self, document: &Document) -> String {
        let down = document.upstreams.iter().filter(|upstream| upstream.state == "down").count();
        let (traffic, fills) = (&document.traffic, &document.fills);
        format!(
            "{:.1} requests/s, {} hits, {}/s sent, {}/s received, {} connections, {} fills, {down} of {} upstreams down",
            self.requests,
            percent(self.hits),
            size(self.sent),
            size(self.received),
            traffic.connections,
            fills.wanted,
            document.upstreams.len(),
        )
    }
}

/// All of it, without rates.
pub(in crate::app) fn page(document: &Document) -> String {
    page_with(document, None)
}

/// All of it.
pub(in crate::app) fn page_with(document: &Document, rates: Option<&Rates>) -> String {
    let mut page = String::new();
    head(&mut page, document, rates);
    section(&mut page, "fills", document.fills.list.iter().map(fill));
    section(&mut page, "upstreams", columns(document.upstreams.iter().map(upstream)));
    section(&mut page, "store", columns(store(document)));
    section(&mut page, "certificates", columns(document.certificates.iter().map(certificate)));
    section(&mut page, "last warnings and errors", document.errors.iter().map(said));
    page
}

// Into strings, which take everything: what `write!` says is of no interest here.

fn head(page: &mut String, document: &Document, rates: Option<&Rates>) {
    let (requests, traffic, fills) = (&document.requests, &document.traffic, &document.fills);
    let stopping = if document.draining { ", stopping: no new clients" } else { "" };
    let uptime = duration(document.uptime_seconds);
    let _ = writeln!(page, "snowbank {}, up {uptime}{stopping}", clean(&document.version));
    let hits = percent(share(requests.hits, requests.lookups));
    let _ = writeln!(page, "requests     {}, {hits} hits", requests.total);
    let (sent, received) = (size_of(traffic.sent_bytes), size_of(traffic.received_bytes));
    let _ = writeln!(page, "traffic      {sent} sent, {received} received from upstreams");
    if let Some(rates) = rates {
        let (sent, received) = (size(rates.sent), size(rates.received));
        let hits = percent(rates.hits);
        let _ = writeln!(
            page,
            "now          {:.1} requests/s, {hits} hits, {sent}/s sent, {received}/s received",
            rates.requests
        );
    }
    let _ = writeln!(
        page,
        "connections  {} (operators' included), {} requests wait",
        traffic.connections, traffic.waiting_requests
    );
    let _ = writeln!(page, "fills        {} running, {} wanted", fills.running, fills.wanted);
}

fn section(page: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        let _ = writeln!(page, "\n{title}");
        lines.for_each(|line| _ = writeln!(page, "  {}", line.trim_end()));
    }
}

/// Cells below each other.
fn columns<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> Vec<String> {
    let rows: Vec<[String; N]> = rows.into_iter().collect();
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ")
    };
    rows.iter().map(line).collect()
}

fn fill(fill: &Fill) -> String {
    let received = size_of(fill.received_bytes);
    let so_far = match fill.size_bytes {
        Some(size) => {
            let done = share(fill.received_bytes, size);
            format!("{} {:>4}  {received} of {}", bar(done), percent_whole(done), size_of(size))
        }
        None => format!("{}    ?  {received}", bar(None)),
    };
    let from = fill.upstream.as_ref().map(|name| format!(" from {}", clean(name))).unwrap_or_default();
    format!("{so_far}{from}, {}  {}", duration(fill.seconds), without_hash(&clean(&fill.what)))
}

fn upstream(upstream: &Upstream) -> [String; 6] {
    let state = match (&upstream.why, upstream.not_asked_for_seconds) {
        (Some(why), Some(left)) => format!("{} for {left:.0} s: {}", upstream.state, clean(why)),
        (Some(why), None) => format!("{}: {}", upstream.state, clean(why)),
        (None, _) => clean(&upstream.state),
    };
    [
        clean(&upstream.name),
        format!("{:>8}", upstream.mean_seconds.map(milliseconds).unwrap_or_default()),
        format!("{:>9} requests", upstream.requests),
        format!("{:>7} failed", upstream.unknown),
        format!("{:>8}", size_of(upstream.received_bytes)),
        state,
    ]
}

fn store(document: &Document) -> Vec<[String; 4]> {
    let used = |bytes: &super::Bytes| {
        let done = share(bytes.used_bytes, bytes.capacity_bytes);
        [
            bar(done),
            format!("{:>4}", percent_whole(done)),
            format!("{} of {}", size_of(bytes.used_bytes), size_of(bytes.capacity_bytes)),
        ]
    };
    let row = |name: String, [bar, done, bytes]: [String; 3]| [name, bar, done, bytes];
    let memory =
        document.store.memory.iter().map(|tier| row(format!("memory ({})", clean(&tier.tier)), used(&tier.bytes)));
    let disk = &document.store.disk;
    let disk = match &disk.bytes {
        Some(bytes) => row("disk".to_owned(), used(bytes)),
        None => ["disk".to_owned(), clean(&disk.state), String::new(), String::new()],
    };
    let pins = &document.pins;
    let pinned = (pins.pins > 0).then(|| {
        let pinned = super::Bytes { used_bytes: pins.bytes, capacity_bytes: pins.most_bytes };
        let [bar, done, bytes] = used(&pinned);
        let missing = if pins.missing > 0 { format!(", {} not here", pins.missing) } else { String::new() };
        row("pinned".to_owned(), [bar, done, format!("{bytes}, {} paths{missing}", pins.paths)])
    });
    memory.chain([disk]).chain(pinned).collect()
}

fn certificate(certificate: &super::Certificate) -> [String; 3] {
    let names: Vec<String> = certificate.names.iter().map(|name| clean(name)).collect();
    let left = match certificate.days_left {
        Some(days) if days < 0.0 => "over".to_owned(),
        Some(days) => format!("{:.0} days left", days.floor()),
        None => "none yet".to_owned(),
    };
    let wrong = certificate.last_error.as_ref().map(|error| format!("last error: {}", clean(error)));
    [format!("{} ({})", names.join(" "), clean(&certificate.source)), left, wrong.unwrap_or_default()]
}

fn said(said: &Said) -> String {
    let times = if said.times > 1 { format!(" ({} times)", said.times) } else { String::new() };
    let line =
        format!("{} {}{times}: {} {}", clean(&said.at), clean(&said.level), clean(&said.text), clean(&said.fields));
    line.trim_end().to_owned()
}

/// As wide for every share.
fn bar(share: Option<f64>) -> String {
    const WIDTH: usize = 20;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the width")]
    let full = (share.unwrap_or(0.0).clamp(0.0, 1.0) * WIDTH as f64) as usize;
    format!("[{}{}]", "#".repeat(full), " ".repeat(WIDTH - full))
}

#[expect(clippy::cast_precision_loss, reason = "shares of what is shown with three digits")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn percent_whole(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", (share * 100.0).floor()))
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
/// Bytes, for people.
pub(in crate::app) fn size_of(bytes: u64) -> String {
    size(bytes as f64)
}

/// Bytes with three digits.
fn size(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut scaled, mut unit) = (bytes, 0);
    // What would be rounded to 1000 is one of the next.
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || scaled >= 99.95 { 0 } else { 1 };
    format!("{scaled:.digits$} {}", UNITS[unit])
}

fn milliseconds(seconds: f64) -> String {
    if seconds < 0.001 {
        return "< 1 ms".to_owned();
    }
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, which is a long time")]
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// The name of a store path, which people look for, where there is one.
fn without_hash(what: &str) -> &str {
    what.split_once('-').filter(|(hash, _)| hash.len() == 32).map_or(what, |(_, name)| name)
}

/// Text that does nothing to a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::app) fn document(uptime: f64, requests: u64, hits: u64, sent: u64) -> Document {
        let document = json!({
            "version": "1", "draining": false, "uptime_seconds": uptime,
            "requests": { "total": requests, "lookups": requests, "hits": hits, "by_outcome": {} },
            "traffic": { "sent_bytes": sent, "received_bytes": 0, "connections": 3, "waiting_requests": 0 },
            "fills": { "running": 1, "wanted": 2, "list": [
                { "what": "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-hello-2.12", "upstream": "one", "received_bytes": 500, "size_bytes": 1000,
                  "seconds": 61.5, "readers": 1 },
                { "what": "x", "upstream": null, "received_bytes": 0, "size_bytes": null, "seconds": 0.1, "readers": 1 },
            ] },
            "upstreams": [{
                "name": "one", "priority": 10, "private": false, "trust": "keys", "when_down": "error", "state": "down",
                "why": "no\u{1b}[31m answer", "not_asked_for_seconds": 3.6, "usual_seconds": null, "mean_seconds": 0.0123, "requests": 12,
                "have": 1, "have_not": 1, "unknown": 10, "not_asked": 0, "times_down": 1, "received_bytes": 1_500_000,
            }],
            "store": {
                "memory": [{ "tier": "nar", "used_bytes": 1, "capacity_bytes": 4 }],
                "disk": { "state": "opening" },
            },
            "pins": { "pins": 1, "paths": 3, "missing": 1, "bytes": 500_000, "most_bytes": 1_000_000 },
            "certificates": [
                { "names": ["a.example"], "source": "acme", "not_after": null, "days_left": null, "next_renewal": null, "last_error": "no" },
                { "names": ["b"], "source": "file", "not_after": "x", "days_left": 29.9, "next_renewal": null, "last_error": null },
            ],
            "errors": [{ "at": "2026-11-23T00:00:00Z", "level": "warning", "text": "odd", "fields": "a=b", "times": 2 }],
            "something_newer": 1,
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_page_says_everything_in_lines() {
        let page = page(&document(7300.0, 10, 9, 2_000_000_000));
        let expected = "snowbank 1, up 2 h 1 min
requests     10, 90.0 % hits
traffic      2.0 GB sent, 0 B received from upstreams
connections  3 (operators' included), 0 requests wait
fills        1 running, 2 wanted

fills
  [##########          ] 50 %  500 B of 1.0 kB from one, 1 min 1 s  hello-2.12
  [                    ]    ?  0 B, 0 s  x

upstreams
  one     12 ms         12 requests       10 failed    1.5 MB  down for 4 s: no [31m answer

store
  memory (nar)  [#####               ]  25 %  1 B of 4 B
  disk          opening
  pinned        [##########          ]  50 %  500 kB of 1.0 MB, 3 paths, 1 not here

certificates
  a.example (acme)  none yet      last error: no
  b (file)          29 days left

last warnings and errors
  2026-11-23T00:00:00Z warning (2 times): odd a=b
";
        assert_eq!(page, expected);
    }

    #[test]
    fn rates_are_those_of_the_time_between() {
        let (before, now) = (document(10.0, 100, 50, 0), document(12.0, 110, 59, 4_000_000));
        let rates = Rates::between(&before, &now).unwrap();
        assert_eq!(rates, Rates { requests: 5.0, hits: Some(0.9), sent: 2e6, received: 0.0 });
        let line =
            "5.0 requests/s, 90.0 % hits, 2.0 MB/s sent, 0 B/s received, 3 connections, 2 fills, 1 of 1 upstreams down";
        assert_eq!(rates.line(&now), line);
        assert!(page_with(&now, Some(&rates)).contains("\nnow          5.0 requests/s, 90.0 % hits, 2.0 MB/s sent"));
        assert_eq!(Rates::between(&now, &before), None, "it was started again");
        assert_eq!(Rates::between(&before, &document(11.0, 100, 50, 0)).unwrap().hits, None);
    }

    #[test]
    fn sizes_and_times_have_few_digits() {
        let sizes = [0, 999, 1000, 99_949, 99_950, 999_499, 999_500, 12_345_678_901].map(size_of);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "12.3 GB"]);
        assert_eq!([5.9, 65.0, 3661.0, 90_061.0].map(duration), ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
