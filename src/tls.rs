//! Certificates: where they come from and how a handshake finds the one in force.
//!
//! `files` or `self_signed` gives a [`CertifiedKey`]; [`Resolver`] holds it and can be given another one while
//! connections run; [`Acceptor`] makes of it what a listener needs, beside what a CA asks to see ([`Challenges`]) and whom
//! clients' certificates let in. The crypto provider is always
//! [`provider`], handed in explicitly: a process default could become ambiguous through a dependency.
//!
//! Out of scope: the handshake itself (see `edge`).

mod challenges;
mod clients;
mod files;
mod resolver;
mod self_signed;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;

pub use challenges::{ACME_TLS, Challenges, Shown};
pub use clients::{ClientAuth, ClientCertificates, ClientName, check_client_ca_file};
pub use resolver::Resolver;
pub use self_signed::{Origin, SelfSigned};
pub use server::{Acceptor, is_for_challenge};

use crate::clock::UnixSeconds;
use crate::options::Mistakes;

crate::options! {
    /// The certificate of the listeners with `tls = true`. With neither file given, a self-signed one is made and kept
    /// in the state directory.
    pub struct Options {
        /// Names and IP addresses clients use for this server. A self-signed certificate is made for them, besides
        /// `localhost`, `127.0.0.1` and `::1`.
        pub names: Vec<String> = Vec::new(),
        /// The certificate chain, PEM, the server's own certificate first.
        pub cert_file: Option<PathBuf> = None,
        /// The private key of the first certificate in `cert_file`, PEM (PKCS#8, PKCS#1 or SEC1).
        pub key_file: Option<PathBuf> = None,
    }
}

impl Options {
    /// Checks what one value alone cannot show; `at` is the table's place, such as `tls`.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => {
                mistakes.missing(&crate::options::key(at, "key_file"), "a path, because cert_file is set");
            }
            (None, Some(_)) => {
                mistakes.missing(&crate::options::key(at, "cert_file"), "a path, because key_file is set");
            }
            _ => {}
        }
        for (n, name) in self.names.iter().enumerate() {
            if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
                let key = format!("{}[{n}]", crate::options::key(at, "names"));
                mistakes.refuse(&key, &toml::Value::from(name.as_str()), "a DNS name or an IP address");
            }
        }
    }
}

impl Options {
    /// Loads the operator's files as [`load`] does, and tells what is wrong with them.
    ///
    /// Blocking: a few small files.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        let (Some(cert_file), Some(key_file)) = (&self.cert_file, &self.key_file) else { return };
        let mut tell = |name: &str, error: &Error| mistakes.say(&crate::options::key(at, name), &error.to_string());
        match (files::certificates(cert_file), files::private_key(key_file)) {
            (Ok(chain), Ok(key)) => {
                if let Err(error) = files::pair(chain, key, cert_file, key_file) {
                    let about_cert = matches!(&error, Error::Malformed { path, .. } if path == cert_file);
                    tell(if about_cert { "cert_file" } else { "key_file" }, &error);
                }
            }
            (cert, key) => {
                _ = cert.map_err(|error| tell("cert_file", &error));
                _ = key.map_err(|error| tell("key_file", &error));
            }
        }
    }
}

/// What went wrong with a certificate, told so that a person knows which file to look at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: cannot read the {what}: {source}")]
    Read {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file was read, but does not hold what it should.
    #[error("{path}: not a {what} in PEM form: {reason}")]
    Malformed {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is not that of the certificate.
    #[error("{key}: not the private key of the first certificate in {cert}")]
    Mismatch {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Only one of the two files was given.
    #[error("cert_file and key_file go together: only {0} is set")]
    Half(&'static str),
    /// A file could not be written.
    #[error("{path}: cannot write: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
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

/// The certificate to start with.
#[derive(Debug)]
pub struct Loaded {
    /// The chain and its key.
    pub key: CertifiedKey,
    /// Where the self-signed certificate's files are; `None` when the operator's files are used, and when the
    /// self-signed one could not be written.
    pub self_signed: Option<SelfSigned>,
}

/// Loads the certificate the options ask for; a self-signed one is kept below `state_dir`.
///
/// Blocking: a few small files.
///
/// # Errors
/// See [`Error`].
pub fn load(options: &Options, state_dir: &Path, now: UnixSeconds) -> Result<Loaded, Error> {
    match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => Ok(Loaded { key: files::load(cert, key)?, self_signed: None }),
        (None, None) => match self_signed::load_or_make(state_dir, &options.names, now) {
            Ok((key, kept)) => Ok(Loaded { key, self_signed: Some(kept) }),
            // A directory that cannot be written (full, read-only) must not keep a cache from serving.
            Err(error @ Error::Write { .. }) => {
                tracing::error!(
                    "{error}; HTTPS is served with a certificate that nobody has seen and that is gone at the next \
                     start: make the directory writable, or set tls.cert_file and tls.key_file"
                );
                Ok(Loaded { key: self_signed::passing(&options.names, now)?, self_signed: None })
            }
            Err(error) => Err(error),
        },
        (Some(_), None) => Err(Error::Half("cert_file")),
        (None, Some(_)) => Err(Error::Half("key_file")),
    }
}

/// The one crypto provider, for servers and clients: aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
