//! Writing a small file so that it is whole, whatever happens in between: written beside, synced, renamed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a file: the old one or the whole new one, with `mode` from its first byte on.
///
/// Blocking.
///
/// # Errors
/// The directory cannot be written.
pub fn place(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A rest of an earlier crash may have another mode, which opening would keep.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // Without this a power cut could bring the old name back.
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}
