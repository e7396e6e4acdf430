//! Requests that were right until something happened to them. One seed makes the same ones every time.

/// What a mutation leaves behind where it writes words of its own: nobody may say it again.
pub const MARK: &str = "zqmark";

/// A sequence of mutations.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The one of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).expect("31 bits") % end
    }

    /// One of these.
    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// One of these requests over HTTP/1.1, with one or two things done to it.
    pub fn request(&mut self, seeds: &[String]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone().into_bytes();
        for _ in 0..=self.below(2) {
            match self.below(5) {
                0 => self.bytes(&mut bytes),
                1 => self.lines(&mut bytes),
                2 => self.target(&mut bytes),
                3 => self.fields(&mut bytes),
                _ => {
                    let other = seeds[self.below(seeds.len())].as_bytes();
                    let (end, start) = (self.below(bytes.len() + 1), self.below(other.len()));
                    bytes.truncate(end);
                    bytes.extend_from_slice(&other[start..]);
                }
            }
        }
        bytes
    }

    /// Something about bytes wherever they stand.
    pub fn bytes(&mut self, bytes: &mut Vec<u8>) {
        const ODD: &[u8] = b"\0\x01\t\n\x0b\r\x1b \"#%&+,./:;<=>?@\\^`{|}~\x7f\x80\xff";
        let at = self.below(bytes.len() + 1).min(bytes.len().saturating_sub(1));
        if bytes.is_empty() {
            bytes.push(b'x');
        }
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes.insert(at, ODD[self.below(ODD.len())]),
            2 => bytes[at] = ODD[self.below(ODD.len())],
            3 => {
                let end = (at + 1 + self.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + self.below(16)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ if bytes[at].is_ascii_alphabetic() => bytes[at] ^= 0x20,
            _ => bytes.truncate(at),
        }
    }

    /// Something about lines and their ends.
    fn lines(&mut self, bytes: &mut Vec<u8>) {
        let ends: Vec<usize> = bytes.windows(2).enumerate().filter(|(_, w)| w == b"\r\n").map(|(at, _)| at).collect();
        if ends.is_empty() {
            return bytes.extend(b"\r\n\r\n");
        }
        let nth = self.below(ends.len());
        let (start, end) = (if nth == 0 { 0 } else { ends[nth - 1] + 2 }, ends[nth]);
        match self.below(3) {
            0 => {
                let again = bytes[start..end + 2].to_vec();
                bytes.splice(start..start, again);
            }
            1 => drop(bytes.drain(start..end + 2)),
            _ => {
                let odd: &[u8] =
                    self.one(&[&b"\n"[..], b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"", b"\0"]);
                bytes.splice(end..end + 2, odd.iter().copied());
            }
        }
    }

    /// Something about the request target, if there is one.
    fn target(&mut self, bytes: &mut Vec<u8>) {
        let Some(start) = bytes.iter().position(|b| *b == b' ').map(|at| at + 1) else { return };
        let Some(length) = bytes[start..].iter().position(|b| *b == b' ') else { return };
        let mut target = bytes[start..start + length].to_vec();
        self.path(&mut target);
        bytes.splice(start..start + length, target);
    }

    /// Something about a path.
    pub fn path(&mut self, path: &mut Vec<u8>) {
        let at = self.below(path.len() + 1);
        if self.below(2) == 0 {
            return self.digit(path);
        }
        let length = path.len();
        let mut put = |at: usize, text: &str| drop(path.splice(at..at, text.bytes()));
        match self.below(8) {
            0 => put(
                0,
                self.one(&["http://zqmark.example", "https://h:1", "HTTP://user@h", "ftp://h", "//zqmark", "zqmark"]),
            ),
            1 => put(at, self.one(&["/../", "/./", "//", "/..%2f", "/%2e%2e/", "..\\", "/..;/", "%2f", "%5c", "/"])),
            2 => put(
                at,
                self.one(&["%00", "%0d%0aX-Zqmark:%20zqmark", "%1b[31mzqmark", "%", "%zz", "%c3%a9", "%2525", "%3F"]),
            ),
            3 => put(at, self.one(&["?zqmark=1", "?", "#zqmark", "&zqmark", ";zqmark", "?hash=", "?a?b"])),
            4 => put(
                at,
                self.one(&["\u{1b}[31mzqmark", "\r\nX-Zqmark: zqmark", "\u{9}zqmark", "\u{e9}", "\u{2028}zqmark"]),
            ),
            5 if at < length => {
                let encoded = format!("%{:02x}", path[at]);
                path.splice(at..=at, encoded.bytes());
            }
            6 => put(length, self.one(&[".narinfo", ".ls", ".xz", ".nar", "/", "/zqmark", ".debug", ".doi"])),
            _ => self.bytes(path),
        }
    }

    /// Another digit where there is one: mostly a path of the same kind that nobody asked for yet.
    fn digit(&mut self, path: &mut [u8]) {
        const DIGITS: &[u8] = b"0123456789abcdf0123456789abcdfghijklmnpqrsvwxyz?+";
        let digits: Vec<usize> = (0..path.len()).filter(|at| path[*at].is_ascii_digit()).collect();
        if !digits.is_empty() {
            path[digits[self.below(digits.len())]] = DIGITS[self.below(DIGITS.len())];
        }
    }

    /// A field more, behind the first line.
    fn fields(&mut self, bytes: &mut Vec<u8>) {
        const MORE: [&str; 28] = [
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Content-Length: 0",
            "Content-Length: 5",
            "Host: zqmark.example",
            "Host: zqmark\u{1b}[31m",
            "Authorization: Basic enFtYXJrOnpxbWFyaw==",
            "Authorization: Bearer zqmark",
            "Cookie: zqmark=1",
            "X-Forwarded-For: 192.0.2.1, zqmark",
            "X-Forwarded-Host: zqmark.example",
            "Forwarded: for=zqmark",
            "Via: 1.1 zqmark",
            "Range: bytes=1-zqmark",
            "Range: bytes=0-9",
            "If-None-Match: \"zqmark\"",
            "Accept-Encoding: gzip, zqmark",
            "User-Agent: zqmark",
            "CDN-Loop: snowbank;id=00112233445566aa, zqmark",
            "CDN-Loop: zqmark;id=\"\u{1b}\"",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-zqmark",
            "traceparent: zqmark",
            "tracestate: zqmark=1",
            "X-Original-URL: /zqmark",
            "Connection: zqmark, cdn-loop",
            "Expect: 100-continue",
            "Upgrade: zqmark\r\nConnection: upgrade",
        ];
        let at = bytes.windows(2).position(|w| w == b"\r\n").map_or(bytes.len(), |at| at + 2);
        let line = format!("{}\r\n", MORE[self.below(MORE.len())]);
        bytes.splice(at..at, line.bytes());
    }
}
