//! The one place where something is signed.

use super::secret_key::SecretKey;
use super::{Options, ProveFirst, UpstreamSignatures};
use crate::nix::signature::{PublicKey, Signature};
use crate::nix::store_path::StoreDir;
use crate::proxy::policy::short_hash;
use crate::proxy::trust::{Verified, Voucher};

/// Our keys, and what they may sign.
#[derive(Debug)]
pub struct Signer {
    keys: Vec<SecretKey>,
    options: Options,
    fingerprint: [u8; 16],
}

/// What our signature of a narinfo waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Demand {
    /// Nothing: it has been made, or never will be.
    Nothing,
    /// Its NAR, should that have been proven; clients can do without the signature until then.
    ProofIfThere,
    /// Its NAR, which is to be fetched and proven for it.
    Proof,
}

impl Signer {
    /// Signs with each of these keys.
    pub fn new(options: Options, keys: Vec<SecretKey>) -> Self {
        let public: Vec<String> = keys.iter().map(|key| key.public().to_string()).collect();
        let mut parts = vec![[options.prove_first as u8].to_vec()];
        parts.extend(public.into_iter().map(String::into_bytes));
        let fingerprint = short_hash(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Self { keys, options, fingerprint }
    }

    /// What clients have to trust.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(SecretKey::public).collect()
    }

    /// Tells whether what was signed before would be signed the same way now.
    pub(in crate::proxy) fn fingerprint(&self) -> &[u8; 16] {
        &self.fingerprint
    }

    /// Whether one of our keys has this name.
    pub(in crate::proxy) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name() == name)
    }

    /// Whether upstreams' signatures are left out beside ours.
    pub(in crate::proxy) fn drops_theirs(&self) -> bool {
        self.options.upstream_signatures == UpstreamSignatures::Drop
    }

    /// What the signature of a narinfo that this voucher stands behind waits for.
    pub(in crate::proxy) fn demand(&self, voucher: Voucher) -> Demand {
        match (voucher, self.options.prove_first) {
            _ if self.keys.is_empty() => Demand::Nothing,
            // R1
            (Voucher::Nobody, _) => Demand::Nothing,
            // R3, whatever is configured: only its content vouches for it, and that is not known before it was seen.
            (Voucher::ContentAddress, _) => Demand::ProofIfThere,
            (Voucher::Operator, ProveFirst::Unsigned | ProveFirst::All) | (Voucher::Key, ProveFirst::All) => {
                Demand::Proof
            }
            (Voucher::Operator, ProveFirst::Never) | (Voucher::Key, ProveFirst::Unsigned | ProveFirst::Never) => {
                Demand::Nothing
            }
        }
    }

    /// Our signatures of a narinfo, one by each key; none as long as it must not be signed (R1, R3). They are made over
    /// the fingerprint of the parsed structure, never over text (R2).
    pub(in crate::proxy) fn sign(&self, verified: &Verified, dir: &StoreDir) -> Vec<Signature> {
        let may = verified.voucher() != Voucher::Nobody
            && (verified.is_proven() || self.demand(verified.voucher()) == Demand::Nothing);
        if !may {
            return Vec::new();
        }
        let fingerprint = verified.info().fingerprint(dir);
        self.keys.iter().map(|key| key.sign(fingerprint.as_bytes())).collect()
    }
}

#[cfg(test)]
mod tests;
