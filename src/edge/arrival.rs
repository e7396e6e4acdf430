//! A connection before anything is served on it: for whom it is, and whether that client may have another one.
//!
//! Nothing was spent on it yet but a task, so whoever is over a limit is closed here, before TLS, without a word.

use std::net::IpAddr;

use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::address::Peer;
use super::limits::{Client, Clients, Seat, Seldom};
use super::proxy_protocol::{self, Refused};
use crate::metrics::ConnectionEnd;

/// Proxies that say nothing can come as fast as connections.
static TOLD: Seldom = Seldom::new();

/// Finds out who the peer is, and takes a place among its connections where these are counted. The address is in `peer` from then on.
///
/// # Errors
/// How the connection has ended: nothing is to be served on it.
pub async fn arrive(
    io: &mut (impl AsyncRead + Unpin),
    mut peer: Peer,
    clients: Option<&Clients>,
    drain: &CancellationToken,
) -> Result<(Peer, Option<Seat>), ConnectionEnd> {
    if peer.listener.proxy_protocol.has(peer.ip()) {
        // A drain does not wait for headers: no request was made yet.
        let read = drain.run_until_cancelled(proxy_protocol::read(io)).await.ok_or(ConnectionEnd::Closed)?;
        match read {
            Ok(None) => {}
            Ok(address) => peer.address = address,
            Err(Refused::Nothing) => return Err(ConnectionEnd::Closed),
            Err(why) => {
                if let Some(left_out) = TOLD.due() {
                    tracing::warn!(%peer, left_out, "a peer of proxy_protocol_from is not served: {why}");
                }
                return Err(ConnectionEnd::ProxyHeader);
            }
        }
    }
    match clients.zip(counted(&peer)) {
        Some((clients, address)) if !clients.exempt(Some(address)) => {
            let seat = clients.arrive(Client::at(Some(address))).ok_or(ConnectionEnd::Limited)?;
            Ok((peer, Some(seat)))
        }
        _ => Ok((peer, None)),
    }
}

/// Whose connection it is, where those are counted. Behind a peer that tells of each request whose it is are many clients, and
/// behind a unix socket there mostly are.
fn counted(peer: &Peer) -> Option<IpAddr> {
    peer.ip().filter(|address| !peer.listener.forwarded.from.has(Some(*address)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::believed::Believed;
    use super::super::forwarded::Forwarded;
    use super::super::options::Bounds;
    use super::super::{Entrance, Limits, Listener};
    use super::*;
    use crate::metrics::Metrics;
    use crate::options::Table as _;

    fn clients(text: &str) -> Clients {
        let limits = Limits::from_toml(text).expect(text);
        Clients::new(&limits, Bounds { connections: 100, handshakes: 100 }, Metrics::default().edge.limits)
    }

    fn peer(address: Option<&str>, listener: Listener) -> Peer {
        Peer::new(address.map(|address| address.parse().unwrap()), Entrance::Tls, Arc::new(listener))
    }

    fn believed(source: &str) -> Believed {
        Believed::new(&[source.parse().expect(source)])
    }

    async fn arrives(clients: &Clients, peer: Peer, sent: &[u8]) -> Result<(Peer, Option<Seat>), ConnectionEnd> {
        arrive(&mut &*sent, peer, Some(clients), &CancellationToken::new()).await
    }

    const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 10.0.0.4 4711 443\r\n";

    #[tokio::test]
    async fn whose_connection_it_is_decides() {
        let clients = clients("[client]\nconnections = 1");
        let listener = || Listener { proxy_protocol: believed("10.0.0.4"), ..Listener::default() };
        let proxy = || peer(Some("10.0.0.4:1"), listener());
        let (of, _seat) = arrives(&clients, proxy(), HEADER).await.unwrap();
        assert_eq!(of.to_string(), "198.51.100.7:4711");
        assert_eq!(arrives(&clients, proxy(), HEADER).await.err(), Some(ConnectionEnd::Limited));
        let another = b"PROXY TCP4 198.51.100.8 10.0.0.4 4711 443\r\n";
        let (_, another) = arrives(&clients, proxy(), another).await.expect("the proxy itself has none");
        assert!(another.is_some());
        // Its own, where it says so.
        let (of, _own) = arrives(&clients, proxy(), b"PROXY UNKNOWN\r\n").await.unwrap();
        assert_eq!(of.to_string(), "10.0.0.4:1");
        // A header of who is not believed is not even read.
        let (of, seat) = arrives(&clients, peer(Some("10.0.0.5:1"), listener()), HEADER).await.unwrap();
        assert_eq!((of.to_string(), seat.is_some()), ("10.0.0.5:1".to_owned(), true));
        for (sent, end) in [(&b"GET / HTTP/1.1\r\n"[..], ConnectionEnd::ProxyHeader), (b"", ConnectionEnd::Closed)] {
            assert_eq!(arrives(&clients, proxy(), sent).await.err(), Some(end));
        }
    }

    #[tokio::test]
    async fn those_behind_whom_are_many_have_no_bound() {
        let clients = clients("[client]\nconnections = 1\nnew_connections = 1");
        let from = Forwarded { from: believed("10.0.0.4"), ..Forwarded::default() };
        let listener = || Listener { forwarded: from.clone(), ..Listener::default() };
        for address in [Some("10.0.0.4:1"), None] {
            for _ in 0..100 {
                let (_, seat) = arrives(&clients, peer(address, listener()), b"").await.expect("no bound");
                assert!(seat.is_none());
            }
        }
        let counted = |sent| arrives(&clients, peer(Some("10.0.0.5:1"), listener()), sent);
        let (_, seat) = counted(b"").await.unwrap();
        assert_eq!(counted(b"").await.err(), Some(ConnectionEnd::Limited));
        drop(seat);
        assert!(counted(b"").await.is_ok());
    }

    #[tokio::test]
    async fn who_is_exempt_takes_no_places_of_its_neighbours() {
        let clients = clients("[client]\nconnections = 1\nexempt = ['2001:db8::1']");
        let arrive = |address| arrives(&clients, peer(Some(address), Listener::default()), b"");
        let exempt = [arrive("[2001:db8::1]:1").await.unwrap(), arrive("[2001:db8::1]:2").await.unwrap()];
        let neighbour = arrive("[2001:db8::2]:1").await.expect("its own");
        assert_eq!(arrive("[2001:db8::2]:2").await.err(), Some(ConnectionEnd::Limited));
        assert!(arrive("[2001:db8::1]:3").await.is_ok());
        drop((exempt, neighbour));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_no_header() {
        let (clients, drain) = (clients(""), CancellationToken::new());
        let (_client, mut silent) = tokio::io::duplex(8);
        let listener = Listener { proxy_protocol: believed("unix"), ..Listener::default() };
        let arriving = arrive(&mut silent, peer(None, listener), Some(&clients), &drain);
        let (ended, ()) = tokio::join!(arriving, async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drain.cancel();
        });
        assert_eq!(ended.err(), Some(ConnectionEnd::Closed));
    }
}
