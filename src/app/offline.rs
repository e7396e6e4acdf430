//! The store of a configuration, for a command that works on it while no server does.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{OpenError, Store};

/// Opens it, or makes it. `instead`: what to do while a server runs.
///
/// # Errors
/// It cannot be opened, or should not be by this user.
pub(super) async fn store(config: &Config, metrics: &Metrics, instead: &str) -> anyhow::Result<Store> {
    let dir = config.store.dir.as_deref().context("store.dir is not set: there is nowhere to keep anything")?;
    anyhow::ensure!(config.store.wants_disk(), "store.disk = 0: what comes would be gone with this command");
    // What root makes in it, its owner could not open.
    let (owner, me) = (std::fs::metadata(dir).map_or(0, |found| found.uid()), rustix::process::geteuid().as_raw());
    anyhow::ensure!(
        owner == me || me != 0,
        "{} is another user's: run this as the user of the server (README, Moving from nginx)",
        dir.display()
    );
    let store = Store::memory_only(&config.store, metrics.store.clone());
    match store.open_disk().await {
        Ok(()) => Ok(store),
        Err(OpenError::InUse { dir }) => anyhow::bail!("{} is in use by a running server: {instead}", dir.display()),
        Err(error) => Err(error.into()),
    }
}
