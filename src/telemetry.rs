//! Logs: to stderr, where systemd, Kubernetes and people expect them.
//!
//! A log that cannot be written (a full disk, a collector that is gone) must not cost anybody a request: its lines are
//! lost without a word, since there is nowhere left to say it. Nor must one that nobody reads: its lines wait in a queue with
//! a bound, and are dropped and counted there. Panics are told the same way.
//!
//! The access log is a line for each request, which goes past `tracing` ([`AccessLog`]) and is switched by itself.
//!
//! Out of scope: metrics (see `metrics`), and the sending of traces (`otlp`), whose options stand here.

mod access;
mod collector;
mod queue;
mod recent;
mod share;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;

pub use self::access::{AccessLog, Field, Line};
pub use self::collector::Collector;
use self::queue::Queue;
pub use self::recent::{Recent, Told};
pub use self::share::Share;

crate::choice! {
    /// How a log line is written.
    pub enum Format {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

/// What is logged: a level, or levels by part of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level(String);

impl Default for Level {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl std::str::FromStr for Level {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        // A bare word that is no level would be taken for the name of a part of the program, and silence everything.
        let level = |t: &str| !t.is_empty() && t.parse::<tracing::level_filters::LevelFilter>().is_ok();
        let whole = text
            .split(',')
            .all(|t| level(t) || t.split_once('=').is_some_and(|(part, l)| !part.is_empty() && level(l)));
        if whole && EnvFilter::try_new(text).is_ok() { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

crate::string_value!(
    Level,
    "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", or a list by part such as \
     \"info,snowbank::fill=debug\""
);

crate::options! {
    /// The log, on stderr.
    pub struct Options {
        /// How much is logged. `debug` tells what each fill does; a list gives parts of the program their own level, as
        /// in "info,snowbank::fill=debug".
        pub level: Level = Level::default(),
        /// `text` for people, `json` for collectors: one object per line.
        pub format: Format = Format::Text,
        /// Whether each request is logged in one line, whatever `level` says, when its response has ended.
        pub access: bool = true,
        /// The share of such lines that is written for what was answered from here and came to its end (hits, and what is
        /// remembered as missing): 1 for all, 0 for none. Whatever else happened to a request always has its line.
        pub sample_hits: Share = Share::ALL,
        /// Whether the trace that a request belongs to (`traceparent`, W3C Trace Context) is taken over and sent on to the
        /// upstreams that are asked for it. Of what a client sends nothing goes on but the trace's id and its sampled flag.
        pub traceparent: bool = true,
        /// Whether responses say in `Server-Timing` how long they took to begin.
        pub server_timing: bool = false,
        /// Where traces are sent to, in the protocol of OpenTelemetry (OTLP over HTTP, protobuf): a span for each request, and one for
        /// each request to an upstream. Only in a program that was built with the feature `otlp`; every other refuses the option.
        pub otlp: Option<Collector> = None,
        /// The share of traces that is sent, of those that begin here: 1 for all, 0 for none. A trace that is taken over is sent if
        /// its sampled flag says so.
        pub otlp_share: Share = Share::ALL,
    }
}

/// How long the end of the process waits for the last lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of the process. Its end waits a moment until what was logged is written.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    recent: Recent,
    access: Option<AccessLog>,
}

impl Log {
    /// Where the lines of requests go, unless they are switched off.
    pub fn access(&self) -> Option<AccessLog> {
        self.access.clone()
    }

    /// Counts the lines that are dropped from now on.
    pub fn count_dropped_in(&self, counter: IntCounter) {
        self.queue.count_in(counter);
    }

    /// The last warnings and errors.
    pub fn recent(&self) -> Recent {
        self.recent.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.wait_until_written(LAST_LINES);
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The system gives no thread that writes it.
    #[error("no thread for the log: {0}")]
    Thread(std::io::Error),
    /// This process has one.
    #[error("the log was started before")]
    Started,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When it was started before, or there is no thread for it.
pub fn init(options: &Options) -> Result<Log, InitError> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    // Colour is for terminals, and not for those who ask for none (https://no-color.org).
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (queue, recent) = (Queue::default(), Recent::default());
    queue.write_to(std::io::stderr()).map_err(InitError::Thread)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(options))
        .with_writer(queue.clone())
        // It would report lines it cannot write with `eprintln!`, which panics when stderr itself cannot be written.
        .log_internal_errors(false);
    match options.format {
        Format::Text => lines.with_ansi(colour).finish().with(recent.clone()).try_init(),
        Format::Json => lines.json().flatten_event(true).finish().with(recent.clone()).try_init(),
    }
    .map_err(|_| InitError::Started)?;
    // The usual one writes to stderr itself, and would wait there for ever.
    std::panic::set_hook(Box::new(tell_of_panic));
    let json = options.format == Format::Json;
    let access = options.access.then(|| AccessLog { queue: queue.clone(), json });
    Ok(Log { queue, recent, access })
}

fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no text").replace('\n', "; ");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    tracing::error!(place, backtrace = trace, "panic: {what}");
}

fn filter(options: &Options) -> EnvFilter {
    // Every level was parsed when it was read, so nothing is left out here.
    // foyer tells of its opening and closing at `info`, and of each damaged entry with a backtrace at `warn`; the store counts
    // those, and they are fetched again. A list may say otherwise.
    EnvFilter::new(format!("foyer=error,{}", options.level))
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.ends_with(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::options::Table;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written of one event of each kind.
    fn written(options: &str) -> String {
        let options = Options::from_toml(options).unwrap();
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter(&options)).with_writer(move || sink.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("a debug line");
            tracing::info!("an info line");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let found = ["debug line", "info line"];
        let text = String::from_utf8(bytes).unwrap();
        found.into_iter().filter(|f| text.contains(f)).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_level_decides() {
        assert_eq!(written(""), "info line");
        assert_eq!(written("level = 'warn'"), "");
        assert_eq!(written("level = 'warn,snowbank::telemetry=debug'"), "debug line, info line");
    }

    #[test]
    fn a_level_that_would_silence_everything_is_refused() {
        for text in ["", "inof", "info,", "info,=debug", "info,x=loud", "snowbank"] {
            assert!(text.parse::<Level>().is_err(), "{text}");
        }
    }
}
