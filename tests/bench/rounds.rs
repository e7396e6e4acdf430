//! Measuring in turn: A B A B, so that whatever else happens on the machine happens to all of them.

use crate::bench::Bench;
use crate::load::Load;
use crate::peers::{Kind, Server};

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    /// Whether a larger one is the better one.
    pub more_is_better: bool,
}

const fn less(name: &'static str) -> Metric {
    Metric { name, more_is_better: false }
}

const fn more(name: &'static str) -> Metric {
    Metric { name, more_is_better: true }
}

pub const CPU_PER_GB: Metric = less("CPU s/GB");
pub const CPU_PER_REQUEST: Metric = less("CPU µs/request");
pub const CPU: Metric = less("CPU s");
pub const GB_PER_SECOND: Metric = more("GB/s");
pub const REQUESTS_PER_SECOND: Metric = more("requests/s");
pub const P50: Metric = less("p50 ms");
pub const P99: Metric = less("p99 ms");
pub const MEMORY: Metric = less("memory MB");
pub const MEMORY_BEYOND: Metric = less("peak memory beyond tiers MB");
pub const UPSTREAM: Metric = less("upstream requests");
pub const FROM_DISK: Metric = more("read from disk %");
pub const FIRST_BYTE: Metric = less("first byte s");
pub const FOLLOWERS: Metric = less("followers' median first byte s");
pub const TOTAL: Metric = less("total s");
pub const FIRST_HIT: Metric = less("first warm hit s");
pub const KEPT: Metric = more("kept %");
pub const CPU_AT_8: Metric = less("CPU µs/request at 8 connections");
pub const CPU_AT_512: Metric = less("CPU µs/request at 512 connections");
pub const CPU_512_TO_8: Metric = less("512 connections to 8");
pub const COLD: Metric = less("cold s");
pub const WARM: Metric = less("warm s");
pub const NARS: Metric = less("NARs from upstream");
pub const COPIES: Metric = less("copies of the NAR fetched most");
pub const LAST_OF_FOUR: Metric = less("four at once: last one done s");
pub const ONE_ALONE: Metric = less("one alone s");
pub const FOUR_TO_ONE: Metric = less("four to one");
pub const LAST_OF_FOUR_WARM: Metric = less("four at once, warm: last one done s");
pub const FOR_NOTHING: Metric = less("MiB fetched for nothing");
pub const AFTER_IT: Metric = less("build from that network then s");
pub const AFTER_IT_ELSEWHERE: Metric = less("build from another network then s");
pub const WITHOUT_IT: Metric = less("build without all that s");
pub const MEDIAN_DONE: Metric = less("median download s");
pub const AHEAD: Metric = more("MiB fetched besides");

/// The numbers of one measurement, the most telling one first.
pub type Sample = Vec<(Metric, f64)>;

/// A line of the table that is to be made: every server's numbers in one case.
pub struct Row {
    pub case: &'static str,
    pub variant: String,
    pub series: Vec<(&'static str, Vec<Sample>)>,
}

/// Who takes part: a running server, the kind of one that each measurement starts anew, or a way to come to a build.
pub trait Contender {
    /// What it is called in the report.
    fn name(&self) -> &'static str;
}

impl Contender for Server {
    fn name(&self) -> &'static str {
        self.kind.name()
    }
}

impl Contender for Kind {
    fn name(&self) -> &'static str {
        Kind::name(*self)
    }
}

/// Measures each in turn, as many rounds as are wanted.
pub fn alternate<T: Contender>(
    bench: &Bench,
    (case, variant): (&'static str, &str),
    contenders: &mut [T],
    mut measure: impl FnMut(&mut T) -> Sample,
) -> Row {
    let mut series: Vec<(&'static str, Vec<Sample>)> = contenders.iter().map(|one| (one.name(), Vec::new())).collect();
    for round in 1..=bench.options.rounds() {
        for (contender, (name, samples)) in contenders.iter_mut().zip(&mut series) {
            let sample = measure(contender);
            let (metric, value) = sample.first().expect("a number");
            eprintln!("    {case}, {variant}, round {round}, {name}: {value:.4} {}", metric.name);
            samples.push(sample);
        }
    }
    Row { case, variant: variant.to_owned(), series }
}

/// The usual numbers of a load of large objects.
pub fn per_byte(bench: &Bench, server: &Server, ask: impl FnOnce() -> Load) -> Sample {
    let (load, cpu, upstream) = asked(bench, server, ask);
    let rate = (GB_PER_SECOND, load.bytes / load.seconds / 1e9);
    with_the_rest((CPU_PER_GB, cpu / load.bytes * 1e9), rate, load, server, upstream)
}

/// The usual numbers of a load of small ones.
pub fn per_request(bench: &Bench, server: &Server, ask: impl FnOnce() -> Load) -> Sample {
    let (load, cpu, upstream) = asked(bench, server, ask);
    let rate = (REQUESTS_PER_SECOND, load.requests / load.seconds);
    with_the_rest((CPU_PER_REQUEST, cpu / load.requests * 1e6), rate, load, server, upstream)
}

fn asked(bench: &Bench, server: &Server, ask: impl FnOnce() -> Load) -> (Load, f64, f64) {
    let before = bench.origin.requests();
    let (load, cpu) = server.cost_of(ask);
    (load, cpu, (bench.origin.requests() - before) as f64)
}

fn with_the_rest(cost: (Metric, f64), rate: (Metric, f64), load: Load, server: &Server, upstream: f64) -> Sample {
    vec![cost, rate, (P50, load.p50), (P99, load.p99), (MEMORY, server.memory() / 1e6), (UPSTREAM, upstream)]
}
