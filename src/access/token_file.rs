//! Files with the hashes of tokens, and the changes of those files.
//!
//! A line is `name:` and 64 hexadecimal digits; empty lines and those that begin with `#` are passed over. Whoever can write
//! such a file can let himself in, so it must belong to root or to us, and be written by nobody else. Who reads it learns
//! nothing of use (see `token`).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::token::{Digest, TokenName};
use crate::file::{self, Stamp};

/// Bytes: some ten thousand tokens.
const LONGEST: u64 = 1 << 20;
/// Permission bits of a mode: group and others may write.
const WRITABLE: u32 = 0o022;

/// Why a file with tokens is not used.
#[derive(Debug, thiserror::Error)]
#[error("token file {}: {why}", path.display())]
pub struct TokenFileError {
    path: PathBuf,
    why: String,
}

/// A file, and the tokens that are in force of it.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    tokens: ArcSwap<Vec<Token>>,
    seen: Mutex<Seen>,
}

/// A line of it.
#[derive(Debug)]
struct Token {
    name: Arc<str>,
    digest: Digest,
}

#[derive(Debug)]
struct Seen {
    /// What the file was when it was read last; `None` when it has to be read again in any case.
    stamp: Option<Stamp>,
    /// The last complaint, so that each is told once.
    told: Option<String>,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// Blocking: a small file.
    pub(super) fn open(path: &Path) -> Result<Self, TokenFileError> {
        let (stamp, tokens) = read(path).map_err(|why| TokenFileError { path: path.to_owned(), why })?;
        let seen = Mutex::new(Seen { stamp: stamp.settled(), told: None });
        Ok(Self { path: path.to_owned(), tokens: ArcSwap::from_pointee(tokens), seen })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a token with this digest is in it. Each is compared, whichever it is.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.tokens.load().iter().fold(false, |found, token| token.digest.is(digest) | found)
    }

    /// The name of the token with this digest. Each is compared, whichever it is.
    pub(super) fn name_of(&self, digest: &Digest) -> Option<Arc<str>> {
        let tokens = self.tokens.load();
        let found = tokens.iter().fold(None, |found, token| if token.digest.is(digest) { Some(token) } else { found });
        found.map(|token| Arc::clone(&token.name))
    }

    /// See [`Access::refresh`](super::Access::refresh).
    pub(super) fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::fs::metadata(&self.path).ok().map(|found| Stamp::of(&found));
        if seen.stamp.is_some() && seen.stamp == now {
            return;
        }
        let path = self.path.display();
        match read(&self.path) {
            Ok((stamp, tokens)) => {
                // A young file is read each time; that it is the same is worth no line.
                let changed = !same(&self.tokens.load(), &tokens);
                let count = tokens.len();
                seen.stamp = stamp.settled();
                self.tokens.store(tokens.into());
                if seen.told.take().is_some() || changed {
                    tracing::info!(%path, tokens = count, "the tokens were read again");
                }
            }
            Err(why) => {
                if seen.told.as_ref() != Some(&why) {
                    tracing::error!(%path, "the tokens cannot be read, those before stay in force: {why}");
                    seen.told = Some(why);
                }
                seen.stamp = None;
            }
        }
    }
}

fn same(some: &[Token], others: &[Token]) -> bool {
    let is = |(one, other): (&Token, &Token)| one.name == other.name && one.digest.is(&other.digest);
    some.len() == others.len() && some.iter().zip(others).all(is)
}

/// The file as it was before it was read, and the tokens in it. Nothing is waited for.
fn read(path: &Path) -> Result<(Stamp, Vec<Token>), String> {
    let (found, text) = file::read_text(path, LONGEST).map_err(|error| format!("cannot be read: {error}"))?;
    let (owner, ours) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != ours {
        return Err(format!(
            "belongs to user {owner}; it must belong to root or to user {ours}, as whom the server runs"
        ));
    }
    if found.mode() & WRITABLE != 0 {
        let mode = found.mode() & 0o7777;
        return Err(format!("users other than its owner can write tokens into it (mode {mode:04o}): `chmod go-w`"));
    }
    parse(&text).map(|tokens| (Stamp::of(&found), tokens))
}

/// What a line is instead is not told: people put the token there.
fn parse(text: &str) -> Result<Vec<Token>, String> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let token = |(n, line): (usize, &str)| {
        let token = line.split_once(':').filter(|(name, _)| TokenName::parse(name).is_ok());
        let token = token.and_then(|(name, digest)| Some(Token { name: name.into(), digest: Digest::parse(digest)? }));
        token.ok_or_else(|| {
            format!("line {n} is not a name, `:` and the 64 hexadecimal digits that `snowbank token NAME` prints")
        })
    };
    lines.map(token).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::access::token::{NewToken, shown_digest};

    fn digest(token: &NewToken) -> Digest {
        let netrc = token.netrc("m");
        let bearer = format!("Bearer {}", netrc.rsplit(' ').next().unwrap());
        shown_digest(&http::HeaderValue::from_str(&bearer).unwrap()).unwrap()
    }

    #[test]
    fn a_file_holds_those_that_are_in_it_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let (first, second) = (NewToken::generate("first").unwrap(), NewToken::generate("second").unwrap());
        std::fs::write(&path, format!("# who\n\n{}\n  {}\n", first.line(), second.line())).unwrap();
        let file = TokenFile::open(&path).unwrap();
        let has = |tokens: [&NewToken; 2]| tokens.map(|token| file.has(&digest(token)));
        assert_eq!(has([&first, &second]), [true, true]);
        let third = digest(&NewToken::generate("third").unwrap());
        assert!(!file.has(&third) && file.name_of(&third).is_none());
        assert_eq!([&first, &second].map(|t| file.name_of(&digest(t)).unwrap().to_string()), ["first", "second"]);
        std::fs::write(&path, second.line()).unwrap();
        assert_eq!(has([&first, &second]), [true, true], "not looked at yet");
        file.refresh();
        assert_eq!(has([&first, &second]), [false, true]);
        for broken in ["second", "second:abc", &format!("{}0", first.line()), &format!("a b:{}", "0".repeat(64))] {
            std::fs::write(&path, broken).unwrap();
            file.refresh();
            assert_eq!(has([&first, &second]), [false, true], "{broken}");
            let error = TokenFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("line 1") && !error.contains(broken), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert_eq!(has([&first, &second]), [false, true]);
        std::fs::write(&path, "").unwrap();
        file.refresh();
        assert_eq!(has([&first, &second]), [false, false]);
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "").unwrap();
        for (mode, fine) in [(0o600, true), (0o644, true), (0o440, true), (0o620, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(TokenFile::open(&path).is_ok(), fine, "{mode:o}");
        }
        for none in [dir.path(), Path::new("/dev/zero"), &dir.path().join("absent")] {
            assert!(TokenFile::open(none).is_err(), "{none:?}");
        }
    }
}
