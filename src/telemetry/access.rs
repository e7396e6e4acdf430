//! The access log's lines, written straight into the queue.
//!
//! There are as many of them as requests. As events of `tracing` they cost a narinfo from memory 14 % of its CPU (9.7 to 11.0 us): the
//! dispatch, a call for each field, and two copies of each line. So they are no events; they look as events look, except that
//! times have six digits, and that there is no colour on a terminal.
//!
//! Out of scope: what stands in a line (`edge::access`).

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use super::queue::Queue;
use crate::clock;

/// Where the lines go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    pub(super) queue: Queue,
    pub(super) json: bool,
}

impl AccessLog {
    /// Writes a line with what `fill` puts into it. Nobody waits for it.
    pub fn write(&self, fill: impl FnOnce(&mut Line)) {
        LINE.with_borrow_mut(|line| {
            line.json = self.json;
            line.begin();
            fill(line);
            line.put(if self.json { "}\n" } else { "\n" });
            self.queue.take(&line.text, false);
        });
    }
}

/// The name of a value, as it stands before it for people and for programs. Made by [`field!`](crate::field): in one piece, since each piece
/// of a line costs as much as the next.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// For people.
    pub text: &'static str,
    /// In JSON.
    pub json: &'static str,
}

/// A [`Field`](crate::telemetry::Field).
#[macro_export]
macro_rules! field {
    ($name:literal) => {
        $crate::telemetry::Field { text: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":") }
    };
}

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// A line that is being written.
#[derive(Debug, Default)]
pub struct Line {
    text: Vec<u8>,
    json: bool,
    /// The second of the line before, and how it is written.
    second: (u64, String),
}

impl Line {
    fn begin(&mut self) {
        let (seconds, micros) = clock::now_to_the_microsecond();
        if self.second.0 != seconds {
            self.second = (seconds, date(seconds));
        }
        self.text.clear();
        let (before, after) = match self.json {
            true => ("{\"timestamp\":\"", "Z\",\"level\":\"INFO\",\"target\":\"access\""),
            false => ("", "Z  INFO access:"),
        };
        self.put(before);
        self.text.extend_from_slice(self.second.1.as_bytes());
        self.text.push(b'.');
        self.digits(u64::from(micros), 6);
        self.put(after);
    }

    /// A word of ours: visible ASCII without quotes and backslashes.
    pub fn word(&mut self, name: Field, word: &str) {
        self.name(name);
        self.quote();
        self.put(word);
        self.quote();
    }

    /// Text that may be anything; what is not plain in it is escaped.
    pub fn text(&mut self, name: Field, text: &dyn Display) {
        self.name(name);
        self.quote();
        let _ = write!(Escaped(&mut self.text), "{text}"); // into a vector, which takes everything
        self.quote();
    }

    /// A number.
    pub fn number(&mut self, name: Field, number: u64) {
        self.name(name);
        self.digits(number, 1);
    }

    /// Seconds, to the microsecond.
    pub fn time(&mut self, name: Field, time: Duration) {
        self.name(name);
        let time = time.saturating_add(Duration::from_nanos(500));
        self.digits(time.as_secs(), 1);
        self.text.push(b'.');
        self.digits(u64::from(time.subsec_micros()), 6);
    }

    /// Where a client is: with its port where that is known, or `unix`.
    pub fn address(&mut self, name: Field, address: Option<SocketAddr>) {
        let Some(SocketAddr::V4(address)) = address else {
            return match address {
                None => self.word(name, "unix"),
                Some(address) if address.port() == 0 => self.text(name, &address.ip()),
                Some(address) => self.text(name, &address),
            };
        };
        self.name(name);
        self.quote();
        for (place, part) in address.ip().octets().into_iter().enumerate() {
            if place > 0 {
                self.text.push(b'.');
            }
            self.digits(part.into(), 1);
        }
        if address.port() != 0 {
            self.text.push(b':');
            self.digits(address.port().into(), 1);
        }
        self.quote();
    }

    fn name(&mut self, name: Field) {
        self.put(if self.json { name.json } else { name.text });
    }

    fn put(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    fn quote(&mut self) {
        if self.json {
            self.text.push(b'"');
        }
    }

    /// The number, with at least so many digits.
    fn digits(&mut self, mut number: u64, least: usize) {
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        while number > 0 || digits.len() - at < least {
            at -= 1;
            digits[at] = b'0' + (number % 10).to_le_bytes()[0];
            number /= 10;
        }
        self.text.extend_from_slice(&digits[at..]);
    }
}

/// Visible ASCII as it is but for quotes and backslashes; the rest as JSON has it, for people too.
struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Without an early end, so that several bytes are looked at in one step.
        let is_odd = |b: u8| !matches!(b, b'!'..=b'~') | (b == b'"') | (b == b'\\');
        if !text.bytes().fold(false, |odd, b| odd | is_odd(b)) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for unit in text.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte @ (b'"' | b'\\')) => self.0.extend([b'\\', byte]),
                Ok(byte) if byte.is_ascii_graphic() => self.0.push(byte),
                _ => self.0.extend_from_slice(format!("\\u{unit:04x}").as_bytes()),
            }
        }
        Ok(())
    }
}

/// A second as it is written in UTC.
fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    let (year, month, day) = date.to_calendar_date();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: bool, fill: impl FnOnce(&mut Line)) -> String {
        let mut line = Line { json, ..Line::default() };
        fill(&mut line);
        String::from_utf8(line.text).unwrap()
    }

    #[test]
    fn each_kind_of_value_is_written_for_people_and_for_programs() {
        let fill = |line: &mut Line| {
            line.word(field!("method"), "GET");
            line.text(field!("path"), &"a b\"");
            line.number(field!("status"), 200);
            line.time(field!("total"), Duration::from_nanos(1_000_002_600));
            line.time(field!("none"), Duration::ZERO);
            line.time(field!("ever"), Duration::MAX);
        };
        assert_eq!(
            line(false, fill),
            " method=GET path=a\\u0020b\\\" status=200 total=1.000003 none=0.000000 ever=18446744073709551615.999999"
        );
        assert_eq!(
            line(true, fill),
            ",\"method\":\"GET\",\"path\":\"a\\u0020b\\\"\",\"status\":200,\"total\":1.000003,\"none\":0.000000,\
             \"ever\":18446744073709551615.999999"
        );
    }

    #[test]
    fn addresses_are_written_as_they_are_everywhere() {
        for (address, told) in [
            (Some("192.0.2.10:65535"), "192.0.2.10:65535"),
            (Some("0.0.0.0:0"), "0.0.0.0"),
            (Some("[2001:db8::1]:443"), "[2001:db8::1]:443"),
            (Some("[2001:db8::1]:0"), "2001:db8::1"),
            (None, "unix"),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(line(false, |line| line.address(field!("client"), address)), format!(" client={told}"));
            assert_eq!(line(true, |line| line.address(field!("client"), address)), format!(",\"client\":\"{told}\""));
        }
    }

    #[test]
    fn numbers_dates_and_odd_text_are_written() {
        let mut line = Line::default();
        for (number, least) in [(0, 1), (7, 6), (u64::MAX, 1), (1_000_000, 6)] {
            line.digits(number, least);
            line.text.push(b' ');
        }
        assert_eq!(String::from_utf8(line.text).unwrap(), "0 000007 18446744073709551615 1000000 ");
        assert_eq!((date(0), date(951_782_400)), ("1970-01-01T00:00:00".to_owned(), "2000-02-29T00:00:00".to_owned()));
        let mut text = Vec::new();
        Escaped(&mut text).write_str("a b\"\\\u{1b}\u{1f4a9}\n").unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "a\\u0020b\\\"\\\\\\u001b\\ud83d\\udca9\\u000a");
        let json: serde_json::Value = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        assert_eq!(json, "a b\"\\\u{1b}\u{1f4a9}\n");
    }
}
