//! Whether direct I/O works in a directory. With it writes cost a third of the CPU time (no page cache to fill), and the
//! memory of the machine is left to the memory tier.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::geometry::PAGE;

/// What foyer adds to the flags of a direct file. `O_NOATIME` is refused on another user's file.
const DIRECT: OFlags = OFlags::DIRECT.union(OFlags::NOATIME);

fn flags() -> i32 {
    DIRECT.bits().cast_signed()
}

/// Writes a page and reads it back, direct if that works. Tells whether it did.
pub fn probe(dir: &Path) -> io::Result<bool> {
    let path = dir.join("probe");
    let result = match write_and_read(&path, flags()) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => {
            write_and_read(&path, 0).map(|()| false)
        }
        Err(error) => Err(error),
    };
    let removed = std::fs::remove_file(&path);
    result.and_then(|direct| removed.map(|()| direct))
}

fn write_and_read(path: &Path, flags: i32) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).custom_flags(flags).open(path)?;
    let mut page = Aligned::new(PAGE);
    page.bytes().fill(0xa5);
    file.write_all_at(page.bytes(), 0)?;
    page.bytes().fill(0);
    file.read_exact_at(page.bytes(), 0)?;
    if page.bytes().iter().all(|byte| *byte == 0xa5) { Ok(()) } else { Err(io::Error::other("read back other bytes")) }
}

/// Memory at an address that direct I/O accepts.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` bytes of zeros.
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + PAGE];
        // If the offset could not be computed the bytes start at 0, and direct I/O refuses them, which is handled.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Self { memory, start, len }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// True when a block file can be opened for direct I/O.
pub fn opens(file: &Path) -> bool {
    OpenOptions::new().read(true).write(true).custom_flags(flags()).open(file).is_ok()
}

/// Opens a block file to read it, past the page cache if `direct`.
pub fn open(file: &Path, direct: bool) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(if direct { flags() } else { 0 }).open(file)
}
