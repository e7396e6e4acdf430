//! The list of pins: a small text file in the directory of the store, which survives everything but that directory.
//!
//! A line for each pin: the base name of a store path, a blank, and `closure` or `alone`. It is written as a whole.

use std::io;
use std::path::Path;

use crate::file;
use crate::nix::store_path::{HashPart, StorePath};

/// The file.
pub(super) const FILE: &str = "pins";
/// So many pins there may be.
pub(super) const MOST: usize = 10_000;
/// Bytes of the file: a line has at most 252.
const LONGEST: u64 = 4 << 20;
const HEAD: &str = "# Kept through eviction; written by snowbank pin and snowbank unpin.\n";

/// A path that stays, with or without what it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::app) struct Pin {
    pub(in crate::app) path: StorePath,
    pub(in crate::app) closure: bool,
}

impl Pin {
    pub(super) fn hash(&self) -> HashPart {
        self.path.hash()
    }

    fn parse(line: &str) -> Option<Self> {
        let (path, what) = line.split_once(' ')?;
        let closure = match what {
            "closure" => true,
            "alone" => false,
            _ => return None,
        };
        Some(Self { path: StorePath::parse_base(path).ok()?, closure })
    }

    fn line(&self) -> String {
        format!("{} {}\n", self.path, if self.closure { "closure" } else { "alone" })
    }
}

/// The pins of a file; none where there is no file.
///
/// Blocking: a small file.
///
/// # Errors
/// It cannot be read, or is not such a list.
pub(super) fn read(path: &Path) -> io::Result<Vec<Pin>> {
    let text = match file::read_text(path, LONGEST) {
        // A directory that is none is told of by the store.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        read => read?.1,
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(n, line)| Pin::parse(line).ok_or_else(|| io::Error::other(format!("line {} is no pin", n + 1))))
        .collect()
}

/// Writes the file: the old one or the whole new one.
///
/// Blocking: a small file.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn write(path: &Path, pins: &[Pin]) -> io::Result<()> {
    let text: String = std::iter::once(HEAD.to_owned()).chain(pins.iter().map(Pin::line)).collect();
    file::place(path, 0o600, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_no_list_is_told_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path).unwrap(), []);
        let pin = |name: &str, closure| Pin {
            path: StorePath::parse_base(&format!("n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-{name}")).unwrap(),
            closure,
        };
        let pins = [pin("hello-2.12", true), pin("a=b?c", false)];
        write(&path, &pins).unwrap();
        assert_eq!(read(&path).unwrap(), pins);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        for wrong in
            ["hello closure", "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-hello some", "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-hello"]
        {
            std::fs::write(&path, format!("{HEAD}\n{wrong}\n")).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), "line 3 is no pin", "{wrong}");
        }
    }
}
