//! `snowbank pin` and `snowbank unpin`: paths, or whole closures, stay through eviction until they are let go.
//!
//! The server does it, as it fetches for `warm`; here is what it is asked, what it tells, and what people read of that.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::fetching::{Tally, Wanted};
use super::pins::Pins;
use super::status::document::{Pin, PinList};
use super::status::text::size_of;
use super::told::say;
use super::warm::{ALONE, Progress, Verdict, list};
use super::{running, status};
use crate::cli::Wish;
use crate::nix::store_path::HashPart;

/// Where the server answers to the commands, on the address for operators.
pub(super) const PIN: &str = "/pin";
pub(super) const UNPIN: &str = "/unpin";
/// Where it tells what is pinned.
pub(super) const PINS: &str = "/pins";

/// Has the server at this `[admin]` address fetch and pin, and shows how far it is.
///
/// # Errors
/// It could not be done: the server cannot be asked, or says why not.
pub async fn pin(address: SocketAddr, wish: Wish) -> anyhow::Result<Verdict> {
    let list = list(&wish)?;
    let path = if wish.alone { format!("{PIN}?{ALONE}") } else { PIN.to_owned() };
    let (mut end, mut progress) = (None, Progress::new());
    running::follow(&address.to_string(), &path, list, |line| {
        match line.get("progress") {
            Some(tally) => progress.show(&serde_json::from_value(tally.clone())?),
            None => end = Some(line),
        }
        Ok(())
    })
    .await
    .with_context(|| asking(address))?;
    progress.end();
    let end = end.context("the server ended before everything was there")?;
    if let Some(why) = end.get("refused") {
        anyhow::bail!("{}", why.as_str().unwrap_or_default());
    }
    let tally: Tally = serde_json::from_value(end.get("report").cloned().context("no report")?)?;
    tally.reasons.iter().for_each(|reason| say(reason));
    say(&tally.line("fetched"));
    if tally.failed > 0 {
        say("nothing is pinned");
        return Ok(Verdict::Partial);
    }
    say(&room(&serde_json::from_value(end)?));
    Ok(Verdict::Whole)
}

/// Has it let these go.
///
/// # Errors
/// As of [`pin`].
pub async fn unpin(address: SocketAddr, wish: Wish) -> anyhow::Result<Verdict> {
    let mut end = Value::Null;
    running::follow(&address.to_string(), UNPIN, list(&wish)?, |line| {
        end = line;
        Ok(())
    })
    .await
    .with_context(|| asking(address))?;
    if let Some(why) = end.get("refused") {
        anyhow::bail!("{}", why.as_str().unwrap_or_default());
    }
    let paths = |field| serde_json::from_value::<Vec<String>>(end.get(field).cloned().unwrap_or_default());
    let (gone, others) = (paths("unpinned")?, paths("not_pinned")?);
    gone.iter().for_each(|path| say(&format!("{path}: may be evicted again")));
    others.iter().for_each(|hash| say(&format!("{hash}: was not pinned")));
    say(&room(&serde_json::from_value(end)?));
    Ok(if others.is_empty() { Verdict::Whole } else { Verdict::Partial })
}

/// Tells on stdout what is pinned, as text for people or as it came (`json`).
///
/// # Errors
/// It does not answer in time, or something else answers there.
pub async fn told(address: SocketAddr, json: bool) -> anyhow::Result<()> {
    let told = status::ask(address, PINS).await?;
    let shown = match json {
        true => String::from_utf8_lossy(&told).into_owned(),
        false => {
            let list: PinList =
                serde_json::from_slice(&told).with_context(|| format!("{address}: not what snowbank tells"))?;
            list.list.iter().map(line).collect()
        }
    };
    std::io::stdout().write_all(shown.as_bytes()).context("stdout")
}

fn asking(address: SocketAddr) -> String {
    format!("asking the server at the [admin] address {address}")
}

fn line(pin: &Pin) -> String {
    let what = if pin.closure { "closure" } else { "alone" };
    let missing = if pin.missing > 0 { format!(", {} of them not here", pin.missing) } else { String::new() };
    format!("{}  {what}  {} paths{missing}  {}\n", pin.path, pin.paths, size_of(pin.bytes))
}

fn room(list: &PinList) -> String {
    let pins = &list.pins;
    format!("{} paths are pinned: {} of {}", pins.paths, size_of(pins.bytes), size_of(pins.most_bytes))
}

/// `POST /pin`, in the server.
pub(super) async fn pin_here(
    pins: Pins,
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
    let end = match pins.pin(paths, wanted, progress).await {
        Ok(tally) => json!({ "report": tally, "pins": pins.summary() }),
        Err(why) => json!({ "refused": why }),
    };
    let _ = tell.send(end).await;
}

/// `POST /unpin`, in the server.
pub(super) async fn unpin_here(pins: Pins, paths: Vec<HashPart>) -> Value {
    match pins.unpin(&paths).await {
        Ok(gone) => {
            let others = paths.iter().filter(|hash| gone.iter().all(|pin| pin.path.hash() != **hash));
            let others: Vec<String> = others.map(ToString::to_string).collect();
            let gone: Vec<String> = gone.iter().map(|pin| pin.path.to_string()).collect();
            json!({ "unpinned": gone, "not_pinned": others, "pins": pins.summary() })
        }
        Err(why) => json!({ "refused": why }),
    }
}

/// `GET /pins`, in the server.
pub(super) fn list_here(pins: &Pins) -> PinList {
    PinList { pins: pins.summary(), list: pins.list() }
}
