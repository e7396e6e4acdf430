//! How an upstream is reached: as a cache over HTTP, as a bucket, or as a directory.
//!
//! The answers have one shape, that of HTTP: a status, a head that tells the size, the range and the validator, and a body.
//! Whoever asks (`client`) knows nothing of the difference.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response};

use super::again::Again;
use super::bucket::Bucket;
use super::directory::{Directory, Index};
use super::error::Cause;
use super::options::Options;
use super::pieces::{self, Pieces};
use super::transport::{Lane, Transport};
use super::url::Place;
use crate::metrics::UpstreamMetrics;

/// See the module.
#[derive(Debug)]
pub(super) enum Way {
    Http(Box<Transport>),
    Bucket(Box<Bucket>),
    Directory(Directory),
}

impl Way {
    /// `writes`: whether it is to be written to as well. Blocking: reads files.
    ///
    /// # Errors
    /// A file cannot be used, with the reason in words.
    pub(super) fn new(options: &Options, metrics: UpstreamMetrics, writes: bool) -> Result<Self, String> {
        Ok(match options.url.place() {
            Place::Http => Self::Http(Box::new(Transport::new(options, metrics)?)),
            Place::Bucket(name) => Self::Bucket(Box::new(Bucket::new(options, name, metrics, writes)?)),
            Place::Directory(path) => Self::Directory(Directory::new(options, path, metrics)),
        })
    }

    /// What another program kept of the upstream.
    pub(super) fn kept(options: &Options, index: Arc<Index>, metrics: UpstreamMetrics) -> Self {
        Self::Directory(Directory::kept(options, index, metrics))
    }

    /// The kind of credentials that the upstream is shown, if any, in words that follow "refused".
    pub(super) fn credentials_shown(&self) -> Option<String> {
        match self {
            Self::Http(transport) => transport.credentials_shown(),
            Self::Bucket(bucket) => bucket.credentials_shown(),
            Self::Directory(_) => None,
        }
    }

    /// How often it may be asked for the same again, where that is bounded.
    pub(super) fn again(&self) -> Option<&Again> {
        match self {
            Self::Http(transport) => Some(transport.again()),
            Self::Bucket(bucket) => Some(bucket.again()),
            Self::Directory(_) => None,
        }
    }

    /// What it is that nothing small came in time.
    pub(super) fn late(&self, limit: Duration) -> Cause {
        match self {
            Self::Http(transport) => transport.late(limit),
            Self::Bucket(bucket) => bucket.late(limit),
            Self::Directory(_) => Cause::Timeout(limit),
        }
    }

    /// The answer to the question for `target` (a path that begins with that of the base, perhaps with a query).
    pub(super) async fn get(
        &self,
        lane: Lane,
        target: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Pieces>, Cause> {
        match self {
            Self::Http(transport) => Ok(pieces::over_http(transport.get(lane, target, range).await?)),
            Self::Bucket(bucket) => bucket.get(lane, target, range).await,
            Self::Directory(directory) => directory.get(target, range).await,
        }
    }
}
