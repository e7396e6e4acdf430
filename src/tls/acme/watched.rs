//! One name: its certificate, what was tried, and what is due.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::failure::Failure;
use super::ledger::Ledger;
use super::schedule::{After, Window, renewal};
use super::{Standing, order};
use crate::clock::UnixSeconds;
use crate::metrics::CertificateFailure as Reason;
use crate::tls::certificate::Certificate;
use crate::tls::name::Name;
use crate::tls::vault::Vault;

/// The file of what was tried.
pub(super) const LEDGER: &str = "ledger.json";
/// The longest wait that a CA is believed to ask for, in seconds: its limits are by the week.
const LONGEST_WAIT: u64 = 8 * 86_400;

/// What can be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The CA is asked when it wants the certificate renewed.
    AskWindow,
    /// A certificate is ordered.
    Order,
}

/// A name that the CA signs for.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: Name,
    pub(super) certificate: Option<Certificate>,
    pub(super) ledger: Ledger,
    pub(super) window: Option<Window>,
    /// When the window is asked for again.
    ask: UnixSeconds,
    succeeded: Option<UnixSeconds>,
    error: Option<String>,
}

impl Watched {
    /// What is kept for `name`; nothing where it cannot be used.
    pub(super) fn load(name: &Name, vault: &Vault) -> Self {
        let path = vault.path(&order::file(name));
        let certificate = match vault.get(&order::file(name)) {
            Ok(None) => None,
            Ok(Some(text)) => Certificate::from_pem(&zeroize::Zeroizing::new(text))
                .inspect_err(|why| tracing::warn!("{}: {why}; ordering another certificate", path.display()))
                .ok()
                .filter(|certificate| certificate.covers(name)),
            Err(error) => {
                tracing::warn!("{}: {error}; ordering another certificate", path.display());
                None
            }
        };
        let kept = vault.get(LEDGER).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
        let kept = kept.as_ref().and_then(|kept: &Value| kept.get(name.to_string()));
        let latest = UnixSeconds::now().plus(LONGEST_WAIT);
        Self {
            name: name.clone(),
            succeeded: certificate.as_ref().map(|held| held.facts.not_before),
            certificate,
            ledger: kept.map(|kept| Ledger::read(kept, latest)).unwrap_or_default(),
            window: None,
            ask: UnixSeconds(0),
            error: None,
        }
    }

    /// What is due, and when.
    pub(super) fn due(&self, now: UnixSeconds) -> (UnixSeconds, Step) {
        let Some(held) = &self.certificate else { return (self.ledger.open_at(now, None), Step::Order) };
        let facts = &held.facts;
        let order = renewal(facts, self.window).max(self.ledger.open_at(now, Some(facts.lifetime())));
        // Of a certificate that is about to be renewed the window is of no use any more.
        if self.ask < order { (self.ask, Step::AskWindow) } else { (order, Step::Order) }
    }

    pub(super) fn told_window(&mut self, window: Option<Window>, again: UnixSeconds) {
        (self.window, self.ask) = (window, again);
    }

    /// Puts a certificate in force. Gives the time of its renewal, as far as it is known.
    pub(super) fn succeeded(&mut self, certificate: Certificate, now: UnixSeconds) -> UnixSeconds {
        self.ledger.succeeded();
        let next = renewal(&certificate.facts, None);
        self.certificate = Some(certificate);
        (self.window, self.ask, self.succeeded, self.error) = (None, UnixSeconds(0), Some(now), None);
        next
    }

    pub(super) fn failed(&mut self, failure: &Failure, now: UnixSeconds) {
        let after = match failure.reason {
            Reason::Unreachable => After::Silence,
            _ => After::Order,
        };
        let mut dice = [0];
        // Without random bytes the waits are merely even.
        let _ = aws_lc_rs::rand::fill(&mut dice);
        let lifetime = self.certificate.as_ref().map(|held| held.facts.lifetime());
        self.ledger.failed(now, after, lifetime, dice[0]);
        self.error = Some(failure.text.clone());
    }

    /// A person was here: the waits that are ours are over.
    pub(super) fn forgive(&mut self) {
        self.ledger.forgive();
        self.ask = UnixSeconds(0);
    }

    pub(super) fn standing(&self, now: UnixSeconds) -> Standing {
        let next = match &self.certificate {
            Some(held) => {
                let open = self.ledger.open_at(now, Some(held.facts.lifetime()));
                renewal(&held.facts, self.window).max(open)
            }
            None => self.ledger.open_at(now, None),
        };
        Standing {
            name: self.name.clone(),
            facts: self.certificate.as_ref().map(|held| held.facts.clone()),
            next,
            succeeded: self.succeeded,
            error: self.error.clone(),
        }
    }
}

/// The right to order, of one process for each state directory (R33).
#[derive(Debug)]
pub(super) struct Lease {
    _locked: File,
    path: PathBuf,
}

impl Lease {
    /// Takes it, unless another process has it.
    pub(super) fn take(vault: &Vault) -> Option<Self> {
        let path = vault.path("lock");
        let opened = vault.make().and_then(|()| File::options().create(true).append(true).mode(0o600).open(&path));
        match opened {
            Ok(file) => {
                flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Self { _locked: file, path })
            }
            Err(error) => {
                tracing::error!("{}: {error}; nothing is ordered until that is mended", path.display());
                None
            }
        }
    }

    /// Whether it is for this vault.
    pub(super) fn is_of(&self, vault: &Vault) -> bool {
        self.path == vault.path("lock")
    }
}
