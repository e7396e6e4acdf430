//! The body of an answer, wherever it comes from: pieces of bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::directory::Reading;
use crate::trace::Asking;

/// A body that is coming.
#[derive(Debug)]
pub(super) enum Pieces {
    /// Over HTTP, with what is recorded of it.
    Http(Incoming, Option<Asking>),
    /// From a file.
    File(Reading),
    /// Nothing: all that mattered was the head.
    Nothing,
}

/// An answer over HTTP.
pub(super) fn over_http(mut response: Response<Incoming>) -> Response<Pieces> {
    let asking = response.extensions_mut().remove::<Asking>();
    response.map(|incoming| Pieces::Http(incoming, asking))
}

/// An answer that is only a status.
pub(super) fn nothing(status: StatusCode) -> Response<Pieces> {
    let mut response = Response::new(Pieces::Nothing);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    response
}

/// Why one ended early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Body for Pieces {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.get_mut() {
            Self::Http(incoming, asking) => {
                let polled = Pin::new(incoming).poll_frame(context);
                if let (Some(asking), Poll::Ready(frame)) = (asking, &polled) {
                    match frame {
                        Some(Ok(frame)) => asking.add(frame.data_ref().map_or(0, Bytes::len)),
                        Some(Err(_)) => asking.failed("cut"),
                        None => asking.ended(),
                    }
                }
                polled.map_err(Failure::from)
            }
            Self::File(reading) => reading.poll_piece(context).map_ok(Frame::data).map_err(Failure::from),
            Self::Nothing => Poll::Ready(None),
        }
    }
}
