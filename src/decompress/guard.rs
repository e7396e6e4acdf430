//! What stands on both sides of a decoder, so that its errors are ours and its end is final.
//!
//! Decoders tell what is wrong by an [`io::ErrorKind`]: `UnexpectedEof` a cut, `OutOfMemory` a window that is too large,
//! anything else damage. An error of the input must not be taken for one of these: [`Source`] marks it on its way in,
//! [`Guard`] takes the mark off on its way out.

use std::io::{self, BufRead, Read};

use super::Error;
use crate::nix::excerpt::Excerpt;
use crate::nix::narinfo::Compression;

/// A decoder that has failed, or ended, for good once it has.
pub(super) struct Guard<'a> {
    compression: Compression,
    memory: u64,
    decoder: Box<dyn Read + 'a>,
    over: Option<Result<(), Error>>,
}

impl<'a> Guard<'a> {
    pub(super) fn new(compression: Compression, memory: u64, decoder: Box<dyn Read + 'a>) -> Self {
        Self { compression, memory, decoder, over: None }
    }

    /// The error to give now, and what to give from now on.
    fn failed(&mut self, error: io::Error) -> io::Error {
        let compression = self.compression;
        let (now, later) = match error.downcast::<OfInput>() {
            Ok(OfInput(error)) => (error, Error::Input(compression)),
            Err(error) => {
                let error = match error.kind() {
                    io::ErrorKind::UnexpectedEof => Error::Cut(compression),
                    io::ErrorKind::OutOfMemory => Error::Memory(compression, self.memory),
                    _ => Error::Damaged(compression, Excerpt::of(&error.to_string())),
                };
                (io::Error::new(io::ErrorKind::InvalidData, error.clone()), error)
            }
        };
        self.over = Some(Err(later));
        now
    }
}

impl Read for Guard<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        match &self.over {
            Some(Ok(())) => return Ok(0),
            Some(Err(error)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
            // Decoders differ in what they make of no room; here it is never the end.
            None if output.is_empty() => return Ok(0),
            None => {}
        }
        match self.decoder.read(output) {
            Ok(0) => {
                self.over = Some(Ok(()));
                Ok(0)
            }
            Ok(read) => Ok(read),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// An error of the input, on its way through a decoder.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct OfInput(io::Error);

/// The input, whose errors are marked as its own. It is asked again when it was interrupted: not every decoder does.
pub(super) struct Source<R>(pub(super) R);

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Twice, because the loop cannot give away what it borrowed.
        loop {
            match self.0.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(marked(error)),
            }
        }
        self.0.fill_buf().map_err(marked)
    }

    fn consume(&mut self, taken: usize) {
        self.0.consume(taken);
    }
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(output) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(marked(error)),
                Ok(read) => return Ok(read),
            }
        }
    }
}

fn marked(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), OfInput(error))
}
