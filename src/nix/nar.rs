//! NARs: Nix's archive format, read strictly and never kept.
//!
//! [`Reader::update`] takes the bytes in pieces of any size as they come, [`Reader::finish`] says whether the archive
//! ended with them. A NAR is a row of strings, each a length in 64 bits (little-endian), the bytes, and zeros up to a
//! multiple of eight; the strings spell the grammar. So there are two machines, one inside the other: [`Phase`] is where
//! the reader is in a string, [`Place`] which string of the grammar it is (`src/libutil/archive.cc`).
//!
//! The bytes are a stranger's until their digest fits, and clients differ in what they unpack. What is accepted here is
//! what every Nix reads with one meaning, and no more than any of them holds out: directories nest at most
//! [`MAX_DEPTH`] deep (CVE-2026-44028), names have at most [`MAX_NAME`] bytes and targets at most [`MAX_TARGET`]. Nothing
//! recurses and nothing grows with a length that the input claims: the names on the way to the current entry are all that
//! is kept, 16 KiB at most. Contents are passed over as they come.
//!
//! Out of scope: unpacking, and digests.

mod error;
#[cfg(any(test, fuzzing))]
mod laws;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use error::Error;
#[cfg(any(test, fuzzing))]
pub use laws::fuzz;

use super::excerpt::Excerpt;

/// How deep directories may nest, the root among them.
pub const MAX_DEPTH: usize = 64;
/// The longest name of an entry, in bytes: what file systems hold.
pub const MAX_NAME: usize = 255;
/// The longest target of a symlink, in bytes: what Linux holds.
pub const MAX_TARGET: u64 = 4095;
/// The longest contents, in bytes: what Nix can count.
const MAX_CONTENTS: u64 = i64::MAX as u64;

const MAGIC: &str = "nix-archive-1";

/// Reads one NAR. After an error it gives that error again, whatever it is fed.
#[derive(Debug)]
pub struct Reader {
    place: Place,
    phase: Phase,
    /// Bytes taken so far.
    offset: u64,
    /// Where the current string began.
    begin: u64,
    /// The current string, unless it is contents or a target.
    text: Vec<u8>,
    /// Directories that are open, from the root: each is where the name of its last entry begins in `names`.
    open: Vec<usize>,
    /// The names of these entries, one after the other.
    names: Vec<u8>,
    failed: Option<Error>,
}

/// Which string of the grammar comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Magic,
    /// `(` before the type of a file.
    Open,
    Type,
    Kind,
    /// `executable` or `contents`.
    Marker,
    /// The empty string after `executable`.
    Empty,
    ContentsTag,
    Contents,
    TargetTag,
    Target,
    /// `)` after a regular file or a symlink.
    Close,
    /// `entry`, or the `)` that ends a directory.
    Entry,
    EntryOpen,
    NameTag,
    Name,
    Node,
    EntryClose,
    /// After the last `)`.
    End,
}

/// Where in a string the next byte is.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// In its length: how many of the eight bytes came, and their value.
    Length(u8, u64),
    /// In its bytes: how many are left, and how many zeros follow.
    Bytes(u64, u8),
    /// In the zeros: how many are left.
    Zeros(u8),
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the beginning of a NAR.
    pub fn new() -> Self {
        Self {
            place: Place::Magic,
            phase: Phase::Length(0, 0),
            offset: 0,
            begin: 0,
            text: Vec::with_capacity(MAX_NAME),
            open: Vec::with_capacity(MAX_DEPTH),
            names: Vec::new(),
            failed: None,
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The first rule that is broken, with the offset; the same for every way of cutting the bytes into pieces.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.take(bytes).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Ends the NAR.
    ///
    /// # Errors
    /// When it is cut, or [`update`](Self::update) failed before.
    pub fn finish(self) -> Result<(), Error> {
        match self.failed {
            Some(error) => Err(error),
            None if self.place == Place::End => Ok(()),
            None => Err(Error::Cut { at: self.offset, expected: self.place.expected() }),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let Some(&first) = bytes.first() {
            if self.place == Place::End {
                return Err(Error::Trailing { at: self.offset });
            }
            let taken = match self.phase {
                Phase::Length(have, value) => self.take_length(bytes, have, value)?,
                Phase::Bytes(left, zeros) => self.take_bytes(bytes, left, zeros)?,
                Phase::Zeros(_) if first != 0 => return Err(Error::Padding { at: self.offset }),
                Phase::Zeros(left) => {
                    self.phase = Phase::Zeros(left - 1);
                    1
                }
            };
            self.offset += taken as u64;
            bytes = bytes.get(taken..).unwrap_or_default();
            if let Phase::Bytes(0, zeros) = self.phase {
                self.check_text()?;
                self.phase = Phase::Zeros(zeros);
            }
            if let Phase::Zeros(0) = self.phase {
                self.advance()?;
                self.text.clear();
                self.begin = self.offset;
                self.phase = Phase::Length(0, 0);
            }
        }
        Ok(())
    }

    fn take_length(&mut self, bytes: &[u8], mut have: u8, mut value: u64) -> Result<usize, Error> {
        let mut taken = 0;
        for &byte in bytes.iter().take(usize::from(8 - have)) {
            value |= u64::from(byte) << (8 * have);
            have += 1;
            taken += 1;
        }
        if have < 8 {
            self.phase = Phase::Length(have, value);
            return Ok(taken);
        }
        let allowed = match self.place {
            Place::Contents => value <= MAX_CONTENTS,
            Place::Target => (1..=MAX_TARGET).contains(&value),
            Place::Name => (1..=MAX_NAME as u64).contains(&value),
            place => place.words().iter().any(|word| word.len() as u64 == value),
        };
        if !allowed {
            return Err(Error::Length { at: self.begin, expected: self.place.expected(), found: value });
        }
        #[allow(clippy::cast_possible_truncation)] // less than eight
        let zeros = (value.wrapping_neg() % 8) as u8;
        self.phase = Phase::Bytes(value, zeros);
        Ok(taken)
    }

    fn take_bytes(&mut self, bytes: &[u8], left: u64, zeros: u8) -> Result<usize, Error> {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let piece = bytes.get(..taken).unwrap_or_default();
        match self.place {
            Place::Contents => {}
            Place::Target if piece.contains(&0) => return Err(Error::Target { at: self.begin }),
            Place::Target => {}
            _ => self.text.extend_from_slice(piece),
        }
        self.phase = Phase::Bytes(left - taken as u64, zeros);
        Ok(taken)
    }

    /// The string is whole: whether it is one that may stand here.
    fn check_text(&mut self) -> Result<(), Error> {
        match self.place {
            Place::Contents | Place::Target => Ok(()),
            Place::Name => self.check_name(),
            place if place.words().iter().any(|word| word.as_bytes() == self.text) => Ok(()),
            place => Err(Error::Word { at: self.begin, expected: place.expected(), found: self.excerpt() }),
        }
    }

    /// Nix's rules for a name, and that it comes after the one before it, byte by byte. It takes that one's place.
    fn check_name(&mut self) -> Result<(), Error> {
        let name = self.text.as_slice();
        if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(Error::Name { at: self.begin, found: self.excerpt() });
        }
        let last = self.open.last().copied().unwrap_or_default();
        // None before the first entry: a name is never empty.
        if self.names.get(last..).is_some_and(|before| name <= before) {
            return Err(Error::Order { at: self.begin, found: self.excerpt() });
        }
        self.names.truncate(last);
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// From the string that just ended to the next.
    fn advance(&mut self) -> Result<(), Error> {
        self.place = match (self.place, self.text.as_slice()) {
            (Place::Magic | Place::Node, _) => Place::Open,
            (Place::Open, _) => Place::Type,
            (Place::Type, _) => Place::Kind,
            (Place::Kind, b"directory") => self.enter()?,
            (Place::Kind, b"symlink") => Place::TargetTag,
            (Place::Kind, _) => Place::Marker,
            (Place::Marker, b"executable") => Place::Empty,
            (Place::Marker | Place::ContentsTag, _) => Place::Contents,
            (Place::Empty, _) => Place::ContentsTag,
            (Place::TargetTag, _) => Place::Target,
            (Place::Contents | Place::Target, _) => Place::Close,
            (Place::Entry, b"entry") => Place::EntryOpen,
            (Place::Entry, _) => self.leave(),
            (Place::EntryOpen, _) => Place::NameTag,
            (Place::NameTag, _) => Place::Name,
            (Place::Name, _) => Place::Node,
            (Place::EntryClose, _) => Place::Entry,
            (Place::Close, _) => self.after_file(),
            (Place::End, _) => Place::End,
        };
        Ok(())
    }

    fn enter(&mut self) -> Result<Place, Error> {
        if self.open.len() == MAX_DEPTH {
            return Err(Error::Depth { at: self.begin });
        }
        self.open.push(self.names.len());
        Ok(Place::Entry)
    }

    fn leave(&mut self) -> Place {
        self.names.truncate(self.open.pop().unwrap_or_default());
        self.after_file()
    }

    fn after_file(&self) -> Place {
        if self.open.is_empty() { Place::End } else { Place::EntryClose }
    }

    fn excerpt(&self) -> Excerpt {
        let text: Cow<'_, str> = String::from_utf8_lossy(&self.text);
        Excerpt::of(&text)
    }
}

impl Place {
    /// The strings that may stand here, where the grammar knows them.
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Magic => &[MAGIC],
            Self::Open | Self::EntryOpen => &["("],
            Self::Type => &["type"],
            Self::Kind => &["regular", "symlink", "directory"],
            Self::Marker => &["contents", "executable"],
            Self::Empty => &[""],
            Self::ContentsTag => &["contents"],
            Self::TargetTag => &["target"],
            Self::Close | Self::EntryClose => &[")"],
            Self::Entry => &["entry", ")"],
            Self::NameTag => &["name"],
            Self::Node => &["node"],
            Self::Contents | Self::Target | Self::Name | Self::End => &[],
        }
    }

    /// The same for an error message.
    const fn expected(self) -> &'static str {
        match self {
            Self::Magic => "`nix-archive-1`",
            Self::Open | Self::EntryOpen => "`(`",
            Self::Type => "`type`",
            Self::Kind => "`regular`, `symlink` or `directory`",
            Self::Marker => "`contents` or `executable`",
            Self::Empty => "the empty string after `executable`",
            Self::ContentsTag => "`contents`",
            Self::Contents => "contents of less than 2^63 bytes",
            Self::TargetTag => "`target`",
            Self::Target => "a target of 1 to 4095 bytes",
            Self::Close | Self::EntryClose => "`)`",
            Self::Entry => "`entry` or `)`",
            Self::NameTag => "`name`",
            Self::Name => "a name of 1 to 255 bytes",
            Self::Node => "`node`",
            Self::End => "the end",
        }
    }
}
