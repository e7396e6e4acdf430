//! A build of nothing: a fresh machine gets a path with all that it needs, from a cache that has none of it, by real Nix.
//!
//! The upstream is 0, 30 or 80 ms away and gives each connection 20 MB/s; Nix comes straight, or through a server that is as near
//! as can be. Everything is in memory, and all speak plain HTTP/1.1, as the origin does, so that what differs is when what is asked
//! for and nothing else. Then another fresh machine gets the same from what the server keeps.

mod four;
pub mod way;

use super::Case;
use crate::bench::Bench;
use crate::closure::{self, Member};
use crate::corpus::StorePath;
use crate::load::nix::{Build, ONE, SIXTEEN};
use crate::origin::Fetched;
use crate::rounds::{COLD, COPIES, CPU, NARS, Row, Sample, UPSTREAM, WARM, alternate};
use std::sync::Arc;
use std::time::Duration;
use way::Way;

pub use four::CASE as FOUR;

pub const WIDE: Case = Case {
    name: "cold-build",
    what: "a fresh machine gets 202 paths by Nix through an empty cache, upstream at 0, 30 and 80 ms and 20 MB/s",
    run: |bench| {
        let wide = wide(bench);
        let mut rows: Vec<Row> = Vec::new();
        for distance in bench.distances() {
            rows.push(row(bench, WIDE.name, ("wide", &wide), distance, ONE));
        }
        rows.push(row(bench, WIDE.name, ("wide", &wide), bench.far(), SIXTEEN));
        rows
    },
};
pub const CHAIN: Case = Case {
    name: "cold-build-chain",
    what: "the same with 50 paths, each of which refers to the next, upstream at 80 ms",
    run: |bench| {
        let chain = closure::chain(bench.options.size(50, 5) as usize);
        vec![row(bench, CHAIN.name, ("chain", &chain), bench.far(), ONE)]
    },
};
pub const LARGE: Case = Case {
    name: "cold-build-large",
    what: "the same with one path of 64 MiB, upstream at 80 ms",
    run: |bench| {
        // With what is around the file it is 64 MiB at most.
        let large = closure::alone(bench.options.size((64 << 20) - 4096, 17 << 20));
        vec![row(bench, LARGE.name, ("large", &large), bench.far(), ONE)]
    },
};

/// The closure of most cases.
pub fn wide(bench: &Bench) -> Vec<Member> {
    closure::deep_and_wide(bench.options.size(200, 16) as usize)
}

/// Bytes that a connection to the upstream carries in a second.
pub const WIDTH: u64 = 20_000_000;

impl Bench {
    /// How far the upstream is, in turn.
    fn distances(&self) -> Vec<Duration> {
        let all: &[u64] = if self.options.short { &[3] } else { &[0, 30, 80] };
        all.iter().copied().map(Duration::from_millis).collect()
    }

    /// The farthest of them.
    pub fn far(&self) -> Duration {
        Duration::from_millis(self.options.size(80, 3))
    }
}

fn row(
    bench: &Bench,
    case: &'static str,
    (name, members): (&str, &[Member]),
    distance: Duration,
    at_once: usize,
) -> Row {
    let paths = bench.closure(name, members);
    let _away = bench.origin.place(distance, WIDTH);
    let variant = format!("{} paths, {} ms, NARs at a time: {at_once}", paths.len(), distance.as_millis());
    alternate(bench, (case, &variant), &mut way::ALL.to_vec(), |way| measure(bench, *way, &paths, at_once))
}

fn measure(bench: &Bench, way: Way, paths: &[Arc<StorePath>], at_once: usize) -> Sample {
    let server = way.start(bench);
    let url = way::url(bench, server.as_ref());
    let build = || Build::begin(bench, paths.last().expect("a root"), &url, at_once).end(paths.len());
    bench.origin.forget();
    let before = bench.origin.requests();
    let (cold, cpu) = match &server {
        Some(server) => server.cost_of(build),
        None => (build(), f64::NAN),
    };
    let asked = (bench.origin.requests() - before) as f64;
    let mut sample = vec![(COLD, cold)];
    if let Some(server) = &server {
        server.wait_until_it_rests();
        sample.push((WARM, build()));
    }
    let (nars, copies) = count(bench, paths);
    assert!(copies <= 1.0, "{way:?}: a NAR came {copies} times from the upstream");
    sample.extend([(UPSTREAM, asked), (NARS, nars as f64), (COPIES, copies)]);
    if server.is_some() {
        sample.push((CPU, cpu));
    }
    sample
}

/// How many of these NARs came from the upstream, and how often the one that came most often did, by its bytes.
pub fn count(bench: &Bench, paths: &[Arc<StorePath>]) -> (usize, f64) {
    let fetched = bench.origin.fetched();
    let of = |path: &Arc<StorePath>| fetched.get(&path.nar_target()).map(|Fetched { bytes, .. }| *bytes);
    let came: Vec<f64> = paths.iter().filter_map(|path| Some(of(path)? as f64 / path.nar.len() as f64)).collect();
    (came.len(), came.iter().copied().fold(0.0, f64::max))
}
