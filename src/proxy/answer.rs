//! What the proxy gives back: enough for the edge to write any response to it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;

pub use crate::fill::Witness;
pub use crate::metrics::{Outcome, Place};

/// The bytes of a body: pieces, then the end, or one error, after which the response must be aborted and never ended (R8).
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Why a body cannot go on, for the log.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The answer to a request.
pub struct Answer {
    /// How it was come by: the word for log, metric and `Cache-Status`.
    pub outcome: Outcome,
    /// What is sent.
    pub reply: Reply,
    /// Where that comes from.
    pub provenance: Provenance,
    /// Whether it came from a private upstream, or says what not everybody is told: no cache in between may give it to
    /// anybody else.
    pub private: bool,
}

/// Where what is sent comes from, as far as it is known: for the log and for `Cache-Status`.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// The tier of the store that had it, or that has its beginning.
    pub tier: Option<Place>,
    /// The upstream that was asked for it now, for this request or for one that it joined.
    pub upstream: Option<Arc<str>>,
    /// For how many seconds the store still takes it for true; below 0, since when it does not any more. `None` for what is
    /// true for ever, and for what is not kept.
    pub ttl: Option<i64>,
    /// Whether it is kept from now on.
    pub stored: bool,
    /// What the reader of a NAR finds out; it knows better.
    pub witness: Option<Arc<Witness>>,
}

impl Provenance {
    /// The slowest tier of the store that something of it came from.
    pub fn tier(&self) -> Option<Place> {
        self.witness.as_ref().and_then(|witness| witness.tier()).or(self.tier)
    }

    /// The upstream that something of it came from.
    pub fn upstream(&self) -> Option<Arc<str>> {
        self.witness.as_ref().and_then(|witness| witness.upstream()).or_else(|| self.upstream.clone())
    }
}

/// What is sent.
pub enum Reply {
    /// A NAR, whole or in part.
    Nar(Nar),
    /// Something small.
    Object(Object),
    /// Nothing but a reason.
    Failed(Failure),
}

/// A NAR that can be read. Conditions and ranges are the edge's business.
pub struct Nar {
    /// Size in bytes, when known: always for a stored one.
    pub size: Option<u64>,
    /// The digest of the URL in nix32: the strong validator, since the bytes under one URL never change.
    pub etag: String,
    /// Opens the bytes of a range (`None`: all of it). Not called for HEAD.
    pub open: Box<dyn FnOnce(Option<Range<u64>>) -> BodyStream + Send>,
}

/// Something small.
pub struct Object {
    /// `Content-Type`
    pub content_type: &'static str,
    /// `Content-Encoding`, when the upstream keeps it compressed.
    pub encoding: Option<HeaderValue>,
    /// The body.
    pub body: ObjectBody,
    /// For how many seconds it may be kept by other caches.
    pub max_age: u64,
}

/// The body of something small.
pub enum ObjectBody {
    /// At hand.
    Whole(Bytes),
    /// Passed on as it comes, because it is too large to keep (a long build log).
    Stream {
        /// Size in bytes, when the upstream says it.
        size: Option<u64>,
        /// The bytes.
        stream: BodyStream,
    },
}

/// Why there is nothing to send.
pub struct Failure {
    /// The kind, which decides the status.
    pub kind: FailureKind,
    /// One line for a person: Nix prints it.
    pub text: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nobody has it (404). Only said when every upstream said so (R18).
    NotFound,
    /// An upstream that might have it did not tell (502: Nix tries again within seconds, see protocol.md 3).
    BadGateway,
    /// The same, and it is taken for down: not worth asking for again before so many seconds (503 with Retry-After, which
    /// Nix honours).
    Unavailable {
        /// Seconds; a few.
        retry_after: u64,
    },
    /// A mistake of ours (500).
    Internal,
}

impl Answer {
    /// Whether it says that nobody has it.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.reply, Reply::Failed(failure) if failure.kind == FailureKind::NotFound)
    }

    /// Whether it says that nobody knows, and nothing yet of when it is worth asking again.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(&self.reply, Reply::Failed(failure) if failure.kind == FailureKind::BadGateway)
    }

    /// Whether it is something, and not a reason why there is nothing.
    pub(super) fn is_had(&self) -> bool {
        !matches!(self.reply, Reply::Failed(_))
    }

    /// An answer that everybody may have.
    pub fn public(outcome: Outcome, reply: Reply) -> Self {
        Self { outcome, reply, private: false, provenance: Provenance::default() }
    }

    /// The same, and where it comes from.
    #[must_use]
    pub fn coming_from(self, provenance: Provenance) -> Self {
        Self { provenance, ..self }
    }

    /// A failure.
    pub fn failed(outcome: Outcome, kind: FailureKind, text: impl Into<String>) -> Self {
        Self::public(outcome, Reply::Failed(Failure { kind, text: text.into() }))
    }
}
