//! Tokens: made here, shown by clients, and kept as hashes.
//!
//! A token is 256 random bits as text, so its plain SHA-256 tells nothing about it: no salt and no slow hash are needed, and
//! a file of hashes that is read by others lets nobody in.

use std::fmt;

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::nix::hash::Sha256;

/// So that a token is known for one wherever it turns up.
const PREFIX: &str = "snowbank-";
/// Nothing longer than this is looked into: a token of ours has 52 bytes.
const LONGEST: usize = 1024;

/// What a token hashes to. Not shown: whoever knows it can tell a token that was found to be the right one.
#[derive(Clone, Copy)]
pub(super) struct Digest([u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

impl Digest {
    fn of(token: &[u8]) -> Self {
        Self(*Sha256::of(token).as_bytes())
    }

    /// Whether both are the same, in a time that does not tell how much of them is.
    pub(super) fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// Reads 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        if pairs.len() != bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

/// The digest of the token that an `Authorization` shows: the password of Basic, whoever the user is (Nix sends what stands
/// in its netrc file), or what follows Bearer. `None` for anything else.
pub(super) fn shown_digest(authorization: &HeaderValue) -> Option<Digest> {
    let shown = authorization.as_bytes();
    if shown.len() > LONGEST {
        return None;
    }
    let blank = shown.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = shown.split_at(blank);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return (!rest.is_empty()).then(|| Digest::of(rest));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let login = Zeroizing::new(STANDARD.decode(rest).ok()?);
    let colon = login.iter().position(|byte| *byte == b':')?;
    let password = &login[colon + 1..];
    (!password.is_empty()).then(|| Digest::of(password))
}

/// The name of a token, for people: who has it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TokenName(String);

/// What is no name of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's name is 1 to 64 of the characters a-z A-Z 0-9 - . _ @")]
pub struct NotAName;

impl TokenName {
    pub(super) fn parse(text: &str) -> Result<Self, NotAName> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._@".contains(&b);
        let fine = (1..=64).contains(&text.len()) && text.bytes().all(fits);
        if fine { Ok(Self(text.to_owned())) } else { Err(NotAName) }
    }
}

/// A token that was made just now. It cannot be told again from what is kept.
pub struct NewToken {
    name: TokenName,
    text: Zeroizing<String>,
}

impl NewToken {
    /// Makes one for whoever is called `name`.
    ///
    /// # Errors
    /// In words: the name cannot be one, or the system gives no random bytes.
    pub fn generate(name: &str) -> Result<Self, String> {
        let name = TokenName::parse(name).map_err(|why| why.to_string())?;
        let mut random = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(random.as_mut_slice()).map_err(|_| "the system gives no random bytes".to_owned())?;
        // Of its final size, so that no copy of the secret stays behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 43));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
        Ok(Self { name, text })
    }

    /// The line for a file of `token_files`.
    pub fn line(&self) -> String {
        let Digest(digest) = Digest::of(self.text.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{hex}", self.name.0)
    }

    /// The line for the netrc file of a client.
    pub fn netrc(&self, machine: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("machine {machine} login {} password {}", self.name.0, *self.text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a client shows is a token or nothing, and what it is said to be decides which.
        #[test]
        fn nothing_that_is_shown_ends_a_request(scheme in "(?i)(basic|bearer|x)?", rest in "[ -~]{0,80}", raw: Vec<u8>) {
            let _ = HeaderValue::from_bytes(&raw).map(|value| shown_digest(&value));
            if let Some(digest) = shown_digest(&HeaderValue::from_str(&format!("{scheme} {rest}")).unwrap()) {
                prop_assert!(!scheme.is_empty() && scheme != "x");
                let bearer = Digest::of(rest.trim().as_bytes());
                prop_assert_eq!(digest.is(&bearer), scheme.eq_ignore_ascii_case("bearer"));
            }
        }
    }

    fn shown(text: &str) -> Option<[u8; 32]> {
        shown_digest(&HeaderValue::from_str(text).unwrap()).map(|digest| digest.0)
    }

    #[test]
    fn a_token_is_shown_as_basic_or_as_bearer() {
        let expected = Some(Digest::of(b"token").0);
        let basic = |login: &str| format!("Basic {}", STANDARD.encode(login));
        for text in ["Bearer token", "bearer token", "BEARER   token ", &basic("ci:token"), &basic(":token")] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert_eq!(shown(&basic("ci:a:b")), Some(Digest::of(b"a:b").0));
        for text in [
            "",
            "token",
            "Bearer",
            "Bearer ",
            "Basic",
            "Basic ",
            "Basic !",
            "Digest token",
            "Basic dG9rZW4",
            "Bearertoken x",
            &basic("token"),
            &basic("ci:"),
            &format!("Bearer {}", "x".repeat(LONGEST)),
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_made_is_what_is_kept() {
        let (token, other) = (NewToken::generate("ci").unwrap(), NewToken::generate("ci").unwrap());
        let line = token.line();
        let digest = Digest::parse(line.strip_prefix("ci:").unwrap()).unwrap();
        assert!(digest.is(&Digest::of(token.text.as_bytes())) && !digest.is(&Digest::of(other.text.as_bytes())));
        assert_eq!(token.text.len(), token.text.capacity());
        assert_eq!(
            *token.netrc("cache.example.org"),
            format!("machine cache.example.org login ci password {}", *token.text)
        );
        assert!(!line.contains(token.text.as_str()));
        assert_eq!(format!("{digest:?}"), "Digest");
    }

    #[test]
    fn names_and_digests_have_one_form() {
        for name in ["", "a b", "a:b", "a\n", "é", &"a".repeat(65)] {
            assert!(NewToken::generate(name).is_err(), "{name:?}");
        }
        let digits = "0".repeat(64);
        assert!(Digest::parse(&digits).is_some() && Digest::parse(&"A".repeat(64)).is_some());
        for text in ["", &digits[1..], &format!("{digits}0"), &"g".repeat(64), &"+".repeat(64), &"é".repeat(32)] {
            assert!(Digest::parse(text).is_none(), "{text}");
        }
    }
}
