//! What of the public space goes into the library, and what in it is doubted.
//!
//! A path is offered when its NAR has become whole and proven, and when a narinfo of another upstream is kept whose NAR is
//! here. It is looked at once more when its turn comes: what is written is what a client would be given then. What nobody
//! who reads it there could verify is not written: an upstream's word that nobody signed. Private spaces have no library
//! (R15): it belongs to the policy of the public one.
//!
//! Out of scope: the queue, and how it is written (`library`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::entry::Entry;
use super::nar::Meant;
use super::narinfo::Found;
use super::options::Verify;
use super::policy::Policy;
use super::trust::{self, Verified, Voucher};
use super::{Pipeline, Proxy, Shared, sources};
use crate::decompress;
use crate::fill::{Plan, Source};
use crate::library::{Holder, Holding};
use crate::nix::nar_url::NarUrl;
use crate::nix::store_path::HashPart;
use crate::upstream::Upstream;

/// Between two looks whether NARs are proven, at the end of the program.
const SETTLING: Duration = Duration::from_millis(20);

impl Proxy {
    /// Has the library say what it is, where it is written to.
    pub fn prepare_library(&self) {
        let public = self.in_force.load().public.clone();
        if let Some(to) = public.policy.written_library() {
            public.shared.library.prepare(to, Arc::new(public.clone()));
        }
    }

    /// Writes a path that is here into the library, for who waits for it.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn write_into_library(&self, hash: HashPart) -> Result<(), String> {
        let public = self.in_force.load().public.clone();
        let to = public.policy.written_library().ok_or("there is no library to write to")?;
        let Shared { fills, library, .. } = &*public.shared;
        loop {
            // Looked at before: what is proven since is seen.
            let may_change = fills.are_settling();
            match library.write(hash, to, Arc::new(public.clone())).await? {
                true => return Ok(()),
                false if may_change => sleep(SETTLING).await,
                false => return Err("no key signed it, so nobody could verify it there; [sign] would".to_owned()),
            }
        }
    }

    /// Writes what waits to be written into the library, and what is about to, for at most `limit`.
    pub async fn finish_library(&self, limit: Duration) {
        let Shared { fills, library, .. } = &*self.spaces.public;
        let end = Instant::now() + limit;
        if self.in_force.load().public.policy.written_library().is_some() {
            while fills.are_settling() && Instant::now() < end {
                sleep(SETTLING).await;
            }
        }
        library.finish(end.saturating_duration_since(Instant::now())).await;
    }
}

impl Policy {
    /// The library, if it is written to.
    fn written_library(&self) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.is_written())
    }

    /// The upstreams that are not the library.
    pub(super) fn caches(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().filter(|upstream| !upstream.is_library())
    }
}

impl Pipeline {
    /// Has a path written into the library, where there is one.
    pub(super) fn offer(&self, hash: HashPart) {
        if let Some(to) = self.policy.written_library() {
            self.shared.library.offer(hash, to, Arc::new(self.clone()));
        }
    }

    /// The same of a path whose narinfo has just come from an upstream, if its NAR is here.
    pub(super) async fn offer_kept(&self, hash: HashPart, entry: &Entry, from: &Upstream) {
        if self.policy.written_library().is_some() && !from.is_library() && self.has_nar_of(entry).await {
            self.offer(hash);
        }
    }

    /// A NAR is whole and proven.
    pub(super) fn offer_whole(&self, source: &Source, plan: &Plan) {
        let Some(claim) = &plan.claim else { return };
        // What was read from the library is there.
        if !source.upstream.is_library() || self.shared.library.is_doubted(claim.hash) {
            self.offer(claim.hash);
        }
    }

    /// The plan with the library asked first, which may have the NAR by now although it had not its narinfo: what another server
    /// wrote is not fetched from upstream. Not while it seems not to answer, or was caught with something wrong.
    pub(super) fn by_way_of_the_library(&self, meant: Meant, mut plan: Plan) -> Plan {
        let may_be_asked =
            |upstream: &&Arc<Upstream>| upstream.is_library() && upstream.answers() && !upstream.is_suspect();
        let library = self.policy.upstreams.first().filter(may_be_asked);
        let (Some(library), Some(hash)) = (library, meant.hash) else { return plan };
        let is_in = plan.sources.iter().any(|source| source.upstream.is_library());
        if !is_in && !self.shared.library.is_doubted(hash) {
            let url = trust::nar_url(hash, &meant.digest, meant.compression);
            let url = NarUrl::parse(&url, library.base());
            plan.sources.splice(0..0, url.ok().map(|url| sources::source(library, &url)));
        }
        plan
    }

    /// Something that the library has of a path is not what it should be; of any other upstream that is its own matter.
    pub(super) fn doubt_in_library(&self, upstream: &Upstream, hash: HashPart) {
        if upstream.is_library() {
            self.shared.library.doubt(hash);
        }
    }

    async fn held(&self, hash: HashPart) -> Option<Holding> {
        let entry = match self.kept_entry(hash).await {
            // What was wrong in the library took the narinfo with it.
            None if self.shared.library.is_doubted(hash) => match self.find_narinfo(hash).await.0 {
                Found::Have(entry) | Found::Stale(entry) => entry,
                _ => return None,
            },
            kept => kept?,
        };
        let by_content = || entry.signed.voucher == Voucher::ContentAddress;
        if entry.signed.ours == 0 && entry.signed.voucher != Voucher::Key && !by_content() {
            return None;
        }
        let info = self.info_of(&entry)?;
        let meant = Meant::by(&info);
        let manifest = self.shared.store.manifest(meant.blob()).await.filter(|manifest| meant.is(manifest))?;
        let holds = trust::claim(&info, entry.signed.voucher, entry.signed.ground).holds_for(&manifest);
        // Where nobody looks inside, it is what its FileHash says, and readers look themselves.
        let may_be_open = self.policy.options.verify == Verify::Off || !decompress::supports(info.compression);
        if holds != Some(true) && !(holds.is_none() && may_be_open) {
            return None;
        }
        Some(Holding { narinfo: self.served(&entry), nar: info.url, manifest, store: self.shared.store.clone() })
    }
}

impl Holder for Pipeline {
    fn holding(&self, hash: HashPart) -> BoxFuture<'_, Option<Holding>> {
        self.held(hash).boxed()
    }

    fn may_stay(&self, hash: HashPart, narinfo: &[u8], holding: &Holding, doubted: bool) -> bool {
        let Some(library) = self.policy.written_library() else { return true };
        let Ok(verified) = Verified::check(narinfo, hash, library, self.policy.rules()) else { return false };
        // Two that are both right: the first stays, unless it is the reason why somebody fetched anew.
        let same = verified.url().as_str() == holding.nar && Meant::by(verified.info()).is(&holding.manifest);
        same || !doubted
    }

    fn cache_info(&self) -> Bytes {
        self.policy.cache_info(None).render().into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{HASH, Theirs, hash, ours, pipeline, policy, unsigned};
    use super::*;
    use crate::clock::UnixSeconds;
    use crate::metrics::Metrics;
    use crate::options::Table as _;
    use crate::proxy::kept::Lifetime;
    use crate::upstream;

    const LIFETIME: Lifetime = Lifetime { fetched: UnixSeconds(1), expires: UnixSeconds(u64::MAX) };

    fn library(writes: bool) -> Arc<Upstream> {
        let options = crate::library::Options::from_toml("url = 's3://shelf/a?endpoint=http://127.0.0.1:1'").unwrap();
        let options = options.as_upstream(vec![Theirs::new("k-1", 1).public()]).unwrap();
        Upstream::library(options, writes, Metrics::default().upstream("library")).unwrap()
    }

    fn cache(name: &str, rank: u32) -> Arc<Upstream> {
        let options = format!("url = 'http://127.0.0.1:1/{name}'\nname = '{name}'\ntrust = 'origin'");
        let options = upstream::Options::from_toml(&options).unwrap();
        Upstream::new(options, rank, Metrics::default().upstream(name)).unwrap()
    }

    #[test]
    fn it_is_asked_before_all_others_and_alone() {
        let policy = policy(&[cache("b", 10), cache("a", 0), library(true), cache("c", 10)], vec![]);
        let groups: Vec<Vec<&str>> =
            policy.groups().map(|group| group.iter().map(|upstream| &**upstream.name()).collect()).collect();
        assert_eq!(groups, [vec!["library"], vec!["a"], vec!["b", "c"]]);
        assert!(policy.caches().all(|upstream| !upstream.is_library()) && policy.caches().count() == 3);
    }

    #[tokio::test]
    async fn a_nar_is_asked_of_it_first_under_the_name_that_it_would_have_there() {
        let (library, a) = (library(true), cache("a", 10));
        let pipeline = pipeline(policy(&[Arc::clone(&library), Arc::clone(&a)], vec![]));
        let info = unsigned(b"a NAR");
        let text = info.render(&pipeline.policy.options.store_dir);
        let verified = Verified::check(text.as_bytes(), hash(HASH), &a, pipeline.policy.rules()).unwrap();
        let (meant, plan) = (Meant::by(&info), pipeline.plan_from(&a, &verified));
        let sources = |meant| pipeline.by_way_of_the_library(meant, plan.clone()).sources;
        let found = sources(meant);
        assert_eq!(found.len(), 2);
        assert!(Arc::ptr_eq(&found[0].upstream, &library) && Arc::ptr_eq(&found[1].upstream, &a));
        assert_eq!(found[0].target, format!("/shelf/a/nar/{HASH}-{}.nar", info.nar_hash.nix32()));
        // Of bytes without a path there is no name; and not where something was wrong.
        assert_eq!(sources(Meant { hash: None, ..meant }).len(), 1);
        pipeline.shared.library.doubt(hash(HASH));
        assert_eq!(sources(meant).len(), 1);
        let other = Meant { hash: Some(hash("00000000000000000000000000000000")), ..meant };
        assert_eq!(sources(other).len(), 2);
        library.suspect();
        assert_eq!(sources(other).len(), 1);
    }

    #[tokio::test]
    async fn r1_what_readers_could_not_verify_is_not_held() {
        let info = unsigned(b"a NAR");
        for (key, signs) in [(None, false), (Some(ours("ours-1")), true)] {
            let a = cache("a", 10);
            let pipeline = pipeline(policy(&[library(true), Arc::clone(&a)], key.into_iter().collect()));
            let text = info.render(&pipeline.policy.options.store_dir);
            let verified = Verified::check(text.as_bytes(), hash(HASH), &a, pipeline.policy.rules()).unwrap();
            let inside =
                crate::store::Inside { nar_hash: *info.nar_hash.as_bytes(), nar_size: info.nar_size, addressed: false };
            let manifest = crate::store::Manifest {
                blob: Meant::by(&info).blob(),
                size: 5,
                file_hash: *info.nar_hash.as_bytes(),
                compression: 0,
                inside: None,
                announced: Some(verified.claim().announced()),
                digests: vec![crate::store::Manifest::digest(b"a NAR")],
            };
            let open = Arc::new(manifest);
            pipeline.keep(&a, &verified, LIFETIME).await;
            assert!(pipeline.held(hash(HASH)).await.is_none(), "its NAR is not here");
            pipeline.shared.store.keep_body(Arc::clone(&open)).await;
            assert!(pipeline.held(hash(HASH)).await.is_none(), "nor proven");
            let proven =
                Arc::new(crate::store::Manifest { inside: Some(inside), ..crate::store::Manifest::clone(&open) });
            pipeline.shared.store.replace_manifest(&open, Arc::clone(&proven)).await;
            let verified = verified.seen_in(&proven);
            let entry = pipeline.keep(&a, &verified, LIFETIME).await;
            let held = pipeline.held(hash(HASH)).await;
            assert_eq!(held.is_some(), signs);
            if let Some(held) = held {
                assert_eq!(held.narinfo, pipeline.served(&entry));
                assert!(held.nar.starts_with(&format!("nar/{HASH}-")));
            }
        }
    }
}
