//! Store directories, store paths and their hash part.
//!
//! A store path is `<store directory>/<hash part>-<name>`. The checks are Nix's own (`src/libstore/path.cc`) and one
//! more: the character between hash part and name, which Nix skips unseen, must be `-`. They are what makes a signature
//! mean one thing only (R2): no name can hold the `;` and `,` that separate the parts of a fingerprint.

use std::fmt;

use super::base32;
use super::excerpt::Excerpt;
use super::hash::Sha256;

/// Digits of a hash part.
const HASH_DIGITS: usize = 32;
/// Bytes that these digits write.
const HASH_BYTES: usize = 20;
/// The longest name, in bytes: with the hash part it still fits into a file name (`StorePath::MaxPathLen`).
const MAX_NAME_LEN: usize = 211;
/// The longest store directory, in bytes.
const MAX_DIR_LEN: usize = 1024;

/// Why a text is no store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not 32 digits of Nix's base 32 (R19).
    #[error("expected a hash part of 32 base 32 digits, found {0}")]
    HashPart(Excerpt),
    /// A name that Nix would refuse.
    #[error("expected a name of 1 to 211 of the characters 0-9 a-z A-Z + - . _ ? =, found {0}")]
    Name(Excerpt),
    /// A name that is or begins like the directory entries `.` and `..`.
    #[error("the first part of a name must not be `.` or `..`, found {0}")]
    DotName(Excerpt),
    /// Not `<hash part>-<name>`.
    #[error("expected <hash part>-<name>, found {0}")]
    BaseName(Excerpt),
    /// A path that is not directly in the store directory.
    #[error("expected a path in {store_dir}, found {found}")]
    Outside {
        /// The store directory in force.
        store_dir: StoreDir,
        /// What was found.
        found: Excerpt,
    },
    /// A store directory that is not absolute or not normalised.
    #[error(
        "expected an absolute directory such as /nix/store, without blanks, `.`, `..` or a `/` at the end, found {0}"
    )]
    StoreDir(Excerpt),
}

/// The hash part of a store path: 32 digits of Nix's base 32, the key of every narinfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashPart([u8; HASH_DIGITS]);

impl HashPart {
    /// Reads exactly 32 digits.
    ///
    /// # Errors
    /// When the length or a digit is wrong; nothing upstream need be asked for such a thing (R19).
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text.as_bytes().try_into() {
            Ok(digits) if text.bytes().all(base32::is_digit) => Ok(Self(digits)),
            _ => Err(Error::HashPart(Excerpt::of(text))),
        }
    }

    /// The hash part that Nix makes of a digest: 20 bytes, into which the others are folded by XOR (`compressHash` of
    /// `src/libutil/hash.cc`).
    pub(super) fn compressed(digest: &Sha256) -> Self {
        let mut folded = [0; HASH_BYTES];
        for (place, byte) in digest.as_bytes().iter().enumerate() {
            folded[place % HASH_BYTES] ^= byte;
        }
        let mut digits = [0; HASH_DIGITS];
        digits.copy_from_slice(base32::encode(&folded).as_bytes());
        Self(digits)
    }

    /// The digits as text.
    #[allow(clippy::expect_used)] // both constructors see to it
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the digits of a hash part are ASCII")
    }

    /// The digits as ASCII bytes.
    pub const fn as_bytes(&self) -> &[u8; HASH_DIGITS] {
        &self.0
    }
}

impl fmt::Display for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A store path without its directory. The order is that of the base names, byte by byte, as fingerprints need it: the
/// hash part has a fixed length, so comparing the parts compares the whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    hash: HashPart,
    name: String,
}

impl StorePath {
    /// Reads a base name, `<hash part>-<name>`.
    ///
    /// # Errors
    /// When either part breaks Nix's rules.
    pub fn parse_base(base: &str) -> Result<Self, Error> {
        let Some((hash, rest)) = base.split_at_checked(HASH_DIGITS) else {
            return Err(Error::BaseName(Excerpt::of(base)));
        };
        let Some(name) = rest.strip_prefix('-') else {
            return Err(Error::BaseName(Excerpt::of(base)));
        };
        let hash = HashPart::parse(hash)?;
        check_name(name)?;
        Ok(Self { hash, name: name.to_owned() })
    }

    /// Reads a full path, which must lie directly in `store_dir`.
    ///
    /// # Errors
    /// When it lies elsewhere or its base name is refused.
    pub fn parse_full(path: &str, store_dir: &StoreDir) -> Result<Self, Error> {
        match path.strip_prefix(store_dir.as_str()).and_then(|rest| rest.strip_prefix('/')) {
            Some(base) => Self::parse_base(base),
            None => Err(Error::Outside { store_dir: store_dir.clone(), found: Excerpt::of(path) }),
        }
    }

    /// The hash part.
    pub const fn hash(&self) -> HashPart {
        self.hash
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `<hash part>-<name>`.
    pub fn base_name(&self) -> String {
        self.to_string()
    }

    /// The full path in `store_dir`.
    pub fn full(&self, store_dir: &StoreDir) -> String {
        format!("{store_dir}/{self}")
    }
}

/// The base name.
impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nix's `checkName`. A leading dot is fine (`.bashrc` is somebody's source file), a leading `.` or `..` component is not.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(allowed) {
        return Err(Error::Name(Excerpt::of(name)));
    }
    match name.split('-').next() {
        Some("." | "..") => Err(Error::DotName(Excerpt::of(name))),
        _ => Ok(()),
    }
}

/// The directory that store paths lie in, `/nix/store` nearly everywhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StoreDir(String);

impl StoreDir {
    /// Reads an absolute, normalised directory of at most 1,024 bytes. Only the characters of store path names and `/`
    /// are accepted, since the directory is part of every fingerprint.
    ///
    /// # Errors
    /// When it is not such a directory.
    pub fn parse(dir: &str) -> Result<Self, Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=/".contains(&b);
        let component = |c: &str| !matches!(c, "" | "." | "..");
        match dir.strip_prefix('/') {
            Some(rest) if dir.len() <= MAX_DIR_LEN && dir.bytes().all(allowed) && rest.split('/').all(component) => {
                Ok(Self(dir.to_owned()))
            }
            _ => Err(Error::StoreDir(Excerpt::of(dir))),
        }
    }

    /// The directory, without a `/` at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for StoreDir {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

crate::string_value!(StoreDir, "an absolute directory such as /nix/store, without a / at the end");

/// `/nix/store`.
impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".to_owned())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq";

    #[test]
    fn r19_a_hash_part_is_32_digits_of_nix_base_32() {
        let hash = HashPart::parse(HASH).unwrap();
        assert_eq!((hash.as_str(), format!("{hash:?}").as_str()), (HASH, HASH));
        for bad in [
            "",
            &HASH[1..],
            &format!("{HASH}0"),
            &HASH.to_uppercase(),
            &HASH.replace('n', "e"),
            &HASH.replace('n', "o"),
            &HASH.replace('n', "u"),
            &HASH.replace('n', "t"),
            &HASH.replace('n', "/"),
            &format!("{}é", &HASH[2..]),
        ] {
            assert!(matches!(HashPart::parse(bad), Err(Error::HashPart(_))), "{bad:?}");
        }
    }

    #[test]
    fn r2_names_hold_only_what_nix_allows() {
        let longest = "x".repeat(MAX_NAME_LEN);
        for good in ["x", "hello-2.12.1", "gtk+3", "a_b=c?d", ".bashrc", "...", ".x-y", "..x", "-", "a-.", &longest] {
            let base = format!("{HASH}-{good}");
            let path = StorePath::parse_base(&base).unwrap();
            assert_eq!((path.base_name(), format!("{path:?}")), (base.clone(), base));
        }
        let too_long = "x".repeat(MAX_NAME_LEN + 1);
        for bad in
            ["", ".", "..", ".-x", "..-x", "a b", "a;b", "a,b", "a/b", "a:b", "a%b", "a\n", "ä", "a\0", &too_long]
        {
            assert!(StorePath::parse_base(&format!("{HASH}-{bad}")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_base_name_has_a_dash_after_the_hash_part() {
        for bad in [HASH, &format!("{HASH}_x"), &format!("{HASH}xx"), "x-y", "", &format!("{}é-x", &HASH[1..])] {
            assert!(StorePath::parse_base(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_full_path_lies_directly_in_the_store_directory() {
        let dir = StoreDir::default();
        let path = StorePath::parse_full(&format!("/nix/store/{HASH}-hello"), &dir).unwrap();
        assert_eq!((path.hash().as_str(), path.name()), (HASH, "hello"));
        assert_eq!(path.full(&dir), format!("/nix/store/{HASH}-hello"));
        for bad in ["/nix/store//", "nix/store/", "/gnu/store/", "/nix/storex/", "/nix/store", "/nix/store/sub/", ""] {
            assert!(StorePath::parse_full(&format!("{bad}{HASH}-hello"), &dir).is_err(), "{bad:?}");
        }
        assert!(StorePath::parse_full(&format!("/nix/store/{HASH}-hello/bin"), &dir).is_err());
        let elsewhere = StoreDir::parse("/srv/store").unwrap();
        assert_eq!(
            StorePath::parse_full(&format!("/nix/store/{HASH}-hello"), &elsewhere).unwrap_err().to_string(),
            format!("expected a path in /srv/store, found `/nix/store/{HASH}-hello`")
        );
    }

    #[test]
    fn a_store_directory_is_absolute_and_normalised() {
        assert!(StoreDir::parse(&format!("/{}", "x".repeat(MAX_DIR_LEN - 1))).is_ok());
        assert!(StoreDir::parse(&format!("/{}", "x".repeat(MAX_DIR_LEN))).is_err());
        for good in ["/nix/store", "/s", "/home/u/.local/share/nix/root/nix/store"] {
            let dir: StoreDir = good.parse().unwrap();
            assert_eq!((dir.as_str(), format!("{dir:?}").as_str()), (good, good));
        }
        for bad in [
            "",
            "/",
            "nix/store",
            "/nix/store/",
            "//nix",
            "/nix//store",
            "/nix/../store",
            "/./nix",
            "/a b",
            "/a;b",
            "/a\n",
        ] {
            assert!(bad.parse::<StoreDir>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn paths_order_as_their_base_names(
            a in "[0-9abcdfghij]{32}-[a-z+=.-]{1,8}", b in "[0-9abcdfghij]{32}-[a-z+=.-]{1,8}", same in any::<bool>()
        ) {
            let b = if same { format!("{}{}", &a[..33], &b[33..]) } else { b };
            if let (Ok(x), Ok(y)) = (StorePath::parse_base(&a), StorePath::parse_base(&b)) {
                prop_assert_eq!(x.cmp(&y), a.as_bytes().cmp(b.as_bytes()));
            }
        }
    }
}
