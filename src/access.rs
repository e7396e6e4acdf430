//! Who may see which private upstreams (R15).
//!
//! ```text
//! Visitor { address, listener, certificate, Authorization } ── each [[access]] table ──▶ Grants
//! ```
//!
//! A table grants its upstreams to a visitor of whom everything holds that it names: of `networks`, `token_files`,
//! `certificates` and `listeners` each one that is given, and of the values of each at least one. What several tables grant
//! adds up. A visitor of whom nothing holds sees what everybody sees; that an Authorization was shown and is wrong changes
//! nothing, and is told to nobody but the metrics.
//!
//! Out of scope: what is done with a grant (`proxy::spaces`), and where a visitor comes from (`edge`).

mod network;
mod token;
mod token_file;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;

use crate::options::{Mistakes, key};
use crate::tls::ClientName;

pub use network::Network;
pub use token::{NewToken, NotAName};
use token_file::TokenFile;
pub use token_file::TokenFileError;

/// The most private upstreams there can be.
pub const MOST: usize = u64::BITS as usize;

crate::options! {
    /// Who may see private upstreams; any number of tables, whose grants add up. A client must meet each kind of condition
    /// that a table has (`networks`, `token_files`, `certificates`, `listeners`), and of each kind one value. A client that
    /// meets no table is answered as if the private upstreams were not there.
    pub struct Options {
        /// The private upstreams that are granted, by name.
        pub upstreams: Vec<String>,
        /// Addresses that the client's connection may come from: `10.1.0.0/16`, `fd00::/8`, or a single address. Behind
        /// another proxy all connections come from that one, unless the listener believes what it says (`proxy_protocol_from`,
        /// `forwarded_from`). A client of a unix socket has no address.
        pub networks: Vec<Network> = Vec::new(),
        /// Files with tokens, one of which the client must show: as the password for this server in its netrc file, or as
        /// `Authorization: Bearer`. A line is `name:` and the SHA-256 of a token in hex; `snowbank token NAME` makes one.
        /// Take a line out to revoke its token. The files are read again when they change; one that cannot be used changes
        /// nothing. Nobody but their owner may be able to write them.
        pub token_files: Vec<PathBuf> = Vec::new(),
        /// DNS names of clients' certificates, as in `client_names` of a listener, which has to ask for certificates.
        pub certificates: Vec<ClientName> = Vec::new(),
        /// The `name`s of listeners to which the client may come. Whoever reaches such a listener meets this condition.
        pub listeners: Vec<String> = Vec::new(),
    }
}

impl Options {
    /// Checks what one value alone cannot show; `at` is the table's place.
    pub fn check(&self, at: &str, mistakes: &mut Mistakes) {
        if self.upstreams.is_empty() {
            mistakes.refuse(&key(at, "upstreams"), &"[]", "at least one private upstream");
        }
        let none = self.networks.is_empty() && self.token_files.is_empty();
        if none && self.certificates.is_empty() && self.listeners.is_empty() {
            mistakes.say(
                at,
                "this would grant everything to everybody; give networks, token_files, certificates or listeners",
            );
        }
    }

    /// Reads the files that are named, and tells what is wrong with them.
    ///
    /// Blocking: small files.
    pub fn check_files(&self, at: &str, mistakes: &mut Mistakes) {
        for (n, path) in self.token_files.iter().enumerate() {
            if let Err(error) = TokenFile::open(path) {
                mistakes.say(&format!("{}[{n}]", key(at, "token_files")), &error.to_string());
            }
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Default)]
pub struct Visitor<'a> {
    /// Where the connection comes from.
    pub address: Option<IpAddr>,
    /// The name of the listener it came to.
    pub listener: Option<&'a str>,
    /// The DNS names of the certificate that the client showed, and that was verified.
    pub certificate: &'a [String],
    /// What the client says to be let in, if it says it once.
    pub authorization: Option<&'a HeaderValue>,
    /// The largest NAR that is fetched ahead for who comes to that listener, in bytes.
    pub prefetch: Option<u64>,
}

/// Without what is shown, which may be a token.
impl fmt::Debug for Visitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, listener, certificate, authorization, prefetch } = self;
        f.debug_struct("Visitor")
            .field("address", address)
            .field("listener", listener)
            .field("certificate", certificate)
            .field("authorization", &authorization.is_some())
            .field("prefetch", prefetch)
            .finish()
    }
}

/// Which private upstreams somebody may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grants(u64);

impl Grants {
    /// Whether there are any.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether `wanted` are all among them; never, where nothing is wanted that could be granted.
    pub fn include(self, wanted: Self) -> bool {
        wanted.is_some() && self.0 & wanted.0 == wanted.0
    }
}

/// The tables, with the tokens that hold now. The default grants nothing to anybody.
#[derive(Debug, Default)]
pub struct Access {
    /// Every upstream that a table names; its place is its bit in [`Grants`].
    upstreams: Vec<String>,
    rules: Vec<Rule>,
    files: Vec<TokenFile>,
}

/// A table.
#[derive(Debug)]
struct Rule {
    grants: Grants,
    networks: Vec<Network>,
    /// Places in [`Access::files`].
    files: Vec<usize>,
    certificates: Vec<ClientName>,
    listeners: Vec<String>,
}

impl Access {
    /// Reads the files of these tables.
    ///
    /// Blocking: small files.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(tables: &[Options]) -> Result<Self, TokenFileError> {
        let mut access = Self::default();
        for table in tables {
            let grants = table.upstreams.iter().fold(0, |grants, name| grants | access.bit(name));
            let files = table.token_files.iter().map(|path| access.file(path)).collect::<Result<_, _>>()?;
            let (networks, certificates) = (table.networks.clone(), table.certificates.clone());
            let listeners = table.listeners.clone();
            access.rules.push(Rule { grants: Grants(grants), networks, files, certificates, listeners });
        }
        Ok(access)
    }

    /// The bit of an upstream; none past [`MOST`], so that nobody is granted what cannot be told apart.
    fn bit(&mut self, name: &str) -> u64 {
        let place = self.upstreams.iter().position(|known| known == name).unwrap_or_else(|| {
            self.upstreams.push(name.to_owned());
            self.upstreams.len() - 1
        });
        u32::try_from(place).ok().and_then(|place| 1_u64.checked_shl(place)).unwrap_or(0)
    }

    fn file(&mut self, path: &std::path::Path) -> Result<usize, TokenFileError> {
        if let Some(known) = self.files.iter().position(|file| file.path() == path) {
            return Ok(known);
        }
        self.files.push(TokenFile::open(path)?);
        Ok(self.files.len() - 1)
    }

    /// What it takes to see this upstream; nothing that anybody has, where no table names it.
    pub fn grant_of(&self, upstream: &str) -> Grants {
        let place = self.upstreams.iter().position(|known| known == upstream);
        let bit = place.and_then(|place| 1_u64.checked_shl(u32::try_from(place).ok()?));
        Grants(bit.unwrap_or(0))
    }

    /// What this visitor may see.
    pub fn grants(&self, visitor: &Visitor<'_>) -> Grants {
        if self.rules.is_empty() {
            return Grants::default();
        }
        // Whatever is asked for, and whatever token is shown, the work is the same: each file, each of its tokens.
        let shown = visitor.authorization.and_then(token::shown_digest);
        let known: Option<Vec<bool>> = shown.map(|digest| self.files.iter().map(|file| file.has(&digest)).collect());
        let met = self.rules.iter().filter(|rule| rule.is_met_by(visitor, known.as_deref().unwrap_or_default()));
        Grants(met.fold(0, |grants, rule| grants | rule.grants.0))
    }

    /// The name of the token that this visitor shows, where it is in one of the files.
    pub fn token_name(&self, visitor: &Visitor<'_>) -> Option<Arc<str>> {
        if self.files.is_empty() {
            return None;
        }
        let digest = visitor.authorization.and_then(token::shown_digest)?;
        self.files.iter().fold(None, |found, file| file.name_of(&digest).or(found))
    }

    /// Looks whether the files with tokens changed; from then on the new ones hold. A file that cannot be used changes
    /// nothing, and is told in the log.
    ///
    /// Blocking: a look at each file; a small file if it changed.
    pub fn refresh(&self) {
        self.files.iter().for_each(TokenFile::refresh);
    }
}

impl Rule {
    /// `known`: for each file whether the visitor's token is in it; empty without a token.
    fn is_met_by(&self, visitor: &Visitor<'_>, known: &[bool]) -> bool {
        let address = visitor.address.map(|address| address.to_canonical());
        let from = |network: &Network| address.is_some_and(|address| network.contains(address));
        let shows = |file: &usize| known.get(*file).copied().unwrap_or(false);
        let is_for = |allowed: &ClientName| visitor.certificate.iter().any(|name| allowed.covers(name));
        let came_to = |name: &String| visitor.listener == Some(name);
        holds(&self.networks, from)
            && holds(&self.files, shows)
            && holds(&self.certificates, is_for)
            && holds(&self.listeners, came_to)
    }
}

/// Whether one of these is met, or none is asked for.
fn holds<T>(conditions: &[T], is_met: impl Fn(&T) -> bool) -> bool {
    conditions.is_empty() || conditions.iter().any(is_met)
}

#[cfg(test)]
mod tests;
