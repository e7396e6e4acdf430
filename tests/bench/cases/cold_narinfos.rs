//! narinfos that nobody had before, all at once on one connection, as Nix asks for those of a closure.

use super::{Case, warm_narinfo};
use crate::bench::Bench;
use crate::load::h2load::{Amount, H2load};
use crate::peers::{Kind, Server};
use crate::rounds::{CPU_PER_REQUEST, P50, P99, Row, TOTAL, UPSTREAM, alternate};
use std::time::Duration;

pub const CASE: Case = Case {
    name: "cold-narinfos",
    what: "500 narinfos that are not cached over one HTTP/2 connection, origin at 30 ms",
    run: |bench| vec![run(bench)],
};

fn run(bench: &Bench) -> Row {
    let count = bench.options.size(500, 50);
    let paths = bench.family("cold-narinfo", &vec![1000; count as usize]);
    let targets: Vec<String> = paths.iter().map(|path| path.narinfo_target()).collect();
    let mut kinds = bench.present(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx, Kind::Haproxy]);
    let _away = bench.origin.place(Duration::from_millis(30), 0);
    alternate(bench, (CASE.name, &format!("{count} of them")), &mut kinds, |kind| {
        let server = Server::start(bench, *kind, warm_narinfo::TIERS);
        let load = H2load {
            base: format!("https://127.0.0.1:{}", server.tls),
            h1: false,
            clients: 1,
            streams: count,
            amount: Amount::Requests(count),
            targets: &targets,
            dir: bench.dir(),
            status: 2,
        };
        let before = bench.origin.requests();
        let (load, cpu) = server.cost_of(|| load.run());
        vec![
            (CPU_PER_REQUEST, cpu / load.requests * 1e6),
            (TOTAL, load.seconds),
            (P50, load.p50),
            (P99, load.p99),
            (UPSTREAM, (bench.origin.requests() - before) as f64),
        ]
    })
}
