//! What a client of one upstream does, over real sockets.

use super::testing::{Origin, Step, answer, answer_with, not_found, redirect, upstream};
use super::{Asked, Said, Upstream, UpstreamError};

use std::sync::Arc;

/// A NAR from `from` on, with the offset of its first byte.
pub(super) async fn nar(
    upstream: &Arc<Upstream>,
    target: &str,
    from: u64,
) -> Result<Said<(u64, Vec<u8>)>, UpstreamError> {
    let mut opened = match upstream.open(target, from, None).await? {
        Said::Have(opened) => opened,
        Said::HaveNot => return Ok(Said::HaveNot),
    };
    let mut whole = Vec::new();
    while let Some(piece) = opened.body.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(Said::Have((opened.from, whole)))
}

/// What a small thing came to, in a word and its text.
pub(super) async fn small(upstream: &Arc<Upstream>, path: &str) -> String {
    match upstream.small(path, 1000).await {
        Ok(Said::Have(Asked::Whole { body, .. })) => String::from_utf8_lossy(&body).into_owned(),
        Ok(Said::Have(Asked::TooLong(_))) => "too long".into(),
        Ok(Said::HaveNot) => "have not".into(),
        Err(error) => error.to_string(),
    }
}

/// The upstream at this origin, by the name `test`.
fn named(origin: &Origin, more: &str) -> Arc<Upstream> {
    origin.upstream(10, &format!("name = 'test'\n{more}"))
}

mod credentials;

mod redirects {
    use super::*;

    #[tokio::test]
    async fn each_kind_is_followed_to_another_host_with_range_and_query_kept() {
        let bucket = Origin::start(|request| match request.range {
            Some((from, None)) => {
                let fields = format!("Content-Range: bytes {from}-9/10\r\n");
                answer_with("206 Partial Content", &fields, "0123456789"[usize::try_from(from).unwrap()..].to_owned())
            }
            _ => answer("200 OK", "0123456789"),
        })
        .await;
        for status in [301, 302, 303, 307, 308] {
            let location = format!("http://{}/obj?X-Amz-Signature=s%2Fe&n={status}", bucket.address);
            let cache = Origin::start(move |_| redirect(status, &location)).await;
            let upstream = cache.upstream(10, "");
            for from in [0, 4] {
                let Ok(Said::Have((first, body))) = nar(&upstream, "/nar/x", from).await else { panic!("{status}") };
                assert_eq!((first, body.as_slice()), (from, &b"0123456789"[usize::try_from(from).unwrap()..]));
            }
            assert_eq!(small(&upstream, "x.narinfo").await, "0123456789");
            assert_eq!(bucket.asked(&format!("/obj?X-Amz-Signature=s%2Fe&n={status}")), 3);
        }
        for head in bucket.heads() {
            assert!(head.to_lowercase().contains("\r\naccept-encoding: identity\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn a_relative_one_stays_and_what_is_not_there_is_not_there() {
        let cache = Origin::start(|request| match request.target.as_str() {
            "/a/x" => redirect(302, "../b/y?z"),
            "/b/y?z" => answer("200 OK", "found"),
            _ => not_found(),
        })
        .await;
        assert_eq!(small(&named(&cache, ""), "a/x").await, "found");
        let gone = Origin::start(|request| match request.target.as_str() {
            "/gone" => not_found(),
            _ => redirect(307, "/gone"),
        })
        .await;
        assert_eq!(small(&named(&gone, ""), "x").await, "have not");
        assert!(matches!(nar(&named(&gone, ""), "/x", 0).await, Ok(Said::HaveNot)));
    }

    #[tokio::test]
    async fn five_are_followed_and_a_loop_is_unknown() {
        let count = |target: &str| target.trim_start_matches('/').parse::<u32>().unwrap();
        let cache = Origin::start(move |request| match count(&request.target) {
            0 => answer("200 OK", "the end"),
            left => redirect(302, &format!("/{}", left - 1)),
        })
        .await;
        assert_eq!(small(&named(&cache, ""), "5").await, "the end");
        assert_eq!(small(&named(&cache, ""), "6").await, "upstream test sent a redirect after 5 others");
        let round = Origin::start(|_| redirect(302, "/round")).await;
        assert!(small(&named(&round, ""), "round").await.contains("a redirect after 5 others"));
        assert_eq!(round.asked("/round"), 6);
    }

    #[tokio::test]
    async fn r14_a_bad_hop_is_unknown_and_only_its_host_is_told() {
        for (location, told) in [
            ("http://169.254.169.254/latest?secret", "to `169.254.169.254`"),
            ("http://0.0.0.0:80/secret", "to `0.0.0.0`"),
            ("file:///etc/passwd?secret", "neither http nor https"),
            ("http://u:secret@127.0.0.1:1/", "a user name in the address"),
            ("http://127.0.0.1:1/secret", "to `127.0.0.1:1`: "),
        ] {
            let cache = Origin::start(move |_| redirect(302, location)).await;
            let said = small(&named(&cache, ""), "x").await;
            assert!(said.starts_with("upstream test sent a redirect to") && said.contains(told), "{location}: {said}");
            assert!(!said.contains("secret") && !said.contains('\n'), "{said}");
        }
        let nowhere = Origin::start(|_| answer("302 Found", "")).await;
        let said = small(&named(&nowhere, ""), "x").await;
        assert_eq!(said, "upstream test sent a redirect with no Location, or more than one");
    }

    #[tokio::test]
    async fn an_error_of_another_host_is_told_with_its_name() {
        let bucket = Origin::start(|_| answer("403 Forbidden", "expired")).await;
        let location = format!("http://{}/x?secret", bucket.address);
        let cache = Origin::start(move |_| redirect(302, &location)).await;
        let said = small(&named(&cache, "forbidden = 'have-not'"), "x").await;
        assert_eq!(said, format!("upstream test redirected to `{}`, which answered 403 Forbidden", bucket.address));
    }

    #[tokio::test]
    async fn a_long_or_slow_text_beside_a_redirect_does_not_matter() {
        let head = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: ";
        for (length, rest) in [(u64::MAX / 4, "x"), (4000, "y")] {
            let cache = Origin::start(move |request| match request.target.as_str() {
                "/there" => answer("200 OK", "there"),
                _ => vec![
                    Step::Send(format!("{head}{length}\r\n\r\n{rest}").into()),
                    Step::Hold(Arc::new(tokio::sync::Semaphore::new(0))),
                ],
            })
            .await;
            assert_eq!(small(&named(&cache, ""), "x").await, "there");
        }
    }
}

/// What a text that may come encoded came to.
async fn text(encoding: &'static str, body: Vec<u8>) -> String {
    let fields = format!("Content-Encoding: {encoding}\r\n");
    let origin = Origin::start(move |_| answer_with("200 OK", &fields, body.clone())).await;
    match named(&origin, "").narinfo("x", 1000).await {
        Ok(Said::Have(Asked::Whole { body, encoding, .. })) => {
            assert!(encoding.is_none());
            String::from_utf8_lossy(&body).into_owned()
        }
        Ok(Said::Have(Asked::TooLong(_))) => "too long".into(),
        Ok(Said::HaveNot) => "have not".into(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_text_that_comes_encoded_anyway_is_decoded_within_its_limit() {
    let zstd = |plain: &[u8]| zstd::encode_all(plain, 3).unwrap();
    let gzip = |plain: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, plain).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(text("zstd", zstd(b"StorePath: x")).await, "StorePath: x");
    assert_eq!(text("ZSTD", zstd(&[b'x'; 1000])).await, "x".repeat(1000));
    assert_eq!(text("gzip", gzip(b"StorePath: x")).await, "StorePath: x");
    assert_eq!(text("br", b"\x0b\x02\x80hello\x03".to_vec()).await, "hello");
    assert_eq!(text("identity", b"plain".to_vec()).await, "plain");
    assert_eq!(text("zstd", zstd(&[b'x'; 1001])).await, "too long");
    assert_eq!(text("zstd", zstd(&vec![0; 50 << 20])).await, "too long", "a bomb is not unpacked");
    let whole = zstd(b"StorePath: x");
    assert!(text("zstd", whole[..whole.len() - 1].to_vec()).await.contains("cannot be decoded: zstd: cut"));
    assert!(text("zstd", b"plain".to_vec()).await.contains("cannot be decoded: zstd: damaged"));
    for unknown in ["deflate", "zstd, gzip", "aes128gcm"] {
        let said = text(unknown, whole.clone()).await;
        assert_eq!(said, format!("upstream test sent a body that cannot be decoded: Content-Encoding `{unknown}`"));
    }
}

#[tokio::test]
async fn forbidden_is_unknown_unless_it_was_declared_to_mean_have_not() {
    let bucket = Origin::start(|_| answer("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>")).await;
    assert_eq!(small(&named(&bucket, ""), "x").await, "upstream test answered 403 Forbidden");
    let upstream = named(&bucket, "forbidden = 'have-not'");
    assert_eq!(small(&upstream, "x").await, "have not");
    assert!(matches!(nar(&upstream, "/nar/x", 0).await, Ok(Said::HaveNot)));
}

#[tokio::test]
async fn an_upstream_is_asked_over_a_unix_socket() {
    let origin = Origin::start(|_| answer("200 OK", "over tcp")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let address = origin.address;
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let mut there = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut here, &mut there).await });
        }
    });
    // Nobody listens at the address itself.
    let upstream = upstream("127.0.0.1:1".parse().unwrap(), 10, &format!("socket = '{}'", path.display()));
    assert_eq!(small(&upstream, "x").await, "over tcp");
    assert!(origin.heads()[0].contains("host: 127.0.0.1:1\r\n"), "{:?}", origin.heads());
}

/// How long 100 small questions at once take an upstream whose every answer, with this head, comes after 100 ms.
async fn crowd(head: &'static str) -> std::time::Duration {
    let answer = move |_: &super::testing::Request| {
        vec![Step::Pause(std::time::Duration::from_millis(100)), Step::Send(head.into())]
    };
    let upstream = named(&Origin::start(answer).await, "narinfo_timeout = '60 s'");
    assert_eq!(small(&upstream, "first").await, "have not");
    let begun = tokio::time::Instant::now();
    futures_util::future::join_all((0..100).map(|n| {
        let upstream = Arc::clone(&upstream);
        async move { assert_eq!(small(&upstream, &n.to_string()).await, "have not") }
    }))
    .await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn only_who_may_be_nix_serve_is_asked_by_two_at_a_time() {
    let starman =
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n3\r\nno\n\r\n0\r\n\r\n";
    assert!(crowd(starman).await.as_millis() >= 5000);
    for other in [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
        "HTTP/1.1 404 Not Found\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert!(crowd(other).await.as_millis() < 500, "{other}");
    }
}

#[tokio::test]
async fn how_long_an_answer_takes_does_not_tell_how_long_others_had_its_connection() {
    let origin = Origin::start(|_| answer("200 OK", "x")).await;
    let upstream = named(&origin, "connections = 2");
    let Ok(Said::Have(first)) = upstream.open("/nar/a", 0, None).await else { panic!("there is one connection") };
    let second = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move { upstream.open("/nar/b", 0, None).await }
    });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!second.is_finished());
    drop(first);
    let Ok(Ok(Said::Have(second))) = second.await else { panic!("it is free now") };
    assert!(second.took < std::time::Duration::from_millis(900), "{:?}", second.took);
}
