//! Work in the server that takes long, and the command that waits for it: the server tells how it goes, a line of JSON each
//! time, and the command reads them. The work ends when nobody reads on.

use std::pin::Pin;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::Stream;
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::operator;
use crate::edge::body::Body;
use crate::proxy::answer::BodyError;

/// What the work tells goes here. A line that may be left out is sent with `try_send`.
pub(super) type Tell = mpsc::Sender<Value>;

/// The response that is as long as the work.
pub(super) fn response<W: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Tell) -> W) -> Response<Body> {
    let mut response = Response::new(Body::stream(None, lines(work)));
    let content_type = header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn lines<W: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(Tell) -> W,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>> {
    let (tell, told) = mpsc::channel(4);
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work(tell));
    Box::pin(futures_util::stream::unfold((work, told, false), |(mut work, mut told, mut done)| async move {
        loop {
            tokio::select! {
                biased;
                line = told.recv() => {
                    let line: Value = line?;
                    return Some((Ok(Bytes::from(format!("{line}\n"))), (work, told, done)));
                }
                () = &mut work, if !done => done = true,
            }
        }
    }))
}

/// Has the server do it, and takes each line; the work is over when this is.
///
/// # Errors
/// The server cannot be asked, refuses (with what it says), or ends in the middle of a line.
pub(super) async fn follow(
    address: &str,
    path: &str,
    body: Bytes,
    mut each: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut asked = operator::ask_with(address, Method::POST, path, body).await?;
    let status = asked.response.status();
    let body = asked.response.body_mut();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if status != StatusCode::OK {
                anyhow::bail!("{status}: {}", String::from_utf8_lossy(&line).trim_end());
            }
            each(serde_json::from_slice(&line).context("what the server tells")?)?;
        }
    }
    Ok(())
}
