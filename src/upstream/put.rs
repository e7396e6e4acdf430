//! Writing into the library, object by object: in one go, or in parts that are there together or not at all.
//!
//! Keys are made by us from parsed names. The bounds of reading hold for looking what is there; writing is bounded by
//! who writes (`library`), and each request has [`LIMIT`]. What fails to be written says nothing about whether the library can
//! be read, so the breaker does not hear of it.
//!
//! Out of scope: what is written, and in which order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use super::answer::Said;
use super::bucket::Parts;
use super::client::Upstream;
use super::directory::Growing;
use super::error::{Cause, UpstreamError};
use super::way::Way;

/// For one request, or one step in a directory; 8 MiB within it are 140 kB/s.
const LIMIT: Duration = Duration::from_secs(60);

const NOT_WRITTEN: Cause = Cause::Internal("nothing is written to it");

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Written,
    /// One of this name was there, and was left.
    There,
}

/// What an object is, for those who serve the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `nix-cache-info`
    Info,
    /// A narinfo.
    NarInfo,
    /// A NAR.
    Nar,
}

impl Kind {
    /// The media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Info => "text/x-nix-cache-info",
            Self::NarInfo => "text/x-nix-narinfo",
            Self::Nar => "application/x-nix-nar",
        }
    }
}

/// An object that is written in parts. Nobody sees anything of it before [`Upload::finish`].
#[derive(Debug)]
pub struct Upload<'a> {
    upstream: &'a Upstream,
    begun: Begun<'a>,
}

#[derive(Debug)]
enum Begun<'a> {
    Parts(Parts<'a>),
    Growing(Growing),
}

impl Upstream {
    /// Bytes of the object at `key`; `None` where there is none.
    ///
    /// # Errors
    /// "Unknown", as of [`Upstream::open`].
    pub async fn size_of(self: &Arc<Self>, key: &str) -> Result<Option<u64>, UpstreamError> {
        let target = format!("{}{key}", self.base_path());
        match self.open(&target, 0, Some(0)).await {
            Ok(Said::Have(opened)) => Ok(opened.total),
            Ok(Said::HaveNot) => Ok(None),
            // There is no first byte.
            Err(UpstreamError { cause: Cause::Status(StatusCode::RANGE_NOT_SATISFIABLE), .. }) => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Writes an object as a whole. What is there is left, unless it is to be replaced; where the library knows no such
    /// condition, it is replaced all the same.
    ///
    /// # Errors
    /// It could not be written, or nobody knows.
    pub async fn put(&self, kind: Kind, key: &str, body: Bytes, replace: bool) -> Result<Put, UpstreamError> {
        self.in_time(async {
            match &self.way {
                Way::Bucket(bucket) => bucket.put(kind, key, &body, replace).await,
                Way::Directory(directory) => directory.put(key, body.clone(), replace).await,
                Way::Http(_) => Err(NOT_WRITTEN),
            }
        })
        .await
    }

    /// Begins to write an object in parts, which will replace what is there.
    ///
    /// # Errors
    /// It could not be begun.
    pub async fn begin(&self, kind: Kind, key: &str) -> Result<Upload<'_>, UpstreamError> {
        let begun = self.in_time(async {
            match &self.way {
                Way::Bucket(bucket) => Ok(Begun::Parts(bucket.begin(kind, key).await?)),
                Way::Directory(directory) => Ok(Begun::Growing(directory.begin(key).await?)),
                Way::Http(_) => Err(NOT_WRITTEN),
            }
        });
        Ok(Upload { upstream: self, begun: begun.await? })
    }

    async fn in_time<T>(&self, step: impl Future<Output = Result<T, Cause>>) -> Result<T, UpstreamError> {
        let done = timeout(LIMIT, step).await.unwrap_or(Err(Cause::Timeout(LIMIT)));
        done.map_err(|cause| UpstreamError { upstream: Arc::clone(self.name()), cause })
    }
}

impl Upload<'_> {
    /// The next part: of a bucket at least 5 MiB, except for the last one.
    ///
    /// # Errors
    /// It could not be written; the upload is to be given up then.
    pub async fn part(&mut self, bytes: Bytes) -> Result<(), UpstreamError> {
        let Self { upstream, begun } = self;
        upstream
            .in_time(async {
                match begun {
                    Begun::Parts(parts) => parts.part(&bytes).await,
                    Begun::Growing(growing) => growing.part(bytes.clone()).await,
                }
            })
            .await
    }

    /// Puts the parts together, in place of what is there.
    ///
    /// # Errors
    /// It could not be done, or nobody knows.
    pub async fn finish(self) -> Result<(), UpstreamError> {
        let Self { upstream, begun } = self;
        upstream
            .in_time(async {
                match begun {
                    Begun::Parts(parts) => parts.finish().await,
                    Begun::Growing(growing) => growing.finish().await,
                }
            })
            .await
    }

    /// Forgets the parts, as far as that can be done; what stays is for the bucket's own rules.
    pub async fn give_up(self) {
        let Self { upstream, begun } = self;
        let given_up = upstream.in_time(async {
            match begun {
                Begun::Parts(parts) => parts.give_up().await,
                Begun::Growing(growing) => {
                    drop(growing);
                    Ok(())
                }
            }
        });
        if let Err(error) = given_up.await {
            tracing::debug!("an upload that was given up may be there in parts: {error}");
        }
    }
}
