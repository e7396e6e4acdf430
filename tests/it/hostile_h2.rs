//! Frames over HTTP/2 that are wrong, odd, or meant to wear the server out (R22, R24; RFC 9113, RFC 7541). Behind each comes an
//! honest request on the same connection: it is answered where the fault was one of a stream, and not where it was one of the
//! connection, after which a new connection is served.
//!
//! Floods that go on for long are in `floods`.

mod blocks;
mod frames;
mod requests;

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
    eprintln!("{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(differs(&target, case).await);
        wrong.extend(differs(&target, &self::case(&format!("after {}", case.name), [], Ignored)).await);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(origin.total(), 0, "{:?}", origin.requests());
    assert_eq!(snowbank.counter(Count::Panics), 0);
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
    wire.until(|seen| seen.resets.len() == 172).await;
    gate.open();
    let seen = wire.until(|seen| seen.ended.len() == 128).await;
    assert!(seen.resets.iter().all(|(stream, code)| *stream >= 257 && *code == REFUSED_STREAM), "{seen:?}");
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
