//! The task that fills one NAR: upstream to chunks.
//!
//! Sources are tried in order until one answers. Its bytes are hashed, pushed to the live edge, and each complete chunk
//! goes through the write gate into the store; that wait is the back-pressure on the upstream. At the end size and hash
//! must fit (R7), and what is inside where it is proven first: then readers get the held-back tail, and once the chunks
//! are on disk the manifest is written, last (R10). If they do not fit, the chunks are removed, the plan's judge is told,
//! and every reader is broken off (R8); as long as nothing of the NAR had left, the next source is tried instead.
//! Interrupted by the program's end, it leaves a note of what it has, from which the next one goes on (see `partial`).

use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::partial::{self, Notes};
use super::state::{Broken, Fill};
use super::verify::{self, Turn, Verifier};
use super::{Claim, FillFailure, Fills, PLACE, Plan, Registered, Source, code_of};
use crate::metrics::Refusal;
use crate::store::{CHUNK, ChunkKey, Manifest};
use crate::upstream::{Opened, Said, WhenDown};

pub(super) async fn run(fills: Fills, registered: Registered, plan: Plan) {
    let fill = Arc::clone(&registered.fill);
    // What its upstream makes it wait for is waited for without a place that another upstream's NAR could have.
    let Some((_share, turn)) = turns(&plan).await else {
        return registered
            .fail(Broken::new(FillFailure::Unknown, "too many NARs of one upstream are fetched; try again"));
    };
    let Some(_place) = fills.place().await else {
        return registered.fail(Broken::new(FillFailure::Unknown, "too many NARs are fetched at once; try again"));
    };
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
            fills.prove_later(manifest, &plan, source.clone());
        }
        Err(broken) => {
            if broken.reason == FillFailure::Stopped {
                partial::note(&fills, &fill, &plan).await;
            }
            fills.inner.metrics.failed.of(broken.reason).inc();
            // What was refused has been told already, by the plan's judge.
            if broken.refusal.is_none() {
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

/// The turns that the plan's first source has to give.
async fn turns(plan: &Plan) -> Option<(Option<OwnedSemaphorePermit>, Turn)> {
    let Some(source) = plan.sources.first() else { return Some((None, None)) };
    let turns = async { (source.upstream.turn_to_fill().await, verify::turn(plan, &source.upstream).await) };
    timeout(PLACE, turns).await.ok()
}

async fn fill_from_any<'a>(
    fills: &Fills,
    fill: &Fill,
    plan: &'a Plan,
    mut turn: Turn,
) -> Result<(Arc<Manifest>, &'a Source), Broken> {
    let mut last = Broken::new(FillFailure::Gone, "no upstream has this NAR any more");
    for source in &plan.sources {
        match fill_from(fills, fill, plan, source, turn.take()).await {
            Ok(manifest) => return Ok((manifest, source)),
            Err(broken) => {
                // Also after a mere cut: what came over a connection that broke is not gone on with, because a wrong byte
                // in it would only show at the very end, when the next client has most of it.
                partial::forget(fills, fill);
                forget_chunks(fills, fill);
                if broken.refusal.is_some() {
                    plan.judge.refuted(source, plan, &broken, fill.may_have_left()).await;
                }
                // "Gone" says least: an unknown answer of another source must not become a 404 (R18).
                if last.reason == FillFailure::Gone || broken.reason != FillFailure::Gone {
                    last = broken;
                }
            }
        }
        if !fill.restart(plan.size.is_some()) {
            break;
        }
    }
    Err(last)
}

async fn fill_from(
    fills: &Fills,
    fill: &Fill,
    plan: &Plan,
    source: &Source,
    turn: Turn,
) -> Result<Arc<Manifest>, Broken> {
    let turn = match turn {
        Some(turn) => Some(turn),
        None => timeout(PLACE, verify::turn(plan, &source.upstream)).await.ok().flatten(),
    };
    let left = partial::left(fills, plan).await;
    let mut opened = open(source, left.len() as u64 * CHUNK as u64).await?;
    let size = match (plan.size, opened.total) {
        (Some(planned), Some(total)) if planned != total => {
            let text =
                format!("upstream {} offers {total} bytes where its narinfo says {planned}", source.upstream.name());
            return Err(Broken::refused(Refusal::WrongSize, text));
        }
        (planned, total) => planned.or(total),
    };
    fill.begin(size);
    let mut verifier = Verifier::begin(&fills.inner.prover, plan, size, source.upstream.name(), turn).await?;
    let mut alone = Alone::default();
    if opened.from > 0 {
        fills.inner.metrics.resumed.inc();
        if let Err(broken) = partial::take_up(fills, fill, &left, &mut verifier).await {
            partial::forget(fills, fill);
            return Err(broken);
        }
    }
    let mut notes = Notes::new(fill.chunks_done());
    while let Some(piece) = opened.body.next().await {
        let piece = piece.map_err(|e| Broken::new(FillFailure::Cut, e.to_string()))?;
        verifier.update(&piece).await?;
        alone.update(fill.is_wanted(), piece.len(), size)?;
        take(fills, fill, plan, piece, &mut notes).await;
    }
    let verified = verifier.finish().await?;
    store_live(fills, fill).await;
    Ok(Arc::new(Manifest {
        blob: fill.blob(),
        size: verified.size,
        file_hash: *verified.file_hash.as_bytes(),
        compression: code_of(plan.compression),
        inside: verified.inside,
        announced: plan.claim.as_deref().map(Claim::announced),
        digests: fill.digests(),
    }))
}

/// How far a fill goes on that nobody reads any more (R28): at most so many bytes (256 MiB), or to the end once half of it
/// is there. Most NARs are whole by then; an endless one ends.
const ALONE: u64 = 256 << 20;

/// Counts what came while nobody wanted it.
#[derive(Default)]
struct Alone {
    received: u64,
    unwanted: u64,
}

impl Alone {
    fn update(&mut self, wanted: bool, bytes: usize, size: Option<u64>) -> Result<(), Broken> {
        self.received += bytes as u64;
        self.unwanted = if wanted { 0 } else { self.unwanted + bytes as u64 };
        let half = size.is_some_and(|size| self.received >= size / 2);
        if self.unwanted > ALONE && !half {
            return Err(Broken::new(FillFailure::Abandoned, format!("nobody read it after {} bytes", self.received)));
        }
        Ok(())
    }
}

async fn open(source: &Source, from: u64) -> Result<Opened, Broken> {
    let mut said = source.upstream.open(&source.target, from, None).await;
    if from > 0
        && let Err(error) = &said
        && error.is_about_the_request()
    {
        // It makes nothing of the range (416, or another part than asked): from the start, then.
        said = source.upstream.open(&source.target, 0, None).await;
    }
    match said {
        Ok(Said::Have(opened)) => Ok(opened),
        Ok(Said::HaveNot) => {
            let text = format!("upstream {} has no {}", source.upstream.name(), source.target);
            Err(Broken::new(FillFailure::Gone, text))
        }
        // The operator says what it means to clients that this upstream cannot be asked.
        Err(error) if source.upstream.when_down() == WhenDown::Miss => {
            Err(Broken::new(FillFailure::Gone, error.to_string()))
        }
        Err(error) => Err(Broken::new(FillFailure::Unknown, error.to_string())),
    }
}

/// Cuts a piece at the chunks' borders.
async fn take(fills: &Fills, fill: &Fill, plan: &Plan, mut piece: Bytes, notes: &mut Notes) {
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

async fn store_live(fills: &Fills, fill: &Fill) {
    if let Some((index, chunk, _)) = fill.complete_live() {
        fills.inner.store.put_chunk(ChunkKey { blob: fill.blob(), index }, chunk).await;
    }
}

/// What came from a source that failed must not be found by the next one's readers.
fn forget_chunks(fills: &Fills, fill: &Fill) {
    for index in 0..fill.digests().len() {
        if let Ok(index) = u32::try_from(index) {
            fills.inner.store.remove_chunk(ChunkKey { blob: fill.blob(), index });
        }
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
            (0..4096).take_while(|_| alone.update(wanted, mib, size).is_ok()).count()
        };
        assert_eq!(runs(true, None), 4096);
        assert_eq!(runs(false, None), 256);
        assert_eq!(runs(false, Some(512 << 20)), 4096, "half of it was there in time");
        assert_eq!(runs(false, Some(100 << 30)), 256);
    }
}
