use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::tests::{Fixed, SOON, Told, claim, file_nar, fills, idle, read, source};
use super::*;
use crate::fill::Reader;
use crate::metrics::Refusal;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::{Compression, ContentAddress};
use crate::store::{Announced, CHUNK};
use crate::upstream::testing::{Origin, Step, answer};

/// A NAR that is too large to be proven while a response waits.
fn large() -> Vec<u8> {
    let mut contents = vec![0; 5 * CHUNK + 9];
    blake3::Hasher::new().finalize_xof().fill(&mut contents);
    file_nar(&contents)
}

async fn origin(body: &[u8]) -> Origin {
    let body = body.to_vec();
    Origin::start(move |_| answer("200 OK", body.clone())).await
}

/// A plan of an uncompressed NAR, and who hears of it.
fn plan(nar: &[u8], claim: Claim, prove: Prove, origin: &Origin) -> (Plan, Arc<Told>) {
    let (digest, told) = (Sha256::of(nar), Arc::new(Told::default()));
    let plan = Plan {
        digest,
        file_hash: Some(digest),
        size: Some(nar.len() as u64),
        compression: Compression::None,
        claim: Some(Arc::new(claim)),
        prove,
        sources: vec![source(origin)],
        others: None,
        judge: Arc::clone(&told) as Arc<dyn super::super::Judge>,
    };
    (plan, told)
}

fn wrong(nar: &[u8]) -> Claim {
    Claim { nar_hash: Sha256::of(b"another"), ..claim(nar) }
}

fn told(told: &Told) -> Vec<(Option<Refusal>, bool)> {
    told.0.lock().unwrap().iter().map(|(broken, left)| (broken.refusal, *left)).collect()
}

/// Waits until something that is done in the background is so.
async fn until(so: impl AsyncFn() -> bool) {
    let so = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, so).await.expect("it never comes to that");
}

async fn manifest(fills: &Fills, plan: &Plan) -> Option<Arc<Manifest>> {
    fills.inner.store.manifest(plan.blob()).await
}

fn chunks(fills: &Fills, plan: &Plan, count: u32) -> usize {
    (0..count).filter(|index| fills.inner.store.has_chunk(ChunkKey { blob: plan.blob(), index: *index })).count()
}

fn waiting(fills: &Fills) -> usize {
    fills.inner.unproven.lock().unwrap().len()
}

/// Filled, and looked into by nobody.
async fn unproven(fills: &Fills, plan: &Plan) -> Arc<Manifest> {
    let (fill, _) = fills.start(Plan { prove: Prove::Never, ..plan.clone() });
    fill.done().await.unwrap();
    idle(fills).await;
    let manifest = manifest(fills, plan).await.unwrap();
    assert_eq!(manifest.inside, None);
    manifest
}

#[tokio::test]
async fn a_large_nar_is_proven_after_its_fill_once() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (plan, judge) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    let (fill, _) = fills.start(plan.clone());
    fill.done().await.unwrap();
    until(async || manifest(&fills, &plan).await.is_some_and(|manifest| manifest.inside.is_some())).await;
    until(async || waiting(&fills) == 0).await;
    let manifest = manifest(&fills, &plan).await.unwrap();
    let inside = Inside { nar_hash: *Sha256::of(&nar).as_bytes(), nar_size: nar.len() as u64, addressed: false };
    assert_eq!(manifest.inside, Some(inside));
    assert_eq!(chunks(&fills, &plan, manifest.chunks()), 6);
    fills.prove_if_here(&plan).await;
    assert!(fills.proven(&plan).await.is_ok());
    assert_eq!((waiting(&fills), fills.inner.metrics.proven.get(), origin.asked("/nar/x")), (0, 1, 1));
    assert_eq!(told(&judge), []);
}

#[tokio::test]
async fn a_large_nar_that_is_refuted_after_its_fill_is_forgotten_and_told_of_once() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (plan, judge) = plan(&nar, wrong(&nar), Prove::Afterwards, &origin);
    let (fill, _) = fills.start(plan.clone());
    fill.done().await.unwrap();
    until(async || !told(&judge).is_empty() && waiting(&fills) == 0).await;
    assert_eq!(told(&judge), [(Some(Refusal::WrongNarHash), true)]);
    assert_eq!((manifest(&fills, &plan).await, chunks(&fills, &plan, 6)), (None, 0));
    assert_eq!(fills.inner.metrics.proven.get(), 0);
}

#[tokio::test]
async fn what_is_to_be_proven_first_is_not_read_before() {
    let (nar, fills, gate) = (large(), fills(), Arc::new(Semaphore::new(0)));
    let (body, hold) = (bytes::Bytes::from(nar.clone()), Step::Hold(Arc::clone(&gate)));
    let origin = Origin::start(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let last = body.len() - 1;
        vec![Step::Send(head.into()), Step::Send(body.slice(..last)), hold.clone(), Step::Send(body.slice(last..))]
    })
    .await;
    let source = Source { upstream: origin.upstream(10, ""), target: "/nar/x".to_owned() };
    for claim in [claim(&nar), wrong(&nar)] {
        let (plan, judge) = plan(&nar, claim.clone(), Prove::First, &origin);
        let (fill, _) = fills.start(Plan { sources: vec![source.clone()], ..plan.clone() });
        until(async || fill.chunks_done() == 5).await;
        assert!(fill.ready().now_or_never().is_none());
        assert!(!fill.may_have_left() && matches!(fill.read(0, 0, None), crate::fill::state::Seen::Wait));
        gate.add_permits(1);
        let reader = Reader::following(fills.clone(), Arc::clone(&fill), Arc::new(Fixed(Vec::new())), None);
        let (got, end) = timeout(SOON, read(reader, Duration::ZERO)).await.unwrap();
        idle(&fills).await;
        let kept = manifest(&fills, &plan).await;
        if claim.nar_hash == Sha256::of(&nar) {
            assert!(end.is_ok() && got == nar && kept.unwrap().inside.is_some());
            fills.forget(&manifest(&fills, &plan).await.unwrap());
        } else {
            assert!(end.is_err() && got.is_empty() && kept.is_none());
            assert_eq!(told(&judge), [(Some(Refusal::WrongNarHash), false)], "nothing of it had left");
        }
    }
}

#[tokio::test]
async fn a_nar_named_by_its_narhash_is_known_by_what_is_inside() {
    let (nar, fills) = (file_nar(b"contents"), fills());
    let body = zstd::encode_all(&nar[..], 1).unwrap();
    let origin = origin(&body).await;
    for (claim, right) in [(wrong(&nar), false), (claim(&nar), true)] {
        let (plan, judge) = plan(&nar, claim.clone(), Prove::Never, &origin);
        let plan = Plan { digest: claim.nar_hash, file_hash: None, size: None, compression: Compression::Zstd, ..plan };
        let (fill, _) = fills.start(plan.clone());
        let done = fill.done().await;
        idle(&fills).await;
        assert_eq!((done.is_ok(), manifest(&fills, &plan).await.is_some()), (right, right));
        match done {
            Ok(manifest) => {
                assert_eq!(manifest.inside.unwrap().nar_hash, *Sha256::of(&nar).as_bytes());
                assert_eq!(manifest.file_hash, *Sha256::of(&body).as_bytes());
                assert!(plan.is_met_by(&manifest));
            }
            Err(broken) => assert_eq!(broken.refusal, Some(Refusal::WrongNarHash)),
        }
        assert_eq!(told(&judge).len(), usize::from(!right));
    }
}

#[tokio::test]
async fn what_is_here_and_unproven_is_proven_without_asking() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (plan, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    unproven(&fills, &plan).await;
    let proven = fills.proven(&plan).await.unwrap();
    assert!(proven.inside.is_some() && manifest(&fills, &plan).await == Some(proven));
    assert_eq!(origin.asked("/nar/x"), 1);
}

#[tokio::test]
async fn a_proof_leaves_who_announced_the_bytes_and_is_of_the_bytes_that_are_meant() {
    let (nar, fills) = (file_nar(b"contents"), fills());
    let origin = origin(&nar).await;
    let (first, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    unproven(&fills, &first).await;
    // Half of a digest is a body's name: the other half may be another's.
    let other = Plan { file_hash: Some(Sha256::of(b"other")), prove: Prove::Never, ..first.clone() };
    assert_eq!(fills.proven(&other).await.unwrap_err().refusal, Some(Refusal::WrongFileHash));
    idle(&fills).await;
    unproven(&fills, &first).await;
    let again = Plan { claim: Some(Arc::new(Claim { basis: [1; 16], ..claim(&nar) })), ..first };
    assert_eq!(fills.proven(&again).await.unwrap().announced.unwrap().basis, [0; 16]);
}

/// Somebody waits for the proof of what would be read at once otherwise: whoever reads along waits with him, so that
/// nothing of it has left when it is refuted.
#[tokio::test]
async fn what_somebody_needs_proven_is_read_by_nobody_before() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    for prove in [Prove::Never, Prove::Afterwards, Prove::First] {
        let (wrong, judge) = plan(&nar, wrong(&nar), prove, &origin);
        assert_eq!(fills.proven(&wrong).await.unwrap_err().refusal, Some(Refusal::WrongNarHash), "{prove:?}");
        idle(&fills).await;
        assert_eq!(told(&judge), [(Some(Refusal::WrongNarHash), false)], "{prove:?}");
        assert_eq!(manifest(&fills, &wrong).await, None);
    }
}

#[test]
fn a_body_waits_once() {
    let (fills, blob) = (fills(), BlobId([1; 16]));
    let first = Waiting::begin(&fills, blob);
    assert!(first.is_some() && Waiting::begin(&fills, blob).is_none());
    drop(first);
    assert!(Waiting::begin(&fills, blob).is_some());
}

#[tokio::test]
async fn a_hole_in_what_is_to_be_proven_is_no_verdict_and_it_is_filled_anew() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (plan, judge) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    let manifest_before = unproven(&fills, &plan).await;
    fills.inner.store.remove_chunk(ChunkKey { blob: plan.blob(), index: 3 });
    let claim = Arc::clone(plan.claim.as_ref().unwrap());
    let broken = fills.prove_stored(&manifest_before, &plan, &claim, Pace::AtOnce).await.unwrap_err();
    assert_eq!((broken.reason, broken.refusal), (FillFailure::Cut, None));
    assert_eq!(chunks(&fills, &plan, 6), 5, "the rest is still there");
    let proven = fills.proven(&plan).await.unwrap();
    idle(&fills).await;
    assert_eq!((proven.inside.is_some(), chunks(&fills, &plan, 6)), (true, 6));
    assert_eq!((origin.asked("/nar/x"), told(&judge).len()), (2, 0));
}

#[tokio::test]
async fn another_claim_of_the_same_bytes_costs_the_honest_one_nothing() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (honest, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    unproven(&fills, &honest).await;
    fills.proven(&honest).await.unwrap();
    let (lie, judge) = plan(&nar, wrong(&nar), Prove::Afterwards, &origin);
    let broken = fills.proven(&lie).await.unwrap_err();
    assert_eq!(broken.refusal, Some(Refusal::WrongNarHash));
    assert_eq!(told(&judge), [(Some(Refusal::WrongNarHash), true)]);
    assert!(manifest(&fills, &honest).await.unwrap().inside.is_some());
    assert_eq!((chunks(&fills, &honest, 6), origin.asked("/nar/x")), (6, 1));
}

#[tokio::test]
async fn many_who_want_a_proof_are_one_fill() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (right, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    let all = futures_util::future::join_all((0..20).map(|_| fills.proven(&right))).await;
    assert!(all.iter().all(|proven| proven.as_ref().is_ok_and(|manifest| manifest.inside.is_some())));
    assert_eq!(origin.asked("/nar/x"), 1);
    let nothing = fills.proven(&Plan { claim: None, ..right }).await.unwrap_err();
    assert_eq!((nothing.reason, nothing.refusal), (FillFailure::Unknown, None));
}

#[tokio::test]
async fn a_proof_that_joins_a_fill_of_another_claim_is_its_own() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (honest, _) = plan(&nar, claim(&nar), Prove::First, &origin);
    let (lie, judge) = plan(&nar, wrong(&nar), Prove::First, &origin);
    let (fill, _) = fills.start(honest);
    let refused = fills.proven(&lie).await.unwrap_err();
    assert_eq!(refused.refusal, Some(Refusal::WrongNarHash));
    assert!(fill.done().await.is_ok());
    assert_eq!((told(&judge).len(), origin.asked("/nar/x")), (1, 1));
}

#[tokio::test]
async fn the_end_waits_for_no_proof() {
    let (nar, fills) = (large(), fills());
    let origin = origin(&nar).await;
    let (plan, judge) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    // No place for a proof in the background.
    let mut running = Vec::new();
    while let Some(proving) =
        fills.inner.prover.begin(Compression::None, plan.claim.as_ref().unwrap(), Pace::Background).now_or_never()
    {
        running.push(proving);
    }
    let (fill, _) = fills.start(plan.clone());
    fill.done().await.unwrap();
    until(async || waiting(&fills) == 1).await;
    fills.prove_if_here(&plan).await;
    assert_eq!(waiting(&fills), 1, "it is among them already");
    timeout(SOON, fills.stop()).await.expect("the end waits for a proof");
    assert_eq!((waiting(&fills), told(&judge).len()), (0, 0));
    assert_eq!(manifest(&fills, &plan).await.unwrap().inside, None);
}

#[tokio::test]
async fn r26_no_more_wait_than_there_is_room_for() {
    let (nar, fills) = (file_nar(b"contents"), fills());
    let origin = origin(&nar).await;
    let (plan, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    unproven(&fills, &plan).await;
    let other = |n: usize| BlobId::new(Sha256::of(&n.to_le_bytes()).as_bytes(), 0);
    fills.inner.unproven.lock().unwrap().extend((0..WAITING).map(other));
    fills.prove_if_here(&plan).await;
    assert_eq!((waiting(&fills), fills.inner.metrics.proofs_put_off.get()), (WAITING, 1));
    fills.inner.unproven.lock().unwrap().remove(&other(0));
    fills.prove_if_here(&plan).await;
    until(async || manifest(&fills, &plan).await.unwrap().inside.is_some()).await;
    until(async || waiting(&fills) == WAITING - 1).await;
    assert_eq!(fills.inner.metrics.proofs_put_off.get(), 1);
}

#[tokio::test]
async fn what_cannot_or_need_not_be_proven_does_not_wait_for_it() {
    let (nar, fills) = (file_nar(b"contents"), fills());
    let origin = origin(&nar).await;
    let (right, _) = plan(&nar, claim(&nar), Prove::Afterwards, &origin);
    let manifest = unproven(&fills, &right).await;
    for plan in [
        Plan { prove: Prove::Never, ..right.clone() },
        Plan { claim: None, ..right.clone() },
        Plan { compression: Compression::Lrzip, ..right.clone() },
    ] {
        fills.prove_later(Arc::clone(&manifest), &plan, source(&origin));
        assert_eq!(waiting(&fills), 0, "{plan:?}");
    }
    let sourceless = Plan { sources: Vec::new(), ..right };
    fills.prove_if_here(&sourceless).await;
    assert_eq!(waiting(&fills), 0);
}

/// A manifest of this NAR, uncompressed.
fn of(nar: &[u8], inside: Option<Inside>) -> Manifest {
    let claim = claim(nar);
    Manifest {
        blob: BlobId([0; 16]),
        size: claim.nar_size,
        file_hash: *claim.nar_hash.as_bytes(),
        compression: 0,
        inside,
        announced: Some(claim.announced()),
        digests: Vec::new(),
    }
}

#[test]
fn what_is_known_is_held_against_each_claim() {
    let nar = file_nar(b"contents");
    let right = claim(&nar);
    let inside = |addressed| Some(Inside { nar_hash: *right.nar_hash.as_bytes(), nar_size: right.nar_size, addressed });
    let address = |text: String| Some((ContentAddress::parse(&text).unwrap(), false));
    let addressed = Claim { address: address(format!("fixed:r:{}", right.nar_hash)), ..right.clone() };
    let unchecked = Claim { address: address(format!("fixed:md5:{}", "a".repeat(32))), ..right.clone() };
    let (seen, unseen) = (of(&nar, inside(true)), of(&nar, inside(false)));
    assert_eq!(right.holds_for(&of(&nar, None)), None);
    for claim in [&right, &unchecked] {
        assert_eq!((claim.holds_for(&seen), claim.holds_for(&unseen)), (Some(true), Some(true)));
    }
    assert_eq!((addressed.holds_for(&seen), addressed.holds_for(&unseen)), (Some(true), None));
    // R3: that it is the content of one path says nothing of another.
    let announced = seen.announced.map(|announced| Announced { store_hash: [b'0'; 32], ..announced });
    assert_eq!(addressed.holds_for(&Manifest { announced, ..seen.clone() }), None);
    for wrong in [
        Claim { nar_hash: Sha256::of(b"y"), ..addressed.clone() },
        Claim { nar_size: right.nar_size + 1, ..addressed.clone() },
    ] {
        assert_eq!((wrong.holds_for(&seen), wrong.holds_for(&unseen)), (Some(false), Some(false)));
    }
}

#[tokio::test]
async fn a_stored_body_meets_a_plan_by_its_hash_and_where_it_must_by_its_proof() {
    let nar = file_nar(b"contents");
    let origin = origin(&nar).await;
    let right = claim(&nar);
    let inside = Some(Inside { nar_hash: *right.nar_hash.as_bytes(), nar_size: right.nar_size, addressed: false });
    let (proven, unproven) = (of(&nar, inside), of(&nar, None));
    let (first, _) = plan(&nar, right.clone(), Prove::First, &origin);
    let later = Plan { prove: Prove::Afterwards, ..first.clone() };
    assert!(first.is_met_by(&proven) && !first.is_met_by(&unproven));
    assert!(later.is_met_by(&proven) && later.is_met_by(&unproven));
    assert!(Plan { claim: None, ..first.clone() }.is_met_by(&proven), "its hash is all there is to prove");
    assert!(!Plan { claim: Some(Arc::new(wrong(&nar))), ..first.clone() }.is_met_by(&proven));
    for prove in [Prove::First, Prove::Afterwards] {
        let other = Some(Sha256::of(b"other"));
        assert!(!Plan { file_hash: other, prove, ..first.clone() }.is_met_by(&proven));
        let by_nar = Plan { file_hash: None, prove, ..first.clone() };
        assert!(by_nar.is_met_by(&proven) && !by_nar.is_met_by(&unproven));
        assert!(!Plan { digest: Sha256::of(b"other"), ..by_nar }.is_met_by(&proven));
    }
}
