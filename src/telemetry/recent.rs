//! The last warnings and errors of the log, for the page of operators: who looks there need not search the log first.
//!
//! What is in the log already is here once more, and nothing else: the log's level decides about both. At most [`MOST`] of them, each
//! of at most [`LONGEST`] bytes; of those with the same message the last one stands for all, with their number.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::UnixSeconds;

/// How many are remembered.
const MOST: usize = 32;
/// Bytes of one.
const LONGEST: usize = 400;

/// What was told lately. Cheap to clone: all clones are one memory.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Told>>>);

/// A warning or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When it was told, for the last time.
    pub at: UnixSeconds,
    /// Whether it is an error.
    pub is_error: bool,
    /// The message.
    pub text: String,
    /// The fields, as `name=value`, of the last time.
    pub fields: String,
    /// How often, as long as it is remembered.
    pub times: u64,
}

impl Recent {
    /// What was told, the newest first.
    pub fn told(&self) -> Vec<Told> {
        self.lock().iter().rev().cloned().collect()
    }

    fn add(&self, mut new: Told) {
        let mut told = self.lock();
        let same = told.iter().position(|old| old.is_error == new.is_error && old.text == new.text);
        if let Some(old) = same.and_then(|at| told.remove(at)) {
            new.times = new.times.saturating_add(old.times);
        } else if told.len() == MOST {
            told.pop_front();
        }
        told.push_back(new);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // `ERROR` is the least of the levels.
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let is_error = *event.metadata().level() == Level::ERROR;
        let (text, fields) = (bounded(&text.message), bounded(text.fields.trim_start()));
        self.add(Told { at: UnixSeconds::now(), is_error, text, fields, times: 1 });
    }
}

/// The text of an event that is being put together.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

/// On one line, and not too long.
fn bounded(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > LONGEST {
        line.truncate(line.floor_char_boundary(LONGEST - '…'.len_utf8()));
        line.push('…');
    }
    line
}

impl Text {
    // Into strings, which take everything.
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            // For who looks for it in the log; too long to read here.
            "backtrace" => Ok(()),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn of(log: impl FnOnce()) -> Vec<Told> {
        let recent = Recent::default();
        let subscriber = tracing_subscriber::registry().with(recent.clone());
        tracing::subscriber::with_default(subscriber, log);
        recent.told()
    }

    #[test]
    fn warnings_and_errors_are_told_and_nothing_else() {
        let told = of(|| {
            tracing::info!("nothing");
            tracing::warn!(name = "a", n = 1, error = %"x\ny", "first");
            tracing::error!("second");
        });
        let texts: Vec<_> = told.iter().map(|told| (told.is_error, told.text.as_str(), told.fields.as_str())).collect();
        assert_eq!(texts, [(true, "second", ""), (false, "first", "name=a n=1 error=x y")]);
    }

    #[test]
    fn what_repeats_is_counted_and_what_is_old_is_forgotten() {
        let told = of(|| {
            for n in 0..5 {
                tracing::warn!(n, "again");
                tracing::error!("again");
            }
        });
        let texts: Vec<_> = told.iter().map(|told| (told.is_error, told.fields.as_str(), told.times)).collect();
        assert_eq!(texts, [(true, "", 5), (false, "n=4", 5)]);
        let told = of(|| (0..100).for_each(|n| tracing::warn!("{n}")));
        assert_eq!((told.len(), told[0].text.as_str(), told[MOST - 1].text.as_str()), (MOST, "99", "68"));
    }

    #[test]
    fn a_long_one_is_cut_between_characters() {
        let told = of(|| tracing::warn!("{}", "é".repeat(LONGEST)));
        assert!(told[0].text.len() <= LONGEST && told[0].text.ends_with("é…"), "{}", told[0].text);
    }
}
