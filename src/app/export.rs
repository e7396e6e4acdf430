//! `snowbank export`: paths with all that they refer to, as a binary cache in a directory: for a site without a network.
//!
//! ```text
//! store, else upstreams ─▶ Proxy::fetch ─▶ the directory, as the library of this one run
//! ```
//!
//! What lies there was verified, and is what a client would be given; what nobody signed is left out, since nobody could verify it
//! there. An export that was broken off goes on where it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::fetching::{Wanted, fetch_by};
use super::pins::Pins;
use super::told::{Told, say};
use super::{offline, reload, warm};
use crate::cli::Wish;
use crate::config::Config;
use crate::fill::Fills;
use crate::library;
use crate::metrics::Metrics;
use crate::nix::store_path::HashPart;
use crate::options::{Mistakes, Table as _};
use crate::proxy::Proxy;
use crate::proxy::fetch::Fetched;
use crate::store::Store;

/// For what is being written at the end anyway.
const FINISH: Duration = Duration::from_secs(10);

/// How it went, for the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Whole,
    /// Something is not.
    Partial,
}

/// Writes what is wished for into the directory, and tells on stderr how far it is.
///
/// # Errors
/// It could not be done: the directory cannot be made, the store cannot be opened, no key is known.
pub async fn run(mut config: Config, to: PathBuf, wish: Wish) -> anyhow::Result<Verdict> {
    let roots = warm::paths(&String::from_utf8_lossy(&warm::list(&wish)?)).map_err(anyhow::Error::msg)?;
    std::fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    config.library = Some(library_at(&config, &to)?);
    let metrics = Metrics::default();
    let instead = "stop it, or give this command another directory with --dir, and the server as --upstream URL,KEY";
    let store = offline::store(&config, &metrics, instead).await?;
    let done =
        export(&config, &metrics, &store, roots, if wish.alone { Wanted::Paths } else { Wanted::Closures }).await;
    store.close().await;
    done
}

/// The directory, as the library that is written to.
fn library_at(config: &Config, to: &Path) -> anyhow::Result<library::Options> {
    let path = std::fs::canonicalize(to).with_context(|| to.display().to_string())?;
    let url =
        url::Url::from_file_path(&path).map_err(|()| anyhow::anyhow!("{} is no path for this", path.display()))?;
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), url.as_str().into());
    let mut mistakes = Mistakes::default();
    let options =
        library::Options::read_table(table, "library", &mut mistakes).with_context(|| mistakes.to_string())?;
    let keys = config.public_keys().len() + config.sign.key_files.len();
    anyhow::ensure!(keys > 0, "no key is known that anything could be verified with: name upstreams with their keys");
    Ok(options)
}

async fn export(
    config: &Config,
    metrics: &Metrics,
    store: &Store,
    roots: Vec<HashPart>,
    wanted: Wanted,
) -> anyhow::Result<Verdict> {
    let fills = Fills::new(store.clone(), config.cache.fills, metrics.fill.clone());
    let signer = reload::signer(config)?;
    let upstreams = reload::upstreams(config, &[], &signer.public_keys(), metrics)?;
    let proxy = Proxy::new(reload::policies(config, upstreams, signer)?, store.clone(), fills, metrics.proxy.clone())?;
    let pins = Pins::read(proxy.clone(), store.clone(), config.store.dir.clone(), metrics.pins.clone());
    pins.hold_what_is_here().await;
    let (one, mut told) = (&proxy, Told::new());
    let written = |hash| async move {
        let fetched = match one.fetch(hash).await {
            here @ (Fetched::Here(_) | Fetched::New(..)) => {
                one.write_into_library(hash).await.map_or_else(Fetched::Failed, |()| here)
            }
            fetched => fetched,
        };
        (hash, fetched)
    };
    let tally = fetch_by(written, roots, wanted, |tally| told.tell(|| tally.line("exported"))).await;
    proxy.finish_library(FINISH).await;
    proxy.stop().await;
    tally.reasons.iter().for_each(|reason| say(reason));
    let (there, all, failed) = (tally.new + tally.here, tally.known, tally.failed);
    say(&format!("{there} of {all} exported, {failed} not"));
    Ok(if failed == 0 { Verdict::Whole } else { Verdict::Partial })
}
