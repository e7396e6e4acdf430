use std::sync::atomic::AtomicUsize;

use super::super::narinfo::Found;
use super::super::testing::{file_nar, hash, pipeline, policy, unsigned};
use super::*;
use crate::metrics::Outcome;
use crate::nix::base32;
use crate::nix::store_path::StoreDir;
use crate::upstream::testing::{Origin, Step, answer, not_found};

const SLOW: Duration = Duration::from_millis(700);

/// Another path for each number.
fn path(n: usize) -> HashPart {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    hash(&base32::encode(&bytes))
}

/// What it says of the path asked for, whichever that is.
fn has(target: &str) -> Vec<Step> {
    let asked = target.trim_start_matches('/').trim_end_matches(".narinfo");
    let text = unsigned(&file_nar(b"x")).render(&StoreDir::default());
    answer("200 OK", text.replace(super::super::testing::HASH, asked))
}

fn late(mut steps: Vec<Step>) -> Vec<Step> {
    steps.insert(0, Step::Pause(SLOW));
    steps
}

async fn ask(pipeline: &Pipeline, n: usize) -> (Found, Outcome) {
    pipeline.find_narinfo(path(n)).await
}

fn requests(upstreams: &[Arc<Upstream>]) -> u64 {
    upstreams.iter().map(|upstream| upstream.metrics().requests.get()).sum()
}

#[test]
fn a_fifth_may_be_asked_early_and_not_many_at_once() {
    let ration = Ration::default();
    assert!(!ration.spend());
    let mut early = 0;
    for _ in 0..1000 {
        ration.earn();
        early += u32::from(ration.spend());
    }
    assert_eq!(early, 200);
    for _ in 0..1000 {
        ration.earn();
    }
    assert_eq!((0..1000).filter(|_| ration.spend()).count(), 20);
}

#[tokio::test]
async fn the_next_group_is_asked_when_one_takes_longer_than_it_usually_does() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let first = Origin::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0..40 => not_found(),
        _ => late(not_found()),
    })
    .await;
    let second = Origin::start(|request| has(&request.target)).await;
    let upstreams = [first.upstream(10, "name = 'a'"), second.upstream(20, "name = 'b'")];
    let pipeline = pipeline(policy(&upstreams, Vec::new()));
    for n in 0..40 {
        assert!(matches!(ask(&pipeline, n).await.0, Found::Have(_)));
    }
    assert_eq!(pipeline.shared.metrics.hedges.get(), 0, "nobody was late");
    let begun = Instant::now();
    let (found, _) = ask(&pipeline, 40).await;
    assert!(matches!(found, Found::Have(entry) if entry.upstream == "b"));
    assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
    assert_eq!(pipeline.shared.metrics.hedges.get(), 1);
}

#[tokio::test]
async fn r18_an_early_have_not_is_no_answer_for_those_who_are_late() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let first = Origin::start(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0..40 => not_found(),
        _ => late(has(&request.target)),
    })
    .await;
    let second = Origin::start(|_| not_found()).await;
    let upstreams = [first.upstream(10, "name = 'a'"), second.upstream(20, "name = 'b'")];
    let pipeline = pipeline(policy(&upstreams, Vec::new()));
    for n in 0..40 {
        assert!(matches!(ask(&pipeline, n).await.0, Found::HaveNot));
    }
    assert!(matches!(ask(&pipeline, 40).await.0, Found::Have(entry) if entry.upstream == "a"));
    assert_eq!((pipeline.shared.metrics.hedges.get(), second.asked("narinfo")), (1, 41));
}

#[tokio::test]
async fn an_answer_that_is_not_believed_loses_to_one_that_is() {
    let lies = Origin::start(|_| answer("200 OK", "StorePath: no\n")).await;
    let honest = Origin::start(|request| late(has(&request.target))).await;
    for ranks in [(10, 10), (10, 20)] {
        let upstreams = [lies.upstream(ranks.0, "name = 'a'"), honest.upstream(ranks.1, "name = 'b'")];
        let pipeline = pipeline(policy(&upstreams, Vec::new()));
        assert!(matches!(ask(&pipeline, 0).await.0, Found::Have(entry) if entry.upstream == "b"), "{ranks:?}");
    }
}

/// One that is slow now and then and one that answers 5xx every other time, in either order.
#[tokio::test]
async fn faults_cost_at_most_a_fifth_more_questions_than_clients_have() {
    const MISSES: usize = 400;
    for flapping_first in [false, true] {
        let (slow_asked, flapping_asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slow = Origin::start(move |request| match slow_asked.fetch_add(1, Ordering::Relaxed) % 32 {
            31 => late(has(&request.target)),
            _ => has(&request.target),
        })
        .await;
        let flapping = Origin::start(move |request| match flapping_asked.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => answer("503 Service Unavailable", "no"),
            _ => has(&request.target),
        })
        .await;
        let ranks = if flapping_first { (20, 10) } else { (10, 20) };
        let more = "connections = 64\nname = ";
        let upstreams = [
            slow.upstream(ranks.0, &format!("{more}'slow'")),
            flapping.upstream(ranks.1, &format!("{more}'flapping'")),
        ];
        let pipeline = pipeline(policy(&upstreams, Vec::new()));
        for round in 0..MISSES / 16 {
            let asked = futures_util::future::join_all((0..16).map(|n| ask(&pipeline, round * 16 + n)));
            for (found, outcome) in asked.await {
                assert!(matches!(found, Found::Have(_)), "{outcome}");
            }
        }
        pipeline.policy.narinfos.finish().await;
        let (sent, hedges) = (requests(&upstreams), pipeline.shared.metrics.hedges.get());
        assert!(sent <= (MISSES + MISSES / 5) as u64, "{sent} for {MISSES} ({hedges} early), {flapping_first}");
        assert_eq!(hedges > 0, !flapping_first, "{hedges}");
    }
}

#[tokio::test]
async fn one_that_never_says_a_word_costs_the_first_questions_a_moment_and_the_others_nothing() {
    let silent = Origin::start(|_| vec![Step::Pause(Duration::from_secs(3600))]).await;
    let empty = Origin::start(|_| not_found()).await;
    let third = Origin::start(|request| has(&request.target)).await;
    let upstreams =
        [silent.upstream(10, "name = 'a'"), empty.upstream(20, "name = 'b'"), third.upstream(30, "name = 'c'")];
    let pipeline = pipeline(policy(&upstreams, Vec::new()));
    let begun = Instant::now();
    for round in 0..10 {
        let asked = futures_util::future::join_all((0..20).map(|n| ask(&pipeline, round * 20 + n)));
        for (found, outcome) in asked.await {
            assert!(matches!(found, Found::Have(entry) if entry.upstream == "c"), "{outcome}");
        }
    }
    // Less than its budget of 2 s, and less than one moment for each group.
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert!(upstreams[0].metrics().requests.get() <= 4);
    assert_eq!((empty.asked("narinfo"), third.asked("narinfo")), (200, 200));
}
