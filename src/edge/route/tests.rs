use proptest::prelude::*;

use super::*;

const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";
const DIGEST: &str = "0000000000000000000000000000000000000000000000000000";
const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn found(target: &str) -> Route {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    route(&Method::GET, path, query)
}

fn nar(target: &str) -> NarName {
    match found(target) {
        Route::Known(Request::Nar(name)) => name,
        other => panic!("{target} is {other:?}"),
    }
}

fn small(target: &str) -> Small {
    match found(target) {
        Route::Known(Request::Small(small)) => small,
        other => panic!("{target} is {other:?}"),
    }
}

fn hash() -> HashPart {
    HashPart::parse(HASH).unwrap()
}

fn digest() -> Sha256 {
    Sha256::from_nix32(DIGEST).unwrap()
}

fn path(base: &str) -> StorePath {
    StorePath::parse_base(base).unwrap()
}

#[test]
fn what_a_cache_has_at_its_root() {
    assert_eq!(found("/nix-cache-info"), Route::Known(Request::CacheInfo));
    assert_eq!(found(&format!("/{HASH}.narinfo")), Route::Known(Request::NarInfo(hash())));
    assert_eq!(found(&format!("/{HASH}.narinfo?json")), Route::Known(Request::NarInfo(hash())));
    assert_eq!(found(&format!("/%30{}.narinfo", &HASH[1..])), Route::Known(Request::NarInfo(hash())));
    assert_eq!(small(&format!("/{HASH}.ls")), Small::Listing(hash()));
}

#[test]
fn the_page_is_at_the_root_alone() {
    for query in [None, Some(""), Some("x=y")] {
        assert_eq!(super::route(&Method::GET, "/", query), Route::Page);
    }
    assert_eq!(super::route(&Method::POST, "/", None), Route::MethodNotAllowed);
}

#[test]
fn nothing_else_is_there() {
    let long = format!("/{}", "a".repeat(3000));
    let with_e = format!("/e{}.narinfo", &HASH[1..]);
    let upper = format!("/{}.narinfo", HASH.to_uppercase());
    let short = format!("/{}.narinfo", &HASH[1..]);
    for target in [
        "",
        "*",
        "//",
        "nix-cache-info",
        "/nix-cache-info/",
        "//nix-cache-info",
        "/nix-cache-info%00",
        "/index.html",
        "/.narinfo",
        "/.ls",
        "/nar",
        "/nar/",
        "/log/",
        "/log",
        "/realisations/",
        "/debuginfo/",
        "/build-trace-v2/",
        &long,
        &with_e,
        &upper,
        &short,
        "/../nix-cache-info",
        "/%2e%2e/nix-cache-info",
        "/nix%2fcache-info",
        "/\u{e9}.narinfo",
    ] {
        assert_eq!(found(target), Route::NotFound, "{target}");
    }
}

#[test]
fn only_get_and_head() {
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::CONNECT, Method::TRACE, Method::OPTIONS] {
        assert_eq!(route(&method, "/nix-cache-info", None), Route::MethodNotAllowed);
        assert_eq!(route(&method, "/nothing", None), Route::MethodNotAllowed);
    }
    assert_eq!(route(&Method::HEAD, "/nix-cache-info", None), Route::Known(Request::CacheInfo));
}

#[test]
fn every_shape_of_nar_url() {
    let full = |compression| NarName::Full { hash: hash(), digest: digest(), compression };
    assert_eq!(nar(&format!("/nar/{HASH}-{DIGEST}.nar.xz")), full(Compression::Xz));
    assert_eq!(nar(&format!("/nar/{HASH}-{DIGEST}.nar")), full(Compression::None));
    assert_eq!(nar(&format!("/nar/{HASH}%2D{DIGEST}%2Enar")), full(Compression::None));
    let by_path = |path: String| NarName::ByStorePath { hash: hash(), path };
    assert_eq!(nar(&format!("/nar/{HASH}.nar")), by_path(format!("nar/{HASH}.nar")));
    assert_eq!(nar(&format!("/nar/{HASH}.nar.zst")), by_path(format!("nar/{HASH}.nar.zst")));
    assert_eq!(nar(&format!("/nar/{DIGEST}.nar?hash={HASH}")), NarName::ByNarHash { nar_hash: digest(), hash: hash() });
    let by_file = |compression| NarName::ByFileHash { file_hash: digest(), compression };
    assert_eq!(nar(&format!("/nar/{DIGEST}.nar.bz2")), by_file(Compression::Bzip2));
    assert_eq!(nar(&format!("/nar/{DIGEST}.nar")), by_file(Compression::None));
}

#[test]
fn other_nar_names_stay_as_they_are() {
    let with_u = format!("nar/u{}.nar", &HASH[1..]);
    let excess_bits = format!("nar/z{}.nar.xz", &DIGEST[1..]);
    let other_query = format!("nar/{HASH}-{DIGEST}.nar.xz?hash={HASH}");
    for name in [
        "nar/3f2c1a-uuid.nar.zst",
        "nar/upstream/3f2c/x.nar",
        "nar/snix-castore/Abc_-?narsize=12",
        "nar/x.nar.unknown",
        "nar/a%20b",
        "nar/x?",
        &with_u,
        &excess_bits,
        &other_query,
    ] {
        assert_eq!(nar(&format!("/{name}")), NarName::Opaque(name.to_owned()));
    }
    for name in ["nar/../x", "nar/a/./b", "nar//x", "nar/a\\b", "nar/a b", "nar/\u{e9}", "nar/a?b\u{7f}"] {
        assert_eq!(found(&format!("/{name}")), Route::NotFound, "{name}");
    }
}

#[test]
fn a_log_is_named_by_a_store_path() {
    assert_eq!(small(&format!("/log/{HASH}-hello.drv")), Small::Log(path(&format!("{HASH}-hello.drv"))));
    let odd = Small::Log(path(&format!("{HASH}-a+b?c=d.drv")));
    for written in ["a+b%3Fc=d.drv", "a%2Bb%3fc%3Dd.drv", "a%2bb%3Fc%3dd.drv"] {
        assert_eq!(small(&format!("/log/{HASH}-{written}")), odd, "{written}");
    }
    for name in ["", "hello.drv", "-x", "x%2f", "x%25", "x%252B", "x%", "x%2", "x%+1", "x%00", "x/y"] {
        assert_eq!(found(&format!("/log/{HASH}-{name}%")), Route::NotFound, "{name}");
    }
    assert_eq!(found(&format!("/log/{HASH}-")), Route::NotFound);
    assert_eq!(found(&format!("/log/{HASH}-x/y")), Route::NotFound);
}

#[test]
fn realisations_old_and_new() {
    let out = Small::Realisation { hash: HEX.into(), output: "out".into() };
    assert_eq!(small(&format!("/realisations/sha256:{HEX}!out.doi")), out);
    assert_eq!(small(&format!("/realisations/sha256%3A{HEX}%21out.doi")), out);
    for id in [
        format!("sha256:{HEX}!out"),
        format!("sha256:{HEX}!.doi"),
        format!("sha256:{HEX}.doi"),
        format!("sha1:{HEX}!out.doi"),
        format!("sha256:{}!out.doi", HEX.to_uppercase()),
        format!("sha256:{HEX}!a!b.doi"),
        format!("sha256:{HEX}!...doi"),
    ] {
        assert_eq!(found(&format!("/realisations/{id}")), Route::NotFound, "{id}");
    }
    let drv = path(&format!("{HASH}-x.drv"));
    assert_eq!(
        small(&format!("/build-trace-v2/{HASH}-x.drv/dev.doi")),
        Small::BuildTrace { drv, output: "dev".into() }
    );
    assert_eq!(found(&format!("/build-trace-v2/{HASH}-x.drv/dev.doi/x")), Route::NotFound);
    assert_eq!(found(&format!("/build-trace-v2/{HASH}-x.drv/..%2fdev.doi")), Route::NotFound);
}

#[test]
fn debug_information_is_named_by_build_id() {
    let id = &HEX[..40];
    assert_eq!(small(&format!("/debuginfo/{id}")), Small::DebugInfo { id: id.into() });
    assert_eq!(small(&format!("/debuginfo/{id}.debug")), Small::DebugInfo { id: format!("{id}.debug") });
    for wrong in [&HEX[..39], &HEX[..41], "", ".debug", &id.to_uppercase(), &format!("{id}.debug.debug")] {
        assert_eq!(found(&format!("/debuginfo/{wrong}")), Route::NotFound, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_target_breaks_it(target in ".{0,200}") {
        fuzz(target.as_bytes());
        fuzz(format!("/{target}").as_bytes());
    }

    #[test]
    fn no_likely_target_breaks_it(
        head in "/(nar/|log/|realisations/sha256:|build-trace-v2/|debuginfo/|)",
        hash in "[0-9a-df-np-sv-z]{30,33}|[0-9a-f]{38,66}|[01]{52}",
        tail in "(%2D|-|!|%21|)([a-z?=+.%]|%3F|%2B){0,12}(\\.nar|\\.ls|\\.narinfo|\\.doi|/out\\.doi|\\.debug|)(\\.xz|\\?hash=[01]{32}|)",
    ) {
        fuzz(format!("{head}{hash}{tail}").as_bytes());
    }

    /// Escaping characters that need none changes nothing (RFC 3986 section 6.2.2.2), except in opaque names.
    #[test]
    fn escapes_change_nothing(name in "[a-z+._=-]{1,20}", every in 1..4_usize) {
        let plain = format!("/log/{HASH}-n{name}");
        let escaped: String = plain.char_indices().map(|(n, c)| match c {
            '/' => c.to_string(),
            c if n % every == 0 => format!("%{:02x}", u32::from(c)),
            c => c.to_string(),
        }).collect();
        prop_assert_eq!(found(&escaped), found(&plain));
    }
}

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/route");
    let seeds = std::fs::read_dir(corpus).expect("the corpus is in the tree");
    let replayed = seeds.map(|seed| fuzz(&std::fs::read(seed.expect("a seed").path()).expect("a seed"))).count();
    assert!(replayed >= 10);
}
