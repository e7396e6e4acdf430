//! Small files that the operator names: certificates, keys, tokens, secrets.
//!
//! They are read whole, without waiting for anybody (a pipe or a device in their place is refused), and not beyond a length.
//! A [`Stamp`] of what was read tells later whether the file is another one.
//!
//! Those that we make ourselves are written with [`place`].
//!
//! Out of scope: who may own and read them, and what is in them.

mod place;
mod stamp;

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

pub use place::place;
pub use stamp::Stamp;

/// How they are opened.
const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The file as it was before it was read, and what is in it: no more than `longest` bytes, of which no copy stays behind.
///
/// Blocking.
///
/// # Errors
/// It cannot be read, is no regular file, or is longer.
pub fn read(path: &Path, longest: u64) -> io::Result<(Metadata, Zeroizing<Vec<u8>>)> {
    let file = File::from(rustix::fs::open(path, READING, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("this is no file, but a directory, a pipe or a device"));
    }
    // Of its final size from the beginning: where it grew, what it was before would stay behind.
    let room = usize::try_from(found.len().min(longest)).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    match file.take(longest + 1).read_to_end(&mut text)? as u64 {
        length if length > longest => Err(io::Error::other(format!("it has more than {longest} bytes"))),
        _ => Ok((found, text)),
    }
}

/// The same, as text.
///
/// # Errors
/// As of [`read`], or it is not UTF-8.
pub fn read_text(path: &Path, longest: u64) -> io::Result<(Metadata, Zeroizing<String>)> {
    let (found, mut bytes) = read(path, longest)?;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok((found, Zeroizing::new(text))),
        Err(error) => {
            let _ = Zeroizing::new(error.into_bytes());
            Err(io::Error::other("it is not text in UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_is_wanted_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read(&path, 4).unwrap().1.as_slice(), b"four");
        assert_eq!(read_text(&path, 4).unwrap().1.as_str(), "four");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "it has more than 3 bytes");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "it is not text in UTF-8");
        for odd in [dir.path(), Path::new("/dev/zero")] {
            assert!(read(odd, 4).unwrap_err().to_string().contains("no file"), "{}", odd.display());
        }
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(read(&pipe, 4).unwrap_err().to_string().contains("no file"));
    }
}
