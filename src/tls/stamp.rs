//! How a file that changed is known without reading it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::clock::UnixSeconds;

/// By what a changed file is known. A link is followed, so that one that is swapped is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(found: &fs::Metadata) -> Self {
        let modified = (found.mtime(), found.mtime_nsec());
        Self { device: found.dev(), inode: found.ino(), size: found.size(), modified }
    }

    /// Itself, unless the file is so new that it may be written once more under the same time.
    pub(crate) fn settled(self) -> Option<Self> {
        /// Seconds.
        const GRAIN: u64 = 2;
        let age = u64::try_from(self.modified.0).ok().and_then(|modified| UnixSeconds::now().0.checked_sub(modified));
        age.is_none_or(|age| age >= GRAIN).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_may_change_once_more_under_the_same_time() {
        let now = i64::try_from(UnixSeconds::now().0).expect("a date");
        let modified = |seconds| Stamp { device: 1, inode: 1, size: 1, modified: (seconds, 0) }.settled().is_some();
        assert!(!modified(now) && modified(now - 60) && modified(now + 60) && modified(-1));
    }
}
