use std::io::Write as _;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::super::tests::{SOON, claim, file_nar};
use super::*;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::ContentAddress;

fn refusal(found: Result<Inside, Disproof>) -> Option<Refusal> {
    found.err().map(|disproof| disproof.reason.expect("a verdict"))
}

/// A NAR, and bodies that hold it.
fn bodies() -> (Vec<u8>, Vec<(Compression, Vec<u8>)>) {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compressed");
    let file = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let nar = file("plain.nar");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&nar).unwrap();
    let bodies = vec![
        (Compression::None, nar.clone()),
        (Compression::Gzip, gzip.finish().unwrap()),
        (Compression::Zstd, zstd::encode_all(&nar[..], 1).unwrap()),
        (Compression::Br, file("plain.br")),
        (Compression::Lz4, file("plain.lz4")),
        (Compression::Lzip, file("plain.lzip")),
    ];
    (nar, bodies)
}

#[test]
fn r7_what_is_inside_is_held_against_the_claim_in_every_compression() {
    let (nar, bodies) = bodies();
    let right = claim(&nar);
    let size = right.nar_size;
    for (compression, body) in &bodies {
        let of = |claim: &Claim| prove(*compression, claim, &body[..], || false);
        let inside = Inside { nar_hash: *right.nar_hash.as_bytes(), nar_size: size, addressed: false };
        assert_eq!(of(&right).unwrap(), inside, "{compression}");
        let other = Sha256::of(b"other");
        for (changed, expected) in [
            (Claim { nar_size: size - 1, ..right.clone() }, Refusal::WrongNarSize),
            (Claim { nar_size: size + 1, ..right.clone() }, Refusal::WrongNarSize),
            (Claim { nar_size: 0, ..right.clone() }, Refusal::WrongNarSize),
            (Claim { nar_size: u64::MAX, ..right.clone() }, Refusal::WrongNarSize),
            (Claim { nar_hash: other, ..right.clone() }, Refusal::WrongNarHash),
            (Claim { nar_hash: other, nar_size: size + 1, ..right.clone() }, Refusal::WrongNarHash),
        ] {
            assert_eq!(refusal(of(&changed)), Some(expected), "{compression} {changed:?}");
        }
        let cut = refusal(prove(*compression, &right, &body[..body.len() - 1], || false));
        let longer = refusal(prove(*compression, &right, &[&body[..], b"x"].concat()[..], || false));
        let nothing = refusal(prove(*compression, &right, &b""[..], || false));
        let expected = match compression {
            Compression::None => [Refusal::WrongNarHash, Refusal::WrongNarSize, Refusal::WrongNarHash],
            _ => [Refusal::Undecodable; 3],
        };
        assert_eq!([cut, longer, nothing], expected.map(Some), "{compression}");
    }
    assert_eq!(refusal(prove(Compression::Lrzip, &right, &nar[..], || false)), Some(Refusal::Undecodable));
}

#[test]
fn what_has_the_hash_and_is_no_nar_is_refused() {
    let nar = file_nar(b"contents");
    for bad in
        [&b""[..], b"x", &nar[..nar.len() - 8], &[&nar[..], &[0; 8]].concat(), b"\x0d\0\0\0\0\0\0\0nix-archive-2\0\0\0"]
    {
        assert_eq!(refusal(prove(Compression::None, &claim(bad), bad, || false)), Some(Refusal::BadNar), "{bad:?}");
    }
}

#[test]
fn what_is_no_nar_is_told_at_once_whatever_its_hash_is() {
    let found = prove(Compression::None, &claim(&file_nar(b"contents")), &[b'x'; 64][..], || false);
    assert_eq!(refusal(found), Some(Refusal::BadNar));
}

#[test]
fn r3_a_content_address_is_held_against_the_content() {
    let nar = file_nar(b"contents");
    let with = |address: &str| Claim { address: Some((ContentAddress::parse(address).unwrap(), false)), ..claim(&nar) };
    let addressed =
        |address: &str| prove(Compression::None, &with(address), &nar[..], || false).map(|inside| inside.addressed);
    let (whole, flat) = (Sha256::of(&nar), Sha256::of(b"contents"));
    assert!(addressed(&format!("fixed:r:{whole}")).unwrap());
    assert!(addressed(&format!("fixed:{flat}")).unwrap());
    assert!(!addressed(&format!("fixed:md5:{}", "a".repeat(32))).unwrap(), "not held against it");
    for wrong in [format!("fixed:r:{flat}"), format!("fixed:{whole}"), format!("text:{whole}")] {
        assert_eq!(addressed(&wrong).unwrap_err().reason, Some(Refusal::WrongAddress), "{wrong}");
    }
}

/// Larger than what is decoded at a time.
fn large() -> Vec<u8> {
    file_nar(&vec![7; 3 * PIECE])
}

async fn proven(
    prover: &Prover,
    pace: Pace,
    claim: Claim,
    pieces: impl Iterator<Item = Bytes>,
) -> Result<Inside, Disproof> {
    let mut proving = prover.begin(Compression::None, &Arc::new(claim), pace).await;
    for piece in pieces {
        if !proving.feed(piece).await {
            break;
        }
    }
    timeout(SOON, proving.finish()).await.unwrap()
}

#[tokio::test]
async fn however_it_is_cut_into_pieces_it_is_the_same() {
    let prover = Prover::default();
    let (small, large) = (file_nar(b"contents"), large());
    for pace in [Pace::Background, Pace::AtOnce, Pace::AsItComes] {
        for (nar, len) in [(&small, 1), (&small, 1 << 20), (&large, 1000), (&large, PIECE + 1), (&large, 1 << 20)] {
            let pieces = || nar.chunks(len).map(Bytes::copy_from_slice);
            let with_empty = pieces().flat_map(|piece| [Bytes::new(), piece, Bytes::new()]);
            assert!(proven(&prover, pace, claim(nar), with_empty).await.is_ok(), "{pace:?} {len}");
            let wrong = Claim { nar_size: 1, ..claim(nar) };
            assert_eq!(refusal(proven(&prover, pace, wrong, pieces()).await), Some(Refusal::WrongNarSize));
        }
        let nothing = proven(&prover, pace, claim(&small), std::iter::empty()).await;
        assert_eq!(refusal(nothing), Some(Refusal::WrongNarHash));
    }
}

#[tokio::test]
async fn who_feeds_is_told_that_the_proof_ended_in_the_middle() {
    let prover = Prover::default();
    let mut proving = prover.begin(Compression::None, &Arc::new(claim(b"x")), Pace::AtOnce).await;
    let mut fed = 0;
    while proving.feed(Bytes::from_static(b"more than that")).await {
        fed += 1;
        assert!(fed < 10, "one in the decoder, one in the queue");
    }
    assert_eq!(refusal(proving.finish().await), Some(Refusal::WrongNarSize));
}

/// Waits until every place is free again: a thread gives its place up when it ends.
async fn free(prover: &Prover) {
    let cores = std::thread::available_parallelism().unwrap().get();
    for (places, of) in
        [(&prover.background, (cores / 2).max(1)), (&prover.at_once, cores), (&prover.as_it_comes, AS_IT_COMES)]
    {
        let all = timeout(SOON, places.acquire_many(u32::try_from(of).unwrap())).await;
        drop(all.expect("a proof goes on for ever").unwrap());
        assert_eq!(places.available_permits(), of);
    }
}

#[tokio::test]
async fn a_proof_that_is_dropped_ends() {
    let prover = Prover::default();
    for pace in [Pace::Background, Pace::AtOnce, Pace::AsItComes] {
        for compression in [Compression::None, Compression::Zstd, Compression::Xz] {
            let mut proving = prover.begin(compression, &Arc::new(claim(&large())), pace).await;
            proving.feed(Bytes::from(file_nar(b"contents")).slice(..7)).await;
            drop(proving);
        }
        free(&prover).await;
    }
}

#[tokio::test]
async fn r26_so_many_at_once_and_each_pace_has_its_own_places() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let prover = Prover::default();
    let claim = Arc::new(claim(b"x"));
    let begin = |pace| prover.begin(Compression::None, &claim, pace).now_or_never();
    let mut all = Vec::new();
    for (pace, of) in [(Pace::Background, (cores / 2).max(1)), (Pace::AtOnce, cores), (Pace::AsItComes, AS_IT_COMES)] {
        let running: Vec<Proving> = (0..of).map(|_| begin(pace).expect("a place")).collect();
        assert!(begin(pace).is_none(), "{pace:?}");
        all.extend(running);
    }
    drop(all);
    free(&prover).await;
    assert!(begin(Pace::Background).is_some());
}

/// The nice values of the threads that prove.
fn niceness() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let proving = stats.filter(|stat| stat.contains("(snowbank-prove)"));
    proving.map(|stat| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn what_nobody_waits_for_yields_to_everything_else() {
    let prover = Prover::default();
    let ours = niceness_of_this_thread();
    for (pace, expected) in [(Pace::Background, 19), (Pace::AsItComes, ours)] {
        let _proving = prover.begin(Compression::None, &Arc::new(claim(b"x")), pace).await;
        let found = async {
            while !niceness().contains(&expected) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, found).await.expect("a thread of this priority");
    }
}

fn niceness_of_this_thread() -> i32 {
    rustix::process::getpriority_process(None).unwrap()
}

#[test]
fn a_verdict_is_a_refusal_and_a_proof_that_died_is_none() {
    let claim = claim(b"x");
    let known = Disproof::known_otherwise(&claim).broken("a");
    assert_eq!((known.reason, known.refusal), (FillFailure::Refused, Some(Refusal::WrongNarHash)));
    assert!(known.text.starts_with("upstream a: ") && known.text.contains(&claim.nar_hash.to_string()));
    let died = Disproof::internal().broken("a");
    assert_eq!((died.reason, died.refusal), (FillFailure::Internal, None));
}

#[tokio::test]
async fn a_thread_that_dies_is_no_verdict() {
    let (sender, _receiver) = mpsc::channel(1);
    let (tell, told) = oneshot::channel();
    drop(tell);
    let died = Proving { sender: Some(sender), told }.finish().await.unwrap_err();
    assert_eq!(died.reason, None);
}
