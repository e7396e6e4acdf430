//! The pipeline between the edge and everything that has bytes.
//!
//! A request is one of four: `nix-cache-info` is made here; a narinfo is looked up ([`narinfo`]) and signed ([`sign`]), a
//! NAR is found, joined or filled ([`nar`]), anything small is passed on and kept ([`small`]). Each of the three asks the
//! store first, joins whoever asks already, and asks the upstreams in order only then. What an upstream says is believed
//! only as [`trust::Verified`], and no longer once its NAR was found to be something else ([`quarantine`]); its answer has
//! three values (have, have not, unknown), and a 404 leaves only when every upstream said "have not" (R18).
//!
//! Each request runs under one [`Policy`] from its beginning to its end; a reload replaces the policy for the next ones.
//!
//! Out of scope: HTTP towards clients (conditions, ranges, headers: the edge), and how bytes are moved (`fill`).

pub mod answer;
mod entry;
pub mod examine;
mod flights;
mod hedge;
mod kept;
mod nar;
mod narinfo;
pub mod options;
mod outage;
mod policy;
mod quarantine;
pub mod request;
pub mod sign;
mod small;
mod sources;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

pub use options::Options;
pub use policy::Policy;

use self::answer::{Answer, FailureKind, Object, ObjectBody, Outcome, Reply};
use self::request::Request;
use crate::fill::Fills;
use crate::metrics::ProxyMetrics;
use crate::store::Store;

/// How long a "not found" waits for the disk tier to be opened: about what 1 TB takes.
const OPENING: Duration = Duration::from_secs(10);

/// Answers requests. Cloning is cheap: all clones are one proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    policy: Arc<ArcSwap<Policy>>,
}

/// What stays over reloads.
#[derive(Debug)]
struct Shared {
    store: Store,
    fills: Fills,
    metrics: ProxyMetrics,
    /// What is left to do under policies that were replaced.
    reloads: TaskTracker,
}

/// The proxy under one policy: what one request, and whatever it starts, works with.
#[derive(Debug, Clone)]
struct Pipeline {
    shared: Arc<Shared>,
    policy: Arc<Policy>,
}

impl Proxy {
    /// A proxy over `store`, under `policy`.
    pub fn new(policy: Policy, store: Store, fills: Fills, metrics: ProxyMetrics) -> Self {
        Self {
            shared: Arc::new(Shared { store, fills, metrics, reloads: TaskTracker::new() }),
            policy: Arc::new(ArcSwap::from_pointee(policy)),
        }
    }

    /// The answer to a request. For HEAD (`head`) nothing is fetched that only a body would need, unless the
    /// head depends on it.
    pub async fn answer(&self, request: Request, head: bool) -> Answer {
        let pipeline = self.pipeline();
        let answer = self.answer_under(&pipeline, request, head).await;
        outage::told(&pipeline.policy, answer)
    }

    async fn answer_under(&self, pipeline: &Pipeline, request: Request, head: bool) -> Answer {
        if self.shared.store.is_open() {
            return pipeline.answer(request, head).await;
        }
        // Until the disk tier is open a "not found" may be wrong, and clients remember it for an hour.
        let answer = pipeline.answer(request.clone(), head).await;
        if !answer.is_not_found() {
            return answer;
        }
        if !self.shared.store.opened(OPENING).await {
            let text = "the store is still being opened; try again";
            return Answer::failed(Outcome::Unknown, FailureKind::BadGateway, text);
        }
        pipeline.answer(request, head).await
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts another policy in force, for every request from now on. What was asked under the one before is still answered
    /// under it.
    pub fn reload(&self, policy: Policy) {
        let before = self.policy.swap(Arc::new(policy));
        before.retire();
        // Another key or another upstream may have what was not there before.
        self.shared.store.forget_negatives();
        self.shared.reloads.spawn(async move { before.finish().await });
    }

    /// Ends what runs in the background: questions are waited for, fills broken off. No request may be answered any
    /// more.
    pub async fn stop(&self) {
        self.policy.load().finish().await;
        self.shared.reloads.close();
        self.shared.reloads.wait().await;
        self.shared.fills.stop().await;
    }

    fn pipeline(&self) -> Pipeline {
        Pipeline { shared: Arc::clone(&self.shared), policy: self.policy() }
    }
}

impl Pipeline {
    async fn answer(&self, request: Request, head: bool) -> Answer {
        match request {
            Request::CacheInfo => self.cache_info(),
            Request::NarInfo(hash) => self.narinfo(hash).await,
            Request::Nar(name) => self.nar(name, head).await,
            Request::Small(small) => self.small(small).await,
        }
    }

    /// Always answered here, whatever the upstreams do: without it Nix drops the whole cache (protocol.md 4).
    fn cache_info(&self) -> Answer {
        let reply = Reply::Object(Object {
            content_type: "text/x-nix-cache-info",
            encoding: None,
            body: ObjectBody::Whole(self.policy.cache_info.clone()),
            max_age: 3600,
        });
        Answer { outcome: Outcome::Local, reply }
    }
}
