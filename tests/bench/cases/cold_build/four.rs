//! Four fresh machines at once, beside one alone: the last of them has to wait little longer than one would.

use super::{WIDTH, count, way, wide};
use crate::bench::Bench;
use crate::cases::Case;
use crate::cases::cold_build::way::Way;
use crate::corpus::StorePath;
use crate::load::nix::{Build, ONE};
use crate::rounds::{
    COPIES, FOUR_TO_ONE, LAST_OF_FOUR, LAST_OF_FOUR_WARM, NARS, ONE_ALONE, Row, Sample, UPSTREAM, alternate,
};
use std::sync::Arc;

pub const CASE: Case = Case {
    name: "cold-build-four",
    what: "four fresh machines at once get a closure by Nix through an empty cache, upstream at 80 ms and 20 MB/s",
    run: |bench| vec![run(bench)],
};

const MACHINES: usize = 4;

fn run(bench: &Bench) -> Row {
    let paths = bench.closure("wide", &wide(bench));
    let _away = bench.origin.place(bench.far(), WIDTH);
    let variant = format!("{} paths, {} ms", paths.len(), bench.far().as_millis());
    alternate(bench, (CASE.name, &variant), &mut [Way::Ahead], |way| measure(bench, *way, &paths))
}

fn measure(bench: &Bench, way: Way, paths: &[Arc<StorePath>]) -> Sample {
    let one = {
        let server = way.start(bench);
        last_of(bench, 1, &way::url(bench, server.as_ref()), paths)
    };
    let server = way.start(bench);
    let url = way::url(bench, server.as_ref());
    bench.origin.forget();
    let before = bench.origin.requests();
    let four = last_of(bench, MACHINES, &url, paths);
    let asked = (bench.origin.requests() - before) as f64;
    let (nars, copies) = count(bench, paths);
    assert!(copies <= 1.0, "{way:?}: a NAR came {copies} times from the upstream");
    let warm = last_of(bench, MACHINES, &url, paths);
    vec![
        (LAST_OF_FOUR, four),
        (ONE_ALONE, one),
        (FOUR_TO_ONE, four / one),
        (LAST_OF_FOUR_WARM, warm),
        (UPSTREAM, asked),
        (NARS, nars as f64),
        (COPIES, copies),
    ]
}

/// What the last of so many took that began at the same time.
fn last_of(bench: &Bench, machines: usize, url: &str, paths: &[Arc<StorePath>]) -> f64 {
    let root = paths.last().expect("a root");
    let builds: Vec<Build> = (0..machines).map(|_| Build::begin(bench, root, url, ONE)).collect();
    builds.into_iter().map(|build| build.end(paths.len())).fold(0.0, f64::max)
}
