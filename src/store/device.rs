//! The directory of the disk tier: its layout, its lock, and its files, all allocated before foyer sees them.
//!
//! ```text
//! <dir>/lock                                     held by the process that uses the directory
//! <dir>/nar/v1-b64m-i4k/foyer-storage-direct-fs-00000000 ...
//! <dir>/meta/v1-b16m-i4k/foyer-storage-direct-fs-00000000 ...
//! ```
//!
//! Everything foyer 0.22 cannot survive is settled here, before it opens:
//! - a full disk: a failed write ends foyer's flusher for good, so every block is allocated first (R30);
//! - another block size on the same files: its reads fail for ever, so the geometry is in the directory's name;
//! - no clean block: foyer reclaims only when a block is taken or finished, so that a tier whose blocks all hold data
//!   (a smaller capacity than before, a kill at the wrong moment) would never write again; the oldest is emptied.
//!
//! Out of scope: what is in the blocks.

use std::fs::{DirBuilder, DirEntry, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::allocate::{self, Made};
use super::direct;
use super::geometry::PAGE;
use super::open::OpenError;

/// Version of what we write into the blocks; part of the directory's name. Goes up with the encoding of keys or values,
/// with the hash of a key and with foyer's format.
const FORMAT: u32 = 1;
/// The page in which foyer lists the entries behind it.
pub const INDEX: usize = PAGE;
/// Blocks that foyer keeps empty, ready to be written.
pub const CLEAN: usize = 2;
/// The smallest disk tier: below it a tier would have too few blocks to evict one at a time.
pub const LEAST: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

/// The blocks of one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// The directory of the block files.
    pub dir: PathBuf,
    /// Bytes of a block.
    pub block: usize,
    /// How many there are.
    pub blocks: usize,
}

impl Area {
    /// As many blocks as fit into `bytes`: a sixteenth of it each, but a power of two between `least` and `most`.
    fn new(parent: &Path, bytes: u64, least: u64, most: u64) -> Self {
        let sixteenth = (bytes / 16).max(1);
        let block = (1 << sixteenth.ilog2()).clamp(least, most);
        let dir = parent.join(format!("v{FORMAT}-b{}m-i{}k", block / MIB, INDEX / 1024));
        // Both fit: a block is at most 64 MiB, and 2^64 bytes have 2^44 blocks of 1 MiB.
        let (block, blocks) = (usize::try_from(block), usize::try_from(bytes / block));
        Self { dir, block: block.unwrap_or(usize::MAX), blocks: blocks.unwrap_or(usize::MAX) }
    }

    /// Whether the directory of the tier holds this area and no other. A block file that is missing in the middle is
    /// damage, not another size.
    fn is_there(&self) -> io::Result<bool> {
        let mut same = self.dir.is_dir();
        for entry in std::fs::read_dir(self.dir.parent().unwrap_or(&self.dir))? {
            let entry = entry?;
            same &= entry.path() == self.dir || !is_an_area(&entry)?;
        }
        let last = self.blocks.checked_sub(1).and_then(|last| u32::try_from(last).ok());
        Ok(same && last.is_some_and(|last| self.file(last).exists() && !self.file(last + 1).exists()))
    }

    /// Bytes of all its blocks.
    pub fn capacity(&self) -> u64 {
        self.block as u64 * self.blocks as u64
    }

    /// The file of block `block`, by the name foyer's file system device gives it.
    pub fn file(&self, block: u32) -> PathBuf {
        self.dir.join(format!("{BLOCK_FILE}{block:08}"))
    }

    /// The files of all blocks.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        (0..u32::try_from(self.blocks).unwrap_or(u32::MAX)).map(|block| self.file(block))
    }
}

const BLOCK_FILE: &str = "foyer-storage-direct-fs-";

/// The two areas of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The directory of the disk tier.
    pub dir: PathBuf,
    /// Chunks of NARs.
    pub nar: Area,
    /// Manifests and small objects.
    pub meta: Area,
}

impl Layout {
    /// Divides `bytes` of disk.
    ///
    /// # Errors
    /// When that is less than [`LEAST`].
    pub fn new(dir: &Path, bytes: u64) -> Result<Self, OpenError> {
        if bytes < LEAST {
            return Err(OpenError::TooSmall { given: bytes });
        }
        let for_meta = (bytes / 32).clamp(16 * MIB, 4096 * MIB);
        let nar = Area::new(&dir.join("nar"), bytes - for_meta, 4 * MIB, 64 * MIB);
        let meta = Area::new(&dir.join("meta"), for_meta, MIB, 16 * MIB);
        Ok(Self { dir: dir.to_owned(), nar, meta })
    }

    /// Whether the directory was made with this layout, so that preparing it takes nothing away and adds nothing. `None`
    /// when it was made with none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_there(&self) -> io::Result<Option<bool>> {
        let mut same = true;
        for area in [&self.nar, &self.meta] {
            match area.is_there() {
                Ok(area_is) => same &= area_is,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(same))
    }

    /// Bytes of all blocks.
    pub fn capacity(&self) -> u64 {
        self.nar.capacity() + self.meta.capacity()
    }
}

/// A directory that is ready for foyer, and ours until this is dropped.
#[derive(Debug)]
pub struct Device {
    /// The areas.
    pub layout: Layout,
    /// The blocks of each area from the one written longest ago to the newest: nar, then meta.
    pub ages: [Vec<u32>; 2],
    /// Whether the file system takes direct I/O on these files; otherwise all goes through the page cache.
    pub direct: bool,
    /// False when the file system cannot allocate in advance, so that writes can meet a full disk.
    pub allocated: bool,
    lock: File,
}

impl Device {
    /// Makes the directory ready: locks it, frees the space of other geometries, allocates every block.
    /// Blocks the thread; up to seconds when there is much to allocate.
    ///
    /// # Errors
    /// When the directory cannot be made, locked or written, or has not the space. Files made on the way are removed.
    pub fn prepare(layout: Layout) -> Result<Self, OpenError> {
        let dir = &layout.dir;
        // Others may have to enter it: clients read the CA of the self-signed certificate there.
        let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
        made.map_err(OpenError::directory(dir))?;
        let lock = lock(dir)?;
        allow_files(&layout)?;
        let mut direct = true;
        for area in [&layout.nar, &layout.meta] {
            make_private(area).map_err(OpenError::directory(&area.dir))?;
            free_other_geometries(area).map_err(OpenError::directory(&area.dir))?;
            direct &= direct::probe(&area.dir).map_err(OpenError::directory(&area.dir))?;
        }
        allocate::check_space(&layout)?;
        let mut made = Made::default();
        for area in [&layout.nar, &layout.meta] {
            for file in area.files() {
                made.allocate(&file, area.block as u64).map_err(OpenError::directory(&file))?;
            }
        }
        let mut ages = [Vec::new(), Vec::new()];
        for (ages, area) in ages.iter_mut().zip([&layout.nar, &layout.meta]) {
            *ages = by_age(area).map_err(OpenError::directory(&area.dir))?;
            keep_clean(area, ages).map_err(OpenError::directory(&area.dir))?;
            direct &= area.files().all(|file| direct::opens(&file));
        }
        let allocated = !made.sparse;
        made.keep();
        Ok(Self { layout, ages, direct, allocated, lock })
    }

    /// Lets others use the directory: nothing writes to it any more.
    pub fn release(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the lock on the cache directory cannot be released before the process ends");
        }
    }
}

/// Makes the directory of an area and the one of its tier, which are nobody else's to read: what is cached may be secret.
fn make_private(area: &Area) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(&area.dir)?;
    close_to_others(area.dir.parent().unwrap_or(&area.dir))
}

/// What an earlier version made may be open to all. What another user owns stays as that user made it.
fn close_to_others(path: &Path) -> io::Result<()> {
    let there = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if there & 0o077 != 0
        && let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(there & 0o7700))
    {
        tracing::warn!(path = %path.display(), %error, "cannot be closed to other users");
    }
    Ok(())
}

/// Files left to the rest of the process: connections, sockets, certificates.
const OTHER_FILES: u64 = 4096;

/// foyer keeps every block file open, which is more than the usual limit of 1024 from 64 GiB on: raises it.
fn allow_files(layout: &Layout) -> Result<(), OpenError> {
    let needed = (layout.nar.blocks + layout.meta.blocks) as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(needed.min(allowed)), maximum: limit.maximum };
    let set = setrlimit(Resource::Nofile, raised);
    // Without all of the others the store works, and the accept loop knows what to do when files run out.
    if set.is_err() || allowed < needed - OTHER_FILES / 2 {
        return Err(OpenError::Files { needed, allowed });
    }
    Ok(())
}

/// One process at a time: two would overwrite each other's blocks.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(OpenError::directory(&path))?;
    close_to_others(&path).map_err(OpenError::directory(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(OpenError::Directory { path, source: error }),
    }
}

/// Removes the directories of other geometries beside `area` and its files past the last block; nothing else.
fn free_other_geometries(area: &Area) -> io::Result<()> {
    let parent = area.dir.parent().unwrap_or(&area.dir);
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if entry.path() != area.dir && is_an_area(&entry)? {
            tracing::info!(path = %entry.path().display(), "removing cached data of another geometry");
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    for entry in std::fs::read_dir(&area.dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(BLOCK_FILE)?.parse::<usize>().ok());
        if number.is_some_and(|number| number >= area.blocks) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether this, beside an area, is the directory of an area.
fn is_an_area(entry: &DirEntry) -> io::Result<bool> {
    Ok(entry.file_name().to_str().is_some_and(is_geometry_name) && entry.file_type()?.is_dir())
}

/// `v1-b64m-i4k`: a version, a block size in MiB, an index size in KiB.
fn is_geometry_name(name: &str) -> bool {
    let number = |part: &str, before: &str, after: &str| {
        let digits = part.strip_prefix(before).and_then(|part| part.strip_suffix(after));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let parts: Vec<&str> = name.split('-').collect();
    matches!(*parts, [v, b, i] if number(v, "v", "") && number(b, "b", "m") && number(i, "i", "k"))
}

/// The blocks in the order of their last write. foyer forgets it over a restart and would evict in random order.
fn by_age(area: &Area) -> io::Result<Vec<u32>> {
    let mut ages = Vec::with_capacity(area.blocks);
    for (block, file) in (0..).zip(area.files()) {
        let metadata = std::fs::metadata(file)?;
        ages.push(((metadata.mtime(), metadata.mtime_nsec()), block));
    }
    ages.sort_unstable();
    Ok(ages.into_iter().map(|(_, block)| block).collect())
}

/// Empties the oldest block if none is clean: with one, foyer starts and makes the next. A block is clean when its first
/// page is blank.
fn keep_clean(area: &Area, ages: &[u32]) -> io::Result<()> {
    let open = |block: u32| OpenOptions::new().read(true).write(true).open(area.file(block));
    // The clean blocks are mostly those last written to, when they were emptied.
    for block in ages.iter().rev() {
        let mut page = [0; PAGE];
        open(*block)?.read_exact_at(&mut page, 0)?;
        if page == [0; PAGE] {
            return Ok(());
        }
    }
    match ages.first() {
        Some(oldest) => open(*oldest)?.write_all_at(&[0; PAGE], 0),
        None => Ok(()),
    }
}
