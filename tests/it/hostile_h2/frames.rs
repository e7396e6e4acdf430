//! Frames: length, stream, padding and place, and the windows they speak of.

use super::*;

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
