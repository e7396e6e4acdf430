//! Certificates: where they come from, and which one a handshake gets.
//!
//! ```text
//! files ─▶ watch ───────┐
//! CA ────▶ acme ─▶ vault├─▶ certificates ─▶ resolver ─▶ handshakes
//! self_signed ──────────┘          │
//! CA's questions ─▶ challenges ◀───┘
//! ```
//!
//! [`Certificates`] is all of it; [`Acceptor`] makes of it what a listener needs. The crypto provider is always [`provider`],
//! handed in explicitly: a process default could become ambiguous through a dependency.
//!
//! Out of scope: sockets and HTTP (see `edge`).

pub mod acme;
pub mod certificate;
pub mod certificates;
mod challenges;
mod client;
mod clients;
mod files;
mod name;
mod resolver;
mod self_signed;
mod server;
#[cfg(test)]
mod testing;
mod vault;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificates::{Certificates, Source};
pub use challenges::{ACME_TLS, Challenges};
pub use client::{check_ca_file, client_config};
pub use clients::{ClientAuth, ClientCertificates, ClientName, check_client_ca_file, shown_names};
pub use files::Pair;
pub use name::Name;
pub use resolver::Resolver;
pub use self_signed::{Origin, SelfSigned};
pub use server::{Acceptor, is_for_challenge};

use crate::clock::UnixSeconds;
use crate::metrics::CertificateFailure as Reason;
use crate::options::{Mistakes, key};

crate::options! {
    /// The certificates of the listeners with `tls = true`: files, or a CA, or both. With neither, a self-signed one is made
    /// and kept in the state directory.
    pub struct Options {
        /// Names and IP addresses clients use for this server. A CA is asked for a certificate for each that no file is for. A
        /// self-signed certificate is made for them, besides `localhost`, `127.0.0.1` and `::1`.
        pub names: Vec<Name> = Vec::new(),
        /// The certificate chain, PEM, the server's own certificate first. Looked at once a second: what changes is in force
        /// without a restart, what is broken is told and the certificate before it stays.
        pub cert_file: Option<PathBuf> = None,
        /// The private key of the first certificate in `cert_file`, PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.
        pub key_file: Option<PathBuf> = None,
        /// More certificates: for other names, or of another kind (RSA beside ECDSA) for the same. Each client is shown the
        /// one that is for the name it asks for and that it can verify.
        pub certificate: Vec<Pair> = Vec::new(),
        /// A CA that signs by itself.
        pub acme: Option<acme::Options> = None,
    }
}

impl Options {
    /// Checks what one value alone cannot show; `at` is the table's place, such as `tls`; `has_plain`: a TCP listener has no
    /// TLS.
    pub fn check(&self, at: &str, has_plain: bool, mistakes: &mut Mistakes) {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => mistakes.missing(&key(at, "key_file"), "a path, because cert_file is set"),
            (None, Some(_)) => mistakes.missing(&key(at, "cert_file"), "a path, because key_file is set"),
            _ => {}
        }
        if let Some(acme) = &self.acme {
            if self.names.is_empty() {
                mistakes.missing(&key(at, "names"), "the names to get certificates for, because acme is set");
            }
            acme.check(&key(at, "acme"), &self.names, acme.way(has_plain), mistakes);
        }
    }

    /// Whether the operator says what certificate there is, or who signs it.
    pub fn are_given(&self) -> bool {
        self.cert_file.is_some() || !self.certificate.is_empty() || self.acme.is_some()
    }

    /// Loads the operator's files as [`Certificates::load`] does, and tells what is wrong with them.
    ///
    /// Blocking: a few small files.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        let now = UnixSeconds::now();
        let first = usize::from(self.cert_file.is_some() && self.key_file.is_some());
        let mut covered = Vec::new();
        let mut all_load = true;
        for (n, pair) in self.pairs().into_iter().enumerate() {
            let place = if n < first { at.to_owned() } else { format!("{}[{}]", key(at, "certificate"), n - first) };
            match pair.load(now) {
                Ok(certificate) => covered.push(certificate),
                Err(error) => {
                    all_load = false;
                    let about_key = error.path.as_ref() == Some(&pair.key_file);
                    mistakes.say(&key(&place, if about_key { "key_file" } else { "cert_file" }), &error.to_string());
                    // The other one may be wrong too.
                    if !about_key && let Err(error) = files::private_key(&pair.key_file) {
                        mistakes.say(&key(&place, "key_file"), &error.to_string());
                    }
                }
            }
        }
        if covered.is_empty() || !all_load || self.acme.is_some() {
            return;
        }
        for (n, name) in self.names.iter().enumerate() {
            if !covered.iter().any(|certificate| certificate.covers(name)) {
                let has = covered.iter().flat_map(|certificate| &certificate.facts.names);
                let accepted = format!("a name that one of the certificates is for; they are for {}", listed(has));
                mistakes.refuse(&format!("{}[{n}]", key(at, "names")), &format!("\"{name}\""), &accepted);
            }
        }
    }
}

/// What is wrong with a certificate, and which file to look at.
#[derive(Debug)]
pub struct Error {
    /// What is wrong.
    pub problem: Problem,
    /// The file or directory.
    pub path: Option<PathBuf>,
}

/// What can be wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file could not be read.
    #[error("cannot read the {what}: {source}")]
    Unreadable {
        /// What was expected in it.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file was read, but does not hold what it should.
    #[error("not a {what} in PEM form: {reason}")]
    Malformed {
        /// What was expected in it.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is in PEM form, and yet of no use.
    #[error("the {what} cannot be used: {reason}")]
    Unusable {
        /// What it is.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// The key is encrypted.
    #[error("the private key has a passphrase, which nobody is there to type; take it off with `openssl pkey`")]
    Passphrase,
    /// The key is not that of the certificate.
    #[error("not the private key of the first certificate in {}", .cert.display())]
    Mismatch {
        /// The certificate chain.
        cert: PathBuf,
    },
    /// Its life is over.
    #[error("the certificate expired at {}", certificate::date(*.0))]
    Expired(UnixSeconds),
    /// Its life has not begun.
    #[error("the certificate is not valid before {}; is this machine's clock right?", certificate::date(*.0))]
    NotYetValid(UnixSeconds),
    /// It is not for the names that clients use.
    #[error("the certificate is for {} and not for {}, which tls.names has", listed(.has), listed(.missing))]
    OtherNames {
        /// What it is for.
        has: Vec<Name>,
        /// What it ought to be for.
        missing: Vec<Name>,
    },
    /// A file could not be written.
    #[error("cannot write: {0}")]
    Write(io::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate for {names:?}: {source}")]
    Generate {
        /// What it was to be for.
        names: Vec<String>,
        /// Why not.
        source: rcgen::Error,
    },
    /// rustls refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl Error {
    pub(crate) fn new(problem: Problem, path: &Path) -> Self {
        Self { problem, path: Some(path.into()) }
    }

    /// The word for metric and log.
    pub fn reason(&self) -> Reason {
        match &self.problem {
            Problem::Unreadable { .. } => Reason::Unreadable,
            Problem::Malformed { .. } | Problem::Unusable { .. } => Reason::Malformed,
            Problem::Passphrase => Reason::Passphrase,
            Problem::Mismatch { .. } => Reason::Mismatch,
            Problem::Expired(_) => Reason::Expired,
            Problem::NotYetValid(_) => Reason::NotYetValid,
            Problem::OtherNames { .. } => Reason::OtherNames,
            Problem::Write(_) => Reason::Storage,
            Problem::Generate { .. } | Problem::Setup(_) => Reason::Internal,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problem, path: None }
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Problem::Setup(error).into()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.problem),
            None => self.problem.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// Names for a sentence.
fn listed<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

/// The one crypto provider, for servers and clients: aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A self-signed certificate for the tests of other rooms: what serves it, itself, and its CA's file.
#[cfg(test)]
pub fn for_tests(state_dir: &Path) -> (Arc<Resolver>, certificate::Certificate, PathBuf) {
    let metrics = crate::metrics::Metrics::default().certificates;
    let options = <Options as crate::options::Table>::from_toml("").expect("all options have defaults");
    let certificates = Certificates::load(&options, None, state_dir, metrics).expect("a certificate");
    let dir = state_dir.join("tls/self-signed");
    let pair = Pair { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
    (certificates.resolver(), pair.load(UnixSeconds::now()).expect("a pair"), dir.join("ca.pem"))
}

#[cfg(test)]
mod tests;
