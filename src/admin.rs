//! The listener for operators.

use std::net::SocketAddr;

crate::options! {
    /// Metrics and health, apart from what clients see.
    pub struct Options {
        /// Where to listen, over plain HTTP. Whoever reaches it can read everything it tells; so keep it to loopback or
        /// to a network of operators. Off unless set.
        pub address: Option<SocketAddr> = None,
    }
}
