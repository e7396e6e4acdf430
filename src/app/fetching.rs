//! Having many paths here, one by one or with all that they refer to: what `import`, `warm` and `export` do.

use std::collections::{HashSet, VecDeque};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use crate::nix::store_path::HashPart;
use crate::proxy::Proxy;
use crate::proxy::fetch::Fetched;

/// Paths at a time.
const AT_A_TIME: usize = 8;
/// Paths of one closure; the largest system has some ten thousand.
const MOST: usize = 1 << 20;
/// So many reasons are told; the rest is counted.
const REASONS: usize = 20;

/// What came of all paths so far.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Paths that are known to be wanted: in a closure they become more as it goes.
    pub(super) known: u64,
    /// Paths that came.
    pub(super) new: u64,
    /// Paths that were here already.
    pub(super) here: u64,
    /// Paths that did not come.
    pub(super) failed: u64,
    /// Bytes of NARs that came.
    pub(super) bytes: u64,
    /// Why some did not come, a line each.
    pub(super) reasons: Vec<String>,
}

impl Tally {
    /// Paths of which it is known what came of them.
    pub(super) fn seen(&self) -> u64 {
        self.new + self.here + self.failed
    }

    /// How far it is. `came`: the word for what is here now and was not.
    pub(super) fn line(&self, came: &str) -> String {
        let Self { known, new, here, failed, bytes, .. } = self;
        let (seen, mib) = (self.seen(), bytes >> 20);
        format!("{seen} of {known}: {new} {came} ({mib} MiB), {here} were here already, {failed} not {came}")
    }

    fn fail(&mut self, hash: HashPart, why: &str) {
        self.failed += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(format!("{hash}: {why}"));
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These paths.
    Paths,
    /// These paths, what they refer to, and so on.
    Closures,
}

/// Has them here, and tells after each how far it is.
pub(super) async fn fetch(
    proxy: &Proxy,
    roots: impl IntoIterator<Item = HashPart>,
    wanted: Wanted,
    tell: impl FnMut(&Tally),
) -> Tally {
    fetch_by(|hash| async move { (hash, proxy.fetch(hash).await) }, roots, wanted, tell).await
}

/// The same by `one`, which has one of them here.
pub(super) async fn fetch_by<F: Future<Output = (HashPart, Fetched)>>(
    one: impl Fn(HashPart) -> F,
    roots: impl IntoIterator<Item = HashPart>,
    wanted: Wanted,
    mut tell: impl FnMut(&Tally),
) -> Tally {
    let (mut tally, mut known, mut left) = (Tally::default(), HashSet::new(), VecDeque::new());
    left.extend(roots.into_iter().filter(|hash| known.insert(*hash)));
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_A_TIME
            && let Some(hash) = left.pop_front()
        {
            running.push(one(hash));
        }
        tally.known = known.len() as u64;
        tell(&tally);
        let Some((hash, fetched)) = running.next().await else { return tally };
        let path = match fetched {
            Fetched::New(path, bytes) => {
                tally.new += 1;
                tally.bytes += bytes;
                path
            }
            Fetched::Here(path) => {
                tally.here += 1;
                path
            }
            // What it refers to is wanted all the same.
            Fetched::Lost(path, why) => {
                tally.fail(hash, &why);
                path
            }
            Fetched::Missing => {
                tally.fail(hash, "no upstream has it");
                continue;
            }
            Fetched::Failed(why) => {
                tally.fail(hash, &why);
                continue;
            }
        };
        if wanted == Wanted::Closures {
            let mut further = path.references;
            further.retain(|hash| known.len() < MOST && known.insert(*hash));
            left.extend(further);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fetch::Path;

    fn hash(n: char) -> HashPart {
        HashPart::parse(&n.to_string().repeat(32)).unwrap()
    }

    #[tokio::test]
    async fn what_a_path_refers_to_is_wanted_also_where_its_nar_cannot_be_had() {
        let path =
            |n: char, to: &[char]| Path { name: n.to_string(), references: to.iter().copied().map(hash).collect() };
        let one = |asked: HashPart| {
            let fetched = match asked {
                asked if asked == hash('a') => Fetched::Lost(path('a', &['b', 'c']), "gone".to_owned()),
                asked if asked == hash('b') => Fetched::Missing,
                _ => Fetched::New(path('c', &[]), 5),
            };
            std::future::ready((asked, fetched))
        };
        let tally = fetch_by(one, [hash('a')], Wanted::Closures, |_| {}).await;
        assert_eq!((tally.known, tally.new, tally.failed), (3, 1, 2));
        assert!(tally.reasons.iter().any(|reason| reason.ends_with(": gone")), "{:?}", tally.reasons);
    }
}
