//! Decoders that are fed: [`Pump`] moves bytes between an input and a [`Decoder`] until something comes out.

use std::io::{self, BufRead, Read};

/// How often a decoder may do nothing at all, one after the other, before it counts as stuck. Some need a call more
/// than others to tell that they are at an end.
const IDLE_CALLS: u32 = 4;

/// The most input that a decoder is given in one call.
const AT_A_TIME: usize = 4096;

/// A decoder without input or output of its own.
pub(super) trait Decoder {
    /// Takes from `input`, which is empty only when nothing follows, and gives into `output`, which is not empty.
    ///
    /// # Errors
    /// As `guard` reads them; going on after one is not expected.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step>;
}

/// What one step did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Bytes taken.
    pub(super) taken: usize,
    /// Bytes given.
    pub(super) given: usize,
    /// Whether the input may end after what was taken.
    pub(super) whole: bool,
}

/// Reads what a decoder makes of an input.
pub(super) struct Pump<R, D> {
    input: R,
    decoder: D,
}

impl<R, D> Pump<R, D> {
    pub(super) const fn new(input: R, decoder: D) -> Self {
        Self { input, decoder }
    }
}

impl<R: BufRead, D: Decoder> Read for Pump<R, D> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let mut idle = 0;
        loop {
            let input = self.input.fill_buf()?;
            let ended = input.is_empty();
            // Few at a time, so that the input is asked in between: a hostile one can make its decoder work for long.
            let step = self.decoder.step(&input[..input.len().min(AT_A_TIME)], output)?;
            self.input.consume(step.taken);
            if step.given > 0 {
                return Ok(step.given);
            }
            if ended {
                return if step.whole { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            idle = if step.taken == 0 { idle + 1 } else { 0 };
            if idle > IDLE_CALLS {
                return Err(damaged("goes on after its end, or nowhere"));
            }
        }
    }
}

/// An error that `guard` takes for damage.
pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
