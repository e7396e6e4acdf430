//! One upstream, whatever way it is reached (`way`): what it is, how it is asked (`asks`), and who waits for whom (`turns`).
//!
//! Two pools for each upstream: `meta` for narinfos and other small things (HTTP/2 where the upstream offers it) and
//! `bulk` for NARs (HTTP/1.1, a connection each, so that no two NARs share a flow-control window). A request waits for a
//! permit of its pool, is sent, and is sent again when a kept connection turned out to be closed before one byte of
//! the answer came (nix-serve closes after one idle second, so the race is ordinary there).
//!
//! Out of scope: which upstream is asked and what its answer is worth (`proxy`), and where the bytes go (`fill`).

mod asks;
mod memo;
mod parts;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use url::Url;

use self::memo::Memo;
use self::turns::{CAREFUL, FETCHED_AHEAD, PASSED_ON, UNKNOWN_PROTOCOL, UNPACKED, bulk};
use super::directory::Index;
use super::error::{Cause, UpstreamError};
use super::health::{Health, Standing};
use super::options::{Options, Trust, WhenDown};
use super::way::Way;
use crate::clock::UnixSeconds;
use crate::metrics::UpstreamMetrics;
use crate::nix::signature::PublicKeys;

/// For so many seconds (an hour) an upstream that sent a wrong NAR is suspected of doing it again.
const SUSPECT: u64 = 3600;

/// What the library is called.
pub const LIBRARY: &str = "library";

/// What it is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A cache that others fill.
    Cache,
    /// The library, which is asked first; and whether we fill it.
    Library { writes: bool },
}

/// An upstream that can be asked.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    base: Url,
    options: Options,
    role: Role,
    keys: PublicKeys,
    rank: u32,
    pub(super) way: Way,
    meta_permits: Arc<Semaphore>,
    bulk_permits: Arc<Semaphore>,
    pass_on_permits: Arc<Semaphore>,
    careful: AtomicBool,
    /// Over TLS, before the first answer.
    reserved: AtomicBool,
    /// Noted where a range was answered with all of it.
    no_ranges: Memo,
    /// How wide one body is best fetched.
    width: Memo,
    /// Until when nothing of it is believed before it is proven.
    suspect_until: AtomicU64,
    /// As many as there are connections for NARs: who waits for one must not have a place that others could use.
    filled: Arc<Semaphore>,
    unpacked: Arc<Semaphore>,
    fetched_ahead: Arc<Semaphore>,
    health: Health,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream ready to be asked; nothing is connected yet. `rank` is its priority group: lower is asked earlier.
    ///
    /// # Errors
    /// The extra CA file cannot be used, with the reason in words.
    pub fn new(options: Options, rank: u32, metrics: UpstreamMetrics) -> Result<Arc<Self>, String> {
        let way = Way::new(&options, metrics.clone(), false)?;
        Ok(Self::over(way, Role::Cache, options, rank, metrics))
    }

    /// The same upstream, of which only what another program kept of it is there; it is not asked itself.
    pub fn kept(options: Options, rank: u32, index: Arc<Index>, metrics: UpstreamMetrics) -> Arc<Self> {
        let way = Way::kept(&options, index, metrics.clone());
        Self::over(way, Role::Cache, options, rank, metrics)
    }

    /// The library, to be read, and to be written to where `writes` says so; nothing is connected yet.
    ///
    /// # Errors
    /// As of [`Upstream::new`].
    pub fn library(options: Options, writes: bool, metrics: UpstreamMetrics) -> Result<Arc<Self>, String> {
        let way = Way::new(&options, metrics.clone(), writes)?;
        Ok(Self::over(way, Role::Library { writes }, options, 0, metrics))
    }

    fn over(way: Way, role: Role, options: Options, rank: u32, metrics: UpstreamMetrics) -> Arc<Self> {
        let base = options.url.base();
        let tls = !options.url.is_plain_http();
        let careful = options.connections.is_none() && !tls;
        let bulk_permits = bulk(&options, careful);
        let meta_permits = match (options.connections.map(|n| n.max(2) as usize), tls) {
            (_, true) => UNKNOWN_PROTOCOL,
            (Some(n), false) => n / 2,
            (None, false) => CAREFUL,
        };
        let passed_on = if careful { 1 } else { PASSED_ON };
        Arc::new(Self {
            name: options.display_name().into(),
            keys: PublicKeys::new(options.public_keys.clone()),
            rank,
            way,
            role,
            base,
            options,
            meta_permits: Arc::new(Semaphore::new(meta_permits)),
            bulk_permits: Arc::new(Semaphore::new(bulk_permits)),
            pass_on_permits: Arc::new(Semaphore::new(passed_on)),
            careful: AtomicBool::new(careful),
            reserved: AtomicBool::new(tls),
            no_ranges: Memo::new(),
            width: Memo::new(),
            suspect_until: AtomicU64::new(0),
            filled: Arc::new(Semaphore::new(bulk_permits)),
            unpacked: Arc::new(Semaphore::new(UNPACKED)),
            fetched_ahead: Arc::new(Semaphore::new(FETCHED_AHEAD)),
            health: Health::new(metrics.clone()),
            metrics,
        })
    }

    /// Its name in logs, metrics and messages.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its base URL; relative references resolve against it.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Its priority group: lower is asked earlier, the same is asked side by side.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Whether it is the library: asked before all others, and never the reason for "unknown".
    pub fn is_library(&self) -> bool {
        self.role != Role::Cache
    }

    /// Whether it is the library, and written to.
    pub fn is_written(&self) -> bool {
        self.role == Role::Library { writes: true }
    }

    /// What its narinfos must prove.
    pub fn trust(&self) -> Trust {
        self.options.trust
    }

    /// What a missing answer of this upstream means to clients.
    pub fn when_down(&self) -> WhenDown {
        self.options.when_down
    }

    /// The keys trusted for this upstream, and for no other (R1).
    pub fn keys(&self) -> &PublicKeys {
        &self.keys
    }

    /// How long its narinfos are kept before it is asked again.
    pub fn narinfo_ttl(&self) -> Duration {
        self.options.narinfo_ttl.0
    }

    /// How long a body may pause.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.options.stall_timeout.0
    }

    /// The least that the body of a NAR must bring, in bytes for each second.
    pub(super) fn min_rate(&self) -> u64 {
        self.options.min_rate.0
    }

    /// Whether it may be asked for something again that it broke off: not much oftener than clients ask.
    pub fn may_be_asked_again(&self) -> bool {
        self.way.again().is_none_or(|again| again.take(None))
    }

    /// That was worth it.
    pub fn asked_again_well(&self) {
        if let Some(again) = self.way.again() {
            again.give_back();
        }
    }

    /// How it looks to who asks it.
    pub fn standing(&self) -> Standing {
        self.health.standing()
    }

    /// For how long it will not be asked, because it is taken for down.
    pub fn down_for(&self) -> Option<Duration> {
        self.health.is_down().map(|(left, _)| left)
    }

    /// Takes note of how long its answer about a narinfo took, as seen by who asked.
    pub fn took(&self, time: Duration) {
        self.health.took(time);
    }

    /// How long its answer about a narinfo may take before it is late: as long as it usually takes at most, or a moment while
    /// it is not sure that there will be one.
    pub fn patience(&self) -> Duration {
        self.health.patience()
    }

    /// Whether it answers at all, as far as one can tell.
    pub fn answers(&self) -> bool {
        self.health.answers()
    }

    /// What was configured.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A NAR of it was not what it claims: for a while nothing of it is believed before it is proven.
    pub fn suspect(&self) {
        self.suspect_until.store(UnixSeconds::now().plus(SUSPECT).0, Ordering::Relaxed);
    }

    /// Whether it was caught lately.
    pub fn is_suspect(&self) -> bool {
        UnixSeconds::now().0 < self.suspect_until.load(Ordering::Relaxed)
    }

    /// Its counters.
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// An error of this upstream.
    pub(crate) fn error(&self, cause: Cause) -> UpstreamError {
        self.metrics.unknown.inc();
        UpstreamError { upstream: Arc::clone(&self.name), cause }
    }

    /// The base's path, which ends in `/`.
    pub(super) fn base_path(&self) -> &str {
        self.base.path()
    }
}
