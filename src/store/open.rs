//! Why the disk tier could not be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::device;
use crate::options::ByteSize;

/// Why the disk tier could not be opened. The store goes on in memory, and tries again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Less space than a tier needs to work.
    #[error("store.disk = {} is too small: the least is {}", ByteSize(*given), ByteSize(device::LEAST))]
    TooSmall {
        /// Bytes configured.
        given: u64,
    },
    /// Another process holds the directory's lock.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no cache to look at.
    #[error("{} holds no cache", dir.display())]
    Nothing {
        /// The directory.
        dir: PathBuf,
    },
    /// The cache there is of another size, and opening it with this one would give up what it holds.
    #[error("{} holds a cache of another size than store.disk = {}", dir.display(), ByteSize(*given))]
    OtherSize {
        /// The directory.
        dir: PathBuf,
        /// Bytes configured.
        given: u64,
    },
    /// Something in the directory cannot be made, read or written.
    #[error("{}: {source}", path.display())]
    Directory {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk has not the space that the configuration promises to the store (R30).
    #[error(
        "{}: the store needs {} MiB more, of the {} MiB that are free {} MiB are left to others; free some, or lower \
         store.disk",
        dir.display(), missing >> 20, available >> 20, reserve >> 20
    )]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes to allocate.
        missing: u64,
        /// Bytes free for us.
        available: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// Each block is an open file, and the process may not have so many.
    #[error(
        "{needed} open files are needed and {allowed} allowed: raise LimitNOFILE or ulimit -n, or lower store.disk"
    )]
    Files {
        /// Files needed.
        needed: u64,
        /// The hard limit.
        allowed: u64,
    },
    /// The threads of the disk tier cannot be started.
    #[error("no threads for the disk tier: {0}")]
    Runtime(io::Error),
    /// foyer did not open its files.
    #[error("the cache files do not open: {0}")]
    Cache(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl OpenError {
    /// For `map_err` on what was done to `path`.
    pub(super) fn directory(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Directory { path, source }
    }
}
