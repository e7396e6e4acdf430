//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, and that the runtime still runs.
//!
//! Nothing happens where nobody set `NOTIFY_SOCKET`, as in a terminal or a container. What cannot be told is told to the log
//! once, and no reason not to serve.
//!
//! Out of scope: sockets that the manager opened.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// The addresses are bound: clients' connections will be answered.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is read again; [`ready`] says when that is over, however it ended.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration")]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// No new clients: what runs is finished.
pub(super) fn stopping(limit: Duration) {
    let status = format!("finishing what runs, for at most {limit:?}");
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Tells that it lives, twice in each time that the manager gives (`WatchdogSec=`), until `stop`. It runs on the runtime that
/// serves clients: when that is stuck, so is this.
pub(super) async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    let mut ticks = tokio::time::interval(period / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let beating = async {
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    };
    stop.run_until_cancelled(beating).await;
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told (NOTIFY_SOCKET)");
    }
}
