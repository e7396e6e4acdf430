//! TLS where this program is the client: the system's roots, and one more CA file for a server that has its own.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;

use super::{files, provider};

/// A client configuration that trusts the system's roots and the certificates in `ca_file`.
///
/// Blocking: reads the file and the system's roots.
///
/// # Errors
/// The file or the system's roots cannot be used, with the reason in words.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
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
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Checks that the certificates in `path` can be used as a `ca_file`.
///
/// # Errors
/// Why not, in words.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    client_config(Some(path)).map(|_| ())
}
