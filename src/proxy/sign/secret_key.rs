//! Secret keys: Nix's `<key name>:<base 64 of seed and public key>` (`src/libutil/signature/local-keys.cc`).
//!
//! The secret bytes lie in one allocation that is zeroed when the key is dropped, and pass through buffers that are
//! zeroed as well. No error, no `Debug` and no log shows a byte of what was read (R4): what is malformed may be a secret
//! all the same.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use crate::nix::signature::{PublicKey, Signature, is_name};

/// Bytes of the seed and the public key after it.
const PAIR: usize = 64;
/// Base 64 characters of that, with padding.
const PAIR_CHARS: usize = 88;
/// Base 64 characters of a public key.
const PUBLIC_CHARS: usize = 44;
/// What the decoder wants for these characters: it does not look for padding first.
const DECODED: usize = PAIR_CHARS / 4 * 3;

/// Why a text is no secret key, or none can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `<key name>:<base 64 of 64 bytes>`.
    #[error(
        "not a secret key, which is <key name>:<base 64 of 64 bytes>, as `snowbank keygen` and \
         `nix-store --generate-binary-cache-key` write it"
    )]
    Form,
    /// A public key where the secret one belongs.
    #[error("this is the public key {0}; the secret one is needed")]
    Public(String),
    /// A public half that is not that of the seed: a damaged or made-up key, which would sign what nobody can verify.
    #[error("key {0}: the public half does not belong to the secret one; the key is damaged")]
    Mismatch(String),
    /// A name that no list of keys can hold.
    #[error("a key name is 1 to 255 visible ASCII characters without a colon, such as cache.example.org-1")]
    Name,
    /// No randomness.
    #[error("the system gave no random bytes")]
    Random,
}

/// A key that signatures are made with. There is one of each: it cannot be cloned.
pub struct SecretKey {
    public: PublicKey,
    /// Boxed, so that moving the key leaves no copies of the seed behind.
    pair: Box<SigningKey>,
}

impl SecretKey {
    /// Reads a key. Blanks and line ends after it are passed over: Nix writes none and reads them.
    ///
    /// # Errors
    /// When it is none, or the two halves do not belong together.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, payload) = text.trim_ascii_end().split_once(':').ok_or(Error::Form)?;
        if !is_name(name) {
            return Err(Error::Form);
        }
        match payload.len() {
            PAIR_CHARS => {}
            PUBLIC_CHARS => return Err(Error::Public(name.to_owned())),
            _ => return Err(Error::Form),
        }
        let mut decoded = Zeroizing::new([0; DECODED]);
        let length = BASE64.decode_slice(payload, decoded.as_mut_slice()).map_err(|_| Error::Form)?;
        let pair: &[u8; PAIR] = decoded[..length].try_into().map_err(|_| Error::Form)?;
        let pair = SigningKey::from_keypair_bytes(pair).map_err(|_| Error::Mismatch(name.to_owned()))?;
        Self::new(name, pair)
    }

    /// A new key.
    ///
    /// # Errors
    /// When the name cannot be one, or there is no randomness.
    pub fn generate(name: &str) -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| Error::Random)?;
        Self::new(name, SigningKey::from_bytes(&seed))
    }

    fn new(name: &str, pair: SigningKey) -> Result<Self, Error> {
        let pair = Box::new(pair);
        match PublicKey::new(name, pair.verifying_key()) {
            Ok(public) => Ok(Self { public, pair }),
            Err(crate::nix::signature::Error::Name(_)) => Err(Error::Name),
            Err(_) => Err(Error::Mismatch(name.to_owned())),
        }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        self.public.name()
    }

    /// The half that clients verify with.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// Signs `message`. For `proxy::sign` alone, which knows what was verified (R4).
    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        Signature { name: self.name().to_owned(), bytes: self.pair.sign(message).to_bytes() }
    }

    /// The key as it is written to a file, without a line end: for whoever makes one.
    pub fn to_text(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.pair.to_keypair_bytes());
        let mut encoded = Zeroizing::new([0; PAIR_CHARS]);
        // The lengths fit: 64 bytes are 88 characters, all of them ASCII.
        let length = BASE64.encode_slice(pair.as_slice(), encoded.as_mut_slice()).unwrap_or(0);
        // Of its final size from the beginning, so that no copy stays behind when it grows.
        let mut text = Zeroizing::new(String::with_capacity(self.name().len() + 1 + PAIR_CHARS));
        text.push_str(self.name());
        text.push(':');
        text.push_str(std::str::from_utf8(&encoded[..length]).unwrap_or_default());
        text
    }
}

/// The name alone.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `nix-store --generate-binary-cache-key test-1`, Nix 2.8.
    const SECRET: &str =
        "test-1:EXug3w06Tu5iXKlKeDDWxeGs7jJaZezLWcUQH271paMmrGRHxwqDstC62wF9D2upMfy0mKGE0Pdd9yOA4ptZKQ==";
    const PUBLIC: &str = "test-1:JqxkR8cKg7LQutsBfQ9rqTH8tJihhND3XfcjgOKbWSk=";

    #[test]
    fn a_key_of_nix_is_read_and_written_as_it_was() {
        for end in ["", "\n", "\r\n", " \t\n\n"] {
            let key = SecretKey::parse(&format!("{SECRET}{end}")).unwrap();
            assert_eq!((key.name(), key.public().to_string().as_str()), ("test-1", PUBLIC));
            assert_eq!(*key.to_text(), SECRET);
        }
    }

    #[test]
    fn its_signatures_verify_under_its_public_key() {
        let key = SecretKey::parse(SECRET).unwrap();
        let signature = key.sign(b"message");
        assert!(key.public().verifies(&signature, b"message") && !key.public().verifies(&signature, b"massage"));
    }

    #[test]
    fn generated_keys_differ_and_are_read_again() {
        let (one, other) = (SecretKey::generate("a").unwrap(), SecretKey::generate("a").unwrap());
        assert_ne!(*one.to_text(), *other.to_text());
        assert_eq!(SecretKey::parse(&one.to_text()).unwrap().public(), one.public());
        for bad in ["", "a b", "a:b", "ä", "a\n", &"n".repeat(256)] {
            assert_eq!(SecretKey::generate(bad).unwrap_err(), Error::Name, "{bad:?}");
        }
        assert!(SecretKey::generate(&"n".repeat(255)).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let payload = SECRET.split_once(':').unwrap().1;
        for bad in [
            "",
            ":",
            "test-1",
            "test-1:",
            payload,
            &format!(":{payload}"),
            &format!(" test-1:{payload}"),
            &format!("test-1: {payload}"),
            &format!("test 1:{payload}"),
            &format!("{}:{payload}", "n".repeat(256)),
            &format!("test-1:{}", &payload[..87]),
            &format!("test-1:{payload}A"),
            &format!("test-1:{payload}AAAA"),
            &format!("test-1:{}", payload.replace("==", "AA")),
            &format!("{SECRET}\n{SECRET}"),
        ] {
            assert_eq!(SecretKey::parse(bad).unwrap_err(), Error::Form, "{bad:?}");
        }
        assert_eq!(SecretKey::parse(PUBLIC).unwrap_err(), Error::Public("test-1".to_owned()));
    }

    #[test]
    fn halves_that_do_not_belong_together_are_refused() {
        let mut pair: [u8; PAIR] = BASE64.decode(SECRET.split_once(':').unwrap().1).unwrap().try_into().unwrap();
        for bit in 0..PAIR * 8 {
            pair[bit / 8] ^= 1 << (bit % 8);
            let text = format!("a:{}", BASE64.encode(pair));
            assert_eq!(SecretKey::parse(&text).unwrap_err(), Error::Mismatch("a".to_owned()), "bit {bit}");
            pair[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn r4_nothing_shows_a_byte_of_it() {
        let key = SecretKey::parse(SECRET).unwrap();
        assert_eq!(format!("{key:?}"), "SecretKey(test-1)");
        let payload = SECRET.split_once(':').unwrap().1;
        for text in [payload, &format!("test-1:{}", &payload[1..]), &format!("{payload}:test-1"), &payload[..40]] {
            let error = SecretKey::parse(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!payload.as_bytes().windows(6).any(|part| shown.contains(std::str::from_utf8(part).unwrap())));
        }
    }
}
