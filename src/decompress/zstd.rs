//! zstd: frames and skippable frames in any order, as `zstd`, `pzstd` and seekable writers make them.
//!
//! The library would take the formats of before version 0.8 for frames as well, with decoders that hardly anybody reads
//! any more: frames are told by their first four bytes here before it sees them.

use std::io;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::pump::{Decoder, Step, damaged};

/// How a frame begins, and how skippable ones do, but for the lowest four bits (RFC 8878 sections 3.1.1 and 3.1.2).
const FRAME: u32 = 0xFD2F_B528;
const SKIPPABLE: u32 = 0x184D_2A50;
/// `ZSTD_error_frameParameter_windowTooLarge` and `ZSTD_error_memory_allocation` of zstd_errors.h.
const TOO_MUCH: [usize; 2] = [16, 64];

pub(super) struct Frames {
    context: DCtx<'static>,
    /// The first bytes of the next frame. They are fed once all four are there.
    head: [u8; 4],
    have: usize,
    /// In a frame: its first bytes were fed.
    inside: bool,
    /// A frame has ended.
    any: bool,
}

impl Frames {
    /// A decoder of frames whose windows have at most `window` bytes; none when memory is out.
    pub(super) fn new(window: u64) -> Option<Self> {
        let mut context = DCtx::try_create()?;
        // A power of two; the smallest that the format knows is 1 KiB.
        context.set_parameter(DParameter::WindowLogMax(window.max(1 << 10).ilog2())).ok()?;
        Some(Self { context, head: [0; 4], have: 0, inside: false, any: false })
    }

    /// Collects the first four bytes of a frame and feeds them; gives how many came from `input`.
    fn begin(&mut self, input: &[u8]) -> io::Result<usize> {
        let taken = (self.head.len() - self.have).min(input.len());
        self.head[self.have..self.have + taken].copy_from_slice(&input[..taken]);
        self.have += taken;
        if self.have == self.head.len() {
            let magic = u32::from_le_bytes(self.head);
            if magic != FRAME && magic & !0xF != SKIPPABLE {
                return Err(damaged("no frame"));
            }
            // No frame is that short: nothing can come out yet.
            let (fed, ..) = self.feed(&{ self.head }, &mut [0])?;
            if fed != self.head.len() {
                return Err(damaged("no frame"));
            }
            (self.have, self.inside) = (0, true);
        }
        Ok(taken)
    }

    /// Bytes taken, bytes given, and whether the frame has ended.
    fn feed(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize, bool)> {
        let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
        match self.context.decompress_stream(&mut to, &mut from) {
            Ok(left) => Ok((from.pos(), to.pos(), left == 0)),
            Err(code) if TOO_MUCH.contains(&code.wrapping_neg()) => Err(io::ErrorKind::OutOfMemory.into()),
            Err(code) => Err(damaged(get_error_name(code))),
        }
    }
}

impl Decoder for Frames {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let (mut taken, mut given) = (0, 0);
        if !self.inside && !input.is_empty() {
            taken = self.begin(input)?;
        }
        if self.inside {
            let (fed, made, ended) = self.feed(&input[taken..], output)?;
            taken += fed;
            given = made;
            self.inside = !ended;
            self.any |= ended;
        }
        Ok(Step { taken, given, whole: self.any && !self.inside && self.have == 0 })
    }
}
