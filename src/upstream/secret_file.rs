//! A file with a secret: read at the start, and again when it changed.
//!
//! It is looked at before a request, at most once a second, and at once when the upstream refuses what it was shown. What
//! cannot be read then is told once, and what was read before it stays. No secret is in a `Debug`, a log or an error; who
//! may have read a file besides us is warned about, not refused: such files are often readable for a group.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::file::{self, Stamp};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The longest file, in bytes.
const MOST: u64 = 1 << 20;

/// How the text of such a file is read. `None`: nothing in it is for this upstream.
pub(super) trait Secret: fmt::Display + Send + Sync + 'static {
    /// What the file gives.
    type Held: Clone + PartialEq + Send + 'static;

    /// Reads the text.
    ///
    /// # Errors
    /// It cannot be used, with the reason in words that hold no part of it.
    fn parse(&self, text: &str) -> Result<Option<Self::Held>, String>;
}

/// See the module. Its kind says what it is in words that follow "refused".
pub(super) struct SecretFile<S: Secret> {
    upstream: String,
    kind: S,
    path: PathBuf,
    held: Mutex<Held<S::Held>>,
    /// Whether somebody looks at the file just now.
    looking: AtomicBool,
}

/// What was read last.
struct Held<T> {
    secret: Option<T>,
    /// `None` when it has to be read again in any case.
    seen: Option<Stamp>,
    looked: Instant,
    told: Option<String>,
}

impl<S: Secret> fmt::Debug for SecretFile<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path.display())
    }
}

impl<S: Secret> SecretFile<S> {
    /// Reads the file at `path` for the upstream of this name.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// It cannot be used, with the reason in words.
    pub(super) fn load(upstream: String, kind: S, path: &Path) -> Result<Arc<Self>, String> {
        let Read { secret, stamp } = read(&kind, path)?;
        let held = Held { secret, seen: stamp, looked: Instant::now(), told: None };
        let path = path.to_owned();
        Ok(Arc::new(Self { upstream, kind, path, held: Mutex::new(held), looking: AtomicBool::new(false) }))
    }

    /// Checks that the file at `path` can be used.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn check(kind: &S, path: &Path) -> Result<(), String> {
        read(kind, path).map(|_| ())
    }

    /// What it is in words that follow "refused".
    pub(super) fn kind(&self) -> &S {
        &self.kind
    }

    /// What was read last.
    pub(super) fn held(&self) -> Option<S::Held> {
        self.lock().secret.clone()
    }

    /// What is in it now.
    pub(super) async fn current(self: &Arc<Self>) -> Option<S::Held> {
        let due = self.lock().looked.elapsed() >= LOOK;
        if due && !self.looking.swap(true, Ordering::Acquire) {
            self.look().await;
        }
        self.held()
    }

    /// After `refused` was refused: what to try instead, if the file has something else by now.
    pub(super) async fn instead_of(self: &Arc<Self>, refused: Option<&S::Held>) -> Option<S::Held> {
        self.looking.store(true, Ordering::Release);
        self.look().await;
        self.held().filter(|secret| Some(secret) != refused)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held<S::Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file where it is no matter how long that takes.
    async fn look(self: &Arc<Self>) {
        let file = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            file.look_now();
            file.looking.store(false, Ordering::Release);
        });
        let _ = looked.await; // what died left what was read before
    }

    fn look_now(&self) {
        let stamp = std::fs::metadata(&self.path).ok().map(|found| Stamp::of(&found));
        if stamp.is_some() && self.lock().seen == stamp {
            self.lock().looked = Instant::now();
            return;
        }
        let fresh = read(&self.kind, &self.path);
        let mut held = self.lock();
        held.looked = Instant::now();
        match fresh {
            Ok(Read { secret, stamp }) => {
                if held.secret != secret {
                    tracing::info!("upstream {}: {} changed", self.upstream, self.kind);
                }
                *held = Held { secret, seen: stamp, looked: held.looked, told: None };
            }
            Err(why) if held.told.as_ref() != Some(&why) => {
                tracing::error!("upstream {}: {why}; what was read before it stays", self.upstream);
                held.told = Some(why);
            }
            Err(_) => {}
        }
    }
}

/// What a file gave.
struct Read<T> {
    /// Nothing for this upstream.
    secret: Option<T>,
    stamp: Option<Stamp>,
}

fn read<S: Secret>(kind: &S, path: &Path) -> Result<Read<S::Held>, String> {
    let told = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    let (metadata, text) = file::read_text(path, MOST).map_err(|error| told(&error))?;
    let secret = kind.parse(&text).map_err(|why| told(&why))?;
    if let Some(who) = others(&metadata) {
        tracing::warn!("{}: {who}; `chmod 600`, or 640 for a group that is meant to", path.display());
    }
    Ok(Read { secret, stamp: Stamp::of(&metadata).settled() })
}

/// Who else may have read or written the file.
fn others(file: &Metadata) -> Option<&'static str> {
    let ours = rustix::process::geteuid().as_raw();
    match file.mode() {
        mode if mode & 0o022 != 0 => Some("users other than its owner can change it"),
        mode if mode & 0o004 != 0 => Some("every user can read it"),
        _ if file.uid() != 0 && file.uid() != ours => Some("it belongs to another user, who can change it"),
        _ => None,
    }
}
