//! `snowbank top`: how the running server stands, again and again.
//!
//! In a terminal the whole is drawn anew each time, until `q`, Ctrl-C or the end of the input; the terminal is then as it was. Elsewhere
//! each interval is one line of what changed in it. A server that does not answer for a while is waited for, since it may be restarted just now.
//!
//! Out of scope: what is shown (`status`).

mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::terminal::Terminal;
use super::status::document::Document;
use super::status::{document, text};

/// Shows it until somebody has seen enough.
///
/// # Errors
/// The server could not be asked at the begin, or what is shown cannot be written.
pub async fn run(address: SocketAddr, every: Duration) -> anyhow::Result<()> {
    let first = document(address).await?;
    let [mut terminate, mut interrupt, mut hangup] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    let shown = async {
        match std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
            true => draw(address, every, first).await,
            false => print(address, every, first).await,
        }
    };
    tokio::select! {
        shown = shown => shown,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

/// Two documents in a row, and what the server said last instead of one.
struct Watched {
    address: SocketAddr,
    before: Option<Document>,
    now: Document,
    failure: Option<String>,
}

impl Watched {
    fn new(address: SocketAddr, first: Document) -> Self {
        Self { address, before: None, now: first, failure: None }
    }

    async fn look(&mut self) {
        match document(self.address).await {
            Ok(next) => {
                self.before = Some(std::mem::replace(&mut self.now, next));
                self.failure = None;
            }
            Err(error) => self.failure = Some(format!("{error:#}")),
        }
    }

    fn rates(&self) -> Option<text::Rates> {
        text::Rates::between(self.before.as_ref()?, &self.now)
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn print(address: SocketAddr, every: Duration, first: Document) -> anyhow::Result<()> {
    let (mut watched, mut ticks, mut is_told) = (Watched::new(address, first), ticks(every), false);
    ticks.tick().await; // the first one is at once
    loop {
        ticks.tick().await;
        watched.look().await;
        match (&watched.failure, watched.rates()) {
            (None, Some(rates)) => {
                let mut stdout = std::io::stdout().lock();
                let written = writeln!(stdout, "{}", rates.line(&watched.now)).and_then(|()| stdout.flush());
                match written {
                    // Who reads has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written.context("stdout")?,
                }
            }
            (Some(failure), _) if !is_told => {
                let _ = writeln!(std::io::stderr(), "{failure}; trying again"); // who reads it may be gone
            }
            _ => {}
        }
        is_told = watched.failure.is_some();
    }
}

async fn draw(address: SocketAddr, every: Duration, first: Document) -> anyhow::Result<()> {
    let (terminal, mut keys) = Terminal::take().context("the terminal")?;
    let (mut watched, mut ticks) = (Watched::new(address, first), ticks(every));
    loop {
        let mut page = String::new();
        if let Some(failure) = &watched.failure {
            page.push_str(&format!("{failure}; trying again\n\n"));
        }
        page.push_str(&text::page_with(&watched.now, watched.rates().as_ref()));
        terminal.draw(&page, "q ends it").context("stdout")?;
        tokio::select! {
            _ = ticks.tick() => watched.look().await,
            key = keys.recv() => match key {
                None | Some(b'q' | b'Q' | 0x03 | 0x04) => return Ok(()),
                Some(_) => {}
            }
        }
    }
}
