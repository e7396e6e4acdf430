//! narinfos: believed only when everything fits, written anew, kept, shared, and "not there" said with care.

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::origin::{Framing, Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup, Snowbank};

fn start() -> (Origin, Key, Snowbank) {
    let (origin, key) = (Origin::start(), Key::new("narinfo-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    (origin, key, snowbank)
}

#[tokio::test]
async fn a_narinfo_is_written_anew_with_our_url_and_everything_else_kept() {
    let (origin, key, snowbank) = start();
    for compression in [Compression::None, Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        origin.forget();
        let other = Key::new("somebody-else-1");
        let mut object = Object::compressed("kept", 50_000, compression).at_url("deep/er/opaque?token=a+b&x=1,2");
        object.references = vec![object.base_name.clone(), "0123456789abcdfghijklmnpqrsvwxyz-other".to_owned()];
        object.extra = vec![
            "Deriver: 0123456789abcdfghijklmnpqrsvwxyz-kept.drv".to_owned(),
            "System: x86_64-linux".to_owned(),
            "X-Unknown: with: colons and  blanks".to_owned(),
        ];
        origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&other, &key])));
        origin.serve(&object.file_target(), Reply::bytes(object.file.clone()));
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(200);
        assert_eq!(answer.field("content-type"), Some("text/x-nix-narinfo"));
        let text = answer.text();
        assert!(text.ends_with('\n') && !text.contains('\r'), "{text:?}");
        assert_eq!(narinfo_fields(text, "StorePath"), [format!("/nix/store/{}", object.base_name)]);
        assert_eq!(narinfo_fields(text, "URL"), [&object.served_target()[1..]]);
        assert_eq!(narinfo_fields(text, "Compression"), [compression.name()]);
        assert_eq!(narinfo_fields(text, "FileHash"), [format!("sha256:{}", object.file_hash())]);
        assert_eq!(narinfo_fields(text, "FileSize"), [object.file.len().to_string()]);
        assert_eq!(narinfo_fields(text, "NarHash"), [format!("sha256:{}", object.nar_hash())]);
        assert_eq!(narinfo_fields(text, "NarSize"), [object.nar.len().to_string()]);
        let mut references: Vec<&str> = narinfo_fields(text, "References")[0].split(' ').collect();
        references.sort_unstable();
        assert_eq!(references, ["0123456789abcdfghijklmnpqrsvwxyz-other", &object.base_name]);
        assert_eq!(narinfo_fields(text, "Deriver"), ["0123456789abcdfghijklmnpqrsvwxyz-kept.drv"]);
        assert_eq!(narinfo_fields(text, "System"), ["x86_64-linux"]);
        assert_eq!(narinfo_fields(text, "X-Unknown"), ["with: colons and  blanks"]);
        let signatures = narinfo_fields(text, "Sig");
        for signer in [&key, &other] {
            assert!(signatures.contains(&signer.sign(&object.fingerprint()).as_str()), "{text}");
        }
        // The opaque name with its query reaches the upstream as it was announced.
        snowbank.http().get(&object.served_target()).await.expect_bytes(&object.file);
        assert_eq!(origin.count(&object.file_target()), 1);
        snowbank.http().head(&object.narinfo_target()).await.expect(200);
        assert_eq!(origin.count(&object.narinfo_target()), 1, "kept");
    }
}

/// Serves this text as the narinfo of `object`; the program must refuse it.
async fn refused(origin: &Origin, snowbank: &Snowbank, object: &Object, text: String, why: &str) {
    let before = snowbank.counter(Count::NarinfosRefused);
    origin.serve(&object.narinfo_target(), Reply::bytes(text));
    let answer = snowbank.http().get(&object.narinfo_target()).await;
    // A refusal that will not change by asking again is 404: a 5xx would take the whole cache from the client.
    assert_eq!(answer.status, 404, "{why}: {:?}", answer.body);
    assert!(snowbank.counter(Count::NarinfosRefused) > before, "{why}: not counted");
}

#[tokio::test]
async fn a_narinfo_that_is_not_signed_by_a_trusted_key_is_refused() {
    let (origin, key, snowbank) = start();
    let object = |name: &str| Object::new(name, 100);
    let unsigned = object("unsigned");
    refused(&origin, &snowbank, &unsigned, unsigned.narinfo(&[]), "unsigned").await;
    let other = object("other-key");
    refused(&origin, &snowbank, &other, other.narinfo(&[&Key::new("other-1")]), "another key").await;
    let named = object("same-name");
    let (name, _) = key.public().split_once(':').map(|(n, k)| (n.to_owned(), k.to_owned())).expect("a key");
    let forged = Key::new("forger-1").sign(&named.fingerprint()).replace("forger-1", &name);
    let text = format!("{}Sig: {forged}\n", named.narinfo(&[]));
    refused(&origin, &snowbank, &named, text, "the trusted name on another key").await;
    for (name, field) in [("size", "NarSize: "), ("hash", "NarHash: sha256:"), ("reference", "References: ")] {
        let changed = object(name);
        let text: Vec<String> = changed
            .narinfo(&[&key])
            .lines()
            .map(|line| match line.strip_prefix(field) {
                Some(_) if name == "size" => "NarSize: 999".to_owned(),
                Some(_) if name == "hash" => format!("NarHash: sha256:{}", object("another").nar_hash()),
                Some(_) => "References: 0123456789abcdfghijklmnpqrsvwxyz-added".to_owned(),
                None => line.to_owned(),
            })
            .collect();
        refused(&origin, &snowbank, &changed, text.join("\n") + "\n", name).await;
    }
}

#[tokio::test]
async fn a_narinfo_of_another_path_is_refused() {
    let (origin, key, snowbank) = start();
    let (asked, given) = (Object::new("asked", 100), Object::new("given", 100));
    refused(&origin, &snowbank, &asked, given.narinfo(&[&key]), "another hash part").await;
}

#[tokio::test]
async fn what_is_not_a_narinfo_is_refused() {
    let (origin, key, snowbank) = start();
    let texts: [(&str, fn(String) -> String); 7] = [
        ("no-url", |text| text.replace("URL: ", "Location: ")),
        ("no-hash", |text| text.replace("NarHash: ", "NurHash: ")),
        ("zero-size", |text| {
            text.lines()
                .map(|l| if l.starts_with("NarSize") { "NarSize: 0" } else { l })
                .map(|l| format!("{l}\n"))
                .collect::<Vec<_>>()
                .concat()
        }),
        ("two-urls", |text| format!("URL: nar/other.nar\n{text}")),
        ("url-up", |text| text.replace("URL: nar/", "URL: ../nar/")),
        ("url-elsewhere", |text| text.replace("URL: nar/", "URL: http://192.0.2.1/nar/")),
        ("url-blank", |text| text.replace("URL: nar/", "URL: n ar/")),
    ];
    for (name, change) in texts {
        let object = Object::new(name, 100);
        refused(&origin, &snowbank, &object, change(object.narinfo(&[&key])), name).await;
    }
    assert!(origin.requests().iter().all(|r| r.target.ends_with(".narinfo") || r.target == "/nix-cache-info"));
}

/// A login page or an empty answer says nothing about the path: no 404, which clients would remember for an hour.
#[tokio::test]
async fn what_is_no_narinfo_at_all_is_unknown() {
    let (origin, _, snowbank) = start();
    for (name, page) in [("html", "<html>log in first</html>\n"), ("empty", "")] {
        let object = Object::new(name, 100);
        origin.serve(&object.narinfo_target(), Reply::bytes(page.to_owned()));
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(502);
        assert!(answer.text().contains("no narinfo at all"), "{}", answer.text());
    }
    assert_eq!(snowbank.counter(Count::NarinfosRefused), 2);
}

#[tokio::test]
async fn a_second_upstream_is_asked_when_the_first_is_refused_or_has_it_not() {
    let (first, second) = (Origin::start(), Origin::start());
    let (first_key, second_key) = (Key::new("first-1"), Key::new("second-1"));
    let setup = Setup::new().upstream(&first.url(), &first_key).upstream(&second.url(), &second_key);
    let snowbank = setup.start();
    let only_second = Object::new("only-second", 3_000);
    second.publish(&only_second, &second_key);
    let both = Object::new("both", 3_000);
    // A key is trusted for its own upstream: what the second may sign, the first may not serve.
    first.serve(&both.narinfo_target(), Reply::bytes(both.narinfo(&[&second_key])));
    second.publish(&both, &second_key);
    for object in [&only_second, &both] {
        let target = snowbank.http().nar_target(object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
        assert_eq!(second.count(&object.file_target()), 1);
        assert_eq!(first.count(&object.file_target()), 0);
    }
    let preferred = Object::new("preferred", 3_000);
    first.publish(&preferred, &first_key);
    second.publish(&preferred, &second_key);
    snowbank.http().get(&snowbank.http().nar_target(&preferred).await).await.expect_bytes(&preferred.file);
    assert_eq!((first.count(&preferred.file_target()), second.count(&preferred.file_target())), (1, 0));
}

#[tokio::test]
async fn a_malformed_hash_is_404_without_asking_anybody() {
    let (origin, _, snowbank) = start();
    for hash in [
        "abc",
        "0123456789abcdfghijklmnpqrsvwxy",
        "0123456789abcdfghijklmnpqrsvwxyz0",
        "eeeeoooouuuutttteeeeoooouuuutttt",
        "0123456789ABCDFGHIJKLMNPQRSVWXYZ",
        "..%2f..%2fetc%2fpasswd%00aaaaaaaa",
        "0123456789abcdfghijklmnpqrsvwx-z",
    ] {
        for client in [snowbank.http(), snowbank.https()] {
            let answer = client.get(&format!("/{hash}.narinfo")).await.expect(404);
            assert_eq!(answer.text().lines().count(), 1, "one plain line: {:?}", answer.text());
        }
    }
    assert_eq!(origin.requests().iter().filter(|r| r.target.contains("narinfo")).count(), 0);
}

#[tokio::test]
async fn not_there_is_remembered_and_shared() {
    let (origin, key, snowbank) = start();
    let object = Object::new("missing", 100);
    for _ in 0..5 {
        let answer = snowbank.http().get(&object.narinfo_target()).await.expect(404);
        assert_eq!(answer.text().lines().count(), 1, "one plain line: {:?}", answer.text());
        assert!(answer.field("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    }
    assert_eq!(origin.count(&object.narinfo_target()), 1, "remembered");
    // Remembered for this path only.
    let there = Object::new("there", 100);
    origin.publish(&there, &key);
    snowbank.http().get(&there.narinfo_target()).await.expect(200);
}

#[tokio::test]
async fn twelve_thousand_misses_cost_little_each() {
    let (origin, _, snowbank) = start();
    let h2 = std::sync::Arc::new(snowbank.https().h2().await);
    let ask = |from: usize| {
        let h2 = std::sync::Arc::clone(&h2);
        async move {
            for n in from..from + 500 {
                let hash = Object::new(&format!("flood-{n}"), 0);
                h2.get(&hash.narinfo_target()).await.expect(404);
            }
        }
    };
    futures_util::future::join_all((0..8).map(|n| ask(n * 500))).await;
    let before = snowbank.resident();
    futures_util::future::join_all((8..24).map(|n| ask(n * 500))).await;
    let grown = snowbank.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{} KiB for 8000 misses", grown >> 10);
    assert_eq!(origin.requests().iter().filter(|r| r.target.ends_with(".narinfo")).count(), 12_000);
}

#[tokio::test]
async fn an_upstream_that_cannot_tell_is_not_a_miss() {
    let (origin, key, snowbank) = start();
    for status in [500, 502, 503, 504, 401, 403, 429] {
        let object = Object::new(&format!("unknown-{status}"), 100);
        origin.serve(&object.narinfo_target(), Reply::status(status));
        let answer = snowbank.http().get(&object.narinfo_target()).await;
        assert!([502, 503, 504].contains(&answer.status), "{status} became {}", answer.status);
        // Not remembered: as soon as the upstream can tell, so do we.
        origin.publish(&object, &key);
        snowbank.http().get(&object.narinfo_target()).await.expect(200);
    }
    for status in [404, 410] {
        let object = Object::new(&format!("definite-{status}"), 100);
        origin.serve(&object.narinfo_target(), Reply::status(status));
        snowbank.http().get(&object.narinfo_target()).await.expect(404);
    }
    let cut = Object::new("cut-narinfo", 100);
    origin.serve(&cut.narinfo_target(), Reply::bytes(cut.narinfo(&[&key])).cut_at(50));
    let answer = snowbank.http().get(&cut.narinfo_target()).await;
    assert!([502, 503, 504].contains(&answer.status), "a cut narinfo became {}", answer.status);
}

#[tokio::test]
async fn an_upstream_that_is_switched_off_is_an_error_or_a_miss_as_it_was_declared() {
    let key = Key::new("narinfo-1");
    let (origin, other) = (Origin::start(), Origin::start());
    let kept = Object::new("kept-while-down", 3_000);
    origin.publish(&kept, &key);
    let strict = Setup::in_front_of(&origin, &key).start();
    let keys = format!("public_keys = [{:?}]\nwhen_down = \"miss\"", key.public());
    let lenient = Setup::new().upstream_with(&origin.url(), &keys).upstream(&other.url(), &key).start();
    for snowbank in [&strict, &lenient] {
        let target = snowbank.http().nar_target(&kept).await;
        snowbank.http().get(&target).await.expect_bytes(&kept.file);
    }
    let _off = origin.switch_off();
    let asked = Object::new("asked-while-down", 100);
    let answer = strict.http().get(&asked.narinfo_target()).await;
    assert!([502, 503, 504].contains(&answer.status), "{}", answer.status);
    lenient.http().get(&asked.narinfo_target()).await.expect(404);
    for snowbank in [&strict, &lenient] {
        snowbank.http().get(&kept.narinfo_target()).await.expect(200);
        snowbank.http().get(&kept.served_target()).await.expect_bytes(&kept.file);
    }
}

#[tokio::test]
async fn a_hundred_clients_of_one_narinfo_are_one_upstream_request() {
    let (origin, key, snowbank) = start();
    let object = Object::new("herd", 100);
    let gate = Gate::new();
    let reply = Reply::bytes(object.narinfo(&[&key])).framing(Framing::Chunked).without_ranges();
    origin.serve(&object.narinfo_target(), reply.gate_before_head(&gate));
    let h2 = snowbank.https().h2().await;
    let client = snowbank.http();
    let target = object.narinfo_target();
    let streams = futures_util::future::join_all((0..80).map(|_| h2.get(&target)));
    let connections = futures_util::future::join_all((0..20).map(|_| client.get(&target)));
    let opening = async {
        gate.reached().await;
        // Everybody has asked by the time the origin answers, or is answered from what it said.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        gate.open();
    };
    let (streams, connections, ()) = tokio::join!(streams, connections, opening);
    for answer in streams.into_iter().chain(connections) {
        answer.expect(200);
    }
    assert_eq!(origin.count(&target), 1);
}

#[tokio::test]
async fn the_client_that_asked_first_may_leave() {
    let (origin, key, snowbank) = start();
    let object = Object::new("first-leaves", 100);
    let gate = Gate::new();
    origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[&key])).gate_before_head(&gate));
    let client = snowbank.http();
    let target = object.narinfo_target();
    let mut first = client.connect().await;
    first.send(format!("GET {target} HTTP/1.1\r\nHost: cache.test\r\n\r\n").as_bytes()).await;
    gate.reached().await;
    let second = tokio::spawn({
        let (client, target) = (client.clone(), target.clone());
        async move { client.get(&target).await }
    });
    drop(first);
    gate.open();
    second.await.expect("no panic").expect(200);
    assert_eq!(origin.count(&target), 1);
}

#[tokio::test]
async fn the_cache_info_is_made_here_and_needs_no_upstream() {
    let (origin, _, snowbank) = start();
    let _off = origin.switch_off();
    let answer = snowbank.http().get("/nix-cache-info").await.expect(200);
    assert_eq!(narinfo_fields(answer.text(), "StoreDir"), ["/nix/store"]);
    assert_eq!(narinfo_fields(answer.text(), "WantMassQuery"), ["1"]);
    narinfo_fields(answer.text(), "Priority")[0].parse::<u32>().expect("a priority");
}

#[tokio::test]
async fn an_upstream_below_a_path_and_behind_tls() {
    let (origin, key) = (Origin::start_tls(), Key::new("prefix-1"));
    let setup = Setup::new();
    let ca = setup.authority_file();
    let lines = format!("public_keys = [{:?}]\nca_file = {ca:?}", key.public());
    let snowbank = setup.upstream_with(&format!("{}/some/cache/", origin.url()), &lines).start();
    let relative = Object::new("relative", 3_000);
    let absolute = Object::new("absolute", 3_000).at_url("/elsewhere/absolute.nar");
    let full = Object::new("full", 3_000).at_url(&format!("{}/full.nar?key=1", origin.url()));
    for (object, file) in [
        (&relative, format!("/some/cache/{}", relative.url)),
        (&absolute, absolute.url.clone()),
        (&full, "/full.nar?key=1".to_owned()),
    ] {
        origin.serve(&format!("/some/cache{}", object.narinfo_target()), Reply::bytes(object.narinfo(&[&key])));
        origin.serve(&file, Reply::bytes(object.file.clone()));
        let target = snowbank.http().nar_target(object).await;
        snowbank.http().get(&target).await.expect_bytes(&object.file);
        assert_eq!(origin.count(&file), 1);
    }
}

#[tokio::test]
async fn a_client_s_header_fields_go_no_further() {
    let (origin, key, snowbank) = start();
    let object = Object::new("private-fields", 3_000);
    origin.publish(&object, &key);
    let fields = [
        ("Authorization", "Basic c2VjcmV0OnNlY3JldA=="),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("If-None-Match", "\"x\""),
        ("Accept-Encoding", "gzip, zstd"),
    ];
    snowbank.http().get_with(&object.narinfo_target(), &fields).await.expect(200);
    snowbank.http().get_with(&object.served_target(), &fields).await.expect_bytes(&object.file);
    for request in origin.requests() {
        for (name, value) in &fields {
            assert!(request.field(name) != Some(*value), "{name} reached the upstream: {request:?}");
        }
        assert_eq!(request.field("host"), Some(origin.address().to_string().as_str()));
    }
}
