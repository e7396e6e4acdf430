//! What reading a configuration promises for any bytes, as a check that panics when the promise is broken.
//!
//! The fuzz target calls it with whatever the fuzzer thinks of, the tests with generated lines and with the corpus that
//! is kept in the tree. Compiled for tests and fuzzing only.

use super::{Config, Detail, Environment};
use crate::options::Mistakes;

/// A text is read, or refused with a reason; reasons are single short lines, and what was read is printed such that it
/// reads the same.
///
/// # Panics
/// When that does not hold for `bytes`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment = Environment { root: true, ..Environment::default() };
    let mut mistakes = Mistakes::default();
    let read = Config::read(text, &environment, &mut mistakes);
    for line in mistakes.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.len() < 1200, "{line:?}");
    }
    if !mistakes.is_empty() {
        return;
    }
    #[allow(clippy::expect_used)] // the law
    let config = read.expect("refused with a reason");
    for detail in [Detail::Values, Detail::Documented] {
        let printed = config.print(detail);
        let mut mistakes = Mistakes::default();
        let again = Config::read(&printed, &environment, &mut mistakes);
        assert_eq!(again.as_ref(), Some(&config), "{mistakes}\n{printed}");
    }
}
