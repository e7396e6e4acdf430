//! A listener's TLS settings.
use super::{Error, Resolver, provider};
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use std::sync::Arc;

/// The settings of a TLS listener: TLS 1.3 and 1.2, `h2` before `http/1.1`, and sessions resumed by stateless tickets,
/// so that no number of clients makes a session cache grow (R26).
///
/// # Errors
/// When the provider cannot give the protocol versions or random bytes for the ticket keys.
pub fn server_config(resolver: Arc<Resolver>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}
