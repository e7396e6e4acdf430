//! Certificates as the tests need them: an authority, and leaves with any names, dates and kind of key; PEM as text.
//!
//! [`super::snowbank::certificates`] is the one good certificate that most tests share; here are the others. What is
//! broken on purpose (a cut file, a key behind a passphrase) is broken here too, so that the tests read as a list.

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use time::{Duration, OffsetDateTime};

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA of 2048 bits.
    Rsa,
}

impl Kind {
    fn key(self) -> KeyPair {
        match self {
            Self::Ecdsa => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        }
        .expect("a key")
    }
}

/// What a leaf is to be; by default good for an hour, ECDSA, and for servers.
#[derive(Debug, Clone, Copy)]
pub struct Leaf {
    /// The kind of its key.
    pub kind: Kind,
    /// Valid from, in seconds from now.
    pub from: i64,
    /// Valid until, in seconds from now.
    pub until: i64,
    /// For a client instead of a server.
    pub client: bool,
}

impl Default for Leaf {
    fn default() -> Self {
        Self { kind: Kind::Ecdsa, from: -60, until: 3600, client: false }
    }
}

/// An authority of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The same in PEM.
    pub pem: String,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The same in PEM.
    pub certificate_pem: String,
    /// The key in PEM (PKCS#8).
    pub key_pem: String,
}

/// Where a pair lies on the disk.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Parameters with these names and dates.
pub fn parameters(names: &[&str], leaf: Leaf) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).expect("names");
    // Certificates count whole seconds.
    let now = OffsetDateTime::from(std::time::UNIX_EPOCH + since_epoch());
    parameters.not_before = now + Duration::seconds(leaf.from);
    parameters.not_after = now + Duration::seconds(leaf.until);
    let purpose = if leaf.client {
        rcgen::ExtendedKeyUsagePurpose::ClientAuth
    } else {
        rcgen::ExtendedKeyUsagePurpose::ServerAuth
    };
    parameters.extended_key_usages = vec![purpose];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

/// The wall clock, in whole seconds.
#[expect(clippy::disallowed_methods, reason = "certificates are dated by the real clock, the program runs by it too")]
pub fn since_epoch() -> std::time::Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    std::time::Duration::from_secs(now.as_secs())
}

impl Authority {
    /// An authority with a fresh key.
    pub fn new(name: &str) -> Self {
        let key = Kind::Ecdsa.key();
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(parameters, key), certificate: der, pem }
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str], leaf: Leaf) -> Pair {
        let key = leaf.kind.key();
        let certificate = parameters(names, leaf).signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Signs what a certificate request asks for, with these dates. Answers the certificate in PEM.
    pub fn sign_request(&self, request: &[u8], leaf: Leaf) -> String {
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into()).expect("a request");
        let mut request = request;
        let dated = parameters(&[], leaf);
        request.params.not_before = dated.not_before;
        request.params.not_after = dated.not_after;
        request.params.extended_key_usages = dated.extended_key_usages;
        // The identifier that renewal information is asked by (RFC 9773, 4.1) is made of it and the serial number.
        request.params.use_authority_key_identifier_extension = true;
        request.signed_by(&self.issuer).expect("a certificate").pem()
    }
}

impl Pair {
    /// Writes the pair as `name.crt` and `name.key`.
    pub fn write(&self, dir: &Path, name: &str) -> Files {
        let files = Files { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        self.write_to(&files);
        files
    }

    /// Writes the pair over these files: each is there as a whole at any moment, the two are not together.
    pub fn write_to(&self, files: &Files) {
        replace(&files.key, &self.key_pem);
        replace(&files.certificate, &self.certificate_pem);
    }

    /// The same certificate with the key of another pair.
    pub fn with_key_of(mut self, other: &Self) -> Self {
        self.key_pem.clone_from(&other.key_pem);
        self
    }

    /// The same pair whose certificate file ends in the middle.
    pub fn cut(mut self) -> Self {
        self.certificate_pem.truncate(self.certificate_pem.len() / 2);
        self
    }

    /// The same pair with its key behind a passphrase.
    pub fn locked(mut self) -> Self {
        let mut openssl = Command::new("openssl")
            .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:secret"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl is installed; tests/run does it");
        openssl.stdin.take().expect("a pipe").write_all(self.key_pem.as_bytes()).expect("the key is read");
        let output = openssl.wait_with_output().expect("openssl ends");
        self.key_pem = String::from_utf8(output.stdout).expect("PEM");
        assert!(self.key_pem.contains("BEGIN ENCRYPTED PRIVATE KEY"), "{}", self.key_pem);
        self
    }
}

/// Replaces a file as careful writers do: another file under another name, then renamed. 0600.
pub fn replace(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut open = std::fs::OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600);
    open.open(&beside).and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    std::fs::rename(&beside, path).expect("a rename");
}
