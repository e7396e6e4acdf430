//! A certificate with its key, and what a person and a schedule have to know of it.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::in_words;
use super::name::Name;
use super::provider;
use crate::clock::UnixSeconds;

/// A chain, its key, and what stands in its first certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What a handshake needs.
    pub key: Arc<CertifiedKey>,
    /// What stands in it.
    pub facts: Facts,
}

/// What stands in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is for: its subject alternative names. A common name counts for nothing, as with clients.
    pub names: Vec<Name>,
    /// Who signed it.
    pub issuer: String,
    /// Its number at the issuer, in hexadecimal digits.
    pub serial: String,
    /// The first second of its life.
    pub not_before: UnixSeconds,
    /// The last second of its life.
    pub not_after: UnixSeconds,
}

/// Why a chain and a key are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The key is another certificate's.
    #[error("the key is not that of the certificate")]
    Mismatch,
    /// The first certificate is none, or not one that can be read.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// The key is none that TLS can use.
    #[error("the key cannot be used: {0}")]
    Key(String),
}

impl Certificate {
    /// Puts a chain and its key together.
    ///
    /// # Errors
    /// Which of both is at fault.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Unfit> {
        let facts = chain.first().ok_or_else(|| Unfit::Certificate("there is none".to_owned()))?;
        let facts = Facts::read(facts)?;
        // Clients read all of them.
        for (n, certificate) in chain.iter().enumerate().skip(1) {
            parse(certificate).map_err(|why| Unfit::Certificate(format!("number {} of the chain: {why}", n + 1)))?;
        }
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Unfit::Mismatch,
            rustls::Error::InvalidCertificate(reason) => Unfit::Certificate(format!("{reason:?}")),
            other => Unfit::Key(other.to_string()),
        })?;
        Ok(Self { key: Arc::new(key), facts })
    }

    /// Reads a chain and its key from PEM text that has both, in whatever order.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn from_pem(text: &[u8]) -> Result<Self, Unfit> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let chain = chain.map_err(|error| Unfit::Certificate(in_words(&error)))?;
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| Unfit::Key(in_words(&error)))?;
        Self::new(chain, key)
    }

    /// Whether it is good for `name`.
    pub fn covers(&self, name: &Name) -> bool {
        self.facts.names.iter().any(|own| own.covers(name))
    }

    /// Whether it is one for elliptic curves, which costs both sides less than RSA.
    pub fn is_ecdsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::ECDSA
    }
}

impl Facts {
    /// Reads them.
    fn read(certificate: &CertificateDer<'_>) -> Result<Self, Unfit> {
        let parsed = parse(certificate).map_err(Unfit::Certificate)?;
        let seconds = |time: x509_parser::time::ASN1Time| UnixSeconds(u64::try_from(time.timestamp()).unwrap_or(0));
        let validity = parsed.validity();
        let names = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(Unfit::Certificate(error.to_string())),
        };
        Ok(Self {
            names,
            issuer: parsed.issuer().to_string(),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        })
    }

    /// Whether it is in force at `now`.
    pub fn in_force(&self, now: UnixSeconds) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Length of its life in seconds.
    pub fn lifetime(&self) -> u64 {
        self.not_after.0.saturating_sub(self.not_before.0)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("there is something behind it".to_owned()),
        Err(error) => Err(format!("it is damaged ({error})")),
    }
}

fn name(general: &GeneralName<'_>) -> Option<Name> {
    match general {
        GeneralName::DNSName(text) => text.parse().ok(),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(Name::Ip(IpAddr::from(v4))),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| Name::Ip(IpAddr::from(v6))),
        },
        _ => None,
    }
}

/// A moment as RFC 3339 writes it: `2026-11-23T02:00:00Z`.
pub fn date(moment: UnixSeconds) -> String {
    let moment = i64::try_from(moment.0).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| "after the year 9999".to_owned())
}
