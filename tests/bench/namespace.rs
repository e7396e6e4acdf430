//! The benchmark's own network: a namespace with nothing in it but loopback, and the same congestion control for all.
//!
//! The program becomes `unshare`, which starts it again, because a network can only be left before there are threads; under
//! `taskset` too, so that it and every load program it starts stay away from the servers' core. It has processes of its own
//! as well, the first of which it is itself: however it ends, nothing that it started outlives it.

use crate::machine;
use crate::options::Options;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Not the machine's own choice: BBR without the fq queue doubles the CPU time of plain bytes, for every server. Cubic would do
/// the same where nothing is lost, but a kernel may keep it from namespaces.
pub const CONGESTION_CONTROL: &str = "reno";

/// Where the namespace has it.
pub const CONGESTION_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Becomes this program with the same arguments in new namespaces; comes back only to say that it could not.
pub fn enter(options: &Options) -> io::Error {
    let (server, load) = machine::cores();
    if server == load {
        eprintln!("bench: only one core here: servers and load share it, rates tell nothing");
    }
    if options.newer_nginx.is_none() {
        eprintln!("bench: no newer nginx (tests/bench/newer-nginx builds one): only the one on the PATH is compared");
    }
    let own = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["taskset", "--cpu-list", &load.to_string()]).arg(own).args(std::env::args_os().skip(1));
    command.args(["--inside", "--server-core", &server.to_string()]).exec()
}

/// Inside: loopback is up, and connections are controlled as told.
pub fn set_up() {
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs; tests/bench/run installs it");
    assert!(up.success(), "loopback does not come up");
    fs::write(CONGESTION_FILE, CONGESTION_CONTROL).expect("every kernel has reno");
}

/// The first process of a namespace gets only those signals that it asks for.
#[allow(clippy::disallowed_methods, clippy::exit, reason = "everything in the namespace ends with this process")]
pub async fn end_when_told() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    std::process::exit(130);
}
