//! `snowbank warm`: paths, or whole closures, are here before a client asks for them.
//!
//! ```text
//! command ─ POST /warm, a path in each line ─▶ server ─ Proxy::fetch of each ─▶ store
//!         ◀─ a line each second, the report ─┘
//! ```
//!
//! The server fetches, as for a client, so it may be serving others meanwhile. It goes on only while the command waits.

use std::io::{IsTerminal as _, Read as _, Write as _, stderr, stdin};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::fetching::{Tally, Wanted, fetch};
use super::running;
use super::told::{Told, say};
use crate::cli::Wish;
use crate::nix::store_path::HashPart;
use crate::proxy::Proxy;

/// Where the server answers to the command, on the address for operators.
pub(super) const PATH: &str = "/warm";
/// The same, without what the paths refer to.
pub(super) const ALONE: &str = "closure=no";
/// Bytes of the list: a hundred thousand paths.
pub(super) const LONGEST_LIST: usize = 8 << 20;

/// How it went, for the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is here.
    Whole,
    /// Something is not.
    Partial,
}

/// Has the server at this `[admin]` address fetch, and shows how far it is.
///
/// # Errors
/// It could not be done: the file cannot be read, the server cannot be asked, or says why not.
pub async fn run(address: SocketAddr, wish: Wish) -> anyhow::Result<Verdict> {
    let list = list(&wish)?;
    let path = if wish.alone { format!("{PATH}?{ALONE}") } else { PATH.to_owned() };
    let (mut report, mut progress) = (None, Progress::new());
    running::follow(&address.to_string(), &path, list, |line| {
        match line.get("progress") {
            Some(tally) => progress.show(&serde_json::from_value(tally.clone())?),
            None => report = line.get("report").cloned(),
        }
        Ok(())
    })
    .await
    .with_context(|| format!("asking the server at the [admin] address {address}"))?;
    progress.end();
    let tally: Tally = serde_json::from_value(report.context("the server ended before everything was there")?)?;
    tally.reasons.iter().for_each(|reason| say(reason));
    say(&tally.line("fetched"));
    Ok(if tally.failed == 0 { Verdict::Whole } else { Verdict::Partial })
}

/// The list as the server wants it.
pub(super) fn list(wish: &Wish) -> anyhow::Result<Bytes> {
    let mut text = wish.paths.join("\n");
    text.push('\n');
    let limit = LONGEST_LIST as u64;
    let read = match wish.file.as_deref() {
        None => 0,
        Some(file) if file == Path::new("-") => stdin().take(limit).read_to_string(&mut text).context("stdin")?,
        Some(file) => {
            let told = || file.display().to_string();
            std::fs::File::open(file).with_context(told)?.take(limit).read_to_string(&mut text).with_context(told)?
        }
    };
    anyhow::ensure!(read < LONGEST_LIST && text.len() <= LONGEST_LIST, "a list of more than {LONGEST_LIST} bytes");
    Ok(text.into())
}

/// How far it is: a bar for a person, now and then a line for a log.
pub(super) struct Progress {
    told: Told,
    is_drawn: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { told: Told::new(), is_drawn: false }
    }

    pub(super) fn show(&mut self, tally: &Tally) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K{} {}", bar(tally), tally.line("fetched"));
            self.is_drawn = true;
        } else {
            self.told.tell(|| tally.line("fetched"));
        }
    }

    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Twenty places, as many filled as there are paths seen.
fn bar(tally: &Tally) -> String {
    const PLACES: u64 = 20;
    let filled = (tally.seen() * PLACES).checked_div(tally.known).unwrap_or_default();
    let filled = usize::try_from(filled.min(PLACES)).unwrap_or_default();
    format!("[{:20}]", "#".repeat(filled))
}

/// The paths of a list, or what stands in it that is none. Empty lines are nothing.
pub(super) fn paths(list: &str) -> Result<Vec<HashPart>, String> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty());
    let paths: Result<Vec<HashPart>, String> = lines
        .map(|line| super::pages::hash_part(line).ok_or_else(|| format!("{} is no store path", line.escape_debug())))
        .collect();
    match paths {
        Ok(paths) if paths.is_empty() => Err("no paths: one in each line".to_owned()),
        paths => paths,
    }
}

/// In the server.
pub(super) async fn warm(
    proxy: Proxy,
    paths: Vec<HashPart>,
    wanted: Wanted,
    _permit: OwnedSemaphorePermit,
    tell: running::Tell,
) {
    let mut next = Instant::now();
    let progress = |tally: &Tally| {
        if Instant::now() >= next {
            next = Instant::now() + Duration::from_millis(250);
            // One that finds no room is followed by another.
            let _ = tell.try_send(json!({ "progress": tally }));
        }
    };
    let tally = fetch(&proxy, paths, wanted, progress).await;
    let report: Value = json!({ "report": tally });
    let _ = tell.send(report).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whole_or_refused_with_the_line() {
        let hash = "sdfklnx3hhql7xzq4qmjr3lnpzsmyjwi";
        let read = paths(&format!("/nix/store/{hash}-hello-2.12\n\n  {hash}\r\n{hash}.narinfo\n")).unwrap();
        assert_eq!(read, vec![HashPart::parse(hash).unwrap(); 3]);
        assert_eq!(paths(&format!("{hash}\nhello\u{1b}[2J")).unwrap_err(), "hello\\u{1b}[2J is no store path");
        for none in ["", "\n \n"] {
            assert_eq!(paths(none).unwrap_err(), "no paths: one in each line");
        }
    }

    #[test]
    fn the_bar_is_as_long_as_what_is_seen() {
        let bar_of = |seen, known| bar(&Tally { here: seen, known, ..Tally::default() });
        assert_eq!(bar_of(0, 0), format!("[{}]", " ".repeat(20)));
        assert_eq!(bar_of(1, 2), format!("[{}{}]", "#".repeat(10), " ".repeat(10)));
        assert_eq!(bar_of(2, 2), format!("[{}]", "#".repeat(20)));
    }
}
