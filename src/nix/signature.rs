//! Signatures of narinfos and the public keys that they are checked with.
//!
//! Both are written `<key name>:<base 64>`; the name ends at the first colon (Nix: `src/libutil/signature/local-keys.cc`).
//! Checking is strict Ed25519 (R1). Which keys count for whom is the business of the caller: every upstream has its own
//! set.
//!
//! Out of scope: making signatures and keys.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::VerifyingKey;

use super::excerpt::Excerpt;

/// How many signatures of one narinfo are checked; the rest is not looked at, so that no text buys more than this much
/// arithmetic (R27).
pub const MAX_CHECKED: usize = 16;
/// The longest key name, in bytes.
const MAX_NAME_LEN: usize = 255;

/// Why a text is no public key or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No name, or one with blanks, control characters or anything but ASCII.
    #[error("expected <key name>:<base 64>, found {0}")]
    Name(Excerpt),
    /// Not the base 64 of the right number of bytes.
    #[error("key {name}: expected the base 64 of {bytes} bytes, found {found}")]
    Base64 {
        /// The key's name.
        name: String,
        /// How many bytes there should be.
        bytes: usize,
        /// What was found.
        found: Excerpt,
    },
    /// Not a point of the curve, or one of small order, under which a signature proves nothing.
    #[error("key {0}: not a usable Ed25519 public key")]
    Point(String),
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Reads `<key name>:<base 64 of 32 bytes>`, as it stands in `trusted-public-keys`.
    ///
    /// # Errors
    /// When it is not that, or the key is one under which anything verifies.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, bytes) = parse_named::<32>(text)?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { name, key }),
            _ => Err(Error::Point(name)),
        }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True when `signature` is this key's signature of `message`. The names must be equal as well, as in Nix.
    pub fn verifies(&self, signature: &Signature, message: &[u8]) -> bool {
        let ed25519 = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.name == signature.name && self.key.verify_strict(message, &ed25519).is_ok()
    }
}

/// `<key name>:<base 64>`.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature as it stands after `Sig:`. That it is well formed says nothing about whether it is right.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The name of the key that is said to have made it.
    pub name: String,
    /// The Ed25519 signature.
    pub bytes: [u8; 64],
}

impl Signature {
    /// Reads `<key name>:<base 64 of 64 bytes>`.
    ///
    /// # Errors
    /// When it is not that.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse_named::<64>(text).map(|(name, bytes)| Self { name, bytes })
    }
}

/// `<key name>:<base 64>`.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys that count for one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    /// These keys. Several of one name are fine; each is tried.
    pub const fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// True when there is none, so that nothing can verify.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn iter(&self) -> std::slice::Iter<'_, PublicKey> {
        self.0.iter()
    }

    /// The first key that made one of `signatures` over `fingerprint`. Signatures by other names cost nothing and do not
    /// count; of those that remain, [`MAX_CHECKED`] are checked.
    pub fn verify(&self, fingerprint: &[u8], signatures: &[Signature]) -> Option<&PublicKey> {
        signatures
            .iter()
            .flat_map(|signature| {
                self.0.iter().filter(|key| key.name == signature.name).map(move |key| (key, signature))
            })
            .take(MAX_CHECKED)
            .find_map(|(key, signature)| key.verifies(signature, fingerprint).then_some(key))
    }
}

impl FromIterator<PublicKey> for PublicKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a PublicKeys {
    type Item = &'a PublicKey;
    type IntoIter = std::slice::Iter<'a, PublicKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Splits at the first colon and decodes the rest. Names are graphic ASCII: they stand in lists that blanks separate.
fn parse_named<const N: usize>(text: &str) -> Result<(String, [u8; N]), Error> {
    let well_named =
        |name: &str| (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    let Some((name, payload)) = text.split_once(':').filter(|(name, _)| well_named(name)) else {
        return Err(Error::Name(Excerpt::of(text)));
    };
    let bytes = BASE64.decode(payload).ok().and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) => Ok((name.to_owned(), bytes)),
        None => Err(Error::Base64 { name: name.to_owned(), bytes: N, found: Excerpt::of(payload) }),
    }
}
