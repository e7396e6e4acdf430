//! The configuration: every room's table in one tree, read from a file and the command line.
//!
//! ```text
//! file ──parse──▶ tables ──read──▶ Config ──check──▶ Config
//!                   ▲                 ▲
//!         state directory          flags of the command line
//! ```
//!
//! No step stops at its first mistake, and a step that can still run runs: one attempt tells all there is to mend. What
//! is accepted, and its documentation, stands at the rooms' `Options`; here is only what concerns several tables.
//!
//! Out of scope: what a room makes of its options, and reading them anew while the server runs.

mod check;
mod environment;
mod flags;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod nix_conf;
mod origin;
mod print;
pub mod reference;

pub use environment::Environment;
pub use flags::Flags;
pub use nix_conf::nix_conf_lines;
pub use origin::Origin;
pub use print::Detail;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::nix::signature::PublicKey;
use crate::options::{Mistakes, Table, Value, parse};
use crate::{access, admin, library, proxy, shutdown, store, telemetry, upstream};
use crate::{edge, tls};

crate::options! {
    /// Everything that can be set.
    pub struct Config {
        /// Where clients are served.
        pub listen: Vec<edge::Listen> = defaults::listeners(),
        /// Bounds of what clients may take.
        pub limits: edge::Limits,
        /// What is kept, and where.
        pub store: store::Options,
        /// The caches that are mirrored.
        pub upstream: Vec<upstream::Options> = defaults::upstreams(),
        /// A durable cache that several servers share.
        pub library: Option<library::Options> = None,
        /// Who may see private upstreams.
        pub access: Vec<access::Options> = Vec::new(),
        /// The cache that clients see.
        pub cache: proxy::Options,
        /// Signing with keys of your own.
        pub sign: proxy::sign::Options,
        /// Certificates.
        pub tls: tls::Options,
        /// The listener for operators.
        pub admin: admin::Options,
        /// The log.
        pub log: telemetry::Options,
        /// The end of the process.
        pub shutdown: shutdown::Options,
    }
}

impl Config {
    /// Reads the file, if there is one, puts the flags over it, and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong in the file, in the flags and between them, files that cannot be read included.
    pub fn load(file: Option<&Path>, flags: &Flags, environment: &Environment) -> Result<Self, Mistakes> {
        Self::load_text(file.map(|path| (path, text_of(path))), flags, environment)
    }

    /// The same with what is in the file, or why that cannot be told.
    fn load_text(
        file: Option<(&Path, io::Result<String>)>,
        flags: &Flags,
        environment: &Environment,
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let path = file.as_ref().map(|(path, _)| *path);
        let read = match file {
            Some((path, Ok(text))) => {
                let read = Self::read(&text, environment, &mut mistakes);
                mistakes.in_file(path);
                read
            }
            Some((path, Err(error))) => {
                mistakes.say(&path.display().to_string(), &format!("cannot be read: {error}"));
                None
            }
            None => Self::read("", environment, &mut mistakes),
        };
        let instead = flags.read(&mut mistakes);
        if let Some(mut config) = read {
            instead.apply(&mut config);
            let places = flags.places(path);
            check::across_tables(&config, &places, &mut mistakes);
            check::files(&config, &places, &mut mistakes);
            if mistakes.is_empty() {
                return Ok(config);
            }
        }
        Err(mistakes)
    }

    /// Reads of the file no more than `[admin]`, and no other file, for who only asks the running server. A mistake that
    /// somebody makes elsewhere while it runs changes nothing of it, and must not make it look ill.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or has mistakes in that table.
    pub fn load_admin(file: Option<&Path>) -> Result<admin::Options, Mistakes> {
        let mut mistakes = Mistakes::default();
        let text = match file.map(|path| (path, text_of(path))) {
            Some((path, Err(error))) => {
                mistakes.say(&path.display().to_string(), &format!("cannot be read: {error}"));
                return Err(mistakes);
            }
            Some((_, Ok(text))) => text,
            None => String::new(),
        };
        let read = parse(&text, &mut mistakes).and_then(|mut table| match table.remove("admin") {
            Some(found) => admin::Options::read(found, "admin", &mut mistakes),
            None => admin::Options::absent("admin", &mut mistakes),
        });
        if let Some(path) = file {
            mistakes.in_file(path);
        }
        read.filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    /// Reads the text of a file, without looking at anything outside it.
    pub fn read(text: &str, environment: &Environment, mistakes: &mut Mistakes) -> Option<Self> {
        let mut table = parse(text, mistakes)?;
        environment.fill_in_state_dir(&mut table, mistakes);
        Self::read_table(table, "", mistakes)
    }

    /// The directory for everything that is kept: the store's files, and the certificate made here.
    pub fn state_dir(&self) -> Option<&Path> {
        self.store.dir.as_deref()
    }

    /// The keys of all public upstreams that vouch for anything, each once (R15: what a private one's key vouches for is not
    /// public).
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = Vec::new();
        let counts = |upstream: &&upstream::Options| !upstream.private && upstream.trust != upstream::Trust::Pass;
        for key in self.upstream.iter().filter(counts).flat_map(|upstream| &upstream.public_keys) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Whether a listener speaks TLS.
    pub fn speaks_tls(&self) -> bool {
        self.listen.iter().any(|listen| listen.tls)
    }

    /// How a CA is shown that a name is ours, where one is asked.
    pub fn acme_challenge(&self) -> Option<tls::acme::Challenge> {
        let has_plain = check::has_plain(&self.listen);
        self.tls.acme.as_ref().map(|acme| acme.way(has_plain))
    }

    /// The whole configuration as TOML that [`Config::load`] reads again.
    pub fn print(&self, detail: Detail) -> String {
        print::print(&Self::DESCRIPTION, &self.write_table(), detail)
    }
}

/// More than this is no configuration, in bytes.
const LONGEST: u64 = 1 << 20;

/// What the file says. Whoever starts the program may hand it a pipe, and is waited for.
fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    match File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)? as u64 {
        length if length > LONGEST => Err(io::Error::other(format!("it has more than {LONGEST} bytes"))),
        _ => Ok(text),
    }
}

/// What holds when the file says nothing: cache.nixos.org for this machine alone.
pub mod defaults {
    use crate::edge;
    use crate::upstream;

    /// The cache of nixpkgs and its key.
    pub const CACHE_NIXOS_ORG: (&str, &str) =
        ("https://cache.nixos.org", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=");

    /// TLS for HTTP/2, and plain HTTP for what cannot be told about a CA, both on loopback.
    pub fn listeners() -> Vec<edge::Listen> {
        tables(&["address = '127.0.0.1:5443'", "address = '127.0.0.1:5080'\ntls = false"])
    }

    /// cache.nixos.org.
    pub fn upstreams() -> Vec<upstream::Options> {
        let (url, key) = CACHE_NIXOS_ORG;
        tables(&[&format!("url = '{url}'\npublic_keys = ['{key}']")])
    }

    #[allow(clippy::expect_used)] // the texts above are literals, and every test that loads a Config reads them
    fn tables<T: crate::options::Table>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| T::from_toml(text).expect("the defaults are of the accepted form")).collect()
    }
}

#[cfg(test)]
mod tests;
