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

pub const CASE: Case = Case {
    name: "cold-build",
    what: "fresh machines get a closure by Nix through an empty cache, upstream at 0, 30 and 80 ms and 20 MB/s",
    run: |bench| {
        let (wide, long) = (wide(bench), closure::chain(bench.options.size(50, 5) as usize));
        let large = closure::alone(bench.options.size((64 << 20) - 4096, 17 << 20));
        let near = bench.distances().into_iter().map(|distance| row(bench, ("wide", &wide), distance, ONE));
        near.chain([
            row(bench, ("wide", &wide), bench.far(), SIXTEEN),
            row(bench, ("chain", &long), bench.far(), ONE),
            row(bench, ("large", &large), bench.far(), ONE),
        ])
        .collect()
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

fn row(bench: &Bench, (name, members): (&str, &[Member]), distance: Duration, at_once: usize) -> Row {
    let paths = bench.closure(name, members);
    let _away = bench.origin.place(distance, WIDTH);
    let variant = format!("{name}, {} paths, {} ms, {at_once} NARs at a time", paths.len(), distance.as_millis());
    alternate(bench, (CASE.name, &variant), &mut way::ALL.to_vec(), |way| measure(bench, *way, &paths, at_once))
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
