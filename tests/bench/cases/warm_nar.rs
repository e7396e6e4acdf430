//! NARs that are in memory (nginx: in the page cache), asked for by 8 clients at once.

use super::Case;
use crate::bench::Bench;
use crate::corpus::sizes_of_a_cache;
use crate::load::h2load::{Amount, H2load};
use crate::peers::{Kind, Server, Tiers};
use crate::rounds::{Row, alternate, per_byte};

pub const H1: Case = Case {
    name: "warm-nar-h1",
    what: "NARs from memory over TLS, HTTP/1.1, 8 clients",
    run: |bench| run(bench, H1.name, Protocol::TlsH1),
};
pub const H2: Case = Case {
    name: "warm-nar-h2",
    what: "NARs from memory over TLS, HTTP/2, 8 clients",
    run: |bench| run(bench, H2.name, Protocol::TlsH2),
};
pub const PLAIN: Case = Case {
    name: "warm-nar-plain",
    what: "NARs from memory over plain HTTP/1.1, 8 clients",
    run: |bench| run(bench, PLAIN.name, Protocol::Plain),
};

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    TlsH1,
    TlsH2,
    Plain,
}

const CLIENTS: u64 = 8;

fn run(bench: &Bench, case: &'static str, protocol: Protocol) -> Vec<Row> {
    // haproxy keeps no large objects. Without TLS the two nginx do the same.
    let kinds: &[Kind] = match protocol {
        Protocol::Plain => &[Kind::Snowbank, Kind::Nginx],
        _ => &[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx],
    };
    let mut servers = bench.start(
        kinds,
        Tiers { memory: bench.options.size(2 << 30, 64 << 20), disk: bench.options.size(4 << 30, 256 << 20) },
    );
    let mb = bench.options.size(1_000_000, 10_000);
    let mut rows = Vec::new();
    let all: &[u64] = if bench.options.short { &[1, 300] } else { &[1, 16, 100, 300] };
    for &size in all {
        let requests = (bench.options.size(3000, 30) / size).max(2 * CLIENTS);
        rows.push(row(bench, (case, &format!("{size} MB")), &mut servers, &[size * mb], requests, protocol));
    }
    let count = bench.options.size(200, 20);
    let sizes = sizes_of_a_cache(count as usize, 300 * mb);
    // Each client goes through all of them.
    rows.push(row(bench, (case, "sizes as in a cache"), &mut servers, &sizes, count * CLIENTS, protocol));
    rows
}

fn row(
    bench: &Bench,
    title: (&'static str, &str),
    servers: &mut [Server],
    sizes: &[u64],
    requests: u64,
    protocol: Protocol,
) -> Row {
    let paths = bench.family(&format!("warm-{}-{}", sizes[0], sizes.len()), sizes);
    for server in servers.iter() {
        paths.iter().for_each(|path| server.warm(path));
        server.wait_until_it_rests();
    }
    alternate(bench, title, servers, |server| {
        let targets: Vec<String> = paths.iter().map(|path| server.nar_target(path)).collect();
        let base = match protocol {
            Protocol::Plain => format!("http://127.0.0.1:{}", server.plain),
            _ => format!("https://127.0.0.1:{}", server.tls),
        };
        let load = H2load {
            base,
            h1: protocol != Protocol::TlsH2,
            clients: CLIENTS,
            streams: 1,
            amount: Amount::Requests(requests),
            targets: &targets,
            dir: bench.dir(),
            status: 2,
        };
        per_byte(bench, server, || load.run())
    })
}
