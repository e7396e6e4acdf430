//! HTTP/1.1 as bytes on a stream: heads read and nothing interpreted, for both ends of the wire.
//!
//! Out of scope: deciding what a message means. Framing is the business of [`super::origin`] and [`super::client`].

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A request or status line with its header fields, in the order and spelling of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The first line without its line end.
    pub start: String,
    /// Field names and values; names as they were sent.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }
}

/// The value of the first field with this name, whatever its case.
pub fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// Reads a head up to its empty line. `None` when the other side closed before the first byte of it.
///
/// # Errors
/// The stream's, and `UnexpectedEof` when it ends inside the head.
pub async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let Some(start) = read_line(stream).await? else { return Ok(None) };
    let mut fields = Vec::new();
    loop {
        match read_line(stream).await? {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(line) if line.is_empty() => return Ok(Some(Head { start, fields })),
            Some(line) => {
                let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                fields.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
}

/// One line without its line end; `None` at the end of the stream.
///
/// # Errors
/// The stream's, and `UnexpectedEof` when it ends inside the line.
pub async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

/// The bytes `first..=last` that a single-range `Range` header asks of a body of `size` bytes.
///
/// `None` when there is no such header or it is not of that simple form; `Some(Err(()))` when it cannot be satisfied.
pub fn single_range(header: Option<&str>, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = header?.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), size.saturating_sub(1)),
        _ => return None,
    };
    Some(if range.0 < size { Ok(range) } else { Err(()) })
}
