//! What is counted of certificates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGaugeVec;

use super::declare::{CounterBy, Declare};
use super::labels::CertificateFailure;
use crate::clock::UnixSeconds;

/// The certificates' group.
#[derive(Debug, Clone)]
pub struct CertificateMetrics {
    /// What went wrong.
    pub failures: CounterBy<CertificateFailure>,
    /// How each name stands.
    pub certificates: NameGauges,
}

impl CertificateMetrics {
    pub(super) fn new(declare: &Declare<'_>) -> Self {
        Self {
            failures: declare.counter_by(
                "snowbank_certificate_failures_total",
                "Certificates that were not had, or not put in force, by reason; the log says which and what to do. The one \
                 before stays in force, so there is time until snowbank_certificate_expires_in_seconds is near 0.",
            ),
            certificates: NameGauges {
                expires: declare.gauges(
                    "snowbank_certificate_expires_in_seconds",
                    "What is left of the life of the certificate for this name; 0 where there is none yet, negative when it is \
                     over. Alert long before: a CA's certificates are renewed when a third is left.",
                    &["name"],
                ),
                succeeded: declare.gauges(
                    "snowbank_certificate_last_success_timestamp_seconds",
                    "When the certificate for this name was put in force; of one that was there when the process started, when its \
                     life began. 0 where there is none.",
                    &["name"],
                ),
                told: Arc::default(),
            },
        }
    }
}

/// Gauges for names, which a reload of the configuration can change.
#[derive(Debug, Clone)]
pub struct NameGauges {
    expires: IntGaugeVec,
    succeeded: IntGaugeVec,
    /// The names told so far.
    told: Arc<Mutex<Vec<String>>>,
}

impl NameGauges {
    /// Sets the gauges of each name to the certificate that ends first, and takes those of other names away. A certificate
    /// that does not exist yet (`None`) has ended.
    pub fn measure(
        &self,
        now: UnixSeconds,
        held: impl IntoIterator<Item = (String, Option<UnixSeconds>, Option<UnixSeconds>)>,
    ) {
        let mut names: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        for (name, not_after, succeeded) in held {
            let left = not_after.map_or(0, |end| signed(end.0).saturating_sub(signed(now.0)));
            let succeeded = succeeded.map_or(0, |at| signed(at.0));
            let entry = names.entry(name).or_insert((left, succeeded));
            *entry = (entry.0.min(left), entry.1.max(succeeded));
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in told.iter().filter(|name| !names.contains_key(*name)) {
            // It was there, or another thread took it away: both are what is wanted.
            let _ = self.expires.remove_label_values(&[gone]);
            let _ = self.succeeded.remove_label_values(&[gone]);
        }
        for (name, (left, succeeded)) in &names {
            self.expires.with_label_values(&[name]).set(*left);
            self.succeeded.with_label_values(&[name]).set(*succeeded);
        }
        *told = names.into_keys().collect();
    }
}
