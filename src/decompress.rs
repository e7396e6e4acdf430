//! Decompression: what is inside a compressed NAR, so that NarHash, which signatures cover, can be proven (R7).
//!
//! [`reader`] lays a decoder over any [`BufRead`]. The input is a stranger's until the digest of what comes out fits, so:
//!
//! - the input must be whole and nothing else: a cut, and a byte after the end, are errors for every compression;
//!   concatenated streams, as parallel compressors write them, are read as one;
//! - a decoder's memory is bounded before it is taken: windows have at most [`MAX_WINDOW`], less if the caller has less,
//!   and what a header claims is believed only within that (R29);
//! - one read does work in proportion to the bytes that it takes and gives. How much may come out is the caller's to
//!   limit: it knows NarSize, and stops reading;
//! - after an error a reader gives errors only, after the end only the end.
//!
//! Decoders are written in Rust where one is good enough, because of what they are fed: xz by `lzma-rust2` reads 58 MB/s
//! of NAR where liblzma, in C, reads 79 (0.73 of its speed; 200 MB of `/usr/lib`, one core). Only zstd is C's, which the
//! disk tier brings along. Each decoder has a file: those that are fed by [`pump`] and those that read for themselves.
//!
//! Reading blocks: it belongs on a thread of its own, not on the runtime's. Out of scope: compressing, and digests.

mod br;
mod bzip2;
mod error;
mod guard;
#[cfg(any(test, fuzzing))]
mod laws;
mod lz4;
mod lzma;
mod pump;
#[cfg(test)]
mod tests;
mod zstd;

use std::io::{BufRead, Read};

pub use error::Error;
#[cfg(any(test, fuzzing))]
pub use laws::fuzz;

use crate::nix::narinfo::Compression;
use guard::{Guard, Source};
use pump::Pump;

/// The largest window of any stream, in bytes, however much memory there is: what `zstd --ultra -22` writes.
pub const MAX_WINDOW: u64 = 128 << 20;

/// What a decoder takes beside its window: tables and buffers.
const BESIDE_WINDOW: u64 = 1 << 20;

/// Whether bodies of this compression can be decoded here.
pub const fn supports(compression: Compression) -> bool {
    least_memory(compression).is_some()
}

/// A reader of what is inside `input`, whose decoder takes at most about `memory` bytes; xz, lzma and lzip let a window
/// grow with what comes out, and while it moves take half as much again. Its own errors are [`Error`]s in
/// [`std::io::Error`]s (`get_ref` and downcast tell which); what `input` fails with comes through as it is.
///
/// # Errors
/// [`Error::Unsupported`] when [`supports`] is false; [`Error::Memory`] when no stream of this compression could be read
/// within `memory`: 24 MiB are enough for each, windows of xz, zstd, lzma and lzip not counted.
pub fn reader<'a, R: BufRead + 'a>(
    compression: Compression,
    input: R,
    memory: u64,
) -> Result<Box<dyn Read + 'a>, Error> {
    let least = least_memory(compression).ok_or(Error::Unsupported(compression))?;
    if memory < least {
        return Err(Error::Memory(compression, memory));
    }
    let window = (memory - least).min(MAX_WINDOW);
    // In KiB, and no more than fits beside the largest window.
    let limit = u32::try_from((window + least) >> 10).unwrap_or(u32::MAX);
    let input = Source(input);
    let guard = |decoder| Box::new(Guard::new(compression, memory, decoder));
    Ok(match compression {
        Compression::None => Box::new(input.0),
        Compression::Xz => guard(Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, limit)) as Box<dyn Read>),
        Compression::Gzip => guard(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Compression::Lz4 => guard(Box::new(lz4::Frames::new(input))),
        Compression::Br => guard(Box::new(Pump::new(input, br::Stream::new()))),
        Compression::Bzip2 => guard(Box::new(Pump::new(input, bzip2::Streams::new()))),
        Compression::Lzma => guard(Box::new(Pump::new(input, lzma::Lzma::new(limit)))),
        Compression::Lzip => guard(Box::new(Pump::new(input, lzma::Lzip::new(limit)))),
        Compression::Zstd => {
            let frames = zstd::Frames::new(window).ok_or(Error::Memory(compression, memory))?;
            guard(Box::new(Pump::new(input, frames)))
        }
        Compression::Compress | Compression::Grzip | Compression::Lrzip | Compression::Lzop => {
            return Err(Error::Unsupported(compression));
        }
    })
}

/// What a decoder takes at most, in bytes, beside a window that streams choose the size of. None: there is no decoder.
const fn least_memory(compression: Compression) -> Option<u64> {
    match compression {
        Compression::None => Some(0),
        Compression::Gzip | Compression::Lzip | Compression::Lzma | Compression::Xz | Compression::Zstd => {
            Some(BESIDE_WINDOW)
        }
        // A block of 900,000 bytes, four for each.
        Compression::Bzip2 => Some(5 << 20),
        // A block of 4 MiB as it came, and one decoded.
        Compression::Lz4 => Some(9 << 20),
        // A window of 16 MiB, and code tables.
        Compression::Br => Some(24 << 20),
        Compression::Compress | Compression::Grzip | Compression::Lrzip | Compression::Lzop => None,
    }
}
