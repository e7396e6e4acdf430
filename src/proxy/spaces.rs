//! Spaces: the public upstreams together, and each private one by itself; and which of them a request sees (R15).
//!
//! ```text
//! Visitor ── access ──▶ View ──▶ pipeline of a private space ─┐
//!                            ├─▶ pipeline of the public space ├─▶ the first that has it, else "unknown", else "have not"
//!                            └─▶ pipeline of a private space ─┘
//! ```
//!
//! A space is a pipeline with its own upstreams over its own part of the store and its own fills. Nothing is decided here
//! about what a space may do: who is not granted one does not ask it, and what it works on cannot be named from outside it.
//! So nothing is shared either: a path that two spaces have is fetched and kept twice.
//!
//! Out of scope: who is granted what (`access`).

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use super::answer::{Answer, FailureKind, Outcome};
use super::options::Options;
use super::policy::Policy;
use super::request::{Asker, Request};
use super::sign::Signer;
use super::{Pipeline, Shared};
use crate::access::{Access, Grants, Visitor};
use crate::metrics::AccessDecision;
use crate::store::Kept;
use crate::upstream::Upstream;

/// What the configuration says about every space.
#[derive(Debug)]
pub struct Policies {
    public: Policy,
    private: Vec<Policy>,
    access: Access,
}

impl Policies {
    /// A space of its own for each private one of these upstreams, one for all the others.
    pub fn new(options: &Options, upstreams: Vec<Arc<Upstream>>, signer: Signer, access: Access) -> Self {
        let signer = Arc::new(signer);
        let (private, public): (Vec<_>, Vec<_>) =
            upstreams.into_iter().partition(|upstream| upstream.options().private);
        let policy = |upstreams| Policy::new(options.clone(), upstreams, Arc::clone(&signer));
        Self {
            private: private.into_iter().map(|upstream| policy(vec![upstream])).collect(),
            public: policy(public),
            access,
        }
    }
}

/// Public upstreams only.
impl From<Policy> for Policies {
    fn from(public: Policy) -> Self {
        Self { public, private: Vec::new(), access: Access::default() }
    }
}

/// What stays of all spaces over reloads.
#[derive(Debug)]
pub(super) struct Spaces {
    pub(super) public: Arc<Shared>,
    /// By the names of the upstreams. One that was taken out is kept: its fills may run still when it comes back. As many
    /// as configurations ever named.
    private: Mutex<HashMap<Arc<str>, Arc<Shared>>>,
    /// What is left to do under policies that were replaced.
    pub(super) reloads: TaskTracker,
}

impl Spaces {
    pub(super) fn new(public: Shared) -> Self {
        Self { public: Arc::new(public), private: Mutex::default(), reloads: TaskTracker::new() }
    }

    /// The spaces of these policies.
    pub(super) fn in_force(&self, policies: Policies) -> io::Result<InForce> {
        let Policies { public, private, access } = policies;
        let public_rank = public.caches().next().map_or(u32::MAX, |upstream| upstream.rank());
        let mut found = Vec::with_capacity(private.len());
        for policy in private {
            let Some(upstream) = policy.upstreams.first() else { continue };
            let (rank, grant) = (upstream.rank(), access.grant_of(upstream.name()));
            let shared = self.private(upstream)?;
            found.push(Private {
                rank,
                grant,
                pipeline: Pipeline { shared, policy: Arc::new(policy), is_under_way: false },
            });
        }
        found.sort_by_key(|private| private.rank);
        let before = found.iter().take_while(|private| private.rank < public_rank).count();
        let public = Pipeline { shared: Arc::clone(&self.public), policy: Arc::new(public), is_under_way: false };
        Ok(InForce { public, private: found, before, access })
    }

    /// By name and address: who takes over a name does not take over what is kept under it.
    fn private(&self, upstream: &Upstream) -> io::Result<Arc<Shared>> {
        let name: Arc<str> = format!("{}\n{}", upstream.name(), upstream.base()).into();
        let mut private = self.private.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = private.get(&name) {
            return Ok(Arc::clone(known));
        }
        let Shared { store, fills, waiting, library, ahead, metrics } = &*self.public;
        let store = store.private(&name)?;
        let (fills, waiting, metrics) = (fills.beside(store.clone()), waiting.clone(), metrics.clone());
        let (library, ahead) = (library.clone(), ahead.clone());
        let shared = Arc::new(Shared { store, fills, waiting, library, ahead, metrics });
        private.insert(name, Arc::clone(&shared));
        Ok(shared)
    }
}

/// One configuration's spaces, and who sees which.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) public: Pipeline,
    /// In the order in which they are asked.
    private: Vec<Private>,
    /// How many of them are asked before the public space: those whose priority is before that of every public upstream.
    before: usize,
    access: Access,
}

#[derive(Debug)]
struct Private {
    rank: u32,
    /// What a visitor must be granted.
    grant: Grants,
    pipeline: Pipeline,
}

impl InForce {
    /// Every space.
    pub(super) fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.private.iter().map(|private| &private.pipeline).chain([&self.public])
    }

    /// The private ones.
    pub(super) fn private(&self) -> impl Iterator<Item = &Pipeline> {
        self.private.iter().map(|private| &private.pipeline)
    }

    /// Every space, in the order in which they are asked.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Pipeline> {
        let (before, after) = self.private.split_at(self.before);
        let before = before.iter().map(|private| &private.pipeline);
        before.chain([&self.public]).chain(after.iter().map(|private| &private.pipeline))
    }

    /// Whose a thing is that a walk over the store found, and what it is called there.
    pub(super) fn owner(&self, found: &Kept) -> Option<(Pipeline, Kept)> {
        self.pipelines().find_map(|pipeline| Some((pipeline.clone(), pipeline.shared.store.own(found)?)))
    }

    pub(super) fn grants(&self, visitor: &Visitor<'_>) -> Grants {
        self.access.grants(visitor)
    }

    /// See [`Access::token_name`].
    pub(super) fn token_name(&self, visitor: &Visitor<'_>) -> Option<Arc<str>> {
        self.access.token_name(visitor)
    }

    pub(super) fn refresh_access(&self) {
        self.access.refresh();
    }

    /// What a visitor sees.
    pub(super) fn view(&self, visitor: &Visitor<'_>) -> View {
        let (grants, counter) = (self.grants(visitor), &self.public.shared.metrics.access);
        if !grants.is_some() {
            if visitor.authorization.is_some() {
                counter.of(AccessDecision::Refused).inc();
            }
            return View::Public(self.public.clone());
        }
        counter.of(AccessDecision::Granted).inc();
        let granted = |private: &Private| grants.include(private.grant);
        let seen = |private: &Private| Seen { pipeline: private.pipeline.clone(), private: true };
        let (before, after) = self.private.split_at(self.before);
        let mut spaces: Vec<Seen> = before.iter().filter(|private| granted(private)).map(seen).collect();
        spaces.push(Seen { pipeline: self.public.clone(), private: false });
        spaces.extend(after.iter().filter(|private| granted(private)).map(seen));
        View::Granted(spaces)
    }

    /// Waits until every question being asked under these policies was answered.
    pub(super) async fn finish(&self) {
        for pipeline in self.pipelines() {
            pipeline.policy.finish().await;
        }
    }
}

/// The spaces that a request sees.
pub(super) enum View {
    /// What everybody sees.
    Public(Pipeline),
    /// That and private ones, in the order in which they are asked.
    Granted(Vec<Seen>),
}

/// One of several spaces.
pub(super) struct Seen {
    pipeline: Pipeline,
    private: bool,
}

impl View {
    pub(super) async fn answer(&self, request: Request, asker: Asker) -> Answer {
        let spaces = match self {
            Self::Public(public) => return public.answer(request, asker).await,
            Self::Granted(spaces) => spaces,
        };
        // What the cache is called is no secret.
        let asked = |seen: &&Seen| !seen.private || request != Request::CacheInfo;
        let mut together = None;
        // One after the other, however slow one is: asked beside a private space, the public one would remember that nobody
        // else has the path, which outsiders could tell from a path that nobody asked for.
        for Seen { pipeline, private } in spaces.iter().filter(asked) {
            let answer = pipeline.answer(request.clone(), asker).await;
            let answer = Answer { private: *private || answer.private, ..answer };
            if answer.is_had() {
                return answer;
            }
            together = Some(weightier(together, answer));
        }
        together.unwrap_or_else(|| Answer::failed(Outcome::NotFound, FailureKind::NotFound, "no upstream has it"))
    }
}

/// An unknown answer of one space must not become a 404 by what another one says (R18).
fn weightier(said: Option<Answer>, answer: Answer) -> Answer {
    match said {
        Some(said) if !said.is_not_found() || answer.is_not_found() => said,
        _ => answer,
    }
}

#[cfg(test)]
mod tests;
