//! Who may ask an upstream now: permits for its connections, and turns for what costs memory while it is slow.
//!
//! nix-serve has few workers (five by default) and each open connection holds one: a plain-HTTP upstream starts with
//! [`CAREFUL`] connections of each kind and gets as many as any other once it has shown that it is something else, by a head or by
//! a narinfo that nix-serve does not send.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Response, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Upstream;
use crate::upstream::Options;
use crate::upstream::error::{Cause, UpstreamError};
use crate::upstream::health::{Kind, Ticket};
use crate::upstream::pieces::Pieces;
use crate::upstream::wire;

/// Connections of each pool to a plain-HTTP upstream that may be nix-serve: together they leave it a worker.
pub(super) const CAREFUL: usize = 2;
/// Connections for NARs to any other upstream, unless configured.
pub(super) const ROOMY: usize = 32;
/// Small things in flight to any other upstream, unless configured: one client's Nix asks for more than a hundred narinfos at a
/// time. Over HTTP/2 one connection carries them.
pub(super) const SMALL: usize = 128;
/// Small things in flight to an upstream over TLS before its first answer: over HTTP/2 more would make no difference yet, over
/// HTTP/1.1 each is a handshake.
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

/// Connections for NARs.
pub(super) fn bulk(options: &Options, careful: bool) -> usize {
    match options.connections.map(|n| n.max(2) as usize) {
        Some(n) if options.url.is_plain_http() => n - n / 2,
        Some(n) => n,
        None if careful => CAREFUL,
        None => ROOMY,
    }
}

impl Upstream {
    /// A turn to fill a NAR of it.
    pub async fn turn_to_fill(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.filled).acquire_owned().await.ok()
    }

    /// Whether it may be nix-serve, and is asked little at a time.
    pub fn is_careful(&self) -> bool {
        self.careful.load(Ordering::Relaxed)
    }

    /// Whether who wants to fill a NAR of it has to wait.
    pub fn has_no_turn(&self) -> bool {
        self.filled.available_permits() == 0
    }

    /// How many of its NARs may be filled at a time that nobody has asked for: a part of all, so that who asks finds a turn.
    pub fn turns_ahead(&self) -> usize {
        (bulk(&self.options, self.careful.load(Ordering::Relaxed)) * 3 / 4).max(1)
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
            self.meta_permits.add_permits(SMALL - CAREFUL);
            self.bulk_permits.add_permits(ROOMY - CAREFUL);
            self.filled.add_permits(ROOMY - CAREFUL);
            self.pass_on_permits.add_permits(PASSED_ON - 1);
        }
    }

    /// An answer to a question about something small has come: there is a connection by now, and its head may tell that it
    /// is not nix-serve's.
    pub(super) fn has_answered(&self, response: &Response<Pieces>) {
        let is_one_connection = response.version() == Version::HTTP_2;
        if (is_one_connection || self.options.connections.is_none()) && self.reserved.swap(false, Ordering::Relaxed) {
            self.meta_permits.add_permits(SMALL - UNKNOWN_PROTOCOL);
        }
        if self.careful.load(Ordering::Relaxed) && wire::is_not_from_starman(response) {
            self.is_roomy();
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
        Ok((permit, self.leave_to_ask(kind, target)?))
    }

    /// Leave to ask, for who has a permit.
    pub(super) fn leave_to_ask<'a>(&'a self, kind: Kind, target: &'a str) -> Result<Ticket<'a>, UpstreamError> {
        self.health.pass(kind, target, &self.name).map_err(|why| self.not_asked(why))
    }

    fn not_asked(&self, why: Arc<str>) -> UpstreamError {
        self.metrics.unasked.inc();
        UpstreamError { upstream: Arc::clone(&self.name), cause: Cause::Down(why) }
    }
}
