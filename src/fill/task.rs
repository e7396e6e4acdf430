//! The task that fills one NAR: upstream to chunks.
//!
//! It waits for its turn, has the bytes fetched (`course`: which sources, and what follows when one fails), and ends the
//! fill. Bytes are hashed, pushed to the live edge, and each complete chunk goes through the write gate into the store;
//! that wait is the back-pressure on the upstream. At the end size and hash must fit (R7), and what is inside where it is
//! proven first: then readers get the held-back tail, and once the chunks are on disk the manifest is written, last (R10).
//! If they do not fit, the chunks are removed, and every reader is broken off (R8).
//! Interrupted by the program's end, it leaves a note of what it has, from which the next one goes on (see `partial`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::course::fill_from_any;
use super::partial::{self, Notes};
use super::state::{Broken, Fill};
use super::verify::{self, Turn};
use super::{FillFailure, Fills, PLACE, Plan, Registered, Source};
use crate::store::ChunkKey;

pub(super) async fn run(fills: Fills, registered: Registered, plan: Plan) {
    let fill = Arc::clone(&registered.fill);
    let Ok(waits) = fills.inner.waiting.clone().try_acquire_owned() else {
        return registered.fail(Broken::new(FillFailure::Busy, "too many NARs wait to be fetched; try again"));
    };
    if fill.is_for_nobody()
        && (fills.is_full() || first_asked(&plan).is_some_and(|source| source.upstream.has_no_turn()))
    {
        let text = "there is no place for what nobody has asked for";
        return registered.fail(Broken::new(FillFailure::Abandoned, text));
    }
    // What its upstream makes it wait for is waited for without a place that another upstream's NAR could have.
    let Some((_share, turn)) = turns(&fills, &fill, &plan).await else {
        return registered
            .fail(Broken::new(FillFailure::Unknown, "too many NARs of one upstream are fetched; try again"));
    };
    if !fill.is_ahead() && fills.is_full() {
        fills.make_way(None);
    }
    let Some(_place) = fills.place().await else {
        return registered.fail(Broken::new(FillFailure::Unknown, "too many NARs are fetched at once; try again"));
    };
    drop(waits);
    // Another fill may have ended between its client's look into the store and the start of this one.
    if let Some(manifest) = fills.inner.store.manifest(fill.blob()).await
        && plan.is_met_by(&manifest)
    {
        fill.verified(manifest);
        return;
    }
    fills.inner.metrics.started.inc();
    let _running = Running::begin(&fills.inner.metrics.running);
    let filled = fills.inner.stop.run_until_cancelled(fill_from_any(&fills, &fill, &plan, turn)).await;
    match filled.unwrap_or_else(|| Err(Broken::new(FillFailure::Stopped, "snowbank is stopping"))) {
        Ok((manifest, source)) => {
            fills.inner.metrics.completed.inc();
            fill.verified(Arc::clone(&manifest));
            fills.inner.store.keep_body(Arc::clone(&manifest)).await;
            partial::forget(&fills, &fill);
            if !fills.prove_later(manifest, &plan, source.clone()) {
                plan.judge.whole(&source, &plan);
            }
        }
        Err(broken) => {
            // Otherwise it has been decided already whether what came is worth it.
            if broken.reason == FillFailure::Stopped {
                partial::note(&fills, &fill, &plan).await;
            }
            fills.inner.metrics.failed.of(broken.reason).inc();
            // What was refused has been told already, by the plan's judge.
            if fill.is_ahead() && broken.reason == FillFailure::Abandoned {
                tracing::debug!(key = %plan.digest, "NAR not fetched ahead: {broken}");
            } else if broken.refusal.is_none() {
                tracing::warn!(key = %plan.digest, outcome = %broken.reason, "NAR not filled: {broken}");
            }
            registered.fail(broken);
        }
    }
}

/// Counts a fill until its manifest is kept, also when its task is broken off.
struct Running<'a>(&'a IntGauge);

impl<'a> Running<'a> {
    fn begin(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The plan's first source; one that is asked after the library, as it will have most of the work.
pub(super) fn first_asked(plan: &Plan) -> Option<&Source> {
    plan.sources.iter().find(|source| !source.upstream.is_library()).or(plan.sources.first())
}

/// The turns that it has to give.
async fn turns(fills: &Fills, fill: &Fill, plan: &Plan) -> Option<(Option<OwnedSemaphorePermit>, Turn)> {
    let Some(source) = first_asked(plan) else { return Some((None, None)) };
    if !fill.is_ahead() && source.upstream.has_no_turn() {
        fills.make_way(Some(source.upstream.name()));
    }
    let turns = async { (source.upstream.turn_to_fill().await, verify::turn(plan, &source.upstream).await) };
    timeout(PLACE, turns).await.ok()
}

/// How far a fill goes on that nobody reads any more (R28): at most so many bytes (256 MiB), or to the end once half of it
/// is there. Most NARs are whole by then; an endless one ends.
const ALONE: u64 = 256 << 20;
/// And for how long, however much is there: an upstream that drips must not hold places for clients that left. The next fill
/// goes on from what came.
const ALONE_FOR: Duration = Duration::from_secs(300);
/// The same, while another fill waits for a place: somebody reads that one.
const ALONE_IN_A_CROWD: Duration = Duration::from_secs(10);

/// Counts what came while nobody wanted it.
#[derive(Default)]
pub(super) struct Alone {
    received: u64,
    unwanted: u64,
    /// Since when nobody has wanted it.
    since: Option<Instant>,
}

impl Alone {
    /// So many bytes came, `wanted` by somebody or not; while others wait for a place, or not.
    pub(super) fn update(
        &mut self,
        now: Instant,
        wanted: bool,
        others_wait: impl FnOnce() -> bool,
        bytes: usize,
        size: Option<u64>,
    ) -> Result<(), Broken> {
        self.received += bytes as u64;
        self.unwanted = if wanted { 0 } else { self.unwanted + bytes as u64 };
        self.since = if wanted { None } else { Some(self.since.unwrap_or(now)) };
        let half = size.is_some_and(|size| self.received >= size / 2);
        let alone_for = self.since.map(|since| now.saturating_duration_since(since)).unwrap_or_default();
        let too_long = alone_for > ALONE_FOR || (alone_for > ALONE_IN_A_CROWD && others_wait());
        if too_long || (self.unwanted > ALONE && !half) {
            return Err(Broken::new(FillFailure::Abandoned, format!("nobody read it after {} bytes", self.received)));
        }
        Ok(())
    }
}

/// Cuts a piece at the chunks' borders.
pub(super) async fn take(fills: &Fills, fill: &Fill, plan: &Plan, mut piece: Bytes, notes: &mut Notes) {
    while !piece.is_empty() {
        let room = fill.room();
        let now = piece.split_to(room.min(piece.len()));
        let full = now.len() == room;
        fill.push(now);
        if full {
            store_live(fills, fill).await;
            notes.chunk_stored(fills, fill, plan).await;
        }
    }
}

pub(super) async fn store_live(fills: &Fills, fill: &Fill) {
    if let Some((index, chunk, _)) = fill.complete_live() {
        fills.inner.store.put_chunk(ChunkKey { blob: fill.blob(), index }, chunk).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_that_nobody_reads_goes_on_for_a_while_or_to_an_end_in_sight() {
        let mib = 1 << 20;
        let runs = |wanted: bool, size: Option<u64>| {
            let mut alone = Alone::default();
            (0..4096).take_while(|_| alone.update(Instant::now(), wanted, || true, mib, size).is_ok()).count()
        };
        assert_eq!(runs(true, None), 4096);
        assert_eq!(runs(false, None), 256);
        assert_eq!(runs(false, Some(512 << 20)), 4096, "half of it was there in time");
        assert_eq!(runs(false, Some(100 << 30)), 256);
    }

    #[test]
    fn a_fill_that_nobody_reads_does_not_drip_for_ever() {
        let (begun, mut alone, crowd) = (Instant::now(), Alone::default(), std::cell::Cell::new(false));
        let mut dripped = |seconds, wanted| {
            alone.update(begun + Duration::from_secs(seconds), wanted, || crowd.get(), 1100, Some(2000)).is_ok()
        };
        assert!(dripped(0, false) && dripped(299, false) && dripped(300, true), "somebody came");
        assert!(dripped(1000, false) && dripped(1300, false) && !dripped(1301, false));
        crowd.set(true);
        assert!(dripped(2000, true) && dripped(2001, false) && dripped(2011, false) && !dripped(2012, false));
    }
}
