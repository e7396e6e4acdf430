//! One order: from a name to a certificate (RFC 8555 section 7.4).
//!
//! ```text
//! account ─▶ order ─▶ challenge shown ─▶ ready ─▶ CSR sent ─▶ chain ─▶ looked at ─▶ kept
//! ```
//!
//! The order's URL and the certificate's key are kept before the first step, so that what a restart interrupts is gone on
//! with: a certificate that was signed meanwhile is fetched and not ordered again.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::account::{self, storage};
use super::failure::{Failure, kind, problem_text};
use super::http::Http;
use super::{Challenge, Options, hook};
use crate::clock::UnixSeconds;
use crate::metrics::CertificateFailure as Reason;
use crate::tls::Challenges;
use crate::tls::certificate::{Certificate, date};
use crate::tls::name::Name;
use crate::tls::vault::Vault;

/// How the CA is asked how far it is, and for how long.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(180));
/// A CA's clock may be ahead of ours by this much (seconds).
const CLOCK_SKEW: u64 = 60;

/// What an order needs besides the name.
pub(super) struct Desk<'a> {
    pub(super) options: &'a Options,
    pub(super) challenge: Challenge,
    pub(super) challenges: &'a Challenges,
    pub(super) vault: &'a Vault,
    pub(super) http: &'a Http,
}

/// An order that was made and not yet fulfilled.
struct Pending {
    url: String,
    key: KeyPair,
}

impl Desk<'_> {
    /// Gets a certificate for `name`, in place of `old`. `ordering` is called when an order is about to be made.
    pub(super) async fn obtain(
        &self,
        name: &Name,
        old: Option<&Certificate>,
        mut ordering: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Certificate, Failure> {
        let account = account::open(self.vault, self.options, self.http).await?;
        if let Some((order, key)) = self.resumed(&account, name).await? {
            let certificate = self.led(order, &key, name).await?;
            // One that was signed before and could not be written then is in force already, and due.
            if old.is_none_or(|old| old.facts.serial != certificate.facts.serial) {
                return Ok(certificate);
            }
            self.forget::<()>(&pending_file(name))?;
        }
        ordering()?;
        let (order, key) = self.begun(&account, name, old, ordering).await?;
        self.led(order, &key, name).await
    }

    /// Leads an order to its certificate, and keeps that.
    async fn led(&self, mut order: Order, key: &KeyPair, name: &Name) -> Result<Certificate, Failure> {
        let file = pending_file(name);
        let chain = match self.fulfil(&mut order, key, name).await {
            Ok(chain) => chain,
            Err(failure) if order.state().status == OrderStatus::Invalid => {
                self.forget::<()>(&file)?;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        };
        let text = Zeroizing::new(format!("{}{chain}", key.serialize_pem()));
        let certificate = match Self::looked_at(text.as_bytes(), name) {
            Ok(certificate) => certificate,
            Err(useless) => {
                self.forget::<()>(&file)?;
                return Err(useless);
            }
        };
        match self.vault.put(&self::file(name), text.as_bytes()) {
            Ok(()) => _ = self.forget::<()>(&file)?,
            // Signed is signed: it is in force as long as this process runs, and fetched again by the next one.
            Err(error) => {
                let path = self.vault.path(&self::file(name));
                tracing::error!(%name, "acme: {}: {error}; the certificate that came is in force, and not kept", path.display());
            }
        }
        Ok(certificate)
    }

    /// The order that was not finished, if the CA still has it and it can still come to something.
    async fn resumed(&self, account: &Account, name: &Name) -> Result<Option<(Order, KeyPair)>, Failure> {
        let file = pending_file(name);
        let kept = self.vault.get(&file).map_err(|error| storage(self.vault, &error))?.map(Zeroizing::new);
        let Some(pending) = kept.and_then(|kept| Pending::read(&kept)) else { return Ok(None) };
        match patiently!(account.order(pending.url.clone()).await) {
            Ok(mut order) => match order.state().status {
                OrderStatus::Invalid => self.forget(&file),
                _ => {
                    tracing::info!(%name, order = pending.url, "acme: going on with the order that was begun");
                    Ok(Some((order, pending.key)))
                }
            },
            Err(Error::Api(problem)) if !matches!(kind(&problem), "rateLimited" | "serverInternal") => {
                if kind(&problem) == "accountDoesNotExist" {
                    return Err(Failure::answered(&problem, "the order is not shown", self.http.heard()));
                }
                // It expired, and the CA forgot it.
                self.forget(&file)
            }
            Err(error) => Err(Failure::of(&error, "the order is not shown", self.http.heard())),
        }
    }

    fn forget<T>(&self, file: &str) -> Result<Option<T>, Failure> {
        self.vault.remove(file).map(|()| None).map_err(|error| storage(self.vault, &error))
    }

    /// A new order.
    async fn begun(
        &self,
        account: &Account,
        name: &Name,
        old: Option<&Certificate>,
        mut ordering: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(Order, KeyPair), Failure> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Failure::new(Reason::Internal, format!("no key could be made: {error}")))?;
        let identifiers = [match name {
            Name::Ip(ip) => Identifier::Ip(*ip),
            other => Identifier::Dns(other.to_string()),
        }];
        let new = || match &self.options.profile {
            Some(profile) => NewOrder::new(&identifiers).profile(profile),
            None => NewOrder::new(&identifiers),
        };
        // What is replaced is told where the CA has renewal windows (RFC 9773 section 5); an order that is refused for that
        // is made without.
        let replaced = old.and_then(|old| identifier(old.key.cert.first()?));
        let mut made = match replaced {
            Some(replaced) => patiently!(account.new_order(&new().replaces(replaced.clone())).await),
            None => patiently!(account.new_order(&new()).await),
        };
        let for_replacing = match &made {
            Err(Error::Unsupported(_)) => old.is_some(),
            // The library's own check, in words only.
            Err(Error::Other(why)) => why.to_string().starts_with("replaces field mismatch"),
            Err(Error::Api(problem)) => {
                old.is_some() && matches!(kind(problem), "alreadyReplaced" | "malformed" | "conflict")
            }
            _ => false,
        };
        if for_replacing {
            // What the library refused by itself the CA has not seen.
            if !matches!(made, Err(Error::Unsupported(_))) {
                ordering()?;
            }
            made = patiently!(account.new_order(&new()).await);
        }
        let order = made.map_err(|error| Failure::of(&error, "the order was not taken", self.http.heard()))?;
        let pending = Pending { url: order.url().to_owned(), key };
        let kept = self.vault.put(&pending_file(name), &pending.write());
        kept.map_err(|error| storage(self.vault, &error))?;
        tracing::info!(%name, order = pending.url, "acme: ordered a certificate, to be validated by {}", self.challenge);
        Ok((order, pending.key))
    }

    /// Leads an order to its chain (PEM).
    async fn fulfil(&self, order: &mut Order, key: &KeyPair, name: &Name) -> Result<String, Failure> {
        let failure = |error: Error, doing: &str| Failure::of(&error, doing, self.http.heard());
        if order.state().status == OrderStatus::Pending {
            self.validate(order, name).await?;
        }
        if order.state().status == OrderStatus::Ready {
            let csr = request(name, key).map_err(|error| Failure::new(Reason::Internal, error.to_string()))?;
            let sent = patiently!(order.finalize_csr(&csr).await);
            sent.map_err(|error| failure(error, "the CA refuses the certificate request"))?;
        }
        let chain = patiently!(order.poll_certificate(&POLL).await);
        chain.map_err(|error| failure(error, "the CA gives no certificate"))
    }

    /// Shows the CA that the name is ours.
    async fn validate(&self, order: &mut Order, name: &Name) -> Result<(), Failure> {
        let failure = |error: Error| Failure::of(&error, "the validation was not begun", self.http.heard());
        // The state is remembered in the order, so that the second call asks nobody.
        let known = patiently!(match order.authorizations().next().await {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        });
        known.map_err(failure)?;
        let mut authorizations = order.authorizations();
        let Some(Ok(mut authorization)) = authorizations.next().await else {
            return Err(Failure::new(Reason::Refused, "the CA's order has nothing to validate"));
        };
        if authorization.status == AuthorizationStatus::Valid {
            let ready = patiently!(order.poll_ready(&POLL).await);
            return ready.map(|_| ()).map_err(failure);
        }
        let offered: Vec<String> = authorization.challenges.iter().map(|offer| word(&offer.r#type)).collect();
        let Some(mut challenge) = authorization.challenge(self.challenge.kind()) else {
            let offered = offered.join(", ");
            let text =
                format!("the CA offers {offered} for {name}, and not {}; set tls.acme.challenge", self.challenge);
            return Err(Failure::new(Reason::Refused, text));
        };
        let proof = challenge.key_authorization();
        let shown = self.show(name, &challenge.token, &proof).await?;
        let begun = patiently!(challenge.set_ready().await).map_err(failure);
        let validated = match begun {
            Ok(()) => self.decided(order, name).await,
            Err(failure) => Err(failure),
        };
        shown.taken_back().await;
        validated
    }

    /// Waits for the CA's verdict.
    async fn decided(&self, order: &mut Order, name: &Name) -> Result<(), Failure> {
        match patiently!(order.poll_ready(&POLL).await) {
            Ok(OrderStatus::Invalid) | Err(Error::Api(_)) => Err(self.why_not(order, name).await),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::of(&error, "the CA does not validate", self.http.heard())),
        }
    }

    /// Why the CA could not validate the name: its own words.
    async fn why_not(&self, order: &mut Order, name: &Name) -> Failure {
        let told = patiently!(match order.authorizations().next().await {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(mut authorization)) => authorization.refresh().await.map(|state| {
                state.challenges.iter().find_map(|challenge| challenge.error.as_ref().map(problem_text))
            }),
        });
        let told = told.ok().flatten().unwrap_or_else(|| "the CA gives no reason".to_owned());
        let text =
            format!("the CA could not validate it by {}: {told}; {}", self.challenge, self.challenge.advice(name));
        Failure::new(Reason::Validation, text)
    }

    /// Makes the answer to a challenge visible, until it is taken back.
    async fn show(
        &self,
        name: &Name,
        token: &str,
        proof: &instant_acme::KeyAuthorization,
    ) -> Result<Shown<'_>, Failure> {
        match self.challenge {
            Challenge::Http01 => Ok(Shown::Here(self.challenges.answer_token(token, proof.as_str()))),
            Challenge::TlsAlpn01 => {
                let certificate = challenge_certificate(name, proof.digest().as_ref())
                    .map_err(|error| Failure::new(Reason::Internal, format!("no challenge certificate: {error}")))?;
                Ok(Shown::Here(self.challenges.show_certificate(&server_name(name), certificate)))
            }
            Challenge::Dns01 => {
                let Some(program) = self.options.dns_hook.as_deref() else {
                    return Err(Failure::new(Reason::Hook, "tls.acme.dns_hook is not set"));
                };
                let (record, value) = (record_name(name), proof.dns_value());
                hook::run(program, "add", &record, &value).await.map_err(|why| Failure::new(Reason::Hook, why))?;
                tokio::time::sleep(self.options.dns_wait.0).await;
                Ok(Shown::Dns { program, record, value })
            }
        }
    }

    /// Makes sure that what the CA sent can be served.
    fn looked_at(text: &[u8], name: &Name) -> Result<Certificate, Failure> {
        let unusable =
            |why: String| Failure::new(Reason::Unusable, format!("the CA's certificate is of no use: {why}"));
        let certificate = Certificate::from_pem(text).map_err(|why| unusable(why.to_string()))?;
        let (now, facts) = (UnixSeconds::now(), &certificate.facts);
        if !certificate.covers(name) {
            return Err(unusable(format!("it is not for {name}")));
        }
        if now > facts.not_after || facts.not_before > now.plus(CLOCK_SKEW) {
            let (from, to) = (date(facts.not_before), date(facts.not_after));
            return Err(unusable(format!("it is good from {from} to {to}; is this machine's clock right?")));
        }
        Ok(certificate)
    }
}

/// What was made visible for the CA.
enum Shown<'a> {
    Here(#[allow(dead_code)] crate::tls::challenges::Shown), // gone when it is dropped
    Dns { program: &'a std::path::Path, record: String, value: String },
}

impl Shown<'_> {
    async fn taken_back(self) {
        if let Self::Dns { program, record, value } = self
            && let Err(why) = hook::run(program, "remove", &record, &value).await
        {
            tracing::warn!("acme: a TXT record that nobody needs stays: {why}");
        }
    }
}

impl Pending {
    fn read(kept: &[u8]) -> Option<Self> {
        let kept: Value = serde_json::from_slice(kept).ok()?;
        let text = |key: &str| kept.get(key).and_then(Value::as_str);
        Some(Self { url: text("order")?.to_owned(), key: KeyPair::from_pem(text("key")?).ok()? })
    }

    fn write(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(json!({ "order": self.url, "key": self.key.serialize_pem() }).to_string().into_bytes())
    }
}

/// The file of a certificate and its key. No name has an `@`.
pub(super) fn file(name: &Name) -> String {
    format!("{}.pem", name.to_string().replace('*', "@"))
}

fn pending_file(name: &Name) -> String {
    format!("{}.order.json", name.to_string().replace('*', "@"))
}

/// How the CA calls a certificate (RFC 9773 section 4.1).
pub(super) fn identifier(certificate: &CertificateDer<'_>) -> Option<CertificateIdentifier<'static>> {
    CertificateIdentifier::try_from(certificate).ok().map(CertificateIdentifier::into_owned)
}

/// The record that dns-01 is about (RFC 8555 section 8.4).
fn record_name(name: &Name) -> String {
    match name {
        Name::Wildcard(base) => format!("_acme-challenge.{base}"),
        other => format!("_acme-challenge.{other}"),
    }
}

/// The server name the CA sends for tls-alpn-01: that of an IP address is its reverse name (RFC 8738 section 6).
fn server_name(name: &Name) -> String {
    match name {
        Name::Ip(std::net::IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Name::Ip(std::net::IpAddr::V6(ip)) => {
            let digits = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let labels: String = digits.map(|digit| format!("{digit:x}.")).collect();
            format!("{labels}ip6.arpa")
        }
        other => other.to_string(),
    }
}

/// The certificate that answers tls-alpn-01 (RFC 8737 section 3).
fn challenge_certificate(name: &Name, digest: &[u8]) -> Result<rustls::sign::CertifiedKey, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(vec![name.to_string()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = crate::tls::provider().key_provider.load_private_key(key.into())?;
    // Not `from_der`, which reads the certificate and refuses its critical extension.
    Ok(rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// The certificate request (RFC 8555 section 7.4), without a subject: the names are in the extension.
fn request(name: &Name, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_string()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn word(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::Unknown(word) => word.clone(),
        other => format!("{other:?}"),
    }
}
