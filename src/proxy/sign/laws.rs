//! What the readers of keys and signatures promise for any bytes, as a check that panics when the promise is broken.
//!
//! The fuzz target calls it with whatever the fuzzer thinks of, the tests with the corpus that is kept in the tree.
//! Compiled for tests and fuzzing only.

use super::secret_key::{Error, SecretKey};
use crate::nix::signature::{PublicKey, PublicKeys, Signature, is_name};

/// What is read is written as it was read, with a name that a list of keys can hold; no public key is a signature or a
/// secret key; a secret key signs what its public half verifies; and a refused secret key shows its name at most.
///
/// # Panics
/// When that does not hold for `bytes`.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (public, signature, secret) = (PublicKey::parse(text), Signature::parse(text), SecretKey::parse(text));
    if let Ok(public) = &public {
        assert_eq!(public.to_string(), text);
        assert!(is_name(public.name()) && signature.is_err() && secret.is_err());
    }
    if let Ok(signature) = &signature {
        assert_eq!(signature.to_string(), text);
        assert!(is_name(&signature.name));
        assert_eq!(Signature::parse(&signature.to_string()).as_ref(), Ok(signature));
    }
    match secret {
        Ok(secret) => signs(&secret, text),
        Err(Error::Form | Error::Name | Error::Random) => {}
        Err(Error::Public(name) | Error::Mismatch(name)) => {
            assert!(is_name(&name));
            assert_eq!(text.split_once(':').map(|(before, _)| before), Some(name.as_str()));
        }
    }
}

fn signs(secret: &SecretKey, text: &str) {
    assert_eq!(*secret.to_text(), text.trim_ascii_end());
    assert!(is_name(secret.name()) && !format!("{secret:?}").contains(&secret.to_text()[secret.name().len()..]));
    let public = secret.public();
    assert_eq!(PublicKey::parse(&public.to_string()).as_ref(), Ok(&public));
    let signature = secret.sign(text.as_bytes());
    assert_eq!(Signature::parse(&signature.to_string()).as_ref(), Ok(&signature));
    let keys = PublicKeys::new(vec![public.clone()]);
    let verified = |message: &[u8]| keys.verify(message, std::slice::from_ref(&signature));
    assert_eq!(verified(text.as_bytes()), Some(&public));
    assert_eq!(verified(&text.as_bytes()[1..]), None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signature_holds_for_the_corpus() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signature");
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
        assert!(!files.is_empty());
        for file in files {
            signature(&std::fs::read(file.unwrap().path()).unwrap());
        }
    }

    proptest! {
        #[test]
        fn signature_holds_for_what_looks_like_one(
            name in "[!-~]{0,20}", payload in "[A-Za-z0-9+/]{0,90}={0,2}", end in "\\s{0,2}"
        ) {
            signature(format!("{name}:{payload}{end}").as_bytes());
        }

        #[test]
        fn signature_holds_for_keys_with_a_byte_changed(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = SecretKey::generate("a-key-1").unwrap().to_text().as_bytes().to_vec();
            signature(&text);
            let place = place.index(text.len());
            text[place] = byte;
            signature(&text);
        }
    }
}
