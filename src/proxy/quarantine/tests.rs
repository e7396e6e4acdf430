use proptest::prelude::*;

use super::*;
use crate::fill::{FillFailure, Prove, code_of};
use crate::nix::narinfo::Compression;
use crate::proxy::kept::Lifetime;
use crate::proxy::testing::{HASH, compressed, dir, file_nar, hash, pipeline, policy, unsigned, upstream_at};
use crate::store::{Inside, Manifest};
use crate::upstream::testing::{Origin, answer};

proptest! {
    #[test]
    fn a_record_is_read_back(
        until: u64, instead: [u8; 32], claims in prop::collection::vec(any::<([u8; 32], u64)>(), 0..=CLAIMS),
        kind in 0_usize..3, left: bool, replaced: bool, upstream in "[a-z.]{0,64}", text in "[ -~]{0,300}",
        cut: prop::sample::Index,
    ) {
        let record = Record {
            until: UnixSeconds(until), kind: Kind::ALL[kind], upstream, left, text,
            claims: claims.into_iter().map(|(hash, size)| (Sha256::from_bytes(hash), size)).collect(),
            instead: replaced.then(|| Sha256::from_bytes(instead)),
        };
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(bytes.slice(..cut.index(bytes.len()))), None);
        prop_assert_eq!(Record::decode(bytes), Some(record));
    }
}

fn verified(pipeline: &Pipeline, upstream: &Upstream, info: &NarInfo) -> Verified {
    let text = info.render(&dir());
    Verified::check(text.as_bytes(), info.store_path.hash(), upstream, pipeline.policy.rules()).unwrap()
}

/// Has it kept that `upstream` announced this.
async fn keep(pipeline: &Pipeline, upstream: &Upstream, info: &NarInfo) -> Entry {
    let now = UnixSeconds::now();
    let lifetime = Lifetime { fetched: now, expires: now.plus(100) };
    pipeline.keep(upstream, &verified(pipeline, upstream, info), lifetime).await
}

/// Two upstreams that say the same of one path, and a pipeline over them.
struct Two {
    pipeline: Pipeline,
    a: Arc<Upstream>,
    b: Arc<Upstream>,
    info: NarInfo,
}

impl Two {
    fn new(info: NarInfo) -> Self {
        let at = |name, port| upstream_at(&format!("http://127.0.0.1:{port}"), name, "origin", &[]);
        let (a, b) = (at("a", 1), at("b", 2));
        Self { pipeline: pipeline(policy(&[Arc::clone(&a), Arc::clone(&b)], Vec::new())), a, b, info }
    }

    /// Has it kept that `a` announced it.
    async fn keep(&self) -> Plan {
        let entry = keep(&self.pipeline, &self.a, &self.info).await;
        let plan = self.pipeline.plan_of_entry(&entry, &self.info).unwrap();
        // Who was caught is not given another first byte.
        assert_eq!(plan.prove, if self.a.is_suspect() { Prove::First } else { Prove::Afterwards });
        plan
    }

    async fn refuted(&self, plan: &Plan, broken: &Broken, left: bool) -> Option<Record> {
        self.pipeline.judge().refuted(&plan.sources[0], plan, broken, left).await;
        self.pipeline.quarantined(&Meant::by(&self.info)).await
    }

    /// What is known against the narinfo of `a`, of `b`, and of `b` with another NarSize.
    async fn known(&self) -> [Option<Refusal>; 3] {
        let other = NarInfo { nar_size: self.info.nar_size + 1, ..self.info.clone() };
        let mut all = [None; 3];
        for (known, (upstream, info)) in
            all.iter_mut().zip([(&self.a, &self.info), (&self.b, &self.info), (&self.b, &other)])
        {
            *known = match self.pipeline.known_of(upstream, &verified(&self.pipeline, upstream, info)).await {
                Known::Nothing => None,
                Known::Doubtful => Some(DOUBTFUL),
                Known::Wrong(_) => Some(Refusal::WrongNarHash),
                Known::Refused(..) => Some(Refusal::Quarantined),
            };
        }
        all
    }
}

/// Stands for a doubt in what is known.
const DOUBTFUL: Refusal = Refusal::Conflict;

/// A path with a compressed NAR, with or without a FileHash.
fn xz(file: bool) -> NarInfo {
    let file = file.then(|| (Sha256::of(b"body"), 4));
    compressed(&unsigned(&file_nar(b"x")), Compression::Xz, file)
}

fn broken(refusal: Refusal) -> Broken {
    Broken::refused(refusal, "it is not")
}

#[tokio::test]
async fn what_is_wrong_for_good_is_so_for_all_and_what_may_be_the_way_for_who_sent_it() {
    let doubts = [Refusal::WrongFileHash, Refusal::WrongSize, Refusal::Unprovable];
    let lasting =
        [Refusal::WrongNarHash, Refusal::WrongNarSize, Refusal::BadNar, Refusal::Undecodable, Refusal::WrongAddress];
    for (refusal, with_file) in
        doubts.into_iter().chain(lasting).flat_map(|refusal| [(refusal, true), (refusal, false)])
    {
        let two = Two::new(xz(with_file));
        let plan = two.keep().await;
        assert_eq!(two.known().await, [None; 3]);
        let before = UnixSeconds::now();
        let record = two.refuted(&plan, &broken(refusal), true).await.unwrap();
        let after = UnixSeconds::now();
        // Without a FileHash nobody can tell whether these are the bytes that were announced.
        let doubt = doubts.contains(&refusal) || !with_file;
        assert_eq!(record.is_doubt(), doubt, "{refusal} {with_file}");
        let until =
            if doubt { before.plus(600)..=after.plus(600) } else { UnixSeconds(u64::MAX)..=UnixSeconds(u64::MAX) };
        assert!(until.contains(&record.until), "{refusal}: {record:?}");
        let known = if doubt {
            [Some(DOUBTFUL), None, None]
        } else {
            [Some(Refusal::Quarantined), Some(Refusal::Quarantined), None]
        };
        assert_eq!(two.known().await, known, "{refusal} {with_file}");
        assert!(two.a.is_suspect() && !two.b.is_suspect());
        assert_eq!(two.a.metrics().refused.of(refusal).get(), 1);
        assert!(two.pipeline.kept_entry(hash(HASH)).await.is_none(), "its narinfo is not served any more");
        assert!(record.to_string().contains(&refusal.to_string()), "{record}");
    }
}

#[tokio::test]
async fn a_record_ends_when_it_says() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let record = two.refuted(&plan, &broken(Refusal::WrongSize), false).await.unwrap();
    let meant = Meant::by(&two.info);
    for (until, stands) in [(UnixSeconds::now().plus(60), true), (UnixSeconds(0), false), (UnixSeconds::now(), false)] {
        let record = Record { until, ..record.clone() };
        two.pipeline.shared.store.put_entry(quarantine_key(&meant), record.encode()).await;
        assert_eq!(two.pipeline.quarantined(&meant).await, stands.then_some(record));
        assert_eq!(two.known().await, [stands.then_some(DOUBTFUL), None, None]);
    }
}

#[tokio::test]
async fn r12_what_may_have_left_stays_so_and_so_does_what_stands_in() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let meant = Meant::by(&two.info);
    let left = async |left| two.refuted(&plan, &broken(Refusal::WrongSize), left).await.unwrap().left;
    assert!(!left(false).await && left(true).await && left(false).await);
    let instead = Some(Sha256::of(b"another"));
    let record = Record { instead, ..two.pipeline.quarantined(&meant).await.unwrap() };
    two.pipeline.shared.store.put_entry(quarantine_key(&meant), record.encode()).await;
    let after = two.refuted(&plan, &broken(Refusal::WrongNarHash), false).await.unwrap();
    assert_eq!((after.instead, after.left, after.kind), (instead, true, Kind::Wrong));
    let other = Meant { digest: Sha256::of(b"another"), ..meant };
    assert_eq!(two.pipeline.instead(meant, &after).await, Some(other));
}

#[tokio::test]
async fn what_stands_in_is_the_same_bytes_of_another_or_nothing_that_was_not_proven() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let record = two.refuted(&plan, &broken(Refusal::WrongSize), false).await.unwrap();
    let (meant, pipeline) = (Meant::by(&two.info), &two.pipeline);
    two.keep().await;
    // What is kept is of `a`, which sent the wrong ones.
    assert_eq!(pipeline.instead(meant, &record).await, None);
    let by_another = Record { upstream: "b".to_owned(), ..record.clone() };
    for left in [false, true] {
        let record = Record { left, ..by_another.clone() };
        assert_eq!(
            pipeline.instead(meant, &record).await,
            Some(meant),
            "the same bytes are what left, if they are right"
        );
    }
    assert_eq!(pipeline.instead(Meant { hash: None, ..meant }, &by_another).await, None);
    // Nobody is there whose other body could be proven.
    assert_eq!(pipeline.instead(Meant { digest: Sha256::of(b"wrong"), ..meant }, &by_another).await, None);
}

/// Another upstream's body of the same NAR, which can be had and proven, against what was refused.
#[tokio::test]
async fn r12_another_body_stands_in_only_where_nothing_left_and_the_same_was_claimed_of_it() {
    let nar = file_nar(b"x");
    let body = zstd::encode_all(&nar[..], 1).unwrap();
    let sent = body.clone();
    let origin = Origin::start(move |_| answer("200 OK", sent.clone())).await;
    let b = origin.upstream(20, "name = 'b'");
    let plain = unsigned(&nar);
    let had = compressed(&plain, Compression::Zstd, Some((Sha256::of(&body), body.len() as u64)));
    let refused = Meant { digest: Sha256::of(b"wrong"), ..Meant::by(&had) };
    let record = Record::new(Kind::Wrong, "a", (plain.nar_hash, plain.nar_size), false, "wrong".to_owned());
    let elsewhere = Meant { compression: Compression::Xz, ..refused };
    for (meant, record, stands) in [
        (refused, Record { left: true, ..record.clone() }, false),
        (refused, Record { claims: vec![(plain.nar_hash, 1)], ..record.clone() }, false),
        (refused, Record { claims: vec![(Sha256::of(b"another"), plain.nar_size)], ..record.clone() }, false),
        (elsewhere, record.clone(), false),
        (refused, record, true),
    ] {
        let pipeline = pipeline(policy(&[Arc::clone(&b)], Vec::new()));
        keep(&pipeline, &b, &had).await;
        let case = format!("{meant:?} {record:?}");
        let before = origin.asked("nar/");
        assert_eq!(pipeline.instead(meant, &record).await, stands.then(|| Meant::by(&had)), "{case}");
        assert_eq!(origin.asked("nar/") - before, usize::from(stands), "nothing is fetched in vain: {case}");
        let noted = pipeline.quarantined(&meant).await.and_then(|record| record.instead);
        assert_eq!(noted, stands.then(|| Sha256::of(&body)), "the choice is recorded: {case}");
    }
}

#[tokio::test]
async fn a_narinfo_without_its_nar_is_withheld_for_a_moment() {
    let two = Two::new(xz(true));
    two.keep().await;
    let before = UnixSeconds::now();
    two.pipeline.withhold(hash(HASH), &two.info, &two.a, "it is gone").await;
    let record = two.pipeline.quarantined(&Meant::by(&two.info)).await.unwrap();
    assert!((before.plus(30)..=UnixSeconds::now().plus(30)).contains(&record.until));
    assert!(!record.left && record.kind == Kind::Absent && record.to_string().contains("it is gone"));
    assert_eq!(two.known().await, [Some(Refusal::Quarantined), None, None], "another may have it");
    assert!(two.pipeline.kept_entry(hash(HASH)).await.is_none() && !two.a.is_suspect());
}

#[tokio::test]
async fn what_is_no_refusal_or_about_no_path_leaves_no_record() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let cut = Broken::new(FillFailure::Cut, "cut");
    assert_eq!(two.refuted(&plan, &cut, true).await, None);
    assert!(!two.a.is_suspect());
    let nameless = Plan { claim: None, ..plan };
    assert_eq!(two.refuted(&nameless, &broken(Refusal::WrongFileHash), true).await, None);
    assert!(!two.a.is_suspect(), "it never said that its bytes have that hash");
    assert!(two.pipeline.kept_entry(hash(HASH)).await.is_some());
    assert_eq!(two.a.metrics().refused.of(Refusal::WrongFileHash).get(), 1);
}

#[tokio::test]
async fn other_bytes_of_the_path_cost_the_kept_narinfo_nothing() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let other = Plan { digest: Sha256::of(b"other"), ..plan.clone() };
    assert_eq!(two.refuted(&other, &broken(Refusal::WrongNarHash), true).await, None);
    assert!(two.pipeline.kept_entry(hash(HASH)).await.is_some());
    // Nor does what somebody else claims of the same bytes.
    lying(&two, &plan, &two.b, Refusal::WrongNarHash, &[1]).await;
    assert!(two.pipeline.kept_entry(hash(HASH)).await.is_some());
    lying(&two, &plan, &two.b, Refusal::WrongNarHash, &[two.info.nar_size]).await;
    assert!(two.pipeline.kept_entry(hash(HASH)).await.is_none());
}

#[tokio::test]
async fn what_is_here_and_known_to_be_another_nar_is_not_believed() {
    let two = Two::new(xz(true));
    let inside = |size| Inside { nar_hash: *two.info.nar_hash.as_bytes(), nar_size: size, addressed: false };
    let meant = Meant::by(&two.info);
    let (size, wrong) = (two.info.nar_size, Some(Refusal::WrongNarHash));
    for (size, known) in [(size, [None, None, wrong]), (size + 1, [wrong, wrong, None])] {
        let manifest = Manifest {
            blob: meant.blob(),
            size: 0,
            file_hash: *meant.digest.as_bytes(),
            compression: code_of(meant.compression),
            inside: Some(inside(size)),
            announced: None,
            digests: Vec::new(),
        };
        two.pipeline.shared.store.remove_manifest(manifest.blob);
        two.pipeline.shared.store.keep_body(Arc::new(manifest)).await;
        assert_eq!(two.known().await, known);
    }
}

/// The record after `upstream` was found to lie about the same bytes with each of these NarSizes in turn.
async fn lying(two: &Two, plan: &Plan, upstream: &Arc<Upstream>, refusal: Refusal, sizes: &[u64]) -> Record {
    for nar_size in sizes {
        let claim = Claim { nar_size: *nar_size, ..Claim::clone(plan.claim.as_ref().unwrap()) };
        let plan = Plan { claim: Some(Arc::new(claim)), ..plan.clone() };
        let source = Source { upstream: Arc::clone(upstream), ..plan.sources[0].clone() };
        two.pipeline.judge().refuted(&source, &plan, &broken(refusal), false).await;
    }
    two.pipeline.quarantined(&Meant::by(&two.info)).await.unwrap()
}

fn sizes(record: &Record) -> Vec<u64> {
    record.claims.iter().map(|(_, size)| *size).collect()
}

#[tokio::test]
async fn who_claims_now_this_and_now_that_has_neither_forgotten() {
    let two = Two::new(xz(true));
    let (plan, right) = (two.keep().await, two.info.nar_size);
    lying(&two, &plan, &two.a, Refusal::WrongNarHash, &[right, right + 1, right, right + 9]).await;
    let wrong = Some(Refusal::Quarantined);
    assert_eq!(two.known().await, [wrong, wrong, wrong], "and whoever says one of them");
    // They are as many as they may be.
    let many: Vec<u64> = (100..150).collect();
    let record = lying(&two, &plan, &two.a, Refusal::WrongNarHash, &many).await;
    assert_eq!(sizes(&record), (142..150).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_doubt_is_kept_beside_another_of_the_same_upstream_only() {
    let two = Two::new(xz(true));
    let (plan, b) = (two.keep().await, Arc::clone(&two.b));
    assert_eq!(sizes(&lying(&two, &plan, &two.a, Refusal::WrongSize, &[1, 2]).await), [2, 1]);
    let record = lying(&two, &plan, &b, Refusal::WrongSize, &[3]).await;
    assert_eq!((sizes(&record), &*record.upstream), (vec![3], "b"));
    // What is wrong for good is not mixed with doubts, before or after.
    assert_eq!(sizes(&lying(&two, &plan, &b, Refusal::WrongNarHash, &[4]).await), [4]);
    assert_eq!(sizes(&lying(&two, &plan, &b, Refusal::WrongSize, &[5]).await), [4]);
}

#[tokio::test]
async fn who_lied_about_the_bytes_may_say_what_they_are_later() {
    let two = Two::new(xz(true));
    let plan = two.keep().await;
    let record = lying(&two, &plan, &two.a, Refusal::WrongNarHash, &[1]).await;
    two.keep().await;
    let meant = Meant::by(&two.info);
    assert_eq!(two.pipeline.instead(meant, &record).await, Some(meant));
}
