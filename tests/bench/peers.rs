//! The servers that are compared: how each is started on the servers' core, warmed, asked for its cost, and stopped.
//!
//! Each has a directory and two ports of its own (TLS and plain), the same certificate, and the best configuration for
//! this job that we know; see the file of each.

mod haproxy;
mod nginx;
mod snowbank;

use crate::account::{self, Cpu};
use crate::bench::Bench;
use crate::client;
use crate::corpus::StorePath;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A program that does the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Snowbank,
    /// The nginx on the PATH.
    Nginx,
    /// The one that `--newer-nginx` names.
    NewerNginx,
    Haproxy,
}

impl Kind {
    /// What it is called in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snowbank => "snowbank",
            Self::Nginx => "nginx",
            Self::NewerNginx => "newer nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The program.
    pub fn program(self, bench: &Bench) -> PathBuf {
        match self {
            // Servers run in their own directories.
            Self::Snowbank => std::path::absolute(&bench.options.snowbank).expect("a path"),
            Self::Nginx => "nginx".into(),
            Self::NewerNginx => {
                let program = bench.options.newer_nginx.as_ref().expect("asked for only where there is one");
                std::path::absolute(program).expect("a path")
            }
            Self::Haproxy => "haproxy".into(),
        }
    }

    /// What it says of itself.
    pub fn version(self, bench: &Bench) -> String {
        let flag = match self {
            Self::Snowbank => "--version",
            Self::Nginx | Self::NewerNginx => "-V",
            Self::Haproxy => "-v",
        };
        let output = Command::new(self.program(bench)).arg(flag).output().expect("it runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let begins = ["snowbank ", "nginx version", "built with", "HAProxy version"];
        let told = text.lines().filter(|line| begins.iter().any(|begin| line.starts_with(begin)));
        told.collect::<Vec<_>>().join(", ")
    }
}

/// What a case wants of a server.
#[derive(Debug, Clone, Copy)]
pub struct Tiers {
    /// Bytes of its own memory for what is cached; nginx has the page cache instead.
    pub memory: u64,
    /// Bytes on disk.
    pub disk: u64,
}

/// Where a server finds everything.
pub struct Place<'a> {
    pub dir: &'a Path,
    pub tls: u16,
    pub plain: u16,
    pub origin: u16,
    /// The certificate chain, its key, and both in one file.
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub both: &'a Path,
    /// What signs the corpus.
    pub public_key: &'a str,
    pub tiers: Tiers,
    /// The largest NAR that snowbank fetches ahead.
    pub prefetch: &'static str,
}

/// How a server is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub tiers: Tiers,
    /// Whether snowbank fetches NARs ahead.
    pub ahead: bool,
    /// Where its directory is made.
    pub within: &'a Path,
}

/// A running server; killed on drop.
pub struct Server {
    pub kind: Kind,
    pub tls: u16,
    pub plain: u16,
    dir: tempfile::TempDir,
    program: PathBuf,
    arguments: Vec<String>,
    core: usize,
    child: Child,
}

/// How long a server may take to start, to stop, to calm down.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts it with nothing cached, and waits until it answers and does nothing else.
    ///
    /// It fetches nothing ahead: the others do not, and most clients here take no NAR of the narinfos they ask for.
    pub fn start(bench: &Bench, kind: Kind, tiers: Tiers) -> Self {
        Self::start_as(bench, kind, Setup { tiers, ahead: false, within: bench.dir() })
    }

    /// The same, set up as told.
    pub fn start_as(bench: &Bench, kind: Kind, Setup { tiers, ahead, within }: Setup<'_>) -> Self {
        let dir = tempfile::tempdir_in(within).expect("a directory for a server");
        let (tls, plain) = bench.ports();
        let files = bench.certificate();
        let place = Place {
            dir: dir.path(),
            tls,
            plain,
            origin: bench.origin.port(),
            certificate: &files.certificate,
            key: &files.key,
            both: &files.both,
            public_key: &bench.public_key,
            tiers,
            prefetch: if ahead { "64 MiB" } else { "0 B" },
        };
        let arguments = match kind {
            Kind::Snowbank => snowbank::configure(&place),
            Kind::Nginx => nginx::configure(&place, nginx::Listen::Before125),
            Kind::NewerNginx => nginx::configure(&place, nginx::Listen::Since125),
            Kind::Haproxy => haproxy::configure(&place),
        };
        let (program, core) = (kind.program(bench), bench.options.server_core);
        let child = spawn(&program, &arguments, core, dir.path());
        let mut server = Self { kind, tls, plain, dir, program, arguments, core, child };
        server.wait_until_it_answers();
        server.wait_until_it_rests();
        server
    }

    /// Starts it again where it was, after [`Self::stop`] or [`Self::kill`]; does not wait for anything.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.arguments, self.core, self.dir.path());
    }

    /// The id of its first process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it takes while something is done.
    pub fn cost_of<T>(&self, work: impl FnOnce() -> T) -> (T, f64) {
        let before = Cpu::of(self.process());
        let result = work();
        (result, Cpu::of(self.process()).since(&before).as_secs_f64())
    }

    /// Memory of all its processes, in bytes.
    pub fn memory(&self) -> f64 {
        account::memory(self.process()) as f64
    }

    /// Its directory: configuration, log, and what it keeps.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What its clients ask for to have this NAR: as its narinfo says.
    pub fn nar_target(&self, path: &StorePath) -> String {
        match self.kind {
            Kind::Snowbank => format!("/nar/{}-{}.nar", path.hash, path.digest),
            _ => path.nar_target(),
        }
    }

    /// Asks for the narinfo, which is then cached, and sees that it leads where the load will look.
    pub fn warm_narinfo(&self, path: &StorePath) {
        let target = path.narinfo_target();
        let answer = client::get(self.plain, &target).unwrap_or_else(|error| self.fail(&format!("{target}: {error}")));
        let url = answer.text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap_or_default();
        if answer.status != 200 || format!("/{url}") != self.nar_target(path) {
            self.fail(&format!("{target}: {} with the URL {url}", answer.status));
        }
    }

    /// Asks for narinfo and NAR, which are then cached.
    pub fn warm(&self, path: &StorePath) {
        self.warm_narinfo(path);
        let target = self.nar_target(path);
        let answer = client::get(self.plain, &target).unwrap_or_else(|error| self.fail(&format!("{target}: {error}")));
        if answer.status != 200 || answer.length != path.nar.len() {
            self.fail(&format!("{target}: {} with {} bytes", answer.status, answer.length));
        }
    }

    fn wait_until_it_answers(&mut self) {
        let began = Instant::now();
        while !client::get(self.plain, "/nix-cache-info").is_ok_and(|answer| answer.status == 200)
            || !self.has_its_disk()
        {
            let ended = self.child.try_wait().expect("its status");
            if ended.is_some() || began.elapsed() > PATIENCE {
                self.fail(&format!("does not start ({ended:?})"));
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn has_its_disk(&self) -> bool {
        self.kind != Kind::Snowbank || self.log().contains(snowbank::DISK_OPEN)
    }

    /// Until what it does in the background is done: writing, checking what is in NARs, moving files.
    pub fn wait_until_it_rests(&self) {
        const LOOK: Duration = Duration::from_millis(100);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let ((), spent) = self.cost_of(|| sleep(LOOK));
            if spent < LOOK.as_secs_f64() / 100.0 {
                return;
            }
        }
        self.fail("does not come to rest");
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        signal(self.process(), Signal::TERM);
        let began = Instant::now();
        while self.child.try_wait().expect("its status").is_none() {
            if began.elapsed() > PATIENCE {
                self.fail("does not stop");
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Ends it at once, all of its processes.
    pub fn kill(&mut self) {
        for process in account::tree(self.process()) {
            signal(process, Signal::KILL);
        }
        // Nothing is wrong with a child that has ended already.
        let _ = self.child.wait();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}\n{}", self.kind.name(), self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, arguments: &[String], core: usize, dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program).args(arguments).current_dir(dir);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log twice")).stderr(log);
    command.spawn().expect("taskset runs; tests/bench/run installs it")
}

fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(process.cast_signed()).expect("no process is 0");
    // It may have ended meanwhile.
    let _ = kill_process(process, signal);
}
