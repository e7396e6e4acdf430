//! An examination of everything that is kept: by the scrubber, slowly and for ever, and by `snowbank verify`.
//!
//! ```text
//! Store::walk ──▶ narinfo ── checked again under today's policy, our signatures too ──▶ right, or dropped
//!             └─▶ manifest ─ each chunk, the whole, what is inside ─▶ right, mended, a hole, or quarantined
//! ```
//!
//! What fails here goes the way of what fails while it is served: a wrong chunk is a hole, a NAR that is not what was
//! claimed is forgotten and quarantined, a narinfo that does not hold is removed. The store may be in use meanwhile.

mod report;
mod scrub;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use report::{Problem, Report};
pub use scrub::Scrubber;

use super::entry::{Entry, narinfo_hash, narinfo_key};
use super::nar::Meant;
use super::options::Verify;
use super::trust::{self, Refused, Verified};
use super::{Pipeline, Proxy};
use crate::decompress;
use crate::fill::{Claim, Examined, compression_of};
use crate::metrics::Refusal;
use crate::nix::hash::Sha256;
use crate::nix::signature::PublicKeys;
use crate::nix::store_path::HashPart;
use crate::store::{BlobId, EntryKey, Kept, Manifest};

/// So many small things are examined in the time of a chunk.
const ENTRIES: u32 = 16;

/// How many NARs are remembered as seen (some 40 MiB).
const SEEN: usize = 1 << 20;

/// How thoroughly it is done.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Unpack every NAR; else those that have not been proven yet, unless nothing is to be.
    pub everything: bool,
    /// Have wrong chunks fetched again at once.
    pub mend: bool,
    /// How long to wait before each chunk.
    pub pause: Duration,
}

impl Proxy {
    /// Examines everything that is kept. `told` hears how far it came, after each thing.
    pub async fn examine(&self, how: How, mut told: impl FnMut(&Report) + Send) -> Report {
        let mut report = Report::begin();
        let (mut walk, mut seen) = (self.store().walk(), HashSet::new());
        while let Some(kept) = walk.next().await {
            for found in kept {
                // Each thing under the policy in force, in the space that it belongs to.
                let Some((pipeline, kept)) = self.in_force.load().owner(&found) else {
                    report.others += 1;
                    continue;
                };
                match kept {
                    Kept::Entry(key, bytes) => {
                        tokio::time::sleep(how.pause / ENTRIES).await;
                        pipeline.examine_entry(key, &bytes, &mut report).await;
                    }
                    // A walk may tell of a thing twice, and this one is unpacked each time.
                    Kept::Manifest(_, manifest) => {
                        let Kept::Manifest(name, _) = found else { continue };
                        if seen.contains(&name) {
                            continue;
                        }
                        if how.everything && seen.len() < SEEN {
                            seen.insert(name);
                        }
                        pipeline.examine_nar(&manifest, how, &mut report).await;
                    }
                }
                told(&report);
            }
        }
        report.end(walk.walked());
        report
    }
}

impl Pipeline {
    async fn examine_entry(&self, key: EntryKey, bytes: &bytes::Bytes, report: &mut Report) {
        let Some(hash) = narinfo_hash(key) else {
            report.others += 1;
            return;
        };
        report.narinfos += 1;
        let Some(entry) = Entry::decode(bytes) else {
            self.shared.store.remove_entry(&key);
            return report.narinfo_is_wrong(hash, "", Refusal::Malformed, "it cannot be read");
        };
        let Some((upstream, _)) = self.policy.origin_of(&entry.upstream) else {
            // Not served while its upstream is not configured; it may be again.
            report.unused_narinfos += 1;
            return;
        };
        let checked = Verified::check_kept(&entry.without_ours(), &entry.note, hash, upstream, self.policy.rules());
        if let Err(Refused { reason, text }) = checked.and_then(|_| self.our_signatures_hold(&entry)) {
            // By the look that clients take: it may have been replaced meanwhile.
            if self.shared.store.entry(narinfo_key(hash)).await.as_ref() == Some(bytes) {
                self.drop_entry(narinfo_key(hash));
            }
            report.narinfo_is_wrong(hash, upstream.name(), reason, &text);
        }
    }

    /// Whether the signatures under our names are ours.
    fn our_signatures_hold(&self, entry: &Entry) -> Result<(), Refused> {
        let keys = PublicKeys::new(self.policy.signer.public_keys());
        let Some(info) = self.info_of(entry) else {
            return Err(Refused::new(Refusal::Malformed, "it cannot be read"));
        };
        let fingerprint = info.fingerprint(&self.policy.options.store_dir);
        let mut ours = info.sigs.iter().filter(|sig| self.policy.signer.has(&sig.name));
        match ours.all(|sig| keys.verify(fingerprint.as_bytes(), std::slice::from_ref(sig)).is_some()) {
            true => Ok(()),
            false => Err(Refused::new(Refusal::Untrusted, "a signature under the name of our key is wrong")),
        }
    }

    async fn examine_nar(&self, manifest: &Arc<Manifest>, how: How, report: &mut Report) {
        report.nars += 1;
        let Some(meant) = meant_of(manifest) else { return };
        let known = self.claim_of(manifest, &meant).await;
        let wanted = how.everything || (manifest.inside.is_none() && self.policy.options.verify != Verify::Off);
        let claim = known.as_ref().filter(|_| wanted && decompress::supports(meant.compression));
        let found = self.shared.fills.examine(manifest, claim, how.pause).await;
        report.take(&found);
        for index in &found.wrong {
            report.chunk_is_wrong(&meant, *index);
            if how.mend {
                let locate = self.locator(meant);
                match self.shared.fills.mend(manifest, *index, &locate).await {
                    Ok(()) => report.mended_chunks += 1,
                    Err(broken) => tracing::info!(key = %meant.digest, "a wrong chunk stays a hole: {broken}"),
                }
            }
        }
        self.conclude(manifest, &meant, claim, found, report).await;
    }

    /// Records what was found inside, or has the body forgotten and quarantined.
    async fn conclude(
        &self,
        manifest: &Arc<Manifest>,
        meant: &Meant,
        claim: Option<&Arc<Claim>>,
        found: Examined,
        report: &mut Report,
    ) {
        match found.inside {
            None if !found.wrong.is_empty() || found.absent > 0 => report.incomplete_nars += 1,
            None if manifest.inside.is_some() => report.proven_nars += 1,
            None => report.unproven_nars += 1,
            Some(Ok(inside)) => {
                report.proven_nars += 1;
                if let Some(claim) = claim
                    && manifest.inside.is_none()
                {
                    self.shared.fills.record(manifest, inside, claim).await;
                }
            }
            Some(Err(broken)) => {
                let Some(refusal) = broken.refusal else {
                    report.unproven_nars += 1;
                    tracing::warn!(key = %meant.digest, "a NAR could not be proven: {broken}");
                    return;
                };
                self.shared.fills.forget(manifest);
                // Chunks that are each right and together wrong are no upstream's fault.
                let upstream = match refusal {
                    Refusal::WrongFileHash => String::new(),
                    _ => self.condemn(meant, claim, refusal, &broken).await,
                };
                report.nar_is_wrong(meant, &upstream, refusal, &broken.text);
            }
        }
    }

    /// What is claimed of a stored body: by the narinfo that is kept for it, else by the one that it was filled for.
    async fn claim_of(&self, manifest: &Manifest, meant: &Meant) -> Option<Arc<Claim>> {
        let hash = meant.hash?;
        if let Some(entry) = self.kept_entry(hash).await
            && let Some(info) = self.info_of(&entry)
            && meant.is_in(&info)
        {
            return Some(Arc::new(trust::claim(&info, entry.signed.voucher, entry.signed.ground)));
        }
        let announced = manifest.announced?;
        Some(Arc::new(Claim {
            hash,
            name: hash.to_string(),
            nar_hash: Sha256::from_bytes(announced.nar_hash),
            nar_size: announced.nar_size,
            address: None,
            basis: announced.basis,
        }))
    }
}

/// Which bytes a manifest is about, as the URL says it under which they were fetched.
fn meant_of(manifest: &Manifest) -> Option<Meant> {
    let compression = compression_of(manifest.compression)?;
    let hash = |bytes: &[u8; 32]| HashPart::parse(std::str::from_utf8(bytes).ok()?).ok();
    let named_by_bytes = manifest.blob == BlobId::new(&manifest.file_hash, manifest.compression);
    let digest = match (named_by_bytes, manifest.announced) {
        (true, _) => manifest.file_hash,
        (false, Some(announced)) => announced.nar_hash,
        (false, None) => return None,
    };
    let hash = manifest.announced.as_ref().and_then(|announced| hash(&announced.store_hash));
    Some(Meant { hash, digest: Sha256::from_bytes(digest), compression })
}
