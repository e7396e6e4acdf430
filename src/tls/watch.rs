//! The operator's files, looked at again and again: what changes is in force without a restart, what is broken is not.
//!
//! A look is a few calls of stat(2), once a second. Files are read when something about them changed: the inode behind
//! symbolic links too, which is what changes where Kubernetes or a secrets manager swaps a link. A pair that does not load
//! is looked at once more before it is told: the two files of a pair are not replaced in one step.

use std::path::Path;

use super::certificate::{Certificate, date};
use super::files::Pair;
use super::name::Name;
use super::{Error, Problem};
use crate::clock::UnixSeconds;
use crate::file::Stamp;
use crate::metrics::CertificateMetrics;

/// Both files; `None` for one that is not there.
type Stamps = [Option<Stamp>; 2];

/// A pair of files and the certificate that was in them when they last made sense.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pair: Pair,
    pub(super) certificate: Option<Certificate>,
    /// What was read last; `None` when it has to be read again in any case.
    seen: Option<Stamps>,
    /// What did not load at the last look.
    doubted: Option<Stamps>,
    /// When what is there is in force, where it is not yet.
    later: Option<UnixSeconds>,
    pub(super) replaced: Option<UnixSeconds>,
    pub(super) error: Option<String>,
}

/// What the certificates have to be for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// `tls.names`; none means whatever the files are for.
    pub(super) names: &'a [Name],
    /// Names that no file is for are ordered from a CA.
    pub(super) others_are_ordered: bool,
}

impl Watched {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be served.
    pub(super) fn load(pair: Pair, now: UnixSeconds) -> Result<Self, Error> {
        let seen = settled(stamps(&pair));
        let certificate = pair.load(now)?;
        let replaced = Some(certificate.facts.not_before);
        Ok(Self { pair, certificate: Some(certificate), seen, doubted: None, later: None, replaced, error: None })
    }

    /// What a look needs to know.
    pub(super) fn to_look(&self) -> Look {
        Look { pair: self.pair.clone(), seen: self.seen, later: self.later }
    }

    /// Takes what a look found, if that can be served. Says whether there is another certificate. `urgent` tells at once what
    /// is wrong.
    pub(super) fn judge(
        &mut self,
        looked: Looked,
        wanted: Wanted<'_>,
        now: UnixSeconds,
        urgent: bool,
        metrics: &CertificateMetrics,
    ) -> bool {
        let Looked { stamps, loaded, .. } = looked;
        match loaded.and_then(|fresh| self.fits(fresh, wanted)) {
            Ok(fresh) => {
                (self.seen, self.doubted, self.later, self.error) = (settled(stamps), None, None, None);
                self.take(fresh, now)
            }
            Err(_) if self.doubted != Some(stamps) && !urgent => {
                self.doubted = Some(stamps);
                false
            }
            Err(error) => {
                self.seen = settled(stamps);
                self.later = match error.problem {
                    Problem::NotYetValid(from) => Some(from),
                    _ => None,
                };
                self.complain(&error, metrics);
                false
            }
        }
    }

    /// Puts a certificate in force, unless it is the one that is.
    fn take(&mut self, fresh: Certificate, now: UnixSeconds) -> bool {
        if self.certificate.as_ref().is_some_and(|held| held.key.cert == fresh.key.cert) {
            return false;
        }
        let until = date(fresh.facts.not_after);
        tracing::info!("{}: another certificate is in force, good until {until}", self.pair.cert_file.display());
        (self.certificate, self.replaced) = (Some(fresh), Some(now));
        true
    }

    /// Tells that the certificate before it stays, once for each reason.
    fn complain(&mut self, error: &Error, metrics: &CertificateMetrics) {
        let text = error.to_string();
        if self.error.as_ref() == Some(&text) {
            return;
        }
        metrics.failures.of(error.reason()).inc();
        let until = self.certificate.as_ref().map(|held| date(held.facts.not_after)).unwrap_or_default();
        tracing::error!(reason = %error.reason(), "{text}; the certificate before it stays in force, good until {until}");
        self.error = Some(text);
    }

    /// A certificate for other names than clients use would be refused by each of them.
    fn fits(&self, fresh: Certificate, wanted: Wanted<'_>) -> Result<Certificate, Error> {
        let lost = wanted.names.iter().find(|name| {
            let had = self.certificate.as_ref().is_some_and(|held| held.covers(name));
            had && !fresh.covers(name) && !wanted.others_are_ordered
        });
        let of_use = wanted.names.is_empty() || wanted.names.iter().any(|name| fresh.covers(name));
        match (lost, of_use) {
            (None, true) => Ok(fresh),
            (lost, _) => {
                let missing = lost.into_iter().chain(wanted.names).take(1).cloned().collect();
                Err(Error::new(Problem::OtherNames { has: fresh.facts.names, missing }, &self.pair.cert_file))
            }
        }
    }
}

/// A look at two files. It is apart from what is known of them, so that a file system that hangs holds up nobody else.
#[derive(Debug)]
pub(super) struct Look {
    pair: Pair,
    seen: Option<Stamps>,
    later: Option<UnixSeconds>,
}

/// What is in files that changed.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) pair: Pair,
    stamps: Stamps,
    loaded: Result<Certificate, Error>,
}

impl Look {
    /// Reads the files if they changed.
    ///
    /// Blocking.
    pub(super) fn look(self, now: UnixSeconds) -> Option<Looked> {
        let stamps = stamps(&self.pair);
        let its_time_came = self.later.is_some_and(|later| now >= later);
        if self.seen == Some(stamps) && !its_time_came {
            return None;
        }
        Some(Looked { stamps, loaded: self.pair.load(now), pair: self.pair })
    }
}

fn stamps(pair: &Pair) -> Stamps {
    let stamp = |path: &Path| std::fs::metadata(path).ok().map(|found| Stamp::of(&found));
    [stamp(&pair.cert_file), stamp(&pair.key_file)]
}

/// The stamps, unless one of the files may be written once more under the same one.
fn settled(stamps: Stamps) -> Option<Stamps> {
    stamps.iter().flatten().all(|stamp| stamp.settled().is_some()).then_some(stamps)
}

#[cfg(test)]
mod tests;
