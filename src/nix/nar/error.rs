//! Why bytes are no NAR.

use crate::nix::excerpt::Excerpt;

/// What is wrong, and where: `at` counts bytes from the beginning, to the length of the string that is wrong, or to the
/// byte itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the texts say
pub enum Error {
    /// A length that no string in this place has, told before a byte of it was read.
    #[error("at byte {at}: expected {expected}, found a string of {found} bytes")]
    Length { at: u64, expected: &'static str, found: u64 },
    /// Another string than the grammar has here.
    #[error("at byte {at}: expected {expected}, found {found}")]
    Word { at: u64, expected: &'static str, found: Excerpt },
    /// A byte that is not zero between two strings.
    #[error("at byte {at}: expected a zero after a string")]
    Padding { at: u64 },
    /// A name that would lead elsewhere.
    #[error("at byte {at}: expected a name without `/` and NUL that is not `.` or `..`, found {found}")]
    Name { at: u64, found: Excerpt },
    /// A name that does not come after the one before it.
    #[error("at byte {at}: entries must be sorted, each once, found {found}")]
    Order { at: u64, found: Excerpt },
    /// A symlink's target with a NUL.
    #[error("at byte {at}: expected a target without NUL")]
    Target { at: u64 },
    /// A directory in 64 others (CVE-2026-44028).
    #[error("at byte {at}: directories nest more than 64 deep")]
    Depth { at: u64 },
    /// The bytes end too early.
    #[error("at byte {at}: expected {expected}, found the end")]
    Cut { at: u64, expected: &'static str },
    /// The bytes go on too long.
    #[error("at byte {at}: expected the end")]
    Trailing { at: u64 },
}
