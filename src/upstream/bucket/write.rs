//! Writing into a bucket: PUT, and uploads in parts.
//!
//! `If-None-Match: *` asks the server to leave what is there. Some servers do not know it and ignore it, which is harmless
//! where names tell the content; some refuse what has it, and are not asked so again.
//!
//! Each body is signed with its hash, so that what arrives is what was sent.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use object_store::aws::AwsCredential;
use tokio::time::timeout;

use super::answer::{self, Told};
use super::{Bucket, encoded, signature};
use crate::nix::hash::Sha256;
use crate::telemetry;
use crate::upstream::dial::{self, PoolOf, Purpose, Ways};
use crate::upstream::error::Cause;
use crate::upstream::options::Options;
use crate::upstream::put::{Kind, Put};
use crate::upstream::wire;

/// How long the text of an answer is waited for: parts are put together while it comes.
const PATIENT: Duration = Duration::from_secs(45);

/// What a bucket that is written to has besides.
#[derive(Debug)]
pub(super) struct Writing {
    pool: PoolOf<Full<Bytes>>,
    /// Whether the server refuses conditions.
    unconditional: AtomicBool,
}

impl Writing {
    /// Blocking: reads files.
    pub(super) fn new(options: &Options, ways: &Ways) -> Result<Self, String> {
        let pool = dial::pool(options, ways, Purpose::Nars)?;
        Ok(Self { pool, unconditional: AtomicBool::new(false) })
    }
}

/// An upload in parts.
#[derive(Debug)]
pub(in crate::upstream) struct Parts<'a> {
    bucket: &'a Bucket,
    key: String,
    id: String,
    tags: Vec<String>,
}

/// What came of a request.
struct Said {
    status: StatusCode,
    tag: Option<String>,
    region: Option<String>,
    /// The beginning of the body.
    text: String,
    signed: bool,
}

impl Bucket {
    pub(in crate::upstream) async fn put(
        &self,
        kind: Kind,
        key: &str,
        body: &Bytes,
        replace: bool,
    ) -> Result<Put, Cause> {
        let writing = self.writing()?;
        let mut fields = content_type(kind);
        if !replace && !writing.unconditional.load(Ordering::Relaxed) {
            fields.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let conditional = fields.contains_key(header::IF_NONE_MATCH);
        let mut said = self.write(Method::PUT, key, "", &fields, body).await?;
        if conditional && said.knows_no_conditions() {
            writing.unconditional.store(true, Ordering::Relaxed);
            fields.remove(header::IF_NONE_MATCH);
            said = self.write(Method::PUT, key, "", &fields, body).await?;
        }
        match said.status {
            status if status.is_success() => Ok(Put::Written),
            StatusCode::PRECONDITION_FAILED if conditional => Ok(Put::There),
            _ => Err(self.not_written(&said)),
        }
    }

    pub(in crate::upstream) async fn begin(&self, kind: Kind, key: &str) -> Result<Parts<'_>, Cause> {
        let said = self.write(Method::POST, key, "uploads=", &content_type(kind), &Bytes::new()).await?;
        match answer::within(&said.text, "UploadId", is_token).filter(|_| said.status.is_success()) {
            Some(id) => {
                Ok(Parts { bucket: self, key: key.to_owned(), id: encoded(&id).replace('/', "%2F"), tags: Vec::new() })
            }
            None => Err(self.not_written(&said)),
        }
    }

    fn writing(&self) -> Result<&Writing, Cause> {
        self.writing.as_ref().ok_or(Cause::Internal("nothing is written to it"))
    }

    /// One request that changes something; keys that are refused are shown once more if there are others by now.
    async fn write(
        &self,
        method: Method,
        key: &str,
        query: &str,
        fields: &HeaderMap,
        body: &Bytes,
    ) -> Result<Said, Cause> {
        let mut uri = format!("{}{}{}", self.origin, self.base_path, encoded(key));
        if !query.is_empty() {
            uri = format!("{uri}?{query}");
        }
        let shown = self.keys.current().await?;
        let said = self.write_as(&method, &uri, fields, body, shown.as_deref()).await?;
        if !matches!(self.told(&said), Told::Refused(..)) {
            return Ok(said);
        }
        match self.keys.instead_of(shown.as_ref()).await {
            Some(other) => self.write_as(&method, &uri, fields, body, Some(&other)).await,
            None => Ok(said),
        }
    }

    async fn write_as(
        &self,
        method: &Method,
        uri: &str,
        fields: &HeaderMap,
        body: &Bytes,
        keys: Option<&AwsCredential>,
    ) -> Result<Said, Cause> {
        const UNFIT: Cause = Cause::Internal("its address cannot be asked for");
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.parse().map_err(|_| UNFIT)?;
        let proxy = self.transport.proxy_authorization(request.uri()).await;
        let headers = request.headers_mut();
        headers.extend(fields.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(wire::USER_AGENT));
        headers.extend(proxy.map(|shown| (header::PROXY_AUTHORIZATION, shown)));
        if let Some(keys) = keys {
            headers.extend(signature(keys, &self.name.region, method.clone(), uri, Some(&Sha256::of(body)))?);
        }
        match self.writing()?.pool.request(request).await {
            Ok(response) => Ok(Said::read(response, keys.is_some()).await),
            Err(error) if error.is_connect() => Err(Cause::Connection(telemetry::chain(&error))),
            Err(error) => Err(Cause::Unanswered(telemetry::chain(&error))),
        }
    }

    fn told(&self, said: &Said) -> Told {
        let code = said.code();
        answer::understood(said.status, code.as_deref(), said.region.as_deref(), &self.name.name, said.signed)
    }

    fn not_written(&self, said: &Said) -> Cause {
        match self.told(said) {
            Told::Status(status) => Cause::Status(status),
            Told::Refused(status, code) => self.refused(status, &code),
            Told::Trouble(text) => Cause::Told(text),
            Told::Denied => {
                let who = self.keys.shown().unwrap_or("a request without credentials");
                Cause::Told(format!("may not be written to with {who} (AccessDenied)"))
            }
            Told::HasNot | Told::Given(_) => {
                let code = said.code().unwrap_or_default();
                Cause::Told(format!("answered {} {code} to what was to be written", said.status))
            }
        }
    }
}

impl Parts<'_> {
    pub(in crate::upstream) async fn part(&mut self, body: &Bytes) -> Result<(), Cause> {
        let query = format!("partNumber={}&uploadId={}", self.tags.len() + 1, self.id);
        let said = self.bucket.write(Method::PUT, &self.key, &query, &HeaderMap::new(), body).await?;
        match said.tag.clone().filter(|_| said.status.is_success()) {
            Some(tag) => {
                self.tags.push(tag);
                Ok(())
            }
            None => Err(self.bucket.not_written(&said)),
        }
    }

    pub(in crate::upstream) async fn finish(self) -> Result<(), Cause> {
        let mut list = "<CompleteMultipartUpload>".to_owned();
        for (number, tag) in (1..).zip(&self.tags) {
            let _ = write!(
                list,
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
                tag.replace('"', "&quot;")
            );
        }
        list.push_str("</CompleteMultipartUpload>");
        let query = format!("uploadId={}", self.id);
        let said = self.bucket.write(Method::POST, &self.key, &query, &HeaderMap::new(), &list.into()).await?;
        // It begins to answer before it is done, so a failure may stand behind a 200.
        match said.status.is_success() && said.text.contains("CompleteMultipartUploadResult") {
            true => Ok(()),
            false => Err(self.bucket.not_written(&said)),
        }
    }

    pub(in crate::upstream) async fn give_up(self) -> Result<(), Cause> {
        let query = format!("uploadId={}", self.id);
        self.bucket.write(Method::DELETE, &self.key, &query, &HeaderMap::new(), &Bytes::new()).await.map(|_| ())
    }
}

impl Said {
    async fn read(response: Response<Incoming>, signed: bool) -> Self {
        let text = |name: HeaderName| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (tag, region) = (text(header::ETAG), text(HeaderName::from_static("x-amz-bucket-region")));
        let is_fit =
            |tag: &String| tag.len() <= 128 && tag.bytes().all(|b| b.is_ascii_graphic() && !b"<>&".contains(&b));
        let status = response.status();
        let text = timeout(PATIENT, answer::beginning(response.into_body())).await.unwrap_or_default();
        let region = region.or_else(|| answer::within(&text, "Region", answer::is_word));
        Self { status, tag: tag.filter(is_fit), region, text, signed }
    }

    fn code(&self) -> Option<String> {
        answer::within(&self.text, "Code", answer::is_word)
    }

    /// Whether it was the condition that was not understood.
    fn knows_no_conditions(&self) -> bool {
        let code = self.code();
        self.status == StatusCode::NOT_IMPLEMENTED
            || matches!(code.as_deref(), Some("NotImplemented" | "InvalidArgument" | "InvalidRequest"))
    }
}

fn content_type(kind: Kind) -> HeaderMap {
    [(header::CONTENT_TYPE, HeaderValue::from_static(kind.media_type()))].into_iter().collect()
}

/// What upload ids consist of: AWS says no more than that they are text for a URL.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~+/=:".contains(&b)
}
