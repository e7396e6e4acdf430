//! What a block file of the meta tier holds, read past foyer: foyer finds entries by key only.
//!
//! ```text
//! a block = pages of 4 KiB; an entry begins at a page:
//! key length u32, value length u32, hash u64, sequence u64, checksum u64, magic and compression u32 (big-endian),
//! value, key, padding
//! ```
//!
//! Every page is looked at, and foyer's index pages are not needed: a damaged one hides nothing. Nothing that is read is
//! believed: lengths stay inside the block, the checksum and the hash of the key must be right, and a whole entry is
//! skipped by its length only then. What is found is what was once written here, which is not what holds now: behind the
//! newest entry of a block there may be those of its earlier use. Who asks compares with the catalog (see `walk`).

use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use foyer::{Code, DefaultHasher};
use twox_hash::XxHash64;

use super::direct::{self, Aligned};
use super::geometry::{ENTRY_HEADER, PAGE};
use super::meta::{MetaKey, MetaValue};

/// The last four bytes of the header of an entry that is not compressed.
const MAGIC: u32 = 0x9703_2700;
/// Bytes that are read at a time; more for a larger entry.
const WINDOW: usize = 1 << 20;

/// What a block holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The entries in the order in which they lie, older ones of the same key among them.
    pub entries: Vec<(MetaKey, MetaValue)>,
    /// Pages that begin like an entry and are none, and reads that failed (after one the rest of the block is not looked
    /// at). A block that is being written over has some too.
    pub unreadable: u64,
}

/// Reads the block in `file`, at most `block` bytes. Blocks the thread.
pub fn scan(file: &Path, block: usize, direct: bool) -> Scan {
    let mut found = Scan::default();
    if let Err(error) = fill(&mut found, file, block, direct) {
        tracing::debug!(file = %file.display(), %error, "a block cannot be read to its end");
        found.unreadable += 1;
    }
    found
}

fn fill(found: &mut Scan, file: &Path, block: usize, direct: bool) -> io::Result<()> {
    let mut window = Window::open(file, block, direct)?;
    // A clean block: foyer blanks its first page when it empties it.
    if window.end == 0 || window.at(0, PAGE)?.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let mut at = 0;
    while at < window.end {
        let Some(header) = Header::read(window.at(at, PAGE)?) else {
            at += PAGE;
            continue;
        };
        let entry = match header.len().filter(|len| *len <= window.end - at) {
            Some(len) => header.entry(window.at(at, len)?).map(|entry| (entry, len)),
            None => None,
        };
        match entry {
            Some((entry, len)) => {
                found.entries.push(entry);
                at += len.next_multiple_of(PAGE);
            }
            None => {
                found.unreadable += 1;
                at += PAGE;
            }
        }
    }
    Ok(())
}

/// What foyer writes before an entry, without the sequence number.
struct Header {
    key: usize,
    value: usize,
    hash: u64,
    checksum: u64,
}

impl Header {
    /// `None` when `page` does not begin with one.
    fn read(page: &[u8]) -> Option<Self> {
        let (header, _) = page.split_first_chunk::<ENTRY_HEADER>()?;
        let (lengths, rest) = header.split_first_chunk::<8>()?;
        let (hash, rest) = rest.split_first_chunk::<8>()?;
        let (_sequence, rest) = rest.split_first_chunk::<8>()?;
        let (checksum, magic) = rest.split_first_chunk::<8>()?;
        if *magic != MAGIC.to_be_bytes() {
            return None;
        }
        let lengths = u64::from_be_bytes(*lengths);
        Some(Self {
            key: usize::try_from(lengths >> 32).ok()?,
            value: usize::try_from(lengths & u64::from(u32::MAX)).ok()?,
            hash: u64::from_be_bytes(*hash),
            checksum: u64::from_be_bytes(*checksum),
        })
    }

    /// Bytes of the entry without padding.
    fn len(&self) -> Option<usize> {
        self.key.checked_add(self.value)?.checked_add(ENTRY_HEADER)
    }

    /// The entry in `bytes`, which is as long as the header says; `None` when anything about it is wrong.
    fn entry(&self, bytes: &[u8]) -> Option<(MetaKey, MetaValue)> {
        let content = bytes.get(ENTRY_HEADER..)?;
        if self.key != MetaKey::ENCODED || XxHash64::oneshot(0, content) != self.checksum {
            return None;
        }
        let (mut value, mut key) = content.split_at_checked(self.value)?;
        let key = MetaKey::decode(&mut key).ok()?;
        if DefaultHasher::default().hash_one(key) != self.hash {
            return None;
        }
        Some((key, MetaValue::decode(&mut value).ok()?))
    }
}

/// A part of a file in memory, moved forward as it is asked for.
struct Window {
    file: File,
    /// Where the file ends, in whole pages.
    end: usize,
    memory: Aligned,
    start: usize,
    filled: usize,
}

impl Window {
    fn open(file: &Path, block: usize, direct: bool) -> io::Result<Self> {
        let file = direct::open(file, direct)?;
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(block);
        Ok(Self { file, end: len / PAGE * PAGE, memory: Aligned::new(WINDOW.min(block)), start: 0, filled: 0 })
    }

    /// The `len` bytes from `at` on, which is the start of a page before the end.
    fn at(&mut self, at: usize, len: usize) -> io::Result<&[u8]> {
        let within = at >= self.start && at + len <= self.start + self.filled;
        if !within {
            let pages = len.next_multiple_of(PAGE);
            if pages > self.memory.bytes().len() {
                self.memory = Aligned::new(pages);
            }
            let filled = self.memory.bytes().len().min(self.end - at);
            self.filled = 0;
            self.file.read_exact_at(&mut self.memory.bytes()[..filled], at as u64)?;
            (self.start, self.filled) = (at, filled);
        }
        let from = at - self.start;
        Ok(&self.memory.bytes()[from..from + len])
    }
}
