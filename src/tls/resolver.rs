//! The certificates in force, and which of them a handshake gets.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::name::Name;
use crate::clock::UnixSeconds;

/// Hands every handshake the best of the certificates in force; replacing them disturbs no running connection.
#[derive(Debug, Default)]
pub struct Resolver(ArcSwap<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    /// In the order of preference among equals: the operator's files, then what a CA signed.
    certificates: Vec<Certificate>,
    /// The self-signed one, for names that have no other.
    last_resort: Option<Certificate>,
}

impl Resolver {
    /// Puts these in force for all handshakes from now on; `last_resort` only where none of `certificates` is for the name.
    pub fn replace(&self, certificates: Vec<Certificate>, last_resort: Option<Certificate>) {
        self.0.store(Arc::new(Shelf { certificates, last_resort }));
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| name.parse().ok());
        let shelf = self.0.load();
        let found = shelf.best(asked.as_ref(), hello.signature_schemes(), UnixSeconds::now());
        found.map(|certificate| Arc::clone(&certificate.key))
    }
}

impl Shelf {
    /// The certificate for a client that asks for `asked` and can verify `schemes`. A client that asks for a name that is not
    /// known, or for none, is shown what there is, and judges.
    fn best(&self, asked: Option<&Name>, schemes: &[SignatureScheme], now: UnixSeconds) -> Option<&Certificate> {
        let found = best(&self.certificates, asked, schemes, now);
        let is_for = |certificate: &&Certificate| asked.is_some_and(|name| certificate.covers(name));
        let last_resort = self.last_resort.as_ref();
        found.filter(is_for).or(last_resort.filter(is_for)).or(found).or(last_resort)
    }
}

/// One that is for the name comes before one that is not. Then one that the client can verify, one in force, one that has the
/// name itself and not only by a wildcard, one for elliptic curves.
fn best<'a>(
    shelf: &'a [Certificate],
    asked: Option<&Name>,
    schemes: &[SignatureScheme],
    now: UnixSeconds,
) -> Option<&'a Certificate> {
    let rank = |certificate: &Certificate| {
        (
            asked.is_some_and(|name| certificate.covers(name)),
            certificate.key.key.choose_scheme(schemes).is_some(),
            certificate.facts.in_force(now),
            asked.is_some_and(|name| certificate.facts.names.contains(name)),
        )
    };
    // Among equals the last one wins, hence the reverse.
    shelf.iter().rev().max_by_key(|certificate| (rank(certificate), certificate.is_ecdsa()))
}

#[cfg(test)]
mod tests;
