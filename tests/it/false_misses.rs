//! What looks like "have not" and is not (R18): a 404 would be believed by clients for an hour.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt as _;

use crate::support::cache::{Compression, Key, Object};
use crate::support::client::End;
use crate::support::origin::{Break, Framing, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::trust::eventually;

async fn status(snowbank: &Snowbank, target: &str) -> u16 {
    snowbank.http().get(target).await.status
}

/// The same once it is this one, or the third: who asks in the moment in which a question ends is told what came of that.
async fn status_by_now(snowbank: &Snowbank, target: &str, wanted: u16) -> u16 {
    for _ in 0..2 {
        if status(snowbank, target).await == wanted {
            return wanted;
        }
    }
    status(snowbank, target).await
}

/// One byte of it is another.
fn spoiled(bytes: &[u8]) -> Vec<u8> {
    let mut wrong = bytes.to_vec();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    wrong
}

#[tokio::test]
async fn a_nar_that_is_refused_beside_an_upstream_that_is_down_is_unknown() {
    let longer = |file: &[u8]| [file, b"more"].concat();
    for wrong in [spoiled, longer] {
        let (better, worse, key) = (Origin::start(), Origin::start(), Key::new("false-1"));
        let object = Object::new("refused-beside-down", 300_000);
        worse.publish_narinfo(&object, &key);
        worse.serve(&object.file_target(), Reply::bytes(wrong(&object.file)));
        let snowbank = Setup::in_front_of(&better, &key).upstream(&worse.url(), &key).start();
        let address = better.address();
        let off = better.switch_off();
        for round in 0..3 {
            let status = status(&snowbank, &object.served_target()).await;
            assert!([502, 503].contains(&status), "{round}: {status}");
        }
        drop(off);
        let better = Origin::start_at(address);
        better.publish(&object, &key);
        let back = async {
            while status(&snowbank, &object.served_target()).await != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(15), back).await.expect("noticed within 15 s");
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
}

#[tokio::test]
async fn an_error_page_of_a_megabyte_is_no_narinfo() {
    for framing in [Framing::Length, Framing::Chunked] {
        let (origin, key) = (Origin::start(), Key::new("false-1"));
        let object = Object::new("large-error", 1_000);
        origin.serve(&object.narinfo_target(), Reply::bytes("<p>sorry</p>\n".repeat(100_000)).framing(framing));
        let snowbank = Setup::in_front_of(&origin, &key).start();
        assert_eq!(status(&snowbank, &object.narinfo_target()).await, 502, "{framing:?}");
        origin.publish(&object, &key);
        assert_eq!(status_by_now(&snowbank, &object.narinfo_target(), 200).await, 200, "{framing:?}");
    }
    // One that begins like a narinfo is refused: asked again it would be as long.
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    let object = Object::new("endless", 1_000);
    let endless = format!("{}{}", object.narinfo(&[&key]), "X: y\n".repeat(300_000));
    origin.serve(&object.narinfo_target(), Reply::bytes(endless));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    assert_eq!(status(&snowbank, &object.narinfo_target()).await, 404);
}

#[tokio::test]
async fn a_narinfo_whose_cut_nobody_can_tell_is_believed_only_where_a_signature_proves_it() {
    let key = Key::new("false-1");
    let keys = format!("public_keys = [{:?}]", key.public());
    for (trust, whole) in [(keys.as_str(), 200), ("trust = \"pass\"", 502), ("trust = \"origin\"", 502)] {
        let origin = Origin::start();
        let object = Object::new("until-close", 1_000);
        let text = object.narinfo(&[&key]);
        let cuts: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).filter(|at| *at < text.len()).collect();
        let cuts = cuts.into_iter().filter(|at| *at > text.find("URL:").expect("a URL"));
        let snowbank = Setup::new().upstream_with(&origin.url(), trust).start();
        for cut in cuts {
            let reply = Reply::bytes(text.clone()).framing(Framing::UntilClose).cut_at(cut as u64);
            origin.serve(&object.narinfo_target(), reply);
            assert_eq!(status(&snowbank, &object.narinfo_target()).await, 502, "{trust} {:?}", &text[..cut]);
        }
        origin.serve(&object.narinfo_target(), Reply::bytes(text.clone()).framing(Framing::UntilClose));
        assert_eq!(status_by_now(&snowbank, &object.narinfo_target(), whole).await, whole, "{trust}");
    }
}

#[tokio::test]
async fn a_log_whose_cut_nobody_can_tell_is_not_served() {
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    for size in [1_000, 2 << 20] {
        let target = &format!("/log/0123456789abcdfghijklmnpqrsvwxyz-x{size}.drv");
        let text = "built\n".repeat(size / 6);
        origin.serve(target, Reply::bytes(text.clone()).framing(Framing::UntilClose));
        assert_eq!(status(&snowbank, target).await, 502, "{size}");
        origin.serve(target, Reply::bytes(text.clone()).framing(Framing::Chunked));
        assert_eq!(status_by_now(&snowbank, target, 200).await, 200);
        assert_eq!(snowbank.http().get(target).await.expect(200).body.len(), text.len());
    }
}

/// What nothing signs is not believed either where a page for a browser answers everything, and not kept for a day.
#[tokio::test]
async fn a_login_page_is_no_listing_and_no_log() {
    let (origin, second, key) = (Origin::start(), Origin::start(), Key::new("false-1"));
    let page = "\n<!DOCTYPE html><html><body>Sign in, please</body></html>\n";
    origin.otherwise(move |_, _| Reply::bytes(page).field("Content-Type", "text/html"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let hash = "0123456789abcdfghijklmnpqrsvwxyz";
    let asked = [
        (format!("/{hash}.ls"), "{\"version\":1}"),
        (format!("/log/{hash}-x.drv"), "<built>\n"),
        (format!("/realisations/sha256:{}!out.doi", "a".repeat(64)), "{}"),
        (format!("/debuginfo/{}", "a".repeat(40)), "{\"archive\":\"x\"}"),
    ];
    for (target, _) in &asked {
        let response = snowbank.http().get(target).await.expect(502);
        assert!(response.text().contains("a page for a browser"), "{}", response.text());
    }
    // The next upstream is asked, and what it has is served.
    let snowbank = Setup::in_front_of(&origin, &key).upstream(&second.url(), &key).start();
    for (target, body) in &asked {
        second.serve(target, Reply::bytes(*body));
        assert_eq!(snowbank.http().get(target).await.expect(200).text(), *body);
    }
}

/// A page for a browser in the place of a NAR says nothing of the NAR, and a NAR that is called one is a NAR.
#[tokio::test]
async fn a_login_page_is_no_nar() {
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let page = || Reply::bytes("<html>Sign in, please</html>").field("Content-Type", "text/html; charset=utf-8");
    for framing in [Framing::Length, Framing::Chunked, Framing::UntilClose] {
        let object = Object::new(&format!("page-{framing:?}"), 2000);
        origin.publish_narinfo(&object, &key);
        origin.serve(&object.file_target(), page().framing(framing));
        for target in [snowbank.http().nar_target(&object).await, object.file_target()] {
            assert_eq!(status(&snowbank, &target).await, 502, "{framing:?} {target}");
        }
        let unknown = Object::new(&format!("page-by-name-{framing:?}"), 2000);
        origin.serve(&unknown.file_target(), page().framing(framing));
        let response = snowbank.http().get(&unknown.file_target()).await;
        // Without a size nobody knows that it is a small one, and it is broken off.
        let is_broken = response.status == 200 && matches!(response.end, End::Broken(_)) && framing != Framing::Length;
        assert!(response.status == 502 || is_broken, "{framing:?}: {response:?}");
        let whole = Reply::bytes(object.file.clone()).field("Content-Type", "text/html");
        origin.serve(&object.file_target(), whole);
        let target = snowbank.http().nar_target(&object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
    }
    assert_eq!(snowbank.counter(Count::NarinfosRefused), 0);
}

#[tokio::test]
async fn head_of_a_large_nar_asks_everybody_as_get_does() {
    let (first, second, key) = (Origin::start(), Origin::start(), Key::new("false-1"));
    let object = Object::compressed("head-elsewhere", 3_000_000, Compression::Xz);
    // The first knows it, and has collected it since.
    first.publish_narinfo(&object, &key);
    second.publish(&object, &key);
    let snowbank = Setup::in_front_of(&first, &key).upstream(&second.url(), &key).start();
    let target = snowbank.http().nar_target(&object).await;
    let head = snowbank.http().head(&target).await.expect(200);
    assert_eq!(head.field("content-length"), Some(object.file.len().to_string().as_str()));
    let _off = second.switch_off();
    let other = Object::compressed("head-nowhere", 3_000_000, Compression::Xz);
    first.publish_narinfo(&other, &key);
    let target = snowbank.http().nar_target(&other).await;
    let status = snowbank.http().head(&target).await.status;
    assert!([502, 503].contains(&status), "{status}");
}

#[tokio::test]
async fn head_of_a_nar_goes_on_past_a_source_that_fails() {
    for failing in [Reply::status(500), Reply::status(403), Reply::status(429)] {
        let (first, second, key) = (Origin::start(), Origin::start(), Key::new("false-1"));
        let object = Object::compressed("head-failing", 3_000_000, Compression::Xz);
        first.publish_narinfo(&object, &key);
        first.serve(&object.file_target(), failing.clone());
        second.publish(&object, &key);
        let snowbank = Setup::in_front_of(&first, &key).upstream(&second.url(), &key).start();
        let target = snowbank.http().nar_target(&object).await;
        snowbank.http().head(&target).await.expect(200);
        // And nobody is taken to have nothing for want of a second answer.
        second.serve(&object.narinfo_target(), Reply::status(404));
        let other = Object::compressed("head-failing-alone", 3_000_000, Compression::Xz);
        first.publish_narinfo(&other, &key);
        first.serve(&other.file_target(), failing.clone());
        let target = snowbank.http().nar_target(&other).await;
        let status = snowbank.http().head(&target).await.status;
        assert!([502, 503].contains(&status), "{failing:?}: {status}");
    }
}

#[tokio::test]
async fn the_miss_of_an_outage_is_not_remembered() {
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    let keys = format!("public_keys = [{:?}]\nwhen_down = \"miss\"", key.public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).start();
    let (object, address) = (Object::new("back-soon", 1_000), origin.address());
    let listing = format!("/{}.ls", object.hash_part());
    let off = origin.switch_off();
    let nar = object.served_target();
    for target in [&object.narinfo_target(), &listing, &nar] {
        assert_eq!(status(&snowbank, target).await, 404, "{target}");
    }
    drop(off);
    let origin = Origin::start_at(address);
    origin.publish(&object, &key);
    origin.serve(&listing, Reply::bytes("{}"));
    for target in [&object.narinfo_target(), &listing, &nar] {
        assert_eq!(status_by_now(&snowbank, target, 200).await, 200, "{target}");
    }
    assert_eq!(snowbank.counter(Count::BreakerState), 0, "too few failures to take it for down");
}

#[tokio::test]
async fn a_nar_whose_last_chunk_is_missing_is_proven_by_its_hash() {
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    for size in [1_000, 3_000_000] {
        let object = Object::compressed(&format!("no-last-chunk-{size}"), size, Compression::Xz);
        origin.publish(&object, &key);
        let whole = object.file.len() as u64;
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).framing(Framing::Chunked).cut_at(whole));
        let snowbank = Setup::in_front_of(&origin, &key).start();
        let target = snowbank.http().nar_target(&object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
        assert_eq!(origin.count(&object.file_target()), 1, "{size}");
    }
}

#[tokio::test]
async fn an_upstream_that_closes_new_connections_is_not_asked_again_and_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let closing = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            // The request is read, so that it is a close and no reset.
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    let snowbank = Setup::new().upstream(&url, &Key::new("false-1")).start();
    for n in 0..4 {
        let target = Object::new(&format!("closed-{n}"), 100).narinfo_target();
        assert_eq!(status(&snowbank, &target).await, 502);
    }
    assert_eq!(taken.load(Ordering::Relaxed), 4);
    closing.abort();
    assert!(closing.await.is_err_and(|error| error.is_cancelled()));
}

/// Clients choose what is asked for: a few paths about which an upstream always fails take it down for nobody.
#[tokio::test]
async fn five_paths_that_always_fail_are_five_failures() {
    let cut = |how| Reply::bytes("StorePath: ").promise(1000).break_at(3, how);
    for failing in [Reply::status(500), Reply::status(429), cut(Break::Close), cut(Break::Reset)] {
        let (origin, key) = (Origin::start(), Key::new("false-1"));
        let snowbank = Setup::in_front_of(&origin, &key).start();
        let paths: Vec<String> = (0..4).map(|n| Object::new(&format!("fails-{n}"), 100).narinfo_target()).collect();
        paths.iter().for_each(|path| origin.serve(path, failing.clone()));
        for round in 0..20 {
            for path in &paths {
                assert_eq!(status(&snowbank, path).await, 502, "{failing:?}, {round}");
            }
            let good = Object::new(&format!("good-{round}"), 100);
            origin.publish(&good, &key);
            assert_eq!(status(&snowbank, &good.narinfo_target()).await, 200, "{failing:?}, {round}");
        }
        assert_eq!(snowbank.counter(Count::BreakerState), 0);
    }
}

/// An upstream all of whose NARs break off is asked hardly oftener than its clients ask.
#[tokio::test]
async fn nars_that_always_break_off_are_seldom_asked_for_again() {
    const NARS: usize = 60;
    let (origin, key) = (Origin::start(), Key::new("false-1"));
    let keys = format!("public_keys = [{:?}]\nstall_timeout = \"1 s\"", key.public());
    let snowbank = Setup::new().upstream_with(&origin.url(), &keys).start();
    let mut asked = 0;
    for n in 0..NARS {
        let object = Object::new(&format!("breaks-off-{n}"), 2000);
        origin.publish_narinfo(&object, &key);
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()).break_at(3, Break::Close));
        let target = snowbank.http().nar_target(&object).await;
        assert_eq!(status(&snowbank, &target).await, 502);
        asked += origin.count(&object.file_target());
    }
    // Each adds a tenth to the five that there are at first; its narinfo did, too, and so does what is asked again.
    assert!(asked <= NARS + 5 + (2 * NARS + 20) / 10, "{asked}");
    // One that breaks off once is still gone on with.
    let object = Object::new("breaks-off-once", 3_000_000);
    origin.publish_narinfo(&object, &key);
    let file = object.file.clone();
    origin.script(&object.file_target(), move |_, nth| match nth {
        0 => Reply::bytes(file.clone()).break_at(1_500_000, Break::Close),
        _ => Reply::bytes(file.clone()),
    });
    for n in 0..20 {
        snowbank.http().get(&format!("/{n:032}.narinfo")).await.expect(404);
    }
    let target = snowbank.http().nar_target(&object).await;
    snowbank.http().get(&target).await.expect_bytes(&object.file);
}

/// What a client says of the servers that its request has passed does not make of one question many.
#[tokio::test]
async fn forged_trails_are_coalesced_like_honest_requests() {
    let (origin, key, gate) = (Origin::start(), Key::new("false-1"), Gate::new());
    let object = Object::new("forged-trails", 1000);
    origin.publish(&object, &key);
    origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&key])).gate_before_head(&gate));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let asked = (0..100).map(|n| {
        let (client, target) = (snowbank.http(), object.narinfo_target());
        tokio::spawn(async move {
            let trail = format!("snowbank;id={:016x}", 0x1234_5678_9abc_0000_u64 + n);
            client.get_with(&target, &[("CDN-Loop", &trail)]).await.status
        })
    });
    let asked: Vec<_> = asked.collect();
    gate.reached().await;
    eventually("all wait", async || snowbank.counter(Count::Waiting) == 100).await;
    gate.open();
    for status in asked {
        assert_eq!(status.await.expect("an answer"), 200);
    }
    assert_eq!(origin.count(&object.narinfo_target()), 1);
}
