//! What a narinfo costs at 512 connections, beside what it costs at 8.
//!
//! Making the connections is not in it: each number of them is measured with few requests and with many, and the difference
//! counts.

use super::{Case, warm_narinfo};
use crate::bench::Bench;
use crate::load::h2load::{Amount, H2load};
use crate::peers::{Kind, Server};
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
            let [few, many] = [bench.options.size(20_000, 512), bench.options.size(120_000, 1024)];
            let spent =
                [few, many].map(|requests| server.cost_of(|| ask(bench, server, &targets, connections, requests)).1);
            (spent[1] - spent[0]) / (many - few) as f64 * 1e6
        };
        let (few, many) = (cost(8), cost(512));
        vec![(CPU_512_TO_8, many / few), (CPU_AT_512, many), (CPU_AT_8, few)]
    })
}

fn ask(bench: &Bench, server: &Server, targets: &[String], clients: u64, requests: u64) {
    let load = H2load {
        base: format!("https://127.0.0.1:{}", server.tls),
        h1: true,
        clients,
        streams: 1,
        amount: Amount::Requests(requests),
        targets,
        dir: bench.dir(),
        status: 2,
    };
    load.run();
}
