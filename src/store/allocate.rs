//! Block files that have all their space before anything is written (R30).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::device::{Area, Layout};
use super::open::OpenError;

/// R30: what is missing must be there, and leave the rest of the machine 5 % of the file system or 2 GiB.
pub fn check_space(layout: &Layout) -> Result<(), OpenError> {
    let missing: u64 = [&layout.nar, &layout.meta].into_iter().map(missing).sum();
    if missing == 0 {
        return Ok(());
    }
    let stat = rustix::fs::statvfs(&layout.dir).map_err(|e| OpenError::directory(&layout.dir)(e.into()))?;
    let reserve = (stat.f_blocks.saturating_mul(stat.f_frsize) / 20).min(2 << 30);
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < missing.saturating_add(reserve) {
        return Err(OpenError::NoSpace { dir: layout.dir.clone(), missing, available, reserve });
    }
    Ok(())
}

fn missing(area: &Area) -> u64 {
    let allocated = |file: PathBuf| std::fs::metadata(file).map_or(0, |m| (m.blocks() * 512).min(area.block as u64));
    area.capacity() - area.files().map(allocated).sum::<u64>()
}

/// The files made by one [`Device::prepare`]; removed again unless kept, so that a failure takes no space.
#[derive(Debug, Default)]
pub struct Made {
    files: Vec<PathBuf>,
    /// True when the file system could not allocate: space is taken when it is written.
    pub sparse: bool,
}

impl Made {
    /// Gives `path` exactly `bytes` of allocated space; what it holds within them stays. A file that has them already
    /// is not touched, because its modification time is the age of its block.
    pub fn allocate(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        if is_new {
            self.files.push(path.to_owned());
        }
        let metadata = file.metadata()?;
        if metadata.len() == bytes && metadata.blocks() * 512 >= bytes {
            return Ok(());
        }
        if metadata.len() > bytes {
            file.set_len(bytes)?;
        }
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.sparse = true;
                file.set_len(bytes)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All went well.
    pub fn keep(mut self) {
        self.files.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            if let Err(error) = std::fs::remove_file(file) {
                tracing::warn!(path = %file.display(), %error, "a block file that was just made cannot be removed");
            }
        }
    }
}
