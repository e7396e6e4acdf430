//! The program: understands its arguments, starts the runtime, serves, and says with its exit status how it went.

#![recursion_limit = "256"] // the layout of a request's future: each wrapper counts, and an optimised build ends at 128

use std::io::{Write as _, stderr, stdout};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use snowbank::app;
use snowbank::app::verify::Verdict;
use snowbank::cli::{self, Next};
use snowbank::config::{Config, Environment, Origin};
use snowbank::inherited::Inherited;
use snowbank::shutdown::End;
use snowbank::telemetry::{self, Log};

/// See `Cargo.toml` for why.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of a server that was told twice to end; what a shell says of a program that was interrupted.
const EX_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // Before anything is read: a check of the configuration reads the secret keys already.
    let hidden = hide_memory();
    // Memory is taken in many places at once, a little in each: pages of 2 MiB made 22 MB more of it, and nothing faster. A
    // kernel without them (or a sandbox that forbids to ask) is as well.
    let _ = disable_transparent_huge_pages(true);
    match cli::run(std::env::args_os(), &Environment::of_process(), &mut stdout(), &mut stderr()) {
        Ok(Next::Exit(status)) => ExitCode::from(status),
        Ok(Next::Serve(config, origin)) => serve(*config, *origin, &hidden),
        Ok(Next::Verify(config, json)) => {
            let log = config.log.clone();
            judged(&log, app::verify::run(*config, json.as_deref()), &Verdict::Right)
        }
        Ok(Next::Import(config, dirs)) => {
            let log = config.log.clone();
            judged(&log, app::import::run(*config, dirs), &app::import::Verdict::Whole)
        }
        Ok(Next::Export(config, to, wish)) => {
            let log = config.log.clone();
            judged(&log, app::export::run(*config, to, wish), &app::export::Verdict::Whole)
        }
        Ok(Next::Warm(address, wish)) => whole(asking(app::warm::run(address, wish))),
        Ok(Next::Pin(address, wish)) => whole(asking(app::pin::pin(address, wish))),
        Ok(Next::Unpin(address, wish)) => whole(asking(app::pin::unpin(address, wish))),
        Ok(Next::Pins(address, json)) => told(asking(app::pin::told(address, json))),
        Ok(Next::Certificates(config, json)) => told(asking(app::certificates::run(&config, json))),
        Ok(Next::Status(address, json)) => told(asking(app::status::run(address, json))),
        Ok(Next::Top(address, every)) => told(asking(app::top::run(address, every))),
        Ok(Next::Healthcheck(address)) => match asking(app::health::run(address)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(stderr(), "{}", on_one_line(&error));
                ExitCode::from(cli::EX_UNHEALTHY)
            }
        },
        Err(error) => {
            // That nobody reads what was asked for (`snowbank print-config | head`) needs no word.
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                let _ = writeln!(stderr(), "what was asked for cannot be written: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, origin: Origin, hidden: &rustix::io::Result<()>) -> ExitCode {
    let inherited = Inherited::of_process(); // before there are threads
    if let Err(mistakes) = origin.check_sockets(&config, &inherited) {
        let _ = writeln!(stderr(), "{mistakes}"); // whoever reads it may be gone
        return ExitCode::from(cli::EX_USAGE);
    }
    let log = match telemetry::init(&config.log) {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!("snowbank {}", env!("CARGO_PKG_VERSION"));
    if let Err(error) = hidden {
        tracing::warn!(%error, "core dumps cannot be switched off: one would hold the secret keys");
    }
    match run(config, origin, inherited, &log) {
        Ok(End::InOrder) => ExitCode::SUCCESS,
        Ok(End::AtOnce) => ExitCode::from(EX_INTERRUPTED),
        Err(error) => {
            tracing::error!("{}", on_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config, origin: Origin, inherited: Inherited, log: &Log) -> anyhow::Result<End> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("snowbank").build()?;
    let served = runtime.block_on(app::run(config, origin, inherited, log));
    // What a file system that hangs still holds is left to it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// The exit status of a command that works on the store: whether it came to what is hoped for.
fn judged<V: PartialEq>(log: &telemetry::Options, work: impl Future<Output = anyhow::Result<V>>, good: &V) -> ExitCode {
    let judge = || {
        let _log = telemetry::init(log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("snowbank").build()?;
        runtime.block_on(work)
    };
    match judge() {
        Ok(verdict) if verdict == *good => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(stderr(), "{}", on_one_line(&error)); // whoever asked may not read it
            ExitCode::from(cli::EX_NOT_DONE)
        }
    }
}

/// What comes of asking the running server.
fn asking<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(asked)
}

/// The exit status of that, where the server may have done only a part of it.
fn whole(done: anyhow::Result<app::warm::Verdict>) -> ExitCode {
    match done {
        Ok(app::warm::Verdict::Whole) => ExitCode::SUCCESS,
        Ok(app::warm::Verdict::Partial) => ExitCode::FAILURE,
        Err(error) => told(Err(error)),
    }
}

/// The exit status of that, and a line where it could not be done.
fn told(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "{}", on_one_line(&error)); // whoever asked may not read it
            ExitCode::from(cli::EX_NOT_DONE)
        }
    }
}

/// Keeps what is in memory, secret keys among it, out of core dumps and of the reach of the same user's debuggers (R4).
fn hide_memory() -> rustix::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    // A core that is piped to a collector ignores the limit, so both are needed.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).and(limited)
}

/// What failed and the causes behind it, each told once: many an error already ends with the text of its cause.
fn on_one_line(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |line, cause| {
        let cause = cause.to_string();
        if line.contains(&cause) { line } else { format!("{line}: {cause}") }
    })
}
