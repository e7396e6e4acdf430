//! TCP connections to a host: all of its addresses, until one answers.
//!
//! A name with several addresses is connected to as RFC 8305 (happy eyeballs) says: the families take turns, beginning with
//! the one the system prefers; the next address is tried when the one before failed, or was silent for [`STAGGER`]; the
//! first connection that stands is taken. So an address that swallows everything costs a quarter of a second, whichever
//! family it is of: a share of the time for each address, which is what hyper-util gives, would cost a narinfo all of its.
//!
//! Out of scope: proxies and unix sockets (`dial`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::names::Names;
use super::reach::{Limit, NOT_THERE};

/// How long an address is waited for before the next one is tried too (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses that are tried at most.
const MOST: usize = 16;
/// Idle connections are probed after this time, and then this often.
const PROBE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// What was sent must be acknowledged within this time at least.
const UNHEARD: Duration = Duration::from_secs(5);

/// How TCP connections of one upstream are made.
#[derive(Debug, Clone)]
pub(super) struct Tcp {
    names: Names,
    limit: Duration,
}

impl Tcp {
    /// `limit` is for finding the addresses and connecting to one of them, together.
    pub(super) fn new(names: Names, limit: Duration) -> Self {
        Self { names, limit }
    }

    /// A connection to `host` (a name or an address, which may be in brackets), at an address that `allowed` allows.
    ///
    /// # Errors
    /// The name has no address, no address that is allowed, or none that answers in time.
    pub(super) async fn connect(&self, host: &str, port: u16, allowed: Option<&Limit>) -> io::Result<TcpStream> {
        match timeout(self.limit, self.connected(host, port, allowed)).await {
            Ok(connected) => connected,
            Err(_) => {
                let what = format!("{host} port {port}: no connection within {:?}", self.limit);
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        }
    }

    async fn connected(&self, host: &str, port: u16, allowed: Option<&Limit>) -> io::Result<TcpStream> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.names.addresses(host).await?.to_vec(),
        };
        addresses.iter_mut().for_each(|address| address.set_port(port));
        addresses.retain(|address| allowed.is_none_or(|limit| limit.allows(address.ip())));
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, NOT_THERE));
        }
        let stream = first(in_turn(&addresses)).await?;
        self.set_up(&stream);
        Ok(stream)
    }

    /// Makes the kernel notice when the other side is gone, so that a kept connection that went dead is not written to for
    /// minutes. What fails is only less watchful.
    fn set_up(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(stream);
        let (idle, again) = PROBE;
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(again));
        let _ = socket.set_tcp_user_timeout(Some(self.limit.max(UNHEARD)));
    }
}

/// The addresses with the families taking turns, the first one's first.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_ipv6() == preferred { one.push(*address) } else { other.push(*address) }
    }
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::new();
    while all.len() < addresses.len() {
        all.extend(one.next());
        all.extend(other.next());
    }
    all.truncate(MOST);
    all
}

/// The first connection that stands; if none does, the first error.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let (mut left, mut tries, mut why) = (addresses.into_iter(), FuturesUnordered::new(), None);
    loop {
        if let Some(address) = left.next() {
            tries.push(one(address));
        }
        let more = left.len() > 0;
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => _ = why.get_or_insert(error),
                None => return Err(why.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

async fn one(address: SocketAddr) -> io::Result<TcpStream> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

#[cfg(test)]
mod tests;
