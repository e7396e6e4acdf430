//! The pipeline against scripted origins.

use std::time::{Duration, Instant};

use super::answer::{FailureKind, Object, ObjectBody, Reply};
use super::request::{NarName, Request};
use super::*;
use crate::metrics::Metrics;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::{HashPart, StoreDir};
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
    Proxy::new(
        Policy::new(Options::from_toml("prefetch = '0 B'").unwrap(), upstreams, signer),
        store,
        fills,
        metrics.proxy,
    )
    .unwrap()
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
    testing::file_nar(contents.as_bytes())
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
    let answer = proxy.everybody(full(Sha256::of(b"x"), Compression::Xz), false).await;
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
    let wrong = proxy.everybody(full(Sha256::of(&file_nar("nar")), Compression::Zstd), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::NotFound));
    let old = |path: &str| Request::Nar(NarName::ByStorePath { hash: hash(), path: path.to_owned() });
    let wrong = proxy.everybody(old(&format!("nar/{HASH}.nar.xz")), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::NotFound), "plain bytes under a compressed name");
    assert_eq!(kind(&proxy.everybody(old(&format!("nar/{HASH}.nar")), false).await), None);
    assert_eq!(kind(&proxy.everybody(full(Sha256::of(&file_nar("nar")), Compression::None), false).await), None);
}

#[tokio::test]
async fn an_upstream_whose_absence_is_a_miss_is_one_for_nars_and_keeps_what_is_kept() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = upstream(nobody, 10, "when_down = 'miss'");
    let proxy = proxy(vec![Arc::clone(&upstream)]);
    let by_name = NarName::ByFileHash { file_hash: Sha256::of(b"x"), compression: Compression::Xz };
    assert_eq!(kind(&proxy.everybody(Request::Nar(by_name), false).await), Some(FailureKind::NotFound));

    let text = narinfo(&file_nar("nar"), "nar/x.nar", "none");
    let entry = entry::Entry {
        fetched: crate::clock::UnixSeconds(1),
        expires: crate::clock::UnixSeconds(2),
        basis: proxy.pipeline().policy.basis(&upstream),
        upstream: upstream.name().to_string(),
        note: "nar/x.nar".to_owned(),
        signed: entry::Signed::NOT,
        body: text.into(),
    };
    proxy.store().put_entry(entry::narinfo_key(hash()), entry.encode()).await;
    let answer = proxy.everybody(Request::NarInfo(hash()), false).await;
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
    let proxy = proxy(vec![origin.upstream(10, "narinfo_timeout = '500 ms'")]);
    let begun = Instant::now();
    let answer = proxy.everybody(Request::NarInfo(hash()), false).await;
    assert_eq!(kind(&answer), Some(FailureKind::NotFound));
    let other = HashPart::parse("0000000000000000000000000000000a").unwrap();
    let answer = proxy.everybody(Request::NarInfo(other), false).await;
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
    let answer = proxy(upstreams).everybody(full(Sha256::of(&file_nar("nar")), Compression::None), false).await;
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
    assert_eq!(kind(&proxy.everybody(Request::NarInfo(hash()), false).await), None);
    down.store(true, std::sync::atomic::Ordering::Relaxed);
    let wrong = proxy.everybody(full(Sha256::of(b"wrong"), Compression::None), false).await;
    assert_eq!(kind(&wrong), Some(FailureKind::BadGateway), "the origin could have it, and does not say");
    assert_eq!(kind(&proxy.everybody(Request::NarInfo(hash()), false).await), None);
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
    assert_eq!(kind(&proxy.everybody(Request::NarInfo(hash()), false).await), None);
    let name = NarName::ByFileHash { file_hash: Sha256::of(b"theirs"), compression: Compression::Xz };
    let answer = proxy.everybody(Request::Nar(name), false).await;
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
        assert_eq!(kind(&proxy.everybody(Request::NarInfo(hash), false).await), None);
    }
    proxy.pipeline().policy.narinfos.finish().await; // the aliases are kept by then
    let Reply::Nar(nar) = proxy.everybody(Request::Nar(NarName::Opaque("nar/x".to_owned())), false).await.reply else {
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
    let Reply::Object(said) = proxy.everybody(Request::NarInfo(hash()), false).await.reply else {
        panic!("it is there")
    };
    proxy.pipeline().policy.narinfos.finish().await;
    let Reply::Object(again) = proxy.everybody(Request::NarInfo(hash()), false).await.reply else {
        panic!("it is there")
    };
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
    assert_eq!(kind(&proxy.everybody(Request::NarInfo(hash()), false).await), None);
    proxy.pipeline().policy.narinfos.finish().await;
    // The first one has lost it.
    let gone = Origin::start(|_| not_found()).await.upstream(10, "name = 'a'\nnarinfo_ttl = '0 s'");
    let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    let store = proxy.store().clone();
    let mut entry = entry::Entry::decode(&store.entry(entry::narinfo_key(hash())).await.unwrap()).unwrap();
    let policy = Policy::new(
        Options::from_toml("prefetch = '0 B'").unwrap(),
        vec![Arc::clone(&gone), Arc::clone(&second)],
        signer,
    );
    entry.basis = policy.basis(&gone);
    store.put_entry(entry::narinfo_key(hash()), entry.encode()).await;
    proxy.reload(policy).unwrap();
    let answer = proxy.everybody(Request::NarInfo(hash()), false).await;
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
        let proxy = Proxy::new(Policy::new(options, upstreams, signer), store, fills, metrics.proxy).unwrap();
        let answer = proxy.everybody(full(Sha256::of(b"no nar at all"), Compression::None), false).await;
        assert_eq!(kind(&answer), expected, "{verify}");
    }
}

fn own_signer(lines: &str) -> sign::Signer {
    let key = sign::secret_key::SecretKey::generate("own-1").unwrap();
    sign::Signer::new(sign::Options::from_toml(lines).unwrap(), vec![key])
}

fn policy(upstreams: Vec<Arc<Upstream>>, signer: sign::Signer) -> Policy {
    Policy::new(Options::from_toml("prefetch = '0 B'").unwrap(), upstreams, signer)
}

async fn text(proxy: &Proxy) -> Option<String> {
    match proxy.everybody(Request::NarInfo(hash()), false).await.reply {
        Reply::Object(Object { body: ObjectBody::Whole(body), .. }) => Some(String::from_utf8(body.to_vec()).unwrap()),
        _ => None,
    }
}

/// An origin whose narinfo of [`HASH`] is this one, and whose every NAR is these bytes.
async fn telling(narinfo: String, nar: Vec<u8>) -> Origin {
    Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", narinfo.clone()),
        false => answer("200 OK", nar.clone()),
    })
    .await
}

/// The content address of this NAR, the hash part it leads to, and a narinfo of that path.
fn addressed(nar: &[u8]) -> (String, HashPart) {
    let address = format!("fixed:r:{}", Sha256::of(nar));
    let parsed = crate::nix::narinfo::ContentAddress::parse(&address).unwrap();
    let path = parsed.store_path("x", &[], hash(), &StoreDir::default()).unwrap();
    (address, path)
}

#[tokio::test]
async fn r3_an_address_that_leads_elsewhere_vouches_for_nothing_whoever_told_it() {
    let (good, evil) = (file_nar("good"), file_nar("evil"));
    let (address, path) = addressed(&good);
    let lie = |ca: &str| format!("{}CA: {ca}\n", narinfo(&evil, "nar/x.nar", "none").replace(HASH, path.as_str()));
    // First it is said of the path, by one that is only passed on, that it has the evil NAR's own address.
    let first = telling(lie(&addressed(&evil).0), evil.clone()).await;
    let second = telling(lie(&address), evil.clone()).await;
    let passed_on = first.upstream(10, "name = 'a'\ntrust = 'pass'");
    let keys = "name = 'b'\ntrust = 'keys'\npublic_keys = ['k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=']";
    let by_content = second.upstream(20, keys);
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), Metrics::default().store);
    let fills = Fills::new(store.clone(), 8, Metrics::default().fill);
    let proxy = Proxy::new(policy(vec![passed_on], own_signer("")), store, fills, Metrics::default().proxy).unwrap();
    let ask = || proxy.everybody(Request::NarInfo(path), false);
    let nar = || {
        let name = NarName::Full { hash: path, digest: Sha256::of(&evil), compression: Compression::None };
        proxy.everybody(Request::Nar(name), false)
    };
    assert_eq!((kind(&ask().await), kind(&nar().await)), (None, None), "it is passed on");
    proxy.reload(policy(vec![by_content], own_signer(""))).unwrap();
    for _ in 0..3 {
        let answer = ask().await;
        if let Reply::Object(Object { body: ObjectBody::Whole(body), .. }) = answer.reply {
            assert!(!String::from_utf8(body.to_vec()).unwrap().contains("own-1"), "signed");
        }
        let _ = nar().await;
        proxy.pipeline().policy.narinfos.finish().await;
    }
}

#[tokio::test]
async fn an_address_that_a_stranger_added_does_not_have_a_signed_nar_refused() {
    use base64::Engine as _;
    use ed25519_dalek::Signer as _;
    let (nar, base64) = (file_nar("good"), base64::engine::general_purpose::STANDARD);
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let plain = narinfo(&nar, "nar/x.nar", "none");
    let info = crate::nix::narinfo::NarInfo::parse(plain.as_bytes(), &StoreDir::default()).unwrap();
    let sig = base64.encode(key.sign(info.fingerprint(&StoreDir::default()).as_bytes()).to_bytes());
    let rubbish = addressed(&file_nar("other")).0;
    let origin = telling(format!("{plain}Sig: k:{sig}\nCA: {rubbish}\n"), nar.clone()).await;
    let public = base64.encode(key.verifying_key().as_bytes());
    let upstream = origin.upstream(10, &format!("trust = 'keys'\npublic_keys = ['k:{public}']"));
    let proxy = proxy(vec![upstream]);
    let told = text(&proxy).await.expect("it is signed");
    assert!(!told.contains("CA:"), "{told}");
    assert_eq!(kind(&proxy.everybody(full(Sha256::of(&nar), Compression::None), false).await), None);
    assert!(text(&proxy).await.is_some());
}

#[tokio::test]
async fn what_one_upstream_has_lost_is_signed_from_the_next() {
    let nar = file_nar("kept");
    let told = narinfo(&nar, "nar/x.nar", "none");
    let lost = {
        let told = told.clone();
        Origin::start(move |request| match request.target.ends_with("narinfo") {
            true => answer("200 OK", told.clone()),
            false => not_found(),
        })
        .await
    };
    let kept = telling(told, nar).await;
    let upstreams =
        vec![lost.upstream(10, "name = 'a'\ntrust = 'origin'"), kept.upstream(20, "name = 'b'\ntrust = 'origin'")];
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), Metrics::default().store);
    let fills = Fills::new(store.clone(), 8, Metrics::default().fill);
    let proxy = Proxy::new(policy(upstreams, own_signer("")), store, fills, Metrics::default().proxy).unwrap();
    let told = text(&proxy).await.expect("the second one has it");
    assert!(told.contains("Sig: own-1:"), "{told}");
}

#[tokio::test]
async fn a_nar_that_came_by_its_name_is_proven_before_it_is_that_of_a_path() {
    let (claimed, found) = (file_nar("claimed"), file_nar("found"));
    let text = narinfo(&claimed, "nar/y.nar.xz", "xz")
        .replace(&format!("FileHash: {}", Sha256::of(&claimed)), &format!("FileHash: {}", Sha256::of(&found)));
    let text = text.replace(&format!("FileSize: {}", claimed.len()), &format!("FileSize: {}", found.len()));
    let origin = telling(text, found.clone()).await;
    let proxy = proxy(vec![origin.upstream(10, "")]);
    let by_name = NarName::ByFileHash { file_hash: Sha256::of(&found), compression: Compression::Xz };
    assert_eq!(kind(&proxy.everybody(Request::Nar(by_name), false).await), None, "its bytes have that hash");
    let answer = proxy.everybody(full(Sha256::of(&found), Compression::Xz), false).await;
    assert_eq!(kind(&answer), Some(FailureKind::NotFound), "and are no NAR of the path");
}
