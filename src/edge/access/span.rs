//! The span of a request that was answered, where its trace is recorded.
//!
//! What is in it is what is in the line, without who asked: no address, no name.

use http::StatusCode;

use super::{Entry, Shortened};
use crate::clock::since_1970;
use crate::metrics::{Label as _, Outcome, ResponseEnd};
use crate::proxy::answer::Place;
use crate::trace::{Kind, Span, Value};

impl Entry {
    /// Hands the span over.
    pub(super) fn record(&self, outcome: Outcome, status: u16) {
        let Some(recorder) = &self.trace.recorder else { return };
        let took = self.begun.elapsed();
        recorder.take(Span {
            trace: self.trace.id,
            id: self.trace.span,
            parent: self.trace.parent,
            kind: Kind::Server,
            name: self.route.text(),
            begun: since_1970().saturating_sub(took),
            took,
            failed: self.failure(outcome, status),
            attributes: self.attributes(outcome, status),
        });
    }

    /// What is the client's own fault, and its leaving, is no error of the server (as OpenTelemetry's conventions have it).
    fn failure(&self, outcome: Outcome, status: u16) -> Option<&'static str> {
        match self.end {
            ResponseEnd::Broken => Some(self.end.text()),
            _ => (status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16()).then(|| outcome.text()),
        }
    }

    /// What is asked for. Where an upstream's URLs have a query, that may be what lets in.
    fn path(&self) -> Option<String> {
        let mut path = format!("/{}", Shortened(self.key.as_ref()?));
        path.truncate(path.find('?').unwrap_or(path.len()));
        Some(path)
    }

    fn attributes(&self, outcome: Outcome, status: u16) -> Vec<(&'static str, Value)> {
        let method = if self.method == "other" { "_OTHER" } else { self.method };
        let mut attributes = Vec::with_capacity(10);
        attributes.extend([
            ("http.request.method", Value::Word(method)),
            ("http.response.status_code", Value::Count(status.into())),
            ("http.response.body.size", Value::Count(self.bytes)),
            ("snowbank.route", Value::Word(self.route.text())),
            ("snowbank.outcome", Value::Word(outcome.text())),
            ("snowbank.ended", Value::Word(self.end.text())),
        ]);
        let tier = self.provenance.tier().map(|tier| Value::Word(Place::text(tier)));
        let first_byte = self.first_byte.map(|time| Value::Seconds(time.as_secs_f64()));
        let more = [
            ("url.path", self.path().map(Value::Text)),
            ("snowbank.upstream", self.provenance.upstream().map(Value::Name)),
            ("snowbank.tier", tier),
            ("snowbank.first_byte", first_byte),
        ];
        attributes.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
        attributes
    }
}
