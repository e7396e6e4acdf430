//! Keys and certificates on disk.
//!
//! What is written is whole or not there, whatever happens in between: written beside, synced, renamed. A certificate and
//! its key are one file, so that no crash leaves the halves of two.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use crate::file::place;

/// A directory that only we can enter, made when the first file is put into it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vault(PathBuf);

impl Vault {
    /// The vault at `directory`.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Where `name` is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes the directory.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Puts a file in, readable for us alone.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make()?;
        place(&self.path(name), 0o600, bytes)
    }

    /// Reads a file, if it is there.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a file away, if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
