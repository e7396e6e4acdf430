//! How one event is written.
//!
//! Lines of the access log are written here, because there are as many as requests: by tracing-subscriber's own way, with a wake
//! of the thread that writes for each of them, they doubled what a narinfo from memory costs (9 us on top of 10). They look the
//! same, except that times have six digits. All other events, and every event on a terminal with colours, are left to it.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::ACCESS;
use crate::clock;

/// Writes access lines by itself, and leaves the others to `rest`.
pub(super) struct Lines<E> {
    pub(super) json: bool,
    pub(super) rest: E,
}

impl<S, N, E> FormatEvent<S, N> for Lines<E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if event.metadata().target() != ACCESS || writer.has_ansi_escapes() {
            return self.rest.format_event(ctx, writer, event);
        }
        LINE.with_borrow_mut(|line| {
            line.text.clear();
            line.json = self.json;
            line.begin(event);
            event.record(line);
            line.text.push_str(if self.json { "}\n" } else { "\n" });
            writer.write_str(&line.text)
        })
    }
}

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// A line that is being written.
#[derive(Default)]
struct Line {
    text: String,
    json: bool,
    /// The second of the line before, and how it is written.
    second: (u64, String),
}

impl Line {
    fn begin(&mut self, event: &Event<'_>) {
        let (seconds, micros) = clock::now_to_the_microsecond();
        if self.second.0 != seconds {
            self.second = (seconds, date(seconds));
        }
        let (before, between, after) = match self.json {
            true => ("{\"timestamp\":\"", "Z\",\"level\":\"", "\",\"target\":\"access\""),
            false => ("", "Z  ", " access:"),
        };
        self.text.push_str(before);
        self.text.push_str(&self.second.1);
        self.text.push('.');
        self.digits(u64::from(micros), 6);
        self.text.push_str(between);
        self.text.push_str(event.metadata().level().as_str());
        self.text.push_str(after);
    }

    fn name(&mut self, field: &Field) {
        let (before, after) = if self.json { (",\"", "\":") } else { (" ", "=") };
        self.text.push_str(before);
        self.text.push_str(field.name());
        self.text.push_str(after);
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
        self.text.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
    }

    /// What `write` writes, as one word or one string.
    fn word(&mut self, write: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) {
        if self.json {
            self.text.push('"');
        }
        // Into a string, which takes everything.
        let _ = write(&mut Escaped(&mut self.text));
        if self.json {
            self.text.push('"');
        }
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.digits(value, 1);
    }

    /// In microseconds: times are the only ones of this kind.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, which is a long time")]
        let micros = (value * 1e6).round() as u64;
        self.digits(micros / 1_000_000, 1);
        self.text.push('.');
        self.digits(micros % 1_000_000, 6);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.word(|text| text.write_str(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        self.word(|text| write!(text, "{value:?}"));
    }
}

/// Visible ASCII as it is but for quotes and backslashes; the rest as JSON has it, for people too.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Without an early end, so that several bytes are looked at in one step.
        let is_odd = |b: u8| !matches!(b, b'!'..=b'~') | (b == b'"') | (b == b'\\');
        if !text.bytes().fold(false, |odd, b| odd | is_odd(b)) {
            self.0.push_str(text);
            return Ok(());
        }
        for unit in text.encode_utf16() {
            match char::from_u32(u32::from(unit)) {
                Some(c @ ('"' | '\\')) => self.0.extend(['\\', c]),
                Some(c) if c.is_ascii_graphic() => self.0.push(c),
                _ => write!(self.0, "\\u{unit:04x}")?,
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

    #[test]
    fn numbers_dates_and_odd_text_are_written() {
        let mut line = Line::default();
        for (number, least) in [(0, 1), (7, 6), (u64::MAX, 1), (1_000_000, 6)] {
            line.digits(number, least);
            line.text.push(' ');
        }
        assert_eq!(line.text, "0 000007 18446744073709551615 1000000 ");
        assert_eq!((date(0), date(951_782_400)), ("1970-01-01T00:00:00".to_owned(), "2000-02-29T00:00:00".to_owned()));
        let mut text = String::new();
        Escaped(&mut text).write_str("a b\"\\\u{1b}\u{1f4a9}\n").unwrap();
        assert_eq!(text, "a\\u0020b\\\"\\\\\\u001b\\ud83d\\udca9\\u000a");
        let json: serde_json::Value = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        assert_eq!(json, "a b\"\\\u{1b}\u{1f4a9}\n");
    }
}
