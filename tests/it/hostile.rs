//! Requests over HTTP/1.1 that are wrong, odd, or meant to be understood in two ways. Each is sent with an honest request right
//! behind it on the same connection: whether that is answered shows where the server saw the first one end.

use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank};

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// This status alone, and the connection is closed.
    Refused(u16),
    /// This status, and the request behind it is answered too.
    Served(u16),
    /// This status, and the connection is closed as was asked for.
    Last(u16),
}
use Expected::{Last, Refused, Served};

const PROBE: &str = "GET /nix-cache-info HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

/// A GET whose head has these lines besides.
fn with(lines: &str) -> Vec<u8> {
    [b"GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n", lines.as_bytes(), b"\r\n\r\n"].concat()
}

fn with_host(line: &[u8]) -> Vec<u8> {
    [b"GET /nix-cache-info HTTP/1.1\r\n", line, b"\r\n"].concat()
}

fn started(line: &[u8]) -> Vec<u8> {
    [line, b"\r\nHost: h\r\n\r\n"].concat()
}

/// The status lines of everything that came until the connection closed.
async fn statuses(target: &Target, request: &[u8]) -> Vec<u16> {
    let mut connection = target.connect().await;
    // It may be closed before all of it was read.
    connection.try_send(&[request, PROBE.as_bytes()].concat()).await;
    let bytes = connection.until_closed().await;
    let text = String::from_utf8_lossy(&bytes);
    let starts = text.match_indices("HTTP/1.").map(|(at, _)| &text[at..]);
    starts.filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect()
}

async fn differs(target: &Target, request: &[u8], expected: Expected) -> Option<String> {
    let found = statuses(target, request).await;
    let is_right = match expected {
        Refused(status) | Last(status) => found == [status],
        Served(status) => found == [status, 200],
    };
    let start = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
    (!is_right).then(|| format!("{start:?}: {found:?}, not {expected:?}"))
}

/// Every request at the plain, the TLS and the unix listener.
async fn all(cases: Vec<(Vec<u8>, Expected)>) {
    let (origin, key) = (Origin::start(), Key::new("hostile-1"));
    let snowbank = Setup::in_front_of(&origin, &key).plain_listener("").start();
    let mut wrong = Vec::new();
    for target in targets(&snowbank) {
        for (request, expected) in &cases {
            wrong.extend(differs(&target, request, *expected).await);
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
}

fn targets(snowbank: &Snowbank) -> [Target; 3] {
    [snowbank.http(), snowbank.https(), snowbank.unix()]
}

#[tokio::test]
async fn r20_nothing_has_a_body() {
    let transfer = [
        "Transfer-Encoding: chunked",
        "transfer-encoding: CHUNKED",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: cow",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Expect: 100-continue\r\nTransfer-Encoding: chunked",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTrailer: Host",
    ];
    let chunks = |line: &str| [with(line), b"0\r\n\r\n".to_vec()].concat();
    let mut cases: Vec<_> = transfer.iter().map(|line| (chunks(line), Refused(400))).collect();
    let lengths = [
        "5",
        "00",
        "+0",
        "-0",
        "-1",
        "0x0",
        "0, 0",
        "0,0",
        "1e1",
        "99999999999999999999",
        "18446744073709551616",
        "\u{663}",
        "",
        "0;",
        "5 5",
        "0\0",
        "5, 5",
        "0.0",
        "\u{b}0",
    ];
    cases.extend(lengths.iter().map(|length| (with(&format!("Content-Length: {length}")), Refused(400))));
    let several = ["0\r\nContent-Length: 5", "5\r\nContent-Length: 0", "5\r\nContent-Length: 5"];
    cases.extend(several.iter().map(|length| (with(&format!("Content-Length: {length}")), Refused(400))));
    cases.push((with("Content-Length: 18446744073709551615"), Refused(431)));
    cases.push((with("Content-Length : 5"), Refused(400)));
    cases.push((with("Content-Length: 5\r\nExpect: 100-continue"), Refused(400)));
    cases.push((with("Connection: Content-Length\r\nContent-Length: 5"), Refused(400)));
    let none = [
        "Content-Length: 0",
        "Content-Length:   0  ",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-length: 00",
        "content-LENGTH:\t0",
    ];
    cases.extend(none.iter().map(|line| (with(line), Served(200))));
    // Names that only look so are of no meaning here, and so are bodies that nobody announced: that is the next request.
    cases.push((with("Transfer_Encoding: chunked"), Served(200)));
    cases.push((with("Content_Length: 5"), Served(200)));
    all(cases).await;
}

#[tokio::test]
async fn r21_each_request_has_one_host() {
    let refused: [&[u8]; 27] = [
        b"",
        b"Host:\r\n",
        b"Host: h\r\nHost: h\r\n",
        b"Host: h\r\nHost: g\r\n",
        b"host: h\r\nHOST: h\r\n",
        b"Host: h h\r\n",
        b"Host: h/x\r\n",
        b"Host: user@h\r\n",
        b"Host: user:password@h\r\n",
        b"Host: @h\r\n",
        b"Host: h:99999\r\n",
        b"Host: h:x\r\n",
        b"Host: h:-1\r\n",
        b"Host: h:80:80\r\n",
        b"Host: [::1\r\n",
        b"Host: ::1\r\n",
        b"Host : h\r\n",
        b"Host: h\0\r\n",
        b"Host: \xff\r\n",
        b"Host: h#f\r\n",
        b"Host: h?q\r\n",
        b"Host: http://h\r\n",
        b"Host: h\\g\r\n",
        b"Host: h\r\n g\r\n",
        b"Host: <script>\r\n",
        b"Host: \"h\"\r\n",
        b"Host: [::1]x\r\n",
    ];
    let served: [&[u8]; 7] = [
        b"Host: h\r\n",
        b"Host: h:\r\n",
        b"Host:\th\r\n",
        b"Host: [::1]\r\n",
        b"Host: [::1]:443\r\n",
        b"Host: 127.0.0.1:80\r\n",
        b"hOsT: cache.example.org:65535\r\n",
    ];
    let refused = refused.iter().map(|line| (with_host(line), Refused(400)));
    all(refused.chain(served.iter().map(|line| (with_host(line), Served(200)))).collect()).await;
}

#[tokio::test]
async fn r22_r24_request_lines() {
    let long = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length)).into_bytes();
    let of = |expected: Expected, lines: &[&[u8]]| -> Vec<(Vec<u8>, Expected)> {
        lines.iter().map(|line| (started(line), expected)).collect()
    };
    let mut cases = of(
        Refused(400),
        &[
            b"GET ftp://h/nix-cache-info HTTP/1.1",
            b"GET file:///etc/passwd HTTP/1.1",
            b"GET * HTTP/1.1",
            b"HEAD * HTTP/1.1",
            b"GET h:80 HTTP/1.1",
            b"GET nix-cache-info HTTP/1.1",
            b"GET  HTTP/1.1",
            b"G\0T / HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"GET /nix-cache-info HTTP/2.0",
            b"GET /nix-cache-info HTTP/3.0",
            b"GET /nix-cache-info HTTP/1.2",
            b"GET /nix-cache-info HTTP/0.9",
            b"GET /nix-cache-info HTTP/1.10",
            b"GET /nix-cache-info HTTP/ 1.1",
            b"GET /nix-cache-info HTTP/1,1",
            b"GET /nix-cache-info http/1.1",
            b"GET /nix-cache-info HTTP/1.1 x",
            b"GET /nix-cache-info",
            b"GET",
            b"GET  /nix-cache-info HTTP/1.1",
            b"GET\t/nix-cache-info\tHTTP/1.1",
            b" GET /nix-cache-info HTTP/1.1",
            b"GET /nix-cache-info  HTTP/1.1",
            b"GET /nix-cache-info HTTP/1.1 ",
            b"GET /nix cache HTTP/1.1",
            b"GET /\x01 HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
            b"GET /\xff HTTP/1.1",
            b"GET \\nix-cache-info HTTP/1.1",
            b"GET /a\0b HTTP/1.1",
            b"GET /a\rb HTTP/1.1",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /nix-cache-info HTTP/1.1",
            b"HTTP/1.1 200 OK",
            b"EHLO h",
            b"SSH-2.0-x",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02",
        ],
    );
    cases.extend(of(
        Refused(405),
        &[
            b"OPTIONS * HTTP/1.1",
            b"OPTIONS /nix-cache-info HTTP/1.1",
            b"CONNECT h:80 HTTP/1.1",
            b"CONNECT /nix-cache-info HTTP/1.1",
            b"TRACE /nix-cache-info HTTP/1.1",
            b"POST /nix-cache-info HTTP/1.1",
            b"PUT /nix-cache-info HTTP/1.1",
            b"DELETE /nix-cache-info HTTP/1.1",
            b"PATCH /nix-cache-info HTTP/1.1",
            b"QUERY /nix-cache-info HTTP/1.1",
            b"PROPFIND /nix-cache-info HTTP/1.1",
            b"get /nix-cache-info HTTP/1.1",
            b"GETT /nix-cache-info HTTP/1.1",
        ],
    ));
    cases.extend(of(
        Served(404),
        &[
            b"GET // HTTP/1.1",
            b"GET /. HTTP/1.1",
            b"GET /%2f HTTP/1.1",
            b"GET //h/nix-cache-info HTTP/1.1",
            b"GET /%00 HTTP/1.1",
            b"GET /../nix-cache-info HTTP/1.1",
            b"GET /./nix-cache-info HTTP/1.1",
            b"GET /nar/../nix-cache-info HTTP/1.1",
            b"GET /nar/..%2fnix-cache-info HTTP/1.1",
            b"GET /%2e%2e/nix-cache-info HTTP/1.1",
            b"GET /nix-cache-info%20 HTTP/1.1",
            b"GET /nix-cache-info%00 HTTP/1.1",
            b"GET /nix-cache-info%0d%0aX:y HTTP/1.1",
            b"GET /nix-cache-info/ HTTP/1.1",
            b"GET /NIX-CACHE-INFO HTTP/1.1",
            b"GET /nix-cache-info;x HTTP/1.1",
            b"GET /.narinfo HTTP/1.1",
            b"GET /metrics HTTP/1.1",
            b"GET /readyz HTTP/1.1",
            b"GET /status HTTP/1.1",
            b"GET /0123456789abcdfghijklmnpqrsvwxy.narinfo HTTP/1.1",
            b"GET /0123456789abcdfghijklmnpqrsvwxyzz.narinfo HTTP/1.1",
            b"GET /e123456789abcdfghijklmnpqrsvwxyz.narinfo HTTP/1.1",
            b"GET /0123456789ABCDFGHIJKLMNPQRSVWXYZ.narinfo HTTP/1.1",
            b"GET /0123456789abcdfghijklmnpqrsvwxyz.narinfo/ HTTP/1.1",
            b"GET /nar/ HTTP/1.1",
            b"GET /nar/x HTTP/1.1",
            b"GET /log/../../etc/passwd HTTP/1.1",
            b"GET /log/%2e%2e/etc/passwd HTTP/1.1",
            b"GET /debuginfo/../x HTTP/1.1",
            b"GET /.well-known/acme-challenge/x HTTP/1.1",
            b"GET /.well-known/acme-challenge/../x HTTP/1.1",
        ],
    ));
    cases.extend(of(
        Served(200),
        &[
            b"GET / HTTP/1.1",
            b"GET /?x HTTP/1.1",
            b"GET http://h HTTP/1.1",
            b"GET http://h/nix-cache-info HTTP/1.1",
            b"GET http://elsewhere.example.org/nix-cache-info HTTP/1.1",
            b"GET HTTPS://h/nix-cache-info HTTP/1.1",
            b"GET /nix-cache-info?x=1 HTTP/1.1",
            // RFC 3986 section 6.2.2.2: the same path.
            b"GET /%6eix-cache-info HTTP/1.1",
        ],
    ));
    cases.extend([
        (started(b"GET /nix-cache-info HTTP/1.0"), Last(200)),
        (started(&long(2046)), Served(404)),
        (started(&long(2048)), Refused(414)),
        (started(&long(20_000)), Refused(431)),
    ]);
    all(cases).await;
}

#[tokio::test]
async fn r22_fields_and_ends_of_lines() {
    let many = |n: usize| (0..n).map(|n| format!("X{n}: y")).collect::<Vec<_>>().join("\r\n");
    let refused = [
        "X",
        ": y",
        "X y: z",
        "X\t: y",
        "X:\u{1}",
        "X: \u{7f}",
        "X: a\rb",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X\0: y",
        "X: y\0",
        "(X): y",
        "X\r: y",
        "\u{e9}: y",
        "X: y\r\r",
    ];
    let mut cases: Vec<_> = refused.iter().map(|line| (with(line), Refused(400))).collect();
    let served = [
        "X: \u{e9}",
        "X:",
        "X: a:b",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
        "Upgrade: TLS/1.2\r\nConnection: Upgrade",
        "Expect: 100-continue",
        "Expect: 200-ok",
        "Connection: Content-Length, Host",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X",
        "Range: bytes=0-0",
        "Range: bytes=abc",
        "Range: bytes=5-1",
        "Range: lines=0-1",
        "Range: bytes=-0",
        "Range: bytes=0-0,2-2,4-4,6-6,8-8",
        "Range: bytes=0-18446744073709551615",
        "Range: bytes=18446744073709551616-",
        "Range: bytes=0-1\r\nRange: bytes=2-3",
        "If-Modified-Since: garbage",
        "If-None-Match: \"",
        "If-Match: x",
        "If-Range: x",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: elsewhere.example.org",
        "X-Original-URL: /metrics",
        "X-Rewrite-URL: /metrics",
        "X-HTTP-Method-Override: DELETE",
        "Authorization: Basic AAAA",
        "Authorization: Bearer",
        "Authorization: \u{e9}\r\nAuthorization: Basic x",
        "Proxy-Authorization: Basic AAAA",
        "Cookie: a=b",
        "Forwarded: for=1",
        "Max-Forwards: 0",
        "Cache-Control: only-if-cached",
        "Via: 1.1 x",
        "Content-Encoding: gzip",
        "Content-Type: text/html",
        "CDN-Loop: x, x, snowbank;id=, snowbank",
        "Accept: \r\nAccept-Encoding: *;q=0",
    ];
    cases.extend(served.iter().map(|line| (with(line), Served(200))));
    let head = |end: &str| {
        let lines = ["GET /nix-cache-info HTTP/1.1", "Host: h", "", ""];
        lines.join(end).into_bytes()
    };
    cases.extend([
        (with("Connection: close"), Last(200)),
        (with("Connection: close, Host"), Last(200)),
        (with("Connection: keep-alive, CLOSE"), Last(200)),
        (with(&format!("X: {}", "a".repeat(8000))), Served(200)),
        (with(&format!("X: {}", "a".repeat(17_000))), Refused(431)),
        (with(&format!("{}: y", "X".repeat(17_000))), Refused(431)),
        (with(&many(98)), Served(200)),
        (with(&many(120)), Refused(431)),
        // RFC 9112 section 2.2 lets a server take LF for the end of a line, and ignore empty lines before a request.
        (head("\n"), Served(200)),
        (head("\r"), Refused(400)),
        (head("\r\r\n"), Refused(400)),
        ([b"\r\n\r\n".to_vec(), head("\r\n")].concat(), Served(200)),
        (vec![0; 100], Refused(400)),
        ((128..=255).collect(), Refused(400)),
    ]);
    all(cases).await;
}

/// What reaches an upstream was written here, whatever clients write.
#[tokio::test]
async fn r13_r16_nothing_of_a_request_reaches_an_upstream_but_what_is_asked_for() {
    let (origin, key) = (Origin::start(), Key::new("hostile-1"));
    let object = Object::new("asked-for", 3_000);
    origin.publish(&object, &key);
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let fields = [
        "Authorization: Basic c2VjcmV0",
        "Cookie: canary=1",
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=192.0.2.1",
        "Via: 1.1 canary",
        "User-Agent: canary",
        "Referer: canary",
        "Accept: canary/canary",
        "Accept-Encoding: canary",
        "Accept-Language: canary",
        "Origin: canary",
        "Cache-Control: no-cache",
        "If-None-Match: \"canary\"",
        "Range: bytes=1-2",
        "TE: trailers",
        "Upgrade: canary",
        "X-Canary: 1",
    ];
    let target = format!("{}?canary=1", object.narinfo_target());
    let request = format!("GET {target} HTTP/1.1\r\nHost: canary.example.org\r\n{}\r\n\r\n", fields.join("\r\n"));
    assert_eq!(statuses(&snowbank.http(), request.as_bytes()).await, [200, 200]);
    let sent = origin.requests();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].target, object.narinfo_target());
    let told = format!("{:?}", sent[0]).to_lowercase();
    for word in ["canary", "secret", "192.0.2.1", "c2vjcmv0", "no-cache", "bytes=", "trailers"] {
        assert!(!told.contains(word), "{word} in {told}");
    }
    // The trace is one of our own: the client showed none.
    let mine = ["host", "user-agent", "accept", "accept-encoding", "cdn-loop", "traceparent"];
    assert!(sent[0].fields.iter().all(|(name, _)| mine.contains(&name.to_lowercase().as_str())), "{told}");
}
