//! The TLS handshake: who waits for what, and why one failed.
//!
//! ```text
//! bytes ──▶ ClientHello ──▶ a permit ──▶ which settings (tls::Acceptor) ──▶ the rest ──▶ permit back
//! └───────────────────────────── at most 10 seconds (R22) ─────────────────────────┘
//! ```
//!
//! The permit bounds how much of the processor handshakes take at a time. It is asked for once a ClientHello is there, so
//! connections that say nothing hold none. One client gets a part of them only, and waits for those of its own first.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{self, Acceptor};

/// Time for the whole TLS handshake (R22), the wait for a permit included.
const LIMIT: Duration = Duration::from_secs(10);

/// Time for a client that is refused to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What bounds how many handshakes run at a time: those of one client, where it is told apart, and all.
#[derive(Debug, Clone, Copy)]
pub struct Permits<'a> {
    /// Of this client: without it, one that says its first message and no more would hold all of them for ten seconds.
    pub of_client: Option<&'a Semaphore>,
    /// Of everybody.
    pub of_all: &'a Semaphore,
}

/// Shakes hands over `io`; `permits` bounds how many do so at a time. `None`: a CA saw what it wanted to, and the connection
/// is closed (RFC 8737).
///
/// # Errors
/// Why not, for the log; and the connection, to [`part`] from a client that was refused.
pub async fn shake<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    acceptor: &Acceptor,
    permits: Permits<'_>,
) -> Result<Option<TlsStream<IO>>, (Failure, Option<IO>)> {
    match timeout(LIMIT, shake_in_time(io, acceptor, permits)).await {
        Ok(shaken) => shaken.map_err(|(error, io)| (Failure::Broken(error), io)),
        Err(_elapsed) => Err((Failure::TooSlow, None)),
    }
}

async fn shake_in_time<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    acceptor: &Acceptor,
    permits: Permits<'_>,
) -> Result<Option<TlsStream<IO>>, (io::Error, Option<IO>)> {
    let start =
        LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await.map_err(|error| (error, None))?;
    let closed = |closed| (io::Error::other(closed), None);
    // The client's first: who waits for it holds nobody else's.
    let _permit_of_client = match permits.of_client {
        Some(permits) => Some(permits.acquire().await.map_err(closed)?),
        None => None,
    };
    let _permit = permits.of_all.acquire().await.map_err(closed)?;
    let config = acceptor.config_for(&start.client_hello());
    let accepted = start.into_stream(config).into_fallible().await;
    let mut stream = accepted.map_err(|(error, io)| (error, Some(io)))?;
    if !tls::is_for_challenge(stream.get_ref().1) {
        return Ok(Some(stream));
    }
    let _ = stream.shutdown().await; // the CA may have gone already: it saw what it came for
    Ok(None)
}

/// Closes after the client, or after a second. A TLS 1.3 client has sent its first request before it can know that it is
/// refused; a socket that is closed with that unread resets the connection, and the alert that says why may be lost.
pub async fn part(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let parting = async {
        io.shutdown().await?;
        let mut dropped = [0; 1024];
        while io.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, parting).await; // it is refused already: this is a courtesy
}

/// Why no TLS session came about.
#[derive(Debug)]
pub enum Failure {
    /// The time was up.
    TooSlow,
    /// The connection ended, or one of the two refused the other.
    Broken(io::Error),
}

impl fmt::Display for Failure {
    /// In the words of who runs the server: rustls speaks of peers on both sides.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::TooSlow => return write!(f, "not done within {LIMIT:?}"),
            Self::Broken(error) => error,
        };
        let known = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).and_then(in_words);
        match known {
            Some(words) => f.write_str(words),
            None => error.fmt(f),
        }
    }
}

fn in_words(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError as Certificate;
    Some(match error {
        rustls::Error::NoCertificatesPresented => "the client showed no certificate",
        rustls::Error::InvalidCertificate(why) => match why {
            Certificate::Expired | Certificate::ExpiredContext { .. } => "the client's certificate has expired",
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the client's certificate is not valid yet"
            }
            Certificate::UnknownIssuer => "the client's certificate was signed by no CA of client_ca_file",
            Certificate::ApplicationVerificationFailure => "the client's certificate is for none of client_names",
            _ => return None,
        },
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown,
        ) => "the client does not trust this server's certificate",
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "to the client this server's certificate has expired"
        }
        // rustls has no other error for a resolver that has nothing to show.
        rustls::Error::General(why) if why.contains("no server certificate") => {
            "there is no certificate for what the client asked for, such as a challenge that is over"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
