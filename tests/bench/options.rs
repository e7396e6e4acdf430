//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Measures snowbank beside nginx and haproxy.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Every case with tiny sizes, once: shows that it runs, and measures nothing.
    #[arg(long)]
    pub short: bool,
    /// Only this case; may be given several times. `--list` tells the names.
    #[arg(long = "case", value_name = "NAME", value_parser = known)]
    pub cases: Vec<String>,
    /// How often each server is measured, in turn with the others.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the figures are written to as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Prints the names of the cases.
    #[arg(long)]
    pub list: bool,
    /// The snowbank to measure; the one that was built with this program unless given.
    #[arg(long, value_name = "PROGRAM", default_value = env!("CARGO_BIN_EXE_snowbank"))]
    pub snowbank: PathBuf,
    /// Another nginx to measure beside the one on the PATH; see tests/bench/newer-nginx.
    #[arg(long, value_name = "PROGRAM")]
    pub newer_nginx: Option<PathBuf>,
    /// Set by this program for itself: it is in its namespace, and servers run on this core.
    #[arg(long, hide = true)]
    pub inside: bool,
    /// Set by this program for itself.
    #[arg(long, hide = true, default_value_t = 0)]
    pub server_core: usize,
    /// What cargo tells every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// How many rounds there are.
    pub fn rounds(&self) -> u32 {
        if self.short { 1 } else { self.rounds }
    }

    /// This number, or the other one in the short form.
    pub fn size(&self, full: u64, short: u64) -> u64 {
        if self.short { short } else { full }
    }
}

fn known(name: &str) -> Result<String, String> {
    if crate::cases::ALL.iter().any(|case| case.name == name) {
        Ok(name.to_owned())
    } else {
        Err("no case has this name; --list tells them".to_owned())
    }
}
