//! A response's body: nothing, bytes, or a stream of bytes.
//!
//! Over HTTP/2 it comes in slices of [`H2_SLICE`] bytes, so that slice and frame head together fill one TLS record;
//! slicing copies nothing. A body whose length was announced ends cleanly only after exactly that many bytes;
//! everything else (a source that fails, stops short, goes on too long or panics) is an error of the stream, which
//! clients see as RST_STREAM or as a connection closed short of Content-Length (R8).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::access;
use super::activity::InFlight;
use super::limits::{Admitted, PIECE, Pace};
use crate::proxy::answer::BodyStream;

/// The payload of a DATA frame that makes, with its 9 B head, one full TLS record of 16,384 B.
pub const H2_SLICE: usize = 16_375;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The source said so.
    #[error("the body broke off: {0}")]
    Source(crate::proxy::answer::BodyError),
    /// The source ended before the announced length.
    #[error("the body is {0} bytes short of its announced length")]
    Short(u64),
    /// The source gave more than the announced length.
    #[error("the body goes on after its announced length")]
    Long,
    /// The source panicked (R35).
    #[error("a bug: the body's source panicked")]
    Panicked,
}

/// A response's body.
pub struct Body {
    content: Content,
    /// Bytes taken from the source and not yet handed on; longer than `slice` only between two slices.
    pending: Bytes,
    slice: usize,
    entry: Option<Box<access::Entry>>,
    /// When the next slice may go, where there is a limit.
    pace: Option<Pace>,
    in_flight: Option<InFlight>,
    /// Its place among all requests.
    admitted: Option<Admitted>,
}

enum Content {
    /// Nothing left but `pending`.
    Done,
    /// `left` counts what the source still owes, when the length is known.
    Stream { left: Option<u64>, source: BodyStream },
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::bytes(Bytes::new())
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::Done, bytes.into())
    }

    /// What `source` gives; `length` is what Content-Length announces. With a length the response has ended once its
    /// last byte is given out: a source that is not sure of its bytes must hold some back (R9).
    pub fn stream(length: Option<u64>, source: BodyStream) -> Self {
        Self::new(Content::Stream { left: length, source }, Bytes::new())
    }

    fn new(content: Content, pending: Bytes) -> Self {
        Self { content, pending, slice: usize::MAX, entry: None, pace: None, in_flight: None, admitted: None }
    }

    /// Hands on at most `slice` bytes at a time.
    #[must_use]
    pub fn sliced(mut self, slice: usize) -> Self {
        self.slice = slice;
        self
    }

    /// Writes this entry to the access log when the body ends, one way or another.
    #[must_use]
    pub fn logged(mut self, entry: Box<access::Entry>) -> Self {
        self.entry = Some(entry);
        self
    }

    /// Hands on nothing before its time.
    #[must_use]
    pub fn paced(mut self, pace: Option<Pace>) -> Self {
        self.pace = pace;
        self
    }

    /// Holds this place until the body ends.
    #[must_use]
    pub fn admitted(mut self, place: Option<Admitted>) -> Self {
        self.admitted = place;
        self
    }

    /// Counts as a request in flight until the body ends.
    #[must_use]
    pub fn in_flight(mut self, guard: InFlight) -> Self {
        self.in_flight = Some(guard);
        self
    }

    /// Bytes still to come, when known.
    fn left(&self) -> Option<u64> {
        let pending = self.pending.len() as u64;
        match &self.content {
            Content::Done => Some(pending),
            Content::Stream { left, .. } => left.map(|left| pending.saturating_add(left)),
        }
    }

    /// Takes the next bytes from the source into `pending`. `Ready(Ok(false))` at the end.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        let Content::Stream { left, source } = &mut self.content else { return Poll::Ready(Ok(false)) };
        // A panic ends this body and nothing else; the source is dropped below and never polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| source.as_mut().poll_next(cx)));
        let next = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(next)) => next,
            Err(_) => return Poll::Ready(Err(BodyError::Panicked)),
        };
        match (next, left.as_mut()) {
            (Some(Ok(bytes)), owed) => {
                if let Some(owed) = owed {
                    match owed.checked_sub(bytes.len() as u64) {
                        Some(rest) => *owed = rest,
                        None => return Poll::Ready(Err(BodyError::Long)),
                    }
                }
                self.pending = bytes;
                Poll::Ready(Ok(true))
            }
            (Some(Err(error)), _) => Poll::Ready(Err(BodyError::Source(error))),
            (None, Some(owed)) if *owed > 0 => Poll::Ready(Err(BodyError::Short(*owed))),
            (None, _) => Poll::Ready(Ok(false)),
        }
    }

    fn note_untaken(&mut self, untaken: bool) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.note_untaken(untaken);
        }
    }

    /// Lets go of the source and writes the log.
    fn complete(&mut self) {
        self.content = Content::Done;
        if let Some(entry) = self.entry.take() {
            entry.complete();
        }
    }

    fn broken(&mut self, error: &BodyError) {
        self.content = Content::Done;
        if let Some(entry) = self.entry.take() {
            entry.broken(error);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        while body.pending.is_empty() {
            let Poll::Ready(taken) = body.poll_source(cx) else {
                body.note_untaken(false);
                return Poll::Pending;
            };
            match taken {
                Ok(true) => {}
                Ok(false) => {
                    body.complete();
                    return Poll::Ready(None);
                }
                Err(error) => {
                    body.broken(&error);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let mut length = body.pending.len().min(body.slice);
        if let Some(pace) = &mut body.pace {
            length = length.min(PIECE);
            if pace.poll(cx, length).is_pending() {
                body.note_untaken(false); // the client would take it
                return Poll::Pending;
            }
        }
        let slice = body.pending.split_to(length);
        if let Some(entry) = &mut body.entry {
            entry.add(slice.len());
        }
        if body.left() == Some(0) {
            // hyper asks no further when it knows the length, so this is where such a body ends.
            body.complete();
        }
        body.note_untaken(true);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left().map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // hyper never asks an empty body for its end, which is there all the same. Any other one was cut by the client.
        if self.left() == Some(0) {
            self.complete();
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("left", &self.left()).field("slice", &self.slice).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
