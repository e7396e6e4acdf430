//! One question to the upstreams: group after group, and the next one early where a group takes longer than it usually does.
//!
//! ```text
//! group 10  ──ask──────────── its members' usual time ─┬──────────▶ answers
//! group 20                                             └──ask─────▶ answers      whichever is believed first wins
//! ```
//!
//! An upstream that is slow today, or that a probe finds still dead, costs a question a few dozen milliseconds so, and not
//! its whole budget. That doubles what upstreams are asked, so it is rationed ([`Ration`]): when everything is slow, asking more
//! makes it slower. That everybody is asked before anybody is told "have not" (R18) does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::vec;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::Pipeline;
use super::narinfo::Asked;
use crate::nix::store_path::HashPart;
use crate::upstream::Upstream;

/// Answers that are still to come.
pub(super) type Others<'a> = FuturesUnordered<BoxFuture<'a, Asked>>;

/// One question being asked.
pub(super) struct Asking<'a> {
    pipeline: &'a Pipeline,
    hash: HashPart,
    groups: vec::IntoIter<&'a [Arc<Upstream>]>,
    answers: Others<'a>,
    /// When the group that was asked last has taken longer than usual.
    late: Option<Instant>,
}

impl<'a> Asking<'a> {
    pub(super) fn begin(pipeline: &'a Pipeline, hash: HashPart) -> Self {
        pipeline.policy.hedges.earn();
        let groups: Vec<_> = pipeline.policy.groups().collect();
        Self { pipeline, hash, groups: groups.into_iter(), answers: Others::new(), late: None }
    }

    /// The next answer; `None` when every upstream has given its own.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        loop {
            if self.answers.is_empty() && !self.ask_next_group() {
                return None;
            }
            let Some(late) = self.late.filter(|_| !self.groups.as_slice().is_empty()) else {
                return self.answers.next().await;
            };
            match timeout_at(late, self.answers.next()).await {
                Ok(answer) => return answer,
                Err(_) => {
                    self.late = None;
                    if self.pipeline.policy.hedges.spend() {
                        self.pipeline.shared.metrics.hedges.inc();
                        self.ask_next_group();
                    }
                }
            }
        }
    }

    /// The answers that nobody waited for, because one before them was enough.
    pub(super) fn others(self) -> Others<'a> {
        self.answers
    }

    fn ask_next_group(&mut self) -> bool {
        let Some(group) = self.groups.next() else { return false };
        let (pipeline, hash) = (self.pipeline, self.hash);
        self.answers
            .extend(group.iter().map(|upstream| Box::pin(pipeline.ask_one(upstream, hash)) as BoxFuture<'_, _>));
        // All of them are waited for, and a member that nobody knows yet is given its budget.
        let usual = group.iter().map(|upstream| upstream.patience());
        let usual = usual.reduce(|a, b| Some(a?.max(b?))).flatten();
        self.late = usual.map(|usual: Duration| Instant::now() + usual);
        true
    }
}

/// What may be asked early: one question for every five, and not many at once after a long calm.
#[derive(Debug, Default)]
pub(super) struct Ration {
    /// In fifths of a question.
    saved: AtomicU32,
}

impl Ration {
    /// Fifths that an early question costs.
    const COST: u32 = 5;
    /// Early questions saved up at most.
    const MOST: u32 = 20;

    /// A question is asked.
    fn earn(&self) {
        let more = |saved| (saved < Self::MOST * Self::COST).then_some(saved + 1);
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether one may be asked early; paid for then.
    fn spend(&self) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(Self::COST)).is_ok()
    }
}

#[cfg(test)]
mod tests;
