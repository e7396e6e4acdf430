//! Narinfos: from the store while fresh, else from the upstreams, verified; stale when no upstream can be asked.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::Pipeline;
use super::answer::{Answer, FailureKind, Object, ObjectBody, Outcome, Reply};
use super::entry::{Entry, meant_key, narinfo_key};
use super::flights::{NOT_ASKED, Publish};
use super::hedge::{Asking, Others};
use super::kept::Lifetime;
use super::nar::Meant;
use super::outage;
use super::quarantine::Known;
use super::request::Asker;
use super::trust::{self, Refused, Verified, Voucher};
use crate::clock::UnixSeconds;
use crate::metrics::{Place, Refusal};
use crate::nix::narinfo::{Compression, MAX_LEN};
use crate::nix::store_path::HashPart;
use crate::trail;
use crate::upstream::{Asked as Got, Said, Upstream, WhenDown};

/// Seconds for which clients' own caches in between may keep a narinfo.
const MAX_AGE: u64 = 3600;

/// What looking for a narinfo came to.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Have(Entry),
    /// From the store although it is not fresh: no upstream could be asked, or none has it any more but its NAR is here.
    Stale(Entry),
    HaveNot,
    /// Offered, but not believed: to a client the same as "have not", with the reason.
    Refused(Arc<str>),
    Unknown(Arc<str>),
}

/// What one upstream said about a path.
pub(super) enum Asked {
    Have(Arc<Upstream>, Box<Verified>),
    /// The same, but its NAR was wrong when it came last: for want of a better one.
    Doubtful(Arc<Upstream>, Box<Verified>),
    HaveNot,
    /// Not believed, or not any more: the reason at the root of it, and what there is to say.
    Refused(Refusal, String),
    /// Unknown, but its `when_down` makes a miss of that: nothing kept is given up for it.
    Down(String),
    Unknown(String),
}

/// What the upstreams said together.
enum Together {
    Have(Arc<Upstream>, Box<Verified>),
    HaveNot,
    /// Offered, and not believed; nobody who could have a better one was out of reach.
    Refused(Refusal, String),
    /// One could not be asked, and what it might have counts (R18).
    Unknown(String),
}

/// What comes of asking them.
struct Heard<'a> {
    together: Together,
    /// Answers that are still to come, of those that were asked side by side with the one that has it; those of doubtful ones
    /// are among them.
    others: Others<'a>,
    /// Whether all that were asked could be: else a miss is one by `when_down`, and nothing to remember (R18).
    sure: bool,
}

/// Answers that have come already, for want of better ones.
fn doubted<'a>(answers: VecDeque<(Arc<Upstream>, Box<Verified>)>) -> Others<'a> {
    stream::iter(answers.into_iter().map(|(upstream, verified)| Asked::Doubtful(upstream, verified))).boxed()
}

impl Pipeline {
    pub(super) async fn narinfo(&self, hash: HashPart, asker: Asker) -> Answer {
        let (found, outcome, tier) = self.find_narinfo_from(hash).await;
        let found = self.signed(hash, found).await;
        match found {
            Found::Have(entry) | Found::Stale(entry) => {
                self.expect(hash, &entry, outcome, asker);
                let provenance = entry.provenance(tier, outcome);
                let object = Object {
                    content_type: "text/x-nix-narinfo",
                    encoding: None,
                    body: ObjectBody::Whole(self.served(&entry)),
                    max_age: MAX_AGE,
                };
                Answer::public(outcome, Reply::Object(object)).coming_from(provenance)
            }
            Found::HaveNot => {
                self.expect_nothing(hash);
                let outcome = if outcome == Outcome::Negative { outcome } else { Outcome::NotFound };
                Answer::failed(outcome, FailureKind::NotFound, self.nobody_has(hash))
            }
            Found::Refused(why) => Answer::failed(Outcome::Refused, FailureKind::NotFound, why.as_ref()),
            Found::Unknown(why) => outage::unknown(outcome, why.as_ref()),
        }
    }

    /// What a client is told of a path that is not to be had; with the reason, where what was offered was refused.
    pub(super) fn nobody_has(&self, hash: HashPart) -> String {
        match self.shared.store.refused(narinfo_key(hash)) {
            Some(reason) => format!("what upstreams had of {hash} was refused a moment ago ({reason}): see the log"),
            None => format!("no upstream has {hash}"),
        }
    }

    /// The narinfo of a path, from wherever it is had, and the word for how.
    pub(super) async fn find_narinfo(&self, hash: HashPart) -> (Found, Outcome) {
        let (found, outcome, _) = self.find_narinfo_from(hash).await;
        (found, outcome)
    }

    /// As [`Pipeline::find_narinfo`], and the tier where something is kept.
    async fn find_narinfo_from(&self, hash: HashPart) -> (Found, Outcome, Option<Place>) {
        let key = narinfo_key(hash);
        let (kept, tier) = self.kept_entry_from(hash).await.unzip();
        match kept {
            Some(entry) if entry.is_fresh(UnixSeconds::now()) => return (Found::Have(entry), Outcome::Hit, tier),
            None if self.shared.store.negative(key) => return (Found::HaveNot, Outcome::Negative, tier),
            _ => {}
        }
        let stale = kept.clone().filter(|entry| !entry.is_gone());
        let proxy = self.clone();
        let ask = |publish: Publish<Found>| async move { proxy.ask_and_keep(hash, kept, &publish).await };
        let asking = self.waited(self.policy.narinfos.join(hash, ask));
        let (found, asked_here) = Box::pin(outage::or_stale(stale.map(Found::Stale), asking)).await;
        let Some(found) = found else { return (Found::Unknown(NOT_ASKED.into()), Outcome::Limited, None) };
        let outcome = match (&found, asked_here) {
            (Found::Have(_), true) => Outcome::Miss,
            (Found::Have(_), false) => Outcome::Follower,
            (Found::Stale(_), _) => Outcome::Stale,
            (Found::HaveNot, _) => Outcome::NotFound,
            (Found::Refused(_), _) => Outcome::Refused,
            (Found::Unknown(_), _) => Outcome::Unknown,
        };
        (found, outcome, tier)
    }

    /// What a kept narinfo names is gone: the next who asks for it asks the upstreams. It is not removed, because they may
    /// be down by then.
    pub(super) async fn expire(&self, hash: HashPart) {
        if !trail::is_anothers()
            && let Some(mut entry) = self.kept_entry(hash).await
        {
            entry.expires = UnixSeconds(0);
            self.put_entry(narinfo_key(hash), &entry).await;
        }
    }

    async fn ask_and_keep(&self, hash: HashPart, kept: Option<Entry>, publish: &Publish<Found>) {
        let key = narinfo_key(hash);
        // Another question may have been answered between the look into the store and this task's start.
        if let Some(entry) = self.kept_entry(hash).await
            && entry.is_fresh(UnixSeconds::now())
        {
            return publish.say(Found::Have(entry));
        }
        let Heard { together, others, sure } = self.ask_narinfo(hash, kept.as_ref()).await;
        match (together, kept) {
            (Together::Have(upstream, verified), Some(kept)) if self.stays(&kept, &upstream, &verified) => {
                self.conflict(hash, &upstream, &verified, &kept.upstream);
                let now = UnixSeconds::now();
                let kept = Entry { fetched: now, expires: now.plus(self.kept_for(&kept)), ..kept };
                publish.say(Found::Have(kept.clone()));
                self.put_entry(key, &kept).await;
            }
            (Together::Have(upstream, verified), _) => {
                let verified = self.seen(*verified).await;
                let now = UnixSeconds::now();
                let lifetime = Lifetime { fetched: now, expires: now.plus(upstream.narinfo_ttl().as_secs()) };
                self.shared.store.forget_negative(&key);
                self.shared.store.forget_negative(&meant_key(&Meant::by(verified.info())));
                let entry = self.entry_of(&upstream, &verified, lifetime);
                publish.say(Found::Have(entry.clone()));
                self.put_entry(key, &entry).await;
                self.offer_kept(hash, &entry, &upstream).await;
                self.keep_alias(&verified).await;
                self.compare(hash, &upstream, &verified, others).await;
            }
            (Together::HaveNot | Together::Refused(..), Some(mut kept)) if self.has_nar_of(&kept).await => {
                // Gone upstream (a local store was collected), but whole here, and a path's content does not change.
                kept.fetched = UnixSeconds::now();
                kept.expires = kept.fetched.plus(self.kept_for(&kept));
                publish.say(Found::Stale(kept.clone()));
                self.put_entry(key, &kept).await;
            }
            (Together::Unknown(why), Some(kept)) => {
                outage::log_stale(&self.policy, &format!("{hash}.narinfo"), &why);
                publish.say(Found::Stale(kept));
            }
            (Together::Unknown(why), None) => publish.say(Found::Unknown(why.into())),
            (together @ (Together::HaveNot | Together::Refused(..)), kept) => {
                if kept.is_some() {
                    self.drop_entry(key);
                }
                let (reason, found) = match together {
                    Together::Refused(reason, why) => (Some(reason), Found::Refused(why.into())),
                    _ => (None, Found::HaveNot),
                };
                if sure {
                    self.put_negative(key, reason);
                }
                publish.say(found);
            }
        }
    }

    /// For how many seconds a narinfo is kept on that was not confirmed: not longer than its upstream's are.
    fn kept_for(&self, entry: &Entry) -> u64 {
        let upstream = self.policy.origin_of(&entry.upstream);
        upstream.map_or(MAX_AGE, |(upstream, _)| upstream.narinfo_ttl().as_secs().min(MAX_AGE))
    }

    /// Asks the upstreams, group after group.
    async fn ask_narinfo(&self, hash: HashPart, kept: Option<&Entry>) -> Heard<'_> {
        let (mut unknown, mut refused, mut down, mut doubtful) = (None, None, None, VecDeque::new());
        let mut asking = Asking::begin(self, hash);
        while let Some(asked) = asking.next().await {
            match asked {
                Asked::Have(upstream, verified) => {
                    let others = asking.others().chain(doubted(doubtful)).boxed();
                    return Heard { together: Together::Have(upstream, verified), others, sure: true };
                }
                Asked::Doubtful(upstream, verified) => doubtful.push_back((upstream, verified)),
                Asked::HaveNot => {}
                Asked::Refused(reason, why) => refused = refused.or(Some((reason, why))),
                Asked::Down(why) => down = down.or(Some(why)),
                Asked::Unknown(why) => unknown = unknown.or(Some(why)),
            }
        }
        // Whoever is out of reach may have what is kept, so that no doubt and no refusal of another one is weighed against
        // it, whatever `when_down` says; but what has no NAR any more is not worth a doubtful one.
        let counts = kept.is_some_and(|kept| !kept.is_gone() || doubtful.is_empty());
        let sure = down.is_none();
        let unreachable = if counts { unknown.clone().or(down) } else { None };
        let together = match (unreachable, doubtful.pop_front(), unknown, refused) {
            (Some(why), ..) | (None, None, Some(why), _) => Together::Unknown(why),
            (None, Some((upstream, verified)), ..) => Together::Have(upstream, verified),
            (None, None, None, Some((reason, why))) => Together::Refused(reason, why),
            (None, None, None, None) => Together::HaveNot,
        };
        Heard { together, others: doubted(doubtful), sure }
    }

    /// Whether what is kept stays although another upstream says another NarHash for the path: two trusted upstreams
    /// contradict each other, and the first answer stays as long as its NAR can be had. Where nothing vouches, or it is
    /// the same upstream, the path was rebuilt.
    fn stays(&self, kept: &Entry, upstream: &Upstream, verified: &Verified) -> bool {
        let trusted = |voucher| voucher != Voucher::Nobody;
        !kept.is_gone()
            && trusted(kept.signed.voucher)
            && trusted(verified.voucher())
            && kept.upstream != **upstream.name()
            && self.info_of(kept).is_some_and(|info| info.nar_hash != verified.info().nar_hash)
    }

    /// What the others of a group say, now that one of them has been believed.
    async fn compare(&self, hash: HashPart, first: &Upstream, verified: &Verified, mut others: Others<'_>) {
        while let Some(asked) = others.next().await {
            // That its NAR came wrong once does not make it agree.
            if let Asked::Have(upstream, other) | Asked::Doubtful(upstream, other) = asked
                && other.info().nar_hash != verified.info().nar_hash
                && other.voucher() != Voucher::Nobody
                && verified.voucher() != Voucher::Nobody
            {
                self.conflict(hash, &upstream, &other, first.name());
            }
        }
    }

    fn conflict(&self, hash: HashPart, upstream: &Upstream, other: &Verified, first: &str) {
        let text = format!(
            "upstream {} says NarHash {} for {} and upstream {first} another ({}); the first answer stays",
            upstream.name(),
            other.info().nar_hash,
            other.info().store_path.base_name(),
            Refusal::Conflict
        );
        self.refuse(upstream, hash, Refusal::Conflict, &text);
    }

    pub(super) async fn ask_one(&self, upstream: &Arc<Upstream>, hash: HashPart) -> Asked {
        let asked = self.ask_this(upstream, hash).await;
        if !upstream.is_library() {
            return asked;
        }
        if let Asked::Refused(..) | Asked::Doubtful(..) = asked {
            self.doubt_in_library(upstream, hash);
        }
        // Whatever is wrong with it, the others decide.
        match asked {
            Asked::Unknown(why) => Asked::Down(why),
            asked => asked,
        }
    }

    async fn ask_this(&self, upstream: &Arc<Upstream>, hash: HashPart) -> Asked {
        let begun = Instant::now();
        let said = upstream.narinfo(&format!("{hash}.narinfo"), MAX_LEN).await;
        if said.is_ok() {
            upstream.took(begun.elapsed());
        }
        match said {
            Err(error) => {
                if !error.is_known() {
                    tracing::warn!(route = "narinfo", key = %hash, upstream = %upstream.name(), "{error}");
                }
                // Our own queue says nothing about the upstream: clients must not take it for a miss.
                match upstream.when_down() {
                    WhenDown::Miss if !error.is_busy() => Asked::Down(error.to_string()),
                    _ => Asked::Unknown(error.to_string()),
                }
            }
            Ok(Said::HaveNot) => Asked::HaveNot,
            Ok(Said::Have(Got::TooLong(start))) if looks_like_narinfo(&start) => {
                let reason = Refusal::Malformed;
                let text = format!(
                    "the narinfo of {hash} from upstream {} is refused ({reason}): it is longer than {MAX_LEN} bytes",
                    upstream.name()
                );
                self.refuse(upstream, hash, reason, &text);
                Asked::Refused(reason, text)
            }
            Ok(Said::Have(Got::TooLong(_))) => self.no_narinfo(upstream, hash),
            Ok(Said::Have(Got::Whole { body, .. })) if !looks_like_narinfo(&body) => self.no_narinfo(upstream, hash),
            Ok(Said::Have(Got::Whole { body, may_be_cut, .. })) => {
                match self.believe(upstream, hash, &body).await {
                    // What it lacks may have been cut off.
                    Asked::Refused(_, why) if may_be_cut => Asked::Unknown(why),
                    asked => asked,
                }
            }
        }
    }

    /// An answer that says nothing about the path.
    fn no_narinfo(&self, upstream: &Upstream, hash: HashPart) -> Asked {
        let text = format!("upstream {} answered with something that is no narinfo at all", upstream.name());
        self.refuse(upstream, hash, Refusal::NotANarinfo, &text);
        self.doubt_in_library(upstream, hash);
        Asked::Unknown(text)
    }

    /// A narinfo that an upstream sent: verified, or refused with a reason.
    async fn believe(&self, upstream: &Arc<Upstream>, hash: HashPart, body: &[u8]) -> Asked {
        let (reason, root, text) = match Verified::check(body, hash, upstream, self.policy.rules()) {
            Ok(verified) => match self.known_of(upstream, &verified).await {
                Known::Nothing => {
                    if !looks_like_nix_serve(&verified) {
                        upstream.is_roomy();
                    }
                    return Asked::Have(Arc::clone(upstream), Box::new(verified));
                }
                Known::Doubtful => return Asked::Doubtful(Arc::clone(upstream), Box::new(verified)),
                Known::Wrong(text) => (Refusal::WrongNarHash, Refusal::WrongNarHash, text),
                Known::Refused(root, text) => (Refusal::Quarantined, root, text),
            },
            Err(Refused { reason, text }) => (reason, reason, text),
        };
        let text = format!("the narinfo of {hash} from upstream {} is refused ({reason}): {text}", upstream.name());
        self.refuse(upstream, hash, reason, &text);
        Asked::Refused(root, text)
    }

    pub(super) async fn has_nar_of(&self, entry: &Entry) -> bool {
        let Some(meant) = self.info_of(entry).as_ref().map(Meant::by) else { return false };
        self.shared.store.manifest(meant.blob()).await.is_some_and(|manifest| meant.is(&manifest))
    }
}

/// A login page or an error page sent with 200 says nothing about the path, and must not become a 404.
fn looks_like_narinfo(body: &[u8]) -> bool {
    body.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"StorePath:"))
}

/// nix-serve's narinfos have no compression, no FileHash, and name the NAR by store hash and NarHash.
fn looks_like_nix_serve(verified: &Verified) -> bool {
    let info = verified.info();
    info.compression == Compression::None
        && info.file_hash.is_none()
        && verified.url().as_str() == trust::nar_url(info.store_path.hash(), &info.nar_hash, Compression::None)
}

#[cfg(test)]
mod tests;
