use proptest::prelude::*;

use super::super::believed::Source;
use super::*;

fn believing(header: Header) -> Forwarded {
    let from = ["10.0.0.0/24", "fd00::/64"].map(|text| text.parse::<Source>().unwrap());
    Forwarded { from: Believed::new(&from), header }
}

fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn x_forwarded_for(lines: &[&str]) -> Option<String> {
    let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", line.as_bytes())).collect();
    believing(Header::XForwardedFor).client(&headers(&lines)).map(|address| address.to_string())
}

fn forwarded(lines: &[&str]) -> Option<String> {
    let lines: Vec<_> = lines.iter().map(|line| ("forwarded", line.as_bytes())).collect();
    believing(Header::Forwarded).client(&headers(&lines)).map(|address| address.to_string())
}

#[test]
fn the_client_is_the_last_who_is_not_believed() {
    for (lines, client) in [
        (&["198.51.100.7"][..], "198.51.100.7"),
        (&["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        (&["203.0.113.9, 198.51.100.7, 10.0.0.5"], "198.51.100.7"),
        (&["203.0.113.9", "198.51.100.7", "10.0.0.5, 10.0.0.6"], "198.51.100.7"),
        (&["198.51.100.7,fd00::5,"], "198.51.100.7"),
        (&["198.51.100.7:4711"], "198.51.100.7"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["::ffff:198.51.100.7"], "198.51.100.7"),
        // All of them are believed: the first is the furthest that is known.
        (&["10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        // What stands left of the client is anybody's, and is not looked at.
        (&["no address, 198.51.100.7"], "198.51.100.7"),
        (&["\"", "\", 198.51.100.7"], "198.51.100.7"),
        (&["10.0.0.5, \u{fc}, 198.51.100.7, 10.0.0.6"], "198.51.100.7"),
    ] {
        assert_eq!(x_forwarded_for(lines).as_deref(), Some(client), "{lines:?}");
    }
}

#[test]
fn what_a_believed_peer_says_badly_is_nothing() {
    let long = ["10.0.0.5"; MOST_HOPS + 1].join(",");
    let just = format!("198.51.100.7,{}", ["10.0.0.5"; MOST_HOPS - 1].join(","));
    let beyond = format!("198.51.100.7,{}", ["10.0.0.5"; MOST_HOPS].join(","));
    assert_eq!(x_forwarded_for(&[&just]).as_deref(), Some("198.51.100.7"));
    for lines in [
        &[][..],
        &[beyond.as_str()],
        &[long.as_str()],
        &[""],
        &[", ,"],
        &["unknown"],
        &["198.51.100.7, unknown"],
        &["198.51.100.7, x, 10.0.0.5"],
        &["198.51.100.07"],
        &["198.51.100.7:"],
        &["198.51.100.7:99999"],
        &["fe80::1%eth0"],
        &["[198.51.100.7]"],
        &["[2001:db8::1"],
        &["\"198.51.100.7\""],
        &["198.51.100.7 10.0.0.5"],
    ] {
        assert_eq!(x_forwarded_for(lines), None, "{lines:?}");
    }
}

#[test]
fn rfc_7239_is_read() {
    for (lines, client) in [
        (&["for=198.51.100.7"][..], "198.51.100.7"),
        (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
        (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
        (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
        (&["for=192.0.2.43", "for=10.0.0.5;host=\"a,b;c\""], "192.0.2.43"),
        (&["proto=https;for=\"198.51.100.7:_hidden\";host=\"a:8443\""], "198.51.100.7"),
        // A client's own quote reaches no further than its own part.
        (&["for=\", for=198.51.100.7"], "198.51.100.7"),
        (&["for=\"", "for=198.51.100.7"], "198.51.100.7"),
        (&["for=\"\\\", for=198.51.100.7;by=10.0.0.4"], "198.51.100.7"),
    ] {
        assert_eq!(forwarded(lines).as_deref(), Some(client), "{lines:?}");
    }
    for lines in [
        &[][..],
        &["for=unknown"],
        &["for=_hidden"],
        &["proto=https"],
        &["for=198.51.100.7;for=192.0.2.1"],
        &["for=198.51.100.7;FOR=192.0.2.1"],
        &["for = 198.51.100.7"],
        &["for=\"198.51.100.7"],
        &["for=198.51.100.7\""],
        &["for=2001:db8::1, for=\"\""],
        &["198.51.100.7"],
    ] {
        assert_eq!(forwarded(lines), None, "{lines:?}");
    }
}

#[test]
fn the_header_that_is_not_named_says_nothing() {
    let both =
        headers(&[("x-forwarded-for", b"198.51.100.7"), ("forwarded", b"for=192.0.2.1"), ("x-real-ip", b"192.0.2.2")]);
    assert_eq!(believing(Header::XForwardedFor).client(&both), Some([198, 51, 100, 7].into()));
    assert_eq!(believing(Header::Forwarded).client(&both), Some([192, 0, 2, 1].into()));
}

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/forwarded");
    let seeds = std::fs::read_dir(corpus).expect("the corpus is in the tree");
    let replayed = seeds.map(|seed| fuzz(&std::fs::read(seed.expect("a seed").path()).expect("a seed"))).count();
    assert!(replayed >= 8);
}

proptest! {
    /// Whatever a client writes, the address that a believed proxy adds at the right is the one that counts.
    #[test]
    fn nothing_that_a_client_writes_decides(
        written in prop::collection::vec("[\\x21-\\x7e \\t\u{e4}]{0,60}", 0..4),
        address: u32,
        proxies in 0_usize..4,
        apart: bool,
    ) {
        let client = std::net::Ipv4Addr::from_bits(address);
        prop_assume!(!believing(Header::XForwardedFor).from.has(Some(client.into())));
        for (header, name) in [(Header::XForwardedFor, "x-forwarded-for"), (Header::Forwarded, "forwarded")] {
            let element = |address: &str| match header {
                Header::XForwardedFor => address.to_owned(),
                Header::Forwarded => format!("for={address};proto=https"),
            };
            let added = [element(&client.to_string())].into_iter().chain((0..proxies).map(|n| element(&format!("10.0.0.{n}"))));
            let added = added.collect::<Vec<_>>().join(", ");
            let mut lines = written.clone();
            match lines.last_mut() {
                Some(last) if !apart => *last = format!("{last}, {added}"),
                _ => lines.push(added),
            }
            let lines: Vec<_> = lines.iter().map(|line| (name, line.as_bytes())).collect();
            prop_assert_eq!(believing(header).client(&headers(&lines)), Some(IpAddr::from(client)));
        }
    }

    /// No text ends anything but the search for an address.
    #[test]
    fn nothing_panics(line in prop::collection::vec(prop_oneof![Just(b','), Just(b'"'), Just(b';'), Just(b'['), Just(b':'), 0x20_u8..0x7f, 0x80_u8..], 0..200)) {
        for (header, name) in [(Header::XForwardedFor, "x-forwarded-for"), (Header::Forwarded, "forwarded")] {
            let _ = believing(header).client(&headers(&[(name, &line)]));
        }
    }
}

#[test]
fn the_scheme_is_what_the_last_proxy_says() {
    let said = |header, name: &'static str, lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| (name, line.as_bytes())).collect();
        believing(header).scheme(&headers(&lines))
    };
    let proto = |lines: &[&str]| said(Header::XForwardedFor, "x-forwarded-proto", lines);
    for (lines, scheme) in [
        (&["https"][..], Some("https")),
        (&["HTTP"], Some("http")),
        (&["https, http"], Some("http")),
        (&["http", "https"], Some("https")),
        (&["wss"], None),
        (&["https,"], None),
        (&[], None),
    ] {
        assert_eq!(proto(lines), scheme, "{lines:?}");
    }
    let forwarded = |lines: &[&str]| said(Header::Forwarded, "forwarded", lines);
    assert_eq!(forwarded(&["for=192.0.2.1;proto=http, for=10.0.0.1; Proto=https;by=x"]), Some("https"));
    assert_eq!(forwarded(&["for=192.0.2.1;proto=\"https\""]), None, "a token needs no quotes");
    assert_eq!(forwarded(&["for=192.0.2.1"]), None);
    assert_eq!(said(Header::Forwarded, "x-forwarded-proto", &["https"]), None, "the other header");
}
