//! Certificates from a CA by ACME (RFC 8555): ordered, kept, and renewed long before they end.
//!
//! One task, one order at a time. It looks which name is due first, by [`schedule`], and lets [`order`] get a certificate
//! for it; what fails is tried again later and later, within what [`ledger`] grants, and the certificate in force stays in
//! force through all of it (R33). Where the CA tells when it wants a certificate renewed (RFC 9773), that is asked for and
//! kept to.
//!
//! Everything is kept in `<state dir>/acme/<directory>/`, for us alone to read: `account.json`, a file for each name with
//! its key and chain, orders that are not finished, `ledger.json`. Of several processes with one state directory the one
//! that holds `lock` orders; the others take what it gets.
//!
//! Each name has a certificate of its own, so that a name that cannot be validated keeps no other from its certificate.
//!
//! Out of scope: which certificate a handshake gets (see `resolver`), and how a CA's questions reach us (see `challenges`
//! and `edge`).

/// Makes a call again, at once, as long as all that is wrong is the nonce (RFC 8555 section 6.5); servers refuse good ones
/// too, some on purpose. A macro, because the future of an asynchronous closure is not known to be `Send`.
macro_rules! patiently {
    ($call:expr) => {{
        let mut left = $crate::tls::acme::NONCES;
        loop {
            match $call {
                Err(error) if left > 0 && $crate::tls::acme::failure::is_bad_nonce(&error) => left -= 1,
                done => break done,
            }
        }
    }};
}

mod account;
mod failure;
mod hook;
mod http;
mod ledger;
mod options;
mod order;
mod schedule;
mod watched;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use instant_acme::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use options::{Challenge, Directory, Options};

use self::failure::Failure;
use self::http::Http;
use self::order::Desk;
use self::schedule::Window;
use self::watched::{Step, Watched};
use super::Challenges;
use super::certificate::{Certificate, date};
use super::name::Name;
use super::vault::Vault;
use crate::clock::UnixSeconds;
use crate::metrics::{CertificateFailure as Reason, CertificateMetrics};

/// Longest sleep: the wall clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often a process that does not order looks for what the other one got.
const FOLLOW: Duration = Duration::from_secs(5);
/// For one order, all waiting included.
const ORDER_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Attempts with another nonce.
const NONCES: u32 = 20;

/// The names that a CA signs for, and how far each is.
#[derive(Debug)]
pub(super) struct Acme {
    state: Mutex<State>,
    /// There is another configuration.
    changed: Notify,
    challenges: Challenges,
    metrics: CertificateMetrics,
}

#[derive(Debug, Default)]
struct State {
    setting: Option<Arc<Setting>>,
    names: Vec<Watched>,
}

/// What the configuration says.
#[derive(Debug, PartialEq)]
struct Setting {
    options: Options,
    challenge: Challenge,
    vault: Vault,
}

impl Acme {
    pub(super) fn new(challenges: Challenges, metrics: CertificateMetrics) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), challenges, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on gets certificates for `names`, and for no other. What is kept for them is in force at once.
    ///
    /// Blocking: reads what is kept.
    pub(super) fn configure(
        &self,
        options: Option<(&Options, Challenge)>,
        names: &[Name],
        state_dir: &std::path::Path,
    ) {
        let setting = options.map(|(options, challenge)| {
            let vault = Vault::new(state_dir.join("acme").join(options.directory.slug()));
            Arc::new(Setting { options: options.clone(), challenge, vault })
        });
        let is_same = |state: &State| match (&state.setting, &setting) {
            (Some(old), Some(new)) => old.vault == new.vault,
            _ => false,
        };
        let known: Vec<Name> = match &*self.state() {
            state if is_same(state) => state.names.iter().map(|watched| watched.name.clone()).collect(),
            _ => Vec::new(),
        };
        // Read before the lock is taken: others ask for certificates meanwhile.
        let load = |setting: &Arc<Setting>| -> Vec<Watched> {
            let unknown = names.iter().filter(|name| !known.contains(name));
            unknown.map(|name| Watched::load(name, &setting.vault)).collect()
        };
        let mut all = setting.as_ref().map(load).unwrap_or_default();
        let mut state = self.state();
        let before = std::mem::take(&mut state.names);
        if is_same(&state) {
            all.extend(before);
        }
        for name in names.iter().filter(|_| setting.is_some()) {
            if let Some(place) = all.iter().position(|watched| watched.name == *name) {
                let mut watched = all.swap_remove(place);
                watched.forgive();
                state.names.push(watched);
            }
        }
        state.setting = setting;
        self.changed.notify_one();
    }

    /// What is in force, in the order of the names.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        self.state().names.iter().filter_map(|watched| watched.certificate.clone()).collect()
    }

    /// The names without a certificate.
    pub(super) fn without(&self) -> Vec<Name> {
        let state = self.state();
        state.names.iter().filter(|watched| watched.certificate.is_none()).map(|watched| watched.name.clone()).collect()
    }

    /// How each name stands.
    pub(super) fn overview(&self) -> Vec<Standing> {
        let now = UnixSeconds::now();
        self.state().names.iter().map(|watched| watched.standing(now)).collect()
    }

    /// Orders and renews until `stop`; `publish` is called when there is another certificate.
    pub(super) async fn run(&self, stop: &CancellationToken, publish: &(dyn Fn() + Sync)) {
        let mut lease = None;
        loop {
            let Some(setting) = self.state().setting.clone() else {
                match stop.run_until_cancelled(self.changed.notified()).await {
                    Some(()) => continue,
                    None => return,
                }
            };
            let held = lease.as_ref().is_some_and(|lease: &watched::Lease| lease.is_of(&setting.vault));
            if !held {
                lease = watched::Lease::take(&setting.vault).unwrap_or_else(|why| {
                    self.cannot_keep(&why);
                    None
                });
                if lease.is_some() {
                    // Another process may have ordered, and spent what is granted, until a moment ago.
                    self.follow(&setting, publish);
                }
            }
            let pause = match &lease {
                Some(_) => match stop.run_until_cancelled(self.step(&setting, publish)).await {
                    Some(pause) => pause,
                    None => return,
                },
                None => {
                    self.follow(&setting, publish);
                    FOLLOW
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is due, and says when to look again.
    async fn step(&self, setting: &Setting, publish: &(dyn Fn() + Sync)) -> Duration {
        let now = UnixSeconds::now();
        let next = self.state().names.iter().map(|watched| (watched.due(now), watched.name.clone())).min();
        let Some(((at, step), name)) = next else { return LOOK_AGAIN };
        self.tell_who_is_held_back(now);
        if at > now {
            return Duration::from_secs(at.0 - now.0).min(LOOK_AGAIN);
        }
        // Made for each step: the CA's file may have changed.
        let ca_file = setting.options.ca_file.clone();
        let http = tokio::task::spawn_blocking(move || Http::new(ca_file.as_deref())).await;
        let http = http.unwrap_or_else(|died| Err(died.to_string()));
        match (step, http) {
            (_, Err(why)) => self.failed(setting, &name, &Failure::new(Reason::Unreachable, why)),
            (Step::Order, Ok(http)) => self.order(setting, &name, &http, publish).await,
            (Step::AskWindow, Ok(http)) => self.ask_window(setting, &name, &http).await,
        }
        Duration::ZERO
    }

    /// Tells and counts, once, that a name waits for room among the orders of an hour.
    fn tell_who_is_held_back(&self, now: UnixSeconds) {
        for watched in &mut self.state().names {
            if let Some(until) = watched.newly_held_back(now) {
                let until = date(until);
                let text = format!("the orders of an hour are used up; the next is made {until}");
                tracing::error!(name = %watched.name, reason = %Reason::HeldBack, "acme: no certificate: {text}");
                self.metrics.failures.of(Reason::HeldBack).inc();
                // What went wrong before says more.
                watched.error.get_or_insert(text);
            }
        }
    }

    /// The state directory cannot be written: told and counted once.
    fn cannot_keep(&self, why: &str) {
        let mut state = self.state();
        if state.names.iter().all(|watched| watched.error.as_deref() == Some(why)) {
            return;
        }
        tracing::error!(reason = %Reason::Storage, "acme: {why}");
        self.metrics.failures.of(Reason::Storage).inc();
        for watched in &mut state.names {
            watched.error = Some(why.to_owned());
        }
    }

    /// Whether what belongs to `setting` is still wanted: the CA may have been changed meanwhile.
    fn is_wanted(&self, setting: &Setting) -> bool {
        self.state().setting.as_ref().is_some_and(|current| current.vault == setting.vault)
    }

    /// Gets a certificate for a name.
    async fn order(&self, setting: &Setting, name: &Name, http: &Http, publish: &(dyn Fn() + Sync)) {
        let old = self.of(name, |watched| watched.certificate.clone()).flatten();
        if old.is_none() {
            let directory = &setting.options.directory;
            tracing::info!(%name, "acme: no certificate yet: clients are shown a self-signed one until {directory} has signed");
        }
        let (challenges, vault) = (&self.challenges, &setting.vault);
        let desk = Desk { options: &setting.options, challenge: setting.challenge, challenges, vault, http };
        let ordering = || {
            self.of(name, |watched| watched.ledger.ordered(UnixSeconds::now()));
            self.keep_ledger(setting).map_err(|error| account::storage(vault, &error))
        };
        let obtained = tokio::time::timeout(ORDER_LIMIT, desk.obtain(name, old.as_ref(), ordering)).await;
        let obtained = obtained.unwrap_or_else(|_| {
            Err(Failure::new(Reason::Unreachable, format!("nothing came of it in {} min", ORDER_LIMIT.as_secs() / 60)))
        });
        if !self.is_wanted(setting) {
            tracing::info!(%name, "acme: the CA was changed while it was asked; what it said is for the next time");
            return;
        }
        match obtained {
            Err(failure) => self.failed(setting, name, &failure),
            Ok(certificate) => {
                let now = UnixSeconds::now();
                let until = date(certificate.facts.not_after);
                let next = self.of(name, |watched| watched.succeeded(certificate, now));
                publish();
                if let Err(error) = self.keep_ledger(setting) {
                    tracing::warn!(%error, "acme: what was ordered cannot be noted");
                }
                let next = next.map(date).unwrap_or_default();
                tracing::info!(%name, "acme: the certificate is in force, good until {until}, to be renewed {next}");
            }
        }
    }

    /// Asks the CA when it wants a certificate renewed. That it does not say is no failure: then two thirds of the life count.
    async fn ask_window(&self, setting: &Setting, name: &Name, http: &Http) {
        const AT_MOST_EACH_SECOND: Duration = Duration::from_secs(1);
        const AT_LEAST_DAILY: Duration = Duration::from_secs(86_400);
        const AFTER_A_FAILURE: Duration = Duration::from_secs(6 * 3600);
        let certificate = self.of(name, |watched| watched.certificate.clone()).flatten();
        let id = certificate.as_ref().and_then(|held| order::identifier(held.key.cert.first()?));
        let asked = async {
            let account =
                account::open(&setting.vault, &setting.options, http).await.map_err(|failure| failure.text)?;
            let Some(id) = &id else { return Ok(None) };
            match patiently!(account.renewal_info(id).await) {
                Ok(told) => Ok(Some(told)),
                Err(Error::Unsupported(_)) => Ok(None),
                Err(error) => Err(Failure::of(&error, "no renewal window", None).text),
            }
        };
        let (window, again) = match asked.await {
            Ok(Some((info, again))) => {
                let seconds = |at: time::OffsetDateTime| UnixSeconds(u64::try_from(at.unix_timestamp()).unwrap_or(0));
                let window = &info.suggested_window;
                let window = Window { start: seconds(window.start), end: seconds(window.end) };
                let fresh = self.of(name, |watched| watched.window != Some(window)).unwrap_or_default();
                if fresh {
                    let (from, to) = (date(window.start), date(window.end));
                    let why = info.explanation_url.map(|url| format!(" ({url})")).unwrap_or_default();
                    tracing::info!(%name, "acme: the CA wants it renewed between {from} and {to}{why}");
                }
                (Some(window), again.clamp(AT_MOST_EACH_SECOND, AT_LEAST_DAILY))
            }
            Ok(None) => (None, AT_LEAST_DAILY),
            Err(why) => {
                tracing::debug!(%name, why, "acme: no renewal window");
                (self.of(name, |watched| watched.window).flatten(), AFTER_A_FAILURE)
            }
        };
        self.of(name, |watched| watched.told_window(window, not_before(UnixSeconds::now(), again)));
    }

    /// Counts and tells a failure, and sets the wait.
    fn failed(&self, setting: &Setting, name: &Name, failure: &Failure) {
        let now = UnixSeconds::now();
        self.metrics.failures.of(failure.reason).inc();
        if failure.account_is_gone {
            match account::put_away(&setting.vault) {
                Ok(()) => {
                    tracing::warn!("acme: the CA does not know our account; making another one: {}", failure.text);
                    return;
                }
                Err(storage) => tracing::error!("acme: {}", storage.text),
            }
        }
        // What is about the account is about all of its names.
        let for_all = failure.reason == Reason::RateLimited;
        let mut state = self.state();
        let told = failure.wait.map(|wait| not_before(now, wait));
        for watched in state.names.iter_mut().filter(|watched| for_all || watched.name == *name) {
            if let Some(told) = told {
                watched.ledger.told_to_wait(told);
            }
        }
        let failed = state.names.iter_mut().find(|watched| watched.name == *name);
        let standing = failed.map(|watched| {
            watched.failed(failure, now);
            (date(watched.due(now).0), watched.certificate.as_ref().map(|held| date(held.facts.not_after)))
        });
        drop(state);
        if let Some((next, until)) = standing {
            let meanwhile = match until {
                Some(until) => format!("the certificate there is stays in force until {until}"),
                None => "a self-signed certificate is shown meanwhile".to_owned(),
            };
            tracing::error!(%name, reason = %failure.reason, "acme: no certificate: {}; next try {next}; {meanwhile}", failure.text);
        }
        if let Err(error) = self.keep_ledger(setting) {
            tracing::warn!(%error, "acme: what was ordered cannot be noted");
        }
    }

    /// Takes what another process got.
    fn follow(&self, setting: &Setting, publish: &(dyn Fn() + Sync)) {
        let names: Vec<Name> = self.state().names.iter().map(|watched| watched.name.clone()).collect();
        let mut fresh = false;
        for name in names {
            let Watched { certificate: kept, ledger, .. } = Watched::load(&name, &setting.vault);
            self.of(&name, |watched| {
                watched.ledger = ledger;
                let serial = |held: &Option<Certificate>| held.as_ref().map(|held| held.facts.serial.clone());
                if kept.is_some() && serial(&kept) != serial(&watched.certificate) {
                    watched.certificate = kept;
                    fresh = true;
                }
            });
        }
        if fresh {
            tracing::info!("acme: took certificates that another process with this state directory got");
            publish();
        }
    }

    /// Does something with a name, if it is still wanted.
    fn of<T>(&self, name: &Name, work: impl FnOnce(&mut Watched) -> T) -> Option<T> {
        self.state().names.iter_mut().find(|watched| watched.name == *name).map(work)
    }

    /// Notes what was ordered; of names that are not wanted now too, which may be wanted again within the hour.
    fn keep_ledger(&self, setting: &Setting) -> std::io::Result<()> {
        if !self.is_wanted(setting) {
            return Ok(());
        }
        let mut kept = watched::ledgers(&setting.vault, UnixSeconds::now());
        for watched in &self.state().names {
            kept.insert(watched.name.to_string(), watched.ledger.write());
        }
        setting.vault.put(watched::LEDGER, serde_json::Value::Object(kept).to_string().as_bytes())
    }
}

/// The first whole second that is no less than `wait` away: both ends are cut to seconds, and what a CA asks for is a least.
fn not_before(now: UnixSeconds, wait: Duration) -> UnixSeconds {
    now.plus(wait.as_secs() + u64::from(wait.subsec_nanos() > 0) + 1)
}

/// How a name stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The name.
    pub name: Name,
    /// Its certificate.
    pub facts: Option<super::certificate::Facts>,
    /// When the next order is made.
    pub next: UnixSeconds,
    /// When its certificate was had: by this process, or when its life began.
    pub succeeded: Option<UnixSeconds>,
    /// What kept it from one since.
    pub error: Option<String>,
}
