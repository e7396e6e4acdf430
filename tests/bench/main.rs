//! The benchmark: snowbank beside nginx and haproxy, on the same corpus, the same core and in the same minutes.
//!
//! ```text
//! tests/bench/run [--short] [--case NAME]... [--rounds N] [--json FILE]
//! ```
//!
//! The flow: [`namespace`] starts this program again in a network namespace of its own, bound to one core. There it makes a
//! [`corpus`], is the [`origin`] itself, and goes through the [`cases`]. Each case starts the [`peers`] that can do its job,
//! bound to another core, and measures them in turn ([`rounds`]): a [`load`] program asks, [`account`] reads what the
//! server's processes took. In some cases real Nix gets the paths of a [`closure`]. [`report`] prints a table with the ratios, and writes JSON.
//!
//! CPU time of the server comes first because it is what a small machine can tell best: the load runs on another core, and
//! whatever slows it down makes a rate smaller, not a cost. With `--short` everything is tiny, and that it runs is all
//! that is proved. Out of scope: the latency of real networks, more than one core.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark that cannot go on says so and ends, and its numbers are for people"
)]

mod account;
mod bench;
mod cases;
mod client;
mod closure;
mod corpus;
mod load;
mod machine;
mod namespace;
mod options;
mod origin;
mod peers;
mod report;
mod rounds;

use clap::Parser as _;
use options::Options;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for case in cases::ALL {
            println!("{:22} {}", case.name, case.what);
        }
        return ExitCode::SUCCESS;
    }
    if !options.inside {
        eprintln!("bench: unshare: {}; tests/bench/run installs it", namespace::enter(&options));
        return ExitCode::FAILURE;
    }
    namespace::set_up();
    let bench = bench::Bench::new(options);
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for case in cases::chosen(&bench.options) {
        eprintln!("==> {}: {}", case.name, case.what);
        // One that cannot go on has said why; an hour of the others' figures is not lost for that.
        let Ok(made) = catch_unwind(AssertUnwindSafe(|| (case.run)(&bench))) else {
            failed.push(case.name);
            continue;
        };
        made.iter().for_each(|row| println!("{}", report::table(row)));
        rows.extend(made);
        report::write_json(&bench, &rows);
    }
    report::close(&bench);
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("bench: FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}
