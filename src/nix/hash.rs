//! SHA-256 as Nix writes it, and the digest of bytes that stream by.
//!
//! Nix knows other algorithms; a binary cache's NarHash and FileHash are SHA-256 everywhere, and a signature covers no
//! other (R2), so everything else is refused here.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::base32;
use super::excerpt::Excerpt;

/// Digits of a SHA-256 in base 16.
const HEX_DIGITS: usize = 64;
/// Digits of a SHA-256 in Nix's base 32.
const NIX32_DIGITS: usize = 52;
/// Characters of a SHA-256 in base 64, with padding.
const BASE64_CHARS: usize = 44;

/// Why a text is no SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin with `sha256:` or `sha256-`.
    #[error("expected `sha256:` and a digest, found {0}")]
    Algorithm(Excerpt),
    /// None of the accepted spellings has this length.
    #[error("expected 52 base 32, 64 base 16 or 44 base 64 characters of SHA-256, found {0}")]
    Length(Excerpt),
    /// The length fits a spelling, the characters do not.
    #[error("not the digits of a SHA-256 in {spelling}: {found}")]
    Digits {
        /// The spelling its length calls for.
        spelling: &'static str,
        /// What was found.
        found: Excerpt,
    },
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&digest::digest(&digest::SHA256, bytes))
    }

    /// The 52 digits of Nix's base 32, without the name of the algorithm.
    pub fn nix32(&self) -> String {
        base32::encode(&self.0)
    }

    /// Reads 52 digits of Nix's base 32, without the name of the algorithm.
    ///
    /// # Errors
    /// When it is not exactly that.
    pub fn from_nix32(digits: &str) -> Result<Self, Error> {
        if digits.len() != NIX32_DIGITS {
            return Err(Error::Length(Excerpt::of(digits)));
        }
        Self::from_decoded(base32::decode(digits).ok(), "base 32", digits)
    }

    /// Reads `sha256:` and 52 base 32, 64 base 16 or 44 base 64 characters, or the SRI form `sha256-` and 44 base 64
    /// characters: what Nix accepts in a narinfo (`Hash::parseAnyPrefixed` of `src/libutil/hash.cc`), without its
    /// laxity about base 64 padding.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(digits) = text.strip_prefix("sha256-") {
            return match digits.len() {
                BASE64_CHARS => Self::from_base64(digits),
                _ => Err(Error::Length(Excerpt::of(digits))),
            };
        }
        let Some(digits) = text.strip_prefix("sha256:") else {
            return Err(Error::Algorithm(Excerpt::of(text)));
        };
        match digits.len() {
            NIX32_DIGITS => Self::from_nix32(digits),
            HEX_DIGITS => Self::from_decoded(decode_hex(digits), "base 16", digits),
            BASE64_CHARS => Self::from_base64(digits),
            _ => Err(Error::Length(Excerpt::of(digits))),
        }
    }

    fn from_base64(digits: &str) -> Result<Self, Error> {
        Self::from_decoded(BASE64.decode(digits).ok(), "base 64", digits)
    }

    fn from_decoded(bytes: Option<Vec<u8>>, spelling: &'static str, digits: &str) -> Result<Self, Error> {
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| Error::Digits { spelling, found: Excerpt::of(digits) })
    }

    #[allow(clippy::expect_used)] // the algorithm is fixed where the digest is made
    fn from_digest(digest: &digest::Digest) -> Self {
        Self(digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes"))
    }
}

/// Reads base 16 in either case, as Nix does.
pub(super) fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok());
    digits.as_bytes().chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

/// `sha256:` and the 52 digits: how Nix writes narinfos and fingerprints.
impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.nix32())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of bytes that come in pieces.
#[derive(Clone)]
pub struct Hasher(digest::Context);

impl Hasher {
    /// Before the first byte.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Sha256 {
        Sha256::from_digest(&self.0.finish())
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NIX32: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B64: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn every_spelling_that_nix_reads_gives_the_same_digest() {
        let empty = Sha256::of(b"");
        for text in [
            format!("sha256:{NIX32}"),
            format!("sha256:{HEX}"),
            format!("sha256:{}", HEX.to_uppercase()),
            format!("sha256:{B64}"),
            format!("sha256-{B64}"),
        ] {
            assert_eq!(Sha256::parse(&text), Ok(empty), "{text}");
        }
        assert_eq!(empty.to_string(), format!("sha256:{NIX32}"));
        assert_eq!(format!("{empty:?}"), format!("sha256:{NIX32}"), "logs show it as it is written");
        assert_eq!(Sha256::from_nix32(NIX32), Ok(empty));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            "sha256-".to_owned(),
            NIX32.to_owned(),
            format!("sha512:{NIX32}"),
            format!("SHA256:{NIX32}"),
            format!("sha256:{NIX32} "),
            format!("sha256: {NIX32}"),
            format!("sha256:{}", NIX32.replace('0', "e")),
            format!("sha256:z{}", &NIX32[1..]),
            format!("sha256:{}", HEX.replace('e', "g")),
            format!("sha256:{}", B64.replace('=', "A")),
            // 43 characters and their padding spell 258 bits; the last two must be zero.
            format!("sha256:{}", B64.replace("FU=", "FV=")),
            format!("sha256:{}", B64.trim_end_matches('=')),
            format!("sha256-{NIX32}"),
            format!("sha256-{HEX}"),
            format!("sha256:{}é", &NIX32[2..]),
        ] {
            assert!(Sha256::parse(&text).is_err(), "{text}");
        }
        assert!(Sha256::from_nix32(HEX).is_err());
    }

    #[test]
    fn errors_say_what_is_expected_and_what_was_found() {
        assert_eq!(
            Sha256::parse("md5:abc").unwrap_err().to_string(),
            "expected `sha256:` and a digest, found `md5:abc`"
        );
        assert_eq!(
            Sha256::parse("sha256:abc").unwrap_err().to_string(),
            "expected 52 base 32, 64 base 16 or 44 base 64 characters of SHA-256, found `abc`"
        );
    }

    #[test]
    fn a_running_digest_has_a_name_in_logs() {
        assert_eq!(format!("{:?}", Hasher::default()), "Hasher");
    }

    proptest! {
        #[test]
        fn pieces_hash_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
            let mut hasher = Hasher::new();
            for part in bytes.chunks(piece) {
                hasher.update(part);
            }
            prop_assert_eq!(hasher.finish(), Sha256::of(&bytes));
        }

        #[test]
        fn parse_undoes_display(bytes in any::<[u8; 32]>()) {
            let digest = Sha256::from_bytes(bytes);
            prop_assert_eq!(Sha256::parse(&digest.to_string()), Ok(digest));
        }
    }
}
