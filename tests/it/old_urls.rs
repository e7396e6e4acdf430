//! NAR URLs that clients still remember from what stood at this address before: nix-serve, harmonia, a plain mirror.
//! Clients keep narinfos for 30 days, so these are asked for without a narinfo first, and after restarts.

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::client::End;
use crate::support::nix_serve::NixServe;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};

const ORIGIN: &str = "trust = \"origin\"";

async fn is_whole(snowbank: &Snowbank, target: &str, object: &Object) {
    snowbank.http().get(target).await.expect_bytes(&object.file);
    let head = snowbank.http().head(target).await.expect(200);
    assert_eq!(head.field("content-length"), Some(object.file.len().to_string().as_str()));
    let part = snowbank.http().get_with(target, &[("Range", "bytes=100-199")]).await.expect(206);
    assert_eq!(part.body, object.file.slice(100..200));
}

#[tokio::test]
async fn nix_serve_s_urls_with_and_without_the_nar_hash() {
    let server = NixServe::start(None);
    let setup = Setup::new().upstream_with(&server.url(), ORIGIN);
    let snowbank = setup.start();
    for (name, long) in [("long", true), ("short", false)] {
        let object = Object::new(name, 700_000);
        server.add(&object);
        let hash = object.hash_part();
        let target = if long { format!("/nar/{hash}-{}.nar", object.nar_hash()) } else { format!("/nar/{hash}.nar") };
        is_whole(&snowbank, &target, &object).await;
    }
}

#[tokio::test]
async fn harmonia_s_url_with_the_hash_in_the_query() {
    let (origin, key) = (Origin::start(), Key::new("old-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::new("harmonia", 700_000);
    let url = format!("nar/{}.nar?hash={}", object.nar_hash(), object.hash_part());
    let mut object = object.at_url(&url);
    object.tells_file = false;
    origin.publish(&object, &key);
    is_whole(&snowbank, &format!("/{url}"), &object).await;
    assert_eq!(origin.count(&format!("/{url}")), 1);
    // The same bytes, under the URL that snowbank hands out.
    is_whole(&snowbank, &snowbank.http().nar_target(&object).await, &object).await;
    assert_eq!(origin.count(&format!("/{url}")), 1);
}

#[tokio::test]
async fn the_upstream_s_own_url_after_its_narinfo_was_asked_for() {
    let (origin, key) = (Origin::start(), Key::new("old-1"));
    let setup = Setup::in_front_of(&origin, &key);
    let mut objects: Vec<Object> = [Compression::None, Compression::Zstd, Compression::Xz, Compression::Bzip2]
        .map(|compression| Object::compressed("own", 700_000, compression))
        .into();
    objects.push(Object::new("opaque", 700_000).at_url("nar/5f0c9d1e-2c1b-4c0e-9d3e-1f2e3d4c5b6a"));
    objects.push(Object::new("query", 700_000).at_url("nar/some/where/x.nar?narsize=700112&a=b"));
    let snowbank = setup.start();
    for object in &objects {
        origin.publish(object, &key);
        snowbank.http().nar_target(object).await;
        is_whole(&snowbank, &object.file_target(), object).await;
        // One NAR under two names is kept once.
        is_whole(&snowbank, &object.served_target(), object).await;
        assert_eq!(origin.count(&object.file_target()), 1);
    }
    assert!(snowbank.stop().success());
    let snowbank = setup.start();
    for object in &objects {
        is_whole(&snowbank, &object.file_target(), object).await;
    }
}

#[tokio::test]
async fn the_upstream_s_own_url_that_nobody_announced_to_us() {
    let (origin, key) = (Origin::start(), Key::new("old-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::compressed("unannounced", 700_000, Compression::Xz);
    origin.publish(&object, &key);
    // Its name is its FileHash, so the bytes can be proven without a narinfo.
    is_whole(&snowbank, &object.file_target(), &object).await;
    let liar = Object::compressed("unannounced-liar", 3_000_000, Compression::Zstd);
    let mut wrong = liar.file.to_vec();
    wrong[1_000_000] ^= 1;
    origin.serve(&liar.file_target(), Reply::bytes(wrong));
    let response = snowbank.http().get(&liar.file_target()).await;
    assert!(response.status >= 500 || matches!(response.end, End::Broken(_)), "{} {:?}", response.status, response.end);
    assert!(response.body.len() < liar.file.len());
}

#[tokio::test]
async fn our_own_url_is_answered_without_a_narinfo_first_and_after_everything_was_forgotten() {
    let (origin, key) = (Origin::start(), Key::new("old-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::compressed("stateless", 700_000, Compression::Xz).at_url("nar/opaque-name?x=1");
    origin.publish(&object, &key);
    is_whole(&snowbank, &object.served_target(), &object).await;
    assert_eq!(origin.count(&object.narinfo_target()), 1, "the URL led back to the narinfo");
}

#[tokio::test]
async fn urls_that_nothing_is_behind() {
    let (origin, key) = (Origin::start(), Key::new("old-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let object = Object::new("there", 700_000);
    origin.publish(&object, &key);
    let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
    assert!(!narinfo_fields(narinfo.text(), "URL").is_empty());
    let (hash, digest) = (object.hash_part(), "0".repeat(52));
    for target in [
        format!("/nar/{hash}-{digest}.nar"),
        format!("/nar/{}-{}.nar", "0".repeat(32), object.nar_hash()),
        format!("/nar/{hash}-{}.nar.xz", object.nar_hash()),
        format!("/nar/{digest}.nar.xz"),
        format!("/nar/{digest}.nar?hash={hash}"),
        format!("/nar/{}.nar", "0".repeat(32)),
        "/nar/nothing".to_owned(),
        "/nar/".to_owned(),
        "/nar/../../etc/passwd".to_owned(),
        "/nar/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        "/".to_owned(),
        "/somewhere/else".to_owned(),
    ] {
        let answer = snowbank.http().get(&target).await;
        // `/` may be a page for people.
        assert!(answer.status == 404 || target == "/", "{target}: {}", answer.status);
    }
    assert!(origin.requests().iter().all(|r| !r.target.contains("passwd") && !r.target.contains("nothing")));
}
