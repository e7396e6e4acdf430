//! The pipeline against scripted origins.

use std::time::{Duration, Instant};

use super::answer::{FailureKind, ObjectBody, Reply};
use super::request::{NarName, Request};
use super::*;
use crate::metrics::Metrics;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::HashPart;
use crate::options::Table;
use crate::upstream::Upstream;
use crate::upstream::testing::{Origin, Step, answer, not_found, upstream};

const HASH: &str = "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq";

fn hash() -> HashPart {
    HashPart::parse(HASH).unwrap()
}

fn proxy(upstreams: Vec<Arc<Upstream>>) -> Proxy {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    let fills = Fills::new(store.clone(), 8, metrics.fill);
    let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    Proxy::new(Policy::new(Options::from_toml("").unwrap(), upstreams, signer), store, fills, metrics.proxy)
}

fn narinfo(nar: &[u8], url: &str, compression: &str) -> String {
    let (hash, size) = (Sha256::of(nar), nar.len());
    format!(
        "StorePath: /nix/store/{HASH}-x\nURL: {url}\nCompression: {compression}\nFileHash: {hash}\nFileSize: {size}\n\
         NarHash: {hash}\nNarSize: {size}\nReferences: \n"
    )
}

/// The NAR of a file with these contents.
fn file_nar(contents: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    let contents = contents.as_bytes();
    for token in [b"nix-archive-1", &b"("[..], b"type", b"regular", b"contents", contents, b")"] {
        nar.extend_from_slice(&(token.len() as u64).to_le_bytes());
        nar.extend_from_slice(token);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

fn kind(answer: &Answer) -> Option<FailureKind> {
    match &answer.reply {
        Reply::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

fn full(digest: Sha256, compression: Compression) -> Request {
    Request::Nar(NarName::Full { hash: hash(), digest, compression })
}

#[tokio::test]
async fn a_nar_that_nobody_has_is_one_question() {
    let origin = Origin::start(|_| not_found()).await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    let answer = proxy.answer(full(Sha256::of(b"x"), Compression::Xz), false).await;
    assert_eq!(kind(&answer), Some(FailureKind::NotFound));
    assert_eq!(origin.asked("narinfo"), 1);
}

#[tokio::test]
async fn a_name_with_another_compression_is_not_found_and_spoils_nothing() {
    let origin = Origin::start(|request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", narinfo(&file_nar("nar"), "nar/x.nar", "none")),
        false => answer("200 OK", file_nar("nar")),
    })
    .await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    let wrong = proxy.answer(full(Sha256::of(&file_nar("nar")), Compression::Zstd), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::NotFound));
    let old = |path: &str| Request::Nar(NarName::ByStorePath { hash: hash(), path: path.to_owned() });
    let wrong = proxy.answer(old(&format!("nar/{HASH}.nar.xz")), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::NotFound), "plain bytes under a compressed name");
    assert_eq!(kind(&proxy.answer(old(&format!("nar/{HASH}.nar")), false).await), None);
    assert_eq!(kind(&proxy.answer(full(Sha256::of(&file_nar("nar")), Compression::None), false).await), None);
}

#[tokio::test]
async fn an_upstream_whose_absence_is_a_miss_is_one_for_nars_and_keeps_what_is_kept() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = upstream(nobody, 10, "when_down = 'miss'");
    let proxy = proxy(vec![Arc::clone(&upstream)]);
    let by_name = NarName::ByFileHash { file_hash: Sha256::of(b"x"), compression: Compression::Xz };
    assert_eq!(kind(&proxy.answer(Request::Nar(by_name), false).await), Some(FailureKind::NotFound));

    let text = narinfo(&file_nar("nar"), "nar/x.nar", "none");
    let entry = entry::Entry {
        fetched: crate::clock::UnixSeconds(1),
        expires: crate::clock::UnixSeconds(2),
        basis: proxy.policy().basis(&upstream),
        upstream: upstream.name().to_string(),
        note: "nar/x.nar".to_owned(),
        signed: entry::Signed::NOT,
        body: text.into(),
    };
    proxy.shared.store.put_entry(entry::narinfo_key(hash()), entry.encode()).await;
    let answer = proxy.answer(Request::NarInfo(hash()), false).await;
    assert_eq!((kind(&answer), answer.outcome), (None, Outcome::Stale));
}

#[tokio::test]
async fn an_answer_that_trickles_is_not_waited_for() {
    let origin = Origin::start(|request| {
        let status = if request.target.contains(HASH) { "404 Not Found" } else { "200 OK" };
        let mut steps = vec![Step::Send(format!("HTTP/1.1 {status}\r\nContent-Length: 1000\r\n\r\n").into())];
        steps.extend((0..100).flat_map(|_| [Step::Send("x".into()), Step::Pause(Duration::from_millis(100))]));
        steps
    })
    .await;
    let proxy = proxy(vec![origin.upstream(10, "stall_timeout = '500 ms'")]);
    let begun = Instant::now();
    let answer = proxy.answer(Request::NarInfo(hash()), false).await;
    assert_eq!(kind(&answer), Some(FailureKind::NotFound));
    let other = HashPart::parse("0000000000000000000000000000000a").unwrap();
    let answer = proxy.answer(Request::NarInfo(other), false).await;
    assert_eq!(kind(&answer), Some(FailureKind::BadGateway));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_nar_gone_from_one_upstream_comes_from_another_that_was_not_asked() {
    let with = |has: bool| {
        Origin::start(move |request| match request.target.ends_with("narinfo") {
            true => answer("200 OK", narinfo(&file_nar("nar"), "nar/x.nar", "none")),
            false if has => answer("200 OK", file_nar("nar")),
            false => not_found(),
        })
    };
    let (first, second) = (with(false).await, with(true).await);
    let upstreams = vec![first.upstream(10, "name = 'a'"), second.upstream(20, "name = 'b'")];
    let answer = proxy(upstreams).answer(full(Sha256::of(&file_nar("nar")), Compression::None), false).await;
    assert_eq!(kind(&answer), None);
    assert_eq!((first.asked("nar/x"), second.asked("nar/x")), (2, 1));
}

#[tokio::test]
async fn a_wrong_digest_costs_nobody_the_narinfo_that_is_kept() {
    let down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let origin = Origin::start(move |_| match is_down.load(std::sync::atomic::Ordering::Relaxed) {
        true => answer("500 Internal Server Error", ""),
        false => answer("200 OK", narinfo(&file_nar("nar"), "nar/x.nar", "none")),
    })
    .await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    assert_eq!(kind(&proxy.answer(Request::NarInfo(hash()), false).await), None);
    down.store(true, std::sync::atomic::Ordering::Relaxed);
    let wrong = proxy.answer(full(Sha256::of(b"wrong"), Compression::None), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::BadGateway), "the origin could have it, and does not say");
    assert_eq!(kind(&proxy.answer(Request::NarInfo(hash()), false).await), None);
}

/// An upstream announces, for this path, the file of another one. That file's name is a hash, and means what it says.
#[tokio::test]
async fn a_name_that_is_a_hash_means_the_bytes_with_that_hash_whoever_announces_it() {
    let theirs = format!("nar/{}.nar.xz", Sha256::of(b"theirs").nix32());
    let announced = theirs.clone();
    let origin = Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", narinfo(b"ours", &announced, "xz")),
        false => answer("200 OK", "theirs"),
    })
    .await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    assert_eq!(kind(&proxy.answer(Request::NarInfo(hash()), false).await), None);
    let name = NarName::ByFileHash { file_hash: Sha256::of(b"theirs"), compression: Compression::Xz };
    let answer = proxy.answer(Request::Nar(name), false).await;
    let Reply::Nar(nar) = answer.reply else { panic!("it is there under its name") };
    assert_eq!(nar.etag, Sha256::of(b"theirs").nix32());
}

#[tokio::test]
async fn the_first_path_to_announce_a_url_keeps_it() {
    let other = "0123456789abcdfghijklmnpqrsvwxyz";
    let origin = Origin::start(move |request| match request.target.as_str() {
        target if target.contains(other) => {
            answer("200 OK", narinfo(&file_nar("second"), "nar/x", "none").replace(HASH, other))
        }
        target if target.ends_with("narinfo") => answer("200 OK", narinfo(&file_nar("first"), "nar/x", "none")),
        _ => answer("200 OK", file_nar("first")),
    })
    .await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    for hash in [hash(), HashPart::parse(other).unwrap()] {
        assert_eq!(kind(&proxy.answer(Request::NarInfo(hash), false).await), None);
    }
    proxy.policy().narinfos.finish().await; // the aliases are kept by then
    let Reply::Nar(nar) = proxy.answer(Request::Nar(NarName::Opaque("nar/x".to_owned())), false).await.reply else {
        panic!("it was announced")
    };
    assert_eq!(nar.etag, Sha256::of(&file_nar("first")).nix32());
}

/// Two upstreams of one rank that both vouch for another NAR of the path.
async fn contradiction() -> [Origin; 2] {
    let with = |nar: Vec<u8>| {
        Origin::start(move |request| match request.target.ends_with("narinfo") {
            true => answer("200 OK", narinfo(&nar, "nar/x.nar", "none")),
            false => answer("200 OK", nar.clone()),
        })
    };
    [with(file_nar("first")).await, with(file_nar("other")).await]
}

fn conflicts(upstream: &Upstream) -> u64 {
    upstream.metrics().refused.of(crate::metrics::Refusal::Conflict).get()
}

#[tokio::test]
async fn two_that_contradict_each_other_side_by_side_are_told_of_and_the_first_answer_stays() {
    let [first, second] = contradiction().await;
    let upstreams = [first.upstream(10, "name = 'a'"), second.upstream(10, "name = 'b'")];
    let proxy = proxy(upstreams.to_vec());
    let Reply::Object(said) = proxy.answer(Request::NarInfo(hash()), false).await.reply else { panic!("it is there") };
    proxy.policy().narinfos.finish().await;
    let Reply::Object(again) = proxy.answer(Request::NarInfo(hash()), false).await.reply else { panic!("it is there") };
    let (ObjectBody::Whole(said), ObjectBody::Whole(again)) = (said.body, again.body) else { panic!("whole") };
    assert_eq!(said, again);
    assert_eq!(upstreams.iter().map(|upstream| conflicts(upstream)).sum::<u64>(), 1);
}

#[tokio::test]
async fn an_answer_stays_although_the_next_upstream_says_otherwise_later() {
    let [first, second] = contradiction().await;
    let first = first.upstream(10, "name = 'a'\nnarinfo_ttl = '0 s'");
    let second = second.upstream(20, "name = 'b'");
    let proxy = proxy(vec![Arc::clone(&first), Arc::clone(&second)]);
    assert_eq!(kind(&proxy.answer(Request::NarInfo(hash()), false).await), None);
    proxy.policy().narinfos.finish().await;
    // The first one has lost it.
    let gone = Origin::start(|_| not_found()).await.upstream(10, "name = 'a'\nnarinfo_ttl = '0 s'");
    let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    let store = proxy.shared.store.clone();
    let mut entry = entry::Entry::decode(&store.entry(entry::narinfo_key(hash())).await.unwrap()).unwrap();
    let policy = Policy::new(Options::from_toml("").unwrap(), vec![Arc::clone(&gone), Arc::clone(&second)], signer);
    entry.basis = policy.basis(&gone);
    store.put_entry(entry::narinfo_key(hash()), entry.encode()).await;
    proxy.reload(policy);
    let answer = proxy.answer(Request::NarInfo(hash()), false).await;
    let Reply::Object(said) = answer.reply else { panic!("it is there") };
    let ObjectBody::Whole(said) = said.body else { panic!("whole") };
    assert!(std::str::from_utf8(&said).unwrap().contains(&Sha256::of(&file_nar("first")).to_string()));
    assert_eq!((conflicts(&first), conflicts(&second)), (0, 1));
}

#[tokio::test]
async fn where_nothing_is_verified_the_nar_goes_out_as_it_came() {
    let origin = Origin::start(|request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", narinfo(b"no nar at all", "nar/x.nar", "none")),
        false => answer("200 OK", "no nar at all"),
    })
    .await;
    for (verify, expected) in [("off", None), ("background", Some(FailureKind::NotFound))] {
        let upstreams = vec![origin.upstream(10, "")];
        let metrics = Metrics::default();
        let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
        let fills = Fills::new(store.clone(), 8, metrics.fill);
        let options = Options::from_toml(&format!("verify = '{verify}'")).unwrap();
        let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
        let proxy = Proxy::new(Policy::new(options, upstreams, signer), store, fills, metrics.proxy);
        let answer = proxy.answer(full(Sha256::of(b"no nar at all"), Compression::None), false).await;
        assert_eq!(kind(&answer), expected, "{verify}");
    }
}
