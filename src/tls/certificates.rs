//! All certificates of the server while it runs: those of the operator's files, those of a CA, and a self-signed one where
//! there is no other.
//!
//! [`Certificates::load`] has the port answer from the first moment; [`Certificates::run`] then watches the files and lets
//! [`acme`](super::acme) order and renew; [`Certificates::reload`] takes another configuration. Whatever changes, the
//! [`Resolver`] is given a new shelf in one step, and connections that exist notice nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::acme::{Acme, Challenge};
use super::certificate::{Certificate, Facts};
use super::files::Pair;
use super::name::Name;
use super::watch::{Look, Looked, Wanted, Watched};
use super::{Challenges, Error, Options, Resolver, SelfSigned, self_signed};
use crate::clock::UnixSeconds;
use crate::metrics::CertificateMetrics;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A step of the wall clock that is worth a line, in seconds (R32).
const JUMP: u64 = 60;

/// The certificates of a server. Clones are the same.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    resolver: Arc<Resolver>,
    challenges: Challenges,
    acme: Acme,
    state_dir: PathBuf,
    shelf: Mutex<Shelf>,
    metrics: CertificateMetrics,
}

/// What does not come from a CA.
#[derive(Debug)]
struct Shelf {
    options: Options,
    challenge: Option<Challenge>,
    files: Vec<Watched>,
    self_signed: Option<(Certificate, Option<SelfSigned>)>,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The operator's files.
    File,
    /// A CA, by ACME.
    Acme,
    /// Made here.
    SelfSigned,
}

/// A certificate, for the operator's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The names it is for; the one that is wanted, where there is no certificate yet.
    pub names: Vec<Name>,
    /// Where it comes from.
    pub source: Source,
    /// The file it is read from.
    pub file: Option<PathBuf>,
    /// What stands in it; `None` where there is none yet.
    pub facts: Option<Facts>,
    /// When it is renewed; `None` where that is not our business.
    pub next: Option<UnixSeconds>,
    /// When this process put it in force, or when its life began, of one that was there already.
    pub succeeded: Option<UnixSeconds>,
    /// What went wrong since.
    pub error: Option<String>,
}

impl Certificates {
    /// Loads what there is; a self-signed certificate is kept below `state_dir`. `challenge`: how a CA is shown that a name
    /// is ours.
    ///
    /// Blocking: small files.
    ///
    /// # Errors
    /// A pair of files cannot be served, or no self-signed certificate can be made.
    pub fn load(
        options: &Options,
        challenge: Option<Challenge>,
        state_dir: &Path,
        metrics: CertificateMetrics,
    ) -> Result<Self, Error> {
        let now = UnixSeconds::now();
        let files = options.pairs().into_iter().map(|pair| Watched::load(pair, now)).collect::<Result<Vec<_>, _>>()?;
        let challenges = Challenges::default();
        let acme = Acme::new(challenges.clone(), metrics.clone());
        let shelf = Shelf { options: options.clone(), challenge, files, self_signed: None };
        let inner = Inner {
            resolver: Arc::default(),
            challenges,
            acme,
            state_dir: state_dir.into(),
            shelf: Mutex::new(shelf),
            metrics,
        };
        let certificates = Self(Arc::new(inner));
        certificates.0.order();
        certificates.0.fill_in(now)?;
        certificates.0.publish();
        Ok(certificates)
    }

    /// What handshakes ask.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.0.resolver)
    }

    /// What a CA asks to see.
    pub fn challenges(&self) -> Challenges {
        self.0.challenges.clone()
    }

    /// Where the kept self-signed certificate is, while that is the one clients have to trust.
    pub fn self_signed(&self) -> Option<SelfSigned> {
        self.0.shelf().self_signed.as_ref().and_then(|(_, kept)| kept.clone())
    }

    /// Takes another configuration, and reads all files again. What cannot be loaded leaves what there is in force.
    ///
    /// Blocking: small files.
    pub fn reload(&self, options: &Options, challenge: Option<Challenge>) {
        let now = UnixSeconds::now();
        self.0.take(options, challenge, now);
        self.0.order();
        self.0.renew_shelf(now);
    }

    /// Watches files, orders and renews, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.0;
        let publish = || inner.renew_shelf(UnixSeconds::now());
        tokio::join!(inner.acme.run(&stop, &publish), self.watch(&stop));
    }

    async fn watch(&self, stop: &CancellationToken) {
        let (mut clock, mut monotonic) = (UnixSeconds::now(), tokio::time::Instant::now());
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let (now, passed) = (UnixSeconds::now(), monotonic.elapsed().as_secs());
            if now.0.abs_diff(clock.plus(passed).0) > JUMP {
                tracing::warn!(
                    "the wall clock jumped by more than {JUMP} s: what certificates are in force may change"
                );
                (clock, monotonic) = (now, tokio::time::Instant::now());
            }
            let inner = Arc::clone(&self.0);
            let looked = tokio::task::spawn_blocking(move || {
                if inner.look(now, false) {
                    // They may be for other names than before.
                    inner.order();
                    inner.renew_shelf(now);
                }
            });
            // A file system that hangs must not hold up the end.
            if let Some(Err(error)) = stop.run_until_cancelled(looked).await {
                tracing::error!(%error, "the certificates' files could not be looked at");
            }
        }
    }

    /// Every certificate, for the operator's view.
    pub fn overview(&self) -> Vec<Shown> {
        let shelf = self.0.shelf();
        let files = shelf.files.iter().map(|watched| Shown {
            names: watched.certificate.as_ref().map(|held| held.facts.names.clone()).unwrap_or_default(),
            source: Source::File,
            file: Some(watched.pair.cert_file.clone()),
            facts: watched.certificate.as_ref().map(|held| held.facts.clone()),
            next: None,
            succeeded: watched.replaced,
            error: watched.error.clone(),
        });
        let ordered = self.0.acme.overview().into_iter().map(|standing| Shown {
            names: vec![standing.name],
            source: Source::Acme,
            file: None,
            facts: standing.facts,
            next: Some(standing.next),
            succeeded: standing.succeeded,
            error: standing.error,
        });
        let own = shelf.self_signed.iter().map(|(certificate, _)| Shown {
            names: certificate.facts.names.clone(),
            source: Source::SelfSigned,
            file: None,
            facts: Some(certificate.facts.clone()),
            next: None,
            succeeded: None,
            error: None,
        });
        files.chain(ordered).chain(own).collect()
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        self.0.metrics.certificates.measure(
            UnixSeconds::now(),
            self.overview().iter().flat_map(|shown| {
                let not_after = shown.facts.as_ref().map(|facts| facts.not_after);
                shown.names.iter().map(move |name| (name.to_string(), not_after, shown.succeeded))
            }),
        );
    }
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds another configuration's pairs against the files.
    fn take(&self, options: &Options, challenge: Option<Challenge>, now: UnixSeconds) {
        let is_known = |pair: &Pair| self.shelf().files.iter().any(|watched| watched.pair == *pair);
        let unknown: Vec<Pair> = options.pairs().into_iter().filter(|pair| !is_known(pair)).collect();
        let loaded = unknown.into_iter().filter_map(|pair| match Watched::load(pair, now) {
            Ok(watched) => Some(watched),
            Err(error) => {
                self.metrics.failures.of(error.reason()).inc();
                tracing::error!(reason = %error.reason(), "{error}");
                None
            }
        });
        // Read before the lock is taken: others ask for certificates meanwhile.
        let mut loaded: Vec<Watched> = loaded.collect();
        let mut shelf = self.shelf();
        loaded.append(&mut shelf.files);
        for pair in options.pairs() {
            if let Some(place) = loaded.iter().position(|watched| watched.pair == pair) {
                shelf.files.push(loaded.swap_remove(place));
            }
        }
        (shelf.options, shelf.challenge) = (options.clone(), challenge);
        drop(shelf);
        self.look(now, true);
    }

    /// Looks at the files; says whether there is another certificate.
    fn look(&self, now: UnixSeconds, urgent: bool) -> bool {
        let looks: Vec<Look> = self.shelf().files.iter().map(Watched::to_look).collect();
        // As above.
        let looked: Vec<Looked> = looks.into_iter().filter_map(|look| look.look(now)).collect();
        let shelf = &mut *self.shelf();
        let wanted = Wanted { names: &shelf.options.names, others_are_ordered: shelf.options.acme.is_some() };
        let mut fresh = false;
        for looked in looked {
            if let Some(watched) = shelf.files.iter_mut().find(|watched| watched.pair == looked.pair) {
                fresh |= watched.judge(looked, wanted, now, urgent, &self.metrics);
            }
        }
        fresh
    }

    /// Has the CA sign for what no file is for.
    fn order(&self) {
        let shelf = self.shelf();
        let uncovered = |name: &&Name| {
            !shelf.files.iter().filter_map(|pair| pair.certificate.as_ref()).any(|held| held.covers(name))
        };
        let mut names: Vec<Name> = Vec::new();
        for name in shelf.options.names.iter().filter(uncovered) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        self.acme.configure(shelf.options.acme.as_ref().zip(shelf.challenge), &names, &self.state_dir);
    }

    /// Makes a self-signed certificate where there is no other: the one that is kept where that is all there will be, a
    /// passing one until the CA has signed.
    fn fill_in(&self, now: UnixSeconds) -> Result<(), Error> {
        let mut shelf = self.shelf();
        let missing = self.acme.without();
        let names = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
        shelf.self_signed = if !shelf.files.is_empty() || shelf.options.acme.is_some() {
            let covers_all = |held: &(Certificate, _)| missing.iter().all(|name| held.0.covers(name));
            match shelf.self_signed.take().filter(|(_, kept)| kept.is_none()).filter(covers_all) {
                _ if missing.is_empty() => None,
                Some(there) => Some(there),
                None => Some((self_signed::passing(&names(&missing), now)?, None)),
            }
        } else {
            Some(self_signed::kept_or_passing(&self.state_dir, &names(&shelf.options.names), now)?)
        };
        Ok(())
    }

    /// Puts what there is now in force.
    fn renew_shelf(&self, now: UnixSeconds) {
        if let Err(error) = self.fill_in(now) {
            tracing::error!("{error}");
        }
        self.publish();
    }

    fn publish(&self) {
        let shelf = self.shelf();
        let files = shelf.files.iter().filter_map(|pair| pair.certificate.clone());
        let certificates = files.chain(self.acme.certificates()).collect();
        self.resolver.replace(certificates, shelf.self_signed.as_ref().map(|(certificate, _)| certificate.clone()));
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Acme => "acme",
            Self::SelfSigned => "self-signed",
        })
    }
}

impl Options {
    /// The pairs of files, the first one's two keys included.
    pub(super) fn pairs(&self) -> Vec<Pair> {
        let first = self.cert_file.clone().zip(self.key_file.clone());
        let first = first.map(|(cert_file, key_file)| Pair { cert_file, key_file });
        first.into_iter().chain(self.certificate.iter().cloned()).collect()
    }
}
