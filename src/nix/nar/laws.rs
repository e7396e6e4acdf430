//! What the reader promises for any bytes, as a check that panics when the promise is broken. Compiled for tests and
//! fuzzing only.

use super::{Error, Reader};

/// The verdict does not depend on the pieces in which the bytes come, and what is accepted is what a second reader, which
/// has the whole at once and recurses, accepts.
///
/// # Panics
/// When that does not hold for `bytes`.
pub fn fuzz(bytes: &[u8]) {
    let whole = in_pieces(bytes, || usize::MAX);
    assert_eq!(in_pieces(bytes, || 1), whole);
    // Pieces whose sizes come from the bytes themselves, so that the fuzzer chooses the cuts.
    let mut sizes = bytes.iter().rev().cycle();
    assert_eq!(in_pieces(bytes, || sizes.next().map_or(1, |&size| usize::from(size % 23) + 1)), whole);
    assert_eq!(Slow(bytes).nar().is_some(), whole.is_ok(), "{whole:?}");
}

/// Feeds `bytes` in pieces of the sizes that `size` gives, none of them 0.
pub(super) fn in_pieces(mut bytes: &[u8], mut size: impl FnMut() -> usize) -> Result<(), Error> {
    let mut reader = Reader::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(size().min(bytes.len()));
        reader.update(piece)?;
        bytes = rest;
    }
    reader.finish()
}

/// What is left of a NAR, for the second reader.
struct Slow<'a>(&'a [u8]);

impl<'a> Slow<'a> {
    fn nar(mut self) -> Option<()> {
        self.word("nix-archive-1")?;
        self.file(64)?;
        self.0.is_empty().then_some(())
    }

    fn file(&mut self, depth: usize) -> Option<()> {
        self.word("(")?;
        self.word("type")?;
        match self.string()? {
            b"regular" => {
                let mut tag = self.string()?;
                if tag == b"executable" {
                    self.word("")?;
                    tag = self.string()?;
                }
                (tag == b"contents").then_some(())?;
                self.string()?;
                self.word(")")
            }
            b"symlink" => {
                self.word("target")?;
                let target = self.string()?;
                (1..4096).contains(&target.len()).then_some(())?;
                (!target.contains(&0)).then_some(())?;
                self.word(")")
            }
            b"directory" => self.entries(depth.checked_sub(1)?),
            _ => None,
        }
    }

    fn entries(&mut self, depth: usize) -> Option<()> {
        let mut before: &[u8] = b"";
        loop {
            match self.string()? {
                b")" => return Some(()),
                b"entry" => {}
                _ => return None,
            }
            self.word("(")?;
            self.word("name")?;
            let name = self.string()?;
            let plain = !matches!(name, b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
            (plain && name.len() < 256 && name > before).then_some(())?;
            before = name;
            self.word("node")?;
            self.file(depth)?;
            self.word(")")?;
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        (self.string()? == word.as_bytes()).then_some(())
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        let (zeros, rest) = rest.split_at_checked(length.next_multiple_of(8) - length)?;
        self.0 = rest;
        zeros.iter().all(|&zero| zero == 0).then_some(string)
    }
}
