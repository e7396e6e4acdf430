//! HTTP/2 as frames on a TLS stream, right or wrong: what a test writes is what the server reads.
//!
//! ```text
//! let mut wire = Wire::to(&snowbank.https()).await;
//! wire.send(&[get(1, "/nix-cache-info"), frame(PING, 0, 0, &[0; 7])].concat()).await;
//! wire.until(|seen| seen.has_ended(1)).await;
//! ```
//!
//! Header blocks are literals without indexing (RFC 7541 section 6.2.2), unless a test writes the bytes itself. Of answers only what
//! tests ask about is kept ([`Seen`]): a status, an end, a reset, the farewell.

use super::client::{Target, tls};
use super::within;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Also ACK.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;
/// A whole request.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// RFC 9113 section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame; `length` may differ from what is in it by [`frame_of_length`].
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of_length(payload.len(), kind, flags, stream, payload)
}

/// A frame that says of itself to be so long.
pub fn frame_of_length(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("a length of a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One field as a literal that neither end has to remember.
pub fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name.as_ref(), value.as_ref()] {
        integer(0, 7, text.len(), &mut bytes);
        bytes.extend_from_slice(text);
    }
    bytes
}

/// RFC 7541 section 5.1: an integer in the last `bits` bits of a byte that begins with `pattern`.
pub fn integer(pattern: u8, bits: u32, mut value: usize, to: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        to.push(pattern | u8::try_from(value).expect("below 256"));
        return;
    }
    to.push(pattern | u8::try_from(most).expect("below 256"));
    value -= most;
    while value >= 128 {
        to.push(u8::try_from(value % 128).expect("below 128") | 128);
        value /= 128;
    }
    to.push(u8::try_from(value).expect("below 128"));
}

/// Fields as a header block.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// The pseudo-fields of a GET.
pub fn asking(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}

/// A whole GET.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(&asking(path)))
}

/// RST_STREAM with CANCEL.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// SETTINGS with one of them.
pub fn setting(number: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&number.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// WINDOW_UPDATE.
pub fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// What a server said so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The error code of the last GOAWAY.
    pub goaway: Option<u32>,
    /// Streams that the server reset, with the error code.
    pub resets: BTreeMap<u32, u32>,
    /// Streams that were answered, with the status; 0 where it is none that this reads.
    pub statuses: BTreeMap<u32, u16>,
    /// Streams whose answer ended.
    pub ended: BTreeSet<u32>,
    /// Bytes in DATA frames.
    pub body: usize,
    /// Acknowledged SETTINGS and PINGs.
    pub acks: usize,
    /// The connection is closed.
    pub closed: bool,
}

impl Seen {
    /// The stream's answer is whole.
    pub fn has_ended(&self, stream: u32) -> bool {
        self.ended.contains(&stream)
    }
}

/// A connection that speaks HTTP/2 as the test says.
pub struct Wire {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
    /// What came so far.
    pub seen: Seen,
}

impl Wire {
    /// A connection on which nothing has been sent, not even the preface.
    pub async fn bare(target: &Target) -> Self {
        let Target::Https(address, authority) = target else { panic!("HTTP/2 is spoken over TLS only") };
        let stream = tls(*address, authority, &[b"h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the server chose HTTP/2");
        Self { stream, unread: Vec::new(), seen: Seen::default() }
    }

    /// A connection that begins as it should.
    pub async fn to(target: &Target) -> Self {
        let mut wire = Self::bare(target).await;
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        wire
    }

    /// Sends these bytes, to a server that may have had enough of them: false when it closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("send", self.try_send(bytes)).await.is_ok()
    }

    /// The same without a limit of time.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads until this holds or the connection is closed.
    pub async fn until(&mut self, holds: impl Fn(&Seen) -> bool) -> &Seen {
        while !self.seen.closed && !holds(&self.seen) {
            within("a frame", self.read()).await;
        }
        &self.seen
    }

    async fn read(&mut self) {
        let mut some = [0; 16 << 10];
        match self.stream.read(&mut some).await {
            Ok(0) | Err(_) => self.seen.closed = true,
            Ok(n) => self.unread.extend_from_slice(&some[..n]),
        }
        let mut at = 0;
        while let Some((kind, flags, stream, payload)) = first_frame(&self.unread[at..]) {
            at += 9 + payload.len();
            match kind {
                HEADERS => {
                    self.seen.statuses.insert(stream, status(payload));
                }
                DATA => self.seen.body += payload.len(),
                RST_STREAM => {
                    self.seen.resets.insert(stream, number(payload));
                }
                GOAWAY => self.seen.goaway = Some(number(&payload[4..])),
                SETTINGS | PING if flags & ACK != 0 => self.seen.acks += 1,
                _ => {}
            }
            if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                self.seen.ended.insert(stream);
            }
        }
        self.unread.drain(..at);
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn first_frame(bytes: &[u8]) -> Option<(u8, u8, u32, &[u8])> {
    let head = bytes.get(..9)?;
    let length = number(&[0, head[0], head[1], head[2]]) as usize;
    Some((head[3], head[4], number(&head[5..]), bytes.get(9..9 + length)?))
}

/// The status at the start of a header block: in the static table, or a literal with the name from there.
fn status(mut block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    while let [0x20..=0x3f, rest @ ..] = block {
        block = rest; // the size of the dynamic table, below 31 in these tests
    }
    match block {
        [index @ 0x88..=0x8e, ..] => INDEXED[usize::from(index - 0x88)],
        [0x48, length @ 0x81..=0x83, rest @ ..] => huffman_digits(&rest[..usize::from(length & 7)]),
        _ => 0,
    }
}

/// RFC 7541 appendix B: `0`, `1` and `2` have five bits, the other digits six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * bytes.len());
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 27;
        let (digit, length) = if five < 3 { (five, 5) } else { ((bits << at >> 26) - 0x16, 6) };
        value = value * 10 + digit;
        at += length;
    }
    u16::try_from(value).unwrap_or_default()
}
