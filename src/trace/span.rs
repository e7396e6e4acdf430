//! What is told of one piece of work: when it was, what it belongs to, and what came of it.
//!
//! Names are those of OpenTelemetry's conventions for HTTP where those have one. Nothing is in it that a client or an upstream wrote and
//! nobody parsed, and no secret: no field of a head, no query, no token.

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;
use std::time::Duration;

/// Whose work it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request was answered.
    Server,
    /// An upstream was asked.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One of a closed set.
    Word(&'static str),
    /// A name that others hold, too.
    Name(Arc<str>),
    /// Any other text.
    Text(String),
    /// A count.
    Count(u64),
    /// Seconds.
    Seconds(f64),
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: NonZeroU128,
    /// Its own id.
    pub id: NonZeroU64,
    /// The span that it is a part of; of somebody else for what a client asked with a trace of its own.
    pub parent: Option<NonZeroU64>,
    /// Whose work it was.
    pub kind: Kind,
    /// What kind of work it was.
    pub name: &'static str,
    /// When it began, since 1970-01-01T00:00:00Z.
    pub begun: Duration,
    /// For how long it went on.
    pub took: Duration,
    /// What went wrong, in a word.
    pub failed: Option<&'static str>,
    /// What else there is to say.
    pub attributes: Vec<(&'static str, Value)>,
}
