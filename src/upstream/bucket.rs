//! A bucket that speaks the protocol of S3.
//!
//! Requests go over the same connections, with the same limits, as those to any other upstream (`transport`); here each is
//! written for a bucket and signed (AWS Signature Version 4, by the crate `object_store`), and what the bucket says of a
//! missing object is told from what it says of a wrong key or a wrong bucket (`answer`).
//!
//! 403 is the trouble: AWS says it of a missing object in a bucket that may not be listed, and of everything in one that
//! may not be read. Unless `forbidden` decides, it means "have not" as long as `nix-cache-info`, which each cache has, may
//! be read (R18).
//!
//! A library is written to as well (`write`). Out of scope: redirects, which would take a signature to another host; listing.

mod answer;
mod connector;
mod keys;
mod profile;
mod write;

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::answer::Told;
use self::keys::Keys;
pub(super) use self::keys::check;
pub(super) use self::write::Parts;
use self::write::Writing;
use super::again::Again;
use super::directory;
use super::error::Cause;
use super::options::{Forbidden, Options};
use super::pieces::{self, Pieces};
use super::transport::{Lane, Transport};
use super::url::BucketName;
use super::wire;
use crate::metrics::UpstreamMetrics;
use crate::nix::cache_info;
use crate::nix::hash::Sha256;

/// For how long what was said of it counts.
const PROVEN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    name: BucketName,
    /// Scheme, host and port.
    origin: String,
    /// With a `/` at its end, as targets begin.
    base_path: String,
    transport: Transport,
    keys: Keys,
    forbidden: Option<Forbidden>,
    /// What was said of `nix-cache-info` last.
    proven: Mutex<Option<(Instant, Result<(), Cause>)>>,
    /// Of a bucket that is written to.
    writing: Option<Writing>,
}

impl Bucket {
    /// Blocking: reads files.
    ///
    /// # Errors
    /// A file cannot be used, or the environment names half a key, with the reason in words.
    pub(super) fn new(
        options: &Options,
        name: &BucketName,
        metrics: UpstreamMetrics,
        writes: bool,
    ) -> Result<Self, String> {
        let base = options.url.base();
        let keys = Keys::new(options, name)?;
        let upstream = options.display_name();
        match keys.shown() {
            None => tracing::info!("upstream {upstream} is asked without credentials"),
            Some(keys) => tracing::info!("upstream {upstream} is asked with {keys}"),
        }
        let transport = Transport::new(options, metrics)?;
        let writing = if writes { Some(Writing::new(options, transport.ways())?) } else { None };
        Ok(Self {
            name: name.clone(),
            origin: base.origin().ascii_serialization(),
            base_path: base.path().to_owned(),
            transport,
            writing,
            keys,
            forbidden: options.forbidden,
            proven: Mutex::new(None),
        })
    }

    /// The kind of keys that requests are signed with, if any.
    pub(super) fn credentials_shown(&self) -> Option<String> {
        self.keys.shown().map(str::to_owned)
    }

    /// How often it may be asked for the same again.
    pub(super) fn again(&self) -> &Again {
        self.transport.again()
    }

    /// What it is that nothing small came in time.
    pub(super) fn late(&self, limit: Duration) -> Cause {
        self.transport.late(limit)
    }

    /// The answer to a GET of `target`. What is not there is 404, and 403 only where `forbidden` decides.
    pub(super) async fn get(
        &self,
        lane: Lane,
        target: &str,
        range: Option<&HeaderValue>,
    ) -> Result<Response<Pieces>, Cause> {
        let key = directory::key(&self.base_path, target)?;
        let status = match (self.ask(lane, &key, range).await?, self.forbidden) {
            (Told::Given(response), _) => return Ok(pieces::over_http(response)),
            (Told::HasNot, _) => StatusCode::NOT_FOUND,
            (Told::Denied, Some(_)) => StatusCode::FORBIDDEN,
            (Told::Denied, None) => {
                self.is_readable().await?;
                StatusCode::NOT_FOUND
            }
            (Told::Status(status), _) => status,
            (Told::Refused(status, code), _) => return Err(self.refused(status, &code)),
            (Told::Trouble(text), _) => return Err(Cause::Told(text)),
        };
        Ok(pieces::nothing(status))
    }

    /// Asks for one object; keys that are refused are shown once more if there are others by now.
    async fn ask(&self, lane: Lane, key: &str, range: Option<&HeaderValue>) -> Result<Told, Cause> {
        let uri = format!("{}{}{}", self.origin, self.base_path, encoded(key));
        let shown = self.keys.current().await?;
        let said = self.ask_as(lane, &uri, range, shown.as_deref()).await?;
        if !matches!(said, Told::Refused(..)) {
            return Ok(said);
        }
        match self.keys.instead_of(shown.as_ref()).await {
            Some(other) => self.ask_as(lane, &uri, range, Some(&other)).await,
            None => Ok(said),
        }
    }

    async fn ask_as(
        &self,
        lane: Lane,
        uri: &str,
        range: Option<&HeaderValue>,
        keys: Option<&AwsCredential>,
    ) -> Result<Told, Cause> {
        let signature = match keys {
            None => HeaderMap::new(),
            Some(keys) => signature(keys, &self.name.region, Method::GET, uri, None)?,
        };
        let response = self.transport.once(lane, uri, range, &signature).await?;
        Ok(answer::read(response, &self.name.name, keys.is_some()).await)
    }

    /// Whether the bucket may be read at all: then "denied" means that something is not there.
    async fn is_readable(&self) -> Result<(), Cause> {
        // One asks, the others wait for what it hears.
        let mut proven = self.proven.lock().await;
        if let Some((when, said)) = proven.as_ref()
            && when.elapsed() < PROVEN
        {
            return said.clone();
        }
        let said = match self.ask(Lane::Meta, cache_info::NAME, None).await? {
            Told::Given(response) => {
                wire::read_out(response).await;
                Ok(())
            }
            Told::HasNot => {
                Err(Cause::Told(self.unreadable("it has no nix-cache-info that could tell what that means")))
            }
            Told::Denied => Err(Cause::Told(self.unreadable("for its nix-cache-info too"))),
            Told::Refused(status, code) => Err(self.refused(status, &code)),
            Told::Trouble(text) => Err(Cause::Told(text)),
            Told::Status(status) => return Err(Cause::Status(status)),
        };
        *proven = Some((Instant::now(), said.clone()));
        said
    }

    fn unreadable(&self, why: &str) -> String {
        let who = self.keys.shown().map_or_else(|| "without credentials".into(), |keys| format!("to {keys}"));
        format!("answered 403 Forbidden (AccessDenied) {who}, {why}; see `forbidden` and `credentials`")
    }

    fn refused(&self, status: StatusCode, code: &str) -> Cause {
        let kind = self.keys.shown().unwrap_or("a request without credentials");
        Cause::Refused { kind: format!("{kind} as {code}"), status }
    }
}

/// What a request for `uri` is signed with, whose body has this SHA-256 where there is one. The host and the date are in it; a
/// range is not, and need not be.
fn signature(
    keys: &AwsCredential,
    region: &str,
    method: Method,
    uri: &str,
    body: Option<&Sha256>,
) -> Result<HeaderMap, Cause> {
    const UNFIT: Cause = Cause::Internal("its keys have characters that no header has");
    let fits = |text: &str| HeaderValue::from_str(text).is_ok();
    if !fits(&keys.key_id) || keys.token.as_deref().is_some_and(|token| !fits(token)) {
        return Err(UNFIT); // the signer would panic
    }
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().map_err(|_| Cause::Internal("its address cannot be asked for"))?;
    AwsAuthorizer::new(keys, "s3", region)
        .try_authorize(&mut request, body.map(|body| body.as_bytes().as_slice()))
        .map_err(|_| Cause::Internal("the request could not be signed"))?;
    let mut headers = std::mem::take(request.headers_mut());
    for name in [header::AUTHORIZATION, header::HeaderName::from_static("x-amz-security-token")] {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
    Ok(headers)
}

/// A key as it stands in a path, and in what is signed: of the characters that stand for themselves only those that AWS
/// leaves alone.
fn encoded(key: &str) -> String {
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => path.push(byte.into()),
            _ => _ = write!(path, "%{byte:02X}"),
        }
    }
    path
}

#[cfg(test)]
mod tests;
