//! narinfos that are cached.

use super::Case;
use crate::bench::Bench;
use crate::load::Load;
use crate::load::h2load::{Amount, H2load};
use crate::load::wrk::Wrk;
use crate::peers::{Kind, Server, Tiers};
use crate::rounds::{Row, alternate, per_request};

pub const H1: Case = Case {
    name: "warm-narinfo-h1",
    what: "narinfos over TLS, HTTP/1.1, 8 connections",
    run: |bench| vec![run(bench, H1.name, h1)],
};
pub const H2: Case = Case {
    name: "warm-narinfo-h2",
    what: "narinfos over TLS, HTTP/2, 8 connections with 25 streams",
    run: |bench| vec![run(bench, H2.name, h2)],
};

/// How much a server may keep for small objects.
pub const TIERS: Tiers = Tiers { memory: 256 << 20, disk: 512 << 20 };

type Ask = fn(&Bench, &Server, &[String]) -> Load;

fn run(bench: &Bench, case: &'static str, ask: Ask) -> Row {
    let kinds = [Kind::Snowbank, Kind::Nginx, Kind::NewerNginx, Kind::Haproxy];
    let mut servers = bench.start(&kinds, TIERS);
    let targets = warm_narinfos(bench, &servers);
    alternate(bench, (case, "2000 of them"), &mut servers, |server| {
        per_request(bench, server, || ask(bench, server, &targets))
    })
}

/// narinfos that all of these servers have cached.
pub fn warm_narinfos(bench: &Bench, servers: &[Server]) -> Vec<String> {
    let paths = bench.family("narinfo", &vec![1000; bench.options.size(2000, 50) as usize]);
    for server in servers {
        paths.iter().for_each(|path| server.warm_narinfo(path));
        server.wait_until_it_rests();
    }
    paths.iter().map(|path| path.narinfo_target()).collect()
}

fn h1(bench: &Bench, server: &Server, targets: &[String]) -> Load {
    let base = format!("https://127.0.0.1:{}", server.tls);
    let seconds = bench.options.size(3, 1);
    Wrk { base, connections: 8, seconds, targets, dir: bench.dir(), missing: false }.run()
}

fn h2(bench: &Bench, server: &Server, targets: &[String]) -> Load {
    let load = H2load {
        base: format!("https://127.0.0.1:{}", server.tls),
        h1: false,
        clients: 8,
        streams: 25,
        amount: Amount::Seconds(bench.options.size(3, 1)),
        targets,
        dir: bench.dir(),
        status: 2,
    };
    load.run()
}
