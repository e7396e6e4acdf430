//! What fetching ahead costs for nothing: a client asks for narinfos only, as a dry run or a crawler does, and then somebody
//! builds, from the same network, or from another one.

use super::Case;
use super::cold_build::way::{self, Way};
use super::cold_build::{WIDTH, wide};
use crate::bench::Bench;
use crate::corpus::StorePath;
use crate::load::curl;
use crate::load::nix::{Build, ONE};
use crate::peers::Server;
use crate::rounds::{AFTER_IT, AFTER_IT_ELSEWHERE, FOR_NOTHING, Row, Sample, WITHOUT_IT, alternate};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "prefetch-waste",
    what: "10000 narinfos and no NAR asked for, then a build as in cold-build; upstream at 80 ms and 20 MB/s",
    run: |bench| vec![run(bench)],
};

/// Where builds come from.
const HERE: &str = "127.0.0.1";
/// In another network of clients.
const ELSEWHERE: &str = "127.9.9.1";
/// Questions of the crawler at a time.
const AT_ONCE: usize = 200;

fn run(bench: &Bench) -> Row {
    let count = bench.options.size(10_000, 100);
    let crawled = bench.family("crawled", &vec![bench.options.size(100_000, 500_000); count as usize]);
    let built = bench.closure("wide", &wide(bench));
    let _away = bench.origin.place(bench.far(), WIDTH);
    alternate(bench, (CASE.name, &format!("{count} narinfos")), &mut [Way::Ahead], |way| {
        let (wasted, after) = crawl_and_build(bench, *way, HERE, (&crawled, &built));
        let (_, elsewhere) = crawl_and_build(bench, *way, ELSEWHERE, (&crawled, &built));
        let without = build(bench, way.start(bench).as_ref(), &built);
        let sample: Sample = vec![
            (FOR_NOTHING, wasted as f64 / f64::from(1 << 20)),
            (AFTER_IT, after),
            (AFTER_IT_ELSEWHERE, elsewhere),
            (WITHOUT_IT, without),
        ];
        sample
    })
}

/// The bytes that the crawl cost, and the seconds of the build.
fn crawl_and_build(
    bench: &Bench,
    way: Way,
    from: &str,
    (crawled, built): (&[Arc<StorePath>], &[Arc<StorePath>]),
) -> (u64, f64) {
    let server = way.start(bench).expect("a way through a server");
    bench.origin.forget();
    let began = Instant::now();
    curl::get_from(from, &narinfos(&server, crawled), AT_ONCE);
    wait_until_nothing_comes(bench, &server);
    let wasted = bench.origin.fetched().values().map(|fetched| fetched.bytes).sum();
    // As much again comes back in an hour.
    let granted = way::budget(bench) as f64 * (1.0 + began.elapsed().as_secs_f64() / 3600.0);
    assert!(wasted as f64 <= granted, "{wasted} bytes were fetched for nothing, of {granted}");
    // Somebody comes a moment later.
    sleep(Duration::from_secs(1));
    (wasted, build(bench, Some(&server), built))
}

fn build(bench: &Bench, server: Option<&Server>, paths: &[Arc<StorePath>]) -> f64 {
    Build::begin(bench, paths.last().expect("a root"), &way::url(bench, server), ONE).end(paths.len())
}

pub fn narinfos(server: &Server, paths: &[Arc<StorePath>]) -> Vec<String> {
    paths.iter().map(|path| format!("http://127.0.0.1:{}{}", server.plain, path.narinfo_target())).collect()
}

/// Until the server has not asked the upstream for anything for as long as it rests.
fn wait_until_nothing_comes(bench: &Bench, server: &Server) {
    let mut before = None;
    while before != Some(bench.origin.requests()) {
        before = Some(bench.origin.requests());
        server.wait_until_it_rests();
    }
}
