//! The digest of a NAR that does not depend on the path it lies at: `HashModuloSink` of Nix's
//! `src/libstore/references.cc`.
//!
//! Every occurrence of the path's own hash part is hashed as that many NULs, and the positions of the occurrences,
//! `|<position>` each, are hashed at the end, so that a NAR with NULs in these places is another one.

use aws_lc_rs::digest::{self, Context, Digest};

use crate::nix::store_path::HashPart;

/// Bytes of a hash part.
const LEN: usize = 32;

pub(super) struct Modulo {
    context: Context,
    own: HashPart,
    skips: [usize; 256],
    /// The last bytes that came, fewer than a hash part: an occurrence may begin in them.
    held: Vec<u8>,
    /// How many bytes were hashed, which is the position of the first one held.
    hashed: u64,
    occurrences: Vec<u64>,
}

impl Modulo {
    pub(super) fn new(algorithm: &'static digest::Algorithm, own: HashPart) -> Self {
        Self {
            context: Context::new(algorithm),
            own,
            skips: skips(own.as_bytes()),
            held: Vec::new(),
            hashed: 0,
            occurrences: Vec::new(),
        }
    }

    pub(super) fn update(&mut self, nar: &[u8]) {
        // In pieces, so that what is held at a time is bounded whatever is handed in.
        for piece in nar.chunks(64 << 10) {
            self.held.extend_from_slice(piece);
            self.blank();
            let done = self.held.len().saturating_sub(LEN - 1);
            self.context.update(&self.held[..done]);
            self.hashed += u64::try_from(done).unwrap_or(u64::MAX);
            self.held.drain(..done);
        }
    }

    /// Overwrites the occurrences in what is held and notes where they were. What was blanked before is not found
    /// again, and no occurrence can begin in it.
    fn blank(&mut self) {
        let mut from = 0;
        while let Some(at) = self.find(from) {
            self.occurrences.push(self.hashed + u64::try_from(at).unwrap_or(u64::MAX));
            from = at + LEN;
            self.held[at..from].fill(0);
        }
    }

    /// Where the next occurrence begins. Reads few of the bytes: the search of Horspool moves on by a whole hash part
    /// wherever the last byte of the window is no digit of it.
    fn find(&self, mut at: usize) -> Option<usize> {
        while let Some(window) = self.held.get(at..at + LEN) {
            if window == self.own.as_bytes() {
                return Some(at);
            }
            at += self.skips[usize::from(window[LEN - 1])];
        }
        None
    }

    pub(super) fn finish(mut self) -> Digest {
        self.context.update(&self.held);
        for position in &self.occurrences {
            self.context.update(format!("|{position}").as_bytes());
        }
        self.context.finish()
    }
}

/// How far the window moves when its last byte is this one: until the byte stands over the same digit.
fn skips(part: &[u8; LEN]) -> [usize; 256] {
    let mut skips = [LEN; 256];
    for (place, digit) in part[..LEN - 1].iter().enumerate() {
        skips[usize::from(*digit)] = LEN - 1 - place;
    }
    skips
}
