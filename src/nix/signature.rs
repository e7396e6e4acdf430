//! Signatures of narinfos and the public keys that they are checked with.
//!
//! Both are written `<key name>:<base 64>`; the name ends at the first colon (Nix: `src/libutil/signature/local-keys.cc`).
//! Checking is strict Ed25519 (R1). Which keys count for whom is the business of the caller: every upstream has its own
//! set.
//!
//! Out of scope: making signatures and keys (`proxy::sign`).

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
            Ok(key) => Self::new(&name, key),
            Err(_) => Err(Error::Point(name)),
        }
    }

    /// The key of this name.
    ///
    /// # Errors
    /// When the name could not be read again, or the key is one under which anything verifies.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(Error::Name(Excerpt::of(name)));
        }
        if key.is_weak() {
            return Err(Error::Point(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), key })
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

impl std::str::FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

crate::string_value!(PublicKey, "<key name>:<base 64 of 32 bytes>, as in nix.conf's trusted-public-keys");

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

/// True for what can be the name of a key: 1 to 255 graphic ASCII characters, because names stand in lists that blanks
/// separate, and no colon, which ends them.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// Splits at the first colon and decodes the rest.
fn parse_named<const N: usize>(text: &str) -> Result<(String, [u8; N]), Error> {
    let Some((name, payload)) = text.split_once(':').filter(|(name, _)| is_name(name)) else {
        return Err(Error::Name(Excerpt::of(text)));
    };
    let bytes = BASE64.decode(payload).ok().and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) => Ok((name.to_owned(), bytes)),
        None => Err(Error::Base64 { name: name.to_owned(), bytes: N, found: Excerpt::of(payload) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    const NIXOS: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    fn signing_key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public_key(name: &str, seed: u8) -> PublicKey {
        PublicKey { name: name.to_owned(), key: signing_key(seed).verifying_key() }
    }

    fn sign(name: &str, seed: u8, message: &[u8]) -> Signature {
        Signature { name: name.to_owned(), bytes: signing_key(seed).sign(message).to_bytes() }
    }

    #[test]
    fn keys_and_signatures_are_written_as_they_were_read() {
        let key = PublicKey::parse(NIXOS).unwrap();
        assert_eq!((key.to_string(), format!("{key:?}")), (NIXOS.to_owned(), NIXOS.to_owned()));
        let text = sign("a-1", 1, b"x").to_string();
        let signature = Signature::parse(&text).unwrap();
        assert_eq!((signature.to_string(), format!("{signature:?}")), (text.clone(), text));
    }

    #[test]
    fn keys_can_be_options() {
        use crate::options::Table as _;
        crate::options! {
            /// A cache.
            pub struct Cache {
                /// Its keys.
                pub public_keys: Vec<PublicKey>,
            }
        }
        let cache = Cache::from_toml(&format!("public_keys = ['{NIXOS}']")).unwrap();
        assert_eq!(cache.public_keys, [PublicKey::parse(NIXOS).unwrap()]);
        let mistakes = Cache::from_toml("public_keys = ['x']").unwrap_err().to_string();
        assert!(mistakes.contains("expected <key name>:<base 64 of 32 bytes>"), "{mistakes}");
    }

    #[test]
    fn malformed_keys_and_signatures_are_refused() {
        let payload = NIXOS.split_once(':').unwrap().1;
        let longest = "n".repeat(MAX_NAME_LEN);
        assert!(PublicKey::parse(&format!("{longest}:{payload}")).is_ok());
        for bad in [
            String::new(),
            payload.to_owned(),
            format!(":{payload}"),
            format!("{longest}n:{payload}"),
            format!("a b:{payload}"),
            format!("a\t:{payload}"),
            format!("ä:{payload}"),
            format!("a::{payload}"),
            format!("a: {payload}"),
            format!("a:{payload}\n"),
            "a:".to_owned(),
            format!("a:{}", &payload[..43]),
            format!("a:{}", payload.replace("jY=", "jZ=")),
            format!("a:{payload}{payload}"),
            format!("a:{}", BASE64.encode([0; 64])),
        ] {
            assert!(PublicKey::parse(&bad).is_err(), "{bad:?}");
        }
        assert!(Signature::parse(NIXOS).is_err(), "32 bytes are no signature");
        assert_eq!(
            PublicKey::parse("a:zzz").unwrap_err().to_string(),
            "key a: expected the base 64 of 32 bytes, found `zzz`"
        );
    }

    #[test]
    fn r1_keys_of_small_order_are_refused() {
        // The identity and the point of order two: a signature of zeros would verify for some or all messages.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        for bytes in [identity, order_two, [0; 32]] {
            let text = format!("weak:{}", BASE64.encode(bytes));
            assert_eq!(PublicKey::parse(&text), Err(Error::Point("weak".to_owned())));
        }
    }

    #[test]
    fn r1_only_this_key_over_this_message_under_this_name_verifies() {
        let key = public_key("a", 1);
        let good = sign("a", 1, b"message");
        assert!(key.verifies(&good, b"message"));
        assert!(!key.verifies(&good, b"massage"));
        assert!(!key.verifies(&sign("a", 2, b"message"), b"message"));
        assert!(!key.verifies(&sign("b", 1, b"message"), b"message"));
        for bit in 0..512 {
            let mut bad = good.clone();
            bad.bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verifies(&bad, b"message"), "bit {bit}");
        }
    }

    #[test]
    fn r1_a_scalar_beyond_the_group_order_is_refused() {
        // S and S + L are the same scalar; only the smaller is a signature.
        const L: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut signature = sign("a", 1, b"message");
        let mut carry = 0;
        for (byte, order) in signature.bytes[32..].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        assert!(!public_key("a", 1).verifies(&signature, b"message"));
    }

    #[test]
    fn a_set_verifies_with_any_of_its_keys() {
        let keys: PublicKeys = [public_key("a", 1), public_key("a", 2), public_key("b", 3)].into_iter().collect();
        let by = |signatures: &[Signature]| keys.verify(b"m", signatures).map(ToString::to_string);
        assert_eq!(by(&[sign("a", 2, b"m")]), Some(public_key("a", 2).to_string()));
        assert_eq!(
            by(&[sign("c", 9, b"m"), sign("a", 9, b"m"), sign("b", 3, b"m")]),
            Some(public_key("b", 3).to_string())
        );
        assert_eq!(by(&[sign("c", 1, b"m"), sign("b", 1, b"m")]), None);
        assert_eq!(by(&[]), None);
        assert!(PublicKeys::default().verify(b"m", &[sign("a", 1, b"m")]).is_none());
        assert!(PublicKeys::default().is_empty() && !keys.is_empty());
        assert_eq!((&keys).into_iter().map(PublicKey::name).collect::<Vec<_>>(), ["a", "a", "b"]);
    }

    #[test]
    fn r27_no_more_than_sixteen_signatures_are_checked() {
        let keys = PublicKeys::new(vec![public_key("a", 1)]);
        let with_good_at = |position: usize| {
            let mut signatures = vec![sign("a", 2, b"m"); position];
            signatures.push(sign("a", 1, b"m"));
            signatures
        };
        assert!(keys.verify(b"m", &with_good_at(MAX_CHECKED - 1)).is_some());
        assert!(keys.verify(b"m", &with_good_at(MAX_CHECKED)).is_none());
        // Names that no key has do not count.
        let mut signatures = vec![sign("other", 1, b"m"); 100];
        signatures.push(sign("a", 1, b"m"));
        assert!(keys.verify(b"m", &signatures).is_some());
    }
}
