//! Narinfos: from the store while fresh, else from the upstreams, verified; stale when no upstream can be asked.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Proxy;
use super::answer::{Answer, FailureKind, Object, ObjectBody, Outcome, Reply};
use super::entry::{Entry, meant_key, narinfo_key};
use super::flights::{NOT_ASKED, Publish};
use super::nar::Meant;
use super::trust::{self, Verified};
use crate::clock::UnixSeconds;
use crate::fill::blob_of;
use crate::metrics::Refusal;
use crate::nix::narinfo::{Compression, MAX_LEN, NarInfo};
use crate::nix::store_path::HashPart;
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

/// What the upstreams said about one path.
pub(super) enum Asked {
    Have(Arc<Upstream>, Box<Verified>),
    HaveNot,
    Refused(String),
    /// Unknown, but only by upstreams whose `when_down` makes a miss of that: nothing kept is given up for it.
    Down(String),
    Unknown(String),
}

impl Proxy {
    pub(super) async fn narinfo(&self, hash: HashPart) -> Answer {
        let (found, outcome) = self.find_narinfo(hash).await;
        match found {
            Found::Have(entry) | Found::Stale(entry) => Answer {
                outcome,
                reply: Reply::Object(Object {
                    content_type: "text/x-nix-narinfo",
                    encoding: None,
                    body: ObjectBody::Whole(entry.body),
                    max_age: MAX_AGE,
                }),
            },
            Found::HaveNot => Answer::failed(outcome, FailureKind::NotFound, format!("no upstream has {hash}")),
            Found::Refused(why) => Answer::failed(outcome, FailureKind::NotFound, why.as_ref()),
            Found::Unknown(why) => Answer::failed(outcome, FailureKind::BadGateway, why.as_ref()),
        }
    }

    /// The narinfo of a path, from wherever it is had, and the word for how.
    pub(super) async fn find_narinfo(&self, hash: HashPart) -> (Found, Outcome) {
        let key = narinfo_key(hash);
        let kept = self.kept_entry(hash).await;
        match kept {
            Some(entry) if entry.is_fresh(UnixSeconds::now()) => return (Found::Have(entry), Outcome::Hit),
            None if self.inner.store.negative(key) => return (Found::HaveNot, Outcome::Negative),
            _ => {}
        }
        let proxy = self.clone();
        let ask = |publish: Publish<Found>| async move { proxy.ask_and_keep(hash, kept, &publish).await };
        let (found, asked_here) = self.inner.narinfos.join(hash, ask).await;
        let found = found.unwrap_or_else(|| Found::Unknown(NOT_ASKED.into()));
        let outcome = match (&found, asked_here) {
            (Found::Have(_), true) => Outcome::Miss,
            (Found::Have(_), false) => Outcome::Follower,
            (Found::Stale(_), _) => Outcome::Stale,
            (Found::HaveNot, _) => Outcome::NotFound,
            (Found::Refused(_), _) => Outcome::Refused,
            (Found::Unknown(_), _) => Outcome::Unknown,
        };
        (found, outcome)
    }

    /// What a kept narinfo names is gone: the next who asks for it asks the upstreams. It is not removed, because they may
    /// be down by then.
    pub(super) async fn expire(&self, hash: HashPart) {
        if let Some(mut entry) = self.kept_entry(hash).await {
            entry.expires = UnixSeconds(0);
            self.inner.store.put_entry(narinfo_key(hash), entry.encode()).await;
        }
    }

    /// The kept narinfo of a path, fresh or not, unless trust in where it came from has changed since.
    pub(super) async fn kept_entry(&self, hash: HashPart) -> Option<Entry> {
        let entry = Entry::decode(&self.inner.store.entry(narinfo_key(hash)).await?)?;
        let (_, trust) = self.inner.by_name.get(entry.upstream.as_str())?;
        (*trust == entry.trust).then_some(entry)
    }

    async fn ask_and_keep(&self, hash: HashPart, kept: Option<Entry>, publish: &Publish<Found>) {
        let key = narinfo_key(hash);
        // Another question may have been answered between the look into the store and this task's start.
        if let Some(entry) = self.kept_entry(hash).await
            && entry.is_fresh(UnixSeconds::now())
        {
            return publish.say(Found::Have(entry));
        }
        match (self.ask_narinfo(hash).await, kept) {
            (Asked::Have(upstream, verified), _) => {
                let entry = self.entry_of(&upstream, &verified);
                publish.say(Found::Have(entry.clone()));
                self.inner.store.forget_negative(&key);
                if let Some(meant) = Meant::by(verified.info()) {
                    self.inner.store.forget_negative(&meant_key(&meant));
                }
                self.inner.store.put_entry(key, entry.encode()).await;
                self.keep_alias(&verified).await;
            }
            (Asked::HaveNot | Asked::Refused(_), Some(mut kept)) if self.has_nar_of(&kept).await => {
                // Gone upstream (a local store was collected), but whole here, and a path's content does not change.
                kept.fetched = UnixSeconds::now();
                kept.expires = kept.fetched.plus(MAX_AGE);
                publish.say(Found::Stale(kept.clone()));
                self.inner.store.put_entry(key, kept.encode()).await;
            }
            (Asked::Unknown(why) | Asked::Down(why), Some(kept)) => {
                tracing::warn!(key = %hash, outcome = %Outcome::Stale, "narinfo served stale: {why}");
                publish.say(Found::Stale(kept));
            }
            (Asked::Unknown(why), None) => publish.say(Found::Unknown(why.into())),
            (asked @ (Asked::HaveNot | Asked::Down(_) | Asked::Refused(_)), kept) => {
                if kept.is_some() {
                    self.inner.store.remove_entry(&key);
                }
                self.inner.store.put_negative(key, self.inner.options.negative_ttl.0);
                publish.say(match asked {
                    Asked::Refused(why) => Found::Refused(why.into()),
                    _ => Found::HaveNot,
                });
            }
        }
    }

    /// Asks the upstreams, group after group.
    pub(super) async fn ask_narinfo(&self, hash: HashPart) -> Asked {
        let (mut unknown, mut refused, mut down) = (None, None, None);
        for group in self.groups() {
            let mut answers: FuturesUnordered<_> = group.iter().map(|upstream| self.ask_one(upstream, hash)).collect();
            while let Some(asked) = answers.next().await {
                match asked {
                    Asked::Have(..) => return asked,
                    Asked::HaveNot => {}
                    Asked::Refused(why) => refused = refused.or(Some(why)),
                    Asked::Down(why) => down = down.or(Some(why)),
                    Asked::Unknown(why) => unknown = unknown.or(Some(why)),
                }
            }
        }
        match (unknown, refused, down) {
            (Some(why), _, _) => Asked::Unknown(why),
            (None, Some(why), _) => Asked::Refused(why),
            (None, None, Some(why)) => Asked::Down(why),
            (None, None, None) => Asked::HaveNot,
        }
    }

    pub(super) async fn ask_one(&self, upstream: &Arc<Upstream>, hash: HashPart) -> Asked {
        match upstream.small(&format!("{hash}.narinfo"), MAX_LEN).await {
            Err(error) => {
                tracing::warn!(route = "narinfo", key = %hash, upstream = %upstream.name(), "{error}");
                // Our own queue says nothing about the upstream: clients must not take it for a miss.
                match upstream.when_down() {
                    WhenDown::Miss if !error.is_busy() => Asked::Down(error.to_string()),
                    _ => Asked::Unknown(error.to_string()),
                }
            }
            Ok(Said::HaveNot) => Asked::HaveNot,
            Ok(Said::Have(Got::TooLong)) => {
                Asked::Unknown(format!("upstream {} sent an endless narinfo", upstream.name()))
            }
            Ok(Said::Have(Got::Whole { encoding: Some(_), .. })) => {
                Asked::Unknown(format!("upstream {} sent a narinfo with a Content-Encoding", upstream.name()))
            }
            Ok(Said::Have(Got::Whole { body, .. })) if !looks_like_narinfo(&body) => {
                self.inner.metrics.refused.of(Refusal::NotANarinfo).inc();
                Asked::Unknown(format!(
                    "upstream {} answered with something that is no narinfo at all",
                    upstream.name()
                ))
            }
            Ok(Said::Have(Got::Whole { body, .. })) => {
                match Verified::check(&body, hash, upstream, &self.inner.store_dir) {
                    Ok(verified) => {
                        if !looks_like_nix_serve(&verified) {
                            upstream.is_roomy();
                        }
                        Asked::Have(Arc::clone(upstream), Box::new(verified))
                    }
                    Err(refused) => {
                        self.inner.metrics.refused.of(refused.reason).inc();
                        let text = format!(
                            "the narinfo of {hash} from upstream {} is refused: {}",
                            upstream.name(),
                            refused.text
                        );
                        tracing::warn!(key = %hash, upstream = %upstream.name(), reason = %refused.reason, "{text}");
                        Asked::Refused(text)
                    }
                }
            }
        }
    }

    fn entry_of(&self, upstream: &Upstream, verified: &Verified) -> Entry {
        let now = UnixSeconds::now();
        Entry {
            fetched: now,
            expires: now.plus(upstream.narinfo_ttl().as_secs()),
            trust: trust::fingerprint(upstream, &self.inner.store_dir),
            upstream: upstream.name().to_string(),
            note: verified.url().as_str().to_owned(),
            body: verified.render(&self.inner.store_dir).into(),
        }
    }

    /// The narinfo inside a kept entry. It was verified before it was kept.
    pub(super) fn info_of(&self, entry: &Entry) -> Option<NarInfo> {
        NarInfo::parse(&entry.body, &self.inner.store_dir).ok()
    }

    async fn has_nar_of(&self, entry: &Entry) -> bool {
        let Some(digest) = self.info_of(entry).as_ref().and_then(trust::digest) else { return false };
        self.inner.store.manifest(blob_of(&digest)).await.is_some()
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
