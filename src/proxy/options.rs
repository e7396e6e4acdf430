//! What can be set about the mirrored cache as a whole.

use crate::nix::store_path::StoreDir;
use crate::options::{Mistakes, Period, key};

crate::choice! {
    /// When a NAR is decompressed and held against the NarHash that its narinfo names (R7).
    pub enum Verify {
        /// After it was fetched, without keeping anybody waiting.
        Background = "background",
        /// Before a byte of it leaves.
        BeforeFirstByte = "before-first-byte",
        /// Not at all.
        Off = "off",
    }
}

crate::options! {
    /// The cache that clients see.
    pub struct Options {
        /// The store directory of the clients and of every upstream. Nix refuses a cache made for another one.
        pub store_dir: StoreDir = StoreDir::default(),
        /// The `Priority` in nix-cache-info: Nix asks the substituter with the lowest number first. cache.nixos.org has
        /// 40, nix-serve 30. Clients remember it for a week.
        pub priority: u32 = 30,
        /// The `WantMassQuery` in nix-cache-info: whether Nix may ask here about many paths that it does not need yet.
        /// Clients remember it for a week.
        pub want_mass_query: bool = true,
        /// How long it is remembered that no upstream has a path; at most "60 s". Shorten it when paths are asked for
        /// before they are uploaded.
        pub negative_ttl: Period = Period::seconds(30),
        /// How many NARs are fetched from upstreams at once, over all clients; further ones wait their turn. Each takes
        /// a bounded amount of memory. Raise it when upstreams are far away and there is bandwidth to spare.
        pub fills: usize = 64,
        /// When a NAR is decompressed to see that what is in it is what its narinfo says; that its bytes are those that
        /// were announced is always checked. `background`: after it was fetched; one of at most 1 MiB before its
        /// response begins, which costs some milliseconds. `before-first-byte`: nothing of a NAR leaves before all of
        /// it was seen, so the first who asks waits for the whole. `off`: never, and clients find out. What is not what
        /// it should be is never served again, and the next upstream is asked.
        pub verify: Verify = Verify::Background,
    }
}

impl Options {
    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        // R18: a path that was uploaded has to appear.
        if self.negative_ttl > Period::seconds(60) {
            mistakes.refuse(&key(at, "negative_ttl"), &format!("\"{}\"", self.negative_ttl), "at most \"60 s\"");
        }
        if self.fills == 0 {
            mistakes.refuse(&key(at, "fills"), &self.fills, "at least 1");
        }
    }
}
