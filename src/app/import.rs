//! `snowbank import`: what another program kept of the upstreams is taken over into the store, without asking them.
//!
//! ```text
//! directory ─▶ upstream::Index ─▶ each upstream as far as it lies there ─▶ Proxy::fetch ─▶ store
//! ```
//!
//! It is believed no more than the upstreams themselves: signatures and hashes are checked as ever, and what does not hold
//! stays out. The store must be free: the server is started afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fetching::{Tally, Wanted, fetch};
use super::pins::Pins;
use super::told::{Told, say};
use super::{offline, reload};
use crate::config::Config;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::store::Store;
use crate::upstream::{Index, Upstream};

/// How it went, for the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that has a narinfo there is here.
    Whole,
    /// Something of it is not.
    Partial,
}

/// Takes over what lies in these directories, and tells on stderr how far it is.
///
/// # Errors
/// It could not be done: a directory cannot be read, the store cannot be opened.
pub async fn run(config: Config, dirs: Vec<PathBuf>) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::Whole;
    let metrics = Metrics::default();
    let store = offline::store(&config, &metrics, "stop it, import, start it again").await?;
    for dir in &dirs {
        let done = import(&config, &metrics, &store, dir).await;
        match done {
            Ok(tally) if tally.failed == 0 => {}
            Ok(_) => verdict = Verdict::Partial,
            Err(error) => {
                store.close().await;
                return Err(error);
            }
        }
    }
    store.close().await;
    Ok(verdict)
}

async fn import(config: &Config, metrics: &Metrics, store: &Store, dir: &Path) -> anyhow::Result<Tally> {
    say(&format!("looking through {}", dir.display()));
    let looked_in = dir.to_owned();
    let index = Arc::new(tokio::task::spawn_blocking(move || Index::of(&looked_in)).await??);
    let left_out = match index.left_out() {
        0 => String::new(),
        left_out => format!("; {left_out} files are no whole answers, and are left out"),
    };
    say(&format!("{} narinfos{left_out}", index.narinfos().len()));
    let proxy = proxy(config, metrics, store, &index)?;
    let pins = Pins::read(proxy.clone(), store.clone(), config.store.dir.clone(), metrics.pins.clone());
    pins.hold_what_is_here().await;
    let mut told = Told::new();
    let paths = index.narinfos().iter().copied();
    let tally = fetch(&proxy, paths, Wanted::Paths, |tally| told.tell(|| tally.line("imported"))).await;
    proxy.stop().await;
    tally.reasons.iter().for_each(|reason| say(reason));
    say(&tally.line("imported"));
    Ok(tally)
}

/// The pipeline over what lies there of each upstream.
fn proxy(config: &Config, metrics: &Metrics, store: &Store, index: &Arc<Index>) -> anyhow::Result<Proxy> {
    let kept = config.upstream.iter().enumerate().map(|(place, options)| {
        let metrics = metrics.upstream(&options.display_name());
        Upstream::kept(options.clone(), options.rank(place), Arc::clone(index), metrics)
    });
    let fills = Fills::new(store.clone(), config.cache.fills, metrics.fill.clone());
    let policies = reload::policies(config, kept.collect(), reload::signer(config)?)?;
    Ok(Proxy::new(policies, store.clone(), fills, metrics.proxy.clone())?)
}
