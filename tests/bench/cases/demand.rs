//! What fetching ahead costs those who asked for something: 50 downloads of NARs that are not cached, while another client asks for
//! narinfos and takes no NAR.

use super::Case;
use super::cold_build::WIDTH;
use super::cold_build::way::Way;
use super::waste::narinfos;
use crate::bench::Bench;
use crate::load::curl;
use crate::rounds::{AHEAD, CPU, MEDIAN_DONE, Row, TOTAL, alternate};
use std::thread;

pub const CASE: Case = Case {
    name: "prefetch-demand",
    what: "50 cold downloads of 16 MB at once while somebody asks for 2000 narinfos; upstream at 80 ms and 20 MB/s",
    run: |bench| vec![run(bench)],
};

const CLIENTS: usize = 50;

fn run(bench: &Bench) -> Row {
    let wanted = bench.family("wanted", &[bench.options.size(15_000_000, 300_000); CLIENTS]);
    let others = bench.family("others", &vec![100_000; bench.options.size(2000, 50) as usize]);
    let _away = bench.origin.place(bench.far(), WIDTH);
    alternate(bench, (CASE.name, "50 downloads"), &mut [Way::Ahead, Way::NoneAhead], |way| {
        let server = way.start(bench).expect("a way through a server");
        let urls: Vec<String> =
            wanted.iter().map(|path| format!("http://127.0.0.1:{}{}", server.plain, server.nar_target(path))).collect();
        let questions = narinfos(&server, &others);
        bench.origin.forget();
        let (downloads, cpu, fetched) = thread::scope(|scope| {
            scope.spawn(|| curl::get_from("127.9.9.1", &questions, 100));
            let (downloads, cpu) = server.cost_of(|| curl::get(&urls, CLIENTS));
            // Before the questions end: what is fetched for them once the downloads are done costs those nothing.
            (downloads, cpu, bench.origin.fetched())
        });
        for path in &wanted {
            assert_eq!(fetched.get(&path.nar_target()).map(|fetched| fetched.bytes), Some(path.nar.len()));
        }
        let ahead: u64 = others.iter().filter_map(|path| fetched.get(&path.nar_target())).map(|one| one.bytes).sum();
        let mut done: Vec<f64> = downloads.iter().map(|download| download.done).collect();
        done.sort_by(f64::total_cmp);
        vec![
            (TOTAL, done[CLIENTS - 1]),
            (MEDIAN_DONE, done[CLIENTS / 2]),
            (CPU, cpu),
            (AHEAD, ahead as f64 / f64::from(1 << 20)),
        ]
    })
}
