//! What a narinfo costs at 512 connections, beside what it costs at 8.
//!
//! Making the connections is not in it: they are asked for a short and for a long time, and the difference counts.

use super::{Case, warm_narinfo};
use crate::bench::Bench;
use crate::peers::Kind;
use crate::rounds::{CPU_512_TO_8, CPU_AT_8, CPU_AT_512, Row, alternate};

pub const CASE: Case = Case {
    name: "connections",
    what: "narinfos over TLS, HTTP/1.1, 512 connections beside 8",
    run: |bench| vec![run(bench)],
};

fn run(bench: &Bench) -> Row {
    let kinds = [Kind::Snowbank, Kind::Nginx, Kind::NewerNginx, Kind::Haproxy];
    let mut servers = bench.start(&kinds, warm_narinfo::TIERS);
    let targets = warm_narinfo::warm_narinfos(bench, &servers);
    alternate(bench, (CASE.name, "narinfos"), &mut servers, |server| {
        let cost = |connections| {
            let [short, long] = [bench.options.size(2, 1), bench.options.size(6, 2)].map(|seconds| {
                let (load, cpu) = server.cost_of(|| warm_narinfo::wrk(bench, server, &targets, (connections, seconds)));
                (load.requests, cpu)
            });
            (long.1 - short.1) / (long.0 - short.0) * 1e6
        };
        let (few, many) = (cost(8), cost(512));
        vec![(CPU_512_TO_8, many / few), (CPU_AT_512, many), (CPU_AT_8, few)]
    })
}
