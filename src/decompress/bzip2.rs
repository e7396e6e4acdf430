//! bzip2: streams one after the other, as `pbzip2` writes them.
//!
//! Each stream costs its decoder four megabytes to lay out, 0.2 ms, and an empty one is 14 bytes long: a megabyte of
//! these would take 14 seconds (R27). So streams must hold something, or be few.

use std::io;

use bzip2::{Decompress, Status};

use super::pump::{Decoder, Step, damaged};

/// So many streams are read whatever they hold.
const FREE_STREAMS: u64 = 64;
/// Beyond them there is one for each so many bytes, taken and given, on average.
const BYTES_PER_STREAM: u64 = 1 << 10;

pub(super) struct Streams {
    /// The stream that is being read. None between two, and before the first.
    stream: Option<Decompress>,
    /// How many streams have ended.
    ended: u64,
    /// How many bytes were taken and given in them.
    moved: u64,
}

impl Streams {
    pub(super) const fn new() -> Self {
        Self { stream: None, ended: 0, moved: 0 }
    }
}

impl Decoder for Streams {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        if self.stream.is_none() && input.is_empty() {
            return Ok(Step { taken: 0, given: 0, whole: self.ended > 0 });
        }
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        let (taken, given) = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, output).map_err(|error| damaged(why(&error)))?;
        let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let (taken, given) = (since(stream.total_in(), taken), since(stream.total_out(), given));
        match status {
            Status::StreamEnd => {
                self.ended += 1;
                self.moved = self.moved.saturating_add(stream.total_in()).saturating_add(stream.total_out());
                if self.ended > FREE_STREAMS + self.moved / BYTES_PER_STREAM {
                    return Err(damaged("too many streams with next to nothing in them"));
                }
                self.stream = None;
            }
            Status::MemNeeded => return Err(io::ErrorKind::OutOfMemory.into()),
            Status::Ok | Status::FlushOk | Status::RunOk | Status::FinishOk => {}
        }
        Ok(Step { taken, given, whole: self.stream.is_none() })
    }
}

const fn why(error: &bzip2::Error) -> &'static str {
    match error {
        bzip2::Error::DataMagic => "no stream",
        bzip2::Error::Data => "wrong data",
        bzip2::Error::Sequence | bzip2::Error::Param => "used wrongly",
    }
}
