//! The pipeline between the edge and everything that has bytes.
//!
//! A request is one of four: `nix-cache-info` is made here; a narinfo is looked up ([`narinfo`]), a NAR is found, joined
//! or filled ([`nar`]), anything small is passed on and kept ([`small`]). Each of the three asks the store first, joins
//! whoever asks already, and asks the upstreams in order only then. What an upstream says is believed only as
//! [`trust::Verified`]; its answer has three values (have, have not, unknown), and a 404 leaves only when every upstream
//! said "have not" (R18).
//!
//! Out of scope: HTTP towards clients (conditions, ranges, headers: the edge), and how bytes are moved (`fill`).

pub mod answer;
mod entry;
mod flights;
mod nar;
mod narinfo;
pub mod options;
pub mod request;
pub mod sign;
mod small;
mod sources;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use options::Options;

use self::answer::{Answer, FailureKind, Object, ObjectBody, Outcome, Reply};
use self::flights::Flights;
use self::request::Request;
use crate::fill::Fills;
use crate::metrics::ProxyMetrics;
use crate::nix::cache_info::CacheInfo;
use crate::nix::store_path::{HashPart, StoreDir};
use crate::store::Store;
use crate::upstream::Upstream;

/// How long a "not found" waits for the disk tier to be opened: about what 1 TB takes.
const OPENING: Duration = Duration::from_secs(10);

/// Answers requests. Cloning is cheap: all clones are one proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    store_dir: StoreDir,
    cache_info: Bytes,
    /// In the order in which they are asked; neighbours of the same rank side by side.
    upstreams: Vec<Arc<Upstream>>,
    /// By name, with what trust in it rests on today.
    by_name: HashMap<Arc<str>, (Arc<Upstream>, [u8; 16])>,
    store: Store,
    fills: Fills,
    narinfos: Flights<HashPart, narinfo::Found>,
    announcers: Flights<nar::Meant, sources::Announcers>,
    smalls: Flights<String, small::Found>,
    metrics: ProxyMetrics,
}

impl Proxy {
    /// A proxy over `store`, asking `upstreams`.
    pub fn new(
        options: Options,
        mut upstreams: Vec<Arc<Upstream>>,
        store: Store,
        fills: Fills,
        metrics: ProxyMetrics,
    ) -> Self {
        upstreams.sort_by_key(|upstream| upstream.rank());
        let by_name = upstreams
            .iter()
            .map(|upstream| {
                (Arc::clone(upstream.name()), (Arc::clone(upstream), trust::fingerprint(upstream, &options.store_dir)))
            })
            .collect();
        let cache_info = CacheInfo {
            store_dir: options.store_dir.clone(),
            want_mass_query: options.want_mass_query,
            priority: options.priority,
        };
        Self {
            inner: Arc::new(Inner {
                store_dir: options.store_dir.clone(),
                cache_info: cache_info.render().into(),
                options,
                upstreams,
                by_name,
                store,
                fills,
                narinfos: Flights::new(),
                announcers: Flights::new(),
                smalls: Flights::new(),
                metrics,
            }),
        }
    }

    /// The answer to a request. For HEAD (`head`) nothing is fetched that only a body would need.
    pub async fn answer(&self, request: Request, head: bool) -> Answer {
        if self.inner.store.is_open() {
            return self.answer_now(request, head).await;
        }
        // Until the disk tier is open a "not found" may be wrong, and clients remember it for an hour.
        let answer = self.answer_now(request.clone(), head).await;
        if !answer.is_not_found() {
            return answer;
        }
        if !self.inner.store.opened(OPENING).await {
            let text = "the store is still being opened; try again";
            return Answer::failed(Outcome::Unknown, FailureKind::BadGateway, text);
        }
        self.answer_now(request, head).await
    }

    async fn answer_now(&self, request: Request, head: bool) -> Answer {
        match request {
            Request::CacheInfo => self.cache_info(),
            Request::NarInfo(hash) => self.narinfo(hash).await,
            Request::Nar(name) => self.nar(name, head).await,
            Request::Small(small) => self.small(small).await,
        }
    }

    /// Ends what runs in the background: questions are waited for, fills broken off. No request may be answered any
    /// more.
    pub async fn stop(&self) {
        self.inner.narinfos.finish().await;
        self.inner.announcers.finish().await;
        self.inner.smalls.finish().await;
        self.inner.fills.stop().await;
    }

    /// Always answered here, whatever the upstreams do: without it Nix drops the whole cache (protocol.md 4).
    fn cache_info(&self) -> Answer {
        let reply = Reply::Object(Object {
            content_type: "text/x-nix-cache-info",
            encoding: None,
            body: ObjectBody::Whole(self.inner.cache_info.clone()),
            max_age: 3600,
        });
        Answer { outcome: Outcome::Local, reply }
    }

    /// The upstreams in groups of the same rank.
    fn groups(&self) -> impl Iterator<Item = &[Arc<Upstream>]> {
        self.inner.upstreams.chunk_by(|a, b| a.rank() == b.rank())
    }
}
