//! Stand-ins for what other rooms declare, until their branches are on main: `pending::edge` becomes `crate::edge` and
//! `pending::tls` becomes `crate::tls`; this file goes.

/// Of `edge`.
pub mod edge {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    /// Where to listen.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum ListenAddress {
        /// An IP address and a port; port 0 takes a free one.
        Tcp(SocketAddr),
        /// A unix socket.
        Unix(PathBuf),
    }

    /// A bound address.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BoundAddress {
        /// The address.
        pub address: ListenAddress,
        /// Whether it speaks TLS.
        pub tls: bool,
    }

    impl std::str::FromStr for ListenAddress {
        type Err = ();
        fn from_str(text: &str) -> Result<Self, ()> {
            match text.strip_prefix("unix:") {
                Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
                Some(_) => Err(()),
                None => text.parse().map(Self::Tcp).map_err(|_| ()),
            }
        }
    }

    impl std::fmt::Display for ListenAddress {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::Tcp(address) => address.fmt(f),
                Self::Unix(path) => write!(f, "unix:{}", path.display()),
            }
        }
    }

    crate::string_value!(
        ListenAddress,
        "an address and port such as \"0.0.0.0:443\" or \"[::]:443\", or \"unix:/path/to/socket\""
    );

    crate::options! {
        /// An address to serve on. Without any, there is one with TLS and one without on loopback.
        pub struct Listen {
            /// Where to listen.
            pub address: ListenAddress,
            /// Whether to speak TLS.
            pub tls: bool = true,
        }
    }

    crate::options! {
        /// Bounds of what clients may take.
        pub struct Limits {
            /// Connections open at a time.
            pub connections: Option<u32> = None,
        }
    }
}

/// Of `tls`.
pub mod tls {
    use crate::options::{Mistakes, key};
    use std::path::PathBuf;

    crate::options! {
        /// The certificate of the listeners with `tls = true`.
        pub struct Options {
            /// The names clients use.
            pub names: Vec<String> = Vec::new(),
            /// A certificate chain.
            pub cert_file: Option<PathBuf> = None,
            /// Its private key.
            pub key_file: Option<PathBuf> = None,
        }
    }

    impl Options {
        /// Checks what one value alone cannot show.
        pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
            match (&self.cert_file, &self.key_file) {
                (Some(_), None) => mistakes.missing(&key(at, "key_file"), "a path, because cert_file is set"),
                (None, Some(_)) => mistakes.missing(&key(at, "cert_file"), "a path, because key_file is set"),
                _ => {}
            }
        }
    }
}
