//! How a command asks the server that runs: over the address of `[admin]`.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A server that was asked. The connection ends when this is dropped.
pub(super) struct Asked {
    pub(super) response: Response<Incoming>,
    connection: AbortHandle,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Asks for one page.
pub(super) async fn ask(address: &str, method: Method, path: &str) -> anyhow::Result<Asked> {
    ask_with(address, method, path, Bytes::new()).await
}

/// The same, with a body.
pub(super) async fn ask_with(address: &str, method: Method, path: &str, body: Bytes) -> anyhow::Result<Asked> {
    let stream = TcpStream::connect(address).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    // It lives on until the response is read, and no longer.
    let connection = tokio::spawn(connection).abort_handle();
    let request = Request::builder().method(method).uri(path).header("Host", address).body(Full::new(body))?;
    let response = client.send_request(request).await?;
    Ok(Asked { response, connection })
}
