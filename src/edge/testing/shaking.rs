//! TLS clients of every kind, and the certificates they show.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{CERTIFICATE, soon};
use crate::tls;

pub(in crate::edge) const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A chain and its key.
pub(in crate::edge) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A CA that signs clients' certificates.
pub(in crate::edge) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(in crate::edge) der: CertificateDer<'static>,
    pub(in crate::edge) pem: String,
}

pub(in crate::edge) static CLIENT_CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("clients"));
pub(in crate::edge) static OTHER_CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("others"));

impl Ca {
    pub(in crate::edge) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }

    /// A certificate that is valid in the years of `years`, for `purpose`.
    pub(in crate::edge) fn sign(
        &self,
        names: &[&str],
        years: std::ops::Range<i32>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    /// A certificate for a client of this name.
    pub(in crate::edge) fn client(&self, name: &str) -> Identity {
        self.sign(&[name], 2020..4000, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// A client that trusts [`CERTIFICATE`], offers `protocols` and perhaps shows a certificate.
pub(in crate::edge) fn client(
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
    identity: Option<Identity>,
) -> ClientConfig {
    client_of(&CERTIFICATE.ca, versions, protocols, identity)
}

/// As [`client`], but what it trusts is `ca`.
pub(in crate::edge) fn client_of(
    ca: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
    identity: Option<Identity>,
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).expect("a CA");
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("an identity"),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// As [`client`], but any certificate will do.
pub(in crate::edge) fn trusting_client(
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> ClientConfig {
    let mut config = client(versions, protocols, None);
    config.dangerous().set_certificate_verifier(Arc::new(TrustsAnything));
    config
}

#[derive(Debug)]
struct TrustsAnything;

impl ServerCertVerifier for TrustsAnything {
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to `address`, which is asked for `name`.
pub(in crate::edge) async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    soon(tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// Asks for something over HTTP/1.1, and reads all there is: over TLS 1.3 a client learns only then that it is refused.
/// Tells whether the session was resumed, too.
pub(in crate::edge) async fn ask(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<(String, rustls::HandshakeKind)> {
    let mut stream = connect(address, config, "localhost").await?;
    stream.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await?;
    Ok((answer, stream.get_ref().1.handshake_kind().expect("it is done")))
}
