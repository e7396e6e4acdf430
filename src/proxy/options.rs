//! What can be set about the mirrored cache as a whole.

use std::net::IpAddr;

use crate::access::Network;
use crate::nix::store_path::StoreDir;
use crate::options::{ByteSize, Mistakes, Period, key};

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
        /// Another `Priority` for some clients.
        pub priority_for: Vec<PriorityFor> = Vec::new(),
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
        /// The largest NAR that is fetched when a client asks for its narinfo, before it asks for the NAR itself; "0 B" fetches none
        /// ahead. Nix asks for all narinfos of a build first and then for one level of its dependencies after another, so that a build
        /// of many paths that are not here yet takes a fraction of the time. What clients ask for goes first.
        pub prefetch: ByteSize = ByteSize(64 << 20),
        /// How much may be fetched ahead of one upstream for the clients of one network (a /24, or a /56 of IPv6) and not be
        /// asked for: three quarters of what is left of it at once, so that something is left for who comes next (half a second after
        /// that network's last question, or later), and so much again in an hour. A NAR counts for at least 64 KiB. What
        /// is asked for counts no longer, and opens the way for more. At most eight times as much for all networks together, and at
        /// most an eighth of the disk.
        pub prefetch_budget: ByteSize = ByteSize(256 << 20),
        /// Whether the narinfos of what a path refers to are asked for when its own is, up to 256 for each network of clients that none
        /// of them has asked for then: for clients that are far from here. With `prefetch = "0 B"` they are not.
        pub prefetch_references: bool = true,
        /// Whether a NAR is fetched ahead too when its narinfo was here already, and is not only for narinfos that a client made
        /// come: where narinfos are kept and NARs are evicted.
        pub prefetch_known: bool = false,
        /// Whether a browser that opens the address of this cache is shown a page: what this is, the lines for nix.conf, and
        /// the public keys. It tells everybody the same, and nothing of private upstreams. `false`: 404.
        pub page: bool = true,
    }
}

crate::options! {
    /// The `Priority` in nix-cache-info for clients of some networks: a cache in the office is asked before cache.nixos.org
    /// there, and after it from anywhere else. The first table that has the client's address decides; without one it is
    /// `priority` of `[cache]`. Clients remember it for a week, wherever they are then.
    pub struct PriorityFor {
        /// Addresses that the client's connection may come from: `10.1.0.0/16`, `fd00::/8`, or a single address. A client of a
        /// unix socket has no address.
        pub networks: Vec<Network>,
        /// What they are told. Nix asks the substituter with the lowest number first.
        pub priority: u32,
    }
}

impl Options {
    /// What a client with this address is told.
    pub fn priority_for(&self, client: Option<IpAddr>) -> u32 {
        let client = client.map(|client| client.to_canonical());
        let is_for = |table: &&PriorityFor| {
            client.is_some_and(|client| table.networks.iter().any(|network| network.contains(client)))
        };
        self.priority_for.iter().find(is_for).map_or(self.priority, |table| table.priority)
    }

    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        // R18: a path that was uploaded has to appear.
        if self.negative_ttl > Period::seconds(60) {
            mistakes.refuse(&key(at, "negative_ttl"), &format!("\"{}\"", self.negative_ttl), "at most \"60 s\"");
        }
        for (n, table) in self.priority_for.iter().enumerate() {
            if table.networks.is_empty() {
                let networks = key(&format!("{}[{n}]", key(at, "priority_for")), "networks");
                mistakes.refuse(&networks, &"[]", "at least one network");
            }
        }
        if self.fills == 0 {
            mistakes.refuse(&key(at, "fills"), &self.fills, "at least 1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table as _;

    #[test]
    fn the_first_network_with_the_client_decides_its_priority() {
        let options = Options::from_toml(
            "priority = 50\n[[priority_for]]\nnetworks = ['10.1.0.0/16', 'fd00::/8']\npriority = 10\n\
             [[priority_for]]\nnetworks = ['10.0.0.0/8']\npriority = 20",
        )
        .unwrap();
        for (client, priority) in [
            (Some("10.1.2.3"), 10),
            (Some("::ffff:10.1.2.3"), 10),
            (Some("fd00::1"), 10),
            (Some("10.2.0.1"), 20),
            (Some("192.0.2.1"), 50),
            (None, 50),
        ] {
            assert_eq!(options.priority_for(client.map(|client| client.parse().unwrap())), priority, "{client:?}");
        }
    }

    #[test]
    fn a_priority_for_nobody_is_a_mistake() {
        let options = Options::from_toml("[[priority_for]]\nnetworks = []\npriority = 10").unwrap();
        let mut mistakes = Mistakes::default();
        options.check("cache", &mut mistakes);
        assert_eq!(mistakes.lines(), ["cache.priority_for[0].networks = []: expected at least one network"]);
    }
}
