//! Content addresses: what the `CA` field of a narinfo says, and what follows from it.
//!
//! ```text
//! CA text ──parse──▶ ContentAddress ──store_path──▶ the hash part it leads to
//!                                   ──check───────▶ ContentCheck ◀─update─ NAR bytes
//! ```
//!
//! A path is content-addressed only when both hold: its hash part is the one that the address, its name and its
//! references lead to, and its NAR has the address. The first can be computed from the narinfo, the second shows when
//! the NAR was seen to its end; until then the field is a claim and no ground for trust (safety.md section 1, R3).
//!
//! Out of scope: addresses by git's tree hashes, by BLAKE3 and by MD5. They are read and written like the others, and
//! nothing follows from them here.

mod check;
mod flat;
mod modulo;
#[cfg(test)]
mod tests;

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

pub use check::ContentCheck;

use crate::nix::base32;
use crate::nix::hash::{Sha256, decode_hex};
use crate::nix::store_path::{HashPart, StoreDir, StorePath};

/// A content address, as it stands after `CA:`.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentAddress {
    text: String,
    method: Method,
    algorithm: Algorithm,
    digest: Vec<u8>,
}

/// What of a store path was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// The contents of a file that may refer to other paths (`builtins.toFile`).
    Text,
    /// The contents of a file.
    Flat,
    /// The NAR.
    Recursive,
    /// A git tree.
    Git,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Blake3,
}

impl ContentAddress {
    /// Reads `text:<algorithm>:<digest>` or `fixed:[r:|git:]<algorithm>:<digest>` with a digest of the right length in
    /// base 16, 32 or 64, as Nix's `ContentAddress::parse` (`src/libstore/content-address.cc`) does. `None` for anything
    /// else.
    pub fn parse(text: &str) -> Option<Self> {
        let (method, rest) = if let Some(rest) = text.strip_prefix("text:") {
            (Method::Text, rest)
        } else {
            let rest = text.strip_prefix("fixed:")?;
            if let Some(rest) = rest.strip_prefix("r:") {
                (Method::Recursive, rest)
            } else if let Some(rest) = rest.strip_prefix("git:") {
                (Method::Git, rest)
            } else {
                (Method::Flat, rest)
            }
        };
        let (algorithm, digits) = rest.split_once(':')?;
        let algorithm = Algorithm::parse(algorithm)?;
        let digest = algorithm.decode(digits)?;
        Some(Self { text: text.to_owned(), method, algorithm, digest })
    }

    /// The text it was read from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash part of the path that has this address, this name and these references (sorted, as a narinfo has them).
    /// `own` is the hash part it is said to have: the path by this name is what a reference to itself looks like.
    ///
    /// `None` where no path of that kind exists or Nix's rule is not computed here: a text that refers to itself or is
    /// not addressed by SHA-256, references of anything but a text or a NAR addressed by SHA-256, git, BLAKE3.
    /// (`StoreDirConfig::makeFixedOutputPathFromCA` of Nix's `src/libstore/store-dir-config.cc`.)
    pub fn store_path(&self, name: &str, references: &[StorePath], own: HashPart, dir: &StoreDir) -> Option<HashPart> {
        let is_own = |reference: &&StorePath| reference.hash() == own && reference.name() == name;
        let refers_to_itself = references.iter().any(|reference| is_own(&reference));
        let others = references.iter().filter(|reference| !is_own(reference));
        let with_references = |kind: &str| {
            let mut kind = others.fold(kind.to_owned(), |kind, other| kind + ":" + &other.full(dir));
            if refers_to_itself {
                kind.push_str(":self");
            }
            kind
        };
        let (kind, inner) = match (self.method, self.algorithm) {
            (Method::Git, _) | (_, Algorithm::Blake3) => return None,
            (Method::Text, Algorithm::Sha256) if !refers_to_itself => (with_references("text"), self.hex()),
            (Method::Text, _) => return None,
            (Method::Recursive, Algorithm::Sha256) => (with_references("source"), self.hex()),
            (Method::Flat | Method::Recursive, _) if references.is_empty() => {
                let recursive = if self.method == Method::Recursive { "r:" } else { "" };
                let payload = format!("fixed:out:{recursive}{}:{}:", self.algorithm.name(), self.hex());
                ("output:out".to_owned(), hex(Sha256::of(payload.as_bytes()).as_bytes()))
            }
            (Method::Flat | Method::Recursive, _) => return None,
        };
        let whole = format!("{kind}:sha256:{inner}:{dir}:{name}");
        Some(HashPart::compressed(&Sha256::of(whole.as_bytes())))
    }

    /// Whether content that has this address is the only one anybody can make: not by SHA-1, for which two contents with one
    /// digest have been made.
    pub fn is_strong(&self) -> bool {
        !matches!(self.algorithm, Algorithm::Md5 | Algorithm::Sha1)
    }

    /// A check of the NAR of the path with hash part `own`; `self_reference` says whether it is among its own
    /// references. `None` where the address is of a kind that is not computed here: git, BLAKE3, MD5.
    pub fn check(&self, own: HashPart, self_reference: bool) -> Option<ContentCheck> {
        let algorithm = self.algorithm.digest()?;
        match self.method {
            Method::Git => None,
            Method::Recursive if self_reference => Some(ContentCheck::modulo(algorithm, own, &self.digest)),
            Method::Recursive => Some(ContentCheck::whole(algorithm, &self.digest)),
            Method::Flat | Method::Text => Some(ContentCheck::flat(algorithm, &self.digest)),
        }
    }

    fn hex(&self) -> String {
        hex(&self.digest)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// As it was read.
impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            "blake3" => Self::Blake3,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// Bytes of a digest.
    const fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Reads a digest; its length says in which base it is written.
    fn decode(self, digits: &str) -> Option<Vec<u8>> {
        if digits.len() == self.len() * 2 {
            decode_hex(digits)
        } else if digits.len() == (self.len() * 8).div_ceil(5) {
            base32::decode(digits).ok()
        } else {
            BASE64.decode(digits).ok().filter(|decoded| decoded.len() == self.len())
        }
    }

    /// What computes it, where something does here.
    fn digest(self) -> Option<&'static digest::Algorithm> {
        match self {
            // SHA-1 proves little by now; it is computed because nixpkgs has outputs that are fixed by it.
            Self::Sha1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => Some(&digest::SHA256),
            Self::Sha512 => Some(&digest::SHA512),
            Self::Md5 | Self::Blake3 => None,
        }
    }
}
