//! What can be set for the side that faces clients.

use std::path::PathBuf;

use tokio::sync::Semaphore;

use super::address::{ListenAddress, Listener, Serves};
use super::believed::{Believed, Source};
use super::forwarded::{self, Forwarded};
use super::limits;
use super::redirect::Redirect;
use crate::options::{ByteSize, Mistakes, key};
use crate::tls::{self, ClientAuth, ClientCertificates, ClientName};

crate::options! {
    /// An address to serve on. Without any, there is one with TLS and one without on loopback.
    pub struct Listen {
        /// The address and port, or the path of a unix socket. Port 0 lets the system choose; the log tells which.
        /// A unix socket is made with mode 0666: who may enter its directory may use it. It is removed at the stop.
        /// `fd:NAME` serves every socket of that name (`FileDescriptorName=` of a systemd `.socket` unit).
        pub address: ListenAddress,
        /// What `[[access]]` tables call it.
        pub name: Option<String> = None,
        /// Whom it serves. `everyone`: whoever comes, each what he may see, which is what is public unless an `[[access]]` table
        /// says more. `granted`: only clients that such a table grants something, and them what is public too; all others get
        /// 401 for everything.
        pub serves: Serves = Serves::Everyone,
        /// Serve HTTPS (HTTP/2 and HTTP/1.1). `false` serves plain HTTP/1.1, which is what a unix socket usually wants.
        pub tls: bool = true,
        /// Send clients of a plain address to this one instead of serving them. The path and the query are kept. A CA
        /// that validates a name is answered here all the same.
        pub redirect: Option<Redirect> = None,
        /// Whether clients show a certificate that was signed by a CA of `client_ca_file`. `optional`: those without one
        /// are served too, those with a wrong one are not. `required`: nobody else is served. Sessions are not resumed
        /// then, so that each connection is judged by what holds at its begin.
        pub client_certificates: ClientAuth = ClientAuth::Off,
        /// The CAs that sign clients' certificates, PEM. It is read again when it changes; one that cannot be used
        /// changes nothing.
        pub client_ca_file: Option<PathBuf> = None,
        /// The DNS names of the clients to let in, of which a certificate must have one (as a subject alternative name);
        /// `*` as the first label stands for exactly one label. Empty lets in every certificate of the CAs.
        pub client_names: Vec<ClientName> = Vec::new(),
        /// Proxies that pass connections on and say in front of each whose it is (the PROXY protocol, version 1 or 2; before TLS):
        /// networks, addresses, or "unix" for whoever may open the socket. Such a peer must say it: what begins otherwise is closed. The
        /// address counts for `networks` of `[[access]]`, for `[limits.client]` and in the log. From everybody else
        /// it is no valid request.
        pub proxy_protocol_from: Vec<Source> = Vec::new(),
        /// Proxies that pass requests on and say in a header whose each is: networks, addresses, or "unix". The client is the last
        /// address in that header that is not itself one of these, which must therefore name proxies, not networks in
        /// which clients are too. It counts as with `proxy_protocol_from`. Without it, or when it is not understood, the request is the
        /// proxy's own. From everybody else it says nothing.
        pub forwarded_from: Vec<Source> = Vec::new(),
        /// The header that the proxies of `forwarded_from` write: `x-forwarded-for`, or `forwarded` (RFC 7239). The other one, which they
        /// let through as clients make it, is not read.
        pub forwarded_header: forwarded::Header = forwarded::Header::XForwardedFor,
        /// The largest NAR that is fetched ahead for clients of this address, if that is less than `prefetch` of `[cache]`; "0 B" fetches
        /// none: for an address at which crawlers or tools ask that take nothing.
        pub prefetch: Option<ByteSize> = None,
    }
}

impl Listen {
    /// A plain address.
    pub fn plain(address: ListenAddress) -> Self {
        Self {
            address,
            name: None,
            serves: Serves::Everyone,
            tls: false,
            redirect: None,
            client_certificates: ClientAuth::Off,
            client_ca_file: None,
            client_names: Vec::new(),
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            forwarded_header: forwarded::Header::XForwardedFor,
            prefetch: None,
        }
    }

    /// What of it counts for each request.
    pub fn listener(&self) -> Listener {
        Listener {
            name: self.name.clone(),
            serves: self.serves,
            prefetch: self.prefetch.map(|largest| largest.0),
            proxy_protocol: Believed::new(&self.proxy_protocol_from),
            forwarded: Forwarded { from: Believed::new(&self.forwarded_from), header: self.forwarded_header },
        }
    }

    /// Whom it believes about addresses, and where.
    pub fn whom_it_believes(&self) -> (&ListenAddress, &[Source], &[Source], forwarded::Header) {
        (&self.address, &self.proxy_protocol_from, &self.forwarded_from, self.forwarded_header)
    }

    /// Which clients are let in, if certificates are asked for.
    pub fn clients(&self) -> Option<ClientCertificates> {
        let required = match self.client_certificates {
            ClientAuth::Off => return None,
            ClientAuth::Optional => false,
            ClientAuth::Required => true,
        };
        let ca_file = self.client_ca_file.clone()?;
        Some(ClientCertificates { required, ca_file, names: self.client_names.clone() })
    }

    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        self.check_believed(at, mistakes);
        if mistakes.is_about(&key(at, "tls")) || mistakes.is_about(&key(at, "client_certificates")) {
            return;
        }
        if let (true, Some(redirect)) = (self.tls, &self.redirect) {
            let accepted = "nothing, because this address serves TLS; tls = false makes it a plain one";
            mistakes.refuse(&key(at, "redirect"), &format!("\"{redirect}\""), accepted);
        }
        if let (Serves::Granted, Some(_)) = (self.serves, &self.redirect) {
            let accepted = "\"everyone\", because `redirect` sends all of them elsewhere";
            mistakes.refuse(&key(at, "serves"), &format!("\"{}\"", self.serves), accepted);
        }
        let auth = self.client_certificates;
        match (auth != ClientAuth::Off, self.tls) {
            (true, false) => {
                let accepted = "\"off\", because tls = false; certificates are shown over TLS only";
                mistakes.refuse(&key(at, "client_certificates"), &format!("\"{auth}\""), accepted);
            }
            (true, true) if self.client_ca_file.is_none() => {
                let accepted = format!("a path, because client_certificates is \"{auth}\"");
                mistakes.missing(&key(at, "client_ca_file"), &accepted);
            }
            (true, true) => {}
            (false, _) => self.check_unused(at, mistakes),
        }
    }

    /// Whoever is believed must be able to come here.
    fn check_believed(&self, at: &str, mistakes: &mut Mistakes) {
        if mistakes.is_about(&key(at, "address")) {
            return;
        }
        let is_unix = matches!(self.address, ListenAddress::Unix(_));
        for (name, sources) in
            [("proxy_protocol_from", &self.proxy_protocol_from), ("forwarded_from", &self.forwarded_from)]
        {
            if let Some(source) = sources.iter().find(|source| (**source == Source::Unix) != is_unix) {
                let accepted = match is_unix {
                    true => "\"unix\", because clients of a unix socket have no address",
                    false => "networks, because nobody comes to this address over a unix socket",
                };
                mistakes.refuse(&key(at, name), &format!("[\"{source}\"…]"), accepted);
            }
        }
    }

    /// A list of names that nobody looks at would be taken for a locked door.
    fn check_unused(&self, at: &str, mistakes: &mut Mistakes) {
        let accepted = "nothing, because client_certificates is \"off\"; set it to \"required\" or \"optional\"";
        if let Some(path) = &self.client_ca_file {
            mistakes.refuse(&key(at, "client_ca_file"), &format!("{:?}", path.display().to_string()), accepted);
        }
        if let Some(name) = self.client_names.first() {
            mistakes.refuse(&key(at, "client_names"), &format!("[\"{name}\"…]"), accepted);
        }
    }

    /// Loads the CA file as [`bind`](super::bind) does, and tells what is wrong with it.
    ///
    /// Blocking: a small file.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        if let Some(clients) = self.clients()
            && let Err(error) = tls::check_client_ca_file(&clients.ca_file)
        {
            mistakes.say(&key(at, "client_ca_file"), &error.to_string());
        }
    }
}

crate::options! {
    /// Bounds of what clients may take.
    pub struct Limits {
        /// Connections open at a time, over all addresses, at least 1; further ones wait in the system's queue. By default as many
        /// as the limit of open files leaves, at most 10000.
        pub connections: Option<u32> = None,
        /// TLS handshakes at a time, over all addresses, at least 1. A connection counts from the moment its first message
        /// has arrived; further ones wait within the 10 seconds that a handshake may take. One client has at most a quarter of them,
        /// or 16.
        pub handshakes: u32 = 256,
        /// Requests at a time, over all clients and addresses, from their head to the end of their response; at least 2. Further
        /// ones are refused at once, with 503 and a Retry-After of a second. At most half of them wait for upstreams, so that
        /// what is here is served meanwhile. It changes on reload.
        pub requests: u32 = 16_384,
        /// Bytes of responses per second, over all clients and addresses together; at least 64 kB, or 0 B for no limit.
        /// Responses get slower, none is cut. It changes on reload.
        pub bytes: ByteSize = ByteSize(0),
        /// What one client may take.
        pub client: limits::Options,
    }
}

/// How much is done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// TLS handshakes.
    pub handshakes: usize,
}

impl Limits {
    /// Checks what the form of a value does not show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.connections == Some(0) {
            mistakes.refuse(&key(at, "connections"), &0, "at least 1");
        }
        if self.handshakes == 0 {
            mistakes.refuse(&key(at, "handshakes"), &0, "at least 1");
        }
        if self.requests < 2 {
            mistakes.refuse(&key(at, "requests"), &self.requests, "at least 2");
        }
        limits::check_bytes(&key(at, "bytes"), self.bytes, mistakes);
        self.client.check(&key(at, "client"), mistakes);
    }

    /// The bounds, when `others` files and sockets are needed elsewhere (block files, upstreams). 64 more stay in reserve
    /// (R30).
    pub fn bounds(&self, others: u64) -> Bounds {
        let permits = |bound: u64| usize::try_from(bound).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Bounds { connections: permits(self.connections(others)), handshakes: permits(self.handshakes.into()) }
    }

    /// How many of the requests may wait for upstreams.
    pub fn waiting(&self) -> u32 {
        self.requests / 2
    }

    fn connections(&self, others: u64) -> u64 {
        const RESERVE: u64 = 64;
        const MOST: u64 = 10_000;
        const LEAST: u64 = 16;
        self.connections.map(u64::from).unwrap_or_else(|| {
            let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
            files.saturating_sub(others).saturating_sub(RESERVE).clamp(LEAST, MOST)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Table;

    #[test]
    fn an_address_is_all_that_must_be_said() {
        let read = Listen::from_toml("address = '[::]:443'").unwrap();
        let address = "[::]:443".parse().unwrap();
        assert_eq!(read, Listen { tls: true, ..Listen::plain(address) });
        let mistakes = Listen::from_toml("address = 'localhost:443'").unwrap_err().to_string();
        assert!(mistakes.contains("0.0.0.0:443") && mistakes.contains("unix:"), "{mistakes}");
    }

    /// What is said about a table that is well formed.
    fn said(rest: &str) -> Vec<String> {
        let listen = Listen::from_toml(&format!("address = '[::]:443'\n{rest}")).expect(rest);
        let mut mistakes = Mistakes::default();
        listen.check("listen[0]", &mut mistakes);
        if mistakes.is_empty() {
            listen.check_files("listen[0]", &mut mistakes);
        }
        mistakes.lines().to_vec()
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let none: [&str; 0] = [];
        assert_eq!(said("tls = false\nredirect = 'https://cache.example.org'"), none);
        for (rest, told) in [
            ("redirect = 'https://a'", "listen[0].redirect = \"https://a\": expected nothing, because"),
            (
                "tls = false\nredirect = 'https://a'\nserves = 'granted'",
                "listen[0].serves = \"granted\": expected \"everyone\"",
            ),
            ("client_certificates = 'required'", "listen[0].client_ca_file: missing; expected a path, because"),
            ("client_ca_file = '/x'", "listen[0].client_ca_file = \"/x\": expected nothing, because"),
            ("client_names = ['a']", "listen[0].client_names = [\"a\"…]: expected nothing, because"),
            (
                "tls = false\nclient_certificates = 'optional'\nclient_ca_file = '/x'",
                "listen[0].client_certificates = \"optional\": expected \"off\", because tls = false",
            ),
        ] {
            let said = said(rest);
            assert!(said.len() == 1 && said[0].starts_with(told), "{rest}: {said:?}");
        }
        let unknown = Listen::from_toml("address = '[::]:443'\nclient_certificates = 'yes'").unwrap_err().to_string();
        assert!(unknown.contains("\"off\" or \"optional\" or \"required\""), "{unknown}");
    }

    #[test]
    fn who_is_believed_can_come_there() {
        let none: [&str; 0] = [];
        assert_eq!(said("proxy_protocol_from = ['10.0.0.0/8']\nforwarded_from = ['::1']"), none);
        let unix = "address = 'unix:/s'\ntls = false\nforwarded_from = ['unix', '::1']";
        let mut mistakes = Mistakes::default();
        Listen::from_toml(unix).unwrap().check("listen[0]", &mut mistakes);
        assert_eq!(mistakes.lines().len(), 1);
        assert!(mistakes.to_string().starts_with("listen[0].forwarded_from = [\"::1\"…]: expected \"unix\""));
        let told = said("proxy_protocol_from = ['unix']");
        assert!(told[0].starts_with("listen[0].proxy_protocol_from = [\"unix\"…]: expected networks, because"));
    }

    #[test]
    fn a_ca_file_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let said = || said(&format!("client_certificates = 'required'\nclient_ca_file = '{}'", path.display()));
        let start = format!("listen[0].client_ca_file: {}: ", path.display());
        let (none, begun) = (said(), "-----BEGIN CERTIFICATE-----\n");
        assert!(none[0].starts_with(&start) && none[0].contains("cannot read"), "{none:?}");
        for text in ["", "no PEM", begun, &format!("{begun}AAAA\n-----END CERTIFICATE-----\n")] {
            std::fs::write(&path, text).unwrap();
            let said = said();
            assert!(said.len() == 1 && said[0].starts_with(&start) && said[0].contains("not a list of CA"), "{said:?}");
        }
    }

    #[test]
    fn the_bound_leaves_room_for_other_files() {
        let default = Limits::from_toml("").unwrap();
        let limits = |connections| Limits { connections, handshakes: 3, ..default.clone() };
        assert_eq!(limits(Some(7)).bounds(1_000_000), Bounds { connections: 7, handshakes: 3 });
        assert_eq!(limits(None).bounds(u64::MAX).connections, 16);
        assert!(limits(None).bounds(0).connections <= 10_000);
    }

    #[test]
    fn nothing_at_all_is_no_bound() {
        let mut mistakes = Mistakes::default();
        Limits::from_toml("connections = 0\nhandshakes = 0").unwrap().check("limits", &mut mistakes);
        assert_eq!(
            mistakes.lines(),
            ["limits.connections = 0: expected at least 1", "limits.handshakes = 0: expected at least 1"]
        );
    }
}
