//! A certificate chain and its key from the operator's PEM files.
//!
//! A pair is refused when it could not be served: unreadable, not PEM, of two halves that do not belong together, with a
//! passphrase, or not in force. Each has one line that names the file.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::certificate::{Certificate, Unfit};
use super::{Error, Problem};
use crate::clock::UnixSeconds;
use crate::file;

crate::options! {
    /// A certificate and its key.
    pub struct Pair {
        /// The certificate chain, PEM, the server's own certificate first.
        pub cert_file: PathBuf,
        /// The private key of the first certificate in `cert_file`, PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.
        pub key_file: PathBuf,
    }
}

impl Pair {
    /// Reads both files and checks that they belong together and are in force.
    ///
    /// Blocking.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn load(&self, now: UnixSeconds) -> Result<Certificate, Error> {
        self.join(certificates(&self.cert_file)?, private_key(&self.key_file)?, now)
    }

    /// Puts a chain and its key together.
    pub(super) fn join(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: UnixSeconds,
    ) -> Result<Certificate, Error> {
        let certificate = Certificate::new(chain, key).map_err(|unfit| match unfit {
            Unfit::Mismatch => Error::new(Problem::Mismatch { cert: self.cert_file.clone() }, &self.key_file),
            Unfit::Certificate(reason) => Error::new(Problem::Unusable { what: CERTIFICATE, reason }, &self.cert_file),
            Unfit::Key(reason) => Error::new(Problem::Unusable { what: KEY, reason }, &self.key_file),
        })?;
        let facts = &certificate.facts;
        if now > facts.not_after {
            return Err(Error::new(Problem::Expired(facts.not_after), &self.cert_file));
        }
        if now < facts.not_before {
            return Err(Error::new(Problem::NotYetValid(facts.not_before), &self.cert_file));
        }
        Ok(certificate)
    }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(CERTIFICATE, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(CERTIFICATE, path, in_words(&error)))?;
    if chain.is_empty() {
        return Err(malformed(CERTIFICATE, path, "no \"BEGIN CERTIFICATE\" section in it".into()));
    }
    Ok(chain)
}

/// The first private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(KEY, path)?;
    // Such a key is a section of its own kind, or has a header in an old kind of section.
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(Error::new(Problem::Passphrase, path));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => {
                "no \"BEGIN PRIVATE KEY\", \"BEGIN RSA PRIVATE KEY\" or \"BEGIN EC PRIVATE KEY\" section in it".into()
            }
            other => in_words(&other),
        };
        malformed(KEY, path, reason)
    })
}

/// What is wrong with a PEM text.
pub(super) fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end: the file is cut short".to_owned(),
        other => other.to_string(),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    file::read(path, LONGEST)
        .map(|(_, text)| text)
        .map_err(|source| Error::new(Problem::Unreadable { what, source }, path))
}

/// Bytes; longer than any chain, key, or list of all CAs of the world.
pub(super) const LONGEST: u64 = 16 << 20;

fn malformed(what: &'static str, path: &Path, reason: String) -> Error {
    Error::new(Problem::Malformed { what, reason }, path)
}
