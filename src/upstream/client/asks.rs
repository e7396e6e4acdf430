//! What an upstream is asked for, and the shape of its answers.
//!
//! HEAD is never sent: nix-serve answers it with a body, which would be read as the next response.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::trail;
use crate::upstream::answer::{Asked, Body, Opened, Said, Streamed};
use crate::upstream::encoding;
use crate::upstream::error::{Cause, UpstreamError};
use crate::upstream::health::Kind;
use crate::upstream::options::{Forbidden, Trust};
use crate::upstream::pieces::Pieces;
use crate::upstream::transport::{Elsewhere, Lane};
use crate::upstream::wire;

/// A body of which nobody could tell that it was cut, and that nothing proves.
const NO_END: Cause = Cause::Header("neither Content-Length nor chunks, so that a cut could not be told");

impl Upstream {
    /// Gets a small thing beside narinfos, at most `limit` bytes of it. `path` is relative to the base and made by us from a parsed
    /// request (R13).
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn small(self: &Arc<Self>, path: &str, limit: usize) -> Result<Said<Asked>, UpstreamError> {
        self.small_of(Kind::Aside, path, limit).await
    }

    async fn small_of(self: &Arc<Self>, kind: Kind, path: &str, limit: usize) -> Result<Said<Asked>, UpstreamError> {
        let target = format!("{}{path}", self.base_path());
        let (permit, ticket) = self.turn(&self.meta_permits, kind, &target).await?;
        // All of it, not each piece: who sends a byte now and then would hold a permit, and everybody who waits, for ever.
        let budget = self.options.narinfo_timeout.0;
        let said = timeout(budget, self.small_asked(kind, &target, limit, permit)).await;
        let said = said.unwrap_or_else(|_| Err(self.error(self.way.late(budget))));
        ticket.settle(&said);
        said
    }

    async fn small_asked(
        self: &Arc<Self>,
        kind: Kind,
        target: &str,
        limit: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Asked>, UpstreamError> {
        let response = self.send(Lane::Meta, target, None).await?;
        self.has_answered(&response);
        let may_be_cut = wire::ends_with_the_connection(&response);
        // Cut at the end of a line a narinfo would look whole; a signature that must be there would tell.
        let is_proven = kind == Kind::Narinfo && self.trust() == Trust::Keys;
        if may_be_cut && !is_proven && response.status() == StatusCode::OK {
            return Err(self.error(NO_END));
        }
        let Said::Have(Streamed { size, encoding, mut body }) = self.streamed(response, permit).await? else {
            return Ok(Said::HaveNot);
        };
        let is_too_long = size.is_some_and(|size| size > limit as u64);
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece?;
            whole.extend_from_slice(&piece);
            if is_too_long || whole.len() > limit {
                return Ok(Said::Have(Asked::TooLong(whole.freeze())));
            }
        }
        Ok(Said::Have(Asked::Whole { body: whole.freeze(), encoding, may_be_cut }))
    }

    /// Gets a narinfo in the same way. What comes encoded although `identity` was asked for is decoded: niks3's bucket sends
    /// them as they were put there, in zstd. `limit` is for the encoded and for the decoded bytes.
    ///
    /// # Errors
    /// The same, and an encoding that is not known, is not what is in the body, or is one of several.
    pub async fn narinfo(self: &Arc<Self>, path: &str, limit: usize) -> Result<Said<Asked>, UpstreamError> {
        let (body, encoding, may_be_cut) = match self.small_of(Kind::Narinfo, path, limit).await? {
            Said::Have(Asked::Whole { body, encoding: Some(encoding), may_be_cut }) => (body, encoding, may_be_cut),
            said => return Ok(said),
        };
        let decoded = encoding::decoded(body, encoding, limit).await.map_err(|cause| self.error(cause))?;
        let whole = |body| Asked::Whole { body, encoding: None, may_be_cut };
        Ok(Said::Have(decoded.map_or(Asked::TooLong(Bytes::new()), whole)))
    }

    /// Opens something to be passed on as it comes, at its client's pace.
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn pass_on(self: &Arc<Self>, path: &str) -> Result<Said<Streamed>, UpstreamError> {
        let target = format!("{}{path}", self.base_path());
        let (permit, ticket) = self.turn(&self.pass_on_permits, Kind::Aside, &target).await?;
        let sent = self.send(Lane::Bulk, &target, None).await;
        let streamed = match sent {
            Ok(response) if wire::ends_with_the_connection(&response) && response.status() == StatusCode::OK => {
                Err(self.error(NO_END))
            }
            Ok(response) => self.streamed(response, permit).await,
            Err(error) => Err(error),
        };
        ticket.settle(&streamed);
        streamed
    }

    async fn streamed(
        self: &Arc<Self>,
        response: Response<Pieces>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Streamed>, UpstreamError> {
        let (encoding, size) = (wire::encoding(response.headers()), wire::content_length(response.headers()));
        if response.status() == StatusCode::OK {
            self.metrics.have.inc();
            return Ok(Said::Have(Streamed { size, encoding, body: Body::new(response.into_body(), self, permit) }));
        }
        self.is_have_not(&response)?;
        Body::new(response.into_body(), self, permit).read_out().await;
        Ok(Said::HaveNot)
    }

    /// What an answer without the thing means: that it is not there, or nothing.
    fn is_have_not(&self, response: &Response<Pieces>) -> Result<(), UpstreamError> {
        let status = response.status();
        match (status, response.extensions().get::<Elsewhere>()) {
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {}
            // It has asked us for us: whatever it has besides is in no other answer (see `trail`).
            (StatusCode::LOOP_DETECTED, _) if trail::is_about_us(response.headers()) => {}
            (StatusCode::FORBIDDEN, None) if self.options.forbidden == Some(Forbidden::HaveNot) => {}
            (_, Some(Elsewhere(host))) => {
                return Err(self.error(Cause::Elsewhere { host: host.clone(), status }));
            }
            (_, None) => return Err(self.error(self.refusal(status))),
        }
        self.metrics.have_not.inc();
        Ok(())
    }

    /// What a status of the upstream itself says that is neither yes nor no.
    fn refusal(&self, status: StatusCode) -> Cause {
        match (status, self.way.credentials_shown()) {
            (StatusCode::UNAUTHORIZED, None) => Cause::Credentials,
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(kind)) => Cause::Refused { kind, status },
            _ => Cause::Status(status),
        }
    }

    /// Opens a NAR at `target` (path and query, as [`crate::nix::nar_url::NarUrl::target`] gives it) from byte `from`,
    /// up to and including `last` when given.
    ///
    /// # Errors
    /// "Unknown": no answer, or an answer that is neither yes nor no.
    pub async fn open(
        self: &Arc<Self>,
        target: &str,
        from: u64,
        last: Option<u64>,
    ) -> Result<Said<Opened>, UpstreamError> {
        let (permit, ticket) = self.turn(&self.bulk_permits, Kind::Nar, target).await?;
        let opened = self.open_asked(target, from, last, permit).await;
        ticket.settle(&opened);
        opened
    }

    /// More of a NAR that is on its way already, with the permit of a connection that was idle ([`Upstream::spare_connection`]) or
    /// had the NAR until now ([`Body::ended`]). Nobody is asked for leave, and nothing is concluded from it: whether an upstream is
    /// up is decided between NARs, not within them.
    ///
    /// # Errors
    /// As of [`Upstream::open`].
    pub async fn open_beside(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        target: &str,
        from: u64,
        last: Option<u64>,
    ) -> Result<Said<Opened>, UpstreamError> {
        self.open_asked(target, from, last, permit).await
    }

    async fn open_asked(
        self: &Arc<Self>,
        target: &str,
        from: u64,
        last: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Said<Opened>, UpstreamError> {
        let range = match (from, last) {
            (0, None) => None,
            (_, None) => Some(format!("bytes={from}-")),
            (_, Some(last)) => Some(format!("bytes={from}-{last}")),
        };
        let range = range.and_then(|range| HeaderValue::try_from(range).ok());
        let asked = Instant::now();
        let response = self.send(Lane::Bulk, target, range.as_ref()).await?;
        let (headers, took) = (response.headers(), asked.elapsed());
        let (from, end, total) = match response.status() {
            StatusCode::OK => (0, None, wire::content_length(headers)),
            StatusCode::PARTIAL_CONTENT => match wire::content_range(headers) {
                Some((first, last, total)) if first == from => (first, last.checked_add(1), total),
                _ => return Err(self.error(Cause::Header("a 206 whose Content-Range is not what was asked"))),
            },
            _ => return self.is_have_not(&response).map(|()| Said::HaveNot),
        };
        if wire::encoding(headers).is_some() {
            return Err(self.error(Cause::Header("a NAR with a Content-Encoding although `identity` was asked for")));
        }
        let (validator, is_page) = (wire::strong_validator(headers), wire::is_page(headers));
        let is_filling = wire::is_being_fetched(headers);
        self.metrics.have.inc();
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let body = Body::new(response.into_body(), self, permit);
        Ok(Said::Have(Opened { from, total, validator, is_part, end, is_page, is_filling, took, body }))
    }

    /// Waits for the head of the answer.
    async fn send(
        &self,
        lane: Lane,
        target: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Pieces>, UpstreamError> {
        let (limit, started) = (self.options.response_timeout.0, Instant::now());
        match timeout(limit, self.way.get(lane, target, range)).await {
            Err(_) => Err(self.error(self.way.late(limit))),
            Ok(Err(cause)) => Err(self.error(cause)),
            Ok(Ok(response)) => {
                self.metrics.latency.observe(started.elapsed().as_secs_f64());
                Ok(response)
            }
        }
    }
}
