//! Nix itself: a machine that was never used, on which a path is to be there with all that it needs.
//!
//! Its `/nix` is a directory that is mounted there in a mount namespace of its own; its HOME, where narinfos are remembered, is
//! fresh too. All of it is in memory. Nix has its own defaults but for the sandbox and the build users, which substitution has no
//! use for.

use crate::bench::Bench;
use crate::corpus::StorePath;
use crate::machine;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// NARs at a time, as Nix has it unless told otherwise: up to 2.15 as many as `max-jobs`.
pub const ONE: usize = 1;

/// The same since 2.16: `max-substitution-jobs`.
pub const SIXTEEN: usize = 16;

/// Where machines and caches are kept in memory.
pub const MEMORY: &str = "/dev/shm";

/// A machine on which Nix has begun.
pub struct Build {
    dir: tempfile::TempDir,
    child: Child,
    began: Instant,
}

impl Build {
    /// Has a fresh machine get this path from a cache, so many NARs at a time. It may use all cores: it is a machine of its own.
    pub fn begin(bench: &Bench, path: &StorePath, substituter: &str, at_once: usize) -> Self {
        let dir = tempfile::tempdir_in(MEMORY).expect("a directory for a machine");
        for part in ["nix", "home", "conf"] {
            fs::create_dir(dir.path().join(part)).expect("a directory");
        }
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let (server, load) = (bench.options.server_core, machine::load_core());
        let mut command = Command::new("taskset");
        command
            .args([
                "--cpu-list",
                &format!("{server},{load}"),
                "unshare",
                "--mount",
                "sh",
                "-c",
                "mount --bind \"$0\" /nix && exec \"$@\"",
            ])
            .arg(dir.path().join("nix"));
        command.args(["nix-store", "--realise", &path.path, "--option", "substituters", substituter]);
        command.args(["--option", "trusted-public-keys", &bench.public_key, "--option", "sandbox", "false"]);
        command.args(["--option", "build-users-group", "", "--max-jobs", &at_once.to_string()]);
        command.env("HOME", dir.path().join("home")).env("NIX_CONF_DIR", dir.path().join("conf"));
        for name in ["NIX_REMOTE", "NIX_CONFIG", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log twice")).stderr(log);
        let began = Instant::now();
        let child = command.current_dir(dir.path()).spawn().expect("taskset runs; tests/bench/run installs it");
        Self { dir, child, began }
    }

    /// Waits until it is done; the seconds that it took. Exactly these paths are there then.
    pub fn end(mut self, closure: usize) -> f64 {
        let status = self.child.wait().expect("its status");
        let seconds = self.began.elapsed().as_secs_f64();
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(status.success(), "nix-store: {status}\n{log}");
        let got = paths_in(&self.dir.path().join("nix/store"));
        assert!(got == closure, "nix-store: {got} paths instead of {closure}\n{log}");
        seconds
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        // It has ended unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many store paths there are; what begins with a point is Nix's own.
fn paths_in(store: &Path) -> usize {
    let entries = fs::read_dir(store).expect("a store");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| !name.as_encoded_bytes().starts_with(b".") && !name.as_encoded_bytes().ends_with(b".lock"))
        .count()
}
