//! Requests: what fields they have, which values these have, and what follows them.

use super::*;

/// A request on stream 1 with these fields and no others.
fn of<N: AsRef<[u8]>, V: AsRef<[u8]>>(name: &str, fields: &[(N, V)], expected: Expected) -> Case {
    case(name, frame(HEADERS, WHOLE, 1, &block(fields)), expected)
}

/// A GET on stream 1 with this field besides.
fn with(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>, expected: Expected) -> Case {
    let (name, value) = (name.as_ref(), value.as_ref());
    let block = [block(&asking("/nix-cache-info")), literal(name, value)].concat();
    let told =
        format!("{:?}: {:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(&value[..value.len().min(40)]));
    case(&told, frame(HEADERS, WHOLE, 1, &block), expected)
}

fn path(path: &str, expected: Expected) -> Case {
    of(&format!(":path {path:?}"), &asking(path), expected)
}

/// RFC 9113 section 8.3: malformed requests are errors of their stream.
#[tokio::test]
async fn pseudo_fields() {
    const PATH: &str = "/nix-cache-info";
    let [method, scheme, authority, whole] = asking(PATH);
    let get_with = |fields: &[(&'static str, &'static str)]| [&asking(PATH)[..], fields].concat();
    let cases = vec![
        of("no :method", &[scheme, authority, whole], Reset(PROTOCOL_ERROR)),
        of("no :scheme", &[method, authority, whole], Reset(PROTOCOL_ERROR)),
        of("no :path", &[method, scheme, authority], Reset(PROTOCOL_ERROR)),
        of("no pseudo-field", &[("accept", "*/*")], Reset(PROTOCOL_ERROR)),
        of("no field", &[] as &[(&str, &str)], Reset(PROTOCOL_ERROR)),
        of("neither :authority nor host", &[method, scheme, whole], Status(400)),
        of("host alone", &[method, scheme, whole, ("host", "localhost")], Status(200)),
        of("two hosts", &[method, scheme, whole, ("host", "a"), ("host", "b")], Status(400)),
        of("two :method", &get_with(&[(":method", "GET")]), Reset(PROTOCOL_ERROR)),
        of("two :path", &get_with(&[(":path", "/metrics")]), Reset(PROTOCOL_ERROR)),
        of("two :authority", &get_with(&[(":authority", "elsewhere")]), Reset(PROTOCOL_ERROR)),
        of("two :scheme", &get_with(&[(":scheme", "https")]), Reset(PROTOCOL_ERROR)),
        of(":status", &get_with(&[(":status", "200")]), Reset(PROTOCOL_ERROR)),
        of(":path last", &[method, scheme, authority, ("accept", "*/*"), whole], Reset(PROTOCOL_ERROR)),
        of("empty :path", &[method, scheme, authority, (":path", "")], Reset(PROTOCOL_ERROR)),
        // The host chooses nothing here (R21), so that the two differ is of no consequence. RFC 9113 section 8.3.1 lets a server
        // refuse it.
        of(":authority and host differ", &get_with(&[("host", "elsewhere")]), Status(200)),
        of("empty :authority", &[method, scheme, (":authority", ""), whole], Reset(PROTOCOL_ERROR)),
        // Section 8.3.1 forbids it to clients. Nobody here reads it, and no link is made of it.
        of("userinfo", &[method, scheme, (":authority", "user@localhost"), whole], Status(200)),
        of("a blank in :authority", &[method, scheme, (":authority", "local host"), whole], Reset(PROTOCOL_ERROR)),
        of("a path in :authority", &[method, scheme, (":authority", "localhost/x"), whole], Reset(PROTOCOL_ERROR)),
        of(":scheme http", &[method, (":scheme", "http"), authority, whole], Status(200)),
        of(":scheme ftp", &[method, (":scheme", "ftp"), authority, whole], Status(400)),
        of(":scheme of none", &[method, (":scheme", ""), authority, whole], Status(400)),
        of(":scheme with a blank", &[method, (":scheme", "ht tp"), authority, whole], Reset(PROTOCOL_ERROR)),
        of(":scheme with a URL", &[method, (":scheme", "https://evil/?"), authority, whole], Reset(PROTOCOL_ERROR)),
        of("GET by a blank", &[(":method", "GET /"), scheme, authority, whole], GoAway(PROTOCOL_ERROR)),
        of("an empty method", &[(":method", ""), scheme, authority, whole], GoAway(PROTOCOL_ERROR)),
        of("get", &[(":method", "get"), scheme, authority, whole], Status(405)),
        of("POST", &[(":method", "POST"), scheme, authority, whole], Status(405)),
        of("TRACE", &[(":method", "TRACE"), scheme, authority, whole], Status(405)),
        of("PRI", &[(":method", "PRI"), scheme, authority, (":path", "*")], Status(405)),
        of("OPTIONS *", &[(":method", "OPTIONS"), scheme, authority, (":path", "*")], Status(405)),
        of("CONNECT", &[(":method", "CONNECT"), authority], Status(405)),
        of("CONNECT with :path", &[(":method", "CONNECT"), scheme, authority, whole], Reset(PROTOCOL_ERROR)),
        of(
            "extended CONNECT",
            &[(":method", "CONNECT"), (":protocol", "websocket"), scheme, authority, whole],
            Reset(PROTOCOL_ERROR),
        ),
        of(":protocol on GET", &get_with(&[(":protocol", "websocket")]), Reset(PROTOCOL_ERROR)),
        of("an unknown pseudo-field", &get_with(&[(":snow", "bank")]), GoAway(PROTOCOL_ERROR)),
        path("*", Status(400)),
        path("nix-cache-info", Reset(PROTOCOL_ERROR)),
        path("https://localhost/nix-cache-info", Reset(PROTOCOL_ERROR)),
        path("//nix-cache-info", Status(404)),
        path("/../nix-cache-info", Status(404)),
        path("/nix-cache-info#x", Status(200)),
        path("/nix cache-info", Reset(PROTOCOL_ERROR)),
        path("/nix-cache-info\0", Reset(PROTOCOL_ERROR)),
        path("/nix-cache-info\r\nX: y", Reset(PROTOCOL_ERROR)),
        path("/nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics", Reset(PROTOCOL_ERROR)),
        path(&format!("/{}", "a".repeat(2048)), Status(414)),
        path(&format!("/{}", "a".repeat(15_000)), Status(414)),
    ];
    all(cases).await;
}

/// RFC 9113 section 8.2.
#[tokio::test]
async fn fields() {
    let mut cases: Vec<Case> = [
        ("connection", "close"),
        ("connection", "x"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ]
    .into_iter()
    .map(|(name, value)| with(name, value, Reset(PROTOCOL_ERROR)))
    .collect();
    // What cannot be a name or value is an error of the whole connection to the library. To end more than was asked for harms
    // only who sent it.
    for name in ["Accept", "a b", "a:b", "a\r", "a\n", "a\0", "", "\u{e9}", "a\r\nhost", "transfer-encoding "] {
        cases.push(with(name, "x", GoAway(PROTOCOL_ERROR)));
    }
    for value in ["a\r", "a\n", "a\0", "a\r\nhost: x", "\u{1b}[31m", "\u{7f}"] {
        cases.push(with("accept", value, GoAway(PROTOCOL_ERROR)));
    }
    // They go nowhere: no request is written from what a client sends (R13, R16).
    cases.extend([
        with("accept", " x", Status(200)),
        with("accept", "x ", Status(200)),
        with("accept", "\u{e9}", Status(200)),
        with("te", "trailers", Status(200)),
        with("http2-settings", "AAMAAABk", Status(200)),
        with("authorization", "Basic \u{e9}", Status(200)),
        with("expect", "100-continue", Status(200)),
        with("x-forwarded-for", "127.0.0.1", Status(200)),
        with("cookie", "a=b", Status(200)),
        with("range", "bytes=0-0,1-1,2-2", Status(200)),
        with("content-length", "0", Status(200)),
        with("x", "a".repeat(9_000), Status(200)),
        with("x", "a".repeat(16_300), Status(431)),
    ]);
    all(cases).await;
}

/// Requests have no bodies (R20).
#[tokio::test]
async fn bodies() {
    let open = |fields: &[(&str, &str)]| {
        frame(HEADERS, END_HEADERS, 1, &block(&[&asking("/nix-cache-info")[..], fields].concat()))
    };
    let trailers = |fields: &[(&str, &str)], flags: u8| frame(HEADERS, flags, 1, &block(fields));
    let cases = vec![
        case("GET that goes on", open(&[]), Status(400)),
        case("GET with DATA", [open(&[]), frame(DATA, END_STREAM, 1, b"body")].concat(), Status(400)),
        case("GET with empty DATA", [open(&[]), frame(DATA, END_STREAM, 1, b"")].concat(), Status(400)),
        case("GET with trailers", [open(&[]), trailers(&[("x", "y")], WHOLE)].concat(), Status(400)),
        case("trailers that go on", [open(&[]), trailers(&[("x", "y")], END_HEADERS)].concat(), Reset(PROTOCOL_ERROR)),
        // The library leaves it to us, who refused the request before it had any trailers.
        case("pseudo-field in trailers", [open(&[]), trailers(&[(":path", "/metrics")], WHOLE)].concat(), Status(400)),
        of("length and no body", &[&asking("/nix-cache-info")[..], &[("content-length", "5")]].concat(), Reset(1)),
        of("no length", &[&asking("/nix-cache-info")[..], &[("content-length", "x")]].concat(), Reset(1)),
        of(
            "two lengths",
            &[&asking("/nix-cache-info")[..], &[("content-length", "0"), ("content-length", "5")]].concat(),
            Reset(1),
        ),
        case(
            "longer than its length",
            [open(&[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"body")].concat(),
            Reset(PROTOCOL_ERROR),
        ),
        case(
            "shorter than its length",
            [open(&[("content-length", "9")]), frame(DATA, END_STREAM, 1, b"body")].concat(),
            Reset(PROTOCOL_ERROR),
        ),
        case(
            "as long as its length",
            [open(&[("content-length", "4")]), frame(DATA, END_STREAM, 1, b"body")].concat(),
            Status(400),
        ),
        // More is ended here than section 5.1 asks for, and nothing is left to be made to reset (CVE-2025-8671).
        case(
            "DATA after the end",
            [get(1, "/nix-cache-info"), frame(DATA, END_STREAM, 1, b"body")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "HEADERS after the end",
            [get(1, "/nix-cache-info"), get(1, "/nix-cache-info")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        after_one("DATA when all is over", frame(DATA, END_STREAM, 1, b"body"), Reset(STREAM_CLOSED)),
        after_one("HEADERS when all is over", get(1, "/nix-cache-info"), GoAway(PROTOCOL_ERROR)),
        after_one("RST_STREAM when all is over", cancel(1), Ignored),
        after_one("WINDOW_UPDATE when all is over", window(1, 1), Ignored),
        after_one("PRIORITY when all is over", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]), Ignored),
    ];
    all(cases).await;
}
