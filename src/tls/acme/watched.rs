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

/// What is noted of each name, as far as it matters still.
pub(super) fn ledgers(vault: &Vault, now: UnixSeconds) -> serde_json::Map<String, Value> {
    let kept = vault.get(LEDGER).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
    let mut kept: serde_json::Map<String, Value> = kept.unwrap_or_default();
    kept.retain(|_, kept| !Ledger::read(kept, now.plus(LONGEST_WAIT)).is_over(now));
    kept
}

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
    pub(super) error: Option<String>,
    /// Until when it was told that no order is made, because there were so many.
    held_back: UnixSeconds,
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
        let now = UnixSeconds::now();
        let ledger = ledgers(vault, now).get(&name.to_string()).map(|kept| Ledger::read(kept, now.plus(LONGEST_WAIT)));
        Self {
            name: name.clone(),
            succeeded: certificate.as_ref().map(|held| held.facts.not_before),
            certificate,
            ledger: ledger.unwrap_or_default(),
            window: None,
            ask: UnixSeconds(0),
            error: None,
            held_back: UnixSeconds(0),
        }
    }

    /// Until when a renewal that is due waits because the orders of the last hour are used up; told once.
    pub(super) fn newly_held_back(&mut self, now: UnixSeconds) -> Option<UnixSeconds> {
        let lifetime = self.certificate.as_ref().map(|held| held.facts.lifetime());
        let is_due = self.certificate.as_ref().is_none_or(|held| renewal(&held.facts, self.window) <= now);
        let until = Some(self.ledger.granted_at(now, lifetime)).filter(|until| is_due && *until > now)?;
        (std::mem::replace(&mut self.held_back, until) != until).then_some(until)
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
        let next = next.max(now);
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
    pub(super) fn take(vault: &Vault) -> Result<Option<Self>, String> {
        let path = vault.path("lock");
        let opened = vault.make().and_then(|()| File::options().create(true).append(true).mode(0o600).open(&path));
        match opened {
            Ok(file) => {
                let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
                Ok(locked.ok().map(|()| Self { _locked: file, path }))
            }
            Err(error) => Err(format!("{}: {error}; nothing is ordered until that is mended", path.display())),
        }
    }

    /// Whether it is for this vault.
    pub(super) fn is_of(&self, vault: &Vault) -> bool {
        self.path == vault.path("lock")
    }
}
