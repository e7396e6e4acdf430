//! What the configuration says about the upstreams of one space, about trust and signing: one value that each request sees
//! whole, and that a reload replaces.
//!
//! Whatever is kept carries the [`Basis`] it was accepted on. When that changes (a key comes or goes, an upstream's trust
//! or our own keys change), what is kept is checked once more before it is served: what still holds is signed anew and
//! stays, what only a key that is gone vouched for is dropped (R5; see `kept`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::flights::Flights;
use super::hedge::Ration;
use super::nar::Meant;
use super::options::Options;
use super::sign::Signer;
use super::trust::Rules;
use super::{narinfo, small, sources};
use crate::nix::cache_info::CacheInfo;
use crate::nix::signature::PublicKey;
use crate::nix::store_path::{HashPart, StoreDir};
use crate::upstream::{Trust, Upstream};

/// See the module.
#[derive(Debug)]
pub struct Policy {
    pub(super) options: Options,
    /// In the order in which they are asked, the library first; neighbours of the same rank side by side.
    pub(super) upstreams: Vec<Arc<Upstream>>,
    pub(super) by_name: HashMap<Arc<str>, (Arc<Upstream>, Basis)>,
    grounds: HashSet<Ground>,
    /// Whether another policy is in force by now.
    replaced: AtomicBool,
    pub(super) signer: Arc<Signer>,
    pub(super) narinfos: Flights<HashPart, narinfo::Found>,
    pub(super) announcers: Flights<Meant, sources::Announcers>,
    pub(super) smalls: Flights<String, small::Found>,
    /// What of upstreams may be asked early.
    pub(super) hedges: Ration,
}

/// Why a narinfo was believed: one key, or one upstream's word, or content (R5: what only a key vouched for goes with it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ground(pub(super) [u8; 16]);

impl Ground {
    /// A signature by this key.
    pub(super) fn key(key: &PublicKey, dir: &StoreDir) -> Self {
        Self(short_hash(&[dir.as_str().as_bytes(), b"key", key.to_string().as_bytes()]))
    }

    /// The path is made from its content.
    pub(super) fn content(dir: &StoreDir) -> Self {
        Self(short_hash(&[dir.as_str().as_bytes(), b"content"]))
    }

    /// This upstream said so, and is trusted this far.
    pub(super) fn word(upstream: &Upstream, dir: &StoreDir) -> Self {
        let trust = upstream.trust().to_string();
        Self(short_hash(&[dir.as_str().as_bytes(), trust.as_bytes(), upstream.base().as_str().as_bytes()]))
    }

    fn all(upstream: &Upstream, dir: &StoreDir) -> impl Iterator<Item = Self> {
        let content = (upstream.trust() != Trust::Pass).then(|| Self::content(dir));
        let word = (upstream.trust() != Trust::Keys).then(|| Self::word(upstream, dir));
        upstream.keys().iter().map(|key| Self::key(key, dir)).chain(content).chain(word)
    }
}

/// What it rests on that something of an upstream was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// The store directory and the upstream's URL.
    pub(super) origin: [u8; 16],
    /// Its trust, its keys, and our own keys.
    pub(super) trust: [u8; 16],
}

impl Policy {
    /// These upstreams, under these options, signed by this signer.
    pub fn new(options: Options, mut upstreams: Vec<Arc<Upstream>>, signer: impl Into<Arc<Signer>>) -> Self {
        let signer = signer.into();
        upstreams.sort_by_key(|upstream| (!upstream.is_library(), upstream.rank()));
        let by_name = upstreams.iter().map(|upstream| {
            let basis = Basis::of(upstream, &options, &signer);
            (Arc::clone(upstream.name()), (Arc::clone(upstream), basis))
        });
        Self {
            grounds: upstreams.iter().flat_map(|upstream| Ground::all(upstream, &options.store_dir)).collect(),
            replaced: AtomicBool::new(false),
            by_name: by_name.collect(),
            options,
            upstreams,
            signer,
            narinfos: Flights::new(),
            announcers: Flights::new(),
            smalls: Flights::new(),
            hedges: Ration::default(),
        }
    }

    /// What the cache says about itself to a client with this address.
    pub(super) fn cache_info(&self, client: Option<IpAddr>) -> CacheInfo {
        CacheInfo {
            store_dir: self.options.store_dir.clone(),
            want_mass_query: self.options.want_mass_query,
            priority: self.options.priority_for(client),
        }
    }

    /// The upstreams in groups of the same rank; the library is one by itself.
    pub(super) fn groups(&self) -> impl Iterator<Item = &[Arc<Upstream>]> {
        self.upstreams.chunk_by(|a, b| a.rank() == b.rank() && a.is_library() == b.is_library())
    }

    /// The rules narinfos are checked by.
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { dir: &self.options.store_dir, verify: self.options.verify }
    }

    /// The upstream that something kept came from, with what is accepted of it today.
    pub(super) fn origin_of(&self, name: &str) -> Option<&(Arc<Upstream>, Basis)> {
        self.by_name.get(name)
    }

    /// Whether something is still believed on this.
    pub(super) fn holds(&self, ground: &[u8; 16]) -> bool {
        self.grounds.contains(&Ground(*ground))
    }

    /// What is accepted of an upstream of this policy.
    pub(super) fn basis(&self, upstream: &Upstream) -> Basis {
        match self.by_name.get(upstream.name()) {
            Some((_, basis)) => *basis,
            None => Basis::of(upstream, &self.options, &self.signer),
        }
    }

    /// Another policy is in force from now on: what is still being answered under this one leaves what is kept as it is.
    pub(super) fn retire(&self) {
        self.replaced.store(true, Ordering::SeqCst);
    }

    /// Whether another policy is in force.
    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::SeqCst)
    }

    /// Waits until every question being asked under this policy was answered.
    pub(super) async fn finish(&self) {
        self.narinfos.finish().await;
        self.announcers.finish().await;
        self.smalls.finish().await;
    }
}

impl Basis {
    fn of(upstream: &Upstream, options: &Options, signer: &Signer) -> Self {
        let origin = short_hash(&[options.store_dir.as_str().as_bytes(), upstream.base().as_str().as_bytes()]);
        let mut keys: Vec<String> = upstream.keys().iter().map(ToString::to_string).collect();
        keys.sort_unstable();
        let trust = [upstream.trust() as u8, options.verify as u8];
        let mut parts = vec![origin.as_slice(), &trust, signer.fingerprint()];
        parts.extend(keys.iter().map(String::as_bytes));
        Self { origin, trust: short_hash(&parts) }
    }
}

/// A hash of parts, none of which can be taken for a part of its neighbour.
pub(super) fn short_hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}
