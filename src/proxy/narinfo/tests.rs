use super::super::answer::Reply;
use super::super::quarantine::Known;
use super::super::request::Asker;
use super::super::testing::{HASH, compressed, file_nar, hash, pipeline, policy, proxy, unsigned};
use super::*;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::StoreDir;
use crate::upstream::testing::{Origin, Step, answer, not_found, upstream};

fn text(info: &NarInfo) -> String {
    info.render(&StoreDir::default())
}

/// An origin whose every narinfo is this text.
async fn telling(text: String) -> Origin {
    Origin::start(move |_| answer("200 OK", text.clone())).await
}

/// An upstream that nobody listens at, called `b`.
fn down(rank: u32, when_down: &str) -> Arc<Upstream> {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    upstream(nobody, rank, &format!("name = 'b'\nwhen_down = '{when_down}'"))
}

/// Has the store keep that `upstream` said this long ago.
async fn keep(pipeline: &Pipeline, upstream: &Upstream, info: &NarInfo, expires: UnixSeconds) {
    let hash = info.store_path.hash();
    let verified = Verified::check(text(info).as_bytes(), hash, upstream, pipeline.policy.rules()).unwrap();
    pipeline.keep(upstream, &verified, Lifetime { fetched: UnixSeconds(1), expires }).await;
}

/// Has what `upstream` says be doubted.
async fn doubt(pipeline: &Pipeline, upstream: &Arc<Upstream>, info: &NarInfo) {
    let text = text(info);
    let verified = Verified::check(text.as_bytes(), hash(HASH), upstream, pipeline.policy.rules()).unwrap();
    let plan = pipeline.plan_from(upstream, &verified);
    let broken = crate::fill::Broken::refused(Refusal::WrongSize, "it is not");
    pipeline.judge().refuted(&plan.sources[0], &plan, &broken, false).await;
    assert!(matches!(pipeline.known_of(upstream, &verified).await, Known::Doubtful));
}

/// Asked, and what is kept afterwards.
async fn asked(pipeline: &Pipeline) -> (Answer, Option<String>) {
    let answer = pipeline.narinfo(hash(HASH), Asker::default()).await;
    pipeline.policy.narinfos.finish().await;
    (answer, pipeline.kept_entry(hash(HASH)).await.map(|entry| entry.upstream))
}

fn kind(answer: &Answer) -> Option<FailureKind> {
    match &answer.reply {
        Reply::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

/// About another path than the one that is asked for.
fn refused() -> String {
    text(&unsigned(&file_nar(b"x"))).replace(HASH, "0123456789abcdfghijklmnpqrsvwxyz")
}

#[tokio::test]
async fn r18_a_refusal_beside_an_upstream_that_is_down_gives_up_nothing_that_is_kept() {
    for (when_down, rank) in [("miss", 10), ("miss", 20), ("error", 10), ("error", 20)] {
        let a = telling(refused()).await.upstream(10, "name = 'a'");
        let b = down(rank, when_down);
        let pipeline = pipeline(policy(&[a, Arc::clone(&b)], Vec::new()));
        keep(&pipeline, &b, &unsigned(&file_nar(b"x")), UnixSeconds(2)).await;
        let (answer, kept) = asked(&pipeline).await;
        assert_eq!((kind(&answer), answer.outcome), (None, Outcome::Stale), "{when_down} {rank}");
        assert_eq!(kept.as_deref(), Some("b"), "{when_down} {rank}");
    }
}

#[tokio::test]
async fn r18_a_refusal_beside_an_upstream_that_is_down_is_unknown_where_that_counts() {
    for (when_down, expected) in [("error", FailureKind::BadGateway), ("miss", FailureKind::NotFound)] {
        let a = telling(refused()).await.upstream(10, "name = 'a'");
        let pipeline = pipeline(policy(&[a, down(20, when_down)], Vec::new()));
        let (answer, kept) = asked(&pipeline).await;
        assert_eq!((kind(&answer), kept), (Some(expected), None), "{when_down}");
        // The one that is down may have it right, and be back in a moment.
        assert_eq!(pipeline.shared.store.refused(narinfo_key(hash(HASH))), None);
    }
}

#[tokio::test]
async fn a_refusal_that_everybody_else_agrees_with_ends_what_is_kept() {
    let a = telling(refused()).await.upstream(10, "name = 'a'");
    let b = Origin::start(|_| not_found()).await.upstream(20, "name = 'b'");
    let pipeline = pipeline(policy(&[a, Arc::clone(&b)], Vec::new()));
    keep(&pipeline, &b, &unsigned(&file_nar(b"x")), UnixSeconds(2)).await;
    let (answer, kept) = asked(&pipeline).await;
    assert_eq!((kind(&answer), answer.outcome, kept), (Some(FailureKind::NotFound), Outcome::Refused, None));
}

#[tokio::test]
async fn a_doubtful_one_is_not_taken_for_what_is_kept_of_who_is_down_unless_that_is_gone() {
    for (when_down, expires, from) in [("miss", 2, "b"), ("error", 2, "b"), ("miss", 0, "a"), ("error", 0, "a")] {
        // The same NAR in another body, so that the two do not contradict each other.
        let doubted = compressed(&unsigned(&file_nar(b"x")), Compression::Xz, Some((Sha256::of(b"body"), 4)));
        let a = telling(text(&doubted)).await.upstream(10, "name = 'a'");
        let b = down(20, when_down);
        let pipeline = pipeline(policy(&[Arc::clone(&a), Arc::clone(&b)], Vec::new()));
        doubt(&pipeline, &a, &doubted).await;
        keep(&pipeline, &b, &unsigned(&file_nar(b"x")), UnixSeconds(expires)).await;
        let (answer, kept) = asked(&pipeline).await;
        assert_eq!((kind(&answer), kept.as_deref()), (None, Some(from)), "{when_down} {expires}");
    }
}

#[tokio::test]
async fn a_doubtful_one_contradicts_as_well_as_another() {
    let (first, other) = (unsigned(&file_nar(b"first")), unsigned(&file_nar(b"other")));
    // Who is doubted, the ranks of the two, and who is believed.
    for (doubted, ranks, believed) in
        [([false, true], [10, 10], "a"), ([true, false], [10, 20], "b"), ([true, true], [10, 20], "a")]
    {
        let a = telling(text(&first)).await.upstream(ranks[0], "name = 'a'");
        let b = telling(text(&other)).await.upstream(ranks[1], "name = 'b'");
        let pipeline = pipeline(policy(&[Arc::clone(&a), Arc::clone(&b)], Vec::new()));
        for (doubted, upstream, info) in [(doubted[0], &a, &first), (doubted[1], &b, &other)] {
            if doubted {
                doubt(&pipeline, upstream, info).await;
            }
        }
        let (answer, kept) = asked(&pipeline).await;
        assert_eq!((kind(&answer), kept.as_deref()), (None, Some(believed)), "{doubted:?}");
        let conflicts = [&a, &b].map(|upstream| upstream.metrics().refused.of(Refusal::Conflict).get());
        assert_eq!(conflicts.iter().sum::<u64>(), 1, "{doubted:?}");
    }
}

/// The kind, how, and the text of the failure.
async fn failure(pipeline: &Pipeline) -> (FailureKind, Outcome, String) {
    let (answer, _) = asked(pipeline).await;
    let Reply::Failed(failure) = answer.reply else { panic!("it is not there") };
    (failure.kind, answer.outcome, failure.text)
}

#[tokio::test]
async fn what_was_refused_a_moment_ago_is_told_with_the_same_word() {
    let right = unsigned(&file_nar(b"x"));
    // What is said at first, and why its NAR was refused before.
    for (said, refuted, word) in [
        (refused(), None, "other-path"),
        ("StorePath: rubbish\n".to_owned(), None, "malformed"),
        (text(&right), Some(Refusal::WrongNarHash), "wrong-nar-hash"),
        (text(&right), Some(Refusal::BadNar), "bad-nar"),
    ] {
        let a = telling(said.clone()).await.upstream(10, "name = 'a'");
        let pipeline = pipeline(policy(&[Arc::clone(&a)], Vec::new()));
        if let Some(refusal) = refuted {
            let verified = Verified::check(said.as_bytes(), hash(HASH), &a, pipeline.policy.rules()).unwrap();
            let plan = pipeline.plan_from(&a, &verified);
            let broken = crate::fill::Broken::refused(refusal, "it is not");
            pipeline.judge().refuted(&plan.sources[0], &plan, &broken, true).await;
        }
        for expected in [Outcome::Refused, Outcome::Negative] {
            let (kind, outcome, told) = failure(&pipeline).await;
            assert_eq!((kind, outcome), (FailureKind::NotFound, expected));
            assert!(told.contains(&format!("({word}")), "{outcome}: {told}");
        }
        let Err(nowhere) = pipeline.narinfo_for_nar(hash(HASH)).await else { panic!("it is refused") };
        assert!(nowhere.into_text().contains(word), "its NAR is not there for the same reason");
    }
}

#[tokio::test]
async fn of_what_nobody_had_a_moment_ago_no_more_is_told() {
    let a = Origin::start(|_| not_found()).await.upstream(10, "name = 'a'");
    let pipeline = pipeline(policy(&[a], Vec::new()));
    for outcome in [Outcome::NotFound, Outcome::Negative] {
        let text = format!("no upstream has {HASH}");
        assert_eq!(failure(&pipeline).await, (FailureKind::NotFound, outcome, text));
    }
}

#[tokio::test]
async fn r18_who_was_not_asked_before_a_reload_is_asked_after_it() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    let a = Origin::start(move |_| [vec![Step::Hold(Arc::clone(&held))], not_found()].concat()).await;
    let b = telling(text(&unsigned(&file_nar(b"x")))).await;
    let proxy = proxy(policy(&[a.upstream(10, "name = 'a'")], Vec::new()));
    let pipeline = proxy.pipeline();
    let before = tokio::spawn(async move { pipeline.narinfo(hash(HASH), Asker::default()).await.outcome });
    while a.asked("narinfo") == 0 {
        tokio::task::yield_now().await;
    }
    proxy.reload(policy(&[b.upstream(10, "name = 'b'")], Vec::new())).unwrap();
    gate.add_permits(1);
    assert_eq!(before.await.unwrap(), Outcome::NotFound);
    let asked = super::super::Request::NarInfo(hash(HASH));
    assert_eq!(proxy.everybody(asked, false).await.outcome, Outcome::Miss);
}
