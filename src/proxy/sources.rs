//! Where a NAR's bytes can be had: from the upstream whose narinfo is kept, else from whoever announces them now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::Pipeline;
use super::entry::{Alias, Entry, alias_key, meant_key};
use super::flights::{NOT_ASKED, Publish};
use super::nar::{Meant, Nowhere};
use super::narinfo::Asked;
use super::options::Verify;
use super::policy::Ground;
use super::trust::{self, Verified, Voucher};
use crate::decompress;
use crate::fill::{Broken, FillFailure, Locate, Others, Plan, Prove, Source};
use crate::nix::nar_url::NarUrl;
use crate::nix::narinfo::{Compression, NarInfo};
use crate::nix::store_path::HashPart;
use crate::upstream::Upstream;

/// What all upstreams say about who has certain bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Announcers {
    /// Where the bytes are, best first; nothing when nobody announces them.
    pub(super) plan: Option<Plan>,
    /// An upstream that could not be asked, and counts.
    pub(super) unknown: Option<Arc<str>>,
    /// One that could not be asked, and whose `when_down` makes a miss of that.
    down: bool,
}

impl Pipeline {
    /// The plan for the bytes that are meant. One upstream is enough for it: who is better is found out on failure.
    pub(super) async fn plan(&self, meant: Meant) -> Result<Plan, Nowhere> {
        if self.shared.store.negative(meant_key(&meant)) {
            return Err(Nowhere::remembered(&meant));
        }
        let Some(hash) = meant.hash else { return self.plan_by_name(meant) };
        let (entry, info) = self.narinfo_for_nar(hash).await?;
        if meant.is_in(&info)
            && let Ok(plan) = self.plan_of_entry(&entry, &info)
        {
            return Ok(plan);
        }
        // Clients keep narinfos for 30 days: theirs may be of another upstream, or older than ours.
        let found = self.announcers(meant, hash).await;
        found.plan_or(|| Nowhere::not_found(format!("no upstream has {hash} with the hash {} now", meant.digest)))
    }

    /// The plan for the NAR of a kept narinfo, from the upstream it came from.
    pub(super) fn plan_of_entry(&self, entry: &Entry, info: &NarInfo) -> Result<Plan, String> {
        let gone = || format!("upstream {} is not configured any more", entry.upstream);
        let (upstream, _) = self.policy.origin_of(&entry.upstream).ok_or_else(gone)?;
        let url = NarUrl::parse(&entry.note, upstream.base()).map_err(|error| error.to_string())?;
        Ok(self.plan_of(info, entry.signed.voucher, entry.signed.ground, source(upstream, &url)))
    }

    fn plan_of(&self, info: &NarInfo, voucher: Voucher, ground: Ground, source: Source) -> Plan {
        let size = match info.compression {
            Compression::None => Some(info.nar_size),
            _ => info.file_size,
        };
        Plan {
            digest: trust::digest(info),
            file_hash: trust::file_hash(info),
            size,
            compression: info.compression,
            claim: Some(Arc::new(trust::claim(info, voucher, ground))),
            prove: self.when_to_prove(&source.upstream, info.compression),
            sources: vec![source],
            others: Some(Arc::new(Announcing { proxy: self.clone(), hash: info.store_path.hash() })),
            judge: self.judge(),
        }
    }

    pub(super) fn plan_from(&self, upstream: &Arc<Upstream>, verified: &Verified) -> Plan {
        let source = source(upstream, verified.url());
        self.plan_of(verified.info(), verified.voucher(), verified.ground(), source)
    }

    fn when_to_prove(&self, upstream: &Upstream, compression: Compression) -> Prove {
        match self.policy.options.verify {
            Verify::Off => Prove::Never,
            Verify::BeforeFirstByte => Prove::First,
            // Who was caught is not given another first byte.
            Verify::Background if upstream.is_suspect() && decompress::supports(compression) => Prove::First,
            Verify::Background => Prove::Afterwards,
        }
    }

    /// Remembers for a moment that nobody has these bytes, so that who asks for them again and again asks only here.
    pub(super) fn remember_missing(&self, meant: &Meant) {
        self.put_negative(meant_key(meant), None);
    }

    /// Asks every upstream who announces the bytes that are meant, whatever is kept. Many who ask at once ask once.
    pub(super) async fn announcers(&self, meant: Meant, hash: HashPart) -> Announcers {
        let proxy = self.clone();
        let ask = |publish: Publish<Announcers>| async move {
            publish.say(proxy.ask_announcers(meant, hash).await);
        };
        let (found, _) = self.policy.announcers.join(meant, ask).await;
        found.unwrap_or_else(|| Announcers { unknown: Some(NOT_ASKED.into()), ..Announcers::default() })
    }

    async fn ask_announcers(&self, meant: Meant, hash: HashPart) -> Announcers {
        let (mut found, mut doubtful) = (Announcers::default(), None);
        for upstream in &self.policy.upstreams {
            match self.ask_one(upstream, hash).await {
                Asked::Have(upstream, verified) if meant.is_in(verified.info()) => {
                    let plan = self.plan_from(&upstream, &verified);
                    match &mut found.plan {
                        // Of those that claim the same: what another one claims is not held against this one's bytes.
                        Some(first) if first.claims_the_same(&plan) => first.sources.extend(plan.sources),
                        Some(_) => {}
                        None => found.plan = Some(plan),
                    }
                }
                Asked::Doubtful(upstream, verified) if meant.is_in(verified.info()) => {
                    doubtful.get_or_insert_with(|| self.plan_from(&upstream, &verified));
                }
                Asked::Unknown(why) => {
                    found.unknown.get_or_insert_with(|| why.into());
                }
                Asked::Down(_) => found.down = true,
                _ => {}
            }
        }
        found.plan = found.plan.or(doubtful);
        if found.plan.is_none() && found.unknown.is_none() && !found.down {
            self.remember_missing(&meant);
        }
        found
    }

    /// A plan for `nar/<filehash>.nar.xz` without its narinfo: the name itself is the proof of the bytes, and the path
    /// asked for is written from the parsed hash (R13).
    fn plan_by_name(&self, meant: Meant) -> Result<Plan, Nowhere> {
        if self.policy.options.verify == Verify::BeforeFirstByte {
            let text = "no narinfo that was asked for here says what is in this NAR, so that it cannot be proven";
            return Err(Nowhere::not_found(text));
        }
        let path = format!("nar/{}.nar{}", meant.digest.nix32(), meant.compression.extension());
        // In the library the names of NARs begin with the path.
        let upstreams = self.policy.caches();
        let sources =
            upstreams.filter_map(|upstream| Some(source(upstream, &NarUrl::parse(&path, upstream.base()).ok()?)));
        let Meant { digest, compression, .. } = meant;
        Ok(Plan {
            digest,
            file_hash: Some(digest),
            size: None,
            compression,
            claim: None,
            prove: Prove::Never,
            sources: sources.collect(),
            others: None,
            judge: self.judge(),
        })
    }

    /// Which bytes a URL means that some upstream's narinfo announced.
    pub(super) async fn announced(&self, path: &str) -> Option<Alias> {
        Alias::decode(&self.shared.store.entry(alias_key(path)).await?)
    }

    /// Remembers which bytes an announced URL means. The first to announce a URL keeps it as long as its narinfo is kept
    /// and says so: one URL has one byte sequence (R12), whatever an upstream announces later.
    pub(super) async fn keep_alias(&self, verified: &Verified) {
        let (info, path) = (verified.info(), verified.url().as_str());
        let Meant { digest, compression, .. } = Meant::by(info);
        let alias = Alias { hash: info.store_path.hash(), digest, nar_hash: info.nar_hash, compression };
        if let Some(first) = self.announced(path).await {
            if first == alias {
                return;
            }
            if first.hash != alias.hash && self.kept_entry(first.hash).await.is_some_and(|entry| entry.note == path) {
                let (hash, first) = (alias.hash, first.hash);
                tracing::warn!(key = %hash, "its NAR is announced as {path}, as that of {first} is, which keeps that URL here");
                return;
            }
        }
        self.shared.store.put_entry(alias_key(path), alias.encode()).await;
    }

    /// Finds the sources again when a reader meets a hole.
    pub(super) fn locator(&self, meant: Meant) -> Arc<dyn Locate> {
        Arc::new(Locator { proxy: self.under_way(), meant, repairs: AtomicBool::new(false) })
    }
}

impl Announcers {
    /// The plan, or why there is none: an upstream that could not be asked, else what `nobody` says.
    pub(super) fn plan_or(self, nobody: impl FnOnce() -> Nowhere) -> Result<Plan, Nowhere> {
        match (self.plan, self.unknown) {
            (Some(plan), _) => Ok(plan),
            (None, Some(why)) => Err(Nowhere::unknown(why.as_ref())),
            (None, None) => Err(nobody()),
        }
    }
}

/// How long others are asked for who else has a NAR in the middle of which an upstream failed: clients wait meanwhile.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// The upstreams that announce the same NAR as a plan made of another one's narinfo.
#[derive(Debug)]
struct Announcing {
    proxy: Pipeline,
    hash: HashPart,
}

impl Others for Announcing {
    fn of<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Vec<Source>> {
        let is_in =
            |upstream: &Arc<Upstream>| plan.sources.iter().any(|source| source.upstream.name() == upstream.name());
        let others = self.proxy.policy.upstreams.iter().filter(move |upstream| !is_in(upstream));
        let asked = others.map(|upstream| timeout(ELSEWHERE, self.proxy.ask_one(upstream, self.hash)));
        Box::pin(async move {
            // Side by side: one that is down too costs its time once.
            let said = join_all(asked).await;
            said.into_iter().filter_map(|said| self.announces(plan, said.ok()?)).collect()
        })
    }
}

impl Announcing {
    fn announces(&self, plan: &Plan, said: Asked) -> Option<Source> {
        let Asked::Have(upstream, verified) = said else { return None };
        let info = verified.info();
        let same = trust::digest(info) == plan.digest && info.compression == plan.compression;
        (same && plan.claims_the_same(&self.proxy.plan_from(&upstream, &verified)))
            .then(|| source(&upstream, verified.url()))
    }
}

struct Locator {
    proxy: Pipeline,
    meant: Meant,
    /// The library had not the right bytes.
    repairs: AtomicBool,
}

impl Locate for Locator {
    fn sources(&self, again: bool) -> BoxFuture<'_, Result<Vec<Source>, Broken>> {
        Box::pin(async move {
            let plan = match (again, self.meant.hash) {
                (false, _) => self.proxy.plan(self.meant).await,
                (true, Some(hash)) => {
                    let nobody =
                        || Nowhere::not_found(format!("no upstream has the hash {} any more", self.meant.digest));
                    self.proxy.announcers(self.meant, hash).await.plan_or(nobody)
                }
                (true, None) => Err(Nowhere::not_found("no upstream has this NAR any more")),
            };
            let plan = plan.map(|plan| if again { plan } else { self.proxy.by_way_of_the_library(self.meant, plan) });
            plan.map(|plan| plan.sources).map_err(|nowhere| {
                let reason = if nowhere.is_not_found() { FillFailure::Gone } else { FillFailure::Unknown };
                Broken::new(reason, nowhere.into_text())
            })
        })
    }

    fn failed(&self, source: &Source, refused: bool) {
        if let Some(hash) = self.meant.hash.filter(|_| source.upstream.is_library()) {
            self.repairs.store(true, Ordering::Relaxed);
            if refused {
                self.proxy.doubt_in_library(&source.upstream, hash);
            }
        }
    }

    fn filled(&self) {
        if self.repairs.swap(false, Ordering::Relaxed)
            && let Some(hash) = self.meant.hash
        {
            self.proxy.offer(hash);
        }
    }
}

pub(super) fn source(upstream: &Arc<Upstream>, url: &NarUrl) -> Source {
    Source { upstream: Arc::clone(upstream), target: url.target(upstream.base()) }
}
