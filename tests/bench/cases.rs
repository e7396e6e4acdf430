//! What is measured: one file for each kind of question, a name for each case.

mod cold_build;
mod cold_crowd;
mod cold_nar;
mod cold_narinfos;
mod connections;
mod demand;
mod disk;
mod memory;
mod missing;
mod restart;
mod warm_nar;
mod warm_narinfo;
mod waste;

use crate::bench::Bench;
use crate::options::Options;
use crate::rounds::Row;

/// A case: its name on the command line and in the report, what it is in a few words, and what makes its rows.
pub struct Case {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&Bench) -> Vec<Row>,
}

/// All of them, in the order of the report.
pub const ALL: &[Case] = &[
    warm_nar::H1,
    warm_nar::H2,
    warm_nar::PLAIN,
    warm_narinfo::H1,
    warm_narinfo::H2,
    missing::H1,
    missing::H2,
    connections::CASE,
    disk::CASE,
    cold_nar::CASE,
    cold_crowd::CASE,
    cold_narinfos::CASE,
    cold_build::WIDE,
    cold_build::CHAIN,
    cold_build::LARGE,
    cold_build::FOUR,
    waste::CASE,
    demand::CASE,
    memory::CASE,
    restart::CASE,
];

/// Those that were asked for, or all.
pub fn chosen(options: &Options) -> impl Iterator<Item = &'static Case> {
    let names = options.cases.clone();
    ALL.iter().filter(move |case| names.is_empty() || names.iter().any(|name| name == case.name))
}
