//! The end of a server that runs, in order (R34); `shutdown` draws the steps.
//!
//! Whoever drops this in the middle leaves it to the end of the process to cut what runs. That is safe: nothing that is cut
//! looks whole, and the store holds nothing that a kill would break.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::supervisor;
use crate::edge::Stop;
use crate::proxy::Proxy;
use crate::shutdown;
use crate::store::Store;

/// How long what runs in the background may take to end.
const FINISH: Duration = Duration::from_secs(5);

/// How much of that may be taken by what is to be written into the library.
const LIBRARY: Duration = Duration::from_secs(3);

/// Everything that runs.
pub(super) struct Ending {
    pub(super) options: shutdown::Options,
    /// Of the clients, and of what runs for them in the background.
    pub(super) stop: Stop,
    pub(super) clients: JoinHandle<bool>,
    pub(super) background: Vec<JoinHandle<()>>,
    pub(super) proxy: Proxy,
    pub(super) store: Store,
    /// Operators can look until the end.
    pub(super) stop_operators: CancellationToken,
    pub(super) operators: JoinHandle<bool>,
    pub(super) watchdog: JoinHandle<()>,
}

impl Ending {
    /// Runs to the end. `/readyz` says already that it is coming.
    ///
    /// # Errors
    /// What serves the clients is not there any more.
    pub(super) async fn run(self, asked: &str) -> anyhow::Result<()> {
        let delay = self.options.delay;
        if !delay.0.is_zero() {
            tracing::info!("{asked}: not ready any more, new clients are still served for {delay}");
            supervisor::stopping(delay.0 + self.stop.limit);
            tokio::time::sleep(delay.0).await;
        }
        tracing::info!("{asked}: draining for at most {:?}", self.stop.limit);
        supervisor::stopping(self.stop.limit);
        self.stop.drain.cancel();
        let drained = self.clients.await.context("the listeners died")?;
        // A disk or an upstream that hangs must not hold up the end. A disk that is still being opened may: what was put
        // meanwhile is written to it.
        let background = async {
            self.proxy.finish_library(LIBRARY).await;
            self.proxy.stop().await;
            for task in self.background {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(FINISH, background).await.is_err() {
            tracing::warn!("what ran in the background did not end within {FINISH:?}");
        }
        self.store.close().await;
        self.stop_operators.cancel();
        let _ = self.operators.await;
        let _ = self.watchdog.await;
        tracing::info!(drained, "stopped");
        Ok(())
    }
}
