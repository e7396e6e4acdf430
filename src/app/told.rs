//! What a command that takes long tells on stderr meanwhile.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Tells how far it is: each second to a person, now and then to a log.
pub(super) struct Told {
    next: Instant,
    every: Duration,
}

impl Told {
    pub(super) fn new() -> Self {
        let every = Duration::from_secs(if stderr().is_terminal() { 1 } else { 10 });
        Self { next: Instant::now(), every }
    }

    /// How far it is, if that was not told a moment ago.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + self.every;
            say(&line());
        }
    }
}

/// A line, whether anybody reads it or not.
pub(super) fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}"); // whoever looks may be gone
}
