//! The same NAR, wanted by 50 clients at the same moment. Over plain HTTP, so that the clients are not what is measured.

use super::{Case, cold_nar};
use crate::bench::Bench;
use crate::load::curl::{self, Download};
use crate::peers::{Kind, Server};
use crate::rounds::{CPU, FIRST_BYTE, FOLLOWERS, MEMORY, Row, TOTAL, UPSTREAM, alternate};

pub const CASE: Case = Case {
    name: "cold-crowd",
    what: "a NAR of 100 MB that is not cached, origin at 50 ms and 20 MB/s, 50 clients at once",
    run: |bench| vec![run(bench)],
};

const CLIENTS: usize = 50;

fn run(bench: &Bench) -> Row {
    let path = &bench.family("crowd", &[bench.options.size(100_000_000, 2_000_000)])[0];
    let mut kinds = bench.present(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx]);
    let _away = bench.origin.place(cold_nar::DISTANCE, cold_nar::WIDTH);
    alternate(bench, (CASE.name, "100 MB"), &mut kinds, |kind| {
        let server = Server::start(bench, *kind, cold_nar::tiers(bench));
        server.warm_narinfo(path);
        let before = bench.origin.nar_requests();
        let url = format!("http://127.0.0.1:{}{}", server.plain, server.nar_target(path));
        let (mut downloads, cpu) = server.cost_of(|| curl::get(&vec![url; CLIENTS], CLIENTS));
        let upstream = bench.origin.nar_requests() - before;
        assert!(downloads.iter().all(|download| download.bytes as u64 == path.nar.len()), "{downloads:?}");
        downloads.sort_by(|a, b| a.first_byte.total_cmp(&b.first_byte));
        // All but the one that was served first.
        let median = |of: fn(&Download) -> f64| of(&downloads[1 + (CLIENTS - 1) / 2]);
        let last = downloads.iter().map(|download| download.done).fold(0.0, f64::max);
        vec![
            (FOLLOWERS, median(|download| download.first_byte)),
            (FIRST_BYTE, downloads[0].first_byte),
            (TOTAL, last),
            (CPU, cpu),
            (MEMORY, server.memory() / 1e6),
            (UPSTREAM, upstream as f64),
        ]
    })
}
