//! Narinfos in the store: as they are kept, and as they are served.
//!
//! ```text
//! Verified ──render, sign──▶ Entry ──store──▶ Entry ──still holds?──▶ served
//!                              ▲                          │ the configuration changed
//!                              └──────── Verified ◀───────┘
//! ```
//!
//! An entry is served as it is while it rests on what is configured now. When that has changed it is checked again from
//! its text, and either signed anew or dropped (R5); by the policy in force, not by a question that was asked before it. What may be signed only after its NAR was seen (R3) is kept without
//! our signatures until then, and served so only where clients need none.

use std::time::Duration;

use bytes::Bytes;

use super::Pipeline;
use super::entry::{Entry, Signed, narinfo_key};
use super::nar::Meant;
use super::narinfo::Found;
use super::policy::Basis;
use super::sign::Demand;
use super::trust::{Verified, Voucher};
use crate::clock::UnixSeconds;
use crate::fill::{Broken, FillFailure};
use crate::metrics::{Place, Refusal};
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::HashPart;
use crate::store::{EntryKey, Manifest};
use crate::trail;
use crate::upstream::{Upstream, WhenDown};

/// How long an answer waits for the proof that comes before its signature: less than the 300 s after which Nix gives up.
const PROOF: Duration = Duration::from_secs(240);
/// How often an upstream may be caught before a client is told that there is nothing.
const TRIES: usize = 3;

/// How long something is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    pub(super) fetched: UnixSeconds,
    pub(super) expires: UnixSeconds,
}

impl Pipeline {
    /// The kept narinfo of a path, fresh or not, if it still holds.
    pub(super) async fn kept_entry(&self, hash: HashPart) -> Option<Entry> {
        self.kept_entry_from(hash).await.map(|(entry, _)| entry)
    }

    /// As [`Pipeline::kept_entry`], and where it was.
    pub(super) async fn kept_entry_from(&self, hash: HashPart) -> Option<(Entry, Place)> {
        let (bytes, place) = self.shared.store.entry_from(narinfo_key(hash)).await?;
        let entry = Entry::decode(&bytes)?;
        let (upstream, basis) = self.policy.origin_of(&entry.upstream)?;
        let entry = if *basis == entry.basis {
            Some(entry)
        } else {
            Box::pin(self.kept_anew(hash, &entry, upstream, *basis)).await
        };
        Some((entry?, place))
    }

    /// What was kept under another configuration: kept again under this one, or dropped.
    async fn kept_anew(&self, hash: HashPart, entry: &Entry, upstream: &Upstream, basis: Basis) -> Option<Entry> {
        // In the library a signature of ours may be all that vouches.
        let text = if upstream.is_library() { entry.body.clone() } else { entry.without_ours() };
        let verified = Verified::check_kept(&text, &entry.note, hash, upstream, self.policy.rules());
        let verified = verified.ok().filter(|verified| {
            // What is not bound by a key or by its own content came from another place than the one trusted now.
            basis.origin == entry.basis.origin || matches!(verified.voucher(), Voucher::Key | Voucher::ContentAddress)
        });
        let Some(verified) = verified else {
            tracing::info!(key = %hash, upstream = %upstream.name(), "the narinfo that was kept is not trusted any more");
            self.drop_entry(narinfo_key(hash));
            return None;
        };
        let verified = self.seen(verified).await;
        let lifetime = Lifetime { fetched: entry.fetched, expires: entry.expires };
        Some(self.keep(upstream, &verified, lifetime).await)
    }

    /// Takes note of a NAR that is here and was proven.
    pub(super) async fn seen(&self, verified: Verified) -> Verified {
        let meant = Meant::by(verified.info());
        match self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest)) {
            Some(manifest) => verified.seen_in(&manifest),
            None => verified,
        }
    }

    /// Keeps a narinfo, with our signatures where it may have them.
    pub(super) async fn keep(&self, upstream: &Upstream, verified: &Verified, lifetime: Lifetime) -> Entry {
        let entry = self.entry_of(upstream, verified, lifetime);
        self.put_entry(narinfo_key(verified.info().store_path.hash()), &entry).await;
        entry
    }

    /// Keeps something, unless the policy was replaced that it was accepted under: what is kept by now may be of the next.
    pub(super) async fn put_entry(&self, key: EntryKey, entry: &Entry) {
        if !self.policy.is_replaced() {
            self.shared.store.put_entry(key, entry.encode()).await;
        }
    }

    /// Drops what was kept, unless the policy was replaced by one that may believe it.
    pub(super) fn drop_entry(&self, key: EntryKey) {
        if !self.policy.is_replaced() && !trail::is_anothers() {
            self.shared.store.remove_entry(&key);
        }
    }

    /// Remembers for a moment that nobody has something, or why what was offered was refused. Another policy's upstreams
    /// were not asked (R18), and what nobody has besides the server that asks may be there all the same.
    pub(super) fn put_negative(&self, key: EntryKey, refused: Option<Refusal>) {
        if trail::is_anothers() {
            return;
        }
        self.shared.store.put_negative(key, self.policy.options.negative_ttl.0, refused);
        // Looked at afterwards: a reload forgets what was put before it.
        if self.policy.is_replaced() {
            self.shared.store.forget_negative(&key);
        }
    }

    /// A narinfo as it is kept.
    pub(super) fn entry_of(&self, upstream: &Upstream, verified: &Verified, lifetime: Lifetime) -> Entry {
        let (signer, dir) = (&self.policy.signer, &self.policy.options.store_dir);
        let mut info = verified.served(dir);
        // R5: what came under our own names is not ours.
        info.sigs.retain(|sig| !signer.has(&sig.name));
        let ours = signer.sign(verified, dir);
        let line = |sig: &crate::nix::signature::Signature| "Sig: ".len() + sig.to_string().len() + 1;
        let (our_len, their_len) = (ours.iter().map(line).sum::<usize>(), info.sigs.iter().map(line).sum::<usize>());
        info.sigs.splice(0..0, ours);
        let text = info.render(dir);
        let at = text.find("\nSig: ").map_or(text.len(), |at| at + 1);
        // A narinfo is at most 1 MiB long.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Entry {
            fetched: lifetime.fetched,
            expires: lifetime.expires,
            basis: self.policy.basis(upstream),
            upstream: upstream.name().to_string(),
            note: verified.url().as_str().to_owned(),
            signed: Signed {
                voucher: verified.voucher(),
                ground: verified.ground(),
                at: number(at),
                ours: number(our_len),
                theirs: number(their_len),
            },
            body: text.into(),
        }
    }

    /// The text that clients get.
    pub(super) fn served(&self, entry: &Entry) -> Bytes {
        // Never without any signature: a client remembers that for 30 days.
        match entry.signed.ours > 0 && self.policy.signer.drops_theirs() {
            true => entry.without_theirs(),
            false => entry.body.clone(),
        }
    }

    /// The narinfo inside a kept entry. It was verified before it was kept.
    pub(super) fn info_of(&self, entry: &Entry) -> Option<NarInfo> {
        NarInfo::parse_rendered(&entry.body, &self.policy.options.store_dir).ok()
    }

    /// What was found, signed if it can be: what our signature waits for is fetched and proven now (R3).
    pub(super) async fn signed(&self, hash: HashPart, mut found: Found) -> Found {
        let mut refused: Vec<(String, String)> = Vec::new();
        let mut why = String::new();
        while refused.len() < TRIES {
            let (Found::Have(entry) | Found::Stale(entry)) = &found else { break };
            if refused.iter().any(|(upstream, note)| *upstream == entry.upstream && *note == entry.note) {
                // For want of another it is offered again.
                return Found::Refused(why.into());
            }
            let demand = match entry.signed.ours {
                0 => self.policy.signer.demand(entry.signed.voucher),
                _ => Demand::Nothing,
            };
            let signed = match demand {
                Demand::Nothing => None,
                Demand::ProofIfThere => Box::pin(self.signed_if_proven(hash, entry)).await,
                Demand::Proof => match Box::pin(self.proven(hash, entry)).await {
                    Ok(entry) => Some(entry),
                    Err(broken) => match Box::pin(self.not_proven(hash, entry, &broken)).await {
                        Some(no) => return no,
                        // The next upstream may have another.
                        None => {
                            refused.push((entry.upstream.clone(), entry.note.clone()));
                            why = nar_is_refused(&broken);
                            found = match Box::pin(self.find_narinfo(hash)).await.0 {
                                Found::HaveNot | Found::Refused(_) => return Found::Refused(why.into()),
                                next => next,
                            };
                            continue;
                        }
                    },
                },
            };
            return signed.map_or(found, Found::Have);
        }
        match found {
            Found::Have(_) | Found::Stale(_) => Found::Refused(why.into()),
            found => found,
        }
    }

    /// A narinfo whose NAR is here and was proven since it was kept, signed.
    async fn signed_if_proven(&self, hash: HashPart, entry: &Entry) -> Option<Entry> {
        let info = self.info_of(entry)?;
        let meant = Meant::by(&info);
        let manifest = self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest))?;
        let signed = self.signed_by(hash, entry, &manifest).await;
        if signed.is_none()
            && let Ok(plan) = self.plan_of_entry(entry, &info)
        {
            // It came for another path, or was not proven yet.
            self.shared.fills.prove_if_here(&plan).await;
        }
        signed
    }

    /// A narinfo signed because of what was found in its NAR; `None` when that is not enough.
    async fn signed_by(&self, hash: HashPart, entry: &Entry, manifest: &Manifest) -> Option<Entry> {
        let (upstream, _) = self.policy.origin_of(&entry.upstream)?;
        let text = entry.without_ours();
        let verified = Verified::check_kept(&text, &entry.note, hash, upstream, self.policy.rules()).ok()?;
        let verified = verified.seen_in(manifest);
        let lifetime = Lifetime { fetched: entry.fetched, expires: entry.expires };
        match verified.is_proven() {
            true => {
                let entry = self.keep(upstream, &verified, lifetime).await;
                self.offer_kept(hash, &entry, upstream).await;
                Some(entry)
            }
            false => None,
        }
    }

    /// Has the NAR of a narinfo fetched and proven, and the narinfo signed.
    async fn proven(&self, hash: HashPart, entry: &Entry) -> Result<Entry, Broken> {
        let unknown = |text: &str| Broken::new(FillFailure::Unknown, text);
        let info = self.info_of(entry).ok_or_else(|| unknown("the narinfo that was kept cannot be read"))?;
        let plan = self.plan_of_entry(entry, &info).map_err(|why| unknown(&why))?;
        let proven = async {
            let (upstream, _) = self.policy.origin_of(&entry.upstream)?;
            let _turn = upstream.turn_to_fetch_ahead().await;
            Some(self.shared.fills.proven(&plan).await)
        };
        let Ok(Some(proven)) = tokio::time::timeout(PROOF, proven).await else {
            return Err(unknown("its NAR is still being fetched, to be proven before it is signed; try again"));
        };
        self.signed_by(hash, entry, &*proven?).await.ok_or_else(|| unknown("its NAR is not enough to sign it"))
    }

    /// What is said of a path whose NAR could not be proven, so that it cannot be signed; `None` when its narinfo is not
    /// offered any more, and the upstreams are to be asked again.
    async fn not_proven(&self, hash: HashPart, entry: &Entry, broken: &Broken) -> Option<Found> {
        let upstream = self.policy.origin_of(&entry.upstream).map(|(upstream, _)| upstream);
        if broken.refusal.is_some() {
            return None;
        }
        if broken.reason == FillFailure::Gone
            && let (Some(upstream), Some(info)) = (upstream, self.info_of(entry))
        {
            self.withhold(hash, &info, upstream, &format!("upstream {} has not got it: {broken}", upstream.name()))
                .await;
            return None;
        }
        Some(match upstream.map(|upstream| upstream.when_down()) {
            Some(WhenDown::Miss) => Found::HaveNot,
            _ => Found::Unknown(broken.to_string().into()),
        })
    }
}

/// What a client is told of a NAR that is not what was claimed.
pub(super) fn nar_is_refused(broken: &Broken) -> String {
    match broken.refusal {
        Some(refusal) => format!("its NAR is refused ({refusal}): {broken}"),
        None => broken.to_string(),
    }
}

#[cfg(test)]
mod tests;
