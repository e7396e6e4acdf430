//! Which bytes a request asks for, and whether it has them already.
//!
//! Pure functions over header values (RFC 9110 sections 13 and 14). One byte range is served as a part; several, or
//! anything that is not a byte range, are answered with the whole, as section 14.2 allows. Our validator is the strong
//! ETag alone: the bytes under a URL never change, so no date would say more.

use std::ops::Range;

use http::HeaderMap;
use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What of a representation is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// All of it.
    Whole,
    /// These bytes, never none, and never past its end.
    Part(Range<u64>),
    /// The range lies outside of it.
    Unsatisfiable,
}

/// Decides by `Range` and `If-Range` what to send of `size` bytes. `etag` has its quotes.
pub fn select(headers: &HeaderMap, etag: &str, size: u64) -> Selected {
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Selected::Whole };
    // RFC 9110 section 13.1.5: a range is only good for the representation the client has a part of, which takes the
    // strong comparison. A date never matches: we have none.
    let same = headers.get_all(IF_RANGE).iter().all(|validator| validator.as_bytes() == etag.as_bytes());
    if same { parse(range.as_bytes(), size) } else { Selected::Whole }
}

/// Reads the value of `Range` against a representation of `size` bytes.
pub fn parse(value: &[u8], size: u64) -> Selected {
    // Section 14.2: "A server MAY ignore the Range header field", and must ignore an invalid one.
    match single(value) {
        Some(Spec::Suffix(0)) => Selected::Unsatisfiable,
        // Section 14.1.2: a suffix longer than the representation is all of it, even if that is nothing.
        Some(Spec::Suffix(_)) if size == 0 => Selected::Whole,
        Some(Spec::Suffix(length)) => Selected::Part(size.saturating_sub(length)..size),
        Some(Spec::From(first, _)) if first >= size => Selected::Unsatisfiable,
        Some(Spec::From(first, last)) => {
            Selected::Part(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
        }
        None => Selected::Whole,
    }
}

enum Spec {
    /// First and last position; the last is not before the first.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Suffix(u64),
}

/// The one range of a valid `bytes` specifier.
fn single(value: &[u8]) -> Option<Spec> {
    let value = std::str::from_utf8(value).ok()?;
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Section 5.6.1.2: empty elements of a list count for nothing.
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else { return None };
    match spec.split_once('-')? {
        ("", length) => Some(Spec::Suffix(number(length)?)),
        (first, "") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// A number of any length; what does not fit is larger than every size.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Whether `If-None-Match` names what we have, so that 304 is the answer. `etag` has its quotes.
///
/// RFC 9110 section 13.1.2: weak comparison, and `*` matches whatever there is. A malformed list matches nothing.
pub fn none_match_fails(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| lists(value.as_bytes(), etag.as_bytes()))
}

fn lists(value: &[u8], etag: &[u8]) -> bool {
    let mut rest = value.trim_ascii();
    if rest == b"*" {
        return true;
    }
    loop {
        rest = skip_separators(rest);
        let tag = rest.strip_prefix(b"W/").unwrap_or(rest);
        // A tag may hold commas, so it ends with its quote and not with the next comma.
        let Some(end) = tag.strip_prefix(b"\"").and_then(|inside| inside.iter().position(|byte| *byte == b'"')) else {
            return false;
        };
        let (tag, after) = tag.split_at(end + 2);
        if tag == etag {
            return true;
        }
        rest = after;
    }
}

fn skip_separators(value: &[u8]) -> &[u8] {
    let skip = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
    &value[skip..]
}

/// Entry of the fuzz target `range`: eight bytes of size, then the value of `Range`; the rest after a newline is taken
/// for `If-None-Match`.
///
/// # Panics
/// When a part is empty or leaves the representation.
#[allow(clippy::panic)] // what the fuzzer looks for
pub fn fuzz(input: &[u8]) {
    let Some((size, input)) = input.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    if let Selected::Part(part) = parse(lines.next().unwrap_or_default(), size) {
        assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
    }
    let _ = lists(lines.next().unwrap_or_default(), b"\"0123456789abcdfghijklmnpqrsvwxyz\"");
}

#[cfg(test)]
mod tests;
