//! A cache in a directory, as `nix copy --to file:///dir` writes it: on a stick, on a disk of this machine, or over NFS.
//!
//! A file that is not there is "have not" only while the directory has its `nix-cache-info`: an empty mount point is a
//! directory too, and what was unmounted has everything still (R18). What is opened lies below the directory, links
//! included: the kernel resolves the path and does not leave it (`openat2`; where it cannot, no link is followed).
//!
//! A file system may take as long as it likes, above all one over a network. So each step runs on a thread that may block,
//! of which a directory has [`THREADS`]: whoever waits for one gives up within the budgets of any other upstream, and what
//! hangs takes no more threads than these.
//!
//! What another program kept of an upstream is asked for in the same way, by an [`Index`] of it. A library is written to as
//! well (`write`).

mod index;
mod write;

use std::fs::{File, Metadata};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;
use tokio::sync::Semaphore;

pub(super) use self::write::Growing;
use super::error::Cause;
use super::options::Options;
use super::pieces::{self, Pieces};
use crate::metrics::UpstreamMetrics;
use crate::nix::cache_info;
use crate::nix::excerpt::Excerpt;

pub use index::Index;

/// Steps at a time that may hang.
const THREADS: usize = 16;
/// How much is read in a step.
const PIECE: u64 = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Directory {
    path: Arc<Path>,
    /// With a `/` at its end, as targets begin.
    base_path: String,
    index: Option<Arc<Index>>,
    threads: Arc<Semaphore>,
    metrics: UpstreamMetrics,
}

impl Directory {
    /// Nothing is looked at yet: the directory may be mounted later.
    pub(super) fn new(options: &Options, path: &Path, metrics: UpstreamMetrics) -> Self {
        let base_path = options.url.base().path().to_owned();
        Self { path: path.into(), base_path, index: None, threads: Arc::new(Semaphore::new(THREADS)), metrics }
    }

    /// What was kept of the upstream with these options.
    pub(super) fn kept(options: &Options, index: Arc<Index>, metrics: UpstreamMetrics) -> Self {
        Self { index: Some(index), ..Self::new(options, Path::new(""), metrics) }
    }

    /// Opens the file that `target` names.
    pub(super) async fn get(&self, target: &str, range: Option<&HeaderValue>) -> Result<Response<Pieces>, Cause> {
        let key = key(&self.base_path, target)?;
        self.metrics.requests.inc();
        let (path, index) = (Arc::clone(&self.path), self.index.clone());
        let open = move || match index {
            Some(index) => open_kept(&index, &key),
            None => open(&path, &key),
        };
        let found = blocking(Arc::clone(&self.threads), open).await;
        match found.map_err(|_| Cause::Internal("nobody could look into its directory"))?? {
            None => Ok(pieces::nothing(StatusCode::NOT_FOUND)),
            Some(file) => Ok(self.answer(file, range.and_then(|range| range.to_str().ok()))),
        }
    }

    fn answer(&self, found: Found, range: Option<&str>) -> Response<Pieces> {
        let Found { file, skipped, size, tag } = found;
        let (first, end) = match range.map(|range| bounds(range, size)) {
            None => (0, size),
            Some(Some(bounds)) => bounds,
            Some(None) => return pieces::nothing(StatusCode::RANGE_NOT_SATISFIABLE),
        };
        let reading = Reading {
            file: Arc::new(file),
            at: skipped + first,
            end: skipped + end,
            threads: Arc::clone(&self.threads),
            running: None,
        };
        let mut response = Response::new(Pieces::File(reading));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, (end - first).into());
        headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
        if range.is_some() {
            let text = format!("bytes {first}-{}/{size}", end - 1);
            headers.extend(HeaderValue::try_from(text).ok().map(|text| (header::CONTENT_RANGE, text)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

/// The name below the base. Of escapes there is one that we write (`proxy::request`), and none comes from an upstream (R14).
pub(super) fn key(base_path: &str, target: &str) -> Result<String, Cause> {
    let key =
        target.strip_prefix(base_path).ok_or(Cause::Header("a NAR URL that leads out of it"))?.replace("%3F", "?");
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '%']);
    if key.split('/').all(is_name) { Ok(key) } else { Err(Cause::Internal("what it was asked for is no name")) }
}

/// First byte and end of `bytes=first-` or `bytes=first-last` in something of `size` bytes; `None` when it has none of them.
fn bounds(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
    (first < end).then_some((first, end))
}

/// A step that may block, on one of the directory's threads; `Err` when it died.
async fn blocking<T: Send + 'static>(
    threads: Arc<Semaphore>,
    step: impl FnOnce() -> T + Send + 'static,
) -> Result<T, io::Error> {
    let turn = threads.acquire_owned().await.map_err(io::Error::other)?;
    let done = tokio::task::spawn_blocking(move || {
        // Held until the step is over, whoever still waits for it.
        let _turn = turn;
        step()
    });
    done.await.map_err(io::Error::other)
}

/// A file that is open.
struct Found {
    file: File,
    /// Bytes in front of the body.
    skipped: u64,
    /// Of the body.
    size: u64,
    /// Changes with the file.
    tag: String,
}

/// Blocking: opens what was kept as `key`; `None` where nothing was, or it is gone since.
fn open_kept(index: &Index, key: &str) -> Result<Option<Found>, Cause> {
    let Some(kept) = index.find(key) else { return Ok(None) };
    let unreadable = |error: &dyn std::fmt::Display| Cause::Told(format!("cannot give {}: {error}", Excerpt::of(key)));
    let to_read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(CWD, &kept.file, to_read, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(unreadable(&io::Error::from(error))),
    };
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    match metadata.size().checked_sub(kept.first).filter(|_| metadata.is_file()) {
        Some(size) => Ok(Some(Found { skipped: kept.first, size, ..found(file, &metadata) })),
        None => Err(unreadable(&"it is another file than a moment ago")),
    }
}

/// Blocking: opens `key` below `dir`; `None` where that is not there.
fn open(dir: &Path, key: &str) -> Result<Option<Found>, Cause> {
    let unreachable = |error: &dyn std::fmt::Display| Cause::Connection(format!("{}: {error}", dir.display()));
    let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, path_only, Mode::empty()).map_err(|error| unreachable(&io::Error::from(error)))?;
    match below(&root, key) {
        Ok(file) => {
            let file = File::from(file);
            let metadata = file.metadata().map_err(|error| unreachable(&error))?;
            match (metadata.is_file(), metadata.is_dir()) {
                (true, _) => Ok(Some(found(file, &metadata))),
                (_, true) => Ok(None),
                _ => Err(Cause::Told(format!("cannot give {}: it is a pipe or a device", Excerpt::of(key)))),
            }
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {
            match statat(&root, cache_info::NAME, AtFlags::empty()) {
                Ok(_) => Ok(None),
                Err(Errno::NOENT) => Err(unreachable(&"there is no nix-cache-info in it; is it mounted, and a cache?")),
                Err(error) => Err(unreachable(&io::Error::from(error))),
            }
        }
        Err(error @ (Errno::XDEV | Errno::LOOP | Errno::ACCESS)) => {
            let why = match error {
                Errno::ACCESS => "it may not be read",
                _ => "a link that leads out of its directory, or in circles, is not followed",
            };
            Err(Cause::Told(format!("cannot give {}: {why}", Excerpt::of(key))))
        }
        Err(error) => Err(unreachable(&io::Error::from(error))),
    }
}

fn found(file: File, metadata: &Metadata) -> Found {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    let tag = format!("\"{:x}-{:x}-{seconds:x}-{nanos:x}\"", metadata.ino(), metadata.size());
    Found { file, skipped: 0, size: metadata.size(), tag }
}

/// Opens `key` without leaving `root`.
fn below(root: &OwnedFd, key: &str) -> rustix::io::Result<OwnedFd> {
    // Nonblocking, because a pipe in its place would be waited for.
    let to_read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..8 {
        match openat2(root, key, to_read, Mode::empty(), inside) {
            Err(Errno::AGAIN) => {} // something was renamed meanwhile
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return step_by_step(root, key, to_read),
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The same without links.
fn step_by_step(root: &OwnedFd, key: &str, to_read: OFlags) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here: Option<OwnedFd> = None;
    let mut parts = key.split('/').peekable();
    while let Some(part) = parts.next() {
        let at = here.as_ref().unwrap_or(root);
        if parts.peek().is_none() {
            return openat(at, part, to_read | OFlags::NOFOLLOW, Mode::empty());
        }
        here = Some(openat(at, part, step, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR if is_link(at, part) => Errno::LOOP,
            error => error,
        })?);
    }
    Err(Errno::NOENT)
}

fn is_link(at: &OwnedFd, part: &str) -> bool {
    statat(at, part, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Symlink)
}

type Step = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + Sync>>;

/// A file that is being read.
pub(super) struct Reading {
    file: Arc<File>,
    at: u64,
    end: u64,
    threads: Arc<Semaphore>,
    running: Option<Step>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes {} to {}", self.at, self.end)
    }
}

impl Reading {
    /// The next piece; `None` at the end.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        let (file, at, most) = (&self.file, self.at, self.end.saturating_sub(self.at).min(PIECE));
        let (file, threads) = (Arc::clone(file), &self.threads);
        let step = self.running.get_or_insert_with(|| Box::pin(piece(Arc::clone(threads), file, at, most)));
        let read = ready!(step.as_mut().poll(context));
        self.running = None;
        match &read {
            Ok(piece) => self.at += piece.len() as u64,
            Err(_) => self.end = self.at, // told once
        }
        Poll::Ready(Some(read))
    }
}

async fn piece(threads: Arc<Semaphore>, file: Arc<File>, at: u64, most: u64) -> io::Result<Bytes> {
    let read = move || {
        let mut piece = BytesMut::zeroed(usize::try_from(most).unwrap_or_default());
        match file.read_at(&mut piece, at)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
            length => {
                piece.truncate(length);
                Ok(piece.freeze())
            }
        }
    };
    blocking(threads, read).await?
}

#[cfg(test)]
mod tests;
