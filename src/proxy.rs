//! The pipeline between the edge and everything that has bytes.
//!
//! A request is one of four: `nix-cache-info` is made here; a narinfo is looked up ([`narinfo`]) and signed ([`sign`]), a
//! NAR is found, joined or filled ([`nar`]), anything small is passed on and kept ([`small`]). Each of the three asks the
//! store first, joins whoever asks already, and asks the upstreams in order only then. What an upstream says is believed
//! only as [`trust::Verified`], and no longer once its NAR was found to be something else ([`quarantine`]); its answer has
//! three values (have, have not, unknown), and a 404 leaves only when every upstream said "have not" (R18).
//!
//! Public upstreams and each private one are a space of their own ([`spaces`]): the same pipeline over its own part of the
//! store, its own fills and its own [`Policy`]. A request sees the public space and those that its client is granted (R15).
//! It runs under one configuration from its beginning to its end; a reload replaces that for the next ones.
//!
//! Out of scope: HTTP towards clients (conditions, ranges, headers: the edge), and how bytes are moved (`fill`).

mod about;
mod ahead;
pub mod answer;
mod entry;
pub mod examine;
pub mod fetch;
mod flights;
mod hedge;
pub mod held;
mod kept;
mod library;
mod nar;
mod narinfo;
pub mod options;
mod outage;
mod policy;
mod purge;
mod quarantine;
pub mod request;
pub mod sign;
mod small;
mod sources;
mod spaces;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod waiting;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use about::About;
pub use options::Options;
pub use policy::Policy;
pub use purge::Purged;
pub use spaces::Policies;

use self::ahead::Ahead;
use self::answer::{Answer, FailureKind, Object, ObjectBody, Outcome, Reply};
use self::request::{Asker, Request};
use self::spaces::{InForce, Spaces, View};
use self::waiting::{Waiter, Waiting};
use crate::access::Visitor;
use crate::fill::{Fills, Progress};
use crate::library::Library;
use crate::metrics::ProxyMetrics;
use crate::store::{Store, Usage};
use crate::upstream::Upstream;

/// How long a "not found" waits for the disk tier to be opened: about what 1 TB takes.
const OPENING: Duration = Duration::from_secs(10);

/// Answers requests. Cloning is cheap: all clones are one proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    spaces: Arc<Spaces>,
    in_force: Arc<ArcSwap<InForce>>,
}

/// What stays of a space over reloads.
#[derive(Debug)]
struct Shared {
    store: Store,
    fills: Fills,
    waiting: Waiting,
    /// Nothing comes to it from private spaces.
    library: Library,
    ahead: Ahead,
    metrics: ProxyMetrics,
}

/// A space under one policy: what one request, and whatever it starts there, works with.
#[derive(Debug, Clone)]
struct Pipeline {
    shared: Arc<Shared>,
    policy: Arc<Policy>,
    /// For a response that is on its way: it is not broken off for want of a place among those who wait.
    is_under_way: bool,
}

impl Proxy {
    /// A proxy over `store`, under these policies.
    ///
    /// Blocking, where there are private upstreams: a small file.
    ///
    /// # Errors
    /// There are private upstreams, and the system gives no random bytes to name their spaces with.
    pub fn new(policies: impl Into<Policies>, store: Store, fills: Fills, metrics: ProxyMetrics) -> io::Result<Self> {
        let waiting = Waiting::new(metrics.waiting.clone());
        let library = Library::new(metrics.library.clone());
        let ahead = Ahead::new(store.clone(), fills.clone(), metrics.prefetching.clone());
        let spaces = Spaces::new(Shared { store, fills, waiting, library, ahead, metrics });
        let in_force = spaces.in_force(policies.into())?;
        Ok(Self { spaces: Arc::new(spaces), in_force: Arc::new(ArcSwap::from_pointee(in_force)) })
    }

    /// The answer to a request of this visitor. For HEAD (`head`) nothing is fetched that only a body would need, unless
    /// the head depends on it.
    pub async fn answer(&self, request: Request, head: bool, visitor: &Visitor<'_>) -> Answer {
        let view = self.in_force.load().view(visitor);
        let asker = Asker { address: visitor.address, head, prefetch: visitor.prefetch };
        self.answer_under(&view, request, asker).await
    }

    async fn answer_under(&self, view: &View, request: Request, asker: Asker) -> Answer {
        let store = self.store();
        if store.is_open() {
            return view.answer(request, asker).await;
        }
        // Until the disk tier is open a "not found" may be wrong, and clients remember it for an hour.
        let answer = view.answer(request.clone(), asker).await;
        if !answer.is_not_found() {
            return answer;
        }
        if !store.opened(OPENING).await {
            let text = "the store is still being opened; try again";
            return Answer::failed(Outcome::Unknown, FailureKind::BadGateway, text);
        }
        view.answer(request, asker).await
    }

    /// So many clients may wait for upstreams at a time, from now on; before that, any number.
    pub fn bound_waiting(&self, most: u32) {
        self.spaces.public.waiting.bound(most);
    }

    /// Whether a visitor is granted anything that not everybody may see.
    pub fn is_granted(&self, visitor: &Visitor<'_>) -> bool {
        self.in_force.load().grants(visitor).is_some()
    }

    /// The name of the token that a visitor shows, where it is one that `[[access]]` knows.
    pub fn token_name(&self, visitor: &Visitor<'_>) -> Option<Arc<str>> {
        self.in_force.load().token_name(visitor)
    }

    /// The upstreams in force, for who builds the next policies out of them.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.in_force.load().pipelines().flat_map(|pipeline| pipeline.policy.upstreams.iter().cloned()).collect()
    }

    /// The NARs that are being fetched, of all spaces, the first begun first.
    pub fn fills(&self) -> Vec<Progress> {
        let in_force = self.in_force.load();
        let mut fills: Vec<Progress> =
            in_force.pipelines().flat_map(|pipeline| pipeline.shared.fills.progress()).collect();
        fills.sort_by_key(|fill| std::cmp::Reverse(fill.since));
        fills
    }

    /// How full the store is, of all spaces together.
    pub fn usage(&self) -> Usage {
        self.store().usage()
    }

    /// Looks whether the files with tokens changed.
    ///
    /// Blocking: a look at each file; a small file if it changed.
    pub fn refresh_access(&self) {
        self.in_force.load_full().refresh_access();
    }

    /// Puts other policies in force, for every request from now on. What was asked under those before is still answered
    /// under them.
    ///
    /// Blocking, as [`Proxy::new`].
    ///
    /// # Errors
    /// As of [`Proxy::new`]; then nothing changes.
    pub fn reload(&self, policies: impl Into<Policies>) -> io::Result<()> {
        let next = self.spaces.in_force(policies.into())?;
        let before = self.in_force.swap(Arc::new(next));
        before.pipelines().for_each(|pipeline| pipeline.policy.retire());
        // Another key or another upstream may have what was not there before.
        self.store().forget_negatives();
        self.spaces.reloads.spawn(async move { before.finish().await });
        Ok(())
    }

    /// Ends what runs in the background: questions are waited for, fills broken off. No request may be answered any
    /// more.
    pub async fn stop(&self) {
        self.spaces.public.ahead.stop().await;
        self.in_force.load_full().finish().await;
        self.spaces.reloads.close();
        self.spaces.reloads.wait().await;
        self.spaces.public.fills.stop().await;
    }

    fn store(&self) -> &Store {
        &self.spaces.public.store
    }
}

impl Pipeline {
    async fn answer(&self, request: Request, asker: Asker) -> Answer {
        let answer = match request {
            Request::CacheInfo => self.cache_info(asker.address),
            Request::NarInfo(hash) => self.narinfo(hash, asker).await,
            Request::Nar(name) => self.nar(name, asker.head).await,
            Request::Small(small) => self.small(small).await,
        };
        outage::told(&self.policy, answer)
    }

    /// A place among those who wait for upstreams; `None` when there are as many as there may be.
    fn place(&self) -> Option<Waiter> {
        if self.is_under_way { Some(Waiter::apart()) } else { self.shared.waiting.place() }
    }

    /// What comes of asking, for who finds a place to wait for it.
    async fn waited<V>(&self, asking: impl Future<Output = (Option<V>, bool)>) -> (Option<V>, bool) {
        let Some(_place) = self.place() else { return (None, false) };
        asking.await
    }

    /// For a response that is on its way.
    fn under_way(&self) -> Self {
        Self { is_under_way: true, ..self.clone() }
    }

    /// Always answered here, whatever the upstreams do: without it Nix drops the whole cache (protocol.md 4).
    ///
    /// Where clients are told different things, no cache in between may keep what one of them was told: there is no field
    /// of the request that `Vary` could name.
    fn cache_info(&self, client: Option<IpAddr>) -> Answer {
        let reply = Reply::Object(Object {
            content_type: "text/x-nix-cache-info",
            encoding: None,
            body: ObjectBody::Whole(self.policy.cache_info(client).render().into()),
            max_age: 3600,
        });
        let private = !self.policy.options.priority_for.is_empty();
        Answer { private, ..Answer::public(Outcome::Local, reply) }
    }
}
