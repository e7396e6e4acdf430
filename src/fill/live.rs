//! The live edge of a fill: the chunk being built, readable while it grows.
//!
//! Bytes are kept as the pieces they came in, so that a reader at the live edge gets slices and no copies; the one copy is
//! made when the chunk is complete.

use bytes::{Bytes, BytesMut};

/// Pieces smaller than this are gathered, so that a body that comes byte by byte cannot make a list of millions.
const PIECE: usize = 4096;

/// The chunk being built: pieces in order, small ones gathered in `tail`.
#[derive(Debug, Default)]
pub(super) struct Live {
    pieces: Vec<(usize, Bytes)>,
    tail: BytesMut,
    len: usize,
}

impl Live {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds bytes at the end.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if bytes.len() < PIECE {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() >= PIECE {
                self.settle();
            }
        } else {
            self.settle();
            self.pieces.push((self.len - bytes.len(), bytes));
        }
    }

    fn settle(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            let start = self.pieces.last().map_or(0, |(start, piece)| start + piece.len());
            self.pieces.push((start, tail));
        }
    }

    /// The bytes at `at`, as many as lie together; `at` is less than `len`.
    pub(super) fn at(&self, at: usize) -> Bytes {
        let after = self.pieces.partition_point(|(start, _)| *start <= at);
        if let Some((start, piece)) = after.checked_sub(1).and_then(|n| self.pieces.get(n))
            && at < start + piece.len()
        {
            return piece.slice(at - start..);
        }
        let tail_start = self.len - self.tail.len();
        Bytes::copy_from_slice(&self.tail[at - tail_start..])
    }

    /// The chunk as one piece; the live edge is empty afterwards.
    pub(super) fn take(&mut self) -> Bytes {
        self.settle();
        let pieces = std::mem::take(&mut self.pieces);
        let len = std::mem::take(&mut self.len);
        // Always a copy: the pieces are slices of larger read buffers, which the memory tier must not keep alive.
        let mut whole = BytesMut::with_capacity(len);
        for (_, piece) in pieces {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_chunk_reads_the_same_whatever_its_pieces() {
        let body: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        for step in [1, 7, 4095, 4096, 4097, 20_000, 60_000] {
            let mut live = Live::default();
            for piece in body.chunks(step) {
                live.push(Bytes::copy_from_slice(piece));
            }
            let mut read = Vec::new();
            while read.len() < body.len() {
                read.extend_from_slice(&live.at(read.len()));
            }
            assert_eq!(read, body, "pieces of {step}");
            assert!(live.pieces.len() <= body.len() / PIECE * 2 + 2, "pieces of {step}: {}", live.pieces.len());
            assert_eq!(live.take(), body);
            assert_eq!(live.len(), 0);
        }
    }
}
