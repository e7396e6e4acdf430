//! Memory beyond what was granted: 64 clients that download large NARs from disk at once, 16 of them each.

use super::Case;
use crate::account;
use crate::bench::Bench;
use crate::load::h2load::{Amount, H2load};
use crate::peers::{Kind, Server, Tiers};
use crate::rounds::{CPU_PER_GB, GB_PER_SECOND, MEMORY_BEYOND, Row, alternate};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub const CASE: Case = Case {
    name: "memory",
    what: "64 downloads of 300 MB at once over TLS, HTTP/1.1: memory beyond the tiers",
    run: |bench| vec![run(bench)],
};

const NARS: usize = 4;
const CLIENTS: u64 = 16;
const TIERS: Tiers = Tiers { memory: 64 << 20, disk: 2 << 30 };

fn run(bench: &Bench) -> Row {
    let size = bench.options.size(300_000_000, 3_000_000);
    let paths = bench.family("memory", &[size; NARS]);
    let mut servers = bench.start(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx], TIERS);
    for server in &servers {
        paths.iter().for_each(|path| server.warm(path));
        server.wait_until_it_rests();
    }
    alternate(bench, (CASE.name, "64 downloads"), &mut servers, |server| {
        let began = Instant::now();
        let targets: Vec<[String; 1]> = paths.iter().map(|path| [server.nar_target(path)]).collect();
        let (peak, cpu) = server.cost_of(|| peak_while(server, || download(bench, server, &targets)));
        let granted = if server.kind == Kind::Snowbank { TIERS.memory } else { 0 };
        let bytes = size as f64 * NARS as f64 * CLIENTS as f64;
        vec![
            (MEMORY_BEYOND, (peak - granted as f64) / 1e6),
            (CPU_PER_GB, cpu / bytes * 1e9),
            (GB_PER_SECOND, bytes / began.elapsed().as_secs_f64() / 1e9),
        ]
    })
}

/// All of them side by side, a load program for each.
fn download(bench: &Bench, server: &Server, targets: &[[String; 1]]) {
    let base = format!("https://127.0.0.1:{}", server.tls);
    let dir = bench.dir();
    thread::scope(|scope| {
        for target in targets {
            let amount = Amount::Requests(CLIENTS);
            let load = H2load {
                base: base.clone(),
                h1: true,
                clients: CLIENTS,
                streams: 1,
                amount,
                targets: target,
                dir,
                status: 2,
            };
            scope.spawn(move || load.run());
        }
    });
}

/// The most memory that the server had while something was done.
fn peak_while(server: &Server, work: impl FnOnce()) -> f64 {
    let done = AtomicBool::new(false);
    let process = server.process();
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = account::memory(process);
            while !done.load(Relaxed) {
                thread::sleep(Duration::from_millis(50));
                peak = peak.max(account::memory(process));
            }
            peak
        });
        work();
        done.store(true, Relaxed);
        watch.join().expect("no panic") as f64
    })
}
