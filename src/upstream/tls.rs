//! TLS towards upstreams: the system's roots, and one more CA file where an upstream has its own.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls_platform_verifier::Verifier;

/// A client configuration that trusts the system's roots and the certificates in `ca_file`.
///
/// # Errors
/// The file or the system's roots cannot be used, with the reason in words.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let extra = match ca_file {
        None => Vec::new(),
        Some(path) => certificates(path)?,
    };
    // Without roots of its own a machine can still have plain-HTTP upstreams and upstreams with a CA file.
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
        .map_err(|e| format!("the CA certificates cannot be used: {e}"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Checks that the certificates in `path` can be used as an upstream's `ca_file`.
///
/// # Errors
/// Why not, in words.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    client_config(Some(path)).map(|_| ())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| format!("{shown}: {e}"))?.collect();
    let found = found.map_err(|e| format!("{shown}: {e}"))?;
    if found.is_empty() {
        return Err(format!("{shown}: no certificate in this PEM file"));
    }
    Ok(found)
}
