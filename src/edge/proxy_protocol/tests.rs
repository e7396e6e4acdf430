use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;

/// What is made of these bytes, and how many of them were left in the socket.
async fn taken(bytes: &[u8]) -> (Result<Option<SocketAddr>, Refused>, usize) {
    let mut rest = bytes;
    let read = read(&mut rest).await;
    (read, rest.len())
}

fn client(address: &str) -> Option<SocketAddr> {
    Some(address.parse().unwrap())
}

/// A header of version 2.
fn v2_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [ppp::v2::PROTOCOL_PREFIX, &[command, family], &length, block].concat()
}

fn block_v4() -> Vec<u8> {
    [&[198, 51, 100, 7, 10, 0, 0, 4][..], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn block_v6(source: Ipv6Addr) -> Vec<u8> {
    [&source.octets()[..], &[0; 16], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

#[tokio::test]
async fn what_stands_behind_the_header_is_left_to_others() {
    let v4 = v2_of(0x21, 0x11, &[block_v4(), vec![4, 0, 1, 0]].concat());
    let documented: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let unix = vec![b'x'; 216];
    for (header, expected) in [
        (&b"PROXY TCP4 198.51.100.7 10.0.0.4 4711 443\r\n"[..], client("198.51.100.7:4711")),
        (b"PROXY TCP6 2001:db8::1 :: 4711 443\r\n", client("[2001:db8::1]:4711")),
        (b"PROXY TCP6 ::ffff:198.51.100.7 :: 4711 443\r\n", client("198.51.100.7:4711")),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
        (&v4, client("198.51.100.7:4711")),
        (&v2_of(0x21, 0x21, &block_v6(documented)), client("[2001:db8::1]:4711")),
        (&v2_of(0x21, 0x21, &block_v6(Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped())), client("198.51.100.7:4711")),
        // Neither TCP nor an address.
        (&v2_of(0x21, 0x12, &block_v4()), None),
        (&v2_of(0x21, 0x31, &unix), None),
        (&v2_of(0x21, 0x00, b""), None),
        // Of LOCAL nothing else counts.
        (&v2_of(0x20, 0x00, b""), None),
        (&v2_of(0x20, 0x11, &block_v4()), None),
        (&v2_of(0x20, 0x11, b"short"), None),
        (&v2_of(0x20, 0xff, b"?"), None),
    ] {
        let shown = String::from_utf8_lossy(header);
        for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\nPROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"] {
            let (read, left) = taken(&[header, behind].concat()).await;
            assert_eq!(read.unwrap_or_else(|why| panic!("{shown}: {why}")), expected, "{shown}");
            assert_eq!(left, behind.len(), "{shown}");
        }
    }
}

#[tokio::test]
async fn what_is_no_header_is_refused() {
    let long = format!("PROXY TCP4 198.51.100.7 10.0.0.4 4711 443{}\r\n", " ".repeat(100));
    let largest = v2_of(0x20, 0, &vec![0; LONGEST_V2]);
    assert_eq!(taken(&largest).await.0.unwrap(), None);
    for bytes in [
        &b"GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0",
        b"proxy TCP4 198.51.100.7 10.0.0.4 4711 443\r\n",
        b"PROXY TCP5 198.51.100.7 10.0.0.4 4711 443\r\n",
        b"PROXY TCP4 2001:db8::1 10.0.0.4 4711 443\r\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.4 4711\r\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.4 4711 99999\r\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.4 4711 443\n\n\n\n",
        b"PROXY\r\n\r\n\r\n\r\n\r\n\r\n",
        long.as_bytes(),
        b"PROXY",
        b"P",
        b"\r\n\r\n\0\r\nQUIT\n",
        &v2_of(0x11, 0x11, &block_v4()),
        &v2_of(0x22, 0x11, &block_v4()),
        &v2_of(0x21, 0x41, &block_v4()),
        &v2_of(0x21, 0x11, b"short"),
        &v2_of(0x21, 0x11, &block_v4())[..27],
        &v2_of(0x20, 0, &vec![0; LONGEST_V2 + 1]),
    ] {
        let why = taken(bytes).await.0.expect_err(&String::from_utf8_lossy(bytes));
        assert!(matches!(why, Refused::Malformed(_) | Refused::Broken(_)), "{why:?}");
        assert!(!why.to_string().contains('\n'));
    }
    assert!(matches!(taken(b"").await.0, Err(Refused::Nothing)));
}

#[tokio::test(start_paused = true)]
async fn there_is_a_time_for_it() {
    let (mut client, mut server) = tokio::io::duplex(64);
    client.write_all(b"PROXY TCP4 198.51.100.7").await.unwrap();
    assert!(matches!(read(&mut server).await, Err(Refused::TooSlow)));
    // What cannot become one is not waited for.
    client.write_all(b"G").await.unwrap();
    let (mut client, mut server) = tokio::io::duplex(64);
    client.write_all(b"G").await.unwrap();
    assert!(matches!(read(&mut server).await, Err(Refused::Malformed(_))));
}

#[test]
fn the_corpus_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/proxy_protocol");
    let seeds = std::fs::read_dir(corpus).expect("the corpus is in the tree");
    let replayed = seeds.map(|seed| fuzz(&std::fs::read(seed.expect("a seed").path()).expect("a seed"))).count();
    assert!(replayed >= 8);
}

proptest! {
    /// Whatever comes, it is read within bounds, and of what is taken nothing but the source decides.
    #[test]
    fn no_bytes_panic(prefix in 0_usize..4, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let prefix = [&b""[..], b"PROXY ", b"PROXY TCP4 ", ppp::v2::PROTOCOL_PREFIX][prefix];
        let bytes = [prefix, &rest].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (_, left) = runtime.block_on(taken(&bytes));
        prop_assert!(bytes.len() - left <= FIXED_V2 + LONGEST_V2);
        fuzz(&bytes);
    }

    #[test]
    fn the_source_is_the_client(source: u32, destination: u32, ports: (u16, u16)) {
        let (source, destination) = (Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination));
        let text = format!("PROXY TCP4 {source} {destination} {} {}\r\n", ports.0, ports.1);
        let expected = Some(SocketAddr::from((source, ports.0)));
        prop_assert_eq!(v1(text.as_bytes()).unwrap(), expected);
        let block = [&source.octets()[..], &destination.octets(), &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat();
        prop_assert_eq!(v2(&v2_of(0x21, 0x11, &block)).unwrap(), expected);
    }
}
