//! What can be set for an upstream, and the order in which several are asked.

use std::path::PathBuf;

use crate::nix::signature::PublicKey;
use crate::options::{Mistakes, Period, key};

pub use super::url::UpstreamUrl;

crate::choice! {
    /// What makes a narinfo of an upstream trusted (R36: always spelled out, never a fallback).
    pub enum Trust {
        /// A narinfo needs a signature by one of the upstream's `public_keys`.
        Keys = "keys",
        /// The operator vouches for the upstream: an unsigned narinfo is trusted and may be signed.
        Origin = "origin",
        /// Nothing is trusted: narinfos go on as they came, and are never signed here.
        Pass = "pass",
    }
}

crate::choice! {
    /// What a client is told when an upstream could not be asked and nobody else has the path (R18).
    pub enum WhenDown {
        /// That it is unknown: 502 or 504.
        Error = "error",
        /// That it is not there: 404.
        Miss = "miss",
    }
}

crate::options! {
    /// A binary cache to mirror; any number of them. Without any, cache.nixos.org is mirrored.
    pub struct Options {
        /// Where the cache is: the address that would stand in `substituters`, without parameters. `http` and `https`,
        /// a port and a path are understood.
        pub url: UpstreamUrl,
        /// What the upstream is called in logs, metrics and messages. By default the host of `url`, with its port if
        /// that is not the usual one; two upstreams on one host need a name.
        pub name: Option<Name> = None,
        /// Lower numbers are asked earlier; upstreams with the same number are asked side by side, and the first that
        /// has the path serves it. The next number is asked only when all of this one said that they have not, or could
        /// not be reached. By default 10 for the first upstream in this file, 20 for the second, and so on.
        pub priority: Option<u32> = None,
        /// Which narinfos are trusted. `keys`: those with a valid signature by one of `public_keys`. `origin`: all of
        /// them, signed or not; for a cache you vouch for, such as a nix-serve on this machine. `pass`: none, but all are
        /// served as they came, never signed here, for the clients to judge.
        pub trust: Trust = Trust::Keys,
        /// The keys that may sign for this upstream, written as in `trusted-public-keys` of nix.conf. Required when
        /// `trust` is `keys`. A key counts for the upstreams that list it and for no other.
        pub public_keys: Vec<PublicKey> = Vec::new(),
        /// What clients are told about a path that no other upstream has while this one cannot be asked. `error`: 502 or
        /// 504, so that Nix tries again. `miss`: 404, so that Nix builds it or asks its next substituter, and remembers
        /// for an hour that it is not here; for a cache that is often switched off.
        pub when_down: WhenDown = WhenDown::Error,
        /// A file of PEM certificates to trust for `https`, besides those the system trusts: the CA of a company,
        /// or the certificate of the upstream itself.
        pub ca_file: Option<PathBuf> = None,
        /// How many connections are open to the upstream at most. By default 4 for `http`, because a nix-serve serves
        /// 5 at a time and others want a turn, and 16 for `https`. Raise it when fills wait and the upstream is not busy.
        pub connections: Option<u32> = None,
        /// How long connecting may take, TLS included, before the upstream counts as down. Raise it for links with
        /// seconds of delay.
        pub connect_timeout: Period = Period::seconds(5),
        /// How long the upstream may take from the request to the head of its response. Raise it for caches that make
        /// the archive when it is asked for and are slow to start.
        pub response_timeout: Period = Period::seconds(15),
        /// How long a body may pause before the rest of it is fetched anew, or given up.
        pub stall_timeout: Period = Period::seconds(30),
        /// How long a narinfo of this upstream is served without asking again. Paths almost never change under their
        /// hash; shorten it for a nix-serve whose store paths are deleted and rebuilt.
        pub narinfo_ttl: Period = Period::seconds(86_400),
    }
}

impl Options {
    /// The name in logs and metrics.
    pub fn display_name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.url.authority(), ToString::to_string)
    }

    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.trust == Trust::Keys && self.public_keys.is_empty() {
            let accepted = format!(
                "at least one key, because trust is \"keys\"; \"{}\" trusts everything, \"{}\" leaves it to the clients",
                Trust::Origin,
                Trust::Pass
            );
            mistakes.missing(&key(at, "public_keys"), &accepted);
        }
        if self.connections == Some(0) {
            mistakes.refuse(&key(at, "connections"), &0, "at least 1");
        }
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("stall_timeout", self.stall_timeout),
        ];
        for (name, timeout) in timeouts {
            if timeout.0.is_zero() {
                mistakes.refuse(&key(at, name), &format!("\"{timeout}\""), "more than \"0 ms\"");
            }
        }
    }

    /// How many connections are open at most.
    pub fn connection_limit(&self) -> u32 {
        self.connections.unwrap_or(if self.url.is_https() { 16 } else { 4 })
    }
}

/// The upstreams as they are asked: groups of places in `upstreams`, one group after the other, the members of a group
/// side by side.
pub fn asking_order(upstreams: &[Options]) -> Vec<Vec<usize>> {
    let mut groups = std::collections::BTreeMap::<u64, Vec<usize>>::new();
    for (place, upstream) in upstreams.iter().enumerate() {
        let priority = upstream.priority.map_or(10 * (place as u64 + 1), u64::from);
        groups.entry(priority).or_default().push(place);
    }
    groups.into_values().collect()
}

/// The name of an upstream: a label value of metrics, a field of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl std::str::FromStr for Name {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

crate::string_value!(Name, "1 to 64 of the characters a-z 0-9 - . _ :");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table;

    fn upstream(rest: &str) -> Options {
        Options::from_toml(&format!("url = 'http://a'\n{rest}")).unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_file_unless_a_priority_says_otherwise() {
        let order = |priorities: [&str; 4]| asking_order(&priorities.map(upstream));
        assert_eq!(order(["", "", "", ""]), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(order(["", "", "priority = 5", ""]), [vec![2], vec![0], vec![1], vec![3]]);
        assert_eq!(order(["", "priority = 10", "priority = 0", "priority = 0"]), [vec![2, 3], vec![0, 1]]);
        assert_eq!(asking_order(&[]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn names_and_connections_follow_the_url() {
        assert_eq!(upstream("").display_name(), "a");
        assert_eq!(upstream("name = 'office'").display_name(), "office");
        assert_eq!(upstream("").connection_limit(), 4);
        assert_eq!(upstream("connections = 1").connection_limit(), 1);
        assert_eq!(Options::from_toml("url = 'https://a'").unwrap().connection_limit(), 16);
        for name in ["", "A", "a b", "a\n", "é"] {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
    }
}
