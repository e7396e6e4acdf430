//! Rules of the reader one by one, real narinfos, and the round trip for any value.

use proptest::prelude::*;

use super::*;
use crate::nix::signature::{PublicKey, PublicKeys};

const HASH: &str = "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq";
const OTHER: &str = "52zv5jzlrqidqcdg79hvz4fcsz53mrdc-rig-busybox-1.0";
const DIGEST: &str = "sha256:1xp1ak4j2v1inlg6chy2gz3zgna6ywykb5whshgn245b2x3zk095";
const ZERO_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000";

fn dir() -> StoreDir {
    StoreDir::default()
}

fn parse(text: &str) -> Result<NarInfo, Error> {
    NarInfo::parse(text.as_bytes(), &dir())
}

/// The required fields, with `URL` xz-compressed.
fn minimal() -> String {
    format!("StorePath: /nix/store/{HASH}-hello\nURL: nar/x\nCompression: xz\nNarHash: {DIGEST}\nNarSize: 944\n")
}

fn with(line: &str) -> Result<NarInfo, Error> {
    parse(&format!("{}{line}\n", minimal()))
}

fn without(field: &str) -> String {
    minimal().lines().filter(|line| !line.starts_with(field)).map(|line| format!("{line}\n")).collect()
}

fn replaced(field: &str, line: &str) -> Result<NarInfo, Error> {
    parse(&format!("{}{line}\n", without(field)))
}

mod real {
    use super::*;

    const PUBLIC_KEYS: &str = include_str!("../../../tests/fixtures/narinfo/public-keys");
    const NIX_SERVE: &str = include_str!("../../../tests/fixtures/narinfo/nix-serve.narinfo");

    macro_rules! nix {
        ($($name:literal),* $(,)?) => {
            [$(($name, include_str!(concat!("../../../tests/fixtures/narinfo/nix-2.8-", $name, ".narinfo")))),*]
        };
    }

    const NIX: [(&str, &str); 12] = nix![
        "xz",
        "none",
        "bzip2",
        "zstd",
        "br",
        "gzip",
        "lz4",
        "lzip",
        "ca-recursive",
        "ca-flat",
        "ca-text",
        "two-signatures",
    ];

    fn keys() -> PublicKeys {
        PUBLIC_KEYS.lines().map(|line| PublicKey::parse(line).unwrap()).collect()
    }

    #[test]
    fn what_nix_wrote_is_already_canonical() {
        for (name, text) in NIX {
            assert_eq!(parse(text).unwrap().render(&dir()), text, "{name}");
        }
    }

    #[test]
    fn what_nix_signed_verifies() {
        let keys = keys();
        for (name, text) in NIX {
            let info = parse(text).unwrap();
            let fingerprint = info.fingerprint(&dir());
            for signature in &info.sigs {
                let key = keys.verify(fingerprint.as_bytes(), std::slice::from_ref(signature));
                assert_eq!(key.map(PublicKey::name), Some(signature.name.as_str()), "{name}");
            }
            assert_eq!(info.sigs.len(), if name == "two-signatures" { 2 } else { 1 }, "{name}");
        }
    }

    #[test]
    fn a_change_of_anything_signed_breaks_the_signature() {
        let info = parse(NIX[0].1).unwrap();
        let verifies = |info: &NarInfo| keys().verify(info.fingerprint(&dir()).as_bytes(), &info.sigs).is_some();
        assert!(verifies(&info));
        let path = StorePath::parse_base(OTHER).unwrap();
        for (what, changed) in [
            ("store path", NarInfo { store_path: path.clone(), ..info.clone() }),
            ("nar hash", NarInfo { nar_hash: Sha256::of(b"else"), ..info.clone() }),
            ("nar size", NarInfo { nar_size: info.nar_size + 1, ..info.clone() }),
            ("references", NarInfo { references: vec![path], ..info.clone() }),
            ("no references", NarInfo { references: Vec::new(), ..info.clone() }),
        ] {
            assert!(!verifies(&changed), "{what}");
        }
        let elsewhere = StoreDir::parse("/srv/store").unwrap();
        assert!(keys().verify(info.fingerprint(&elsewhere).as_bytes(), &info.sigs).is_none());
    }

    #[test]
    fn compressions_of_one_path_differ_in_the_file_only() {
        let fingerprint = parse(NIX[0].1).unwrap().fingerprint(&dir());
        for (name, text) in &NIX[..8] {
            let info = parse(text).unwrap();
            assert_eq!(info.compression.name(), *name);
            assert_eq!(info.fingerprint(&dir()), fingerprint);
        }
    }

    #[test]
    fn what_nix_serve_wrote_is_already_canonical() {
        let info = parse(NIX_SERVE).unwrap();
        assert_eq!(info.render(&dir()), NIX_SERVE);
        assert_eq!((info.file_hash, info.file_size), (None, None));
        assert_eq!(
            info.fingerprint(&dir()),
            "1;/nix/store/n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-hello-2.12.1;\
             sha256:1xp1ak4j2v1inlg6chy2gz3zgna6ywykb5whshgn245b2x3zk095;944;\
             /nix/store/52zv5jzlrqidqcdg79hvz4fcsz53mrdc-rig-busybox-1.0,\
             /nix/store/d2y9kf7fxyf9glxjrfjji1nkz67c3wy6-libgreet-2.4,\
             /nix/store/n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-hello-2.12.1"
        );
    }
}

#[test]
fn lines_are_name_colon_one_blank_value_newline() {
    for line in [
        "References:",
        "References:\tx",
        "References:x",
        "References :x",
        "System:  x",
        "System x",
        " System: x",
        "",
        ": x",
        "Sy stem: x",
        "System: a\rb",
        "System: x\r",
        "System: a\0b",
        "System: a\tb",
        "System: a\u{7f}b",
        "System: a\u{85}b",
        "S\u{e4}: x",
    ] {
        assert!(matches!(with(line), Err(Error::Line { number: 6, .. })), "{line:?}");
    }
    let too_long_name = "x".repeat(65);
    assert!(matches!(with(&format!("{too_long_name}: x")), Err(Error::Line { .. })));
}

#[test]
fn r2_a_reference_line_without_its_blank_does_not_swallow_the_next() {
    // Nix looks for the end of `References:` one character too late and reads the next line as its value.
    let text = minimal().replace("NarHash", "References:\nNarHash");
    assert!(matches!(parse(&text), Err(Error::Line { number: 4, .. })));
}

#[test]
fn the_text_is_utf_8_within_bounds_and_ends_in_a_newline() {
    assert_eq!(parse(minimal().trim_end()), Err(Error::Unterminated));
    assert_eq!(NarInfo::parse(b"System: \xff\n", &dir()), Err(Error::NotText));
    assert_eq!(NarInfo::parse(&vec![b'x'; MAX_LEN + 1], &dir()), Err(Error::TooLong(MAX_LEN + 1)));
    assert_eq!(parse(""), Err(Error::Missing("StorePath")));
    let padded = |length: usize| {
        let field = "System: ".len() + minimal().len() + "\n".len();
        with(&format!("System: {}", "x".repeat(length - field)))
    };
    assert!(padded(MAX_LEN).is_ok(), "1 MiB");
    assert_eq!(padded(MAX_LEN + 1), Err(Error::TooLong(MAX_LEN + 1)));
}

#[test]
fn the_largest_file_is_twice_the_nar_and_a_mebibyte() {
    for (nar_size, largest) in [(1, 1_048_578), (944, 1_050_464), (1 << 40, (1 << 41) + 1_048_576)] {
        assert_eq!(NarInfo::largest_file(nar_size), largest);
    }
    assert_eq!(NarInfo::largest_file(u64::MAX), u64::MAX, "no overflow");
}

#[test]
fn required_fields_are_required() {
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert_eq!(parse(&without(field)), Err(Error::Missing(field)));
    }
    assert!(parse(&minimal()).is_ok());
}

#[test]
fn fields_with_one_value_are_given_once() {
    let deriver = format!("Deriver: {OTHER}");
    let text = format!("{}FileHash: {DIGEST}\nFileSize: 7\nReferences: \n{deriver}\nCA: \n", minimal());
    assert!(parse(&text).is_ok());
    for line in text.lines() {
        let field = line.split_once(':').unwrap().0;
        let error = parse(&format!("{text}{line}\n")).unwrap_err().to_string();
        assert_eq!(error, format!("{field}: given more than once"));
    }
}

#[test]
fn the_store_path_lies_in_the_store_directory() {
    for bad in [
        format!("/gnu/store/{HASH}-hello"),
        format!("{HASH}-hello"),
        format!("/nix/store/{HASH}"),
        format!("/nix/store/{HASH}-a;b"),
        format!("/nix/store/{HASH}-hello/bin"),
        format!("/nix/store/../store/{HASH}-hello"),
    ] {
        let error = replaced("StorePath", &format!("StorePath: {bad}")).unwrap_err();
        assert!(matches!(error, Error::StorePath { field: "StorePath", .. }), "{bad}");
    }
    let elsewhere = StoreDir::parse("/srv/store").unwrap();
    assert!(NarInfo::parse(minimal().as_bytes(), &elsewhere).is_err());
    let info = NarInfo::parse(minimal().replace("/nix/store", "/srv/store").as_bytes(), &elsewhere).unwrap();
    assert!(info.fingerprint(&elsewhere).starts_with("1;/srv/store/"));
}

#[test]
fn a_url_is_one_word_of_bounded_length() {
    for bad in ["", "nar/x y", "nar/\u{e4}", &"x".repeat(1025)] {
        assert!(replaced("URL", &format!("URL: {bad}")).is_err(), "{bad:?}");
    }
    assert!(replaced("URL", &format!("URL: {}", "x".repeat(1024))).is_ok());
}

#[test]
fn sizes_are_plain_decimal() {
    for bad in
        ["", "+1", "-1", "1.0", "0x10", "1 ", "01", "abc", "9223372036854775808", "99999999999999999999", "\u{661}"]
    {
        assert!(matches!(replaced("NarSize", &format!("NarSize: {bad}")), Err(Error::Value { .. })), "{bad:?}");
        assert!(matches!(with(&format!("FileSize: {bad}")), Err(Error::Value { .. })), "{bad:?}");
    }
    assert!(replaced("NarSize", "NarSize: 0").is_err());
    assert_eq!(replaced("NarSize", "NarSize: 9223372036854775807").unwrap().nar_size, u64::MAX / 2);
    assert_eq!(with("FileSize: 0").unwrap().file_size, None);
    assert_eq!(
        replaced("NarSize", "NarSize: abc").unwrap_err().to_string(),
        "NarSize: expected a decimal number greater than 0 and below 2^63, found `abc`"
    );
}

#[test]
fn digests_are_sha_256() {
    for field in ["NarHash", "FileHash"] {
        let bad = format!("{field}: sha1:{}", "0".repeat(40));
        assert!(matches!(replaced(field, &bad), Err(Error::Hash { .. })), "{bad}");
        assert!(matches!(replaced(field, &format!("{field}: ")), Err(Error::Hash { .. })));
    }
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let info = replaced("NarHash", &format!("NarHash: sha256:{empty}")).unwrap();
    assert_eq!(info.nar_hash, Sha256::of(b""));
    assert!(info.render(&dir()).contains("NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\n"));
}

#[test]
fn a_missing_or_empty_compression_is_bzip2() {
    assert_eq!(parse(&without("Compression")).unwrap().compression, Compression::Bzip2);
    assert_eq!(replaced("Compression", "Compression: ").unwrap().compression, Compression::Bzip2);
    assert!(replaced("Compression", "Compression: zip").is_err());
}

#[test]
fn r7_an_uncompressed_file_is_the_nar() {
    let plain = minimal().replace("xz", "none");
    let and = |lines: &str| parse(&format!("{plain}{lines}"));
    assert!(and("").is_ok());
    assert!(and(&format!("FileHash: {DIGEST}\nFileSize: 944\n")).is_ok());
    assert!(and("FileSize: 0\n").is_ok());
    assert!(matches!(
        and(&format!("FileHash: {ZERO_DIGEST}\n")),
        Err(Error::FileIsNotNar { file_field: "FileHash", .. })
    ));
    assert!(matches!(and("FileSize: 945\n"), Err(Error::FileIsNotNar { file_field: "FileSize", .. })));
    assert!(with(&format!("FileHash: {ZERO_DIGEST}\nFileSize: 945")).is_ok(), "compressed, they differ");
}

#[test]
fn r2_references_are_a_sorted_set() {
    assert_eq!(with("References: ").unwrap().references, []);
    let info = with(&format!("References: {HASH}-b  {OTHER} {HASH}-a {HASH}-b ")).unwrap();
    assert!(info.render(&dir()).contains(&format!("\nReferences: {OTHER} {HASH}-a {HASH}-b\n")));
    assert!(
        info.fingerprint(&dir()).ends_with(&format!(";/nix/store/{OTHER},/nix/store/{HASH}-a,/nix/store/{HASH}-b"))
    );
    for bad in [format!("/nix/store/{OTHER}"), format!("{OTHER},{OTHER}"), "x".to_owned(), format!("{OTHER} x")] {
        assert!(with(&format!("References: {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn a_malformed_deriver_ca_or_signature_refuses_the_whole() {
    for line in
        ["Deriver: ", "Deriver: x", "Deriver: /nix/store/x", "CA: sha256:x", "CA: fixed", "Sig: ", "Sig: a:b", "Sig: a"]
    {
        assert!(with(line).is_err(), "{line}");
    }
    assert_eq!(with("Deriver: unknown-deriver").unwrap().deriver, None);
    assert_eq!(with("CA: ").unwrap().ca, None);
}

fn signature(n: usize) -> String {
    let signature = Signature { name: format!("key-{n}"), bytes: [7; 64] };
    format!("Sig: {signature}\n")
}

#[test]
fn signatures_and_unknown_fields_are_kept_in_order_up_to_a_bound() {
    let many = |line: &dyn Fn(usize) -> String, count: usize| {
        parse(&format!("{}{}", minimal(), (0..count).map(line).collect::<String>()))
    };
    let info = many(&signature, MAX_SIGNATURES).unwrap();
    assert_eq!(info.sigs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>()[..2], ["key-0", "key-1"]);
    assert_eq!(many(&signature, MAX_SIGNATURES + 1), Err(Error::TooMany { field: "Sig", most: MAX_SIGNATURES }));
    assert_eq!(many(&|_| signature(0), 2 * MAX_SIGNATURES).unwrap().sigs.len(), 1, "the same once more is no other");

    let unknown = |n: usize| format!("System: {n}\n");
    assert_eq!(many(&unknown, MAX_EXTRA).unwrap().extra[1], ("System".to_owned(), "1".to_owned()));
    assert!(matches!(many(&unknown, MAX_EXTRA + 1), Err(Error::TooMany { .. })));
    let text = with("System: x86_64-linux").unwrap().render(&dir());
    assert!(text.ends_with("\nSystem: x86_64-linux\n"));
}

#[test]
fn errors_quote_no_more_than_the_beginning() {
    let error = with(&format!("Deriver: {}", "\u{1f600}".repeat(100_000))).unwrap_err().to_string();
    assert!(error.len() < 400, "{error}");
}

prop_compose! {
    fn store_path()(digits in "[0-9abcdfghijklmnpqrsvwxyz]{32}", name in "[a-zA-Z0-9+_?=][a-zA-Z0-9+_?=.-]{0,20}") -> StorePath {
        StorePath::parse_base(&format!("{digits}-{name}")).unwrap()
    }
}

prop_compose! {
    fn any_signature()(name in "[!-9;-~]{1,20}", bytes in any::<[[u8; 32]; 2]>()) -> Signature {
        Signature { name, bytes: bytes.concat().try_into().unwrap() }
    }
}

prop_compose! {
    fn any_narinfo()(
        store_path in store_path(),
        url in "[!-~]{1,60}",
        compression in proptest::sample::select(&Compression::ALL[..]),
        file in proptest::option::of((any::<[u8; 32]>(), 1..i64::MAX.unsigned_abs())),
        nar in (any::<[u8; 32]>(), 1..=i64::MAX.unsigned_abs()),
        references in proptest::collection::btree_set(store_path(), 0..5),
        deriver in proptest::option::of(store_path()),
        ca in proptest::option::of("fixed:(r:)?sha256:[01][0-9abcdfghijklmnpqrsvwxyz]{51}"),
        sigs in proptest::collection::hash_set(any_signature(), 0..4),
        extra in proptest::collection::vec(("X[A-Za-z0-9_-]{0,10}", "([!-~][ -~äß]{0,20})?"), 0..4),
    ) -> NarInfo {
        let (nar_hash, nar_size) = (Sha256::from_bytes(nar.0), nar.1);
        let file = if compression == Compression::None { file.map(|_| nar) } else { file };
        NarInfo {
            store_path, url, compression, nar_hash, nar_size, deriver, extra,
            ca: ca.map(|ca| ContentAddress::parse(&ca).unwrap()),
            file_hash: file.map(|(hash, _)| Sha256::from_bytes(hash)),
            file_size: file.map(|(_, size)| size),
            references: references.into_iter().collect(),
            sigs: sigs.into_iter().collect(),
        }
    }
}

proptest! {
    #[test]
    fn parse_undoes_render(info in any_narinfo()) {
        let text = info.render(&dir());
        prop_assert_eq!(parse(&text), Ok(info));
        crate::nix::laws::narinfo(text.as_bytes());
    }

    /// Real texts with bytes replaced, inserted, removed, and lines moved: either refused, or read as Nix reads them.
    #[test]
    fn a_mutated_narinfo_is_refused_or_means_one_thing(
        info in any_narinfo(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5_u8), 1..4),
    ) {
        const BYTES: &[u8] = b" \n\r\t\0:;,/.-=+0129aeUS%\\\xff\xc3";
        let mut text = info.render(&dir()).into_bytes();
        for (place, byte, kind) in edits {
            let (at, byte) = (place.index(text.len()), BYTES[byte.index(BYTES.len())]);
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                2 => drop(text.remove(at)),
                3 => text.truncate(at + 1),
                _ => text = swap_lines(&text, at),
            }
        }
        crate::nix::laws::narinfo(&text);
    }
}

/// The text with the line at byte `at` moved to the end.
fn swap_lines(text: &[u8], at: usize) -> Vec<u8> {
    let start = text[..at].iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
    let end = text[at..].iter().position(|&b| b == b'\n').map_or(text.len(), |newline| at + newline + 1);
    [&text[..start], &text[end..], &text[start..end]].concat()
}
