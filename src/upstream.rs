//! Upstreams: the caches behind this one, and how each is asked.
//!
//! An answer has three values: have, have not, and unknown ([`Said`] in a `Result`). One that does not answer is not asked
//! for a while (`health`). What an answer is worth is not decided here, and neither is who is asked when (both `proxy`).
//!
//! One of them, the library, is written to as well (`put`). Out of scope: the store, and clients.

mod again;
mod answer;
mod bucket;
mod client;
mod connect;
mod credentials;
mod dial;
mod directory;
mod encoding;
mod error;
mod health;
mod hop;
mod line;
mod names;
mod netrc;
pub mod options;
mod pieces;
mod place;
mod proxy;
mod put;
mod reach;
mod secret_file;
mod stale;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;
mod tunnel;
mod url;
mod way;
mod wire;

pub use answer::{Asked, Body, Opened, Said, Streamed};
pub use client::{LIBRARY, Upstream};
pub use directory::Index;
pub use error::{Cause, UpstreamError};
pub use health::Standing;
pub use options::{Options, Trust, WhenDown};
pub use put::{Kind, Put, Upload};
