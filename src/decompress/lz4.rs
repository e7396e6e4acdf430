//! LZ4: frames and skippable frames in any order (lz4_Frame_format.md of the LZ4 project, version 1.6.4).
//!
//! The frames are read here and only their blocks by the library: its own reader of frames takes an input that is cut
//! between two blocks for a whole one. The format of before frames, which has no end either, is refused, and so are
//! frames that need a dictionary.

use std::hash::Hasher as _;
use std::io::{self, BufRead, Read};

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::pump::damaged;

const FRAME: u32 = 0x184D_2204;
/// How skippable frames begin, but for the lowest four bits.
const SKIPPABLE: u32 = 0x184D_2A50;
/// How far back a block can refer.
const WINDOW: usize = 64 << 10;
/// Room after window and block, so that the window is moved to the front once in a while and not for each block.
const SLACK: usize = 256 << 10;
/// In a block's size: its bytes are not compressed.
const PLAIN: u32 = 1 << 31;

/// What a frame's descriptor says.
#[derive(Debug)]
struct Frame {
    /// The most bytes that a block decodes to, or takes.
    block: usize,
    /// Blocks do not refer to those before them.
    independent: bool,
    /// A checksum follows each block.
    checked: bool,
    /// The bytes of the whole content that are still to come.
    left: Option<u64>,
    /// The checksum of the content so far, if one follows it.
    sum: Option<XxHash32>,
}

pub(super) struct Frames<R> {
    input: R,
    frame: Option<Frame>,
    /// A frame has ended.
    any: bool,
    /// The current block as it came.
    packed: Vec<u8>,
    /// Decoded bytes: what blocks refer to, then what was not given yet, from `start` to `end`.
    plain: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: BufRead> Frames<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, frame: None, any: false, packed: Vec::new(), plain: Vec::new(), start: 0, end: 0 }
    }

    /// Between two frames: begins the next, or skips one. False at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        if self.any && self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        match u32::from_le_bytes(self.take()?) {
            FRAME => self.frame = Some(self.descriptor()?),
            magic if magic & !0xF == SKIPPABLE => {
                let length = u64::from(u32::from_le_bytes(self.take()?));
                if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.any = true;
            }
            _ => return Err(damaged("no frame")),
        }
        Ok(true)
    }

    fn descriptor(&mut self) -> io::Result<Frame> {
        let [flags, block] = self.take()?;
        let mut all = vec![flags, block];
        let bit = |at: u8| flags & (1 << at) != 0;
        if flags >> 6 != 1 || bit(1) || block & 0x8F != 0 || block >> 4 < 4 {
            return Err(damaged("unknown kind of frame"));
        }
        if bit(0) {
            return Err(damaged("needs a dictionary"));
        }
        let mut left = None;
        if bit(3) {
            let size = self.take::<8>()?;
            all.extend_from_slice(&size);
            left = Some(u64::from_le_bytes(size));
        }
        let [sum] = self.take()?;
        if XxHash32::oneshot(0, &all).to_le_bytes()[1] != sum {
            return Err(damaged("wrong checksum of a frame's head"));
        }
        // 64 KiB, 256 KiB, 1 MiB, 4 MiB.
        let block = 1 << (8 + 2 * (block >> 4));
        self.plain.resize(self.plain.len().max(WINDOW + block + SLACK), 0);
        (self.start, self.end) = (0, 0);
        let sum = bit(2).then(|| XxHash32::with_seed(0));
        Ok(Frame { block, independent: bit(5), checked: bit(4), left, sum })
    }

    /// Decodes the next block of `frame`. False at the frame's end.
    fn next_block(&mut self, frame: &mut Frame) -> io::Result<bool> {
        let size = u32::from_le_bytes(self.take()?);
        if size == 0 {
            self.end_frame(frame)?;
            return Ok(false);
        }
        let length = usize::try_from(size & !PLAIN).unwrap_or(usize::MAX);
        if length > frame.block {
            return Err(damaged("a block is too long"));
        }
        self.packed.resize(length, 0);
        self.input.read_exact(&mut self.packed)?;
        if frame.checked && XxHash32::oneshot(0, &self.packed) != u32::from_le_bytes(self.take()?) {
            return Err(damaged("wrong checksum of a block"));
        }
        let made = self.decode(frame, size & PLAIN != 0)?;
        self.end += made;
        frame.left = match frame.left {
            None => None,
            Some(left) => Some(left.checked_sub(made as u64).ok_or_else(|| damaged("longer than it said"))?),
        };
        if let Some(sum) = &mut frame.sum {
            sum.write(&self.plain[self.start..self.end]);
        }
        Ok(true)
    }

    /// Decodes the block in `packed` to `end`; gives how many bytes it made.
    fn decode(&mut self, frame: &Frame, plain: bool) -> io::Result<usize> {
        if self.end + frame.block > self.plain.len() {
            let window = self.end.saturating_sub(WINDOW);
            self.plain.copy_within(window..self.end, 0);
            self.end -= window;
        }
        self.start = self.end;
        let (before, room) = self.plain.split_at_mut(self.end);
        let room = &mut room[..frame.block];
        if plain {
            room[..self.packed.len()].copy_from_slice(&self.packed);
            return Ok(self.packed.len());
        }
        let window = &before[before.len().saturating_sub(WINDOW)..];
        let made = if frame.independent || window.is_empty() {
            decompress_into(&self.packed, room)
        } else {
            decompress_into_with_dict(&self.packed, room, window)
        };
        made.map_err(|_| damaged("wrong data in a block"))
    }

    fn end_frame(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.left.is_some_and(|left| left > 0) {
            return Err(damaged("shorter than it said"));
        }
        if let Some(sum) = &frame.sum
            && sum.finish_32() != u32::from_le_bytes(self.take()?)
        {
            return Err(damaged("wrong checksum of a frame"));
        }
        self.any = true;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while self.start == self.end {
            let Some(mut frame) = self.frame.take() else {
                if !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            };
            if self.next_block(&mut frame)? {
                self.frame = Some(frame);
            }
        }
        let given = (self.end - self.start).min(output.len());
        output[..given].copy_from_slice(&self.plain[self.start..self.start + given]);
        self.start += given;
        Ok(given)
    }
}
