//! The digest of the contents of a NAR that holds one file and nothing else.
//!
//! Such a NAR has one form (`src/libutil/archive.cc` of Nix): the beginning below, the length of the contents, the
//! contents padded with NULs to a multiple of 8, and the end. Anything else is refused: a directory and a link have no
//! contents, and that a file is executable is in no digest of its contents, so that nobody would have vouched for it.

use aws_lc_rs::digest::{self, Context, Digest};

/// Everything before the length: `nix-archive-1`, `(`, `type`, `regular`, `contents`, each with its length before it.
const BEGINNING: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\
    \x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
    \x04\0\0\0\0\0\0\0type\0\0\0\0\
    \x07\0\0\0\0\0\0\0regular\0\
    \x08\0\0\0\0\0\0\0contents";
/// Everything after the contents: `)`.
const END: &[u8] = b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";
/// Where the contents begin.
const HEAD: usize = BEGINNING.len() + size_of::<u64>();

pub(super) struct Contents {
    context: Context,
    /// The bytes up to the contents.
    head: Vec<u8>,
    /// The bytes of the contents that are still to come.
    left: u64,
    /// The bytes after the contents, as far as they can be right.
    tail: Vec<u8>,
    /// How many NULs follow the contents.
    padding: usize,
    malformed: bool,
}

impl Contents {
    pub(super) fn new(algorithm: &'static digest::Algorithm) -> Self {
        Self {
            context: Context::new(algorithm),
            head: Vec::with_capacity(HEAD),
            left: 0,
            tail: Vec::new(),
            padding: 0,
            malformed: false,
        }
    }

    pub(super) fn update(&mut self, nar: &[u8]) {
        if self.malformed {
            return;
        }
        let nar = self.take_head(nar);
        let contents = usize::try_from(self.left).unwrap_or(usize::MAX).min(nar.len());
        let (contents, rest) = nar.split_at(contents);
        self.context.update(contents);
        self.left -= u64::try_from(contents.len()).unwrap_or(u64::MAX);
        if self.tail.len() + rest.len() > self.padding + END.len() {
            self.malformed = true;
        } else {
            self.tail.extend_from_slice(rest);
        }
    }

    /// Takes what is missing of the head from `nar`, understands the head when it is whole, and gives back the rest.
    fn take_head<'a>(&mut self, nar: &'a [u8]) -> &'a [u8] {
        if self.head.len() == HEAD {
            return nar;
        }
        let (missing, rest) = nar.split_at((HEAD - self.head.len()).min(nar.len()));
        self.head.extend_from_slice(missing);
        if let Some(length) = self.head.get(BEGINNING.len()..).and_then(|length| length.try_into().ok()) {
            self.malformed = !self.head.starts_with(BEGINNING);
            self.left = u64::from_le_bytes(length);
            self.padding = usize::try_from(self.left.wrapping_neg() % 8).unwrap_or(0);
        }
        rest
    }

    /// `None` when it was not the NAR of one file that is not executable.
    pub(super) fn finish(self) -> Option<Digest> {
        let (padding, end) = self.tail.split_at_checked(self.padding)?;
        let whole = !self.malformed && self.head.len() == HEAD && self.left == 0;
        (whole && padding.iter().all(|byte| *byte == 0) && end == END).then(|| self.context.finish())
    }
}
