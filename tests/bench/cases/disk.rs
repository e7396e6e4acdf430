//! NARs that are on disk and nowhere else: the page cache is dropped, and the memory tier holds none of them for long.

use super::Case;
use crate::account;
use crate::bench::Bench;
use crate::load::curl;
use crate::peers::{Kind, Tiers};
use crate::rounds::{CPU_PER_GB, FROM_DISK, GB_PER_SECOND, MEMORY, Row, UPSTREAM, alternate};
use rustix::fs::{Advice, fadvise, fsync};
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

pub const CASE: Case = Case {
    name: "disk",
    what: "NARs of 16 MB from disk over TLS, HTTP/1.1, 8 at a time, each once",
    run: |bench| vec![run(bench)],
};

fn run(bench: &Bench) -> Row {
    let tiers = Tiers { memory: 16 << 20, disk: bench.options.size(4 << 30, 256 << 20) };
    let mut servers = bench.start(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx], tiers);
    let (count, size) = (bench.options.size(96, 8), bench.options.size(16_000_000, 4_000_000));
    let paths = bench.family("disk", &vec![size; count as usize]);
    for server in &servers {
        paths.iter().for_each(|path| server.warm(path));
        server.wait_until_it_rests();
    }
    alternate(bench, (CASE.name, &format!("{count} of them")), &mut servers, |server| {
        drop_pages(server.dir());
        let urls: Vec<String> =
            paths.iter().map(|path| format!("https://127.0.0.1:{}{}", server.tls, server.nar_target(path))).collect();
        let (began, before) = (Instant::now(), bench.origin.requests());
        let read = account::read_from_disk(server.process());
        let (downloads, cpu) = server.cost_of(|| curl::get(&urls, 8));
        let seconds = began.elapsed().as_secs_f64();
        let read = account::read_from_disk(server.process()) - read;
        let bytes: f64 = downloads.iter().map(|download| download.bytes).sum();
        vec![
            (CPU_PER_GB, cpu / bytes * 1e9),
            (GB_PER_SECOND, bytes / seconds / 1e9),
            (FROM_DISK, read as f64 / bytes * 100.0),
            (MEMORY, server.memory() / 1e6),
            (UPSTREAM, (bench.origin.requests() - before) as f64),
        ]
    })
}

/// Takes the files below a directory out of the page cache: these alone, not those of the whole machine.
fn drop_pages(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            drop_pages(&entry);
        } else if let Ok(file) = File::open(&entry) {
            // Only what is written can be dropped. What is no file (a socket) has no pages.
            let _ = fsync(&file);
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
    }
}
