//! Small bodies that come encoded whatever was asked for: decoded in bounded memory, on a thread that may block (R29).

use std::io::Read as _;

use bytes::Bytes;
use http::HeaderValue;

use super::error::Cause;
use crate::decompress;
use crate::nix::excerpt::Excerpt;
use crate::nix::narinfo::Compression;

/// Memory for a decoder: the least that is enough for each, and windows that fit small bodies many times.
const MEMORY: u64 = 32 << 20;

/// What is in `body`; `None` when that is longer than `limit` bytes.
///
/// # Errors
/// The encoding is not known, or the body is not whole and in it.
pub(super) async fn decoded(body: Bytes, encoding: HeaderValue, limit: usize) -> Result<Option<Bytes>, Cause> {
    let told = |text: &str| Cause::Encoding(format!("Content-Encoding {}", Excerpt::of(text)));
    let text = encoding.to_str().map_err(|_| told("that is no text"))?;
    let compression = compression(text).ok_or_else(|| told(text))?;
    let decoding = tokio::task::spawn_blocking(move || decode(compression, &body, limit));
    match decoding.await {
        Ok(decoded) => decoded.map_err(|error| Cause::Encoding(error.to_string())),
        Err(_died) => Err(Cause::Internal("its answer could not be decoded")),
    }
}

/// The names of RFC 9110 section 8.4.1 and RFC 8878, and those of Nix, which puts its own into the header.
fn compression(encoding: &str) -> Option<Compression> {
    Some(match encoding.to_ascii_lowercase().as_str() {
        "zstd" => Compression::Zstd,
        "br" => Compression::Br,
        "gzip" | "x-gzip" => Compression::Gzip,
        "xz" => Compression::Xz,
        "bzip2" => Compression::Bzip2,
        _ => return None,
    })
}

fn decode(compression: Compression, body: &[u8], limit: usize) -> std::io::Result<Option<Bytes>> {
    let reader = decompress::reader(compression, body, MEMORY).map_err(std::io::Error::other)?;
    let mut decoded = Vec::new();
    // One more, to see that there is more.
    reader.take(limit as u64 + 1).read_to_end(&mut decoded)?;
    Ok((decoded.len() <= limit).then(|| decoded.into()))
}
