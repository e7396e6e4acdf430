//! The files that secret keys are read from, and who else could read or change them (R4).
//!
//! The file is opened first, by the `way` that leads to it, and then what was opened is looked at and read: what is
//! checked is what is used, whatever happens to names meanwhile. A key that others may have read or replaced is refused
//! rather than warned about, because its signatures are believed by every client.
//!
//! On a tmpfs or ramfs that is mounted read-only, files may be readable for everybody: so are the secrets that
//! Kubernetes and systemd hand to one service, which nobody else sees.

mod way;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FsWord, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::Gid;
use zeroize::Zeroizing;

use super::secret_key::{self, SecretKey};

/// The longest file: a key with a name of 255 characters takes 344 bytes.
const MOST: usize = 4096;

/// How a key file is opened. Nonblocking, because a pipe in its place would be waited for.
const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// File systems that live in memory, by their magic numbers (`statfs(2)`).
const TMPFS: FsWord = 0x0102_1994;
const RAMFS: FsWord = 0x8584_58f6;

/// Permission bits of a mode.
const GROUP_READ: u32 = 0o040;
const OTHERS_READ: u32 = 0o004;
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Why a key file is not used: one line that names the file, what is wrong with it, and what to do.
#[derive(Debug)]
pub struct KeyFileError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("cannot be opened: {0}")]
    Open(io::Error),
    #[error("{} cannot be opened: {cause}", shown(at))]
    OpenOnTheWay { at: PathBuf, cause: io::Error },
    #[error("this is no regular file; give the file that holds the key")]
    NoFile,
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("longer than {MOST} bytes; give the file that holds the key and nothing else")]
    Long,
    #[error("{0}")]
    Malformed(secret_key::Error),
    #[error("belongs to user {found}; it must belong to {}: `chown {ours} {file}`, or run this as user {found}", owners(*ours))]
    Owner { found: u32, ours: u32, file: String },
    #[error(
        "users other than its owner can change it (mode {mode:04o}): `chmod 600 {file}`, or make a new key if somebody may have"
    )]
    Writable { mode: u32, file: String },
    #[error("every user can read it (mode {mode:04o}): `chmod 600 {file}`, or make a new key if somebody may have")]
    Readable { mode: u32, file: String },
    #[error(
        "group {group} can read it (mode {mode:04o}), and this process is not in that group: `chmod 600 {file}`, or run \
         this as a user who is"
    )]
    GroupReadable { group: u32, mode: u32, file: String },
    #[error(
        "{} on the way to it belongs to user {found}, who can put another key there; it must belong to {}: `chown`, or \
         keep the key elsewhere", shown(at), owners(*ours)
    )]
    OwnerOnTheWay { at: PathBuf, found: u32, ours: u32 },
    #[error(
        "other users can write {} (mode {mode:04o}) and put another key there: `chmod go-w {}`, or keep the key \
         elsewhere",
        shown(at),
        shown(at)
    )]
    WritableOnTheWay { at: PathBuf, mode: u32 },
    #[error("the key is named {name} like that of {}; give each key a name of its own", shown(other))]
    SameName { name: String, other: PathBuf },
}

impl KeyFileError {
    pub(super) fn same_name(path: &Path, name: &str, other: &Path) -> Self {
        Self { path: path.to_owned(), why: Why::SameName { name: name.to_owned(), other: other.to_owned() } }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key file {}: {}", shown(&self.path), self.why)
    }
}

impl std::error::Error for KeyFileError {}

/// A path on one line.
fn shown(path: &Path) -> String {
    let mut text = String::new();
    for c in path.display().to_string().chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// Who may own what leads to a key.
fn owners(ours: u32) -> String {
    if ours == 0 { "root".to_owned() } else { format!("root or to user {ours}, as whom the server runs") }
}

/// Reads the key in this file, if nobody else can have read or replaced it. A relative path is looked up from the
/// current directory.
///
/// # Errors
/// When the file cannot be read or holds no key; when anybody but root and the user of this process owns it, may write
/// it, or may write a directory on the way to it; when others may read it, a group of this process excepted.
pub fn load(path: &Path) -> Result<SecretKey, KeyFileError> {
    load_as(path, &Process::this())
}

fn load_as(path: &Path, process: &Process) -> Result<SecretKey, KeyFileError> {
    let key = || {
        let file = way::open(path, process)?;
        check(&file, path, process)?;
        read(&mut File::from(file))
    };
    key().map_err(|why| KeyFileError { path: path.to_owned(), why })
}

/// Reads the key in this file, whoever else may have done so: to tell its public half.
///
/// # Errors
/// When the file cannot be read or holds no key, and when it is something else than a file: nothing is waited for.
pub fn load_unguarded(path: &Path) -> Result<SecretKey, KeyFileError> {
    let key = open_unguarded(path).and_then(|file| read(&mut File::from(file)));
    key.map_err(|why| KeyFileError { path: path.to_owned(), why })
}

fn open_unguarded(path: &Path) -> Result<OwnedFd, Why> {
    let failed = |error: Errno| Why::Open(error.into());
    // Looked at before it is opened, since opening a device may do something, and after, since it may be another one.
    if !is_file(&rustix::fs::stat(path).map_err(failed)?) {
        return Err(Why::NoFile);
    }
    let file = rustix::fs::open(path, READING, Mode::empty()).map_err(failed)?;
    if is_file(&rustix::fs::fstat(&file).map_err(failed)?) { Ok(file) } else { Err(Why::NoFile) }
}

/// Reads the key that comes from `input`, which is called `name` in the error.
///
/// # Errors
/// When it cannot be read or is no key.
pub fn load_from(input: &mut dyn Read, name: &str) -> Result<SecretKey, KeyFileError> {
    read(input).map_err(|why| KeyFileError { path: name.into(), why })
}

/// Whose rights count.
struct Process {
    uid: u32,
    groups: Vec<u32>,
}

impl Process {
    fn this() -> Self {
        let also = rustix::process::getgroups().unwrap_or_default();
        let groups = also.into_iter().chain([rustix::process::getegid()]).map(Gid::as_raw).collect();
        Self { uid: rustix::process::geteuid().as_raw(), groups }
    }

    /// Whether who owns a thing may decide over the key.
    fn trusts(&self, owner: u32) -> bool {
        owner == 0 || owner == self.uid
    }
}

/// Looks at the file that was opened.
fn check(file: &OwnedFd, path: &Path, process: &Process) -> Result<(), Why> {
    let stat = rustix::fs::fstat(file).map_err(|error| Why::Open(error.into()))?;
    let (mode, file_name) = (stat.st_mode & 0o7777, || shown(path));
    if !process.trusts(stat.st_uid) {
        return Err(Why::Owner { found: stat.st_uid, ours: process.uid, file: file_name() });
    }
    if mode & (GROUP_WRITE | OTHERS_WRITE) != 0 {
        return Err(Why::Writable { mode, file: file_name() });
    }
    let group_is_ours = stat.st_gid == 0 || process.groups.contains(&stat.st_gid);
    let exposed = mode & OTHERS_READ != 0 || (mode & GROUP_READ != 0 && !group_is_ours);
    if !exposed || is_mounted_secret(file) {
        return Ok(());
    }
    Err(match mode & OTHERS_READ {
        0 => Why::GroupReadable { group: stat.st_gid, mode, file: file_name() },
        _ => Why::Readable { mode, file: file_name() },
    })
}

/// Whether the file lies in memory and is mounted read-only.
fn is_mounted_secret(file: &OwnedFd) -> bool {
    let in_memory = rustix::fs::fstatfs(file).is_ok_and(|found| [TMPFS, RAMFS].contains(&found.f_type));
    in_memory && rustix::fs::fstatvfs(file).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Reads all there is into memory that is zeroed afterwards.
fn read(input: &mut dyn Read) -> Result<SecretKey, Why> {
    let mut bytes = Zeroizing::new([0; MOST + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match input.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Why::Read(error)),
        }
    }
    if length > MOST {
        return Err(Why::Long);
    }
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| Why::Malformed(secret_key::Error::Form))?;
    SecretKey::parse(text).map_err(Why::Malformed)
}

#[cfg(test)]
mod tests;
