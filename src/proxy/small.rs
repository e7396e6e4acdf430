//! Small things beside narinfos: listings, build logs, realisations, build traces, debug info.
//!
//! They are passed on as the upstream has them, in its encoding (caches keep logs and listings compressed), and kept as
//! long as a narinfo. Nothing signs them, so nothing is proven about them; realisations carry signatures that clients
//! check. Two are not taken literally: an empty log is no log (nix-serve answers 200 to any log it is asked for), and
//! the `archive` of debug info follows the NAR URLs that we hand out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;

use super::Pipeline;
use super::answer::{
    Answer, BodyError, BodyStream, FailureKind, Object, ObjectBody, Outcome, Place, Provenance, Reply,
};
use super::entry::{Entry, Signed, small_key};
use super::flights::{NOT_ASKED, Publish};
use super::outage;
use super::request::Small;
use super::trust;
use crate::clock::UnixSeconds;
use crate::upstream::{Asked, Said, Streamed, Upstream, WhenDown};

/// Larger objects (long logs) are passed on without being kept.
const KEPT: usize = 1024 * 1024 - 4096;
/// Seconds for which clients' own caches in between may keep one.
const MAX_AGE: u64 = 3600;

/// What looking for a small object came to.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Have(Entry),
    Stale(Entry),
    /// Too large to keep: whoever wants it asks this upstream himself.
    Large(Arc<Upstream>),
    HaveNot,
    Unknown(Arc<str>),
}

/// What the upstreams said.
enum Answered {
    Have(Arc<Upstream>, Bytes, Option<HeaderValue>),
    Large(Arc<Upstream>),
    HaveNot {
        /// Whether all of them could be asked: else it is one by `when_down`, and nothing to remember (R18).
        sure: bool,
    },
    Unknown(String),
}

impl Pipeline {
    pub(super) async fn small(&self, small: Small) -> Answer {
        let path = small.path();
        let (found, outcome, tier) = self.find_small(&small, &path).await;
        let reply = |body: ObjectBody, encoding| {
            let object = Object { content_type: small.content_type(), encoding, body, max_age: MAX_AGE };
            Answer::public(outcome, Reply::Object(object))
        };
        match found {
            Found::Have(entry) | Found::Stale(entry) => {
                let provenance = entry.provenance(tier, outcome);
                let encoding = HeaderValue::from_str(&entry.note).ok().filter(|note| !note.is_empty());
                let body = match &small {
                    Small::DebugInfo { .. } if encoding.is_none() => Box::pin(self.with_our_nar_url(entry.body)).await,
                    _ => entry.body,
                };
                reply(ObjectBody::Whole(body), encoding).coming_from(provenance)
            }
            Found::Large(upstream) => match Box::pin(upstream.pass_on(&path)).await {
                Ok(Said::Have(Streamed { size, encoding, body })) => {
                    let upstream = Some(Arc::clone(upstream.name()));
                    let answer = reply(ObjectBody::Stream { size, stream: passed_on(body) }, encoding);
                    answer.coming_from(Provenance { upstream, ..Provenance::default() })
                }
                Ok(Said::HaveNot) => not_found(outcome, &path),
                Err(error) => Answer::failed(Outcome::Unknown, FailureKind::BadGateway, error.to_string()),
            },
            Found::HaveNot => not_found(outcome, &path),
            Found::Unknown(why) => outage::unknown(outcome, why.as_ref()),
        }
    }

    /// With the tier where something is kept.
    async fn find_small(&self, small: &Small, path: &str) -> (Found, Outcome, Option<Place>) {
        let key = small_key(path);
        let (kept, tier) = self.shared.store.entry_from(key).await.unzip();
        let kept = kept.and_then(|bytes| Entry::decode(&bytes));
        let kept = kept.filter(|entry| {
            // Nothing signs it: it is as good as the place it came from.
            self.policy.origin_of(&entry.upstream).is_some_and(|(_, basis)| basis.origin == entry.basis.origin)
        });
        match kept {
            Some(entry) if entry.is_fresh(UnixSeconds::now()) => return (Found::Have(entry), Outcome::Hit, tier),
            None if self.shared.store.negative(key) => return (Found::HaveNot, Outcome::Negative, tier),
            _ => {}
        }
        let stale = kept.clone();
        let (proxy, small, asked_path) = (self.clone(), small.clone(), path.to_owned());
        let ask = |publish: Publish<Found>| async move {
            proxy.ask_and_keep_small(&small, &asked_path, kept, &publish).await;
        };
        let asking = self.waited(self.policy.smalls.join(path.to_owned(), ask));
        let (found, asked_here) = Box::pin(outage::or_stale(stale.map(Found::Stale), asking)).await;
        let Some(found) = found else { return (Found::Unknown(NOT_ASKED.into()), Outcome::Limited, None) };
        let outcome = match (&found, asked_here) {
            (Found::Have(_), false) => Outcome::Follower,
            (Found::Have(_), true) | (Found::Large(_), _) => Outcome::Miss,
            (Found::Stale(_), _) => Outcome::Stale,
            (Found::HaveNot, _) => Outcome::NotFound,
            (Found::Unknown(_), _) => Outcome::Unknown,
        };
        (found, outcome, tier)
    }

    async fn ask_and_keep_small(&self, small: &Small, path: &str, kept: Option<Entry>, publish: &Publish<Found>) {
        let key = small_key(path);
        match (self.ask_small(small, path, kept.is_some()).await, kept) {
            (Answered::Have(upstream, body, encoding), _) => {
                let now = UnixSeconds::now();
                let entry = Entry {
                    fetched: now,
                    expires: now.plus(upstream.narinfo_ttl().as_secs()),
                    basis: self.policy.basis(&upstream),
                    upstream: upstream.name().to_string(),
                    note: encoding.and_then(|e| e.to_str().ok().map(str::to_owned)).unwrap_or_default(),
                    signed: Signed::NOT,
                    body,
                };
                publish.say(Found::Have(entry.clone()));
                self.shared.store.forget_negative(&key);
                self.put_entry(key, &entry).await;
            }
            (Answered::Large(upstream), _) => publish.say(Found::Large(upstream)),
            (Answered::Unknown(why), Some(kept)) => {
                outage::log_stale(&self.policy, path, &why);
                publish.say(Found::Stale(kept));
            }
            (Answered::Unknown(why), None) => publish.say(Found::Unknown(why.into())),
            (Answered::HaveNot { sure }, kept) => {
                if kept.is_some() {
                    self.drop_entry(key);
                }
                if sure {
                    self.put_negative(key, None);
                }
                publish.say(Found::HaveNot);
            }
        }
    }

    /// Where something is `kept`, unknown stays unknown, whatever `when_down` says: what is kept is served then.
    async fn ask_small(&self, small: &Small, path: &str, kept: bool) -> Answered {
        let (mut unknown, mut sure) = (None, true);
        // Nobody signs them, so the library has none.
        for group in self.policy.groups().filter(|group| !group.iter().any(|upstream| upstream.is_library())) {
            let mut answers: FuturesUnordered<_> = group
                .iter()
                .map(|upstream| async move { (Arc::clone(upstream), upstream.small(path, KEPT).await) })
                .collect();
            while let Some((upstream, said)) = answers.next().await {
                match said {
                    // nix-serve-wire.md, 6: an unknown build log is 200 with an empty body.
                    Ok(Said::Have(Asked::Whole { body, .. })) if body.is_empty() && matches!(small, Small::Log(_)) => {}
                    Ok(Said::Have(Asked::Whole { body, encoding, .. }))
                        if encoding.is_some() || small.may_be(&body) =>
                    {
                        return Answered::Have(upstream, body, encoding);
                    }
                    Ok(Said::Have(Asked::Whole { .. })) => {
                        let name = upstream.name();
                        let why = format!(
                            "upstream {name} answered {path} with something else, such as a page for a browser"
                        );
                        tracing::warn!(key = path, upstream = %name, "{why}");
                        sure = false;
                        if kept || upstream.when_down() == WhenDown::Error {
                            unknown = unknown.or(Some(why));
                        }
                    }
                    Ok(Said::Have(Asked::TooLong(_))) => return Answered::Large(upstream),
                    Ok(Said::HaveNot) => {}
                    Err(error) => {
                        if !error.is_known() {
                            tracing::warn!(key = path, upstream = %upstream.name(), "{error}");
                        }
                        sure = false;
                        if kept || upstream.when_down() == WhenDown::Error {
                            unknown = unknown.or(Some(error.to_string()));
                        }
                    }
                }
            }
        }
        unknown.map_or(Answered::HaveNot { sure }, Answered::Unknown)
    }

    /// Debug info names its NAR by a URL relative to `debuginfo/`, as the upstream calls it; here it has another name.
    async fn with_our_nar_url(&self, body: Bytes) -> Bytes {
        let Ok(mut json) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) else {
            return body;
        };
        let Some(path) = json.get("archive").and_then(|a| a.as_str()).and_then(|a| a.strip_prefix("../")) else {
            return body;
        };
        let Some(alias) = self.announced(path).await else {
            // Never announced here. `nar/<filehash>.nar.xz` is served all the same, any other name cannot be.
            return body;
        };
        let ours = trust::nar_url(alias.hash, &alias.digest, alias.compression);
        json.insert("archive".to_owned(), format!("../{ours}").into());
        serde_json::to_vec(&json).map_or(body, Bytes::from)
    }
}

fn not_found(outcome: Outcome, path: &str) -> Answer {
    Answer::failed(outcome, FailureKind::NotFound, format!("no upstream has {path}"))
}

fn passed_on(body: crate::upstream::Body) -> BodyStream {
    Box::pin(futures_util::stream::unfold(body, |mut body| async move {
        let piece = body.next().await?;
        Some((piece.map_err(BodyError::from), body))
    }))
}
