//! One question to the upstreams: group after group, and the next one early where a group takes longer than it usually does.
//!
//! ```text
//! group 10  ──ask──────────── its members' usual time ─┬──────────▶ answers
//! group 20                                             └──ask─────▶ answers      whichever is believed first wins
//! ```
//!
//! An upstream that is slow today, or that a probe finds still dead, costs a question a few dozen milliseconds so, and not
//! its whole budget. That doubles what upstreams are asked, so it is rationed ([`Ration`]): when everything is slow, asking more
//! makes it slower. Only where a group seems not to answer at all is everybody let on: the next one will have to be asked
//! anyhow. That everybody is asked before anybody is told "have not" (R18) does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::vec;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::Pipeline;
use super::narinfo::Asked;
use crate::nix::store_path::HashPart;
use crate::upstream::Upstream;

/// How long a group that is late is waited for before it is asked again whether to wait.
const AGAIN: Duration = Duration::from_millis(100);

/// Answers that are still to come.
pub(super) type Others<'a> = BoxStream<'a, Asked>;

/// One question being asked.
pub(super) struct Asking<'a> {
    pipeline: &'a Pipeline,
    hash: HashPart,
    groups: vec::IntoIter<&'a [Arc<Upstream>]>,
    /// The group that was asked last, its number, and how many of it are still to answer.
    asked: &'a [Arc<Upstream>],
    number: usize,
    waited_for: usize,
    /// With the number of the group.
    answers: FuturesUnordered<BoxFuture<'a, (usize, Asked)>>,
    /// When the group that was asked last has taken longer than usual.
    late: Instant,
}

impl<'a> Asking<'a> {
    pub(super) fn begin(pipeline: &'a Pipeline, hash: HashPart) -> Self {
        pipeline.policy.hedges.earn();
        let groups: Vec<_> = pipeline.policy.groups().collect();
        Self {
            pipeline,
            hash,
            groups: groups.into_iter(),
            asked: &[],
            number: 0,
            waited_for: 0,
            answers: FuturesUnordered::new(),
            late: Instant::now(),
        }
    }

    /// The next answer; `None` when every upstream has given its own.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        loop {
            // Whoever of the groups before is still to answer is late already.
            if self.waited_for == 0 && !self.ask_next_group() && self.answers.is_empty() {
                return None;
            }
            if self.groups.as_slice().is_empty() {
                return self.answered().await;
            }
            match timeout_at(self.late, self.answered()).await {
                Ok(answer) => return answer,
                Err(_) if self.may_go_on() => {
                    self.pipeline.shared.metrics.hedges.inc();
                    self.ask_next_group();
                }
                Err(_) => self.late = Instant::now() + AGAIN,
            }
        }
    }

    async fn answered(&mut self) -> Option<Asked> {
        let (number, answer) = self.answers.next().await?;
        self.waited_for -= usize::from(number == self.number);
        Some(answer)
    }

    /// The answers that nobody waited for, because one before them was enough.
    pub(super) fn others(self) -> Others<'a> {
        self.answers.map(|(_, answer)| answer).boxed()
    }

    /// Whether the next group may be asked although the last one is still to answer.
    fn may_go_on(&self) -> bool {
        !self.asked.iter().all(|upstream| upstream.answers()) || self.pipeline.policy.hedges.spend()
    }

    fn ask_next_group(&mut self) -> bool {
        let Some(group) = self.groups.next() else { return false };
        let (pipeline, hash) = (self.pipeline, self.hash);
        self.number += 1;
        let number = self.number;
        self.answers.extend(
            group.iter().map(|upstream| async move { (number, pipeline.ask_one(upstream, hash).await) }.boxed()),
        );
        (self.asked, self.waited_for) = (group, group.len());
        let patience = group.iter().map(|upstream| upstream.patience()).max();
        self.late = Instant::now() + patience.unwrap_or_default();
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
