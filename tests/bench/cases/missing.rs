//! What nobody has, asked for again: the answer is remembered. haproxy remembers none.

use super::Case;
use crate::bench::Bench;
use crate::client;
use crate::load::Load;
use crate::load::h2load::{Amount, H2load};
use crate::load::wrk::Wrk;
use crate::peers::{Kind, Server};
use crate::rounds::{Row, alternate, per_request};

pub const H1: Case = Case {
    name: "missing-h1",
    what: "remembered 404 over TLS, HTTP/1.1, 8 connections",
    run: |bench| vec![run(bench, H1.name, h1)],
};
pub const H2: Case = Case {
    name: "missing-h2",
    what: "remembered 404 over TLS, HTTP/2, 8 connections with 25 streams",
    run: |bench| vec![run(bench, H2.name, h2)],
};

type Ask = fn(&Bench, &Server, &[String]) -> Load;

fn run(bench: &Bench, case: &'static str, ask: Ask) -> Row {
    let mut servers = bench.start(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx], super::warm_narinfo::TIERS);
    // The family is never published.
    let targets: Vec<String> = (0..100).map(missing).collect();
    alternate(bench, (case, "100 of them"), &mut servers, |server| {
        // Each time: they are remembered for a minute.
        for target in &targets {
            let answer = client::get(server.plain, target).expect("an answer");
            assert_eq!(answer.status, 404, "{target} of {}: {}", server.kind.name(), answer.text);
        }
        server.wait_until_it_rests();
        per_request(bench, server, || ask(bench, server, &targets))
    })
}

fn missing(n: u64) -> String {
    let digest = snowbank::nix::hash::Sha256::of(format!("missing-{n}").as_bytes());
    format!("/{}.narinfo", snowbank::nix::base32::encode(&digest.as_bytes()[..20]))
}

fn h1(bench: &Bench, server: &Server, targets: &[String]) -> Load {
    let base = format!("https://127.0.0.1:{}", server.tls);
    let seconds = bench.options.size(3, 1);
    Wrk { base, connections: 8, seconds, targets, dir: bench.dir(), missing: true }.run()
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
        status: 4,
    };
    load.run()
}
