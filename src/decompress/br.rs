//! Brotli: one stream of RFC 7932. The large-window extension, whose windows have up to a gigabyte, is refused.

use std::io;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::pump::{Decoder, Step, damaged};

pub(super) struct Stream {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), ended: false }
    }
}

impl Decoder for Stream {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        if self.ended {
            let nothing = Step { taken: 0, given: 0, whole: true };
            return if input.is_empty() { Ok(nothing) } else { Err(damaged("goes on after its end")) };
        }
        let (mut left, mut taken) = (input.len(), 0);
        let (mut room, mut given) = (output.len(), 0);
        let state = &mut self.state;
        let result = BrotliDecompressStream(&mut left, &mut taken, input, &mut room, &mut given, output, &mut 0, state);
        match result {
            BrotliResult::ResultFailure => return Err(damaged("wrong data")),
            BrotliResult::ResultSuccess => self.ended = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        }
        Ok(Step { taken, given, whole: self.ended })
    }
}
