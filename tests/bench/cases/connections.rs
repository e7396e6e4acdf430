//! What a narinfo costs at 512 connections, beside what it costs at 8. The handshakes of the connections are in it.

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
            let (load, cpu) = server.cost_of(|| warm_narinfo::wrk(bench, server, &targets, connections));
            cpu / load.requests * 1e6
        };
        let (few, many) = (cost(8), cost(512));
        vec![(CPU_512_TO_8, many / few), (CPU_AT_512, many), (CPU_AT_8, few)]
    })
}
