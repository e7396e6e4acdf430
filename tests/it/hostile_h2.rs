//! Frames over HTTP/2 that are wrong, odd, or meant to wear the server out (R22, R24; RFC 9113, RFC 7541). Behind each comes an
//! honest request on the same connection: it is answered where the fault was one of a stream, and not where it was one of the
//! connection, after which a new connection is served.
//!
//! Floods that go on for long are in `floods`.

use std::time::Duration;

use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::frames::*;
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::snowbank::{Count, Setup};

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The connection ends with this error.
    GoAway(u32),
    /// Stream 1 ends with this error.
    Reset(u32),
    /// Stream 1 is answered with this status.
    Status(u16),
    /// Nothing at all.
    Ignored,
    /// The connection is closed without a word.
    Closed,
}
use Expected::{Closed, GoAway, Ignored, Reset, Status};

struct Case {
    name: String,
    /// Begins with preface and SETTINGS of its own.
    bare: bool,
    /// Sent once all streams below are answered.
    steps: Vec<Vec<u8>>,
    expected: Expected,
}

fn case(name: &str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name: name.to_owned(), bare: false, steps: vec![bytes.into()], expected }
}

fn bare(name: &str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { bare: true, ..case(name, bytes, expected) }
}

/// First a request on stream 1 that is answered, then this.
fn after_one(name: &str, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { steps: vec![get(1, "/nix-cache-info"), bytes.into()], ..case(name, Vec::new(), expected) }
}

/// A stream far above those of the cases.
const HONEST: u32 = 0x00ff_ffff;

async fn found(target: &Target, case: &Case) -> Seen {
    let mut wire = if case.bare { Wire::bare(target).await } else { Wire::to(target).await };
    let (last, before) = case.steps.split_last().expect("a step");
    for step in before {
        wire.send(step).await;
        wire.until(|seen| seen.has_ended(1)).await;
    }
    wire.send(&[last.clone(), get(HONEST, "/nix-cache-info")].concat()).await;
    let is_over = |seen: &Seen| match case.expected {
        Reset(_) => seen.has_ended(HONEST) && seen.resets.contains_key(&1),
        Status(_) => seen.has_ended(HONEST) && seen.has_ended(1),
        Ignored => seen.has_ended(HONEST),
        GoAway(_) | Closed => false,
    };
    // What then is seen shows what was waited for in vain.
    let _ = tokio::time::timeout(Duration::from_secs(20), wire.until(is_over)).await;
    wire.seen
}

async fn differs(target: &Target, case: &Case) -> Option<String> {
    let seen = found(target, case).await;
    let honest = seen.statuses.get(&HONEST) == Some(&200) && seen.has_ended(HONEST) && seen.goaway.is_none();
    let alone = case.steps.len() == 1;
    let is_right = match case.expected {
        GoAway(code) => seen.goaway == Some(code) && seen.closed,
        Reset(code) => honest && seen.resets.get(&1) == Some(&code) && (!alone || !seen.statuses.contains_key(&1)),
        Status(status) => honest && seen.statuses.get(&1) == Some(&status),
        Ignored => honest && seen.resets.is_empty(),
        Closed => seen.closed && seen.goaway.is_none(),
    };
    (!is_right).then(|| format!("{}: {seen:?}, not {:?}", case.name, case.expected))
}

async fn all(cases: Vec<Case>) {
    let (origin, key) = (Origin::start(), Key::new("hostile-h2-1"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let target = snowbank.https();
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(differs(&target, case).await);
        wrong.extend(differs(&target, &self::case(&format!("after {}", case.name), [], Ignored)).await);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    assert_eq!(snowbank.counter(Count::Panics), 0);
}

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

/// RFC 9113 sections 4, 5 and 6: frames that have the wrong length, stream, padding or place.
#[tokio::test]
async fn frames_out_of_shape() {
    let request = block(&asking("/nix-cache-info"));
    let padded = |pad: u8, rest: &[u8]| [&[pad][..], rest].concat();
    let long = vec![0; 16_385];
    let opened = frame(HEADERS, END_HEADERS, 1, &request);
    let mut cases = vec![
        case("DATA on stream 0", frame(DATA, 0, 0, b"x"), GoAway(PROTOCOL_ERROR)),
        case("HEADERS on stream 0", frame(HEADERS, WHOLE, 0, &request), GoAway(PROTOCOL_ERROR)),
        case("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), GoAway(PROTOCOL_ERROR)),
        case("RST_STREAM on stream 0", cancel(0), GoAway(PROTOCOL_ERROR)),
        case("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, &request), GoAway(PROTOCOL_ERROR)),
        case("SETTINGS on stream 1", frame(SETTINGS, 0, 1, &[]), GoAway(PROTOCOL_ERROR)),
        case("PING on stream 1", frame(PING, 0, 1, &[0; 8]), GoAway(PROTOCOL_ERROR)),
        case("GOAWAY on stream 1", frame(GOAWAY, 0, 1, &[0; 8]), GoAway(PROTOCOL_ERROR)),
        case("DATA on an idle stream", frame(DATA, 0, 5, b"x"), GoAway(PROTOCOL_ERROR)),
        case("RST_STREAM on an idle stream", cancel(5), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE on an idle stream", window(5, 1), GoAway(PROTOCOL_ERROR)),
        case("PRIORITY on an idle stream", frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 7]), Ignored),
        case("HEADERS on a stream of the server", get(2, "/nix-cache-info"), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE on a stream of the server", window(2, 1), GoAway(PROTOCOL_ERROR)),
        case(
            "stream ids that go down",
            [get(5, "/nix-cache-info"), get(3, "/nix-cache-info")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("a reserved bit", frame(HEADERS, WHOLE, 1 << 31 | 1, &request), Status(200)),
        case("flags that mean nothing", frame(HEADERS, WHOLE | 0x52, 1, &request), Status(200)),
        case(
            "PUSH_PROMISE",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &request[..]].concat()),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "PUSH_PROMISE on a stream that is there",
            [opened.clone(), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &request[..]].concat())].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        // A frame on which no state depends may be an error of its stream; of the connection it always may be (section 5.4.1).
        case("PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, &[0; 4]), GoAway(PROTOCOL_ERROR)),
        // The library says PROTOCOL_ERROR where the RFC has FRAME_SIZE_ERROR: another word in the farewell.
        case(
            "RST_STREAM of 3 bytes",
            [get(1, "/nix-cache-info"), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "RST_STREAM of 5 bytes",
            [get(1, "/nix-cache-info"), frame(RST_STREAM, 0, 1, &[0; 5])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), GoAway(PROTOCOL_ERROR)),
        case("ACK of SETTINGS with some", frame(SETTINGS, ACK, 0, &[0; 6]), GoAway(PROTOCOL_ERROR)),
        case("PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), GoAway(PROTOCOL_ERROR)),
        case("PING of 9 bytes", frame(PING, 0, 0, &[0; 9]), GoAway(PROTOCOL_ERROR)),
        case("GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, &[0; 7]), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE of 5 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 5]), GoAway(PROTOCOL_ERROR)),
        case("PING nobody asked for", frame(PING, ACK, 0, &[0; 8]), Ignored),
        case("DATA too long", [opened.clone(), frame(DATA, 0, 1, &long)].concat(), GoAway(FRAME_SIZE_ERROR)),
        case("HEADERS too long", frame(HEADERS, WHOLE, 1, &long), GoAway(FRAME_SIZE_ERROR)),
        case("an unknown frame too long", frame(99, 0, 0, &long), GoAway(FRAME_SIZE_ERROR)),
        case(
            "a frame of 16 MiB that does not come",
            frame_of_length(0xff_ffff, DATA, 0, 1, &[]),
            GoAway(FRAME_SIZE_ERROR),
        ),
        case(
            "padded DATA without its length",
            [opened.clone(), frame(DATA, PADDED, 1, &[])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "DATA of more padding than there is",
            [opened.clone(), frame(DATA, PADDED, 1, &[9, 0, 0])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("padded HEADERS without its length", frame(HEADERS, WHOLE | PADDED, 1, &[]), GoAway(PROTOCOL_ERROR)),
        case(
            "HEADERS of more padding than there is",
            frame(HEADERS, WHOLE | PADDED, 1, &padded(255, &request)),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "padded HEADERS",
            frame(HEADERS, WHOLE | PADDED, 1, &[&padded(3, &request)[..], b"xyz"].concat()),
            Status(200),
        ),
        case("HEADERS with half a priority", frame(HEADERS, WHOLE | PRIORITIZED, 1, &[0; 4]), GoAway(PROTOCOL_ERROR)),
        case(
            "HEADERS with a priority",
            frame(HEADERS, WHOLE | PRIORITIZED, 1, &[&[0, 0, 0, 3, 7], &request[..]].concat()),
            Status(200),
        ),
    ];
    // What costs its sender as much as the server, which answers it at most with as much.
    cases.extend([
        case(
            "no DATA, often",
            [opened.clone(), frame(DATA, 0, 1, &[]).repeat(1000)].concat(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case("PRIORITY, often", frame(PRIORITY, 0, 5, &[0, 0, 0, 3, 7]).repeat(10_000), Ignored),
        case("WINDOW_UPDATE, often", window(0, 1).repeat(10_000), Ignored),
        case("SETTINGS, often", frame(SETTINGS, 0, 0, &[]).repeat(2_000), Ignored),
        case("PING, often", frame(PING, 0, 0, &[0; 8]).repeat(2_000), Ignored),
        case("nothing known, often", frame(99, 0, 0, &[]).repeat(10_000), Ignored),
    ]);
    for kind in [10, 12, 16, 0x42, 255] {
        cases.push(case(&format!("frame type {kind}"), frame(kind, 255, 7, b"whatever"), Ignored));
    }
    all(cases).await;
}

/// RFC 9113 sections 3.4 and 6.5.
#[tokio::test]
async fn beginnings_and_settings() {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begun = |bytes: &[u8]| [PREFACE, bytes].concat();
    all(vec![
        // Section 3.4: the GOAWAY may be left out, since this peer may not speak HTTP/2 at all.
        bare("HTTP/1.1 where HTTP/2 was agreed on", b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\n\r\n", Closed),
        bare("no preface", settings.clone(), Closed),
        bare("another preface", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", Closed),
        // No SETTINGS at all first: what the client may be sent is what the RFC has for who says nothing.
        bare("a request before SETTINGS", begun(&get(1, "/nix-cache-info")), Status(200)),
        bare("a PING before SETTINGS", begun(&frame(PING, 0, 0, &[0; 8])), Ignored),
        bare("two prefaces", begun(&[&settings[..], PREFACE].concat()), GoAway(FRAME_SIZE_ERROR)),
        case(
            "ACK of SETTINGS that were not sent",
            [frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("ENABLE_PUSH 2", setting(2, 2), GoAway(PROTOCOL_ERROR)),
        // Another word for it than FLOW_CONTROL_ERROR.
        case("INITIAL_WINDOW_SIZE 2^31", setting(4, 1 << 31), GoAway(PROTOCOL_ERROR)),
        case("MAX_FRAME_SIZE 16383", setting(5, 16_383), GoAway(PROTOCOL_ERROR)),
        case("MAX_FRAME_SIZE 2^24", setting(5, 1 << 24), GoAway(PROTOCOL_ERROR)),
        case("ENABLE_CONNECT_PROTOCOL 2", setting(8, 2), GoAway(PROTOCOL_ERROR)),
        case("an unknown setting", setting(0xfafa, 7), Ignored),
        case("a header table of none", setting(1, 0), Ignored),
        case("a header table of 4 GiB", setting(1, u32::MAX), Ignored),
        case("header lists of none", setting(6, 0), Ignored),
        case("streams of none", setting(3, 0), Ignored),
        case("a hundred settings in one frame", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9].repeat(100)), Ignored),
        case("a farewell", frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0, b'x', 0x1b]), GoAway(NO_ERROR)),
        case("a farewell with an error", frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]), GoAway(NO_ERROR)),
    ])
    .await;
}

/// RFC 9113 sections 5.2 and 6.9, and what MadeYouReset makes of them (CVE-2025-8671): errors of a stream that the server is
/// made to find after it took the request.
#[tokio::test]
async fn windows_and_made_resets() {
    let opened = |stream: u32| frame(HEADERS, END_HEADERS, stream, &block(&asking("/nix-cache-info")));
    let asked = |more: Vec<u8>| [opened(1), more].concat();
    let many = |fault: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..1500).flat_map(|n| [opened(2 * n + 1), fault(2 * n + 1)].concat()).collect()
    };
    // Each is sent before the answer can be out, so what it would reset is there.
    all(vec![
        case("WINDOW_UPDATE 0", asked(window(1, 0)), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE 0 of the connection", window(0, 0), GoAway(PROTOCOL_ERROR)),
        case("an overflow of the stream's window", asked(window(1, 0x7fff_ffff)), Reset(FLOW_CONTROL_ERROR)),
        case("an overflow of the connection's window", window(0, 0x7fff_ffff), GoAway(FLOW_CONTROL_ERROR)),
        case(
            "an overflow by SETTINGS",
            [asked(window(1, 0x7fff_0000)), setting(4, 0x7fff_ffff)].concat(),
            GoAway(FLOW_CONTROL_ERROR),
        ),
        case(
            "HEADERS that depend on themselves",
            frame(HEADERS, WHOLE | PRIORITIZED, 1, &[0, 0, 0, 1, 7]),
            Reset(PROTOCOL_ERROR),
        ),
        case("PRIORITY that depends on itself", asked(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 7])), Reset(PROTOCOL_ERROR)),
        case("many overflows", many(&|n| window(n, 0x7fff_ffff)), GoAway(ENHANCE_YOUR_CALM)),
        case(
            "many that depend on themselves",
            many(&|n| frame(PRIORITY, 0, n, &[&n.to_be_bytes()[..], &[7]].concat())),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "many DATA after the end",
            many(&|n| [frame(DATA, END_STREAM, n, &[]), frame(DATA, 0, n, b"x")].concat()),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "many malformed",
            (0..1500).flat_map(|n| frame(HEADERS, WHOLE, 2 * n + 1, &literal("te", "x"))).collect::<Vec<_>>(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "rapid reset",
            (0..200).flat_map(|n| [get(2 * n + 1, "/nix-cache-info"), cancel(2 * n + 1)].concat()).collect::<Vec<_>>(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
    ])
    .await;
}

/// RFC 9113 section 6.10; CVE-2024-27316 and its kin.
#[tokio::test]
async fn continuations() {
    let request = block(&asking("/nix-cache-info"));
    let start = |flags: u8, block: &[u8]| frame(HEADERS, flags, 1, block);
    let go_on = |flags: u8, block: &[u8]| frame(CONTINUATION, flags, 1, block);
    let (first, second) = request.split_at(11);
    let cases = vec![
        case("CONTINUATION first", go_on(END_HEADERS, &request), GoAway(PROTOCOL_ERROR)),
        case(
            "CONTINUATION after all",
            [start(WHOLE, &request), go_on(END_HEADERS, &[])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("in two", [start(END_STREAM, first), go_on(END_HEADERS, second)].concat(), Status(200)),
        case("nothing, then all", [start(END_STREAM, &[]), go_on(END_HEADERS, &request)].concat(), Status(200)),
        case("all, then nothing", [start(END_STREAM, &request), go_on(END_HEADERS, &[])].concat(), Status(200)),
        case("PING between", [start(END_STREAM, first), frame(PING, 0, 0, &[0; 8])].concat(), GoAway(PROTOCOL_ERROR)),
        case("HEADERS between", [start(END_STREAM, first), get(3, "/")].concat(), GoAway(PROTOCOL_ERROR)),
        case("DATA between", [start(0, first), frame(DATA, 0, 1, b"x")].concat(), GoAway(PROTOCOL_ERROR)),
        case(
            "SETTINGS between",
            [start(END_STREAM, first), frame(SETTINGS, 0, 0, &[])].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "an unknown frame between",
            [start(END_STREAM, first), frame(99, 0, 1, b"x")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "of another stream",
            [start(END_STREAM, first), frame(CONTINUATION, END_HEADERS, 3, second)].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "without end, empty",
            [start(END_STREAM, &request), go_on(0, &[]).repeat(1000)].concat(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "without end, small fields",
            [start(END_STREAM, &request), go_on(0, &literal("a", "b")).repeat(1000)].concat(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "without end, large fields",
            [start(END_STREAM, &request), go_on(0, &literal("a", "b".repeat(16_000))).repeat(100)].concat(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "one value without end",
            [
                start(END_STREAM, &[&request[..], &[0, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 0x07]].concat()),
                go_on(0, &[b'b'; 16_384]).repeat(100),
            ]
            .concat(),
            GoAway(ENHANCE_YOUR_CALM),
        ),
        case(
            "one integer without end",
            [start(END_STREAM, &[&request[..], &[0, 1, b'a', 0x7f]].concat()), go_on(0, &[0xff; 16_384]).repeat(10)]
                .concat(),
            GoAway(PROTOCOL_ERROR),
        ),
    ];
    all(cases).await;
}

/// RFC 7541.
#[tokio::test]
async fn header_compression() {
    let request = block(&asking("/nix-cache-info"));
    let then = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[&request[..], bytes].concat());
    let first = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[bytes, &request[..]].concat());
    // One entry of 4,000 bytes, then references to it at a byte each: 4,000 bytes for one (R27).
    let bomb = |references: usize| {
        let mut field = vec![0x40, 1, b'a'];
        integer(0, 7, 4_000, &mut field);
        field.extend([b'b'; 4_000]);
        field.extend(vec![0x80 | 62; references]);
        then(&field)
    };
    // The library says PROTOCOL_ERROR where the RFC has COMPRESSION_ERROR. The connection ends all the same, which is what counts:
    // the tables of the two ends differ from here on.
    all(vec![
        case("index 0", then(&[0x80]), GoAway(PROTOCOL_ERROR)),
        case("an index that is not there", then(&[0xfe]), GoAway(PROTOCOL_ERROR)),
        case("an index of 2^32", then(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]), GoAway(PROTOCOL_ERROR)),
        case(
            "an index of 2^64",
            then(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            GoAway(PROTOCOL_ERROR),
        ),
        case("an integer of zeros", then(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]), GoAway(PROTOCOL_ERROR)),
        case("an integer that ends", then(&[0xff]), GoAway(PROTOCOL_ERROR)),
        case("a name that ends", then(&[0, 9, b'a']), GoAway(PROTOCOL_ERROR)),
        case("a value that ends", then(&[0, 1, b'a', 9, b'b']), GoAway(PROTOCOL_ERROR)),
        case("a length of 2^28", then(&[0, 0x7f, 0xff, 0xff, 0xff, 0x7f]), GoAway(PROTOCOL_ERROR)),
        case("a field without a value", then(&[0, 1, b'a']), GoAway(PROTOCOL_ERROR)),
        case("huffman: the end of strings", then(&[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]), GoAway(PROTOCOL_ERROR)),
        case("huffman: a byte of padding", then(&[0, 1, b'a', 0x82, 0x1f, 0xff]), GoAway(PROTOCOL_ERROR)),
        case("huffman: padding of zeros", then(&[0, 1, b'a', 0x81, 0x18]), GoAway(PROTOCOL_ERROR)),
        case("huffman: a", then(&[0, 1, b'a', 0x81, 0x1f]), Status(200)),
        case("a table of 4096", first(&[0x3f, 0xe1, 0x1f]), Status(200)),
        case("a table of 4097", first(&[0x3f, 0xe2, 0x1f]), GoAway(PROTOCOL_ERROR)),
        case("a table of 2^32", first(&[0x3f, 0xe0, 0xff, 0xff, 0xff, 0x0f]), GoAway(PROTOCOL_ERROR)),
        case("a table that changes at the end", then(&[0x20]), GoAway(PROTOCOL_ERROR)),
        case("a table of none and back", first(&[0x20, 0x3f, 0xe1, 0x1f]), Status(200)),
        case("tables without end", first(&[0x20; 1000]), Status(200)),
        case(
            "the static table",
            frame(
                HEADERS,
                WHOLE,
                1,
                &[&[0x82, 0x87, 0x41, 9][..], b"localhost", &[0x44, 15], b"/nix-cache-info"].concat(),
            ),
            Status(200),
        ),
        case(
            "an entry larger than the table",
            then(&[&[0x40, 1, b'a', 0x7f, 0x9d, 0x1f][..], &[b'b'; 4124]].concat()),
            Status(200),
        ),
        case("never indexed", then(&[0x10, 1, b'a', 1, b'b']), Status(200)),
        case("a list over 16 KiB", then(&literal("a", "b").repeat(600)), Status(431)),
        case("a bomb of 20 KiB", bomb(4), Status(431)),
        case("a bomb of 40 MiB", bomb(10_000), GoAway(ENHANCE_YOUR_CALM)),
        case(
            "pseudo-fields behind the bomb",
            frame(HEADERS, WHOLE, 1, &[literal("a", "b").repeat(600), request.clone()].concat()),
            Reset(PROTOCOL_ERROR),
        ),
    ])
    .await;
}

/// R22: as many streams as were promised, and those above are refused (which a client may ask again).
#[tokio::test]
async fn more_streams_than_there_may_be() {
    let (origin, key) = (Origin::start(), Key::new("hostile-h2-2"));
    let gate = Gate::new();
    let object = Object::new("waited-for", 1_000);
    let narinfo = Reply::bytes(object.narinfo(&[&key])).gate_before_head(&gate);
    origin.serve(&object.narinfo_target(), narinfo);
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let mut wire = Wire::to(&snowbank.https()).await;
    let asked: Vec<u8> = (0..300).flat_map(|n| get(2 * n + 1, &object.narinfo_target())).collect();
    wire.send(&[window(0, 1 << 20), asked].concat()).await;
    wire.until(|seen| seen.resets.len() == 44).await;
    gate.open();
    let seen = wire.until(|seen| seen.ended.len() == 256).await;
    assert!(seen.resets.iter().all(|(stream, code)| *stream >= 513 && *code == REFUSED_STREAM), "{seen:?}");
    assert!(seen.statuses.values().all(|status| *status == 200), "{seen:?}");
    assert_eq!(origin.total(), 1);
}

/// R24: HTTP/2 is agreed on in the TLS handshake, and in no other way.
#[tokio::test]
async fn http2_without_tls() {
    let (origin, key) = (Origin::start(), Key::new("hostile-h2-3"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    let upgrade = "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    for target in [snowbank.http(), snowbank.unix(), snowbank.https()] {
        let mut connection = target.connect().await;
        connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1, "/nix-cache-info")].concat()).await;
        let answer = String::from_utf8_lossy(&connection.until_closed().await).into_owned();
        assert_eq!(answer, "");
        let mut connection = target.connect().await;
        connection.send(format!("GET /nix-cache-info HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n\r\n").as_bytes()).await;
        let answer = String::from_utf8_lossy(&connection.until_closed().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
}
