//! What an upstream is shown so that it answers: a login from a netrc file, a token, or a user with a password.
//!
//! Secrets stand in files, are read at the start, and again when a file changed: it is looked at before a request, at most
//! once a second, and at once when the upstream refuses what it was shown. What cannot be read then is told once, and what
//! was read before it stays. No secret is in a `Debug`, a log, a metric or an error; who may have read a file besides us
//! is warned about, not refused: netrc files are often readable for a group.
//!
//! Out of scope: who is shown it (`transport`: the configured address alone; `dial`: a proxy).

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::netrc;
use super::options::Options;
use crate::tls::Stamp;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The longest file, in bytes.
const MOST: u64 = 1 << 20;

/// What is in a file, and of what kind it is.
#[derive(Debug, Clone)]
enum Kind {
    Netrc {
        host: String,
    },
    Token,
    Password {
        user: String,
    },
    /// For the proxy instead of the upstream.
    Proxy {
        user: String,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netrc { .. } => "the login from its netrc_file",
            Self::Token => "the token from its token_file",
            Self::Password { .. } => "its user with the password from its password_file",
            Self::Proxy { .. } => "its proxy_user with the password from its proxy_password_file",
        })
    }
}

/// The credentials of one upstream, if it has some.
#[derive(Debug, Clone)]
pub(super) struct Credentials(Option<Arc<Kept>>);

struct Kept {
    name: String,
    kind: Kind,
    path: PathBuf,
    held: Mutex<Held>,
    /// Whether somebody looks at the file just now.
    looking: AtomicBool,
}

/// What was read last.
struct Held {
    header: Option<HeaderValue>,
    /// `None` when it has to be read again in any case.
    seen: Option<Stamp>,
    looked: Instant,
    told: Option<String>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path.display())
    }
}

impl Credentials {
    /// Reads the file that the options name.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// It cannot be used, with the reason in words.
    pub(super) fn load(options: &Options) -> Result<Self, String> {
        let Some((kind, path)) = kind_of(options) else { return Ok(Self(None)) };
        let Read { header, stamp } = read(&kind, path)?;
        let (name, path) = (options.display_name(), path.to_owned());
        if header.is_none() {
            tracing::warn!(
                "{}: no machine in it is {}; upstream {name} is asked without",
                path.display(),
                options.url.host()
            );
        }
        if header.is_some() && !options.url.is_https() && options.socket.is_none() {
            tracing::warn!("upstream {name} is shown {kind} over plain http: who is on the way can read it");
        }
        Ok(Self::kept(name, kind, path, Read { header, stamp }))
    }

    /// Those for the proxy that the options name.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// Their file cannot be used, with the reason in words.
    pub(super) fn for_proxy(options: &Options) -> Result<Self, String> {
        let Some((kind, path)) = kind_for_proxy(options) else { return Ok(Self(None)) };
        let read = read(&kind, path)?;
        Ok(Self::kept(options.display_name(), kind, path.to_owned(), read))
    }

    fn kept(name: String, kind: Kind, path: PathBuf, read: Read) -> Self {
        let held = Held { header: read.header, seen: read.stamp, looked: Instant::now(), told: None };
        Self(Some(Arc::new(Kept { name, kind, path, held: Mutex::new(held), looking: AtomicBool::new(false) })))
    }

    /// Checks that the files that the options name can be used.
    ///
    /// # Errors
    /// The key of one that cannot, and why not in words.
    pub(super) fn check(options: &Options) -> Result<(), (&'static str, String)> {
        for (kind, path) in kind_of(options).into_iter().chain(kind_for_proxy(options)) {
            let key = match kind {
                Kind::Netrc { .. } => "netrc_file",
                Kind::Token => "token_file",
                Kind::Password { .. } => "password_file",
                Kind::Proxy { .. } => "proxy_password_file",
            };
            read(&kind, path).map_err(|why| (key, why))?;
        }
        Ok(())
    }

    /// The `Authorization` to send now.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        let kept = self.0.as_ref()?;
        let due = kept.held().looked.elapsed() >= LOOK;
        if due && !kept.looking.swap(true, Ordering::Acquire) {
            kept.look().await;
        }
        kept.held().header.clone()
    }

    /// After `refused` was refused: what to try instead, if the file has something else by now.
    pub(super) async fn instead_of(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        let kept = self.0.as_ref()?;
        kept.looking.store(true, Ordering::Release);
        kept.look().await;
        kept.held().header.clone().filter(|header| Some(header) != refused)
    }

    /// Which kind they are, in words that follow "refused"; `None` where the upstream is asked without any.
    pub(super) fn shown(&self) -> Option<String> {
        let kept = self.0.as_ref()?;
        kept.held().header.as_ref().map(|_| kept.kind.to_string())
    }
}

impl Kept {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file where it is no matter how long that takes.
    async fn look(self: &Arc<Self>) {
        let kept = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            kept.look_now();
            kept.looking.store(false, Ordering::Release);
        });
        let _ = looked.await; // what died left what was read before
    }

    fn look_now(&self) {
        let stamp = std::fs::metadata(&self.path).ok().map(|found| Stamp::of(&found));
        if stamp.is_some() && self.held().seen == stamp {
            self.held().looked = Instant::now();
            return;
        }
        let fresh = read(&self.kind, &self.path);
        let mut held = self.held();
        held.looked = Instant::now();
        match fresh {
            Ok(Read { header, stamp }) => {
                if held.header != header {
                    tracing::info!("upstream {}: {} is another one now", self.name, self.kind);
                }
                *held = Held { header, seen: stamp, looked: held.looked, told: None };
            }
            Err(why) if held.told.as_ref() != Some(&why) => {
                tracing::error!("upstream {}: {why}; what was read before it stays", self.name);
                held.told = Some(why);
            }
            Err(_) => {}
        }
    }
}

fn kind_of(options: &Options) -> Option<(Kind, &Path)> {
    let netrc = options.netrc_file.as_deref().map(|path| (Kind::Netrc { host: options.url.host().to_owned() }, path));
    let token = || options.token_file.as_deref().map(|path| (Kind::Token, path));
    let user = options.user.clone().unwrap_or_default();
    let password = || options.password_file.as_deref().map(|path| (Kind::Password { user }, path));
    netrc.or_else(token).or_else(password)
}

fn kind_for_proxy(options: &Options) -> Option<(Kind, &Path)> {
    let user = options.proxy_user.clone()?;
    options.proxy_password_file.as_deref().map(|path| (Kind::Proxy { user }, path))
}

/// What a file gave.
struct Read {
    /// Nothing for this host.
    header: Option<HeaderValue>,
    stamp: Option<Stamp>,
}

fn read(kind: &Kind, path: &Path) -> Result<Read, String> {
    let told = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    // Nonblocking, because a pipe in its place would be waited for.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(|error| told(&error))?;
    let metadata = file.metadata().map_err(|error| told(&error))?;
    if !metadata.is_file() {
        return Err(told(&"this is no regular file"));
    }
    // Of its final size from the beginning, so that no copy stays behind when it grows.
    let room = usize::try_from(metadata.len().min(MOST)).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.take(MOST + 1).read_to_string(&mut text).map_err(|_| told(&"cannot be read as text"))?;
    if text.len() as u64 > MOST {
        return Err(told(&format_args!("longer than {MOST} bytes")));
    }
    let header = header_of(kind, &text).map_err(|why| told(&why))?;
    if let Some(who) = others(&metadata) {
        tracing::warn!("{}: {who}; `chmod 600`, or 640 for a group that is meant to", path.display());
    }
    Ok(Read { header, stamp: Stamp::of(&metadata).settled() })
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

fn header_of(kind: &Kind, text: &str) -> Result<Option<HeaderValue>, String> {
    // One line, as `echo` and editors end it.
    let line = || match text.trim_ascii_end() {
        "" => Err("there is nothing in it"),
        text if text.contains(|c: char| c.is_ascii_control()) => Err("more than one line, or control characters"),
        text => Ok(text),
    };
    let value = match kind {
        Kind::Netrc { host } => match netrc::login(text, host).map_err(|error| error.to_string())? {
            None => return Ok(None),
            Some(login) => basic(&login.user, &login.password),
        },
        Kind::Password { user } | Kind::Proxy { user } => basic(user, line()?),
        Kind::Token => {
            let token = line()?;
            let mut value = Zeroizing::new(String::with_capacity(7 + token.len()));
            value.push_str("Bearer ");
            value.push_str(token);
            value
        }
    };
    let mut header = HeaderValue::from_str(&value).map_err(|_| "characters that no token has")?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// RFC 7617.
pub(super) fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + password.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(password);
    let mut value = Zeroizing::new(String::with_capacity(6 + pair.len().div_ceil(3) * 4));
    value.push_str("Basic ");
    BASE64.encode_string(pair.as_bytes(), &mut value);
    value
}
