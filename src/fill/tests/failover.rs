//! Upstreams that fail in the middle of a NAR: readers notice nothing but a pause, or an error; nobody's wrong byte is the
//! end of an honest upstream's NAR.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::*;
use super::{Fixed, SOON, Told, body, claim, file_nar, idle, plan, read, source};
use crate::metrics::{Label as _, Left, Metrics, Refusal};
use crate::options::Table;
use crate::store::CHUNK;
use crate::upstream::testing::{Origin, Request, Step, answer};

const MIB: usize = 1 << 20;

/// What an upstream does at a byte of the whole instead of sending it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Close,
    Reset,
    Stall,
    Drip,
}

impl Fault {
    /// `rest` is what would come.
    fn steps(self, rest: &Bytes) -> Vec<Step> {
        match self {
            Self::Close => Vec::new(),
            Self::Reset => vec![Step::Reset],
            Self::Stall => vec![Step::Pause(SOON)],
            Self::Drip => (0..rest.len().min(200))
                .flat_map(|n| [Step::Send(rest.slice(n..=n)), Step::Pause(Duration::from_millis(20))])
                .collect(),
        }
    }

    /// As what it counts. On a busy machine any of them may be a silence first.
    fn lefts(self) -> &'static [Left] {
        match self {
            Self::Close | Self::Reset => &[Left::Cut, Left::Stalled],
            Self::Stall => &[Left::Stalled],
            Self::Drip => &[Left::Slow, Left::Stalled],
        }
    }
}

/// Answers with `whole`: the part that is asked for if it knows `ranges`, with `more` in the head. At `fault` it breaks.
fn serves(whole: &Bytes, request: &Request, ranges: bool, more: &str, fault: Option<(usize, Fault)>) -> Vec<Step> {
    let (size, end) = (whole.len(), fault.map_or(whole.len(), |(at, _)| at));
    let from = request.range.filter(|_| ranges).map(|(first, _)| usize::try_from(first).unwrap());
    let head = match from {
        Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}", size - 1),
        None => "200 OK".to_owned(),
    };
    let from = from.unwrap_or(0);
    let head = format!("HTTP/1.1 {head}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", size - from);
    let mut steps = vec![Step::Send(head.into()), Step::Send(whole.slice(from..end.max(from)))];
    steps.extend(fault.map(|(_, fault)| fault.steps(&whole.slice(end.max(from)..))).unwrap_or_default());
    steps
}

async fn honest(whole: &Bytes, ranges: bool) -> Origin {
    let whole = whole.clone();
    Origin::start(move |request| serves(&whole, request, ranges, "", None)).await
}

/// Breaks at this byte, whoever asks from wherever.
async fn broken(whole: &Bytes, at: usize, fault: Fault) -> Origin {
    let whole = whole.clone();
    Origin::start(move |request| serves(&whole, request, true, "", Some((at, fault)))).await
}

/// Fills with metrics of their own.
fn fills() -> (Fills, Metrics) {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    (Fills::new(store, 8, metrics.fill.clone()), metrics)
}

/// One client's download by this plan, and whether it ended cleanly; then the fill has ended too.
async fn download(fills: &Fills, plan: &Plan) -> (Vec<u8>, Result<(), Broken>) {
    let (fill, _) = fills.start(plan.clone());
    let ended = match fill.ready().await {
        Ok(_) => read(Reader::following(fills.clone(), fill, Arc::new(Fixed(Vec::new())), None), Duration::ZERO).await,
        Err(broken) => (Vec::new(), Err(broken)),
    };
    idle(fills).await;
    ended
}

async fn soon<T>(step: impl Future<Output = T>) -> T {
    timeout(2 * SOON, step).await.expect("somebody waits for ever")
}

fn received(sources: &[Source]) -> u64 {
    sources.iter().map(|source| source.upstream.metrics().bytes.get()).sum()
}

fn failovers(metrics: &Metrics) -> u64 {
    Left::ALL.iter().map(|left| metrics.fill.failovers.of(*left).get()).sum()
}

/// Knows further sources, and counts how often it is asked.
#[derive(Debug, Default)]
struct Further(Vec<Source>, AtomicUsize);

impl Others for Further {
    fn of<'a>(&'a self, _: &'a Plan) -> BoxFuture<'a, Vec<Source>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { self.0.clone() })
    }
}

/// Who goes on when the first upstream failed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Second {
    Ranges,
    NoRanges,
    TheSame,
}

#[derive(Debug, Clone)]
struct Cut {
    size: usize,
    at: usize,
    fault: Fault,
    second: Second,
    planned: bool,
}

fn cuts() -> impl Strategy<Value = Cut> {
    let size = prop_oneof![1 => 1..MIB, 3 => MIB..4 * MIB];
    let fault =
        prop_oneof![3 => Just(Fault::Close), 3 => Just(Fault::Reset), 1 => Just(Fault::Stall), 1 => Just(Fault::Drip)];
    let second = prop_oneof![Just(Second::Ranges), Just(Second::NoRanges), Just(Second::TheSame)];
    (size, any::<prop::sample::Index>(), fault, second, prop::bool::weighted(0.8))
        .prop_map(|(size, at, fault, second, planned)| Cut { size, at: at.index(size), fault, second, planned })
}

impl Cut {
    /// Whether the download was complete. Panics when a wrong byte ended cleanly, or the counters are wrong.
    async fn run(self) -> bool {
        let (whole, asked) = (body(self.size), AtomicUsize::new(0));
        let (served, cut) = (whole.clone(), self.clone());
        let first = Origin::start(move |request| {
            let mended = asked.fetch_add(1, Ordering::Relaxed) > 0 && cut.second == Second::TheSame;
            serves(&served, request, true, "", (!mended).then_some((cut.at, cut.fault)))
        })
        .await;
        let mut sources = vec![source(&first)];
        if self.second != Second::TheSame {
            sources.push(source(&honest(&whole, self.second == Second::Ranges).await));
        }
        let (fills, metrics) = fills();
        let size = self.planned.then_some(self.size as u64);
        let (got, end) = soon(download(&fills, &plan(&whole, size, &sources))).await;
        let held = self.size <= MIB;
        let skipped = metrics.fill.skipped.get();
        assert!(got.len() <= whole.len() && got == whole[..got.len()], "{self:?}");
        assert!(received(&sources) <= 2 * self.size as u64 + (4 << 20), "{self:?}");
        match end {
            Ok(()) => {
                assert!(got == whole, "a clean end and other bytes: {self:?}");
                assert!(failovers(&metrics) >= 1, "{self:?}");
                let counted = self.fault.lefts().iter().any(|left| metrics.fill.failovers.of(*left).get() > 0);
                assert!(counted || self.at + 200 > self.size, "{self:?}");
                assert!(skipped == 0 || (self.second == Second::NoRanges && !held), "{self:?}");
                assert!(skipped > 0 || self.second != Second::NoRanges || held || self.at < CHUNK, "{self:?}");
                true
            }
            Err(broken) => {
                assert!(got.len() < whole.len(), "all bytes, then an error: {self:?}");
                eprintln!("{self:?}: {broken}");
                false
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_random_cuts_cost_nobody_a_download() {
    let mut runner = TestRunner::deterministic();
    let mut cases: Vec<Cut> = (0..500).map(|_| cuts().new_tree(&mut runner).unwrap().current()).collect();
    let (mut running, mut complete) = (JoinSet::new(), 0);
    for _ in 0..16 {
        running.spawn(cases.pop().unwrap().run());
    }
    while let Some(ended) = running.join_next().await {
        complete += u32::from(ended.unwrap());
        if let Some(case) = cases.pop() {
            running.spawn(case.run());
        }
    }
    eprintln!("{complete} of 500 complete");
    assert!(complete >= 495, "{complete} of 500");
}

#[tokio::test]
async fn three_clients_of_one_fill_notice_nothing() {
    let (whole, at) = (body(5 * MIB), 3 * MIB + 17);
    let gate = Arc::new(Semaphore::new(0));
    let (served, hold) = (whole.clone(), Step::Hold(Arc::clone(&gate)));
    let first = Origin::start(move |request| {
        let mut steps = serves(&served, request, true, "", Some((at, Fault::Close)));
        steps.push(hold.clone());
        steps
    })
    .await;
    let second = honest(&whole, true).await;
    let (fills, metrics) = fills();
    let further = Arc::new(Further(vec![source(&second)], AtomicUsize::new(0)));
    let others: Option<Arc<dyn Others>> = Some(Arc::clone(&further) as Arc<dyn Others>);
    let patient = Source { upstream: first.upstream(10, ""), target: "/nar/x".to_owned() };
    let plan = Plan { others, ..plan(&whole, Some(whole.len() as u64), &[patient]) };
    let (fill, _) = fills.start(plan);
    let readers: Vec<_> = (0..3)
        .map(|n| {
            let (fills, fill) = (fills.clone(), Arc::clone(&fill));
            let reader = Reader::following(fills, fill, Arc::new(Fixed(Vec::new())), None);
            tokio::spawn(read(reader, Duration::from_millis(n)))
        })
        .collect();
    let come = async {
        while fill.received() < at as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(come).await;
    assert_eq!(further.1.load(Ordering::Relaxed), 0, "nobody else is asked for what comes");
    gate.add_permits(1);
    for reader in readers {
        let (got, end) = soon(reader).await.unwrap();
        assert!(end.is_ok() && got == whole);
    }
    assert_eq!((first.ranges(), second.ranges()), (vec![None], vec![Some(at as u64)]));
    assert_eq!(further.1.load(Ordering::Relaxed), 1);
    assert_eq!((failovers(&metrics), metrics.fill.skipped.get(), metrics.fill.aborted.get()), (1, 0, 0));
}

#[tokio::test]
async fn what_came_is_kept_when_nobody_is_left_and_gone_on_with_by_range() {
    let (whole, at) = (body(5 * MIB), 3 * MIB + 17);
    let kept = (at / CHUNK * CHUNK) as u64;
    let (first, second) = (broken(&whole, at, Fault::Close).await, honest(&whole, true).await);
    let (fills, metrics) = fills();
    let size = Some(whole.len() as u64);
    let (got, end) = soon(download(&fills, &plan(&whole, size, &[source(&first)]))).await;
    assert_eq!(end.unwrap_err().reason, FillFailure::Cut);
    assert!(got == whole[..got.len()] && got.len() <= at);
    assert_eq!(first.ranges(), vec![None, Some(at as u64), Some(at as u64)], "twice more, and not for ever");
    let sources = [source(&second)];
    let (got, end) = soon(download(&fills, &plan(&whole, size, &sources))).await;
    assert!(end.is_ok() && got == whole);
    assert_eq!((second.ranges(), received(&sources)), (vec![Some(kept)], whole.len() as u64 - kept));
    assert_eq!(metrics.fill.resumed.get(), 1);
}

/// A liar's wrong byte before its cut, then an honest upstream.
#[tokio::test]
async fn a_liar_in_front_of_an_honest_upstream() {
    for (size, ranges) in [(700_000, true), (700_000, false), (5 * MIB, true), (5 * MIB, false)] {
        let (whole, at) = (body(size), size * 3 / 5);
        let mut wrong = whole.to_vec();
        wrong[size / 3] ^= 1;
        let (liar, second) = (broken(&wrong.into(), at, Fault::Close).await, honest(&whole, ranges).await);
        let (fills, metrics) = fills();
        let told = Arc::new(Told::default());
        let others: Option<Arc<dyn Others>> = Some(Arc::new(Further(vec![source(&second)], AtomicUsize::new(0))));
        let plan = plan(&whole, Some(size as u64), &[source(&liar)]);
        let plan = Plan { others, judge: Arc::clone(&told) as Arc<dyn Judge>, ..plan };
        let (got, end) = soon(download(&fills, &plan)).await;
        if size <= MIB {
            assert!(end.is_ok() && got == whole, "nothing had left: {ranges}");
        } else {
            assert_eq!(end.unwrap_err().reason, FillFailure::Spliced, "{ranges}");
            assert!(got.len() < size, "{ranges}");
            assert!(fills.inner.store.entry(partial::key(plan.blob())).await.is_none(), "{ranges}");
            let before = liar.asked("");
            let (got, end) = soon(download(&fills, &plan)).await;
            assert!(end.is_ok() && got == whole, "the next one is right: {ranges}");
            assert_eq!(liar.asked(""), before, "those first that did not break off");
        }
        assert!(told.0.lock().unwrap().is_empty(), "nobody knows whose byte it was");
        assert_eq!(metrics.fill.completed.get(), 1);
        assert!(fills.inner.contested.of(plan.blob()).is_none(), "settled");
    }
}

#[tokio::test]
async fn what_a_failed_upstream_left_wrong_costs_no_download() {
    let (whole, at) = (body(5 * MIB), 3 * MIB);
    let mut wrong = whole.to_vec();
    wrong[100] ^= 1;
    let (liar, second) = (broken(&wrong.into(), at, Fault::Reset).await, honest(&whole, true).await);
    let (fills, _) = fills();
    let size = Some(whole.len() as u64);
    soon(download(&fills, &plan(&whole, size, &[source(&liar)]))).await.1.unwrap_err();
    let (got, end) = soon(download(&fills, &plan(&whole, size, &[source(&second)]))).await;
    assert!(end.is_ok() && got == whole);
    assert_eq!(second.ranges().last(), Some(&None), "once more, from one upstream");
}

#[tokio::test]
async fn a_liar_that_sends_all_of_it_is_blamed_and_the_honest_one_is_not() {
    let whole = body(700_000);
    let mut wrong = whole.to_vec();
    wrong[5] ^= 1;
    // The honest one breaks off, the liar gives the end, then all of it.
    let (first, liar) = (broken(&whole, 300_000, Fault::Close).await, honest(&wrong.into(), true).await);
    let third = honest(&whole, true).await;
    let told = Arc::new(Told::default());
    let plan = plan(&whole, Some(700_000), &[source(&first), source(&liar), source(&third)]);
    let plan = Plan { judge: Arc::clone(&told) as Arc<dyn Judge>, ..plan };
    let mut wrong_end = whole.to_vec();
    wrong_end[699_999] ^= 1;
    let (got, end) = soon(download(&fills().0, &plan)).await;
    assert!(end.is_ok() && got == whole);
    assert!(told.0.lock().unwrap().is_empty(), "its part was right");
    let liar = honest(&wrong_end.into(), true).await;
    let plan = Plan { sources: vec![source(&first), source(&liar), source(&third)], ..plan };
    let (got, end) = soon(download(&fills().0, &plan)).await;
    assert!(end.is_ok() && got == whole);
    let told = told.0.lock().unwrap();
    let [(broken, false)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(broken.refusal, Some(Refusal::WrongFileHash));
    assert!(broken.text.contains(&**plan.sources[1].upstream.name()), "{broken}");
}

#[tokio::test]
async fn another_total_and_another_part_are_not_believed() {
    let (whole, at) = (body(4 * MIB), 2 * MIB);
    let first = broken(&whole, at, Fault::Close).await;
    let longer = honest(&body(4 * MIB + 1), true).await;
    let served = whole.clone();
    let elsewhere = Origin::start(move |request| match request.range {
        Some((first, _)) => {
            let asked = Request { range: Some((first - 1, None)), ..request.clone() };
            serves(&served, &asked, true, "", None)
        }
        None => serves(&served, request, true, "", None),
    })
    .await;
    let told = Arc::new(Told::default());
    let sources = [source(&first), source(&longer), source(&elsewhere)];
    let plan = plan(&whole, Some(whole.len() as u64), &sources);
    let plan = Plan { judge: Arc::clone(&told) as Arc<dyn Judge>, ..plan };
    let (fills, metrics) = fills();
    let (got, end) = soon(download(&fills, &plan)).await;
    assert!(end.is_ok() && got == whole);
    let told = told.0.lock().unwrap();
    let [(broken, false)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(broken.refusal, Some(Refusal::WrongSize));
    assert_eq!(elsewhere.ranges(), vec![Some(at as u64), None], "asked for all of it, and what came was skipped");
    assert_eq!((failovers(&metrics), metrics.fill.skipped.get()), (1, at as u64));
}

#[tokio::test]
async fn a_nar_is_not_fetched_again_and_again() {
    // Knows no ranges, and breaks off just before the end.
    let (whole, at) = (body(10 * MIB), 10 * MIB - 70_000);
    let served = whole.clone();
    let origin = Origin::start(move |request| serves(&served, request, false, "", Some((at, Fault::Close)))).await;
    let sources = [source(&origin)];
    let (fills, _) = fills();
    let (got, end) = soon(download(&fills, &plan(&whole, Some(whole.len() as u64), &sources))).await;
    assert!(end.is_err() && got.len() < whole.len());
    assert!(received(&sources) <= 24 * MIB as u64, "{}", received(&sources));
}

#[tokio::test]
async fn bytes_that_no_file_hash_binds_are_gone_on_with_only_if_they_are_the_same() {
    for (size, etags, complete) in [
        (3 * MIB, ["ETag: \"a\"\r\n", "ETag: \"a\"\r\n"], true),
        (3 * MIB, ["ETag: \"a\"\r\n", "ETag: \"b\"\r\n"], false),
        (3 * MIB, ["ETag: W/\"a\"\r\n", "ETag: W/\"a\"\r\n"], false),
        (3 * MIB, ["", ""], false),
        (300_000, ["", ""], true),
        (300_000, ["ETag: \"a\"\r\n", "ETag: \"b\"\r\n"], true),
    ] {
        let nar = file_nar(&body(size));
        let compress = |level| Bytes::from(zstd::encode_all(&nar[..], level).unwrap());
        // Compressed anew each time, unless it is said to be the same.
        let same = etags[0] == etags[1] && etags[0].contains(" \"");
        let bodies = [compress(1), compress(if same { 1 } else { 9 })];
        let asked = AtomicUsize::new(0);
        let origin = Origin::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => serves(&bodies[0], request, true, etags[0], Some((bodies[0].len() / 2, Fault::Close))),
            _ => serves(&bodies[1], request, true, etags[1], None),
        })
        .await;
        let claim = Arc::new(claim(&nar));
        let plan = plan(&nar, None, &[source(&origin)]);
        let plan = Plan { file_hash: None, claim: Some(claim), compression: Compression::Zstd, ..plan };
        let (fills, metrics) = fills();
        let (_, end) = soon(download(&fills, &plan)).await;
        assert_eq!(end.is_ok(), complete, "{size} {etags:?}: {end:?}");
        assert!(fills.inner.store.entry(partial::key(plan.blob())).await.is_none());
        assert!(metrics.fill.completed.get() == u64::from(complete));
    }
}

#[tokio::test]
async fn who_has_it_not_or_cannot_be_asked_in_the_middle_is_passed_over() {
    let (whole, at) = (body(3 * MIB), MIB + 5);
    let first = broken(&whole, at, Fault::Close).await;
    let gone = Origin::start(|_| crate::upstream::testing::not_found()).await;
    let sick = Origin::start(|_| answer("500 Internal Server Error", "")).await;
    let second = honest(&whole, true).await;
    let sources = [source(&first), source(&gone), source(&sick), source(&second)];
    let (fills, metrics) = fills();
    let (got, end) = soon(download(&fills, &plan(&whole, Some(whole.len() as u64), &sources))).await;
    assert!(end.is_ok() && got == whole);
    assert_eq!(metrics.fill.failovers.of(Left::Cut).get(), 1);
    // Without the last one it is an unknown, never a "not there".
    let (fills, _) = self::fills();
    let (_, end) = soon(download(&fills, &plan(&whole, Some(whole.len() as u64), &sources[..2]))).await;
    assert_eq!(end.unwrap_err().reason, FillFailure::Cut);
}
