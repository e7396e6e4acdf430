//! What an upstream answers: in three values, whole or as a body that is still coming.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::client::Upstream;
use super::error::{Cause, UpstreamError};
use super::pieces::Pieces;

/// How long the text of a 404 is read, so that its connection can be used again.
const READ_OUT: Duration = Duration::from_secs(1);
/// How long the answer waits for that.
const AT_HAND: Duration = Duration::from_millis(10);

/// A small thing.
#[derive(Debug, Clone)]
pub enum Asked {
    /// All of it.
    Whole {
        /// The body.
        body: Bytes,
        /// `Content-Encoding` as sent, when it is not `identity`: caches keep logs and listings compressed (`br`,
        /// `zstd`) and send them so whatever was accepted.
        encoding: Option<HeaderValue>,
        /// Whether the end of the connection was its end: if it was cut nobody told, and only what is in it can prove that
        /// it is whole.
        may_be_cut: bool,
    },
    /// It is longer than the limit; what came of it, which is its first piece at least.
    TooLong(Bytes),
}

/// Something passed on as it comes.
#[derive(Debug)]
pub struct Streamed {
    /// Size in bytes, when the upstream says it.
    pub size: Option<u64>,
    /// As in [`Asked::Whole`].
    pub encoding: Option<HeaderValue>,
    /// The bytes.
    pub body: Body,
}

/// What an upstream says about one thing. "Unknown" is the error of the `Result` around it.
#[derive(Debug)]
pub enum Said<T> {
    /// It has it.
    Have(T),
    /// It has it not: 404 or 410, or 403 where that was declared to mean it (`forbidden`).
    HaveNot,
}

/// A body being received.
#[derive(Debug)]
pub struct Opened {
    /// Offset of the first byte of `body` in the whole: as asked, or 0 from an upstream that ignores `Range`.
    pub from: u64,
    /// Size of the whole in bytes, when the upstream says it.
    pub total: Option<u64>,
    /// `ETag`, where it stands for exactly these bytes (RFC 9110 section 8.8.1).
    pub validator: Option<HeaderValue>,
    /// Whether the answer is a part, as asked, and says so (206).
    pub is_part: bool,
    /// Offset of the byte after the last one of a part, as the part says (`Content-Range`). It may be less than was asked for
    /// (RFC 9110 section 15.3.7), and more.
    pub end: Option<u64>,
    /// Whether it says that this is a page for a browser. (So do some caches of all they have, by mistake.)
    pub is_page: bool,
    /// Whether another snowbank sends it while it fetches it itself: the end of what was asked for waits until all of it came there.
    pub is_filling: bool,
    /// How long it took from the question, for which there was a connection to spare, to the head of the answer.
    pub took: Duration,
    /// The bytes from there on.
    pub body: Body,
}

/// The bytes of a body, with the stall limit applied; holds the connection's permit.
#[derive(Debug)]
pub struct Body {
    incoming: Pieces,
    upstream: Arc<Upstream>,
    waited: Waited,
    permit: OwnedSemaphorePermit,
}

/// What a body brought while it was waited for; the time in which nobody asked for more does not count.
#[derive(Debug, Default)]
struct Waited {
    time: Duration,
    bytes: u64,
}

impl Waited {
    /// Counts a piece; true when fewer than `rate` bytes for each second came over `limit` of waiting.
    fn is_too_slow(&mut self, waited: Duration, bytes: usize, limit: Duration, rate: u64) -> bool {
        self.time += waited;
        self.bytes += bytes as u64;
        if self.time < limit {
            return false;
        }
        let Self { time, bytes } = std::mem::take(self);
        u128::from(bytes) < time.as_millis() * u128::from(rate) / 1000
    }
}

impl Body {
    /// The body of a response of `upstream`.
    pub(super) fn new(incoming: Pieces, upstream: &Arc<Upstream>, permit: OwnedSemaphorePermit) -> Self {
        Self { incoming, upstream: Arc::clone(upstream), waited: Waited::default(), permit }
    }

    /// Reads the short text that goes with a 404, so that the connection can be kept; a long or slow one closes it.
    pub(super) async fn read_out(mut self) {
        let all = async move {
            let mut left = 4096_usize;
            while let Some(Ok(piece)) = self.next().await {
                match left.checked_sub(piece.len()) {
                    Some(still) => left = still,
                    None => return,
                }
            }
        };
        let mut all = Box::pin(timeout(READ_OUT, all));
        // The answer is known: a body that trickles must not hold it up, or use up its budget.
        if timeout(AT_HAND, &mut all).await.is_err() {
            tokio::spawn(all);
        }
    }

    /// All that was wanted came: its end is waited for a moment, so that the connection can be used again; what it says does not
    /// matter. Gives the permit, for what is asked next.
    pub async fn ended(mut self) -> OwnedSemaphorePermit {
        let _ = timeout(AT_HAND, self.next()).await;
        self.permit
    }

    /// The next piece; `None` at the end of the body as HTTP sees it, which for a body without a length proves nothing.
    ///
    /// # Errors
    /// The connection broke, nothing came for the stall limit, or next to nothing over that time.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        let stall = self.upstream.stall_timeout();
        loop {
            let asked = Instant::now();
            let frame = match timeout(stall, self.incoming.frame()).await {
                Err(_) => return Some(Err(self.upstream.error(Cause::Stall(stall)))),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(self.upstream.error(Cause::Cut(error.to_string())))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue }; // trailers
            if self.waited.is_too_slow(asked.elapsed(), data.len(), stall, self.upstream.min_rate()) {
                return Some(Err(self.upstream.error(Cause::Slow(stall))));
            }
            if !data.is_empty() {
                self.upstream.metrics().bytes.inc_by(data.len() as u64);
                return Some(Ok(data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_trickles_is_too_slow_and_one_that_is_not_asked_for_is_not() {
        let (second, limit) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut drip = Waited::default();
        let slow: Vec<bool> = (0..30).map(|_| drip.is_too_slow(second, 900, limit, 1000)).collect();
        assert_eq!(slow.iter().position(|slow| *slow), Some(29));
        let mut steady = Waited::default();
        assert!((0..300).all(|_| !steady.is_too_slow(second, 1000, limit, 1000)));
        let mut fast = Waited::default();
        assert!((0..300).all(|_| !fast.is_too_slow(Duration::ZERO, 1, limit, 1000)));
    }
}
