//! Handshakes as a test wants them: which certificate is shown to whom, and does it verify.
//!
//! [`Hello::presented`] takes whatever certificate comes and hands back the chain; [`Hello::verified`] is a strict client.
//! Each handshake is a connection of its own and never resumes another.

use super::authority::Pair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a client says first.
#[derive(Clone)]
pub struct Hello {
    name: String,
    protocols: Vec<Vec<u8>>,
    schemes: Option<Vec<SignatureScheme>>,
    identity: Option<Pair>,
}

impl Hello {
    /// A client that asks for this name: SNI, unless it is an address.
    pub fn to(name: &str) -> Self {
        Self { name: name.to_owned(), protocols: vec![b"http/1.1".to_vec()], schemes: None, identity: None }
    }

    /// Offers this protocol only.
    pub fn protocol(mut self, protocol: &[u8]) -> Self {
        self.protocols = vec![protocol.to_vec()];
        self
    }

    /// Knows these signatures only.
    pub fn knows_only(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = Some(schemes.to_vec());
        self
    }

    /// Has this certificate of its own.
    pub fn with(mut self, identity: &Pair) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// The chain that is presented, whatever it is worth.
    ///
    /// # Errors
    /// No connection, or no handshake.
    pub async fn presented(&self, address: SocketAddr) -> Result<Vec<CertificateDer<'static>>, String> {
        let stream = self.connect(address, Arc::new(Whatever::new(self.schemes.clone()))).await?;
        Ok(chain_of(&stream))
    }

    /// A connection, whatever certificate is presented.
    ///
    /// # Errors
    /// No connection, or no handshake.
    pub async fn connected(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, String> {
        self.connect(address, Arc::new(Whatever::new(self.schemes.clone()))).await
    }

    /// A connection to a server that shows a certificate for the name, by one of these authorities, valid now.
    ///
    /// # Errors
    /// No connection, no handshake, or a certificate that does not verify.
    pub async fn verified(
        &self,
        address: SocketAddr,
        authorities: &[CertificateDer<'static>],
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| e.to_string())?;
        }
        let builder = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        self.connect(address, builder.build().map_err(|e| e.to_string())?).await
    }

    async fn connect(
        &self,
        address: SocketAddr,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|e| e.to_string())?;
                builder.with_client_auth_cert(vec![pair.certificate.clone()], key).map_err(|e| e.to_string())?
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        let name = ServerName::try_from(self.name.clone()).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        super::within("a TLS handshake", handshake).await.map_err(|e| e.to_string())
    }
}

/// The chain that the server of this connection showed.
pub fn chain_of(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let chain = stream.get_ref().1.peer_certificates().expect("a server shows a certificate");
    chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Takes every certificate; the signature of the handshake must still be by its key.
#[derive(Debug)]
struct Whatever {
    provider: Arc<CryptoProvider>,
    schemes: Option<Vec<SignatureScheme>>,
}

impl Whatever {
    fn new(schemes: Option<Vec<SignatureScheme>>) -> Self {
        Self { provider: provider(), schemes }
    }
}

impl ServerCertVerifier for Whatever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = || self.provider.signature_verification_algorithms.supported_schemes();
        self.schemes.clone().unwrap_or_else(all)
    }
}

/// The first certificate of a PEM text.
pub fn first_of_pem(text: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate in PEM")
}

/// What stands in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its DNS names, sorted.
    pub names: Vec<String>,
    /// Valid from, Unix seconds.
    pub not_before: i64,
    /// Valid until, Unix seconds.
    pub not_after: i64,
    /// The serial number in hexadecimal.
    pub serial: String,
}

/// Reads a certificate.
pub fn tell(certificate: &CertificateDer<'_>) -> Told {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    let mut names = Vec::new();
    if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            if let x509_parser::extensions::GeneralName::DNSName(name) = name {
                names.push((*name).to_owned());
            }
        }
    }
    names.sort();
    Told {
        names,
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        serial: parsed.raw_serial_as_string(),
    }
}
