//! The PROXY protocol, versions 1 and 2: what a proxy that only passes bytes on says in front of them about who they are from.
//!
//! It is read where a listener believes the peer, before TLS and before HTTP, and nothing behind it is taken from the socket. A believed
//! peer always says it: a connection that begins otherwise is closed, since its bytes may be a client's who found a way around
//! the proxy's rules. From a peer that is not believed it is garbage like any other: no TLS, no HTTP (R24).
//!
//! What it says counts where it says it of TCP. `LOCAL` (the proxy itself, to see whether we live), `UNKNOWN`, and families without
//! addresses leave the peer's own.
//!
//! The grammar is the crate `ppp`'s; how much is read, and when it is enough, is ours.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Time for the whole header, which a proxy sends with its first packet. The time for TLS, or for a request's head, begins after it.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes of version 1, its line end included: what its specification promises.
const LONGEST_V1: usize = 107;
/// The shortest header of version 1 is `PROXY UNKNOWN\r\n`; those of version 2 are longer.
const SHORTEST: usize = 15;
/// Bytes before what version 2 counts.
const FIXED_V2: usize = 16;
/// Bytes that version 2 may count: addresses, and what proxies add to them (names, certificates), of which nothing is looked at.
const LONGEST_V2: usize = 4 << 10;

/// Why a connection of a believed peer is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It ended before its first byte: somebody looked whether we listen.
    #[error("the connection ended before anything was sent")]
    Nothing,
    /// The time was up.
    #[error("no PROXY header within {LIMIT:?}")]
    TooSlow,
    /// What came is something else.
    #[error("this is no PROXY header: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("the connection broke before its PROXY header was there: {0}")]
    Broken(io::Error),
}

/// Reads the header, and nothing behind it. The address that it gives the client; `None` for the peer's own.
///
/// # Errors
/// The connection must be closed.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Refused> {
    timeout(LIMIT, read_in_time(io)).await.unwrap_or(Err(Refused::TooSlow))
}

async fn read_in_time(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Refused> {
    let mut head = vec![0; SHORTEST];
    let first = io.read(&mut head).await.map_err(Refused::Broken)?;
    if first == 0 {
        return Err(Refused::Nothing);
    }
    // Told at once: who speaks TLS or HTTP here waits for an answer, and may send nothing more.
    let is_start_of = |whole: &[u8]| head.iter().zip(whole).take(first).all(|(found, expected)| found == expected);
    let (is_v1, is_v2) = (is_start_of(ppp::v1::PROTOCOL_PREFIX.as_bytes()), is_start_of(ppp::v2::PROTOCOL_PREFIX));
    if !is_v1 && !is_v2 {
        return Err(Refused::Malformed("it begins otherwise".to_owned()));
    }
    io.read_exact(&mut head[first..]).await.map_err(Refused::Broken)?;
    match is_v2 {
        true => read_v2(io, head).await,
        false => read_v1(io, head).await,
    }
}

/// A byte at a time, so that nothing behind it is taken: some dozens of calls for a connection that a proxy made.
async fn read_v1(io: &mut (impl AsyncRead + Unpin), mut head: Vec<u8>) -> Result<Option<SocketAddr>, Refused> {
    while !head.ends_with(b"\r\n") {
        if head.len() == LONGEST_V1 {
            return Err(Refused::Malformed(format!("its line is longer than {LONGEST_V1} bytes")));
        }
        head.push(io.read_u8().await.map_err(Refused::Broken)?);
    }
    v1(&head)
}

fn v1(head: &[u8]) -> Result<Option<SocketAddr>, Refused> {
    use ppp::v1::Addresses;
    let header = ppp::v1::Header::try_from(head).map_err(malformed)?;
    Ok(match header.addresses {
        Addresses::Unknown => None,
        Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        Addresses::Tcp6(of) => Some((of.source_address.to_canonical(), of.source_port).into()),
    })
}

async fn read_v2(io: &mut (impl AsyncRead + Unpin), mut head: Vec<u8>) -> Result<Option<SocketAddr>, Refused> {
    head.push(io.read_u8().await.map_err(Refused::Broken)?);
    let length = usize::from(u16::from_be_bytes([head[FIXED_V2 - 2], head[FIXED_V2 - 1]]));
    if length > LONGEST_V2 {
        return Err(Refused::Malformed(format!("it announces {length} bytes, more than {LONGEST_V2}")));
    }
    head.resize(FIXED_V2 + length, 0);
    io.read_exact(&mut head[FIXED_V2..]).await.map_err(Refused::Broken)?;
    v2(&head)
}

fn v2(head: &[u8]) -> Result<Option<SocketAddr>, Refused> {
    use ppp::v2::{Addresses, Protocol};
    const VERSION_AND_COMMAND: usize = 12;
    const LOCAL: u8 = 0x20;
    // "The receiver MUST accept this connection as valid and MUST use the real connection endpoints and discard the protocol
    // block including the family which is ignored." ppp would look at the block.
    if head.get(VERSION_AND_COMMAND) == Some(&LOCAL) {
        return Ok(None);
    }
    let header = ppp::v2::Header::try_from(head).map_err(malformed)?;
    Ok(match header.addresses {
        Addresses::IPv4(of) if header.protocol == Protocol::Stream => Some((of.source_address, of.source_port).into()),
        Addresses::IPv6(of) if header.protocol == Protocol::Stream => {
            Some((of.source_address.to_canonical(), of.source_port).into())
        }
        Addresses::IPv4(_) | Addresses::IPv6(_) | Addresses::Unspecified | Addresses::Unix(_) => None,
    })
}

/// Only the kind of mistake: the text is a stranger's.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: impl std::fmt::Display) -> Refused {
    Refused::Malformed(error.to_string().escape_default().to_string())
}

/// Entry of the fuzz target `proxy_protocol`: what a connection begins with.
///
/// # Panics
/// When more is taken than a header may have, or something behind one.
#[allow(clippy::panic)] // what the fuzzer looks for
pub fn fuzz(input: &[u8]) {
    let mut rest = input;
    let read = read_in_time(&mut rest).now_or_never();
    let header = &input[..input.len() - rest.len()];
    assert!(header.len() <= FIXED_V2 + LONGEST_V2);
    if matches!(read, Some(Ok(_))) {
        let length =
            header.get(FIXED_V2 - 2..FIXED_V2).map(|at| FIXED_V2 + usize::from(at[0]) * 256 + usize::from(at[1]));
        assert!(header.ends_with(b"\r\n") || length == Some(header.len()), "{header:?}");
    }
}

#[cfg(test)]
mod tests;
