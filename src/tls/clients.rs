//! Certificates of clients: which CA must have signed them and which names they must be for.
//!
//! [`CaFile`] watches the operator's file and makes a verifier of what is in it: rustls' own (chain, dates, purpose), and
//! after it the names. The file may be a link that is swapped, as Kubernetes does with its secrets.
//!
//! Out of scope: revocation lists. Take the name out of `client_names`, or let certificates live for hours.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::{fs, mem};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{Error, Problem, files, provider};
use crate::file::{self, Stamp};
use crate::metrics::CertificateFailure;

crate::choice! {
    /// Whether the clients of a listener show certificates.
    pub enum ClientAuth {
        /// They are not asked.
        Off = "off",
        /// They may; a wrong one is refused.
        Optional = "optional",
        /// They must.
        Required = "required",
    }
}

/// Which clients a listener lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whether one without a certificate is refused.
    pub required: bool,
    /// PEM certificates of the CAs that sign clients' certificates.
    pub ca_file: PathBuf,
    /// Who is let in; empty lets in everyone whose certificate the CA signed.
    pub names: Vec<ClientName>,
}

/// A DNS name that a client's certificate may be for; a first label `*` stands for exactly one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(String);

crate::string_value!(ClientName, "a DNS name such as \"builder.example.org\" or \"*.build.example.org\"");

impl FromStr for ClientName {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let fine = !name.ends_with('.') && DnsName::try_from(name).is_ok();
        fine.then(|| Self(text.to_ascii_lowercase())).ok_or(())
    }
}

impl std::fmt::Display for ClientName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl ClientName {
    /// Whether a certificate for `name` is one for this. One for a wildcard is for no name in particular: for none.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self.0.strip_prefix("*.") {
            None => name.eq_ignore_ascii_case(&self.0),
            Some(domain) => name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && label != "*" && rest.eq_ignore_ascii_case(domain)),
        }
    }
}

/// The DNS names of the certificate that the client of a connection showed, and that was verified; none where it was not
/// asked for one or has none.
pub fn shown_names(connection: &rustls::ServerConnection) -> Vec<String> {
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let parsed = shown.and_then(|shown| webpki::EndEntityCert::try_from(shown).ok());
    parsed.iter().flat_map(|parsed| parsed.valid_dns_names().map(str::to_owned)).collect()
}

/// Checks that `path` can be used as a `client_ca_file`.
///
/// Blocking: a small file.
///
/// # Errors
/// Which file, and what is wrong with it.
pub fn check_client_ca_file(path: &Path) -> Result<(), Error> {
    let (_, pem) = read(path)?;
    roots(path, &pem).map(|_| ())
}

/// The operator's file of CAs, and what of it is in force.
#[derive(Debug)]
pub(super) struct CaFile {
    wanted: ClientCertificates,
    /// What the file was when it was read last; `None` when it has to be read again in any case.
    seen: Option<Stamp>,
    in_force: Vec<u8>,
    /// The last complaint, so that each is told once.
    told: Option<String>,
    /// Its reason, until it is counted.
    uncounted: Option<CertificateFailure>,
}

impl CaFile {
    /// Reads the file for the first time.
    ///
    /// Blocking: a small file.
    pub(super) fn open(wanted: ClientCertificates) -> Result<(Self, Arc<dyn ClientCertVerifier>), Error> {
        let (seen, in_force) = read(&wanted.ca_file)?;
        let verifier = verifier(&wanted, &in_force)?;
        Ok((Self { wanted, seen: seen.settled(), in_force, told: None, uncounted: None }, verifier))
    }

    /// A new verifier if the file has another content than before. One that cannot be used changes nothing, and is told
    /// in the log.
    ///
    /// Blocking: a look at the file; a small file if it changed.
    pub(super) fn changed(&mut self) -> Option<Arc<dyn ClientCertVerifier>> {
        let path = &self.wanted.ca_file;
        if self.seen.is_some() && self.seen == fs::metadata(path).ok().map(|found| Stamp::of(&found)) {
            return None;
        }
        let read = read(path).and_then(|(stamp, pem)| {
            self.seen = stamp.settled();
            if pem == self.in_force { Ok(None) } else { verifier(&self.wanted, &pem).map(|made| Some((made, pem))) }
        });
        match read {
            Ok(changed) => {
                let mended = self.told.take().is_some();
                if mended || changed.is_some() {
                    tracing::info!(path = %self.wanted.ca_file.display(), "the CA file for clients was read again");
                }
                let (verifier, pem) = changed?;
                self.in_force = pem;
                Some(verifier)
            }
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    /// The reason of what was told since it was asked for.
    pub(super) fn uncounted(&mut self) -> Option<CertificateFailure> {
        self.uncounted.take()
    }

    /// Tells that what is in force stays, once for each reason.
    pub(super) fn complain(&mut self, error: &Error) {
        let (reason, error) = (error.reason(), error.to_string());
        if self.told.as_ref() != Some(&error) {
            tracing::error!(%reason, "the CA file for clients cannot be used, its last good content stays in force: {error}");
            (self.told, self.uncounted) = (Some(error), Some(reason));
        }
    }
}

const WHAT: &str = "list of CA certificates";

/// The file as it was before it was read, and what is in it.
fn read(path: &Path) -> Result<(Stamp, Vec<u8>), Error> {
    let read = file::read(path, files::LONGEST).map(|(found, mut pem)| (Stamp::of(&found), mem::take(&mut *pem)));
    read.map_err(|source| Error::new(Problem::Unreadable { what: WHAT, source }, path))
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, Error> {
    let malformed = |reason| Error::new(Problem::Malformed { what: WHAT, reason }, path);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
        roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(malformed("no \"BEGIN CERTIFICATE\" section in it".into()));
    }
    Ok(roots)
}

fn verifier(wanted: &ClientCertificates, pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let roots = Arc::new(roots(&wanted.ca_file, pem)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if wanted.required { builder } else { builder.allow_unauthenticated() };
    let malformed = |reason| Error::new(Problem::Malformed { what: WHAT, reason }, &wanted.ca_file);
    let chain = builder.build().map_err(|error| malformed(error.to_string()))?;
    Ok(if wanted.names.is_empty() { chain } else { Arc::new(Named { chain, names: wanted.names.clone() }) })
}

/// Lets in who `chain` lets in, if their certificate is for one of `names`.
#[derive(Debug)]
struct Named {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<ClientName>,
}

impl Named {
    /// Only for what `chain` has verified: then the names are what the CA signed.
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if parsed.valid_dns_names().any(|name| self.names.iter().any(|allowed| allowed.covers(name))) {
            return Ok(());
        }
        let shown: Vec<&str> = parsed.valid_dns_names().take(3).collect();
        tracing::debug!(names = ?shown, "a client's certificate is for none of client_names");
        Err(CertificateError::ApplicationVerificationFailure.into())
    }
}

impl ClientCertVerifier for Named {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.chain.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, written) in [("a", "a"), ("*.Build.example.org", "*.build.example.org"), ("B.example", "b.example")]
        {
            assert_eq!(text.parse::<ClientName>().map(|name| name.to_string()).as_deref(), Ok(written));
        }
        for text in ["", "*", "*.", "*.*.a", "a.*.b", "b*.a", "a.", "a b", ".a", "a/b", "192.0.2.1", "é.example"] {
            assert_eq!(text.parse::<ClientName>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let covers = |allowed: &str, name: &str| allowed.parse::<ClientName>().expect(allowed).covers(name);
        assert!(covers("a.example", "A.Example") && covers("a.example", "a.example."));
        assert!(!covers("a.example", "b.a.example") && !covers("a.example", "a.example.org"));
        assert!(covers("*.example", "a.example") && covers("*.example", "B.EXAMPLE"));
        for name in ["example", ".example", "a.b.example", "aexample", "a.example.org", "*.example"] {
            assert!(!covers("*.example", name), "{name}");
        }
    }

    /// A CA's certificate, and the file it is in, with a time of long ago.
    fn ca(path: &Path, name: &str) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem();
        put(path, &pem);
        pem
    }

    fn put(path: &Path, text: &str) {
        fs::write(path, text).expect("a file");
        age(path);
    }

    /// So that it is taken for one that nobody writes any more.
    fn age(path: &Path) {
        set_modified(path, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    }

    fn set_modified(path: &Path, time: SystemTime) {
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("a time");
    }

    fn open(path: &Path) -> CaFile {
        CaFile::open(ClientCertificates { required: true, ca_file: path.into(), names: Vec::new() }).expect("a CA").0
    }

    #[test]
    fn a_file_is_read_again_when_it_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        let first = ca(&path, "first");
        let mut file = open(&path);
        assert!(file.changed().is_none(), "the same text");
        // Under the same inode, size and time.
        put(&path, &"x".repeat(first.len()));
        assert!(file.changed().is_none() && file.told.is_some());
        let second = ca(&path, "second, longer");
        // Just now.
        fs::write(&path, &second).expect("a file");
        assert!(file.changed().is_some());
        assert_eq!(file.in_force, second.as_bytes());
        assert!(file.changed().is_none(), "the same text");
    }

    #[test]
    fn a_broken_file_changes_nothing_and_is_told_once_for_each_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        let good = ca(&path, "good");
        let mut file = open(&path);
        put(&path, "no PEM");
        assert!(file.changed().is_none());
        let first = file.told.clone().expect("it is told");
        assert!(first.contains("BEGIN CERTIFICATE"), "{first}");
        fs::remove_file(&path).expect("it is there");
        assert!(file.changed().is_none());
        let second = file.told.clone().expect("it is told");
        assert!(second.contains("cannot read"), "{second}");
        assert_eq!(file.in_force, good.as_bytes());
        put(&path, &good);
        assert!(file.changed().is_none() && file.told.is_none(), "the same as before, and in order");
    }

    #[test]
    fn a_device_is_refused() {
        let error = check_client_ca_file(Path::new("/dev/zero")).expect_err("it has no end").to_string();
        assert!(error.contains("a pipe or a device"), "{error}");
    }
}
