//! TLS where this program is the client: the system's roots, and one more CA file for a server that has its own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::files::Pair;
use super::{files, provider};
use crate::clock::UnixSeconds;
use crate::file::Stamp;

/// A client configuration that trusts the system's roots and the certificates in `ca_file`, and shows `own` to servers that
/// want to know who asks.
///
/// Blocking: reads the files and the system's roots.
///
/// # Errors
/// A file or the system's roots cannot be used, with the reason in words.
pub fn client_config(ca_file: Option<&Path>, own: Option<Pair>) -> Result<ClientConfig, String> {
    let extra = match ca_file {
        None => Vec::new(),
        Some(path) => files::certificates(path).map_err(|error| error.to_string())?,
    };
    // Without roots of its own a machine can still have plain-HTTP upstreams and upstreams with a CA file.
    let verifier = Verifier::new_with_extra_roots(extra, provider())
        .map_err(|e| format!("the CA certificates cannot be used: {e}"))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match own {
        None => config.with_no_client_auth(),
        Some(pair) => config.with_client_cert_resolver(Arc::new(Own::load(pair)?)),
    })
}

/// Checks that the certificates in `path` can be used as a `ca_file`.
///
/// # Errors
/// Why not, in words.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    client_config(Some(path), None).map(|_| ())
}

/// A certificate of our own, read again when its files have changed; what is broken then leaves the one before it.
#[derive(Debug)]
struct Own {
    pair: Pair,
    held: Mutex<(Stamps, Arc<CertifiedKey>)>,
}

/// Both files; `None` for one that is not there, or may be written once more under the same stamp.
type Stamps = [Option<Stamp>; 2];

impl Own {
    fn load(pair: Pair) -> Result<Self, String> {
        let stamps = stamps(&pair);
        let certificate = pair.load(UnixSeconds::now()).map_err(|error| error.to_string())?;
        Ok(Self { pair, held: Mutex::new((stamps, certificate.key)) })
    }
}

fn stamps(pair: &Pair) -> Stamps {
    let stamp = |path: &Path| std::fs::metadata(path).ok().and_then(|found| Stamp::of(&found).settled());
    [stamp(&pair.cert_file), stamp(&pair.key_file)]
}

impl ResolvesClientCert for Own {
    /// Looks at the files, as connections are few.
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.pair);
        if stamps != held.0 || stamps.contains(&None) {
            match self.pair.load(UnixSeconds::now()) {
                Ok(fresh) => *held = (stamps, fresh.key),
                Err(error) => tracing::warn!("{error}; the client certificate before it stays"),
            }
        }
        held.1.key.choose_scheme(schemes).map(|_| Arc::clone(&held.1))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
