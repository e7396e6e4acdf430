//! What fetching ahead costs those who asked for something: 50 downloads at a time of NARs that are not cached, while another client
//! asks for narinfos, as many at a time as Nix does, and takes no NAR.

use super::Case;
use super::cold_build::WIDTH;
use super::cold_build::way::Way;
use super::waste::narinfos;
use crate::bench::Bench;
use crate::load::curl;
use crate::rounds::{AHEAD, CPU, MEDIAN_DONE, Row, TOTAL, alternate};
use std::thread;
use std::time::Instant;

pub const CASE: Case = Case {
    name: "prefetch-demand",
    what: "100 cold downloads of 15 MB, 50 at once, while somebody asks for narinfos; upstream at 80 ms and 20 MB/s",
    run: |bench| vec![run(bench)],
};

const CLIENTS: usize = 50;
const DOWNLOADS: usize = 2 * CLIENTS;
/// Questions of the other client at a time.
const QUESTIONS: usize = 25;

fn run(bench: &Bench) -> Row {
    let wanted = bench.family("wanted", &[bench.options.size(15_000_000, 300_000); DOWNLOADS]);
    let others = bench.family("others", &vec![100_000; bench.options.size(2000, 50) as usize]);
    let _away = bench.origin.place(bench.far(), WIDTH);
    alternate(bench, (CASE.name, "50 downloads"), &mut [Way::Ahead, Way::NoneAhead], |way| {
        let server = way.start(bench).expect("a way through a server");
        let urls: Vec<String> =
            wanted.iter().map(|path| format!("http://127.0.0.1:{}{}", server.plain, server.nar_target(path))).collect();
        let questions = narinfos(&server, &others);
        bench.origin.forget();
        let (downloads, seconds, cpu, fetched) = thread::scope(|scope| {
            scope.spawn(|| curl::get_from("127.9.9.1", &questions, QUESTIONS));
            let began = Instant::now();
            let (downloads, cpu) = server.cost_of(|| curl::get(&urls, CLIENTS));
            // Before the questions end: what is fetched for them once the downloads are done costs those nothing.
            (downloads, began.elapsed().as_secs_f64(), cpu, bench.origin.fetched())
        });
        for path in &wanted {
            assert_eq!(fetched.get(&path.nar_target()).map(|fetched| fetched.bytes), Some(path.nar.len()));
        }
        let ahead: u64 = others.iter().filter_map(|path| fetched.get(&path.nar_target())).map(|one| one.bytes).sum();
        let mut took: Vec<f64> = downloads.iter().map(|download| download.done).collect();
        took.sort_by(f64::total_cmp);
        vec![
            (TOTAL, seconds),
            (MEDIAN_DONE, took[DOWNLOADS / 2]),
            (CPU, cpu),
            (AHEAD, ahead as f64 / f64::from(1 << 20)),
        ]
    })
}
