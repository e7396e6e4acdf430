//! The way to a key file, taken one step after another.
//!
//! Every directory is opened from the one before it and looked at while it is held open, every link is read and followed
//! here: there is no moment at which another file could take the place of one that was checked. Whoever owns a thing on
//! the way, or may write a directory on it, could put another key at its end; so they must be root or ourselves. In
//! a directory with the sticky bit (`/tmp`, the volumes of Kubernetes) everybody may write, and nobody may take away
//! what belongs to others.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{GROUP_WRITE, OTHERS_WRITE, Process, READING, STICKY, Why, is_file};

/// Links that are followed; as many as the system itself follows.
const LINKS: usize = 40;

/// Opens the file for reading. It is a regular one; who may do what with it is still to be looked at.
pub(super) fn open(path: &Path, process: &Process) -> Result<OwnedFd, Why> {
    let whole = std::path::absolute(path).map_err(Why::Open)?;
    let mut walk = Walk { at: Place::root(process)?, ahead: Vec::new(), links: 0, process };
    walk.plan(&whole);
    loop {
        let step = walk.ahead.pop().ok_or(Why::NoFile)?;
        if let Some(file) = walk.go(&step)? {
            return Ok(file);
        }
    }
}

struct Walk<'a> {
    at: Place,
    /// The names that are left, the next one last.
    ahead: Vec<OsString>,
    links: usize,
    process: &'a Process,
}

/// A directory.
struct Place {
    dir: OwnedFd,
    /// For messages.
    path: PathBuf,
}

impl Walk<'_> {
    /// Puts the names of `path` in front of what is left.
    fn plan(&mut self, path: &Path) {
        let names = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        let names: Vec<OsString> = names.collect();
        self.ahead.extend(names.into_iter().rev());
    }

    /// Takes a step; the file, when it leads to one and is the last.
    fn go(&mut self, name: &OsStr) -> Result<Option<OwnedFd>, Why> {
        let path =
            if name == ".." { self.at.path.parent().unwrap_or(Path::new("/")).into() } else { self.at.path.join(name) };
        let failed = |error: Errno| failed(&path, error.into(), self.ahead.is_empty());
        let held =
            rustix::fs::openat(&self.at.dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed)?;
        let stat = rustix::fs::fstat(&held).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.at = Place::checked(held, path, self.process)?;
                Ok(None)
            }
            FileType::Symlink => {
                check_owner(&stat, &path, self.process)?;
                self.follow(&held, &path)?;
                Ok(None)
            }
            FileType::RegularFile if self.ahead.is_empty() => self.read_from(name).map(Some),
            _ if self.ahead.is_empty() => Err(Why::NoFile),
            _ => Err(failed(Errno::NOTDIR)),
        }
    }

    fn follow(&mut self, link: &OwnedFd, path: &Path) -> Result<(), Why> {
        self.links += 1;
        let last = self.ahead.is_empty();
        if self.links > LINKS {
            return Err(failed(path, Errno::LOOP.into(), last));
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new()).map_err(|error| failed(path, error.into(), last))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            self.at = Place::root(self.process)?;
        }
        self.plan(&target);
        Ok(())
    }

    /// Opens the file of this name. It may be another one than a moment ago: what was opened counts from here on.
    fn read_from(&self, name: &OsStr) -> Result<OwnedFd, Why> {
        let file = rustix::fs::openat(&self.at.dir, name, READING | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| Why::Open(error.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| Why::Open(error.into()))?;
        if is_file(&stat) { Ok(file) } else { Err(Why::NoFile) }
    }
}

impl Place {
    fn root(process: &Process) -> Result<Self, Why> {
        let dir = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Why::Open(error.into()))?;
        Self::checked(dir, PathBuf::from("/"), process)
    }

    /// The directory, if nobody else can replace what is in it.
    fn checked(dir: OwnedFd, path: PathBuf, process: &Process) -> Result<Self, Why> {
        let stat = rustix::fs::fstat(&dir).map_err(|error| Why::Open(error.into()))?;
        check_owner(&stat, &path, process)?;
        let mode = stat.st_mode & 0o7777;
        // Whoever is in root's group may have been let in deliberately, as systems with a read-only root user do.
        let others = if stat.st_gid == 0 { OTHERS_WRITE } else { OTHERS_WRITE | GROUP_WRITE };
        if mode & others != 0 && mode & STICKY == 0 {
            return Err(Why::WritableOnTheWay { at: path, mode });
        }
        Ok(Self { dir, path })
    }
}

fn check_owner(stat: &Stat, path: &Path, process: &Process) -> Result<(), Why> {
    if process.trusts(stat.st_uid) {
        return Ok(());
    }
    Err(Why::OwnerOnTheWay { at: path.to_owned(), found: stat.st_uid, ours: process.uid })
}

/// `last` when it is the file itself that is named, and not something on the way.
fn failed(at: &Path, cause: io::Error, last: bool) -> Why {
    if last { Why::Open(cause) } else { Why::OpenOnTheWay { at: at.to_owned(), cause } }
}
