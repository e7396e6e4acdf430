//! `snowbank verify`: everything that is kept is examined, by this process or by the server that has the store.
//!
//! ```text
//! store free ──▶ opened here ──▶ Proxy::examine ──▶ report
//! store in use ─▶ POST /verify on [admin] address ──▶ the server examines, tells how far it is, and the report
//! ```
//!
//! What fails is dropped, quarantined or made a hole, as the server would do it; it is fetched again when it is asked for.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::told::{Told, say};
use super::{reload, running};
use crate::config::Config;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::proxy::examine::{How, Report};
use crate::store::{OpenError, Store};

/// Where the server answers to the command, on the address for operators.
pub(super) const PATH: &str = "/verify";
/// All of it, as fast as it goes; mending is the server's business, which has upstreams to ask.
const FULL: How = How { everything: true, mend: false, pause: Duration::ZERO };

/// How it went, for the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was wrong.
    Right,
    /// Something was.
    Wrong,
}

/// Examines what the store of this configuration keeps, tells on stderr how far it is, and gives the report as JSON to
/// `json`, or to stdout.
///
/// # Errors
/// It could not be done: there is no store, it cannot be opened, the server does not answer.
pub async fn run(config: Config, json: Option<&Path>) -> anyhow::Result<Verdict> {
    let metrics = Metrics::default();
    let store = Store::memory_only(&config.store, metrics.store.clone());
    let report = match store.open_existing().await {
        Ok(()) => {
            let report = here(&config, &metrics, store.clone()).await;
            store.close().await;
            report?
        }
        Err(OpenError::InUse { dir }) => match config.admin.to_ask() {
            Ok(address) => there(&address.to_string()).await.with_context(|| {
                format!("{} is in use; asking the server at the [admin] address {address}", dir.display())
            })?,
            Err(why) => anyhow::bail!("{} is in use by a running server; {why}, or stop it", dir.display()),
        },
        Err(error) => return Err(error.into()),
    };
    let text = format!("{report:#}\n");
    match json {
        Some(file) => std::fs::write(file, text).with_context(|| file.display().to_string())?,
        None => std::io::stdout().write_all(text.as_bytes()).context("stdout")?,
    }
    match (report.get("wrong").and_then(Value::as_u64), report.get("complete").and_then(Value::as_bool)) {
        (Some(0), Some(true)) => Ok(Verdict::Right),
        (Some(0), _) => anyhow::bail!("nothing wrong was found, but not everything was seen"),
        _ => Ok(Verdict::Wrong),
    }
}

async fn here(config: &Config, metrics: &Metrics, store: Store) -> anyhow::Result<Value> {
    let fills = Fills::new(store.clone(), config.cache.fills, metrics.fill.clone());
    let signer = reload::signer(config)?;
    let upstreams = reload::upstreams(config, &[], &signer.public_keys(), metrics)?;
    let policies = reload::policies(config, upstreams, signer)?;
    let proxy = Proxy::new(policies, store, fills, metrics.proxy.clone())?;
    let mut told = Told::new();
    let report = proxy.examine(FULL, |report| told.tell(|| report.line())).await;
    proxy.stop().await;
    say(&report.line());
    Ok(report.json())
}

/// Has the server examine its store.
async fn there(address: &str) -> anyhow::Result<Value> {
    let (mut report, mut told, mut latest) = (None, Told::new(), String::new());
    running::follow(address, PATH, Bytes::new(), |line| {
        match line.get("progress").and_then(Value::as_str) {
            Some(progress) => {
                progress.clone_into(&mut latest);
                told.tell(|| progress.to_owned());
            }
            None => report = line.get("report").cloned(),
        }
        Ok(())
    })
    .await?;
    say(&latest);
    report.context("the server ended before it had seen everything")
}

/// An examination as the server tells it: a line each second, and the report as the last one.
pub(super) async fn examine(proxy: Proxy, _permit: OwnedSemaphorePermit, tell: running::Tell) {
    let mut next = Instant::now();
    let progress = |report: &Report| {
        if Instant::now() >= next {
            next = Instant::now() + Duration::from_secs(1);
            // One that finds no room is followed by another.
            let _ = tell.try_send(json!({ "progress": report.line() }));
        }
    };
    let report = proxy.examine(How { mend: true, ..FULL }, progress).await;
    let _ = tell.send(json!({ "progress": report.line() })).await;
    let _ = tell.send(json!({ "report": report.json() })).await;
}
