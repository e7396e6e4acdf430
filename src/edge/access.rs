//! The access log: one line for each request, written when its response has ended, and the counters beside it.
//!
//! What stands in a line was parsed or made here; no byte of a request that was not understood gets there (R25). A secret that a
//! client shows (R16) is told by its name.
//!
//! A request whose trace is recorded leaves a span as well (`span`).
//!
//! Out of scope: how lines are written, and what happens when nobody reads them (`telemetry`).

mod span;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tracing::field::display;

use super::address::Peer;
use super::body::BodyError;
use super::route::Route;
use crate::field;
use crate::metrics::{EdgeMetrics, Label as _, Outcome, ResponseEnd, Route as Label};
use crate::proxy::answer::Provenance;
use crate::proxy::request::Request;
use crate::telemetry::{self, AccessLog};
use crate::trace::{Recorder, Trace};

/// nginx's word for a request whose client left before there was an answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Where entries go: the counters, and the log by its options.
#[derive(Debug)]
pub struct Book {
    metrics: EdgeMetrics,
    options: telemetry::Options,
    /// Where lines go, if anywhere.
    log: Option<AccessLog>,
    /// Where traces go, if anywhere.
    recorder: Option<Recorder>,
}

impl Book {
    /// Counts in these metrics, by these options.
    pub fn new(metrics: EdgeMetrics, options: telemetry::Options) -> Self {
        Self { metrics, options, log: None, recorder: None }
    }

    /// The same; lines go there, if anywhere.
    pub fn logged_by(self, log: Option<AccessLog>) -> Self {
        Self { log, ..self }
    }

    /// The same; traces go there, if anywhere.
    pub fn recorded_by(self, recorder: Option<Recorder>) -> Self {
        Self { recorder, ..self }
    }

    /// The trace of a request with this head.
    fn trace(&self, headers: &HeaderMap) -> Trace {
        let trace = if self.options.traceparent { Trace::of(headers) } else { Trace::begin().untold() };
        trace.recorded_by(self.recorder.as_ref(), |random| self.options.otlp_share.takes(random))
    }
}

/// A request, from its head to the end of its response. Whatever becomes of it, dropping the entry counts it and writes
/// its line: there are as many as there were requests.
#[derive(Debug)]
pub struct Entry {
    book: Arc<Book>,
    begun: Instant,
    trace: Trace,
    method: &'static str,
    route: Label,
    key: Option<Request>,
    answered: Option<(Outcome, StatusCode)>,
    provenance: Provenance,
    bytes: u64,
    /// When the first byte of the body was handed on, or the head of a response without one.
    first_byte: Option<Duration>,
    end: ResponseEnd,
    /// Where there is somebody who reads the line.
    line: Option<Line>,
}

/// What only the line needs.
#[derive(Debug)]
struct Line {
    client: Option<SocketAddr>,
    name: Option<Name>,
}

/// What a client showed that lets it in, by its name in the configuration or in the certificate.
#[derive(Debug)]
pub enum Name {
    /// A token.
    Token(Arc<str>),
    /// A certificate, with its names: the first one is told.
    Certificate(Arc<[String]>),
}

impl Entry {
    /// A request whose head is there.
    ///
    /// On the heap: it is moved with the response and its body, each time these are.
    pub fn begin(book: &Arc<Book>, method: &Method, headers: &HeaderMap, peer: &Peer) -> Box<Self> {
        let line = book.log.is_some().then_some(Line { client: peer.address, name: None });
        Box::new(Self {
            begun: Instant::now(),
            trace: book.trace(headers),
            method: word(method),
            route: Label::Other,
            key: None,
            answered: None,
            provenance: Provenance::default(),
            bytes: 0,
            first_byte: None,
            end: ResponseEnd::ClientGone,
            line,
            book: Arc::clone(book),
        })
    }

    /// The trace that this belongs to, where it matters to who asks upstreams: it is told, or recorded.
    pub fn trace(&self) -> Option<Trace> {
        (self.trace.told || self.trace.recorder.is_some()).then(|| self.trace.clone())
    }

    /// What is asked for.
    pub fn routed(&mut self, route: &Route) {
        self.route = route.label();
        if let Route::Known(request) = route {
            self.key = Some(request.clone());
        }
    }

    /// Who asks, asked for only where it is told.
    pub fn named(&mut self, name: impl FnOnce() -> Option<Name>) {
        if let Some(line) = &mut self.line {
            line.name = name();
        }
    }

    /// Where what is sent comes from.
    pub fn comes_from(&mut self, provenance: Provenance) {
        self.provenance = provenance;
    }

    /// The response's head is made.
    pub fn answered(&mut self, outcome: Outcome, status: StatusCode) {
        self.answered = Some((outcome, status));
    }

    /// What `Server-Timing` says, where it is wanted: how the answer was come by, and how many milliseconds it took.
    pub fn server_timing(&self) -> Option<(HeaderName, HeaderValue)> {
        let (outcome, _) = self.answered.filter(|_| self.book.options.server_timing)?;
        let milliseconds = self.begun.elapsed().as_secs_f64() * 1e3;
        let value = HeaderValue::try_from(format!("snowbank;desc={outcome};dur={milliseconds:.3}")).ok()?;
        Some((SERVER_TIMING, value))
    }

    /// Bytes of the body were handed to the connection.
    pub fn add(&mut self, bytes: usize) {
        if self.bytes == 0 {
            self.first_byte = Some(self.begun.elapsed());
        }
        self.bytes += bytes as u64;
    }

    /// The whole body was handed to the connection.
    pub fn complete(mut self: Box<Self>) {
        self.end = ResponseEnd::Complete;
    }

    /// The body's source failed.
    pub fn broken(mut self: Box<Self>, error: &BodyError) {
        self.end = ResponseEnd::Broken;
        if matches!(error, BodyError::Panicked) {
            self.book.metrics.panics.inc();
        }
        let path = self.key.as_ref().map(Shortened).map(display);
        let trace = self.trace.id_text(&mut [0; 32]).to_owned();
        tracing::warn!(route = %self.route, path, trace, %error, "response broken off");
    }

    /// Whether the line is left out because it is one of many like it. Our own span's id decides: nobody else chooses it.
    fn is_left_out(&self, outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Local | Outcome::Hit | Outcome::Negative)
            && self.end == ResponseEnd::Complete
            && !self.book.options.sample_hits.takes(self.trace.span.get())
    }

    fn write(&self, about: &Line, outcome: Outcome, status: u16, total: Duration) {
        let Some(log) = &self.book.log else { return };
        log.write(|line| {
            line.address(field!("client"), about.client);
            about.name.iter().for_each(|name| line.text(field!("name"), name));
            line.word(field!("method"), self.method);
            line.word(field!("route"), self.route.text());
            self.key.iter().for_each(|key| line.text(field!("path"), &Shortened(key)));
            line.word(field!("outcome"), outcome.text());
            line.number(field!("status"), status.into());
            self.provenance.upstream().iter().for_each(|upstream| line.text(field!("upstream"), upstream));
            self.provenance.tier().iter().for_each(|tier| line.word(field!("tier"), tier.text()));
            line.number(field!("bytes"), self.bytes);
            line.time(field!("first_byte"), self.first_byte.unwrap_or(total));
            line.time(field!("total"), total);
            line.word(field!("ended"), self.end.text());
            line.word(field!("trace"), self.trace.id_text(&mut [0; 32]));
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (outcome, status) = match self.answered {
            Some((outcome, status)) => (outcome, status.as_u16()),
            None if std::thread::panicking() => (Outcome::Internal, StatusCode::INTERNAL_SERVER_ERROR.as_u16()),
            None => (Outcome::Abandoned, CLIENT_CLOSED_REQUEST),
        };
        let total = self.begun.elapsed();
        let metrics = &self.book.metrics;
        metrics.requests.of(self.route, outcome).inc();
        metrics.responses.of(self.end).inc();
        metrics.response_bytes.of(self.route, outcome).inc_by(self.bytes);
        metrics.first_byte.of(self.route, outcome).observe(self.first_byte.unwrap_or(total).as_secs_f64());
        if outcome == Outcome::Hit
            && let Some(place) = self.provenance.tier()
        {
            metrics.hits.of(self.route, place).inc();
        }
        self.record(outcome, status);
        if let Some(line) = &self.line
            && !self.is_left_out(outcome)
        {
            self.write(line, outcome, status, total);
        }
    }
}

/// A method as it is told: one that nobody knows is a client's text.
fn word(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 9] = [
        (Method::GET, "GET"),
        (Method::HEAD, "HEAD"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::DELETE, "DELETE"),
        (Method::OPTIONS, "OPTIONS"),
        (Method::PATCH, "PATCH"),
        (Method::CONNECT, "CONNECT"),
        (Method::TRACE, "TRACE"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("other", |(_, word)| word)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(name) => write!(f, "token:{}", name.escape_default()),
            Self::Certificate(names) => {
                write!(f, "certificate:{}", names.first().map_or("", String::as_str).escape_default())
            }
        }
    }
}

/// What is asked for, cut where it is longer than what Nix asks for.
struct Shortened<'a>(&'a Request);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 512;
        // All others have a bound of their own.
        match self.0 {
            Request::Nar(crate::proxy::request::NarName::Opaque(name)) if name.len() > LONGEST => {
                write!(f, "{}...", &name[..name.floor_char_boundary(LONGEST)])
            }
            request => request.fmt(f),
        }
    }
}
