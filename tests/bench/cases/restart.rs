//! A restart with a full cache: how soon something is served from it, and how much of it is still there.
//!
//! A first hit is a NAR that is served without a question to the origin; each attempt asks for another one. Then all others
//! are asked for; those for which the origin was asked are lost. The narinfos count too: their loss would show as a question.

use super::Case;
use crate::bench::Bench;
use crate::client;
use crate::corpus::{StorePath, sizes_of_a_cache};
use crate::peers::{Kind, Server, Tiers};
use crate::rounds::{FIRST_HIT, KEPT, MEMORY, Row, alternate};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "restart",
    what: "a restart with NARs in sizes as in a cache: first warm hit and share kept",
    run: |bench| vec![run(bench, "SIGTERM", Server::stop), run(bench, "SIGKILL", Server::kill)],
};

/// A server that serves nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(bench: &Bench, signal: &str, end: fn(&mut Server)) -> Row {
    let sizes = sizes_of_a_cache(bench.options.size(2400, 40) as usize, bench.options.size(300_000_000, 1_000_000));
    let total: u64 = sizes.iter().sum();
    let paths = bench.family("restart", &sizes);
    let tiers = Tiers { memory: bench.options.size(512 << 20, 32 << 20), disk: (2 * total).max(256 << 20) };
    let mut kinds = bench.present(&[Kind::Snowbank, Kind::Nginx]);
    alternate(bench, (CASE.name, &format!("{signal}, {:.2} GB", total as f64 / 1e9)), &mut kinds, |kind| {
        let mut server = Server::start(bench, *kind, tiers);
        paths.iter().for_each(|path| server.warm(path));
        server.wait_until_it_rests();
        end(&mut server);
        let began = Instant::now();
        server.start_again();
        let misses = misses_until_first_hit(bench, &server, &paths);
        let first_hit = began.elapsed().as_secs_f64();
        server.wait_until_it_rests();
        let lost = misses + paths[misses + 1..].iter().filter(|path| !is_hit(bench, &server, path)).count();
        let kept = 100.0 * (paths.len() - lost) as f64 / paths.len() as f64;
        vec![(FIRST_HIT, first_hit), (KEPT, kept), (MEMORY, server.memory() / 1e6)]
    })
}

/// How many were asked for in vain before one came from the cache.
fn misses_until_first_hit(bench: &Bench, server: &Server, paths: &[Arc<StorePath>]) -> usize {
    let began = Instant::now();
    let mut misses = 0;
    loop {
        // Nobody listens yet: that is no attempt.
        if client::get(server.plain, "/nix-cache-info").is_err() {
            sleep(Duration::from_millis(1));
        } else if is_hit(bench, server, &paths[misses]) {
            return misses;
        } else {
            misses += 1;
        }
        assert!(
            began.elapsed() < PATIENCE && misses + 1 < paths.len(),
            "{}: no hit after the restart",
            server.kind.name()
        );
    }
}

fn is_hit(bench: &Bench, server: &Server, path: &StorePath) -> bool {
    let before = bench.origin.requests();
    let answer = client::get(server.plain, &server.nar_target(path)).expect("an answer");
    assert_eq!((answer.status, answer.length), (200, path.nar.len()), "{} of {}", path.hash, server.kind.name());
    bench.origin.requests() == before
}
