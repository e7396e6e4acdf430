//! The proof that a body is what the plan says: its size and its SHA-256, taken while it streams (R7).
//!
//! The digest is FileHash, or NarHash where Compression is none; the narinfo parser has seen to it that the two agree
//! there. That the NAR *inside* a compressed body has the signed NarHash is proven elsewhere, after the fill.

use super::{Broken, FillFailure, Plan};
use crate::nix::hash::{Hasher, Sha256};
use crate::nix::narinfo::NarInfo;

/// The longest body of which nothing is known (32 GiB).
const LONGEST_UNKNOWN: u64 = 1 << 35;

/// A body being checked.
pub(super) struct Verifier {
    hasher: Hasher,
    digest: Sha256,
    size: Option<u64>,
    most: u64,
    received: u64,
    upstream: String,
}

impl Verifier {
    /// Checks against `plan` a body of `size` bytes, as far as known, sent by `upstream`.
    pub(super) fn new(plan: &Plan, size: Option<u64>, upstream: &str) -> Self {
        let longest = match plan.announced {
            Some((_, _, nar_size)) => NarInfo::largest_file(nar_size),
            None => LONGEST_UNKNOWN,
        };
        let most = size.map_or(longest, |size| if plan.size.is_some() { size } else { size.min(longest) });
        Self { hasher: Hasher::new(), digest: plan.digest, size, most, received: 0, upstream: upstream.to_owned() }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.received += bytes.len() as u64;
        if self.received > self.most {
            return Err(self.broken(FillFailure::Long, &format!("sent more than the {} bytes of the NAR", self.most)));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// The body has ended: its size, when it is the right one with the right hash.
    pub(super) fn finish(self) -> Result<u64, Broken> {
        if let Some(size) = self.size
            && self.received != size
        {
            let text = format!("sent {} of {size} bytes", self.received);
            return Err(self.broken(FillFailure::Short, &text));
        }
        let (received, digest, upstream) = (self.received, self.digest, self.upstream);
        let found = self.hasher.finish();
        if found != digest {
            let text = format!("upstream {upstream} sent bytes with hash {found} instead of {digest}");
            return Err(Broken::new(FillFailure::WrongHash, text));
        }
        Ok(received)
    }

    fn broken(&self, reason: FillFailure, text: &str) -> Broken {
        Broken::new(reason, format!("upstream {} {text}", self.upstream))
    }
}
