//! Kept connections that went dead without a word: a router that forgot them, a machine that was switched off.
//!
//! hyper's pool finds out by a ping after 20 idle seconds, and the kernel when what was sent is not acknowledged for some
//! seconds; a narinfo cannot wait for either. So when half of its time is over and not one byte came over its
//! connection since it was sent, the connection is taken out of the pool and the same is asked over a new one, while the
//! first goes on: a slow upstream loses nothing, and the answer that comes first is taken.
//!
//! Out of scope: connections that are closed, which hyper tells (`wire::closed_before_answer`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

    fn is_since(&self, moment: Instant) -> bool {
        self.made >= moment || self.made + Duration::from_millis(self.last.load(Ordering::Relaxed)) >= moment
    }
}

/// Sends a request, and sends it again over another connection when its own is silent for `patience`. The second value
/// says whether it did.
pub(super) async fn request(
    pool: &Pool,
    mut request: Request<Empty<Bytes>>,
    patience: Duration,
) -> (Result<Response<Incoming>, Error>, bool) {
    let (again, sent) = (request.clone(), Instant::now());
    let taken = capture_connection(&mut request);
    let mut first = pin!(pool.request(request));
    if let Ok(said) = timeout(patience, &mut first).await {
        return (said, false);
    }
    if !gave_up(&taken, sent) {
        return (first.await, false);
    }
    let said = match select(first, pin!(pool.request(again))).await {
        Either::Left((Err(_), other)) => other.await,
        Either::Right((Err(_), other)) => other.await,
        Either::Left((said, _)) | Either::Right((said, _)) => said,
    };
    (said, true)
}

/// Takes a connection that was kept, and is silent since `sent`, out of the pool; `false` if it is neither.
fn gave_up(taken: &CaptureConnection, sent: Instant) -> bool {
    let connected = taken.connection_metadata();
    let Some(connected) = connected.as_ref() else { return false }; // it is being made
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    match extras.get::<Heard>() {
        Some(heard) if !heard.is_since(sent) => {
            connected.poison();
            true
        }
        _ => false,
    }
}
