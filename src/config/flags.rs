//! The flags of the command line that stand for options, and the places that messages name.

use std::path::{Path, PathBuf};

use super::{Config, defaults};
use crate::edge::Listen;
use crate::options::{Mistakes, Table};
use crate::upstream;

/// The flags as they were given; those that are empty change nothing.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--upstream`: `URL[,key...]`, instead of the upstreams of the file.
    pub upstream: Vec<String>,
    /// `--listen`: `https://ADDRESS`, `http://ADDRESS` or `unix:PATH`, instead of the listeners of the file.
    pub listen: Vec<String>,
    /// `--dir`, instead of `store.dir`.
    pub dir: Option<PathBuf>,
}

/// The flags as options.
pub(super) struct Read {
    upstream: Vec<upstream::Options>,
    listen: Vec<Listen>,
    dir: Option<PathBuf>,
}

/// What a message calls the tables of a configuration: where the user has to look.
pub(super) struct Places {
    /// In front of `[0].url` and so on.
    pub upstream: String,
    /// In front of `[0].address` and so on.
    pub listen: String,
    /// In front of every other key: the file, or nothing.
    pub file: String,
}

impl Places {
    /// A key as it is mentioned in the message about another one.
    pub fn mentioned<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.file).unwrap_or(key)
    }
}

impl Flags {
    /// Reads every flag.
    pub(super) fn read(&self, mistakes: &mut Mistakes) -> Read {
        let upstream = self.upstream.iter().enumerate().filter_map(|(n, text)| {
            upstream::Options::read_table(upstream_table(text), &format!("--upstream[{n}]"), mistakes)
        });
        let upstream = upstream.collect();
        let listen = self.listen.iter().enumerate().filter_map(|(n, text)| match listen_table(text) {
            Some(table) => Listen::read_table(table, &format!("--listen[{n}]"), mistakes),
            None => {
                mistakes.refuse(&format!("--listen[{n}]"), &format!("{text:?}"), LISTEN);
                None
            }
        });
        let listen = listen.collect();
        Read { upstream, listen, dir: self.dir.clone() }
    }

    /// What messages call the tables, when the rest comes from `file`.
    pub(super) fn places(&self, file: Option<&Path>) -> Places {
        let file = file.map(|path| format!("{}: ", path.display())).unwrap_or_default();
        let place = |flags: &[String], flag: &str, key: &str| {
            if flags.is_empty() { format!("{file}{key}") } else { flag.to_owned() }
        };
        Places {
            upstream: place(&self.upstream, "--upstream", "upstream"),
            listen: place(&self.listen, "--listen", "listen"),
            file,
        }
    }
}

impl Read {
    /// Puts the flags over what the file says.
    pub(super) fn apply(self, config: &mut Config) {
        if !self.upstream.is_empty() {
            config.upstream = self.upstream;
        }
        if !self.listen.is_empty() {
            config.listen = self.listen;
        }
        if self.dir.is_some() {
            config.store.dir = self.dir;
        }
    }
}

/// `URL[,key...]` as the table that would stand in a file.
///
/// With keys, they decide what is trusted. cache.nixos.org brings its own. Any other upstream is passed on as it comes:
/// nothing was said about whom to trust, and clients check signatures anyway.
fn upstream_table(text: &str) -> toml::Table {
    let mut parts = text.split(',');
    let url = parts.next().unwrap_or_default();
    let mut keys: Vec<toml::Value> = parts.map(|key| key.trim().into()).collect();
    let (known, known_key) = defaults::CACHE_NIXOS_ORG;
    if keys.is_empty() && url.trim_end_matches('/') == known {
        keys.push(known_key.into());
    }
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), url.into());
    if keys.is_empty() {
        table.insert("trust".to_owned(), upstream::options::Trust::Pass.to_string().into());
    } else {
        table.insert("public_keys".to_owned(), keys.into());
    }
    table
}

/// The accepted forms of `--listen`.
const LISTEN: &str =
    "an address such as \"https://127.0.0.1:5443\", \"http://[::1]:0\" or \"unix:/run/snowbank/http.sock\"";

/// A `--listen` as the table that would stand in a file; whether the address itself is one, its reader says.
fn listen_table(text: &str) -> Option<toml::Table> {
    let (address, tls) = match text.split_once("://") {
        Some(("https", address)) => (address, true),
        Some(("http", address)) => (address, false),
        None if text.starts_with("unix:") => (text, false),
        _ => return None,
    };
    let mut table = toml::Table::new();
    table.insert("address".to_owned(), address.trim_end_matches('/').into());
    table.insert("tls".to_owned(), tls.into());
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::options::Trust;

    const KEY: &str = defaults::CACHE_NIXOS_ORG.1;

    fn read(flags: &Flags) -> Result<Read, String> {
        let mut mistakes = Mistakes::default();
        let read = flags.read(&mut mistakes);
        if mistakes.is_empty() { Ok(read) } else { Err(mistakes.to_string()) }
    }

    fn upstream(text: &str) -> Result<(Trust, Vec<String>), String> {
        let read = read(&Flags { upstream: vec![text.to_owned()], ..Flags::default() })?;
        let upstream = &read.upstream[0];
        Ok((upstream.trust, upstream.public_keys.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn an_upstream_is_trusted_as_far_as_its_keys_go() {
        let key = || vec![KEY.to_owned()];
        assert_eq!(upstream(&format!("http://a,{KEY}")), Ok((Trust::Keys, key())));
        assert_eq!(upstream(&format!("http://a,{KEY}, {KEY}")), Ok((Trust::Keys, [key(), key()].concat())));
        assert_eq!(upstream("https://cache.nixos.org/"), Ok((Trust::Keys, key())));
        assert_eq!(upstream("https://cache.nixos.org.evil.example"), Ok((Trust::Pass, vec![])));
        assert_eq!(upstream("http://a"), Ok((Trust::Pass, vec![])));
    }

    #[test]
    fn every_wrong_flag_is_told() {
        let flags = Flags {
            upstream: vec!["http://a".into(), "a".into(), "http://a,key".into()],
            listen: vec!["127.0.0.1:1".into(), "http://localhost:80".into(), "unix:/s".into(), "ftp://[::1]:1".into()],
            dir: None,
        };
        let mistakes = read(&flags).err().unwrap();
        let starts: Vec<&str> = mistakes.lines().map(|line| line.split(": expected").next().unwrap()).collect();
        assert_eq!(
            starts,
            [
                "--upstream[1].url = \"a\"",
                "--upstream[2].public_keys[0] = \"key\"",
                "--listen[0] = \"127.0.0.1:1\"",
                "--listen[1].address = \"localhost:80\"",
                "--listen[3] = \"ftp://[::1]:1\""
            ]
        );
    }

    #[test]
    fn listeners_are_read() {
        let listen = ["https://127.0.0.1:5443", "http://[::1]:0/", "unix:/run/s"].map(str::to_owned).to_vec();
        let read = read(&Flags { listen, ..Flags::default() }).unwrap();
        let shown: Vec<_> = read.listen.iter().map(|l| (l.address.to_string(), l.tls)).collect();
        let expected = [("127.0.0.1:5443", true), ("[::1]:0", false), ("unix:/run/s", false)];
        assert_eq!(shown, expected.map(|(address, tls)| (address.to_owned(), tls)));
    }
}
