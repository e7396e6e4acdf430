//! The side that faces clients: sockets, TLS, HTTP, and the shape of every response.
//!
//! A request's way: [`listener`] takes the connection, [`arrival`] finds out whose it is and whether that client may have it,
//! [`handshake`] makes it a TLS one, [`connection`] speaks HTTP, [`service`] checks
//! the head and lets [`route`] say what is asked for; the proxy answers ([`page`] is made here), [`respond`] writes the response, [`range`]
//! deciding how much of it and [`cache_status`] saying how it was come by, and [`body`] hands out its bytes, through the [`cork`] over HTTP/2. When the body has ended,
//! [`access`] writes the log.
//!
//! What one connection may hold in memory: rustls' buffers and the cork, at most 256 KiB; hyper's send buffer, at most
//! 400 KiB for each of 256 HTTP/2 streams (all of it parts of chunks the store holds anyway, none of it copies); 16 KiB
//! of request head. Their number is bounded by [`Limits`].
//!
//! Certificates are those of `tls`: this room asks which to show ([`Acceptor`](crate::tls::Acceptor)) and what a CA wants to
//! read ([`Challenges`](crate::tls::Challenges)).
//!
//! Out of scope: where answers come from, where certificates come from, the admin address.

pub mod access;
pub mod activity;
pub mod address;
pub mod arrival;
pub mod believed;
pub mod body;
pub mod cache_status;
pub mod connection;
pub mod cork;
pub mod farewell;
pub mod forwarded;
pub mod handshake;
pub mod limits;
pub mod listener;
pub mod options;
pub mod page;
pub mod proxy_protocol;
pub mod range;
pub mod redirect;
pub mod respond;
pub mod route;
pub mod service;
#[cfg(test)]
mod testing;

pub use access::Book;
pub use address::{BoundAddress, Entrance, ListenAddress, Listener, Peer, Serves};
pub use connection::Handler;
pub use limits::Clients;
pub use listener::{BindError, Listeners, Stop, bind, bind_with};
pub use options::{Bounds, Limits, Listen};
pub use service::{Answers, Service};
