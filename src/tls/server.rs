//! The TLS settings of one listener, and which of them a handshake gets.
//!
//! ```text
//! ClientHello ── ALPN is "acme-tls/1" and nothing else ──▶ the certificate of a challenge, then the end (RFC 8737)
//!             └─ anything else ──────────────────────────▶ the certificate in force, h2 or http/1.1
//! ```
//!
//! The two have nothing in common but the port: a client that shows no certificate of its own gets no further than to see
//! one made for the CA, and what is made for the CA never serves a request.
//!
//! Out of scope: the handshake itself (see `edge`), and where certificates come from.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};

use super::challenges::{ACME_TLS, Challenges, asks_for_challenge};
use super::clients::{CaFile, ClientCertificates};
use super::{Error, provider};
use crate::metrics::CertificateFailure;

/// What a TLS listener shakes hands with.
pub struct Acceptor {
    resolver: Arc<dyn ResolvesServerCert>,
    challenge: Arc<ServerConfig>,
    serving: ArcSwap<ServerConfig>,
    clients: Option<Mutex<CaFile>>,
}

impl Acceptor {
    /// Serves the certificates of `resolver`, to every client or to those that `clients` lets in; and those of
    /// `challenges` to a CA that validates a name.
    ///
    /// Blocking: reads the CA file of `clients`.
    ///
    /// # Errors
    /// The CA file cannot be used; the provider cannot give the protocol versions or random bytes for the ticket keys.
    pub fn new(
        resolver: Arc<dyn ResolvesServerCert>,
        challenges: Challenges,
        clients: Option<ClientCertificates>,
    ) -> Result<Self, Error> {
        let challenge = challenge(challenges)?;
        let (serving, clients) = match clients {
            None => (for_everyone(Arc::clone(&resolver))?, None),
            Some(clients) => {
                let (file, verifier) = CaFile::open(clients)?;
                (for_clients(Arc::clone(&resolver), verifier)?, Some(Mutex::new(file)))
            }
        };
        Ok(Self { resolver, challenge, serving: ArcSwap::new(serving), clients })
    }

    /// The settings for the client that says this.
    pub fn config_for(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        if asks_for_challenge(hello) { Arc::clone(&self.challenge) } else { self.serving.load_full() }
    }

    /// Looks at the CA file for clients; a new content is in force for every handshake from then on. One that cannot be
    /// used changes nothing and is told in the log; its reason is given once, to be counted.
    ///
    /// Blocking: a look at the file; a small file if it changed.
    pub fn refresh(&self) -> Option<CertificateFailure> {
        let mut file = self.clients.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verifier) = file.changed() {
            match for_clients(Arc::clone(&self.resolver), verifier) {
                Ok(config) => self.serving.store(config),
                Err(error) => file.complain(&error),
            }
        }
        file.uncounted()
    }

    /// Whether there is anything to [`refresh`](Self::refresh).
    pub fn asks_for_certificates(&self) -> bool {
        self.clients.is_some()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// Whether a connection was only made to see a challenge's certificate: it carries nothing, and is closed.
pub fn is_for_challenge(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ACME_TLS)
}

/// Sessions are resumed by stateless tickets, so that no number of clients makes a session cache grow (R26). Each listener
/// has ticket keys of its own, and they rotate.
fn for_everyone(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = http(resolver, WebPkiClientVerifier::no_client_auth())?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// No session is resumed: the certificate that was shown at its begin would not be looked at again, and be good for hours
/// after it expired or its name was taken out.
fn for_clients(
    resolver: Arc<dyn ResolvesServerCert>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = http(resolver, verifier)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// `h2` before `http/1.1`.
fn http(resolver: Arc<dyn ResolvesServerCert>, verifier: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, Error> {
    let mut config = server_config(resolver, verifier)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn challenge(challenges: Challenges) -> Result<Arc<ServerConfig>, Error> {
    let mut config = server_config(Arc::new(challenges), WebPkiClientVerifier::no_client_auth())?;
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS 1.3 and 1.2, without tickets and without a session cache.
fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Scanners mark a server that leaves the choice to its clients. All suites are good, and the first is what most choose.
    config.ignore_client_order = true;
    Ok(config)
}
