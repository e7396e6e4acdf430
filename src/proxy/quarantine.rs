//! What is remembered of NARs that are not what their narinfo claims, and what is served in their place.
//!
//! The record is kept under what a NAR URL says: the path, the digest, the compression. It says what was claimed of
//! those bytes: another narinfo may claim something else of the same bytes, and be right. While it stands, a narinfo with
//! that claim is refused from whatever upstream, so that the next one is asked, and nothing is served under the URL but
//! what has the NarHash, the NarSize and the compression that whoever was given the URL expects: the NAR of another
//! upstream. And even that only when nothing of the wrong bytes can have left under it (R12).
//!
//! Bytes with the FileHash that was announced are wrong for ever. Bytes without it may be a transfer that went wrong: for
//! [`DOUBTED`] the upstream that sent them is doubted in this, which is to say believed only if nobody else has the path.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;

use super::Pipeline;
use super::entry::{Entry, narinfo_key, put_text, quarantine_key, take_array, take_text};
use super::nar::Meant;
use super::trust::Verified;
use crate::clock::UnixSeconds;
use crate::fill::{Broken, Claim, Judge, Plan, Source};
use crate::metrics::{Label as _, Refusal};
use crate::nix::hash::Sha256;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::HashPart;
use crate::upstream::Upstream;

/// For how many seconds (10 minutes) a narinfo is doubted whose NAR may have gone wrong on its way only.
const DOUBTED: u64 = 600;
/// For how many seconds a narinfo without its NAR is not offered.
const MOMENT: u64 = 30;
/// How many claims of the same bytes are remembered (R26); the oldest is forgotten first.
const CLAIMS: usize = 8;
const VERSION: u8 = 2;

/// What the record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The bytes are not what is claimed, whoever has them.
    Wrong,
    /// What this upstream sent is not; another try may be right, and another upstream's is another matter.
    Doubted,
    /// This upstream has not got them, although it says so.
    Absent,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Wrong, Self::Doubted, Self::Absent];
}

/// What is known of certain bytes under the name of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Until when it holds.
    until: UnixSeconds,
    kind: Kind,
    /// The name of the upstream they came from.
    upstream: String,
    /// What was claimed to be in them, NarHash and NarSize, and is not: the last claim first. Whoever claims now this and
    /// now that of the same bytes does not have the first one forgotten.
    claims: Vec<(Sha256, u64)>,
    /// Whether something of them may have been served.
    left: bool,
    /// The digest of what is served in their place.
    instead: Option<Sha256>,
    /// Which upstream, and why: for people.
    text: String,
}

impl Record {
    /// What is known as of now of bytes of which this was claimed.
    fn new(kind: Kind, upstream: &str, claimed: (Sha256, u64), left: bool, text: String) -> Self {
        let now = UnixSeconds::now();
        let until = match kind {
            Kind::Wrong => UnixSeconds(u64::MAX),
            Kind::Doubted => now.plus(DOUBTED),
            Kind::Absent => now.plus(MOMENT),
        };
        Self { until, kind, upstream: upstream.to_owned(), claims: vec![claimed], left, instead: None, text }
    }

    /// Whether the bytes may turn out to be right after all, or be had right from another upstream.
    pub(super) fn is_doubt(&self) -> bool {
        self.kind != Kind::Wrong
    }

    /// Whether something else is served in their place.
    pub(super) fn is_replaced(&self) -> bool {
        self.instead.is_some()
    }

    /// Why the bytes were refused: the text begins with it.
    fn reason(&self) -> Refusal {
        let word = self.text.split(':').next().unwrap_or_default();
        Refusal::ALL.iter().copied().find(|reason| reason.text() == word).unwrap_or(Refusal::Quarantined)
    }

    /// With what an earlier record of the same bytes knows and this one does not: what stands in, and what left, stay so.
    fn after(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let lasting = before.kind == Kind::Wrong && self.kind != Kind::Wrong;
        let (instead, left) = (self.instead.or(before.instead), self.left || before.left);
        let alike = before.kind == self.kind && (self.kind == Kind::Wrong || before.upstream == self.upstream);
        let mut merged = if lasting { before.clone() } else { self };
        if alike {
            let earlier = before.claims.into_iter().filter(|claim| !merged.claims.contains(claim));
            let earlier: Vec<_> = earlier.collect();
            merged.claims.extend(earlier);
            merged.claims.truncate(CLAIMS);
        }
        let until = if instead.is_some() { UnixSeconds(u64::MAX) } else { merged.until };
        Self { instead, left, until, ..merged }
    }

    fn is_about(&self, info: &NarInfo) -> bool {
        self.claims.contains(&(info.nar_hash, info.nar_size))
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(120 + self.text.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.until.0);
        out.put_u8(self.kind as u8);
        out.put_u8(u8::from(self.left));
        out.put_u8(u8::from(self.instead.is_some()));
        out.put_slice(self.instead.as_ref().map_or(&[0; 32], Sha256::as_bytes).as_slice());
        out.put_u8(u8::try_from(self.claims.len()).unwrap_or(u8::MAX));
        for (nar_hash, nar_size) in &self.claims {
            out.put_slice(nar_hash.as_bytes());
            out.put_u64_le(*nar_size);
        }
        put_text(&mut out, &self.upstream);
        put_text(&mut out, &self.text);
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let until = UnixSeconds(bytes.try_get_u64_le().ok()?);
        let code = bytes.try_get_u8().ok()?;
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == code)?;
        let left = bytes.try_get_u8().ok()? != 0;
        let replaced = bytes.try_get_u8().ok()? != 0;
        let instead = Sha256::from_bytes(take_array(&mut bytes)?);
        let claim = |bytes: &mut Bytes| Some((Sha256::from_bytes(take_array(bytes)?), bytes.try_get_u64_le().ok()?));
        let count = bytes.try_get_u8().ok()?;
        let claims = (0..count).map(|_| claim(&mut bytes)).collect::<Option<Vec<_>>>()?;
        let (upstream, text) = (take_text(&mut bytes)?, take_text(&mut bytes)?);
        Some(Self { until, kind, upstream, claims, left, instead: replaced.then_some(instead), text })
    }
}

/// What is known against a narinfo.
pub(super) enum Known {
    Nothing,
    /// Its NAR was wrong when it came last.
    Doubtful,
    /// Its NAR is here, and another one.
    Wrong(String),
    /// Its NAR was refused, for this reason.
    Refused(Refusal, String),
}

/// For people.
impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its NAR was refused ({})", self.text)
    }
}

impl Pipeline {
    /// Does as if a narinfo were not offered, for a moment: its NAR is not there.
    pub(super) async fn withhold(&self, hash: HashPart, info: &NarInfo, upstream: &Upstream, text: &str) {
        let claimed = (info.nar_hash, info.nar_size);
        let record = Record::new(Kind::Absent, upstream.name(), claimed, false, text.to_owned());
        let meant = Meant::by(info);
        let record = record.after(self.quarantined(&meant).await);
        self.put_record(&meant, &record).await;
        self.drop_entry(narinfo_key(hash));
    }

    async fn put_record(&self, meant: &Meant, record: &Record) {
        self.shared.metrics.quarantined.inc();
        self.shared.store.put_entry(quarantine_key(meant), record.encode()).await;
    }

    /// The record of these bytes, while it stands.
    pub(super) async fn quarantined(&self, meant: &Meant) -> Option<Record> {
        let record = Record::decode(self.shared.store.entry(quarantine_key(meant)).await?)?;
        (UnixSeconds::now() < record.until).then_some(record)
    }

    /// What is known against a narinfo that is otherwise right: what it claims of its NAR was found not to be so.
    pub(super) async fn known_of(&self, upstream: &Upstream, verified: &Verified) -> Known {
        let meant = Meant::by(verified.info());
        if let Some(record) = self.quarantined(&meant).await
            && record.is_about(verified.info())
        {
            match record.kind {
                Kind::Wrong => return Known::Refused(record.reason(), record.to_string()),
                _ if record.upstream != **upstream.name() => {}
                Kind::Doubted => return Known::Doubtful,
                Kind::Absent => return Known::Refused(record.reason(), record.to_string()),
            }
        }
        let manifest = self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest));
        if manifest.is_some_and(|manifest| verified.claim().holds_for(&manifest) == Some(false)) {
            let text = "its NAR is here, and is another one than NarHash and NarSize say".to_owned();
            return Known::Wrong(text);
        }
        Known::Nothing
    }

    /// What may be served in place of bytes that were refused: the same bytes from another upstream, or, where nothing of
    /// the wrong ones can have left, another upstream's NAR, proven to be what was claimed of them. `None`: nothing.
    pub(super) async fn instead(&self, meant: Meant, record: &Record) -> Option<Meant> {
        if let Some(digest) = record.instead {
            return Some(Meant { digest, ..meant });
        }
        let hash = meant.hash?;
        let (entry, info) = self.narinfo_for_nar(hash).await.ok()?;
        let other = Meant::by(&info);
        // What is said of them now may be right although what was said before is not.
        let another = entry.upstream != record.upstream || !record.is_about(&info);
        if other == meant && info.file_hash.is_some() && another {
            return Some(meant);
        }
        if record.left || other == meant || !record.is_about(&info) || info.compression != meant.compression {
            return None;
        }
        let plan = self.plan_of_entry(&entry, &info).ok()?;
        if let Err(broken) = self.shared.fills.proven(&plan).await {
            tracing::debug!(key = %hash, "nothing stands in for a NAR that was refused: {broken}");
            return None;
        }
        tracing::info!(key = %hash, upstream = %entry.upstream, "its NAR stands in for the one that was refused");
        let record = Record { instead: Some(other.digest), until: UnixSeconds(u64::MAX), ..record.clone() };
        self.shared.store.put_entry(quarantine_key(&meant), record.encode()).await;
        Some(other)
    }

    /// Quarantines stored bytes that are not what was claimed; the name of the upstream they came from, as far as known.
    pub(super) async fn condemn(
        &self,
        meant: &Meant,
        claim: Option<&Arc<Claim>>,
        refusal: Refusal,
        broken: &Broken,
    ) -> String {
        let (Some(hash), Some(claim)) = (meant.hash, claim) else { return "unknown".to_owned() };
        if let Some(entry) = self.kept_entry(hash).await
            && let Some(info) = self.info_of(&entry)
            && meant.is_in(&info)
            && let Ok(plan) = self.plan_of_entry(&entry, &info)
            && let Some(source) = plan.sources.first()
        {
            plan.judge.refuted(source, &plan, broken, true).await;
            return entry.upstream;
        }
        let claimed = (claim.nar_hash, claim.nar_size);
        let record = Record::new(Kind::Wrong, "unknown", claimed, true, format!("{refusal}: {broken}"));
        let record = record.after(self.quarantined(meant).await);
        self.put_record(meant, &record).await;
        record.upstream
    }

    /// Who hears of NARs that are not what was claimed.
    pub(super) fn judge(&self) -> Arc<dyn Judge> {
        Arc::new(Verdicts { pipeline: self.clone() })
    }

    /// A refusal is counted and logged (R39); what is withheld because of an earlier one was logged then.
    pub(super) fn refuse(&self, upstream: &Upstream, hash: HashPart, refusal: Refusal, text: &str) {
        upstream.metrics().refused.of(refusal).inc();
        match refusal {
            Refusal::Quarantined => {
                tracing::debug!(key = %hash, upstream = %upstream.name(), reason = %refusal, "{text}");
            }
            _ => tracing::warn!(key = %hash, upstream = %upstream.name(), reason = %refusal, "{text}"),
        }
    }
}

#[derive(Debug)]
struct Verdicts {
    pipeline: Pipeline,
}

impl Verdicts {
    /// Forgets the kept narinfo that makes this claim of these bytes. What is wrong is so under every policy; what somebody
    /// else claims of the same bytes is another matter.
    async fn forget_narinfo(&self, meant: &Meant, claim: &Claim) {
        let (pipeline, key) = (&self.pipeline, narinfo_key(claim.hash));
        let kept = pipeline.shared.store.entry(key).await.and_then(|bytes| Entry::decode(&bytes));
        if kept.and_then(|entry| pipeline.info_of(&entry)).is_some_and(|info| {
            Meant::by(&info) == *meant && (info.nar_hash, info.nar_size) == (claim.nar_hash, claim.nar_size)
        }) {
            pipeline.shared.store.remove_entry(&key);
        }
    }
}

impl Judge for Verdicts {
    fn refuted<'a>(&'a self, source: &'a Source, plan: &'a Plan, broken: &'a Broken, left: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(claim) = &plan.claim {
                self.pipeline.doubt_in_library(&source.upstream, claim.hash);
            }
            let (Some(refusal), upstream) = (broken.refusal, &source.upstream) else { return };
            let Some(claim) = &plan.claim else {
                // Only who asked said that what is there has this hash: nobody was caught at anything.
                upstream.metrics().refused.of(refusal).inc();
                tracing::warn!(key = %plan.digest, upstream = %upstream.name(), reason = %refusal, "{broken}");
                return;
            };
            // What nobody claimed otherwise is no lie.
            if refusal != Refusal::TooDeep {
                upstream.suspect();
            }
            let (pipeline, hash) = (&self.pipeline, claim.hash);
            let text = format!("the NAR of {} is refused ({refusal}): {broken}", claim.name);
            pipeline.refuse(upstream, hash, refusal, &text);
            let meant = Meant { hash: Some(hash), digest: plan.digest, compression: plan.compression };
            let on_the_way = matches!(refusal, Refusal::WrongFileHash | Refusal::WrongSize | Refusal::Unprovable);
            let kind = if on_the_way || plan.file_hash.is_none() { Kind::Doubted } else { Kind::Wrong };
            let claimed = (claim.nar_hash, claim.nar_size);
            let record = Record::new(kind, upstream.name(), claimed, left, format!("{refusal}: {broken}"));
            let record = record.after(pipeline.quarantined(&meant).await);
            pipeline.put_record(&meant, &record).await;
            self.forget_narinfo(&meant, claim).await;
        })
    }

    fn lacks<'a>(&'a self, source: &'a Source, plan: &'a Plan) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Of any other upstream it is found out by who asks, who looks for others then.
            let Some(claim) = plan.claim.as_ref().filter(|_| source.upstream.is_library()) else { return };
            // Asked for what its narinfo names, not for what it might have besides.
            let kept = self.pipeline.kept_entry(claim.hash).await;
            if kept.is_none_or(|entry| entry.upstream != **source.upstream.name()) {
                return;
            }
            self.pipeline.doubt_in_library(&source.upstream, claim.hash);
            // For a moment its narinfo is not offered: other upstreams may have the path in other bytes by now.
            let meant = Meant { hash: Some(claim.hash), digest: plan.digest, compression: plan.compression };
            let text = format!("upstream {} has not got it", source.upstream.name());
            let claimed = (claim.nar_hash, claim.nar_size);
            let record = Record::new(Kind::Absent, source.upstream.name(), claimed, false, text);
            let record = record.after(self.pipeline.quarantined(&meant).await);
            self.pipeline.shared.store.put_entry(quarantine_key(&meant), record.encode()).await;
            self.forget_narinfo(&meant, claim).await;
        })
    }

    fn whole(&self, source: &Source, plan: &Plan) {
        self.pipeline.offer_whole(source, plan);
    }
}

#[cfg(test)]
mod tests;
