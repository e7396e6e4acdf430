//! What can be set of the limits for each client.

use super::super::believed::Source;
use crate::options::{ByteSize, Mistakes, key};

crate::choice! {
    /// The status of a request that is refused by a limit.
    pub enum RefuseWith {
        /// Nix tries again after what Retry-After says.
        ServiceUnavailable = "503",
        /// What other clients expect.
        TooManyRequests = "429",
    }
}

crate::options! {
    /// What one client may take. A client is an IPv4 address, or the first 64 bits of an IPv6 address;
    /// requests of one that shows a token of `[[access]]` or a certificate count by the name of that, from wherever it comes.
    /// Behind a proxy all clients are the proxy, unless the listener believes what it says of them (`proxy_protocol_from`,
    /// `forwarded_from`). Whoever comes over unix sockets is one client, whose connections are not counted; those of
    /// proxies that `forwarded_from` names are not either. An office behind one address (NAT) is one client too: the defaults
    /// are for some dozens of machines there, ten of which have nothing at all in their stores. All of this changes on
    /// reload; what clients have used of a limit that changed is forgotten.
    pub struct Options {
        /// Requests per second, in the long run; 0 is no limit. Beyond it they are refused with a Retry-After of a few
        /// seconds. What a CA asks for, `nix-cache-info` and redirects are not counted.
        pub requests: u32 = 2000,
        /// Requests that may come at once, at least `requests`. A machine with an empty store asks for two things for each path
        /// of its system, some thousands.
        pub request_burst: u32 = 100_000,
        /// The status of a refused request. After `503` Nix asks again when Retry-After says so. `429` is for other clients that expect
        /// it: Nix 2.34 stands still for more than a minute after one.
        pub refuse_with: RefuseWith = RefuseWith::ServiceUnavailable,
        /// Bytes of responses per second, for all downloads of a client together; at least 64 kB, or 0 B for no limit. Responses
        /// get slower, none is cut or refused.
        pub bytes: ByteSize = ByteSize(0),
        /// Connections open at a time, at least 1. Further ones are closed at once. By default a quarter of
        /// `limits.connections`, but at least 256 and at most 1024: clients of HTTP/1.1 have up to 25 each, those of HTTP/2 one.
        pub connections: Option<u32> = None,
        /// New connections per second, in the long run, of which ten seconds' worth may come at once; 0 is no limit. Further ones
        /// are closed at once.
        pub new_connections: u32 = 1000,
        /// Who has no limits: networks, addresses, or "unix" for unix sockets. By default this machine: programs on it share it by
        /// other means, and a proxy on it speaks for many. `[]` limits everybody.
        pub exempt: Vec<Source> = Source::this_machine(),
    }
}

/// Below this, downloads side by side would look dead to Nix.
pub(in crate::edge) const LEAST_BYTES: u64 = 64_000;

impl Options {
    /// Checks what the form of a value does not show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.requests > 0 && self.request_burst < self.requests {
            let accepted = format!("at least `requests`, which is {}", self.requests);
            mistakes.refuse(&key(at, "request_burst"), &self.request_burst, &accepted);
        }
        check_bytes(&key(at, "bytes"), self.bytes, mistakes);
        if self.connections == Some(0) {
            mistakes.refuse(&key(at, "connections"), &0, "at least 1");
        }
    }

    /// Connections of a client, where all may have so many.
    pub(super) fn connections(&self, of_all: usize) -> usize {
        let set = self.connections.map(|set| usize::try_from(set).unwrap_or(usize::MAX));
        set.unwrap_or_else(|| (of_all / 4).clamp(256, 1024))
    }
}

/// Checks a number of bytes per second.
pub(in crate::edge) fn check_bytes(key: &str, bytes: ByteSize, mistakes: &mut Mistakes) {
    if (1..LEAST_BYTES).contains(&bytes.0) {
        mistakes.refuse(key, &format!("\"{bytes}\""), "at least \"64 kB\", or \"0 B\" for no limit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table as _;

    #[test]
    fn what_would_limit_everything_is_refused() {
        let said = |text: &str| {
            let mut mistakes = Mistakes::default();
            Options::from_toml(text).expect(text).check("limits.client", &mut mistakes);
            mistakes.lines().to_vec()
        };
        let none: [&str; 0] = [];
        for text in ["", "requests = 0\nrequest_burst = 0", "bytes = '64 kB'", "bytes = '0 B'", "connections = 1"] {
            assert_eq!(said(text), none, "{text}");
        }
        for (text, told) in [
            (
                "requests = 5\nrequest_burst = 4",
                "limits.client.request_burst = 4: expected at least `requests`, which is 5",
            ),
            ("bytes = '1 B'", "limits.client.bytes = \"1 B\": expected at least \"64 kB\", or \"0 B\" for no limit"),
            ("connections = 0", "limits.client.connections = 0: expected at least 1"),
        ] {
            assert_eq!(said(text), [told]);
        }
        assert!(Options::from_toml("refuse_with = '500'").unwrap_err().to_string().contains("\"503\" or \"429\""));
    }

    #[test]
    fn one_client_leaves_places_for_others() {
        let connections = |text: &str, of_all| Options::from_toml(text).expect(text).connections(of_all);
        assert_eq!([100, 2_000, 10_000].map(|of_all| connections("", of_all)), [256, 500, 1024]);
        assert_eq!(connections("connections = 7", 10_000), 7);
    }
}
