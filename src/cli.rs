//! The command line: what to do, and with which configuration.
//!
//! Everything but the flags of a quick start is in the configuration file. Results go to stdout, what is wrong to
//! stderr; wrong arguments and wrong configurations both end with [`EX_USAGE`].
//!
//! Secrets are never among the arguments, which every user of the machine can read: keys come from files and from stdin
//! (R4).
//!
//! Out of scope: serving (see `app`).

mod keys;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::access::NewToken;
use crate::config::{Config, Detail, Environment, Flags, Origin};
use crate::options::Mistakes;

/// The exit status when what was asked for cannot be done as it was asked (`sysexits.h`).
pub const EX_USAGE: u8 = 64;

/// The exit status of `healthcheck` for everything but readiness. Container engines know this one and 0 only.
pub const EX_UNHEALTHY: u8 = 1;

/// The exit status of commands that ask the running server, when it could not be asked.
pub const EX_NOT_DONE: u8 = 2;

/// What to do with a token that was made.
const TOKEN_HINT: &str = "The first line goes into a file of token_files here, the second into the netrc file of the client, \
                          with the name of this cache for CACHE. The token is not told again.\n";

/// What the server is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Store paths, or the 32 characters of their hashes.
    pub paths: Vec<String>,
    /// A file with more of them, one in each line; `-` is stdin.
    pub file: Option<PathBuf>,
    /// Without what they refer to.
    pub alone: bool,
}

/// What is left to do once the command line was understood.
#[derive(Debug)]
pub enum Next {
    /// Serve with this configuration, which came from there.
    Serve(Box<Config>, Box<Origin>),
    /// Examine what is kept under this configuration, with the report into this file, or to stdout.
    Verify(Box<Config>, Option<PathBuf>),
    /// Take over what lies in these directories into the store of this configuration.
    Import(Box<Config>, Vec<PathBuf>),
    /// Tell how the certificates of the server with this configuration stand, as JSON if asked so.
    Certificates(Box<Config>, bool),
    /// Ask the server at this [admin] address whether it is ready.
    Healthcheck(SocketAddr),
    /// Write this into the directory as a binary cache.
    Export(Box<Config>, PathBuf, Wish),
    /// Have the server at this [admin] address fetch this.
    Warm(SocketAddr, Wish),
    /// Have the server at this [admin] address fetch this, and keep it through eviction.
    Pin(SocketAddr, Wish),
    /// Have it let this go.
    Unpin(SocketAddr, Wish),
    /// Tell what is pinned at the server at this [admin] address, as JSON if asked so.
    Pins(SocketAddr, bool),
    /// Tell how the server at this [admin] address stands, as JSON if asked so.
    Status(SocketAddr, bool),
    /// The same again and again, so often.
    Top(SocketAddr, Duration),
    /// All is said; exit with this status.
    Exit(u8),
}

/// Understands the arguments (the first is the program's name) and does what needs no server.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<Next> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Help and version come as errors too; they are what was asked for.
        Err(told) if told.use_stderr() => return say(err, &told.render().to_string(), EX_USAGE),
        Err(told) => return say(out, &told.render().to_string(), 0),
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(source) => {
            let origin = source.origin(environment);
            match origin.load() {
                Ok(config) => Ok(Next::Serve(Box::new(config), Box::new(origin))),
                Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
            }
        }
        Command::PrintConfig { source, docs } => match source.origin(environment).load() {
            Ok(config) => say(out, &config.print(if docs { Detail::Documented } else { Detail::Values }), 0),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Verify { source, json } => match source.origin(environment).load() {
            Ok(config) => Ok(Next::Verify(Box::new(config), json)),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Import { source, dirs } => match source.origin(environment).load() {
            Ok(config) => Ok(Next::Import(Box::new(config), dirs)),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Export { source, to, list, no_closure, paths } => match source.origin(environment).load() {
            Ok(config) => Ok(Next::Export(Box::new(config), to, Wish { paths, file: list, alone: no_closure })),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Certificates { source, json } => match source.origin(environment).load() {
            Ok(config) => Ok(Next::Certificates(Box::new(config), json)),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Healthcheck { config } => match admin_address(config.as_deref()) {
            Ok(address) => Ok(Next::Healthcheck(address)),
            Err(why) => say(err, &format!("{why}\n"), EX_UNHEALTHY),
        },
        Command::Warm { config, from, no_closure, paths } => match admin_address(config.as_deref()) {
            Ok(address) => Ok(Next::Warm(address, Wish { paths, file: from, alone: no_closure })),
            Err(why) => say(err, &format!("{why}\n"), EX_NOT_DONE),
        },
        Command::Pin { config, list, json, from, no_closure, paths } => match admin_address(config.as_deref()) {
            Ok(address) if list => Ok(Next::Pins(address, json)),
            Ok(address) => Ok(Next::Pin(address, Wish { paths, file: from, alone: no_closure })),
            Err(why) => say(err, &format!("{why}\n"), EX_NOT_DONE),
        },
        Command::Unpin { config, from, paths } => match admin_address(config.as_deref()) {
            Ok(address) => Ok(Next::Unpin(address, Wish { paths, file: from, alone: true })),
            Err(why) => say(err, &format!("{why}\n"), EX_NOT_DONE),
        },
        Command::Status { config, json } => match admin_address(config.as_deref()) {
            Ok(address) => Ok(Next::Status(address, json)),
            Err(why) => say(err, &format!("{why}\n"), EX_NOT_DONE),
        },
        Command::Top { config, interval } => match admin_address(config.as_deref()) {
            Ok(address) => Ok(Next::Top(address, interval.0)),
            Err(why) => say(err, &format!("{why}\n"), EX_NOT_DONE),
        },
        Command::CheckConfig { file } => match check(file.path(), environment) {
            Ok(()) => say(out, &format!("{}: ok\n", file.path().display()), 0),
            Err(mistakes) => say(err, &format!("{mistakes}\n"), EX_USAGE),
        },
        Command::Keygen { name, output } => match keys::generate(&name, output.as_deref()) {
            Ok(made) => {
                say(err, &made.hint, 0)?;
                say(out, &made.text, 0)
            }
            Err(why) => say(err, &format!("{why}\n"), EX_USAGE),
        },
        Command::Token { name } => match NewToken::generate(&name) {
            Ok(token) => {
                say(err, TOKEN_HINT, 0)?;
                say(out, &Zeroizing::new(format!("{}\n{}\n", token.line(), *token.netrc("CACHE"))), 0)
            }
            Err(why) => say(err, &format!("{why}\n"), EX_USAGE),
        },
        Command::PublicKey { file } => match keys::public(&file) {
            Ok(key) => say(out, &format!("{key}\n"), 0),
            Err(why) => say(err, &format!("{why}\n"), EX_USAGE),
        },
    }
}

fn check(file: &Path, environment: &Environment) -> Result<(), Mistakes> {
    Config::load(Some(file), &Flags::default(), environment).map(|_| ())
}

/// Where the server with this file listens for operators.
fn admin_address(file: Option<&Path>) -> Result<SocketAddr, String> {
    let admin = Config::load_admin(file).map_err(|mistakes| mistakes.to_string())?;
    let name = file.map_or("without --config".into(), |file| file.display().to_string());
    admin.to_ask().map_err(|why| format!("{name}: {why}"))
}

fn say(to: &mut dyn Write, text: &str, status: u8) -> std::io::Result<Next> {
    to.write_all(text.as_bytes())?;
    to.flush()?;
    Ok(Next::Exit(status))
}

/// Pull-through mirror and TLS front for Nix binary caches.
///
/// Without a file and without flags it mirrors https://cache.nixos.org for this machine, over HTTPS with a certificate
/// of its own and over plain HTTP, and prints the lines to paste into nix.conf.
#[derive(Debug, Parser)]
#[command(name = "snowbank", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Source,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; what is done when no command is given
    Serve(Source),
    /// Tell every mistake of a configuration file
    ///
    /// Prints `FILE: ok`, or one line for each mistake and exits with status 64, as `serve` would.
    CheckConfig {
        #[command(flatten)]
        file: File,
    },
    /// Print the whole configuration, with defaults filled in
    PrintConfig {
        #[command(flatten)]
        source: Source,
        /// Put its documentation above each option
        #[arg(long)]
        docs: bool,
    },
    /// Examine everything that is kept
    ///
    /// Each narinfo is checked again, each NAR read, unpacked and held against what its narinfo says. Asks the server that
    /// has the store, if one runs and has an [admin] address. What is wrong is dropped, so that it is fetched again when
    /// it is asked for. Prints a report as JSON. Exits with 0 when nothing was wrong, 1 when something was, 2 when it could
    /// not be done.
    Verify {
        #[command(flatten)]
        source: Source,
        /// A file for the report, instead of stdout
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Take over what another program kept
    ///
    /// The directory is one that nginx wrote (`proxy_cache_path`, or the root of `proxy_store`), or a binary cache as `nix copy`
    /// writes it. What lies there is checked as if the upstreams of the configuration had sent it; they are not asked. The server
    /// must not run, or must have another store. Run it as the user of the server. Exits with 0 when everything that has a
    /// narinfo there is here now, 1 when something of it is not, 2 when it could not be done.
    Import {
        #[command(flatten)]
        source: Source,
        /// Where it lies
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Write paths as a binary cache into a directory
    ///
    /// Each path with everything that it refers to, from the store or else from the upstreams: a cache on a stick, which an upstream
    /// `file:///DIR`, `nix copy --from` or any server of files gives out. What no key signed is left out. The server must not run
    /// on this store (see --dir, and --upstream to export from a server that runs). Exits with 0 when everything is there, 1 when
    /// something is not, 2 when it could not be done.
    Export {
        #[command(flatten)]
        source: Source,
        /// The directory; made if it is not there
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// A file with more paths, one in each line; `-` is stdin
        #[arg(long = "from", value_name = "FILE")]
        list: Option<PathBuf>,
        /// Only the paths themselves
        #[arg(long)]
        no_closure: bool,
        /// Store paths, or the 32 characters of their hashes
        #[arg(value_name = "PATH", required_unless_present = "list")]
        paths: Vec<String>,
    },
    /// Tell how the certificates of the running server stand
    ///
    /// Asks it at its [admin] address: names, issuer, end, next renewal, and what went wrong last. Exits with 2 when it
    /// cannot be asked.
    Certificates {
        #[command(flatten)]
        source: Source,
        /// Print what the server says, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running server whether it is ready
    ///
    /// Asks it at its [admin] address, which is all that is read of the configuration. Exits with 0 when it is ready, and with
    /// 1 when it is stopping, does not answer within 3 seconds, or cannot be asked. For containers, whose image has no
    /// other program that could ask.
    Healthcheck {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Have the running server fetch paths before a client asks
    ///
    /// Each path with everything that it refers to: what a machine needs that installs it. Asks the server at its [admin] address,
    /// which is all that is read of the configuration, and shows how far it is; interrupted, the server stops too, and what came
    /// stays. Exits with 0 when everything is there, 1 when something is not, 2 when it could not be done.
    Warm {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A file with more paths, one in each line; `-` is stdin
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Only the paths themselves
        #[arg(long)]
        no_closure: bool,
        /// Store paths, or the 32 characters of their hashes
        #[arg(value_name = "PATH", required_unless_present = "from")]
        paths: Vec<String>,
    },
    /// Have the running server keep paths through eviction
    ///
    /// Each path with everything that it refers to is fetched, as by `warm`, and stays on the disk of the store from then on, over
    /// restarts too, whatever else is asked for; up to half of store.disk. What is lost of it is fetched again. It is served only as
    /// long as it is trusted. Asks the server at its [admin] address, which is all that is read of the configuration. Exits with
    /// 0 when everything is there and pinned, 1 when something is not there and nothing is pinned, 2 when it could not be done.
    Pin {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Tell what is pinned, instead
        #[arg(long, conflicts_with_all = ["from", "no_closure", "paths"])]
        list: bool,
        /// With --list: print what the server says, as JSON
        #[arg(long, requires = "list")]
        json: bool,
        /// A file with more paths, one in each line; `-` is stdin
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Only the paths themselves
        #[arg(long)]
        no_closure: bool,
        /// Store paths, or the 32 characters of their hashes
        #[arg(value_name = "PATH", required_unless_present_any = ["from", "list"])]
        paths: Vec<String>,
    },
    /// Let paths go that were pinned
    ///
    /// What no other pin keeps may be evicted from then on, like everything else. The paths are those that `pin --list` tells. Exits
    /// with 0 when all of them were pinned, 1 when one was not, 2 when it could not be done.
    Unpin {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A file with more paths, one in each line; `-` is stdin
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Store paths, or the 32 characters of their hashes
        #[arg(value_name = "PATH", required_unless_present = "from")]
        paths: Vec<String>,
    },
    /// Tell how the running server stands
    ///
    /// Asks it at its [admin] address, which is all that is read of the configuration: requests, traffic, what is being fetched,
    /// upstreams, store, certificates, and the last warnings. Exits with 2 when it cannot be asked.
    Status {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print what the server says, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the running server stands, again and again
    ///
    /// As `status`, drawn anew after each interval until `q` or Ctrl-C; into a file or a pipe it writes a line for each interval.
    /// A server that stops answering is waited for. Exits with 2 when it cannot be asked at the begin.
    Top {
        /// The configuration file (TOML) of the server
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Seconds from one to the next, from 0.1 to 3600
        #[arg(long, value_name = "SECONDS", default_value = "2")]
        interval: Interval,
    },
    /// Make a secret key to sign with
    ///
    /// Prints it, as `nix key generate-secret` does, or writes it to a file. It goes into `[sign] key_files`, its public
    /// half into `trusted-public-keys` of every client.
    Keygen {
        /// What the key is called, such as cache.example.org-1
        ///
        /// Clients find the key by its name: a key that replaces another one needs a new name, which is what the number
        /// at the end is for.
        name: String,

        /// A file to make for the key, which only its owner can read; prints the public key then
        ///
        /// A file that exists is left as it is.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a token for a client that may see private upstreams
    ///
    /// Prints two lines: its hash, for a file of `token_files` in an [[access]] table, and the line for the netrc file of
    /// the client, with the token itself. The token is told this once; nothing keeps it.
    Token {
        /// Who is to have it, such as ci or alice
        name: String,
    },
    /// Print the public half of a secret key
    ///
    /// Written as it goes into `trusted-public-keys` of nix.conf.
    PublicKey {
        /// The file with the secret key; `-` is stdin
        file: PathBuf,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Source {
    /// The configuration file (TOML)
    ///
    /// Needed for everything that has no flag here. `snowbank print-config --docs` prints one to start from.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A cache to mirror; replaces those of the file
    ///
    /// With keys, as they stand in `trusted-public-keys` of nix.conf, only what they signed is served. Without, what
    /// the cache has is served as it came, never signed here, and Nix judges it by its own keys; except that the key of
    /// https://cache.nixos.org is known. May be repeated; the
    /// caches are asked in the order in which they are given.
    #[arg(long, value_name = "URL[,KEY]")]
    upstream: Vec<String>,

    /// Where to serve; replaces the listeners of the file
    ///
    /// `https://127.0.0.1:5443` speaks TLS, `http://127.0.0.1:5080` does not, `unix:/run/snowbank/http.sock` is a
    /// socket for a proxy on this machine. Port 0 takes a free one, which is told at start. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Where to keep the cache and the certificate
    ///
    /// By default what the file says, else the state directory that systemd gives, else /var/lib/snowbank for root and
    /// ~/.local/state/snowbank for anybody else.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Source {
    fn origin(self, environment: &Environment) -> Origin {
        let flags = Flags { upstream: self.upstream, listen: self.listen, dir: self.dir };
        Origin { file: self.config, flags, environment: environment.clone() }
    }
}

/// Seconds between two looks.
#[derive(Debug, Clone, Copy)]
struct Interval(Duration);

impl FromStr for Interval {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs_f64(seconds))).ok_or("seconds, from 0.1 to 3600")
    }
}

/// A file, with or without the flag that the other commands have.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct File {
    /// The configuration file (TOML)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// The same
    #[arg(long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    /// The file; clap has seen to it that one is given.
    fn path(&self) -> &Path {
        self.file.as_deref().or(self.config.as_deref()).unwrap_or(Path::new(""))
    }
}

#[cfg(test)]
mod tests;
