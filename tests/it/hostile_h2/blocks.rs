//! Header blocks: in how many frames they come, and how they are compressed.

use super::*;

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
