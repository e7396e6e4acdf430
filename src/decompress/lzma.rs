//! lzma and lzip, which the library for xz brings along.

use std::io;

use lzma_rust2::{Action, LzipStream, LzmaStream, Status, StreamResult};

use super::pump::{Decoder, Step, damaged};

/// The `.lzma` format of before xz: one stream, with no checksum.
pub(super) struct Lzma(LzmaStream);

impl Lzma {
    /// `limit` in KiB.
    pub(super) fn new(limit: u32) -> Self {
        Self(LzmaStream::new_mem_limit(limit, None))
    }
}

impl Decoder for Lzma {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let result = self.0.process(input, output, action(input))?;
        finished(result, input, self.0.unused_input())
    }
}

/// Lzip: members one after the other, as `plzip` writes them.
pub(super) struct Lzip(LzipStream);

impl Lzip {
    /// `limit` in KiB.
    pub(super) fn new(limit: u32) -> Self {
        Self(LzipStream::new_mem_limit(true, limit))
    }
}

impl Decoder for Lzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let result = self.0.process(input, output, action(input))?;
        finished(result, input, self.0.unused_input())
    }
}

const fn action(input: &[u8]) -> Action {
    if input.is_empty() { Action::Finish } else { Action::Run }
}

/// The library gives back what follows a stream, partly as bytes that it took and did not need.
fn finished(result: StreamResult, input: &[u8], unused: &[u8]) -> io::Result<Step> {
    let whole = result.status == Status::StreamEnd;
    if whole && (result.bytes_consumed < input.len() || !unused.is_empty()) {
        return Err(damaged("goes on after its end"));
    }
    Ok(Step { taken: result.bytes_consumed, given: result.bytes_produced, whole })
}
