//! Why an upstream's answer is unknown.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::metrics::Left;

/// An answer that is neither "have" nor "have not".
#[derive(Debug, Clone, thiserror::Error)]
#[error("upstream {upstream} {cause}")]
pub struct UpstreamError {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// What happened.
    pub cause: Cause,
}

/// What a client is told whatever it asks for: who it is, how often it asks, when.
const IS_ABOUT_THE_CLIENT: [StatusCode; 5] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::PROXY_AUTHENTICATION_REQUIRED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
];

impl UpstreamError {
    /// Whether the upstream answered, and its answer was to the form of the request: asked in another way it may do better.
    pub fn is_about_the_request(&self) -> bool {
        match &self.cause {
            Cause::Status(status) | Cause::Elsewhere { status, .. } => {
                status.is_client_error() && !IS_ABOUT_THE_CLIENT.contains(status)
            }
            Cause::Header(_) => true,
            _ => false,
        }
    }

    /// Whether the upstream said something, if nothing that is of use.
    pub fn is_an_answer(&self) -> bool {
        !self.is_late()
            && !matches!(
                self.cause,
                Cause::Connection(_) | Cause::Unanswered(_) | Cause::Busy(_) | Cause::Down(_) | Cause::Internal(_)
            )
    }

    /// Whether there was no answer in time.
    pub fn is_late(&self) -> bool {
        matches!(self.cause, Cause::Timeout(_) | Cause::Late { .. })
    }

    /// What an upstream did whose body ended in this error.
    pub fn left(&self) -> Left {
        match self.cause {
            Cause::Stall(_) => Left::Stalled,
            Cause::Slow(_) => Left::Slow,
            _ => Left::Cut,
        }
    }

    /// Whether the upstream was not asked, because it is taken for down: said once, in the log, when it was.
    pub fn is_known(&self) -> bool {
        matches!(self.cause, Cause::Down(_))
    }

    /// Whether the upstream was not asked, because its connections are busy.
    pub fn is_busy(&self) -> bool {
        matches!(self.cause, Cause::Busy(_))
    }
}

/// What happened to a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// Name resolution, connecting, or TLS.
    #[error("could not be asked: {0}")]
    Connection(String),
    /// It was asked, and the connection ended without an answer, or with something that is none.
    #[error("did not answer: {0}")]
    Unanswered(String),
    /// Others had all its connections for too long.
    #[error("had no connection free for {0:?}")]
    Busy(Duration),
    /// It is not asked for some seconds, because it did not answer others: what happened to the last of them.
    #[error("is taken for down: it {0}")]
    Down(Arc<str>),
    /// No answer in time: the head of a NAR's response, or all of something small.
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    /// The same behind a proxy: nobody can tell whose fault it is.
    #[error("could not be asked: its proxy {proxy} or who is behind it did not answer within {limit:?}")]
    Late {
        /// The proxy's address.
        proxy: String,
        /// How long it had.
        limit: Duration,
    },
    /// No further bytes of a body in time.
    #[error("sent nothing for {0:?} in the middle of a body")]
    Stall(Duration),
    /// A small body that was not whole in time, or a large one of which next to nothing came.
    #[error("was too slow: it had {0:?}")]
    Slow(Duration),
    /// The body ended before its end.
    #[error("cut its answer short: {0}")]
    Cut(String),
    /// A status that says neither yes nor no.
    #[error("answered {0}")]
    Status(StatusCode),
    /// A status that refuses the credentials, which are of this kind.
    #[error("refused {kind}: {status}")]
    Refused {
        /// In words that follow "refused".
        kind: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// 401 to a request without credentials.
    #[error("wants credentials, and it has none here: set netrc_file, token_file, or user and password_file")]
    Credentials,
    /// A status that says neither yes nor no, from a host that the upstream had redirected to.
    #[error("redirected to {host}, which answered {status}")]
    Elsewhere {
        /// The host, perhaps with a port. Nothing else of the URL: its query may be a credential.
        host: String,
        /// What it answered.
        status: StatusCode,
    },
    /// A redirect that is not followed, or leads nowhere.
    #[error("sent a redirect {0}")]
    Redirect(String),
    /// A body that cannot be decoded.
    #[error("sent a body that cannot be decoded: {0}")]
    Encoding(String),
    /// A header that contradicts the request.
    #[error("answered with {0}")]
    Header(&'static str),
    /// What a bucket or a directory says that is neither yes nor no, in words.
    #[error("{0}")]
    Told(String),
    /// A mistake of ours.
    #[error("was not asked: {0}")]
    Internal(&'static str),
}
