//! What the cache tells everybody about itself: how it is called in a client's configuration, and whose signatures to believe.
//!
//! Only of what is public: who opens the page learns nothing of private upstreams, not even from the number of keys (R15).

use std::net::IpAddr;

use super::policy::Policy;
use super::{Options, Proxy};
use crate::nix::cache_info::CacheInfo;
use crate::nix::signature::PublicKey;
use crate::upstream::Trust;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What `nix-cache-info` says.
    pub cache: CacheInfo,
    /// The keys to trust, each once: our own first, then those whose signatures are passed on and are not joined by ours.
    pub keys: Vec<PublicKey>,
    /// Some of what is served carries no signature by any of these: the client's own keys decide about it.
    pub leaves_to_clients: bool,
}

impl Proxy {
    /// What a client with this address is told; `None` where there is to be no page.
    pub fn about(&self, client: Option<IpAddr>) -> Option<About> {
        let in_force = self.in_force.load();
        let policy = &in_force.public.policy;
        let Options { page, .. } = policy.options;
        page.then(|| policy.about(client))
    }
}

impl Policy {
    fn about(&self, client: Option<IpAddr>) -> About {
        let mut keys = self.signer.public_keys();
        let signs = !keys.is_empty();
        // R1: what is passed on is never signed here.
        let is_signed = |trust| signs && trust != Trust::Pass;
        let theirs = self.upstreams.iter().filter(|upstream| !is_signed(upstream.trust()));
        for key in theirs.flat_map(|upstream| upstream.keys().iter()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        let is_judged_by_clients = |trust| match trust {
            Trust::Keys => false,
            Trust::Origin => !signs,
            Trust::Pass => true,
        };
        let leaves_to_clients = self.upstreams.iter().any(|upstream| is_judged_by_clients(upstream.trust()));
        About { cache: self.cache_info(client), keys, leaves_to_clients }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Theirs, ours, policy, upstream};
    use crate::proxy::sign::secret_key::SecretKey;

    /// The names of the keys, and whether clients judge some of it themselves.
    fn told(upstreams: &[(&str, &[&Theirs])], own: Vec<SecretKey>) -> (Vec<String>, bool) {
        let upstreams: Vec<_> = upstreams.iter().map(|(trust, keys)| upstream(trust, keys)).collect();
        let about = policy(&upstreams, own).about(None);
        (about.keys.iter().map(|key| key.name().to_owned()).collect(), about.leaves_to_clients)
    }

    #[test]
    fn the_keys_are_those_whose_signatures_clients_get() {
        let (a, b) = (Theirs::new("a-1", 1), Theirs::new("b-1", 2));
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let own = || vec![ours("own-1"), ours("own-2")];
        for (upstreams, with_own, keys, leaves) in [
            (vec![("keys", &[&a, &b][..]), ("keys", &[&a])], false, &["a-1", "b-1"][..], false),
            (vec![("keys", &[&a]), ("keys", &[&b])], true, &["own-1", "own-2"], false),
            // R1: never signed here.
            (vec![("keys", &[&a]), ("pass", &[&b])], true, &["own-1", "own-2", "b-1"], true),
            (vec![("pass", &[])], false, &[], true),
            (vec![("origin", &[])], false, &[], true),
            (vec![("origin", &[])], true, &["own-1", "own-2"], false),
        ] {
            let own = if with_own { own() } else { Vec::new() };
            assert_eq!(told(&upstreams, own), (names(keys), leaves), "{keys:?}");
        }
    }

    #[test]
    fn what_is_switched_off_says_nothing() {
        let mut policy = policy(&[], Vec::new());
        policy.options.page = false;
        assert_eq!(super::super::testing::proxy(policy).about(None), None);
    }
}
