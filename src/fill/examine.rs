//! Reading a stored body from its first chunk to its last, to see what is wrong with it.
//!
//! Each chunk is held against the manifest's digest, on disk where there is one (what is in memory was checked when it came
//! there), the whole against its hash, and what is inside against a claim where that is asked for. Nothing is served
//! and nothing comes into memory on the way.

use std::sync::Arc;
use std::time::Duration;

use super::prove::Pace;
use super::{Broken, Claim, Fills, Locate, code_of};
use crate::metrics::Refusal;
use crate::nix::hash::{Hasher, Sha256};
use crate::nix::narinfo::Compression;
use crate::store::{ChunkKey, Inside, Manifest, Peeked};

/// What was found of a body.
#[derive(Debug, Default)]
pub struct Examined {
    /// Chunks that are there and right, and their bytes.
    pub right: u64,
    /// See `right`.
    pub bytes: u64,
    /// Chunks that were there and wrong: they are holes now.
    pub wrong: Vec<u32>,
    /// Chunks that are not there: evicted, mostly.
    pub absent: u64,
    /// What is inside, if that was asked for and every chunk was there; or why the body is not what it should be.
    pub inside: Option<Result<Inside, Broken>>,
}

/// The compression that a manifest's code stands for.
pub fn compression_of(code: u8) -> Option<Compression> {
    Compression::ALL.into_iter().find(|compression| code_of(*compression) == code)
}

impl Fills {
    /// Reads a stored body; with a claim, also what is inside. Waits for `pause` before each chunk.
    pub async fn examine(&self, manifest: &Manifest, claim: Option<&Arc<Claim>>, pause: Duration) -> Examined {
        let mut found = Examined::default();
        let mut hasher = Hasher::new();
        let mut proving = match (claim, compression_of(manifest.compression)) {
            // Who reads slowly reads once more for the proof, instead of keeping the others' waiting.
            (Some(claim), Some(compression)) if pause.is_zero() => {
                Some(self.inner.prover.begin(compression, claim, Pace::Background).await)
            }
            _ => None,
        };
        for (index, digest) in (0_u32..).zip(&manifest.digests) {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match self.look(ChunkKey { blob: manifest.blob, index }, digest).await {
                Peeked::Right(chunk) => {
                    found.right += 1;
                    found.bytes += chunk.len() as u64;
                    hasher.update(&chunk);
                    if let Some(proving) = &mut proving {
                        // Who has heard enough tells it at the end.
                        let _ = proving.feed(chunk).await;
                    }
                    continue;
                }
                Peeked::Wrong => found.wrong.push(index),
                Peeked::Absent => found.absent += 1,
            }
            proving = None;
        }
        if found.wrong.is_empty()
            && found.absent == 0
            && let (Some(claim), false) = (claim, pause.is_zero())
        {
            return Box::pin(self.examine(manifest, Some(claim), Duration::ZERO)).await;
        }
        if found.wrong.is_empty() && found.absent == 0 {
            let hash = hasher.finish();
            found.inside = if hash.as_bytes() == &manifest.file_hash {
                match proving {
                    Some(proving) => Some(proving.finish().await.map_err(|disproof| disproof.of_what_is_kept())),
                    None => None,
                }
            } else {
                let announced = Sha256::from_bytes(manifest.file_hash);
                let text = format!("its chunks make up a body with the hash {hash} instead of {announced}");
                Some(Err(Broken::refused(Refusal::WrongFileHash, text)))
            };
        }
        found
    }

    async fn look(&self, key: ChunkKey, digest: &[u8; 16]) -> Peeked {
        let store = &self.inner.store;
        let expected = store.has_chunk(key);
        let found = match store.peek_chunk_on_disk(key, digest).await {
            Peeked::Absent => store.peek_chunk(key, digest).await,
            found => found,
        };
        match found {
            // It is there and cannot be read: damaged where its own checksum tells.
            Peeked::Absent if expected => Peeked::Wrong,
            found => found,
        }
    }

    /// Fills one hole of a stored body again.
    ///
    /// # Errors
    /// No upstream has it, or none could be asked.
    pub async fn mend(&self, manifest: &Arc<Manifest>, index: u32, locate: &Arc<dyn Locate>) -> Result<(), Broken> {
        self.refill(manifest, manifest.blob, index..=index, locate, None).done().await.map(|_| ())
    }
}
