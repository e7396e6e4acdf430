//! The span of one request to an upstream, from its sending to the end of the answer's body.
//!
//! It ends when whoever reads the answer lets go of it: at the end of the body, or where that is broken off.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{HeaderValue, StatusCode, Uri};

use super::{Kind, Recorder, Span, Trace, Value, here, new_span};
use crate::clock::since_1970;

/// See the module. Goes with the response as one of its extensions.
#[derive(Debug, Clone)]
pub struct Asking(Arc<Live>);

#[derive(Debug)]
struct Live {
    /// The trace as seen by the upstream: the span is that of the question.
    trace: Trace,
    recorder: Recorder,
    begun: (Duration, Instant),
    about: Mutex<About>,
    bytes: AtomicU64,
    whole: AtomicBool,
}

#[derive(Debug, Default)]
struct About {
    attributes: Vec<(&'static str, Value)>,
    failed: Option<&'static str>,
    answered: bool,
}

impl Asking {
    /// The request for `uri` that the upstream of this name is sent next, where that is recorded. Only the host of the address is
    /// told: a path or a query may be what lets in.
    pub fn begin(upstream: &Arc<str>, uri: &Uri) -> Option<Self> {
        let mut trace = here()?;
        let recorder = trace.recorder.clone()?;
        trace.parent = Some(trace.span);
        trace.span = new_span();
        Some(Self::of(trace, recorder, upstream, uri))
    }

    fn of(trace: Trace, recorder: Recorder, upstream: &Arc<str>, uri: &Uri) -> Self {
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let attributes = vec![
            ("http.request.method", Value::Word("GET")),
            ("url.scheme", Value::Word(if https { "https" } else { "http" })),
            ("server.address", Value::Text(uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned())),
            ("server.port", Value::Count(port.into())),
            ("snowbank.upstream", Value::Name(Arc::clone(upstream))),
        ];
        Self(Arc::new(Live {
            trace,
            recorder,
            begun: (since_1970(), Instant::now()),
            about: Mutex::new(About { attributes, ..About::default() }),
            bytes: AtomicU64::new(0),
            whole: AtomicBool::new(false),
        }))
    }

    /// What the upstream is told of the trace: this span asks.
    pub fn header(&self) -> Option<HeaderValue> {
        self.0.trace.header()
    }

    /// This one died with its connection; what is sent once more in its place.
    #[must_use]
    pub fn again(self, upstream: &Arc<str>, uri: &Uri) -> Self {
        self.failed("closed");
        let Live { trace, recorder, .. } = &*self.0;
        let again = Self::of(Trace { span: new_span(), ..trace.clone() }, recorder.clone(), upstream, uri);
        again.0.tell(|about| about.attributes.push(("http.request.resend_count", Value::Count(1))));
        again
    }

    /// The head of the answer is there.
    pub fn answered(&self, status: StatusCode) {
        self.0.tell(|about| {
            about.answered = true;
            about.attributes.push(("http.response.status_code", Value::Count(status.as_u16().into())));
            about.attributes.push(("snowbank.first_byte", Value::Seconds(self.0.begun.1.elapsed().as_secs_f64())));
            // "Have not" is an answer like any other here; the conventions would have every 404 an error.
            let is_answer = status.is_success() || status.is_redirection() || matches!(status.as_u16(), 404 | 410);
            about.failed = (!is_answer).then_some("status");
        });
    }

    /// There will be no more of it, in a word.
    pub fn failed(&self, why: &'static str) {
        self.0.tell(|about| about.failed = Some(why));
    }

    /// Bytes of the body came.
    pub fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// The whole body came.
    pub fn ended(&self) {
        self.0.whole.store(true, Relaxed);
    }
}

impl Live {
    fn tell(&self, say: impl FnOnce(&mut About)) {
        say(&mut self.about.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let About { mut attributes, failed, answered } =
            std::mem::take(self.about.get_mut().unwrap_or_else(PoisonError::into_inner));
        if answered {
            attributes.push(("http.response.body.size", Value::Count(*self.bytes.get_mut())));
            attributes.push(("snowbank.ended", Value::Word(if *self.whole.get_mut() { "complete" } else { "left" })));
        }
        self.recorder.take(Span {
            trace: self.trace.id,
            id: self.trace.span,
            parent: self.trace.parent,
            kind: Kind::Client,
            name: "GET",
            begun: self.begun.0,
            took: self.begun.1.elapsed(),
            // Nobody waited for the head: the budget was used up, or whoever wanted it has gone.
            failed: failed.or((!answered).then_some("unanswered")),
            attributes,
        });
    }
}
