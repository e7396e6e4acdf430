//! How a file that changed is known without reading it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::clock::UnixSeconds;

/// By what a changed file is known. A link is followed, so that one that is swapped is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// When anything of it was changed, which nobody can set: `cp -p` over a file brings the time of the other one.
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file that was looked at.
    pub fn of(found: &fs::Metadata) -> Self {
        let modified = (found.mtime(), found.mtime_nsec());
        let changed = (found.ctime(), found.ctime_nsec());
        Self { device: found.dev(), inode: found.ino(), size: found.size(), modified, changed }
    }

    /// Itself, unless the file is so new that it may be written once more under the same time.
    pub fn settled(self) -> Option<Self> {
        /// Seconds.
        const GRAIN: u64 = 2;
        let now = UnixSeconds::now().0;
        let is_old = |time: i64| {
            let age = u64::try_from(time).ok().and_then(|time| now.checked_sub(time));
            age.is_none_or(|age| age >= GRAIN)
        };
        (is_old(self.modified.0) && is_old(self.changed.0)).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_may_change_once_more_under_the_same_time() {
        let now = i64::try_from(UnixSeconds::now().0).expect("a date");
        let settled = |modified, changed| {
            let (modified, changed) = ((modified, 0), (changed, 0));
            Stamp { device: 1, inode: 1, size: 1, modified, changed }.settled().is_some()
        };
        let old = now - 60;
        assert!(!settled(now, old) && settled(old, old) && settled(now + 60, old) && settled(-1, old));
        assert!(!settled(old, now) && !settled(-1, now));
    }

    #[test]
    fn what_is_written_under_the_time_and_size_of_before_is_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens");
        let write = |text: &str| {
            fs::write(&path, text).expect("a file");
            let file = fs::File::options().write(true).open(&path).expect("the file");
            file.set_modified(std::time::UNIX_EPOCH).expect("a time");
            Stamp::of(&file.metadata().expect("its facts"))
        };
        let before = write("old");
        // The clock of file systems is coarse.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while write("new") == before {
            assert!(std::time::Instant::now() < deadline, "its change is not seen");
        }
    }
}
