//! The program: understands its arguments, starts the runtime, serves, and says with its exit status how it went.

use std::io::{stderr, stdout};
use std::process::ExitCode;

use snowbank::cli::{self, Next};
use snowbank::config::{Config, Environment};
use snowbank::{app, telemetry};

/// See `Cargo.toml` for why.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(std::env::args_os(), &Environment::of_process(), &mut stdout(), &mut stderr()) {
        Ok(Next::Exit(status)) => ExitCode::from(status),
        Ok(Next::Serve(config)) => match serve(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // One line: what failed and the causes behind it.
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        },
        // Nobody reads what was asked for (`snowbank print-config | head`).
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log)?;
    tracing::info!("snowbank {}", env!("CARGO_PKG_VERSION"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("snowbank").build()?;
    runtime.block_on(app::run(config))
}
