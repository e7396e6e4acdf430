//! Which bodies are in use: when each was last asked for, counted in blocks written.
//!
//! The clock is the number of blocks filled since the process started. A body is hot for a block when
//! it was used after that block was full: its first use, the fill that wrote it, does not count.
//!
//! At most [`BODIES`] are remembered (R26), the least recently used are forgotten first, and nothing survives a restart.

use std::sync::atomic::{AtomicU64, Ordering};

use foyer::{Cache, CacheBuilder, LruConfig};

use super::geometry::BlobId;

/// How many bodies are remembered: about 16 MiB of memory.
pub const BODIES: usize = 1 << 16;

/// When each body was last used.
#[derive(Debug)]
pub struct Heat {
    clock: AtomicU64,
    used: Cache<u64, (BlobId, u64)>,
}

impl Default for Heat {
    fn default() -> Self {
        let used =
            CacheBuilder::new(BODIES).with_name("heat").with_shards(16).with_eviction_config(LruConfig::default());
        Self { clock: AtomicU64::new(0), used: used.build() }
    }
}

impl Heat {
    /// A request used `blob`.
    pub fn touch(&self, blob: BlobId) {
        let now = self.now();
        // The common case in a busy hour is a body that was already used since the last block.
        if self.used.get(&blob.prefix()).is_none_or(|used| *used.value() != (blob, now)) {
            self.used.insert(blob.prefix(), (blob, now));
        }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// One more block is full: the time after it.
    pub fn block_full(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The body with this prefix, if it was used at `time` or later.
    pub fn used_since(&self, prefix: u64, time: u64) -> Option<BlobId> {
        self.used.get(&prefix).filter(|used| used.value().1 >= time).map(|used| used.value().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_hot_for_the_blocks_filled_before_its_use() {
        let heat = Heat::default();
        let (once, again) = (BlobId([1; 16]), BlobId([2; 16]));
        heat.touch(once);
        heat.touch(again);
        let full = heat.block_full();
        assert_eq!(heat.used_since(again.prefix(), full), None);
        heat.touch(again);
        assert_eq!(heat.used_since(again.prefix(), full), Some(again));
        assert_eq!(heat.used_since(once.prefix(), full), None);
        let later = heat.block_full();
        assert_eq!(heat.used_since(again.prefix(), later), None);
    }

    #[test]
    fn the_number_of_bodies_is_bounded() {
        let heat = Heat::default();
        for n in 0..2 * BODIES as u64 {
            heat.touch(BlobId::new(blake3::hash(&n.to_le_bytes()).as_bytes(), 0));
        }
        assert!(heat.used.entries() <= BODIES);
    }
}
