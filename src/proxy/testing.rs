//! Paths, keys and upstreams for tests of trust: everything is made here, the same in each run, and nobody is asked.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};

use super::answer::Answer;
use super::request::Request;
use super::sign::secret_key::SecretKey;
use super::sign::{self, Signer};
use super::{Pipeline, Policy, Proxy};
use crate::access::Visitor;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::nix::hash::Sha256;
pub(super) use crate::nix::nar::testing::file_nar;
use crate::nix::narinfo::{Compression, ContentAddress, NarInfo};
use crate::nix::signature::{PublicKey, Signature};
use crate::nix::store_path::{HashPart, StoreDir, StorePath};
use crate::options::Table as _;
use crate::store::Store;
use crate::upstream::{Options, Upstream};

/// The hash part of what is not made from its content.
pub(super) const HASH: &str = "n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq";

pub(super) fn dir() -> StoreDir {
    StoreDir::default()
}

pub(super) fn hash(text: &str) -> HashPart {
    HashPart::parse(text).unwrap()
}

/// What a cache says of an unsigned path with this NAR, uncompressed.
pub(super) fn unsigned(nar: &[u8]) -> NarInfo {
    let text = format!(
        "StorePath: /nix/store/{HASH}-x\nURL: nar/x.nar\nCompression: none\nNarHash: {}\nNarSize: {}\nReferences: \n",
        Sha256::of(nar),
        nar.len()
    );
    NarInfo::parse(text.as_bytes(), &dir()).unwrap()
}

/// The same of a path that is made from its content, and says so.
pub(super) fn addressed(nar: &[u8]) -> NarInfo {
    let info = unsigned(nar);
    let hash = info.nar_hash.to_string();
    addressed_by(info, &hash)
}

/// The same by this hash of the NAR, with its algorithm.
pub(super) fn addressed_by(mut info: NarInfo, hash: &str) -> NarInfo {
    let address = ContentAddress::parse(&format!("fixed:r:{hash}")).unwrap();
    let made = address.store_path("x", &[], info.store_path.hash(), &dir()).unwrap();
    info.store_path = path(made, "x");
    info.ca = Some(address);
    info
}

pub(super) fn path(hash: HashPart, name: &str) -> StorePath {
    StorePath::parse_base(&format!("{hash}-{name}")).unwrap()
}

/// As it would be with a body in this compression, which is `file_size` bytes long.
pub(super) fn compressed(info: &NarInfo, compression: Compression, file: Option<(Sha256, u64)>) -> NarInfo {
    let (file_hash, file_size) = file.unzip();
    NarInfo { compression, file_hash, file_size, ..info.clone() }
}

/// A key pair of somebody else, by name and seed.
#[derive(Debug, Clone)]
pub(super) struct Theirs {
    name: &'static str,
    key: SigningKey,
}

impl Theirs {
    pub(super) fn new(name: &'static str, seed: u8) -> Self {
        Self { name, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey::new(self.name, self.key.verifying_key()).unwrap()
    }

    pub(super) fn sign(&self, info: &NarInfo) -> Signature {
        let bytes = self.key.sign(info.fingerprint(&dir()).as_bytes()).to_bytes();
        Signature { name: self.name.to_owned(), bytes }
    }

    /// The narinfo with its signature, behind those that it has.
    pub(super) fn signed(&self, info: &NarInfo) -> NarInfo {
        let mut signed = info.clone();
        signed.sigs.push(self.sign(info));
        signed
    }
}

/// A key of our own.
pub(super) fn ours(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

/// An upstream that is trusted like this and that nobody listens at.
pub(super) fn upstream(trust: &str, keys: &[&Theirs]) -> Arc<Upstream> {
    upstream_at("http://127.0.0.1:1/cache", "a", trust, keys)
}

pub(super) fn upstream_at(url: &str, name: &str, trust: &str, keys: &[&Theirs]) -> Arc<Upstream> {
    let keys: Vec<String> = keys.iter().map(|key| key.public().to_string()).collect();
    let toml = format!("url = '{url}'\nname = '{name}'\ntrust = '{trust}'\npublic_keys = {keys:?}");
    Upstream::new(Options::from_toml(&toml).unwrap(), 10, Metrics::default().upstream(name)).unwrap()
}

impl Proxy {
    /// The answer to a visitor of whom nothing is known.
    pub(super) async fn everybody(&self, request: Request, head: bool) -> Answer {
        self.answer(request, head, &Visitor::default()).await
    }

    /// The public space.
    pub(super) fn pipeline(&self) -> Pipeline {
        self.in_force.load().public.clone()
    }
}

/// The pipeline over an empty store, under this policy.
pub(super) fn pipeline(policy: Policy) -> Pipeline {
    proxy(policy).pipeline()
}

/// The same, with what reloads.
pub(super) fn proxy(policy: Policy) -> Proxy {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    let fills = Fills::new(store.clone(), 8, metrics.fill);
    Proxy::new(policy, store, fills, metrics.proxy).unwrap()
}

/// The same store under another policy.
pub(super) fn under(pipeline: &Pipeline, policy: Policy) -> Pipeline {
    Pipeline { shared: Arc::clone(&pipeline.shared), policy: Arc::new(policy), is_under_way: false }
}

/// A policy for these upstreams that signs with these keys.
pub(super) fn policy(upstreams: &[Arc<Upstream>], keys: Vec<SecretKey>) -> Policy {
    let signer = Signer::new(sign::Options::from_toml("").unwrap(), keys);
    Policy::new(super::Options::from_toml("prefetch = '0 B'").unwrap(), upstreams.to_vec(), signer)
}
