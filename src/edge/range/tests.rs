use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const ETAG: &str = "\"abc\"";

fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
}

#[test]
fn one_byte_range_is_a_part() {
    for (value, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-99", 0..100),
        ("bytes=0-", 0..100),
        ("bytes=99-", 99..100),
        ("bytes=10-19", 10..20),
        ("bytes=10-1000", 10..100),
        ("bytes=10-99999999999999999999999", 10..100),
        ("bytes=-1", 99..100),
        ("bytes=-100", 0..100),
        ("bytes=-1000", 0..100),
        ("bytes=-99999999999999999999999", 0..100),
        ("Bytes=1-2", 1..3),
        ("bytes= 1-2 ", 1..3),
        ("bytes=,1-2,", 1..3),
        ("bytes=0001-2", 1..3),
    ] {
        assert_eq!(parse(value.as_bytes(), 100), Selected::Part(part), "{value}");
    }
}

#[test]
fn a_range_outside_is_unsatisfiable() {
    for value in ["bytes=100-", "bytes=100-200", "bytes=99999999999999999999999-", "bytes=-0"] {
        assert_eq!(parse(value.as_bytes(), 100), Selected::Unsatisfiable, "{value}");
    }
    assert_eq!(parse(b"bytes=0-", 0), Selected::Unsatisfiable);
    assert_eq!(parse(b"bytes=-5", 0), Selected::Whole, "there is no part of nothing to name");
}

#[test]
fn what_is_no_single_byte_range_gets_the_whole() {
    for value in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=2-1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1-+2",
        "bytes=0x1-2",
        "bytes=0-1,5-6",
        "lines=0-1",
        "bytes 0-1",
        "bytes=١-٢",
    ] {
        assert_eq!(parse(value.as_bytes(), 100), Selected::Whole, "{value}");
    }
    assert_eq!(parse(b"bytes=\xff-1", 100), Selected::Whole);
}

#[test]
fn a_range_is_only_good_for_the_representation_the_client_knows() {
    let part = Selected::Part(1..100);
    assert_eq!(select(&headers(&[(RANGE, "bytes=1-")]), ETAG, 100), part);
    assert_eq!(select(&headers(&[(RANGE, "bytes=1-"), (IF_RANGE, ETAG)]), ETAG, 100), part);
    for other in ["\"abd\"", "W/\"abc\"", "abc", "Sat, 22 Aug 2026 00:00:00 GMT", ""] {
        let asked = headers(&[(RANGE, "bytes=1-"), (IF_RANGE, other)]);
        assert_eq!(select(&asked, ETAG, 100), Selected::Whole, "{other}");
    }
    let twice = headers(&[(RANGE, "bytes=1-"), (RANGE, "bytes=2-")]);
    assert_eq!(select(&twice, ETAG, 100), Selected::Whole);
    assert_eq!(select(&HeaderMap::new(), ETAG, 100), Selected::Whole);
}

#[test]
fn if_none_match_is_a_list_compared_weakly() {
    for value in ["\"abc\"", "W/\"abc\"", "*", "\"x\", \"abc\"", "\"a,b\" ,W/\"abc\"", "  \"abc\"", "\"\",\"abc\""] {
        assert!(none_match_fails(&headers(&[(IF_NONE_MATCH, value)]), ETAG), "{value}");
    }
    for value in ["\"abd\"", "abc", "", "\"abc", "\"x,\"abc\"", "\"ab\"c\"", "w/\"abc\""] {
        assert!(!none_match_fails(&headers(&[(IF_NONE_MATCH, value)]), ETAG), "{value}");
    }
    let lines = headers(&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"abc\"")]);
    assert!(none_match_fails(&lines, ETAG));
    assert!(!none_match_fails(&HeaderMap::new(), ETAG));
}

proptest! {
    #[test]
    fn a_range_is_what_it_says(first in 0..200_u64, length in 1..200_u64, size in 0..300_u64) {
        let last = first + length - 1;
        let expected = match first {
            first if first >= size => Selected::Unsatisfiable,
            first => Selected::Part(first..size.min(last + 1)),
        };
        prop_assert_eq!(parse(format!("bytes={first}-{last}").as_bytes(), size), expected);
    }

    /// P6: the parts of any cutting, joined, are the whole.
    #[test]
    fn parts_join_to_the_whole(size in 1..10_000_u64, step in 1..3_000_u64) {
        let mut at = 0;
        while at < size {
            let value = format!("bytes={at}-{}", at + step - 1);
            let Selected::Part(part) = parse(value.as_bytes(), size) else { panic!("{value} of {size}") };
            prop_assert_eq!(part.start, at);
            at = part.end;
        }
        prop_assert_eq!(at, size);
    }

    #[test]
    fn no_input_breaks_it(input in proptest::collection::vec(any::<u8>(), 0..64)) {
        fuzz(&input);
    }

    #[test]
    fn no_likely_input_breaks_it(size in any::<u64>(), value in "(bytes)?[=,]?[-0-9 ,]{0,30}\n[W/\" ,a*]{0,20}") {
        fuzz(&[&size.to_le_bytes(), value.as_bytes()].concat());
    }
}

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/range");
    let seeds = std::fs::read_dir(corpus).expect("the corpus is in the tree");
    let replayed = seeds.map(|seed| fuzz(&std::fs::read(seed.expect("a seed").path()).expect("a seed"))).count();
    assert!(replayed >= 10);
}
