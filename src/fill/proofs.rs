//! When stored bodies are proven: after their fill in the background, or at once because somebody needs the proof.
//!
//! A body is read from the store chunk by chunk, each checked against the manifest; a chunk that is gone ends the proof
//! without a verdict. What is found is recorded in the manifest, so that nothing is proven twice.

use std::sync::{Arc, PoisonError};

use super::prove::{Disproof, Pace};
use super::verify::QUICK;
use super::{Broken, Claim, FillFailure, Fills, Plan, Prove, Source};
use crate::decompress;
use crate::store::{Announced, BlobId, ChunkKey, Inside, Manifest, Peeked};

/// How many NARs wait to be proven in the background at most (R26); the rest is left to the scrubber.
const WAITING: usize = 4096;

impl Plan {
    /// Whether a stored body is the one that is planned: by its hash, or where the plan has none by the NAR inside. (A body
    /// may have the hash that is a NarHash here: the NAR as it is, under the same name.)
    fn is_of(&self, manifest: &Manifest) -> bool {
        match (&self.file_hash, &manifest.inside) {
            (Some(file_hash), _) => manifest.file_hash == *file_hash.as_bytes(),
            (None, Some(inside)) => inside.nar_hash == *self.digest.as_bytes(),
            (None, None) => false,
        }
    }

    /// Whether a stored body is the one that is planned, and proven where that comes first.
    pub(super) fn is_met_by(&self, manifest: &Manifest) -> bool {
        let proven = self.claim.as_ref().is_none_or(|claim| claim.holds_for(manifest) == Some(true));
        self.is_of(manifest) && (self.prove != Prove::First || proven)
    }
}

impl Claim {
    /// Whether what is known to be in a body is what is claimed; `None` while nothing is known.
    pub fn holds_for(&self, manifest: &Manifest) -> Option<bool> {
        let inside = manifest.inside?;
        let same = inside.nar_hash == *self.nar_hash.as_bytes() && inside.nar_size == self.nar_size;
        // Proven before, for a narinfo that did not say this content address.
        let open = same && !manifest.is_addressed_as(self.hash.as_bytes()) && self.content_check().is_some();
        (!open).then_some(same)
    }
}

impl Fills {
    /// Proves a stored body that came from `source`, in the background, unless it was or is being proven. Whether it is to
    /// be proven at all still.
    pub(super) fn prove_later(&self, manifest: Arc<Manifest>, plan: &Plan, source: Source) -> bool {
        let Some(claim) = plan.claim.clone() else { return false };
        let done = plan.prove == Prove::Never || claim.holds_for(&manifest).is_some();
        if done || !decompress::supports(plan.compression) {
            return false;
        }
        let Some(waiting) = Waiting::begin(self, manifest.blob) else { return true };
        let (fills, plan, stop) = (self.clone(), plan.clone(), self.inner.stop.clone());
        self.inner.tasks.spawn(stop.run_until_cancelled_owned(async move {
            let _waiting = waiting;
            match fills.prove_stored(&manifest, &plan, &claim, Pace::Background).await {
                Ok(_) => plan.judge.whole(&source, &plan),
                Err(broken) if broken.refusal.is_some() => {
                    plan.judge.refuted(&source, &plan, &broken, true).await;
                }
                Err(_) => {}
            }
        }));
        true
    }

    /// Whether something is being proven in the background.
    pub(super) fn has_unproven(&self) -> bool {
        !self.inner.unproven.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Proves the plan's NAR in the background, if it is here.
    pub async fn prove_if_here(&self, plan: &Plan) {
        let (manifest, source) = (self.inner.store.manifest(plan.blob()).await, plan.sources.first());
        if let (Some(manifest), Some(source)) = (manifest, source) {
            self.prove_later(manifest, plan, source.clone());
        }
    }

    /// The plan's NAR, filled if it is not here, and proven before it is given.
    ///
    /// # Errors
    /// It cannot be had, or it is not what the plan claims.
    pub async fn proven(&self, plan: &Plan) -> Result<Arc<Manifest>, Broken> {
        let Some(claim) = plan.claim.clone() else {
            return Err(Broken::new(FillFailure::Unknown, "no narinfo says what is in this NAR"));
        };
        if let Some(manifest) = self.inner.store.manifest(plan.blob()).await
            && plan.is_of(&manifest)
        {
            match self.held_against(&manifest, plan, &claim).await {
                // A chunk was gone: it is filled again as a whole.
                Err(broken) if broken.reason == FillFailure::Cut => self.inner.store.remove_manifest(plan.blob()),
                held => return held,
            }
        }
        let (fill, _) = self.start(Plan { prove: Prove::First, ..plan.clone() });
        let manifest = fill.done().await?;
        // It may have been a fill that ran already, of another claim or to be proven later.
        self.held_against(&manifest, plan, &claim).await
    }

    /// A stored body held against what is claimed of it: proven unless it was, and known not to be it when it is not.
    async fn held_against(
        &self,
        manifest: &Arc<Manifest>,
        plan: &Plan,
        claim: &Arc<Claim>,
    ) -> Result<Arc<Manifest>, Broken> {
        let upstream = plan.sources.first().map_or("", |source| source.upstream.name());
        let held = match claim.holds_for(manifest) {
            Some(true) => Ok(Arc::clone(manifest)),
            // The bytes are right for somebody else's claim.
            Some(false) => Err(Disproof::known_otherwise(claim).broken(upstream)),
            None => self.prove_stored(manifest, plan, claim, Pace::AtOnce).await,
        };
        if let (Err(broken), Some(source)) = (&held, plan.sources.first())
            && broken.refusal.is_some()
        {
            // It may have been served before anybody looked inside.
            plan.judge.refuted(source, plan, broken, true).await;
        }
        held
    }

    /// Proves a stored body, and records what is inside.
    async fn prove_stored(
        &self,
        manifest: &Arc<Manifest>,
        plan: &Plan,
        claim: &Arc<Claim>,
        pace: Pace,
    ) -> Result<Arc<Manifest>, Broken> {
        let upstream = plan.sources.first().map_or("", |source| source.upstream.name());
        // Long ones at the expense of their own upstream.
        let long = pace == Pace::AtOnce && claim.nar_size > QUICK;
        let (pace, _turn) = match plan.sources.first() {
            Some(source) if long => (Pace::AsItComes, source.upstream.turn_to_unpack().await),
            _ => (pace, None),
        };
        let mut proving = self.inner.prover.begin(plan.compression, claim, pace).await;
        for (index, digest) in (0_u32..).zip(&manifest.digests) {
            let key = ChunkKey { blob: manifest.blob, index };
            // Looked at only: that it is proven does not mean that anybody will want it again.
            let Peeked::Right(chunk) = self.inner.store.peek_chunk(key, digest).await else {
                return Err(Broken::new(FillFailure::Cut, "a chunk of it is gone"));
            };
            if !proving.feed(chunk).await {
                break;
            }
        }
        match proving.finish().await {
            Ok(inside) => Ok(self.record(manifest, inside, claim).await),
            Err(disproof) => {
                // What somebody else claims of these bytes does not make them wrong for the path they came for.
                let own = manifest
                    .announced
                    .is_none_or(|announced| Announced { basis: announced.basis, ..claim.announced() } == announced);
                if disproof.reason.is_some() && own && manifest.inside.is_none() {
                    self.forget(manifest);
                }
                Err(disproof.broken(upstream))
            }
        }
    }

    /// Records in the manifest what is inside.
    pub async fn record(&self, manifest: &Arc<Manifest>, inside: Inside, claim: &Claim) -> Arc<Manifest> {
        self.inner.metrics.proven.inc();
        // The narinfo whose content address it has, if it has one.
        let announced = match manifest.announced {
            Some(announced) if !inside.addressed => Some(announced),
            _ => Some(claim.announced()),
        };
        let proven = Arc::new(Manifest { inside: Some(inside), announced, ..Manifest::clone(manifest) });
        self.inner.store.replace_manifest(manifest, Arc::clone(&proven)).await;
        proven
    }

    /// Forgets a body: nobody finds it any more.
    pub fn forget(&self, manifest: &Manifest) {
        self.inner.store.remove_manifest(manifest.blob);
        for index in 0..manifest.chunks() {
            self.inner.store.remove_chunk(ChunkKey { blob: manifest.blob, index });
        }
    }
}

/// A body's place among those that are to be proven in the background; given up when it is dropped.
struct Waiting {
    fills: Fills,
    blob: BlobId,
}

impl Waiting {
    /// `None` when it is among them already, or when too many are.
    fn begin(fills: &Fills, blob: BlobId) -> Option<Self> {
        let mut unproven = fills.inner.unproven.lock().unwrap_or_else(PoisonError::into_inner);
        if unproven.len() >= WAITING {
            fills.inner.metrics.proofs_put_off.inc();
            return None;
        }
        unproven.insert(blob).then(|| Self { fills: fills.clone(), blob })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.fills.inner.unproven.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.blob);
    }
}

#[cfg(test)]
mod tests;
