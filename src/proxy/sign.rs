//! Signing with keys of our own: whoever trusts them trusts what we serve.
//!
//! ```text
//! key files ──key_file──▶ SecretKey ──public──▶ what clients put into nix.conf
//!                             │
//!                            sign   seen by this module alone (R4)
//! ```
//!
//! The secret half of a key never leaves [`secret_key`], except as the text of a key that was just made. Which files it
//! is read from is decided by [`key_file`].
//!
//! Out of scope: which narinfos deserve a signature (see `trust`).

pub mod key_file;
#[cfg(any(test, fuzzing))]
pub mod laws;
pub mod secret_key;
mod signer;

use std::path::{Path, PathBuf};

pub(super) use signer::Demand;
pub use signer::Signer;

use self::key_file::KeyFileError;
use self::secret_key::SecretKey;
use crate::options::{Mistakes, key};

crate::choice! {
    /// What becomes of the signatures that an upstream sent.
    pub enum UpstreamSignatures {
        /// They are served beside ours, so that clients can demand them.
        Keep = "keep",
        /// Ours stand alone.
        Drop = "drop",
    }
}

crate::choice! {
    /// Which narinfos are signed only after their NAR was seen to have the NarHash that they name (R3).
    pub enum ProveFirst {
        /// Those that no key vouched for.
        Unsigned = "unsigned",
        /// Every one.
        All = "all",
        /// Only content-addressed ones, which are never believed unproven.
        Never = "never",
    }
}

crate::options! {
    /// Signing what is served, with keys of your own. Clients then need only your public key, also for what an upstream
    /// with `trust = "origin"` did not sign. Nothing of an upstream with `trust = "pass"` is ever signed.
    pub struct Options {
        /// Files with Nix secret keys, one each, as `snowbank keygen` and `nix-store --generate-binary-cache-key` write
        /// them. With several, every one signs: add the next key, tell the clients, remove the old one once all of them
        /// know both. A file must belong to root or to the user that the server runs as, who alone may write it; its
        /// group may read it (`0640 root:snowbank`), others may not; and nobody else may be able to put another one in
        /// its place. From systemd give the file in the credentials directory, `/run/credentials/UNIT/NAME` for
        /// `LoadCredential=NAME:...`; from Kubernetes a file of a secret volume, whose mode does not matter because
        /// the volume is mounted read-only in memory. Without any file nothing is signed.
        pub key_files: Vec<PathBuf> = Vec::new(),
        /// Whether the signatures of upstreams stay beside yours. `keep`: yes, so that a client can go on demanding
        /// them. `drop`: no; clients see your signatures only.
        pub upstream_signatures: UpstreamSignatures = UpstreamSignatures::Keep,
        /// Which paths are signed only after their NAR was fetched, unpacked and found to have the hash that the
        /// signature vouches for; the answer waits for it. `unsigned`: those that no key vouched for, which come from
        /// upstreams with `trust = "origin"`. `all`: every one, so that the first question about a path takes as long
        /// as its NAR does. `never`: only those that are content-addressed and unsigned, which are never believed
        /// before.
        pub prove_first: ProveFirst = ProveFirst::Unsigned,
    }
}

impl Options {
    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        for (n, path) in self.key_files.iter().enumerate() {
            if let Some(first) = self.key_files[..n].iter().position(|other| other == path) {
                let accepted = format!("each file once; this is key_files[{first}]");
                mistakes.refuse(&place(at, n), &quoted(path), &accepted);
            }
        }
    }

    /// Checks the files, as [`Options::load`] reads them.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        for (n, loaded) in self.load_each().iter().enumerate() {
            if let Err(error) = loaded {
                mistakes.say(&place(at, n), &error.to_string());
            }
        }
    }

    /// The keys, in the order of the files.
    ///
    /// # Errors
    /// What is wrong with each of the files, and two keys of one name: a client could not tell which of them signed.
    pub fn load(&self) -> Result<Vec<SecretKey>, Vec<KeyFileError>> {
        let (mut keys, mut errors) = (Vec::new(), Vec::new());
        for loaded in self.load_each() {
            match loaded {
                Ok(key) => keys.push(key),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(keys) } else { Err(errors) }
    }

    fn load_each(&self) -> Vec<Result<SecretKey, KeyFileError>> {
        let mut each: Vec<Result<SecretKey, KeyFileError>> = Vec::new();
        for path in &self.key_files {
            let loaded = key_file::load(path).and_then(|key| {
                let same =
                    |earlier: &Result<SecretKey, _>| matches!(earlier, Ok(earlier) if earlier.name() == key.name());
                match each.iter().position(same) {
                    Some(first) => Err(KeyFileError::same_name(path, key.name(), &self.key_files[first])),
                    None => Ok(key),
                }
            });
            each.push(loaded);
        }
        each
    }
}

fn place(at: &str, n: usize) -> String {
    format!("{}[{n}]", key(at, "key_files"))
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

#[cfg(test)]
mod tests;
