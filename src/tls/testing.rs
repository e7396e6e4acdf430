//! What the room's tests share: certificates made on the spot.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};

use super::certificate::Certificate;
use super::files::Pair;
use crate::clock::UnixSeconds;

pub(super) const DAY: u64 = 86_400;

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) cert: String,
    pub(super) key: String,
}

/// Signed by a CA that nobody knows, for `names`, from `from` to `to` seconds from now.
pub(super) fn signed(names: &[&str], from: i64, to: i64, kind: &'static SignatureAlgorithm) -> Made {
    let now = i64::try_from(UnixSeconds::now().0).unwrap();
    let date =
        |offset: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(now + offset).unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = Issuer::new(ca, KeyPair::generate().unwrap());
    let mut leaf = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    (leaf.not_before, leaf.not_after) = (date(from), date(to));
    let key = KeyPair::generate_for(kind).unwrap();
    Made { cert: leaf.signed_by(&key, &ca).unwrap().pem(), key: key.serialize_pem() }
}

/// One that is in force.
pub(super) fn good(names: &[&str]) -> Made {
    signed(names, -60, 86_400, &rcgen::PKCS_ECDSA_P256_SHA256)
}

impl Made {
    pub(super) fn loaded(&self) -> Certificate {
        Certificate::from_pem(format!("{}{}", self.key, self.cert).as_bytes()).unwrap()
    }

    /// Puts it into `cert.pem` and `key.pem`.
    pub(super) fn put(&self, dir: &Path) -> Pair {
        let pair = Pair { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
        fs::write(&pair.cert_file, &self.cert).unwrap();
        fs::write(&pair.key_file, &self.key).unwrap();
        pair
    }
}
