//! The lines of the log on their way out: whoever logs never waits for who reads.
//!
//! A pipe that nobody reads is full after 64 KiB, and a write to it then takes for ever. So one thread writes, the others
//! put their lines into a buffer of [`MOST`] bytes, and what finds no room there is dropped and counted. When there is
//! room again, a line says how many are missing.
//!
//! A wake of that thread costs more than a line. So lines that nobody waits for, those of the access log, wait for each other
//! for [`PAUSE`], or until [`BATCH`] bytes of them are there; whatever else is logged takes them along at once.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait; as many again may be in the hands of the thread that writes.
const MOST: usize = 1 << 20;

/// How long lines wait that are in no hurry.
const PAUSE: Duration = Duration::from_millis(20);
/// So many bytes of them wait no longer.
const BATCH: usize = 256 << 10;

/// Where lines are put, one for each write. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something waits, or nothing does any more.
    changed: Condvar,
    counter: OnceLock<IntCounter>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines dropped since that was last told.
    dropped: u64,
    is_writing: bool,
    /// Something waits that is in a hurry.
    is_urgent: bool,
}

impl Queue {
    /// Writes to `out`, in a thread of its own that ends with the process.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn write_to(&self, out: impl Write + Send + 'static) -> io::Result<()> {
        let queue = self.clone();
        std::thread::Builder::new().name("snowbank-log".to_owned()).spawn(move || queue.write_for_ever(out)).map(drop)
    }

    fn write_for_ever(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let may_wait = |state: &mut State| !state.is_urgent && state.waiting.len() < BATCH;
            let waited = self.0.changed.wait_timeout_while(state, PAUSE, may_wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut state.waiting, &mut lines);
            state.is_urgent = false;
            state.is_writing = true;
            drop(state);
            // A log that cannot be written is lost without a word: there is nowhere left to say it.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            let dropped = {
                let mut state = self.state();
                state.is_writing = false;
                // Told while the queue is full, it would be dropped too.
                if state.waiting.len() < MOST / 2 { std::mem::take(&mut state.dropped) } else { 0 }
            };
            self.0.changed.notify_all();
            if dropped > 0 {
                tracing::warn!(lines = dropped, "lines of the log were dropped here: whoever reads it is too slow");
            }
        }
    }

    /// Waits until everything was written, for so long at most.
    pub(super) fn wait_until_written(&self, limit: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty() || state.dropped > 0;
        let mut state = self.state();
        state.is_urgent = true;
        self.0.changed.notify_all();
        let _ = self.0.changed.wait_timeout_while(state, limit, is_busy);
    }

    /// Counts lines that are dropped here from now on.
    pub(super) fn count_in(&self, counter: IntCounter) {
        let _ = self.0.counter.set(counter); // the first one stays
    }

    /// Takes a line, or drops it as a whole.
    pub(super) fn take(&self, line: &[u8], is_urgent: bool) {
        let mut state = self.state();
        let before = state.waiting.len();
        if before + line.len() > MOST {
            state.dropped += 1;
            drop(state);
            if let Some(counter) = self.0.counter.get() {
                counter.inc();
            }
            return;
        }
        state.waiting.extend_from_slice(line);
        state.is_urgent |= is_urgent;
        let is_full = before < BATCH && state.waiting.len() >= BATCH;
        drop(state);
        if is_urgent || before == 0 || is_full {
            self.0.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Hand<'a>;

    fn make_writer(&'a self) -> Hand<'a> {
        Hand(self)
    }
}

/// Puts one line into the queue, in a hurry.
#[derive(Debug)]
pub(super) struct Hand<'a>(&'a Queue);

impl Write for Hand<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.take(line, true);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};

    use super::*;

    const LINE: &[u8] = b"a line of the log\n";

    #[test]
    fn who_logs_does_not_wait_for_who_reads() {
        let (reader, writer) = io::pipe().unwrap();
        let (queue, counter) = (Queue::default(), IntCounter::new("dropped", "lines").unwrap());
        queue.count_in(counter.clone());
        queue.write_to(writer).unwrap();
        let written = 4 * MOST / LINE.len();
        for _ in 0..written {
            queue.take(LINE, true);
        }
        let dropped = usize::try_from(counter.get()).unwrap();
        assert!(dropped >= written / 4 && dropped < written, "{dropped} of {written}");
        queue.wait_until_written(Duration::ZERO); // does not wait for ever either
        let mut lines = BufReader::new(reader);
        for _ in 0..written - dropped {
            let mut line = Vec::new();
            lines.read_until(b'\n', &mut line).unwrap();
            assert_eq!(line, LINE, "lines are whole, or not there");
        }
        queue.wait_until_written(Duration::from_secs(60));
        assert!(queue.state().waiting.is_empty() && queue.state().dropped == 0);
    }

    #[test]
    fn lines_in_no_hurry_come_together_and_nobody_has_to_push_them() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Queue::default();
        queue.write_to(writer).unwrap();
        let mut lines = BufReader::new(reader);
        let mut next = || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            line
        };
        queue.take(b"alone\n", false);
        assert_eq!(next(), "alone\n");
        for n in 0..3 * BATCH / LINE.len() {
            queue.take(LINE, n == 7);
        }
        for _ in 0..3 * BATCH / LINE.len() {
            assert_eq!(next().as_bytes(), LINE);
        }
        queue.take(b"last\n", false);
        queue.wait_until_written(Duration::from_secs(60));
        assert_eq!(next(), "last\n");
    }

    #[test]
    fn everything_is_written_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::default();
        queue.write_to(writer).unwrap();
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        for line in expected.split_inclusive('\n') {
            queue.make_writer().write_all(line.as_bytes()).unwrap();
        }
        queue.wait_until_written(Duration::from_secs(60));
        let mut read = vec![0; expected.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), expected);
    }
}
