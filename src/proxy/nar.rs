//! NARs: from the store, from a running fill, or from an upstream by a fill started here.
//!
//! A NAR URL says which bytes are meant ([`Meant`], see `name`), so the store is asked without any narinfo. Only on a miss is the
//! narinfo needed: it tells where the bytes can be had (see `sources`), and when what it names is gone, everybody is asked
//! anew, once.

mod name;

use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt;

use super::Pipeline;
use super::answer::{Answer, BodyError, BodyStream, FailureKind, Nar, Outcome, Place, Provenance, Reply, Witness};
use super::entry::{Alias, Entry, meant_key};
use super::kept::nar_is_refused;
use super::narinfo::Found;
use super::options::Verify;
use super::quarantine::Record;
use super::request::NarName;
use super::trust;
use super::waiting::{AGAIN_IN, CROWDED, Waiter};
use crate::fill::{Broken, Fill, FillFailure, Plan, Reader, blob_of, code_of};
use crate::nix::hash::Sha256;
use crate::nix::narinfo::{Compression, NarInfo};
use crate::nix::store_path::HashPart;
use crate::store::{BlobId, ChunkKey, Manifest};
use crate::upstream::{Said, WhenDown};

/// The bytes a NAR URL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Meant {
    /// The store path, unless the URL does not say it.
    pub(super) hash: Option<HashPart>,
    /// FileHash, or NarHash where there is none.
    pub(super) digest: Sha256,
    pub(super) compression: Compression,
}

impl Meant {
    /// The bytes a narinfo names.
    pub(super) fn by(info: &NarInfo) -> Self {
        Self { hash: Some(info.store_path.hash()), digest: trust::digest(info), compression: info.compression }
    }

    pub(super) fn blob(&self) -> BlobId {
        blob_of(&self.digest, self.compression)
    }

    /// Whether a manifest is about these bytes: its name is only half of the digest.
    pub(super) fn is(&self, manifest: &Manifest) -> bool {
        let digest = self.digest.as_bytes();
        let same = manifest.file_hash == *digest || manifest.inside.is_some_and(|inside| inside.nar_hash == *digest);
        same && manifest.compression == code_of(self.compression)
    }

    pub(super) fn is_in(&self, info: &NarInfo) -> bool {
        trust::digest(info) == self.digest && info.compression == self.compression
    }
}

impl From<Alias> for Meant {
    fn from(Alias { hash, digest, compression, .. }: Alias) -> Self {
        Self { hash: Some(hash), digest, compression }
    }
}

/// Why there is nothing to fill from.
pub(super) struct Nowhere {
    outcome: Outcome,
    kind: FailureKind,
    text: String,
    /// Whether all that were asked could be: else it is not to be remembered (R18).
    sure: bool,
}

impl Nowhere {
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotFound, kind: FailureKind::NotFound, text: text.into(), sure: true }
    }

    /// "Not found", as it was found out a moment ago.
    pub(super) fn remembered(meant: &Meant) -> Self {
        let text = format!("no upstream has a NAR with the hash {}", meant.digest);
        Self { outcome: Outcome::Negative, kind: FailureKind::NotFound, text, sure: true }
    }

    /// There, and not what it should be.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Refused, kind: FailureKind::NotFound, text: text.into(), sure: true }
    }

    pub(super) fn unknown(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unknown, kind: FailureKind::BadGateway, text: text.into(), sure: true }
    }

    /// Too many wait already.
    pub(super) fn crowded(text: impl Into<String>) -> Self {
        let kind = FailureKind::Unavailable { retry_after: AGAIN_IN };
        Self { outcome: Outcome::Limited, kind, text: text.into(), sure: true }
    }

    /// Whether it is sure that nobody has it.
    pub(super) fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    /// Whether nobody has it who was asked.
    fn is_gone(&self) -> bool {
        self.outcome == Outcome::NotFound
    }

    /// The reason, for the log.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl From<Nowhere> for Answer {
    fn from(nowhere: Nowhere) -> Self {
        Self::failed(nowhere.outcome, nowhere.kind, nowhere.text)
    }
}

impl Pipeline {
    pub(super) async fn nar(&self, name: NarName, head: bool) -> Answer {
        let named = match self.named(name).await {
            Ok(named) => named,
            Err(nowhere) => return nowhere.into(),
        };
        if !head {
            self.is_wanted(&named.meant);
        }
        let found = match self.nar_or_stand_in(named.meant, head).await {
            Err(nowhere) => Box::pin(self.nar_by_name(&named, nowhere, head)).await,
            found => found,
        };
        found.unwrap_or_else(Answer::from)
    }

    /// The NAR, or what is served in its place since it was found out to be wrong just now.
    async fn nar_or_stand_in(&self, meant: Meant, head: bool) -> Result<Answer, Nowhere> {
        let nowhere = match self.nar_of(meant, head).await {
            Err(nowhere) if nowhere.outcome == Outcome::Refused => nowhere,
            found => return found,
        };
        if let Some(record) = Box::pin(self.quarantined(&meant)).await
            && let Some(Ok(answer)) = Box::pin(self.stand_in(meant, &record, head)).await
        {
            return Ok(answer);
        }
        Err(Box::pin(self.unless_unknown(meant, nowhere)).await)
    }

    /// Refused is what upstreams have that could be asked: another one may have it right (R18).
    async fn unless_unknown(&self, meant: Meant, refused: Nowhere) -> Nowhere {
        match meant.hash {
            Some(hash) if !self.shared.store.negative(meant_key(&meant)) => {
                let unknown = self.announcers(meant, hash).await.unknown;
                unknown.map_or(refused, |why| Nowhere::unknown(why.as_ref()))
            }
            _ => refused,
        }
    }

    pub(super) async fn nar_of(&self, meant: Meant, head: bool) -> Result<Answer, Nowhere> {
        match self.at_hand(meant).await? {
            Some(answer) => Ok(answer),
            None => Box::pin(self.not_at_hand(meant, head)).await,
        }
    }

    async fn not_at_hand(&self, meant: Meant, head: bool) -> Result<Answer, Nowhere> {
        if let Some(record) = self.quarantined(&meant).await {
            match self.stand_in(meant, &record, head).await {
                Some(answer) => return answer,
                None if record.is_doubt() => {}
                None => return Err(Nowhere::refused(record.to_string())),
            }
        }
        self.fetched(meant, head).await
    }

    /// What is served in place of a NAR that was refused under this name; `None` when nothing can be.
    async fn stand_in(&self, meant: Meant, record: &Record, head: bool) -> Option<Result<Answer, Nowhere>> {
        let other = self.instead(meant, record).await?;
        match self.at_hand(other).await {
            Ok(None) => Some(self.fetched(other, head).await),
            at_hand => at_hand.transpose(),
        }
    }

    /// The NAR from the store, or from a fill that is running.
    async fn at_hand(&self, meant: Meant) -> Result<Option<Answer>, Nowhere> {
        if let Some(manifest) = self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest)) {
            self.shared.store.touch(meant.blob());
            let leaves = self.what_may_leave(meant, manifest).await?;
            return Ok(leaves.map(|manifest| self.stored(meant, manifest)));
        }
        let Some(fill) = self.shared.fills.running(meant.blob()) else { return Ok(None) };
        if meant.hash.is_some() {
            // It may run for another path: this one needs a narinfo too (R1), and its bytes the proof of what that says.
            let plan = Box::pin(self.plan(meant)).await?;
            if self.shared.fills.is_held_against_another(&plan) {
                return Box::pin(self.after(&fill, meant)).await;
            }
        }
        let place = self.place_to_wait()?;
        self.shared.metrics.coalesced.inc();
        // When it fails, its source may have been another upstream than this client's.
        Ok(self.following(meant, &fill, Outcome::Follower, place).await.ok())
    }

    /// What there is once a fill is over that holds the same bytes against another claim.
    async fn after(&self, fill: &Arc<Fill>, meant: Meant) -> Result<Option<Answer>, Nowhere> {
        // How it ended, the store tells.
        let _ = fill.done().await;
        let Some(manifest) = self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest))
        else {
            return Ok(None);
        };
        let leaves = self.what_may_leave(meant, manifest).await?;
        Ok(leaves.map(|manifest| self.stored(meant, manifest)))
    }

    /// The NAR from an upstream.
    async fn fetched(&self, meant: Meant, head: bool) -> Result<Answer, Nowhere> {
        self.fetched_by(meant, self.plan(meant).await?, head).await
    }

    /// The same, by this plan; by another one where the upstream's narinfo names what it has not: it was rebuilt or collected
    /// since. Everybody is asked anew then, once: one who was not asked, because another had the narinfo, may have the
    /// NAR (R18). (A fill asks the others by itself where a source fails; for HEAD nothing is filled.)
    async fn fetched_by(&self, meant: Meant, plan: Plan, head: bool) -> Result<Answer, Nowhere> {
        let asked = plan.sources.clone();
        let failed = match self.fetched_once(meant, plan, head).await {
            Err(nowhere) if nowhere.is_gone() || (head && nowhere.outcome == Outcome::Unknown) => nowhere,
            found => return found,
        };
        let Some(hash) = meant.hash else {
            if failed.is_gone() && failed.sure {
                self.remember_missing(&meant);
            }
            return Err(failed);
        };
        if failed.is_gone() {
            self.expire(hash).await;
        }
        let found = self.announcers(meant, hash).await;
        let is_unknown = !failed.is_gone();
        // Who has just said no is not asked for the same again.
        let is_new = |plan: &Plan| plan.sources.iter().any(|source| !asked.iter().any(|asked| asked.is(source)));
        let again = match found.plan.filter(is_new) {
            Some(plan) => self.fetched_once(meant, plan, head).await,
            None => Err(failed),
        };
        match (again, found.unknown) {
            (Err(nowhere), Some(why)) if nowhere.is_not_found() => Err(Nowhere::unknown(why.as_ref())),
            (Err(nowhere), None) if nowhere.is_not_found() && is_unknown => Err(Nowhere::unknown(nowhere.text)),
            (again, _) => again,
        }
    }

    /// What GET waits for the proof of is not told to exist before either.
    async fn fetched_once(&self, meant: Meant, plan: Plan, head: bool) -> Result<Answer, Nowhere> {
        match head && !plan.is_held_back(plan.size) {
            true => self.head(meant, plan).await,
            false => self.filled(meant, plan).await,
        }
    }

    /// What of stored bytes may be served for this path: `None` is a miss. Nothing when the narinfo they came for is not
    /// trusted any more (R5); not before they are proven, where nothing unproven may leave; and not when they were found
    /// to be another path's (two upstreams may announce the same bytes, and one of them lie). Who has them proven may find
    /// others under their name, and those are what leaves then.
    async fn what_may_leave(&self, meant: Meant, manifest: Arc<Manifest>) -> Result<Option<Arc<Manifest>>, Nowhere> {
        let announced_by = manifest.announced.map(|announced| announced.store_hash);
        if let Some(hash) = meant.hash
            && announced_by != Some(*hash.as_bytes())
        {
            // They came for another path, or by their name: nobody has said yet what they are to this one.
            if let Some(record) = Box::pin(self.quarantined(&meant)).await {
                return match record.is_replaced() || record.is_doubt() {
                    true => Ok(None),
                    false => Err(Nowhere::refused(record.to_string())),
                };
            }
            if self.policy.options.verify != Verify::Off {
                return Box::pin(self.proven_of(meant)).await.map(Some);
            }
        }
        let first = self.policy.options.verify == Verify::BeforeFirstByte;
        let Some(announced) = manifest.announced else {
            // Asked for by the hash of its bytes, and nobody said more.
            return Ok((!first).then_some(manifest));
        };
        if !self.policy.holds(&announced.basis) && !Box::pin(self.is_still_announced(meant, &manifest)).await {
            return Ok(None);
        }
        match manifest.inside.is_some() || !first {
            true => Ok(Some(manifest)),
            false => Box::pin(self.proven_of(meant)).await.map(Some),
        }
    }

    /// The bytes that are meant, proven now.
    async fn proven_of(&self, meant: Meant) -> Result<Arc<Manifest>, Nowhere> {
        let plan = self.plan(meant).await?;
        self.shared.fills.proven(&plan).await.map_err(|broken| nowhere(&broken))
    }

    /// Whether a narinfo that is trusted today announces the stored bytes; noted in their manifest.
    async fn is_still_announced(&self, meant: Meant, manifest: &Arc<Manifest>) -> bool {
        let hash = meant.hash.or_else(|| {
            let announced = std::str::from_utf8(&manifest.announced.as_ref()?.store_hash).ok()?;
            HashPart::parse(announced).ok()
        });
        let Some(hash) = hash else { return false };
        if let Some(entry) = self.kept_entry(hash).await
            && let Some(info) = self.info_of(&entry)
            && meant.is_in(&info)
            && let Ok(plan) = self.plan_of_entry(&entry, &info)
        {
            let announced = plan.claim.map(|claim| claim.announced());
            let anew = Arc::new(manifest.announced_by(announced));
            self.shared.store.replace_manifest(manifest, anew).await;
            return true;
        }
        // Another path's narinfo may still announce it.
        let its_own = manifest.announced.is_some_and(|announced| announced.store_hash == *hash.as_bytes());
        if its_own && !self.policy.is_replaced() {
            tracing::info!(key = %hash, "a NAR that is here is not announced by any narinfo trusted now: it is dropped");
            self.shared.store.remove_manifest(manifest.blob);
        }
        false
    }

    pub(super) async fn narinfo_for_nar(&self, hash: HashPart) -> Result<(Entry, NarInfo), Nowhere> {
        let (found, outcome) = self.find_narinfo(hash).await;
        match found {
            Found::Have(entry) | Found::Stale(entry) => match self.info_of(&entry) {
                Some(info) => Ok((entry, info)),
                None => Err(Nowhere::unknown(format!("the narinfo of {hash} that was kept cannot be read"))),
            },
            Found::HaveNot => Err(Nowhere::not_found(self.nobody_has(hash))),
            Found::Refused(why) => Err(Nowhere::refused(why.as_ref())),
            Found::Unknown(why) if outcome == Outcome::Limited => Err(Nowhere::crowded(why.as_ref())),
            Found::Unknown(why) => Err(Nowhere::unknown(why.as_ref())),
        }
    }

    fn stored(&self, meant: Meant, manifest: Arc<Manifest>) -> Answer {
        let (fills, blob, size) = (self.shared.fills.clone(), meant.blob(), manifest.size);
        let locate = self.locator(meant);
        let tier =
            Some(self.shared.store.place_of_chunk(ChunkKey { blob, index: 0 })).filter(|tier| *tier != Place::Nowhere);
        let (witness, seen_by) = witness();
        let open = move |range| into_body(Reader::stored(fills, blob, manifest, locate, range).seen_by(seen_by));
        let provenance = Provenance { tier, witness, ..Provenance::default() };
        nar_answer(Outcome::Hit, Some(size), &meant, Box::new(open)).coming_from(provenance)
    }

    fn place_to_wait(&self) -> Result<Waiter, Nowhere> {
        self.place().ok_or_else(|| Nowhere::crowded(CROWDED))
    }

    async fn following(
        &self,
        meant: Meant,
        fill: &Arc<Fill>,
        outcome: Outcome,
        place: Waiter,
    ) -> Result<Answer, Nowhere> {
        let ready = fill.ready().await.map_err(|broken| nowhere(&broken))?;
        drop(place);
        let (fills, fill, locate) = (self.shared.fills.clone(), Arc::clone(fill), self.locator(meant));
        let (upstream, (witness, seen_by)) = (fill.sender(), witness());
        let open = move |range| into_body(Reader::following(fills, fill, locate, range).seen_by(seen_by));
        let provenance = Provenance { upstream, witness, stored: outcome == Outcome::Miss, ..Provenance::default() };
        Ok(nar_answer(outcome, ready.size, &meant, Box::new(open)).coming_from(provenance))
    }

    async fn filled(&self, meant: Meant, plan: Plan) -> Result<Answer, Nowhere> {
        let plan = self.by_way_of_the_library(meant, plan);
        let (fill, started) = self.shared.fills.start(plan.clone());
        let outcome = if started { Outcome::Miss } else { Outcome::Follower };
        match self.following(meant, &fill, outcome, self.place_to_wait()?).await {
            // One that nobody had asked for may have given its place away just then.
            Err(_) if !started && fill.was_abandoned() => {
                let (fill, _) = self.shared.fills.start(plan);
                self.following(meant, &fill, Outcome::Miss, self.place_to_wait()?).await
            }
            followed => followed,
        }
    }

    /// HEAD of a large NAR that is not here: true to what the upstream has, without fetching it.
    async fn head(&self, meant: Meant, plan: Plan) -> Result<Answer, Nowhere> {
        let mut failure = Nowhere::not_found("no upstream has this NAR any more");
        for source in &plan.sources {
            // A GET whose body is not read closes its connection; HEAD would not be safe (nix-serve-wire.md, 1).
            match source.upstream.open(&source.target, 0, Some(0)).await {
                Ok(Said::Have(opened))
                    if opened.total.is_some() && plan.size.is_some() && opened.total != plan.size =>
                {
                    failure = Nowhere::unknown(format!("upstream {} has another size for it", source.upstream.name()));
                }
                // Only now it is seen to be a small one.
                Ok(Said::Have(opened)) if plan.is_held_back(opened.total) => return self.filled(meant, plan).await,
                Ok(Said::Have(opened)) => {
                    let size = plan.size.or(opened.total);
                    let open = |_| -> BodyStream { Box::pin(futures_util::stream::empty()) };
                    let upstream = Some(Arc::clone(source.upstream.name()));
                    let provenance = Provenance { upstream, ..Provenance::default() };
                    return Ok(nar_answer(Outcome::Miss, size, &meant, Box::new(open)).coming_from(provenance));
                }
                Ok(Said::HaveNot) => {}
                Err(error) if error.is_busy() || source.upstream.when_down() == WhenDown::Error => {
                    failure = Nowhere::unknown(error.to_string());
                }
                // `when_down` makes a miss of it.
                Err(_) => failure.sure = false,
            }
        }
        Err(failure)
    }
}

fn nowhere(broken: &Broken) -> Nowhere {
    match broken.reason {
        FillFailure::Gone => Nowhere::not_found(broken.to_string()),
        FillFailure::Down => Nowhere { sure: false, ..Nowhere::not_found(broken.to_string()) },
        FillFailure::Busy => Nowhere::crowded(broken.to_string()),
        FillFailure::Internal => {
            Nowhere { outcome: Outcome::Internal, kind: FailureKind::Internal, text: broken.to_string(), sure: true }
        }
        // Asked for again it would be as wrong: five tries of Nix would not mend it.
        FillFailure::Refused => Nowhere::refused(nar_is_refused(broken)),
        FillFailure::Unknown
        | FillFailure::Cut
        | FillFailure::Short
        | FillFailure::Spliced
        | FillFailure::Abandoned
        | FillFailure::Stopped => Nowhere::unknown(broken.to_string()),
    }
}

fn nar_answer(
    outcome: Outcome,
    size: Option<u64>,
    meant: &Meant,
    open: Box<dyn FnOnce(Option<Range<u64>>) -> BodyStream + Send>,
) -> Answer {
    Answer::public(outcome, Reply::Nar(Nar { size, etag: meant.digest.nix32(), open }))
}

/// One for the answer, one for the reader.
fn witness() -> (Option<Arc<Witness>>, Arc<Witness>) {
    let witness = Witness::of_this_request();
    (Some(Arc::clone(&witness)), witness)
}

fn into_body(reader: Reader) -> BodyStream {
    Box::pin(reader.into_stream().map(|piece| piece.map_err(BodyError::from)))
}

#[cfg(test)]
mod tests;
