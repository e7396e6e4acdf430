//! Two upstreams with the same signed narinfos: the first lies in what nobody signs, the second is honest. A client
//! builds all the same, the operator reads who lied and how, and the liar's bytes are never served, not even after a
//! restart.

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::client::{End, Response};
use crate::support::lies::{LIES, Lie, lie, nested_nar, with_field};
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::trust::{by_keys, eventually, expect_signed};

const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

/// A liar, an honest upstream, and the program in front of both, which signs.
struct Stage {
    liar: Origin,
    honest: Origin,
    upstream_key: Key,
    own_key: Key,
    setup: Setup,
}

impl Stage {
    /// Both upstreams trusted by the same key; `cache` are lines of `[cache]`.
    fn by_keys(cache: &str) -> Self {
        let key = Key::new("upstream-1");
        Self::new(cache, &by_keys(&[&key]), key)
    }

    /// Both upstreams trusted as the operator's own.
    fn by_origin(cache: &str) -> Self {
        Self::new(cache, "trust = \"origin\"", Key::new("upstream-1"))
    }

    fn new(cache: &str, trust: &str, upstream_key: Key) -> Self {
        let (liar, honest, own_key) = (Origin::start(), Origin::start(), Key::new("own-1"));
        for origin in [&liar, &honest] {
            origin.serve("/nix-cache-info", Reply::bytes(CACHE_INFO));
        }
        let setup = Setup::new()
            .named_upstream("liar", &liar.url(), trust)
            .named_upstream("honest", &honest.url(), trust)
            .also(&format!("[cache]\n{cache}\n"))
            .signing(&[&own_key], "");
        Self { liar, honest, upstream_key, own_key, setup }
    }

    fn start(&self) -> Snowbank {
        let snowbank = self.setup.start();
        snowbank.wait_for_disk();
        snowbank
    }

    fn tells(&self, lie: &Lie, object: &Object) {
        self.liar.serve(&object.narinfo_target(), Reply::bytes(lie.narinfo.clone()));
        self.liar.serve(&lie.file_target, Reply::bytes(lie.file.clone()));
        self.honest.publish(object, &self.upstream_key);
    }

    /// Real Nix takes the object through the program, on a machine that trusts our key only.
    #[track_caller]
    fn realises(&self, snowbank: &Snowbank, object: &Object) {
        let machine = Machine::new(&[&self.own_key.public()]);
        let path = format!("/nix/store/{}", object.base_name);
        machine.ok(&["nix-store", "--realise", &path, "--option", "substituters", &snowbank.http_url()]);
        machine.verify_all();
    }
}

/// One refusal of the liar for one of these reasons, none of the honest one, and one line of the log that says so.
#[track_caller]
fn told_who_and_why(snowbank: &Snowbank, object: &Object, reasons: &[&str], name: &str) {
    let refusals = snowbank.refusals();
    assert_eq!(refusals.of("liar", reasons), 1, "{name}: {refusals:?}");
    assert_eq!(refusals.of("honest", &crate::support::trust::REASONS), 0, "{name}: {refusals:?}");
    let mut lines = snowbank.warnings_with(&[object.hash_part(), "liar"]);
    lines.retain(|line| reasons.iter().any(|reason| line.contains(reason)));
    assert_eq!(lines.len(), 1, "{name}: one line that names path, upstream and reason:\n{}", snowbank.log().join("\n"));
}

/// Not one of the liar's bytes: what is answered with 200 is the honest file, whole.
#[track_caller]
fn honest_or_nothing(answer: &Response, object: &Object, name: &str) {
    if answer.status == 200 {
        assert!(answer.end == End::Clean && answer.body == object.file, "{name}: {} bytes", answer.body.len());
    } else {
        assert_eq!(answer.status, 404, "{name}: {:?}", String::from_utf8_lossy(&answer.body));
    }
}

/// Everything that must hold after a lie, asked of the program as it is now.
async fn the_lie_is_gone(stage: &Stage, snowbank: &Snowbank, lie: &Lie, object: &Object) {
    let client = snowbank.http();
    let narinfo = client.get(&object.narinfo_target()).await.expect(200);
    expect_signed(narinfo.text(), &object.fingerprint(), &[&stage.own_key]);
    assert_eq!(narinfo_fields(narinfo.text(), "FileHash"), [format!("sha256:{}", object.file_hash())], "{}", lie.name);
    client.get(&object.served_target()).await.expect_bytes(&object.file);
    // The URL of the liar's narinfo, which clients may have kept.
    let answer = client.get(&lie.served_target(object)).await;
    honest_or_nothing(&answer, object, lie.name);
    let part = client.get_with(&lie.served_target(object), &[("Range", "bytes=0-15")]).await;
    assert!(part.status == 404 || part.body == object.file.slice(..16), "{}: {}", lie.name, part.status);
    // Nor under the URL that the liar announced.
    let announced = client.get(&lie.file_target).await;
    honest_or_nothing(&announced, object, lie.name);
}

#[tokio::test]
async fn r7_a_small_lie_is_refused_before_its_first_byte_and_the_client_builds_from_the_honest_upstream() {
    for (n, name) in LIES.into_iter().enumerate() {
        let stage = Stage::by_keys("");
        let snowbank = stage.start();
        let object = Object::compressed(&format!("object-{n}"), 20_000, Compression::Xz);
        let lie = lie(name, &object, &[&stage.upstream_key]);
        stage.tells(&lie, &object);
        stage.realises(&snowbank, &object);
        told_who_and_why(&snowbank, &object, lie.reasons, name);
        the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
        let asked = stage.liar.count(&lie.file_target);
        stage.realises(&snowbank, &object);
        assert_eq!(stage.liar.count(&lie.file_target), asked, "{name}: the liar is asked for it again");
        assert!(snowbank.stop().success());
        let snowbank = stage.start();
        the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
        stage.realises(&snowbank, &object);
        assert_eq!(stage.liar.count(&lie.file_target), asked, "{name}: the liar is asked for it after a restart");
    }
}

/// The URL was handed out with the liar's narinfo; whoever asks for it gets the honest bytes in the same answer.
#[tokio::test]
async fn the_url_of_a_liars_narinfo_is_served_with_honest_bytes() {
    for (n, name) in ["another-nar-of-one-size", "not-compressed", "cut-short", "bomb", "another-nar-without-file-hash"]
        .into_iter()
        .enumerate()
    {
        let stage = Stage::by_keys("");
        let snowbank = stage.start();
        let object = Object::compressed(&format!("object-{n}"), 20_000, Compression::Xz);
        let lie = lie(name, &object, &[&stage.upstream_key]);
        stage.tells(&lie, &object);
        let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        let url = format!("/{}", narinfo_fields(narinfo.text(), "URL")[0]);
        assert_eq!(url, lie.served_target(&object), "{name}: signed without its NAR, since NarHash itself is signed");
        let clients = (0..8).map(|_| {
            let (client, url) = (snowbank.http(), url.clone());
            async move { client.get(&url).await }
        });
        for answer in futures_util::future::join_all(clients).await {
            answer.expect_bytes(&object.file);
        }
        assert_eq!(stage.liar.count(&lie.file_target), 1, "{name}");
        told_who_and_why(&snowbank, &object, lie.reasons, name);
        snowbank.http().get_with(&url, &[("Range", "bytes=5-9")]).await.expect(206);
    }
}

#[tokio::test]
async fn a_lie_of_five_mebibytes_is_refused_before_its_first_byte_where_that_is_wanted() {
    for (n, name) in
        ["another-nar-of-one-size", "wrong-file-hash", "more-after-the-nar", "cut-short"].into_iter().enumerate()
    {
        let stage = Stage::by_keys("verify = \"before-first-byte\"");
        let snowbank = stage.start();
        let object = Object::compressed(&format!("object-{n}"), 5 << 20, Compression::Xz);
        let lie = lie(name, &object, &[&stage.upstream_key]);
        stage.tells(&lie, &object);
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        snowbank.http().get(&lie.served_target(&object)).await.expect_bytes(&object.file);
        stage.realises(&snowbank, &object);
        told_who_and_why(&snowbank, &object, lie.reasons, name);
        the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
        assert!(snowbank.stop().success());
        let snowbank = stage.start();
        the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
        stage.realises(&snowbank, &object);
    }
}

/// In the background the proof comes too late for who asked first, whose Nix finds out by itself; nobody after him gets
/// these bytes.
#[tokio::test]
async fn a_lie_of_five_mebibytes_is_found_out_in_the_background() {
    let stage = Stage::by_keys("verify = \"background\"");
    let snowbank = stage.start();
    let object = Object::compressed("large-lie", 5 << 20, Compression::Xz);
    let lie = lie("another-nar-of-one-size", &object, &[&stage.upstream_key]);
    stage.tells(&lie, &object);
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let first = snowbank.http().get(&lie.served_target(&object)).await;
    assert!(first.body.len() <= lie.file.len());
    eventually("the lie is found out", async || snowbank.refusals().of("liar", lie.reasons) == 1).await;
    eventually("its bytes are gone", async || {
        let answer = snowbank.http().get(&lie.served_target(&object)).await;
        answer.status == 404 || answer.body == object.file
    })
    .await;
    told_who_and_why(&snowbank, &object, lie.reasons, lie.name);
    the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
    stage.realises(&snowbank, &object);
    snowbank.wait_until_stored();
    snowbank.kill();
    let snowbank = stage.start();
    the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
    stage.realises(&snowbank, &object);
}

#[tokio::test]
async fn a_bomb_does_not_take_the_memory() {
    let stage = Stage::by_keys("");
    let snowbank = stage.start();
    let before = snowbank.resident();
    for n in 0..4 {
        let object = Object::compressed(&format!("bomb-{n}"), 20_000, Compression::Xz);
        let lie = lie("bomb", &object, &[&stage.upstream_key]);
        stage.tells(&lie, &object);
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        snowbank.http().get(&lie.served_target(&object)).await.expect_bytes(&object.file);
    }
    // Four bombs of 256 MiB; the xz dictionary is 256 KiB.
    let grown = snowbank.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
}

/// What is signed and lies all the same is refused at the narinfo: the liar's NAR is not even asked for.
#[tokio::test]
async fn a_changed_narinfo_is_refused_and_the_next_upstream_is_asked() {
    type Change = fn(&Object, &Key) -> String;
    let rows: [(&str, &str, Change); 4] = [
        ("nar-size-off-by-one", "untrusted", |object, key| {
            with_field(&object.narinfo(&[key]), "NarSize", &(object.nar.len() + 1).to_string())
        }),
        ("another-nar-hash", "untrusted", |object, key| {
            let other = Object::new("other", 20_000).nar_hash();
            with_field(&object.narinfo(&[key]), "NarHash", &format!("sha256:{other}"))
        }),
        ("another-path", "other-path", |_, key| Object::compressed("other", 20_000, Compression::Xz).narinfo(&[key])),
        ("a-url-elsewhere", "bad-url", |object, key| {
            with_field(&object.narinfo(&[key]), "URL", "http://192.0.2.1/nar/x.nar.xz")
        }),
    ];
    for (name, reason, change) in rows {
        let stage = Stage::by_keys("");
        let snowbank = stage.start();
        let object = Object::compressed(name, 20_000, Compression::Xz);
        stage.honest.publish(&object, &stage.upstream_key);
        let text = change(&object, &stage.upstream_key);
        stage.liar.serve(&object.narinfo_target(), Reply::bytes(text));
        stage.realises(&snowbank, &object);
        told_who_and_why(&snowbank, &object, &[reason], name);
        assert!(stage.liar.requests().iter().all(|r| r.target.ends_with(".narinfo") || r.target == "/nix-cache-info"));
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
    }
}

/// An upstream that the operator vouches for signs nothing, so a wrong NarSize shows only with the NAR: before the
/// narinfo is answered.
#[tokio::test]
async fn r3_an_unsigned_lie_is_found_out_before_its_narinfo_is_signed() {
    type Change = fn(&Object) -> (&'static str, String);
    let rows: [(&str, &str, Change); 2] = [
        ("nar-size-off-by-one", "wrong-nar-size", |object| ("NarSize", (object.nar.len() + 1).to_string())),
        ("another-nar-hash", "wrong-nar-hash", |_| {
            ("NarHash", format!("sha256:{}", Object::new("other", 20_000).nar_hash()))
        }),
    ];
    for (name, reason, change) in rows {
        let stage = Stage::by_origin("");
        let snowbank = stage.start();
        let object = Object::compressed(name, 20_000, Compression::Xz);
        let (field, value) = change(&object);
        let unsigned = object.narinfo(&[]);
        stage.liar.serve(&object.narinfo_target(), Reply::bytes(with_field(&unsigned, field, &value)));
        stage.liar.serve(&object.file_target(), Reply::bytes(object.file.clone()));
        stage.honest.serve(&object.narinfo_target(), Reply::bytes(unsigned));
        stage.honest.serve(&object.file_target(), Reply::bytes(object.file.clone()));
        let narinfo = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        expect_signed(narinfo.text(), &object.fingerprint(), &[&stage.own_key]);
        told_who_and_why(&snowbank, &object, &[reason], name);
        stage.realises(&snowbank, &object);
    }
    for (n, name) in LIES.into_iter().enumerate() {
        let stage = Stage::by_origin("");
        let snowbank = stage.start();
        let object = Object::compressed(&format!("object-{n}"), 20_000, Compression::Xz);
        let lie = lie(name, &object, &[]);
        stage.tells(&lie, &object);
        stage.realises(&snowbank, &object);
        told_who_and_why(&snowbank, &object, lie.reasons, name);
        the_lie_is_gone(&stage, &snowbank, &lie, &object).await;
    }
}

/// All that is signed fits, and yet no client may unpack it: there is no honest version of it.
#[tokio::test]
async fn a_rightly_signed_nar_of_ten_thousand_levels_is_not_there() {
    let stage = Stage::by_keys("");
    let snowbank = stage.start();
    for (name, depth) in [("ten-thousand", 10_000), ("sixty-five", 65)] {
        let mut object = Object::compressed(name, 100, Compression::Xz);
        object.nar = nested_nar(depth).into();
        object.file = Compression::Xz.compress(&object.nar);
        stage.liar.publish(&object, &stage.upstream_key);
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
        let answer = snowbank.http().get(&object.served_target()).await.expect(404);
        assert!(answer.text().contains("too-deep"), "{name}: {}", answer.text());
        assert_eq!(snowbank.http().get(&object.narinfo_target()).await.status, 404, "{name}");
    }
    assert_eq!(snowbank.refusals().of("liar", &["too-deep"]), 2);
    let mut deep = Object::compressed("sixty-three", 100, Compression::Xz);
    deep.nar = nested_nar(63).into();
    deep.file = Compression::Xz.compress(&deep.nar);
    stage.liar.publish(&deep, &stage.upstream_key);
    snowbank.http().get(&deep.narinfo_target()).await.expect(200);
    snowbank.http().get(&deep.served_target()).await.expect_bytes(&deep.file);
}

/// Everybody lies: nothing is served, and nothing is an error that would take the whole cache from the client.
#[tokio::test]
async fn a_lie_that_nobody_corrects_is_a_miss() {
    let stage = Stage::by_keys("");
    let snowbank = stage.start();
    let object = Object::compressed("alone", 20_000, Compression::Xz);
    let lie = lie("another-nar-of-one-size", &object, &[&stage.upstream_key]);
    stage.liar.serve(&object.narinfo_target(), Reply::bytes(lie.narinfo.clone()));
    stage.liar.serve(&lie.file_target, Reply::bytes(lie.file.clone()));
    snowbank.http().get(&object.narinfo_target()).await.expect(200);
    let answer = snowbank.http().get(&lie.served_target(&object)).await.expect(404);
    assert!(answer.text().contains("wrong-nar-hash"), "{}", answer.text());
    for target in [lie.served_target(&object), object.narinfo_target()] {
        let answer = snowbank.http().get(&target).await.expect(404);
        assert_eq!(answer.text().lines().count(), 1, "{}", answer.text());
    }
    assert_eq!(stage.liar.count(&lie.file_target), 1, "the same bytes are not fetched again");
}
