//! `snowbank healthcheck`: whether the running server is ready, as an exit status, for images that hold nothing else that
//! could ask.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::operator;

/// How long the server may take. Container engines and Kubernetes have limits of their own, which are usually longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the page may say at most, in bytes.
const LONGEST: usize = 4096;

/// Asks `/readyz` and prints what it says.
///
/// # Errors
/// It is stopping, does not answer in time, or something else answers there.
pub async fn run(address: SocketAddr) -> anyhow::Result<()> {
    let told = tokio::time::timeout(PATIENCE, readiness(address)).await;
    let told = told.map_err(|_| anyhow::anyhow!("no answer within {} seconds", PATIENCE.as_secs()));
    let told = told.and_then(|told| told).with_context(|| format!("not ready: the [admin] address {address}"))?;
    writeln!(std::io::stdout(), "{told}").context("stdout")
}

async fn readiness(address: SocketAddr) -> anyhow::Result<String> {
    let mut asked = operator::ask(&address.to_string(), Method::GET, "/readyz").await?;
    let status = asked.response.status();
    let body = Limited::new(asked.response.body_mut(), LONGEST).collect().await.map_err(anyhow::Error::from_boxed)?;
    let told = String::from_utf8_lossy(&body.to_bytes()).trim_end().escape_debug().to_string();
    anyhow::ensure!(status == StatusCode::OK, "{status}: {told}");
    Ok(told)
}
