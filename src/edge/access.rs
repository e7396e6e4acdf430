//! The access log: one event for each request, written when its response has ended, and the counters beside it.

use std::time::Instant;

use http::{Method, StatusCode, Uri};

use super::address::Peer;
use super::body::BodyError;
use crate::metrics::{EdgeMetrics, Outcome, ResponseEnd, Route};

/// nginx's word for a request whose client left before there was an answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request, from its head to the end of its response. Whatever becomes of it, dropping the entry counts it and writes
/// its event: there are as many as there were requests.
#[derive(Debug)]
pub struct Entry {
    method: Method,
    target: Uri,
    peer: Peer,
    begun: Instant,
    metrics: EdgeMetrics,
    route: Route,
    answered: Option<(Outcome, StatusCode)>,
    bytes: u64,
    end: ResponseEnd,
}

impl Entry {
    /// A request whose head is there. hyper refuses control characters in a target, so it can be logged as it is (R25).
    pub fn begin(method: Method, target: Uri, peer: Peer, metrics: EdgeMetrics) -> Self {
        Self {
            method,
            target,
            peer,
            begun: Instant::now(),
            metrics,
            route: Route::Other,
            answered: None,
            bytes: 0,
            end: ResponseEnd::ClientGone,
        }
    }

    /// What is asked for.
    pub fn routed(&mut self, route: Route) {
        self.route = route;
    }

    /// The response's head is made.
    pub fn answered(&mut self, outcome: Outcome, status: StatusCode) {
        self.answered = Some((outcome, status));
    }

    /// Bytes of the body were handed to the connection.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The whole body was handed to the connection.
    pub fn complete(mut self) {
        self.end = ResponseEnd::Complete;
    }

    /// The body's source failed.
    pub fn broken(mut self, error: &BodyError) {
        self.end = ResponseEnd::Broken;
        if matches!(error, BodyError::Panicked) {
            self.metrics.panics.inc();
        }
        tracing::warn!(route = %self.route, path = %Shortened(&self.target), %error, "response broken off");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (outcome, status) = match self.answered {
            Some((outcome, status)) => (outcome, status.as_u16()),
            None if std::thread::panicking() => (Outcome::Internal, StatusCode::INTERNAL_SERVER_ERROR.as_u16()),
            None => (Outcome::Abandoned, CLIENT_CLOSED_REQUEST),
        };
        self.metrics.requests.of(self.route, outcome).inc();
        self.metrics.responses.of(self.end).inc();
        self.metrics.response_bytes.inc_by(self.bytes);
        tracing::info!(
            target: "access",
            method = %self.method,
            path = %Shortened(&self.target),
            route = %self.route,
            status,
            outcome = %outcome,
            bytes = self.bytes,
            elapsed = ?self.begun.elapsed(),
            end = %self.end,
            peer = %self.peer,
        );
    }
}

/// A target, cut where it is longer than any that is served.
struct Shortened<'a>(&'a Uri);

impl std::fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LONGEST: usize = 256;
        let text = self.0.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "{}…", &text[..end]),
            None => f.write_str(text),
        }
    }
}
