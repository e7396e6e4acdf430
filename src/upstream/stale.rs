//! Kept connections that went dead without a word: a router that forgot them, a machine that was switched off.
//!
//! hyper's pool finds out by a ping after 20 idle seconds, and the kernel when what was sent is not acknowledged for some
//! seconds; a narinfo cannot wait for either. So when half of its time is over and not one byte came over its
//! connection since it was sent, the connection is taken out of the pool and the same is asked over a new one, while the
//! first goes on, and the answer that comes first is taken. Should the first connection turn out to live, the upstream is
//! slow, and to be asked twice does not make it faster: for [`PATIENT`] nothing is.
//!
//! Out of scope: connections that are closed, which hyper tells (`wire::closed_before_answer`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Extensions, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::{Instant, timeout};

use super::dial::Pool;

/// How long an upstream that was slow is not asked twice.
const PATIENT: Duration = Duration::from_secs(60);

/// When something was heard over a connection last.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    made: Instant,
    /// In milliseconds after it was made.
    last: Arc<AtomicU64>,
}

impl Heard {
    /// Of a new connection.
    pub(super) fn new() -> Self {
        Self { made: Instant::now(), last: Arc::default() }
    }

    /// Something came.
    pub(super) fn now(&self) {
        let since = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Whether it is the same connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.last, &other.last)
    }

    fn is_since(&self, moment: Instant) -> bool {
        self.made >= moment || self.made + Duration::from_millis(self.last.load(Ordering::Relaxed)) >= moment
    }
}

/// Whether silence means death at an upstream.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The connection that was given up last, and when it was sent what it did not answer.
    given_up: Option<(Heard, Instant)>,
    /// Until when none is: the upstream was slow.
    patient_until: Option<Instant>,
}

impl Watch {
    /// Sends a request, and sends it again over another connection when its own is silent for `patience`. The second
    /// value says whether it did.
    pub(super) async fn request(
        &self,
        pool: &Pool,
        mut request: Request<Empty<Bytes>>,
        patience: Duration,
    ) -> (Result<Response<Incoming>, Error>, bool) {
        let (again, sent) = (request.clone(), Instant::now());
        let taken = capture_connection(&mut request);
        let mut first = pool.request(request);
        if let Ok(said) = timeout(patience, &mut first).await {
            return (said, false);
        }
        if !self.gives_up(&taken, sent) {
            return (first.await, false);
        }
        let said = match select(first, pool.request(again)).await {
            Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
            Either::Left((said, _)) => said,
            Either::Right((said, first)) => {
                // Whether it lives will be known a little later.
                tokio::spawn(async move { drop(timeout(patience, first).await) });
                said
            }
        };
        (said, true)
    }

    /// Takes a connection that is silent since `sent` out of the pool, unless silence means nothing here.
    fn gives_up(&self, taken: &CaptureConnection, sent: Instant) -> bool {
        let Some(heard) = silent(taken, sent) else { return false };
        let (now, mut seen) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if seen.given_up.take_if(|(heard, sent)| heard.is_since(*sent)).is_some() {
            seen.patient_until = Some(now + PATIENT);
        }
        if seen.patient_until.is_some_and(|until| now < until) {
            return false;
        }
        // Many requests share a connection: what the first of them did not hear is what counts.
        if !seen.given_up.as_ref().is_some_and(|(other, _)| other.is_same(&heard)) {
            seen.given_up = Some((heard, sent));
        }
        if let Some(connected) = &*taken.connection_metadata() {
            connected.poison();
        }
        true
    }
}

/// The connection that a request died with that was sent at a moment, if it had been there before.
pub(super) fn kept(error: &Error, sent: Instant) -> Option<Heard> {
    let mut extras = Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extras);
    }
    extras.remove::<Heard>().filter(|heard| heard.made < sent)
}

/// A connection that was kept and is silent since `sent`; none if it is neither, or is still being made.
fn silent(taken: &CaptureConnection, sent: Instant) -> Option<Heard> {
    let mut extras = Extensions::new();
    taken.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove::<Heard>().filter(|heard| !heard.is_since(sent))
}
