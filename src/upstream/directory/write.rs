//! Writing into a directory: under another name first, then synced, then renamed, so that nobody sees half a file.
//!
//! The other names are in `.snowbank/`, on the same file system; what a crash left there is removed after a day. No link is
//! followed: who may write into the directory too must not lead us out of it.

use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::{Directory, blocking};
use crate::clock::UnixSeconds;
use crate::upstream::error::Cause;
use crate::upstream::put::Put;

/// Where files grow.
const GROWING: &str = ".snowbank";
/// After so many seconds (a day) a file there is nobody's any more.
const LEFT: u64 = 24 * 3600;

/// A file that is being written. Dropping it removes it.
#[derive(Debug)]
pub(in crate::upstream) struct Growing {
    threads: Arc<Semaphore>,
    file: Arc<File>,
    left: Option<Left>,
}

/// What is to be renamed, or removed.
#[derive(Debug)]
struct Left {
    growing: OwnedFd,
    name: String,
    /// Its directory, and its name there.
    place: OwnedFd,
    key: String,
}

impl Directory {
    pub(in crate::upstream) async fn put(&self, key: &str, body: Bytes, replace: bool) -> Result<Put, Cause> {
        if !replace && self.has(key).await? {
            return Ok(Put::There);
        }
        let mut growing = self.begin(key).await?;
        growing.part(body).await?;
        growing.finish().await?;
        Ok(Put::Written)
    }

    pub(in crate::upstream) async fn begin(&self, key: &str) -> Result<Growing, Cause> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Cause::Internal("there is no randomness for a name"))?;
        let name = format!("{:032x}", u128::from_le_bytes(random));
        let (path, key) = (Arc::clone(&self.path), key.to_owned());
        let made = self.step(move || make(&path, name, &key)).await?;
        let (file, left) = made;
        Ok(Growing { threads: Arc::clone(&self.threads), file: Arc::new(file), left: Some(left) })
    }

    async fn has(&self, key: &str) -> Result<bool, Cause> {
        let (path, key) = (Arc::clone(&self.path), key.to_owned());
        self.step(move || {
            let place = place(&root(&path)?, &key)?;
            match statat(&place, last(&key), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn step<T: Send + 'static>(&self, step: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Cause> {
        written(blocking(Arc::clone(&self.threads), step).await)
    }
}

impl Growing {
    pub(in crate::upstream) async fn part(&mut self, bytes: Bytes) -> Result<(), Cause> {
        let file = Arc::clone(&self.file);
        written(blocking(Arc::clone(&self.threads), move || (&*file).write_all(&bytes)).await)
    }

    pub(in crate::upstream) async fn finish(mut self) -> Result<(), Cause> {
        let (file, Some(left)) = (Arc::clone(&self.file), self.left.take()) else { return Ok(()) };
        let done = blocking(Arc::clone(&self.threads), move || {
            let put = file.sync_all().and_then(|()| {
                renameat(&left.growing, &left.name, &left.place, last(&left.key))?;
                // The name too; some file systems cannot, and need not.
                let _ = fsync(&left.place);
                Ok(())
            });
            if put.is_err() {
                left.remove();
            }
            put
        });
        written(done.await)
    }
}

impl Left {
    fn remove(&self) {
        let _ = unlinkat(&self.growing, &self.name, AtFlags::empty());
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            // One call, which a file system that hangs may hold up: never on a thread of the runtime.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn_blocking(move || left.remove());
            }
        }
    }
}

fn written<T>(done: Result<io::Result<T>, io::Error>) -> Result<T, Cause> {
    let done = done.map_err(|_| Cause::Internal("nobody could write into its directory"))?;
    done.map_err(|error| Cause::Told(format!("could not be written to: {error}")))
}

/// The directory, which must be there: one that is not mounted is not made.
fn root(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A directory in it, made if it is not there.
fn inner(root: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(root, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    match mkdirat(root, name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => Ok(openat(root, name, flags, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

/// The directory that a key is in.
fn place(root: &OwnedFd, key: &str) -> io::Result<OwnedFd> {
    match key.split_once('/') {
        Some((dir, _)) => inner(root, dir),
        None => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(openat(root, ".", flags, Mode::empty())?)
        }
    }
}

/// A key's name in its directory.
fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn make(path: &Path, name: String, key: &str) -> io::Result<(File, Left)> {
    let root = root(path)?;
    let (growing, place) = (inner(&root, GROWING)?, place(&root, key)?);
    sweep(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&growing, &name, flags, Mode::from_raw_mode(0o666))?;
    Ok((File::from(file), Left { growing, name, place, key: key.to_owned() }))
}

/// Removes what a crash left: there is rarely more than a file or two.
fn sweep(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path.join(GROWING)) else { return };
    let now = UnixSeconds::now().0;
    let age = |metadata: Metadata| now.saturating_sub(u64::try_from(metadata.mtime()).unwrap_or(now));
    for entry in entries.flatten() {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_ours && entry.metadata().is_ok_and(|metadata| age(metadata) > LEFT) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
