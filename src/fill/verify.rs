//! The proof that a body is what the plan says, taken while it streams: its size, its SHA-256 (R7), and where the plan
//! wants it before anything is read, the NAR inside (see `prove`).
//!
//! A small body is gathered and proven when it is complete, so that no thread waits for its upstream; a large one is
//! decoded as it comes. A body without a FileHash is known by the NAR inside only, so that one is always proven here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::prove::{Disproof, Pace, Prover, Proving};
use super::state::{Broken, HOLD_WHOLE};
use super::{Claim, FillFailure, Plan, Prove};
use crate::decompress;
use crate::metrics::Refusal;
use crate::nix::hash::{Hasher, Sha256};
use crate::nix::narinfo::{Compression, NarInfo};
use crate::store::Inside;
use crate::upstream::Upstream;

/// The longest body of which nothing is known (32 GiB).
const LONGEST_UNKNOWN: u64 = 1 << 35;
/// The longest NAR (16 MiB) that a response waits for only because its body is small.
pub(super) const QUICK: u64 = 16 << 20;

/// A body being checked.
pub(super) struct Verifier {
    hasher: Hasher,
    file_hash: Option<Sha256>,
    size: Option<u64>,
    most: u64,
    received: u64,
    upstream: String,
    proof: Proof,
}

enum Proof {
    NotNow,
    Gathered(Box<Gathered>),
    AsItComes(Proving, Turn),
    Failed(Disproof),
}

/// A turn to unpack a body while it comes, where that is to be done; taken before the source is asked, so that no
/// upstream waits in the middle of its answer.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

/// Takes the turn that the plan's body will need, as far as is known before the source has answered.
pub(super) async fn turn(plan: &Plan, upstream: &Upstream) -> Turn {
    let small = plan.size.is_some_and(|size| size <= HOLD_WHOLE);
    match &plan.claim {
        Some(claim) if !(small && claim.nar_size <= QUICK) && is_proven_first(plan, claim, small) => {
            upstream.turn_to_unpack().await
        }
        _ => None,
    }
}

struct Gathered {
    prover: Prover,
    compression: Compression,
    claim: Arc<Claim>,
    body: Vec<Bytes>,
}

/// What a body turned out to be.
pub(super) struct Verified {
    pub(super) size: u64,
    pub(super) file_hash: Sha256,
    pub(super) inside: Option<Inside>,
}

impl Verifier {
    /// Checks against `plan` a body of `size` bytes, as far as known, sent by `upstream`. Waits for a place among the
    /// proofs where one is needed.
    pub(super) async fn begin(
        prover: &Prover,
        plan: &Plan,
        size: Option<u64>,
        upstream: &str,
        turn: Turn,
    ) -> Result<Self, Broken> {
        let longest = plan.claim.as_ref().map_or(LONGEST_UNKNOWN, |claim| NarInfo::largest_file(claim.nar_size));
        let most = size.map_or(longest, |size| if plan.size.is_some() { size } else { size.min(longest) });
        let small = size.is_some_and(|size| size <= HOLD_WHOLE);
        let proof = match &plan.claim {
            Some(claim) if is_proven_first(plan, claim, small) => {
                let (claim, compression) = (Arc::clone(claim), plan.compression);
                if small && claim.nar_size <= QUICK {
                    let prover = prover.clone();
                    Proof::Gathered(Box::new(Gathered { prover, compression, claim, body: Vec::new() }))
                } else {
                    Proof::AsItComes(prover.begin(compression, &claim, Pace::AsItComes).await, turn)
                }
            }
            _ if plan.file_hash.is_none() || (plan.prove == Prove::First && plan.claim.is_some()) => {
                let text = format!("upstream {upstream} has a NAR that cannot be proven");
                return Err(Broken::refused(Refusal::Unprovable, text));
            }
            _ => Proof::NotNow,
        };
        Ok(Self {
            hasher: Hasher::new(),
            file_hash: plan.file_hash,
            size,
            most,
            received: 0,
            upstream: upstream.to_owned(),
            proof,
        })
    }

    /// Takes the next bytes.
    pub(super) async fn update(&mut self, bytes: &Bytes) -> Result<(), Broken> {
        self.received += bytes.len() as u64;
        if self.received > self.most {
            let text = format!("upstream {} sent more than the {} bytes of the NAR", self.upstream, self.most);
            return Err(Broken::refused(Refusal::WrongSize, text));
        }
        self.hasher.update(bytes);
        match &mut self.proof {
            Proof::NotNow | Proof::Failed(_) => {}
            Proof::Gathered(gathered) => gathered.body.push(bytes.clone()),
            Proof::AsItComes(proving, _) => {
                if !proving.feed(bytes.clone()).await {
                    self.proof_failed().await?;
                }
            }
        }
        Ok(())
    }

    /// The proof ended in the middle. With a FileHash the rest is still worth hashing: it tells whether these are the
    /// bytes that were announced, and they are wrong for ever, or others.
    async fn proof_failed(&mut self) -> Result<(), Broken> {
        let Proof::AsItComes(proving, _turn) = std::mem::replace(&mut self.proof, Proof::NotNow) else { return Ok(()) };
        match proving.finish().await {
            Err(disproof) if self.file_hash.is_some() => {
                self.proof = Proof::Failed(disproof);
                Ok(())
            }
            Err(disproof) => Err(disproof.broken(&self.upstream)),
            Ok(_) => Err(Disproof::internal().broken(&self.upstream)),
        }
    }

    /// Further bytes come from another source: what is wrong cannot be put down to one.
    pub(super) fn also_from(&mut self, sender: &str) {
        self.upstream.push_str(" and ");
        self.upstream.push_str(sender);
    }

    /// The hash of what came so far.
    pub(super) fn so_far(&self) -> Sha256 {
        self.hasher.clone().finish()
    }

    /// The body has ended: what it is, when it is what the plan says.
    pub(super) async fn finish(self) -> Result<Verified, Broken> {
        let (received, upstream) = (self.received, self.upstream);
        if let Some(size) = self.size
            && received != size
        {
            let text = format!("upstream {upstream} sent {received} of {size} bytes");
            return Err(Broken::new(FillFailure::Short, text));
        }
        let found = self.hasher.finish();
        if let Some(file_hash) = self.file_hash
            && found != file_hash
        {
            let text = format!("upstream {upstream} sent bytes with hash {found} instead of {file_hash}");
            return Err(Broken::refused(Refusal::WrongFileHash, text));
        }
        let proven = match self.proof {
            Proof::NotNow => return Ok(Verified { size: received, file_hash: found, inside: None }),
            Proof::Failed(disproof) => Err(disproof),
            Proof::AsItComes(proving, _turn) => proving.finish().await,
            Proof::Gathered(gathered) => gathered.prove().await,
        };
        match proven {
            Ok(inside) => Ok(Verified { size: received, file_hash: found, inside: Some(inside) }),
            Err(disproof) => Err(disproof.broken(&upstream)),
        }
    }
}

impl Gathered {
    async fn prove(self) -> Result<Inside, Disproof> {
        let mut proving = self.prover.begin(self.compression, &self.claim, Pace::AtOnce).await;
        for bytes in self.body {
            if !proving.feed(bytes).await {
                break;
            }
        }
        proving.finish().await
    }
}

/// Whether what is inside is proven before a reader gets the last of it.
fn is_proven_first(plan: &Plan, claim: &Claim, small: bool) -> bool {
    let wanted = match plan.prove {
        Prove::First => true,
        Prove::Afterwards => small && claim.nar_size <= QUICK,
        Prove::Never => false,
    };
    (wanted || plan.file_hash.is_none()) && decompress::supports(plan.compression)
}
