//! Fills against an origin that does what the test says: whatever comes, a reader sees exactly the bytes and a clean
//! end, or a prefix and an error.

mod failover;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::timeout;

use super::*;
use crate::metrics::Metrics;
pub(super) use crate::nix::nar::testing::file_nar;
use crate::options::Table;
use crate::store::{CHUNK, ChunkKey};
use crate::upstream::testing::{Origin, Step, answer, not_found};

/// A deadline for what should take milliseconds: a lost wake-up fails the test instead of hanging it.
pub(super) const SOON: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

pub(super) struct Fixed(pub(super) Vec<Source>);

impl Locate for Fixed {
    fn sources(&self, _again: bool) -> BoxFuture<'_, Result<Vec<Source>, Broken>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

pub(super) fn fills() -> Fills {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    Fills::new(store, 8, metrics.fill)
}

/// Bytes in which every place looks different.
fn body(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

pub(super) fn source(origin: &Origin) -> Source {
    Source { upstream: origin.upstream(10, "connections = 16\nstall_timeout = '300 ms'"), target: "/nar/x".to_owned() }
}

/// What a right narinfo says of this NAR.
pub(super) fn claim(nar: &[u8]) -> Claim {
    Claim {
        hash: HashPart::parse("n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq").unwrap(),
        name: "x".to_owned(),
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        address: None,
        basis: [0; 16],
    }
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub(super) struct Told(pub(super) Mutex<Vec<(Broken, bool)>>);

impl Judge for Told {
    fn refuted<'a>(&'a self, _: &'a Source, _: &'a Plan, broken: &'a Broken, left: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.0.lock().unwrap().push((broken.clone(), left)) })
    }
}

fn plan(whole: &[u8], size: Option<u64>, sources: &[Source]) -> Plan {
    let digest = Sha256::of(whole);
    Plan {
        digest,
        file_hash: Some(digest),
        size,
        compression: Compression::Xz,
        claim: None,
        prove: Prove::Afterwards,
        sources: sources.to_vec(),
        others: None,
        judge: Arc::new(Told::default()),
    }
}

/// What a reader got, and whether the end was clean.
pub(super) async fn read(reader: Reader, pause: Duration) -> (Vec<u8>, Result<(), Broken>) {
    let mut stream = std::pin::pin!(reader.into_stream());
    let mut got = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(broken) => return (got, Err(broken)),
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    (got, Ok(()))
}

fn nothing_runs(fills: &Fills) -> bool {
    let running = fills.lock();
    running.whole.is_empty() && running.holes.is_empty()
}

/// Waits until no fill runs any more: what was whole is then in the store.
pub(super) async fn idle(fills: &Fills) {
    while !nothing_runs(fills) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn filled(fills: &Fills, whole: &[u8], source: &Source) -> Arc<Manifest> {
    let (fill, _) = fills.start(plan(whole, Some(whole.len() as u64), std::slice::from_ref(source)));
    fill.ready().await.unwrap();
    idle(fills).await;
    fills.inner.store.manifest(fill.blob()).await.unwrap()
}

#[tokio::test]
async fn fills_that_wait_for_their_turn_are_bounded() {
    let fills = fills();
    let others = Arc::clone(&fills.inner.waiting).acquire_many_owned(4096).await.expect("nobody waits yet");
    let origin = Origin::start(|_| answer("200 OK", body(100))).await;
    let (whole, source) = (body(100), source(&origin));
    let one = || fills.start(plan(&whole, Some(100), std::slice::from_ref(&source))).0;
    let Err(broken) = one().ready().await else { panic!("it found a place") };
    assert_eq!((broken.reason, origin.asked("/nar/x")), (FillFailure::Busy, 0));
    drop(others);
    idle(&fills).await;
    one().ready().await.expect("there are places again");
    idle(&fills).await;
    assert_eq!(fills.inner.waiting.available_permits(), 4096, "who has its turn does not wait");
}

#[tokio::test]
async fn a_fill_that_finds_the_nar_stored_gives_it_to_its_readers() {
    let whole = body(CHUNK + 10);
    let served = whole.clone();
    let origin = Origin::start(move |_| answer("200 OK", served.clone())).await;
    let (fills, source) = (fills(), source(&origin));
    filled(&fills, &whole, &source).await;
    // A client that looked into the store before the manifest was there, and for a running fill after it had ended.
    let (fill, started) = fills.start(plan(&whole, Some(whole.len() as u64), std::slice::from_ref(&source)));
    assert!(started);
    fill.ready().await.unwrap();
    let reader = Reader::following(fills.clone(), fill, Arc::new(Fixed(vec![source])), None);
    let (got, end) = timeout(SOON, read(reader, Duration::ZERO)).await.expect("a reader waits for ever");
    assert!(end.is_ok() && got == whole);
    assert_eq!(origin.asked("/nar/x"), 1);
}

#[tokio::test]
async fn a_fill_that_failed_is_joined_by_nobody() {
    let origin = Origin::start(|_| not_found()).await;
    let fills = fills();
    let plan = plan(b"x", Some(1), &[source(&origin)]);
    let (first, _) = fills.start(plan.clone());
    assert_eq!(first.ready().await.unwrap_err().reason, FillFailure::Gone);
    // Its task may not have left the map yet: put it there again, as it is between the failure and the end of the task.
    fills.lock().whole.insert(first.blob(), Arc::clone(&first));
    assert!(fills.running(first.blob()).is_none());
    let (second, started) = fills.start(plan);
    assert!(started && !Arc::ptr_eq(&first, &second));
    // The end of the first one's task does not take the second one out of the map.
    drop(Registered { fills: fills.clone(), fill: first });
    assert!(fills.lock().whole.contains_key(&second.blob()));
}

#[tokio::test]
async fn a_size_that_was_told_to_clients_holds_for_every_source() {
    // Nobody planned the size. The first source names one and breaks off; the second sends another NAR's bytes, of
    // which the first chunks are as long as the size that clients were told.
    let (told, sent) = (8 * CHUNK, 12 * CHUNK);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hold = Step::Hold(Arc::clone(&gate));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {told}\r\n\r\n");
    let first = Origin::start(move |_| vec![Step::Send(head.clone().into()), hold.clone()]).await;
    let second = Origin::start(move |_| answer("200 OK", body(sent))).await;
    let fills = fills();
    let sources = [source(&first), source(&second)];
    let (fill, _) = fills.start(plan(b"something else", None, &sources));
    assert_eq!(timeout(SOON, fill.ready()).await.unwrap().unwrap().size, Some(told as u64));
    let reader = Reader::following(fills.clone(), fill, Arc::new(Fixed(Vec::new())), None);
    gate.add_permits(1);
    let (got, end) = timeout(SOON, read(reader, Duration::ZERO)).await.unwrap();
    assert!(end.is_err());
    assert!(got.len() < told, "{} of {told} bytes left unproven: to the client a whole response", got.len());
}

/// Answers the first request with `sent` bytes and falls silent, then ranges as `ranges` says, and everything else with the
/// whole.
fn silent_first(
    whole: &Bytes,
    sent: usize,
    ranges: Ranges,
) -> impl Fn(&crate::upstream::testing::Request) -> Vec<Step> + use<> {
    let (whole, asked) = (whole.clone(), std::sync::atomic::AtomicUsize::new(0));
    move |request| {
        let head = |status: &str, more: &str, len: usize| {
            Step::Send(format!("HTTP/1.1 {status}\r\n{more}Content-Length: {len}\r\n\r\n").into())
        };
        if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            let silence = Step::Hold(Arc::new(tokio::sync::Semaphore::new(0)));
            return vec![head("200 OK", "", whole.len()), Step::Send(whole.slice(..sent)), silence];
        }
        match (request.range, ranges) {
            (Some((first, None)), Ranges::Answered) => {
                let from = usize::try_from(first).unwrap();
                let range = format!("Content-Range: bytes {first}-{}/{}\r\n", whole.len() - 1, whole.len());
                vec![head("206 Partial Content", &range, whole.len() - from), Step::Send(whole.slice(from..))]
            }
            (Some(_), Ranges::Refused) => answer("416 Range Not Satisfiable", ""),
            _ => answer("200 OK", whole.clone()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Ranges {
    Answered,
    Ignored,
    Refused,
}

/// Starts a fill, and stops everything once it has `chunks` chunks; the store is what is left.
async fn stopped_at(chunks: usize, plan: Plan) -> (Store, Metrics) {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    let fills = Fills::new(store.clone(), 8, metrics.fill.clone());
    let (fill, _) = fills.start(plan);
    while fill.chunks_done() < chunks {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    timeout(SOON, fills.stop()).await.unwrap();
    (store, metrics)
}

/// Fills anew over what is left, as after a restart.
async fn again(store: &Store, metrics: &Metrics, plan: Plan) -> (Vec<u8>, Result<(), Broken>) {
    let fills = Fills::new(store.clone(), 8, metrics.fill.clone());
    let locate = Arc::new(Fixed(plan.sources.clone()));
    let (fill, _) = fills.start(plan);
    let ended =
        timeout(SOON, read(Reader::following(fills.clone(), fill, locate, None), Duration::ZERO)).await.unwrap();
    idle(&fills).await;
    ended
}

#[tokio::test]
async fn a_fill_that_was_stopped_is_gone_on_with() {
    let whole = body(20 * CHUNK + 5);
    for (ranges, resumed, requests) in [(Ranges::Answered, 1, 2), (Ranges::Ignored, 0, 2), (Ranges::Refused, 0, 3)] {
        let origin = Origin::start(silent_first(&whole, 12 * CHUNK + 7, ranges)).await;
        let patient = Source { upstream: origin.upstream(10, ""), target: "/nar/x".to_owned() };
        let plan = plan(&whole, Some(whole.len() as u64), &[patient]);
        let (store, metrics) = stopped_at(12, plan.clone()).await;
        let (got, end) = again(&store, &metrics, plan.clone()).await;
        assert!(end.is_ok() && got == whole, "{ranges:?}");
        assert_eq!(metrics.fill.resumed.get(), resumed, "{ranges:?}");
        assert_eq!(origin.asked("/nar/x"), requests, "{ranges:?}");
        assert!(store.entry(partial::key(plan.blob())).await.is_none(), "the note has served");
    }
}

#[tokio::test]
async fn what_a_stopped_fill_left_wrong_is_forgotten() {
    let whole = body(20 * CHUNK + 5);
    let mut wrong = whole.to_vec();
    wrong[CHUNK + 3] ^= 1;
    let liar = Origin::start(silent_first(&wrong.into(), 12 * CHUNK + 7, Ranges::Answered)).await;
    let served = whole.clone();
    let honest = Origin::start(move |request| match request.range {
        None => answer("200 OK", served.clone()),
        Some((first, _)) => {
            let from = usize::try_from(first).unwrap();
            let range = format!("Content-Range: bytes {first}-{}/{}", served.len() - 1, served.len());
            let head =
                format!("HTTP/1.1 206 Partial Content\r\n{range}\r\nContent-Length: {}\r\n\r\n", served.len() - from);
            vec![Step::Send(head.into()), Step::Send(served.slice(from..))]
        }
    })
    .await;
    let plan_for = |origin: &Origin| {
        let source = Source { upstream: origin.upstream(10, ""), target: "/nar/x".to_owned() };
        plan(&whole, Some(whole.len() as u64), &[source])
    };
    let (store, metrics) = stopped_at(12, plan_for(&liar)).await;
    let plan = plan_for(&honest);
    let (got, end) = again(&store, &metrics, plan.clone()).await;
    assert!(end.is_ok() && got == whole, "the rest did not fit, and nothing had left: all of it from one upstream");
    assert_eq!((metrics.fill.resumed.get(), honest.ranges()), (1, vec![Some(12 * CHUNK as u64), None]));
    assert!(store.entry(partial::key(plan.blob())).await.is_none(), "forgotten");
}

#[tokio::test]
async fn a_chunk_that_came_while_the_client_was_busy_is_not_asked_for_again() {
    let whole = body(4 * CHUNK);
    let served = whole.clone();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hold = Step::Hold(Arc::clone(&gate));
    let origin = Origin::start(move |request| match request.range {
        None => answer("200 OK", served.clone()),
        // The rest of the hole comes only when the reader has the first chunk and looks for the next.
        Some((first, last)) => {
            let (first, last) = (usize::try_from(first).unwrap(), usize::try_from(last.unwrap()).unwrap());
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\nContent-Length: {}\r\n\r\n",
                served.len(),
                last - first + 1
            );
            let (now, later) = (served.slice(first..first + CHUNK), served.slice(first + CHUNK..=last));
            vec![Step::Send(head.into()), Step::Send(now), hold.clone(), Step::Send(later)]
        }
    })
    .await;
    let (fills, source) = (fills(), source(&origin));
    let manifest = filled(&fills, &whole, &source).await;
    let blob = manifest.blob;
    for index in 0..4 {
        fills.inner.store.remove_chunk(ChunkKey { blob, index });
    }
    let mut reader = Reader::stored(fills.clone(), blob, manifest, Arc::new(Fixed(vec![source])), None);
    let mut got = timeout(SOON, reader.next()).await.unwrap().unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.add_permits(1);
    timeout(SOON, idle(&fills)).await.unwrap();
    while let Some(bytes) = timeout(SOON, reader.next()).await.unwrap().unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert!(got == whole);
    assert_eq!(origin.asked("/nar/x"), 2, "one fill, one hole");
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
    Close,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Closes after so many bytes.
    Cut(Index),
    /// Falls silent after so many bytes, for longer than the stall limit.
    Silent(Index),
    /// Sends another byte in this place.
    Wrong(Index),
    /// Sends more than there is.
    Longer(usize),
}

#[derive(Debug, Clone)]
struct Script {
    size: usize,
    framing: Framing,
    fault: Fault,
    frames: Vec<usize>,
    pause_every: usize,
    size_planned: bool,
    readers: Vec<Asking>,
    /// How ranges are answered: as asked, or with everything.
    ranges: bool,
    holes: Vec<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    after: u64,
    pause: u64,
    range: Option<(Index, Index)>,
}

impl Asking {
    fn range(&self, size: u64) -> Option<Range<u64>> {
        let (a, b) = self.range?;
        let size = usize::try_from(size).unwrap();
        let (a, b) = (a.index(size) as u64, b.index(size) as u64);
        Some(a.min(b)..a.max(b) + 1)
    }
}

fn sizes() -> impl Strategy<Value = usize> {
    let near = |at: usize| (at.max(3) - 3)..(at + 4);
    prop_oneof![
        near(3),
        near(64 * 1024),
        (1usize..6).prop_flat_map(move |n| near(n * CHUNK)),
        near(MIB),
        near(MIB + 64 * 1024),
        near(12 * CHUNK),
        1..3 * MIB,
    ]
    .prop_map(|size| size.max(1))
}

prop_compose! {
    fn scripts()(
        size in sizes(),
        framing in prop_oneof![Just(Framing::Length), Just(Framing::Chunked), Just(Framing::Close)],
        fault in prop_oneof![
            3 => Just(Fault::None),
            1 => any::<Index>().prop_map(Fault::Cut),
            1 => any::<Index>().prop_map(Fault::Silent),
            1 => any::<Index>().prop_map(Fault::Wrong),
            1 => (1..2 * CHUNK).prop_map(Fault::Longer),
        ],
        frames in prop::collection::vec(prop_oneof![1usize..5000, 1usize..200_000, Just(4096), Just(CHUNK)], 1..5),
        pause_every in 5usize..40,
        size_planned: bool,
        readers in prop::collection::vec((0u64..30, prop_oneof![Just(0), 0u64..4], any::<Option<(Index, Index)>>()), 1..5),
        ranges: bool,
        holes in prop::collection::vec(any::<bool>(), 14),
    ) -> Script {
        let readers = readers.into_iter().map(|(after, pause, range)| Asking { after, pause, range }).collect();
        Script { size, framing, fault, frames, pause_every, size_planned, readers, ranges, holes }
    }
}

impl Script {
    /// The answer to a request without a range.
    fn steps(&self, whole: &Bytes) -> Vec<Step> {
        let mut sent = whole.to_vec();
        let mut silent = false;
        match self.fault {
            Fault::None => {}
            Fault::Cut(at) => sent.truncate(at.index(whole.len())),
            Fault::Silent(at) => {
                sent.truncate(at.index(whole.len()));
                silent = true;
            }
            Fault::Wrong(at) => sent[at.index(whole.len())] ^= 1,
            Fault::Longer(by) => sent.extend_from_slice(&body(by)),
        }
        let sent = Bytes::from(sent);
        let promised = if matches!(self.fault, Fault::Longer(_)) { sent.len() } else { whole.len() };
        let mut steps = vec![Step::Send(match self.framing {
            Framing::Length => format!("HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n").into(),
            Framing::Chunked => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Framing::Close => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
        })];
        let mut left = sent;
        for (n, frame) in self.frames.iter().cycle().enumerate() {
            if left.is_empty() {
                break;
            }
            // A body of tiny frames would take for ever to send.
            let piece = left.split_to((*frame).max(whole.len() / 500).min(left.len()));
            if n % self.pause_every == 0 {
                steps.push(Step::Pause(Duration::from_millis(1)));
            }
            match self.framing {
                Framing::Chunked => {
                    steps.push(Step::Send(
                        [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat().into(),
                    ));
                }
                Framing::Length | Framing::Close => steps.push(Step::Send(piece)),
            }
        }
        if silent {
            steps.push(Step::Pause(Duration::from_millis(800)));
        } else if matches!(
            (self.framing, self.fault),
            (Framing::Chunked, Fault::None | Fault::Wrong(_) | Fault::Longer(_))
        ) {
            steps.push(Step::Send("0\r\n\r\n".into()));
        }
        steps
    }

    fn longer(&self) -> usize {
        if let Fault::Longer(by) = self.fault { by } else { 0 }
    }

    /// The answer to a range.
    fn part(&self, whole: &Bytes, first: u64, last: Option<u64>) -> Vec<Step> {
        if !self.ranges {
            return answer("200 OK", whole.clone());
        }
        let size = whole.len();
        let first = usize::try_from(first).unwrap();
        let last = last.map_or(size - 1, |last| usize::try_from(last).unwrap().min(size - 1));
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}\r\nContent-Length: {}\r\n\r\n",
            last - first + 1
        );
        vec![Step::Send(head.into()), Step::Send(whole.slice(first..=last))]
    }

    async fn run(self) {
        let whole = body(self.size);
        let (script, served) = (self.clone(), whole.clone());
        let origin = Origin::start(move |request| match request.range {
            // A fault holds for whoever comes again and asks for the rest, too: it gets the same from the start.
            Some((first, last)) if matches!(script.fault, Fault::None) => script.part(&served, first, last),
            _ => script.steps(&served),
        })
        .await;
        let (fills, source) = (fills(), source(&origin));
        let blob = blob_of(&Sha256::of(&whole), Compression::Xz);
        let planned = plan(&whole, self.size_planned.then_some(whole.len() as u64), std::slice::from_ref(&source));
        let locate: Arc<dyn Locate> = Arc::new(Fixed(vec![source]));

        let readers: Vec<_> = self
            .readers
            .iter()
            .map(|asking| {
                let (asking, fills, planned, locate) = (*asking, fills.clone(), planned.clone(), Arc::clone(&locate));
                let (whole, sound) = (whole.clone(), matches!(self.fault, Fault::None));
                let (longer, size_open) = (self.longer(), !self.size_planned);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(asking.after)).await;
                    let (fill, _) = fills.start(planned);
                    let ready = match fill.ready().await {
                        Ok(ready) => ready,
                        Err(broken) => return assert!(!sound, "{broken}"),
                    };
                    let range =
                        ready.size.filter(|size| *size <= whole.len() as u64).and_then(|size| asking.range(size));
                    let (start, end) = range
                        .clone()
                        .map_or((0, whole.len()), |r| (r.start.try_into().unwrap(), r.end.try_into().unwrap()));
                    let reader = Reader::following(fills, fill, locate, range);
                    let (got, ended) = read(reader, Duration::from_millis(asking.pause)).await;
                    assert!(ended.is_ok() == sound, "{ended:?} after {} of {} bytes", got.len(), end - start);
                    if ended.is_ok() {
                        assert!(got == whole[start..end], "a clean end and other bytes");
                    } else {
                        // Where nobody told another size, the response is as long as what the upstream sends.
                        let most = if size_open { end - start + longer } else { end - start };
                        assert!(got.len() < most, "a whole response before the proof: {} of {most}", got.len());
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        idle(&fills).await;

        let manifest = fills.inner.store.manifest(blob).await;
        assert_eq!(manifest.is_some(), matches!(self.fault, Fault::None));
        let Some(manifest) = manifest else { return };
        assert!((0..manifest.chunks()).all(|index| fills.inner.store.has_chunk(ChunkKey { blob, index })));
        for index in (0..manifest.chunks()).filter(|index| self.holes[*index as usize]) {
            fills.inner.store.remove_chunk(ChunkKey { blob, index });
        }
        let script = Self { fault: Fault::None, ..self };
        let readers: Vec<_> = script
            .readers
            .iter()
            .map(|asking| {
                let (asking, fills, manifest, locate) =
                    (*asking, fills.clone(), Arc::clone(&manifest), Arc::clone(&locate));
                let whole = whole.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(asking.after)).await;
                    let range = asking.range(manifest.size).unwrap_or(0..manifest.size);
                    let (start, end) = (range.start.try_into().unwrap(), range.end.try_into().unwrap());
                    let reader = Reader::stored(fills, blob, manifest, locate, Some(range));
                    let (got, ended) = read(reader, Duration::from_millis(asking.pause)).await;
                    assert!(ended.is_ok() && got == whole[start..end], "{ended:?} after {}", got.len());
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        fills.stop().await;
        assert!(nothing_runs(&fills));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 8, ..ProptestConfig::default() })]

    /// P1 of safety.md.
    #[test]
    fn whatever_an_upstream_does_readers_see_the_bytes_or_a_prefix_and_an_error(script in scripts()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { timeout(SOON, script.run()).await }).expect("somebody waits for ever");
    }
}

#[tokio::test]
async fn only_what_is_unpacked_while_it_comes_takes_a_turn_at_its_upstream() {
    let origin = Origin::start(|_| not_found()).await;
    let upstream = source(&origin).upstream;
    let takes = async |size: u64, nar_size: u64, prove: Prove| {
        let claim = Some(Arc::new(Claim { nar_size, ..claim(b"x") }));
        verify::turn(&Plan { claim, prove, ..plan(b"x", Some(size), &[]) }, &upstream).await.is_some()
    };
    let (small, large) = (state::HOLD_WHOLE, state::HOLD_WHOLE + 1);
    let (quick, slow) = (verify::QUICK, verify::QUICK + 1);
    // A small body with a small NAR is gathered; so is none with a large one, or that is not small itself.
    assert!(!takes(small, quick, Prove::First).await);
    assert!(takes(small, slow, Prove::First).await);
    assert!(takes(large, quick, Prove::First).await);
    for prove in [Prove::Afterwards, Prove::Never] {
        for (size, nar_size) in [(small, quick), (small, slow), (large, quick)] {
            assert!(!takes(size, nar_size, prove).await, "{prove:?} {size} {nar_size}");
        }
    }
    assert!(verify::turn(&plan(b"x", Some(large), &[]), &upstream).await.is_none(), "nothing is claimed");
}
