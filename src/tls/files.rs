//! A certificate chain and its key from the operator's PEM files.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{Error, provider};

/// Reads both files and checks that they belong together.
///
/// # Errors
/// Which file, and what is wrong with it.
pub fn load(cert_file: &Path, key_file: &Path) -> Result<CertifiedKey, Error> {
    pair(certificates(cert_file)?, private_key(key_file)?, cert_file, key_file)
}

/// Puts a chain and its key together; the files are for the message.
pub(super) fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_file: &Path,
    key_file: &Path,
) -> Result<CertifiedKey, Error> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Error::Mismatch { cert: cert_file.into(), key: key_file.into() },
        rustls::Error::InvalidCertificate(reason) => malformed(CERTIFICATE, cert_file, format!("{reason:?}")),
        other => malformed(KEY, key_file, other.to_string()),
    })
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(CERTIFICATE, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(CERTIFICATE, path, error.to_string()))?;
    if chain.is_empty() {
        return Err(malformed(CERTIFICATE, path, "no \"BEGIN CERTIFICATE\" section in it".into()));
    }
    Ok(chain)
}

/// The first private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let reason = match error {
            // An encrypted key is a section of its own kind, which the reader passes over.
            pem::Error::NoItemsFound => {
                "no unencrypted \"BEGIN PRIVATE KEY\", \"BEGIN RSA PRIVATE KEY\" or \"BEGIN EC PRIVATE KEY\" section in it".into()
            }
            other => other.to_string(),
        };
        malformed(KEY, path, reason)
    })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { what, path: path.into(), source })
}

fn malformed(what: &'static str, path: &Path, reason: String) -> Error {
    Error::Malformed { what, path: path.into(), reason }
}
