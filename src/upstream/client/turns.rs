//! Who may ask an upstream now: permits for its connections, and turns for what costs memory while it is slow.
//!
//! nix-serve has few workers (five by default) and each open connection holds one: a plain-HTTP upstream starts with
//! [`CAREFUL`] connections and gets [`ROOMY`] once it has shown that it is something else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Upstream;
use crate::upstream::error::{Cause, UpstreamError};
use crate::upstream::health::{Kind, Ticket};

/// Connections of each pool to a plain-HTTP upstream that may be nix-serve: together they leave it a worker.
pub(super) const CAREFUL: usize = 2;
/// Connections of each pool to any other upstream, unless configured.
pub(super) const ROOMY: usize = 32;
/// Small things in flight to an upstream that speaks HTTP/2: one connection carries them, and Nix asks 125 at a time.
const MULTIPLEXED: usize = 128;
/// Small things in flight to an upstream over TLS before it is known to speak HTTP/2.
pub(super) const UNKNOWN_PROTOCOL: usize = 16;
/// Long logs passed on at a time, at their clients' pace: they must not take the permits of anything else.
pub(super) const PASSED_ON: usize = 4;
/// How long a NAR waits for its turn at an upstream whose connections are all busy with others: less than the 300 s after
/// which Nix gives up on a silent server.
const TURN: Duration = Duration::from_secs(120);
/// NARs of one upstream that are unpacked at a time while they come: a decoder's memory waits as long as the upstream does.
pub(super) const UNPACKED: usize = 4;
/// Answers about one upstream that wait at a time for a NAR of it to be fetched for them: further ones wait without
/// taking a place from other upstreams' NARs.
pub(super) const FETCHED_AHEAD: usize = 8;

impl Upstream {
    /// A turn to fill a NAR of it.
    pub async fn turn_to_fill(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.filled).acquire_owned().await.ok()
    }

    /// A turn to unpack a NAR of it while it comes.
    pub async fn turn_to_unpack(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.unpacked).acquire_owned().await.ok()
    }

    /// A turn to fetch a NAR of it that an answer about its path waits for.
    pub async fn turn_to_fetch_ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.fetched_ahead).acquire_owned().await.ok()
    }

    /// The upstream has shown that it is not nix-serve: more connections will not starve it.
    pub fn is_roomy(&self) {
        if self.careful.swap(false, Ordering::Relaxed) {
            self.meta_permits.add_permits(ROOMY - CAREFUL);
            self.bulk_permits.add_permits(ROOMY - CAREFUL);
            self.filled.add_permits(ROOMY - CAREFUL);
            self.pass_on_permits.add_permits(PASSED_ON - 1);
        }
    }

    /// The upstream answered over HTTP/2: many small things share its one connection.
    pub(super) fn is_multiplexed(&self) {
        if !self.multiplexes.swap(true, Ordering::Relaxed) {
            self.meta_permits.add_permits(MULTIPLEXED - UNKNOWN_PROTOCOL);
        }
    }

    /// A connection's permit, and leave to ask: not of an upstream that is taken for down, which is said at once, and also to
    /// those who waited for a permit while it went down.
    pub(super) async fn turn<'a>(
        &'a self,
        permits: &Arc<Semaphore>,
        kind: Kind,
        target: &'a str,
    ) -> Result<(OwnedSemaphorePermit, Ticket<'a>), UpstreamError> {
        if let Some((_, why)) = self.health.is_down() {
            return Err(self.not_asked(why));
        }
        let limit = self.options.response_timeout.0;
        let turn = if Arc::ptr_eq(permits, &self.bulk_permits) { TURN } else { limit };
        let permit = match timeout(turn, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(self.error(Cause::Internal("its permits are closed"))),
            Err(_) => return Err(self.error(Cause::Busy(turn))),
        };
        let ticket = self.health.pass(kind, target, &self.name).map_err(|why| self.not_asked(why))?;
        Ok((permit, ticket))
    }

    fn not_asked(&self, why: Arc<str>) -> UpstreamError {
        self.metrics.unasked.inc();
        UpstreamError { upstream: Arc::clone(&self.name), cause: Cause::Down(why) }
    }
}
