//! A NAR that nobody had before, from an origin that is 50 ms away and gives 20 MB/s, for one client.
//!
//! The client has its narinfo already, as Nix has. The least that can be is a round trip to the origin, two where a new
//! connection is made, and then 5 seconds.

use super::Case;
use crate::bench::Bench;
use crate::load::curl;
use crate::peers::{Kind, Server, Tiers};
use crate::rounds::{CPU, FIRST_BYTE, MEMORY, Row, TOTAL, UPSTREAM, alternate};
use std::time::Duration;

pub const CASE: Case = Case {
    name: "cold-nar",
    what: "a NAR of 100 MB over TLS that is not cached, origin at 50 ms and 20 MB/s, one client",
    run: |bench| vec![run(bench)],
};

/// The distance of the origin in the cases with cold NARs.
pub const DISTANCE: Duration = Duration::from_millis(50);
/// Its bytes per second.
pub const WIDTH: u64 = 20_000_000;

fn run(bench: &Bench) -> Row {
    let path = &bench.family("cold", &[bench.options.size(100_000_000, 2_000_000)])[0];
    let mut kinds = bench.present(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx]);
    let _away = bench.origin.place(DISTANCE, WIDTH);
    alternate(bench, (CASE.name, "100 MB"), &mut kinds, |kind| {
        let server = Server::start(bench, *kind, tiers(bench));
        server.warm_narinfo(path);
        let before = bench.origin.nar_requests();
        let url = format!("https://127.0.0.1:{}{}", server.tls, server.nar_target(path));
        let (downloads, cpu) = server.cost_of(|| curl::get(&[url], 1));
        let upstream = bench.origin.nar_requests() - before;
        assert_eq!(downloads[0].bytes as u64, path.nar.len());
        vec![
            (FIRST_BYTE, downloads[0].first_byte),
            (TOTAL, downloads[0].done),
            (CPU, cpu),
            (MEMORY, server.memory() / 1e6),
            (UPSTREAM, upstream as f64),
        ]
    })
}

/// What a server may keep in the cases with cold NARs.
pub fn tiers(bench: &Bench) -> Tiers {
    Tiers { memory: bench.options.size(512 << 20, 64 << 20), disk: bench.options.size(1 << 30, 128 << 20) }
}
