//! What one table alone cannot show: the checks that look at several, or at files.
//!
//! Each room checks its own table (`Options::check`); a mistake is told at the key that has to be changed. A check that
//! tells it at one key because of another one does not run when that one was refused: it would see a default.

mod access;
pub(super) mod sockets;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Config;
use super::flags::Places;
use crate::edge::{Listen, ListenAddress};
use crate::options::Mistakes;
use crate::upstream::LIBRARY;

/// Checks everything that needs no look at the machine.
pub(super) fn across_tables(config: &Config, places: &Places, mistakes: &mut Mistakes) {
    for (n, upstream) in config.upstream.iter().enumerate() {
        upstream.check(&format!("{}[{n}]", places.upstream), mistakes);
    }
    for (n, listen) in config.listen.iter().enumerate() {
        listen.check(&format!("{}[{n}]", places.listen), mistakes);
    }
    config.cache.check(&format!("{}cache", places.file), mistakes);
    config.sign.check(&format!("{}sign", places.file), mistakes);
    config.tls.check(&format!("{}tls", places.file), has_plain(&config.listen), mistakes);
    config.limits.check(&format!("{}limits", places.file), mistakes);
    config.store.check(&format!("{}store", places.file), mistakes);
    // The listeners by which others are judged.
    let served = if mistakes.is_about(&places.listen) { &[] } else { config.listen.as_slice() };
    listeners(config, served, places, mistakes);
    names_for_tls(config, served, places, mistakes);
    upstreams(config, served, places, mistakes);
    access::check(config, places, mistakes);
    library(config, places, mistakes);
}

fn library(config: &Config, places: &Places, mistakes: &mut Mistakes) {
    let Some(library) = &config.library else { return };
    let keys = config.public_keys().len() + config.sign.key_files.len();
    library.check(&format!("{}library", places.file), keys, mistakes);
    for (n, upstream) in config.upstream.iter().enumerate() {
        if upstream.display_name() == LIBRARY {
            let accepted = "another name, because the library has this one";
            mistakes.refuse(&format!("{}[{n}].name", places.upstream), &format!("{LIBRARY:?}"), accepted);
        }
    }
}

/// Checks every file that is named, the way it is loaded for serving.
pub(super) fn files(config: &Config, places: &Places, mistakes: &mut Mistakes) {
    let at = |key: &str| format!("{}{key}", places.file);
    let mut named = Vec::new();
    if let Some(acme) = &config.tls.acme {
        let files = [("ca_file", &acme.ca_file), ("dns_hook", &acme.dns_hook), ("eab_key_file", &acme.eab_key_file)];
        named.extend(files.map(|(key, path)| (at(&format!("tls.acme.{key}")), path)));
    }
    if let Some(library) = &config.library {
        named.push((at("library.ca_file"), &library.ca_file));
    }
    for (n, upstream) in config.upstream.iter().enumerate() {
        named.push((format!("{}[{n}].ca_file", places.upstream), &upstream.ca_file));
    }
    for (key, path) in named {
        if let Some(path) = path
            && let Err(why) = readable(path)
        {
            mistakes.refuse(
                &key,
                &format!("{:?}", path.display().to_string()),
                &format!("a file that can be read; {why}"),
            );
        }
    }
    config.tls.check_files(&at("tls"), mistakes);
    if let Some(Err(why)) =
        config.tls.acme.as_ref().and_then(|acme| acme.ca_file.as_deref()).map(crate::tls::check_ca_file)
    {
        mistakes.say(&at("tls.acme.ca_file"), &why);
    }
    config.sign.check_files(&at("sign"), mistakes);
    if let Some(library) = &config.library {
        if let Some(Err(why)) = library.ca_file.as_deref().map(crate::tls::check_ca_file) {
            mistakes.say(&at("library.ca_file"), &why);
        }
        library.check_files(&at("library"), mistakes);
    }
    for (n, access) in config.access.iter().enumerate() {
        access.check_files(&format!("{}[{n}]", at("access")), mistakes);
    }
    for (n, listen) in config.listen.iter().enumerate() {
        listen.check_files(&format!("{}[{n}]", places.listen), mistakes);
    }
    for (n, upstream) in config.upstream.iter().enumerate() {
        if let Some(Err(why)) = upstream.ca_file.as_deref().map(crate::tls::check_ca_file) {
            mistakes.say(&format!("{}[{n}].ca_file", places.upstream), &why);
        }
        upstream.check_files(&format!("{}[{n}]", places.upstream), mistakes);
    }
}

fn readable(path: &Path) -> Result<(), String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.is_dir() { Err("this is a directory".to_owned()) } else { Ok(()) }
}

fn listeners(config: &Config, served: &[Listen], places: &Places, mistakes: &mut Mistakes) {
    if config.listen.is_empty() {
        mistakes.missing(&places.listen, "at least one listener");
    }
    let mut taken: HashMap<String, String> = HashMap::new();
    let listeners = config.listen.iter().enumerate().map(|(n, listener)| {
        let any_port = matches!(listener.address, ListenAddress::Tcp(address) if address.port() == 0);
        (format!("{}[{n}].address", places.listen), (!any_port).then(|| listener.address.to_string()))
    });
    let admin = (format!("{}admin.address", places.file), config.admin.address.as_ref().map(ToString::to_string));
    let admin = (!served.is_empty()).then_some(admin);
    for (key, address) in listeners.chain(admin) {
        let Some(address) = address else { continue };
        match taken.get(&address) {
            Some(first) => mistakes.refuse(
                &key,
                &format!("{address:?}"),
                &format!("an address other than that of {}", places.mentioned(first)),
            ),
            None => _ = taken.insert(address, key),
        }
    }
}

/// Whether a TCP listener has no TLS, so that it can answer http-01.
pub(super) fn has_plain(listen: &[Listen]) -> bool {
    // One that is given to us is taken to be one: what it is, the file does not say.
    let is_tcp = |address: &ListenAddress| !matches!(address, ListenAddress::Unix(_));
    listen.iter().any(|listener| !listener.tls && is_tcp(&listener.address))
}

/// A certificate that is made here is for this machine alone unless `tls.names` says what others call it.
fn names_for_tls(config: &Config, served: &[Listen], places: &Places, mistakes: &mut Mistakes) {
    if config.tls.are_given() || !config.tls.names.is_empty() {
        return;
    }
    if mistakes.is_about(&format!("{}tls.cert_file", places.file)) {
        return;
    }
    let outward = |address: &ListenAddress| match address {
        ListenAddress::Tcp(address) => !address.ip().is_loopback(),
        ListenAddress::Unix(_) => false,
        ListenAddress::Inherited(_) => true,
    };
    if let Some(n) = served.iter().position(|listener| listener.tls && outward(&listener.address)) {
        let accepted = format!(
            "the names or IP addresses that clients use, because {}[{n}] = \"{}\" {verb} other machines over TLS",
            places.mentioned(&places.listen),
            served[n].address,
            verb = if matches!(served[n].address, ListenAddress::Inherited(_)) { "may serve" } else { "serves" },
        );
        mistakes.missing(&format!("{}tls.names", places.file), &accepted);
    }
}

fn upstreams(config: &Config, served: &[Listen], places: &Places, mistakes: &mut Mistakes) {
    if config.upstream.is_empty() {
        mistakes.missing(&places.upstream, "at least one upstream");
    }
    let mut named: HashMap<String, usize> = HashMap::new();
    for (n, upstream) in config.upstream.iter().enumerate() {
        let key = |field: &str| format!("{}[{n}].{field}", places.upstream);
        let name = upstream.display_name();
        match named.get(&name) {
            Some(first) => {
                let accepted = format!("a name that is not that of {}[{first}]", places.mentioned(&places.upstream));
                mistakes.refuse(&key("name"), &format!("{name:?}"), &accepted);
            }
            None => _ = named.insert(name, n),
        }
        if let Some(listener) = own_listener(served, upstream.url.host(), upstream.url.port()) {
            let accepted = format!("another server; this is {}[{listener}] itself", places.mentioned(&places.listen));
            mistakes.refuse(&key("url"), &format!("\"{}\"", upstream.url), &accepted);
        }
    }
}

/// The listener behind `host` and `port`, as far as can be told without asking for names: a server that is its own
/// upstream would ask itself until it falls over.
fn own_listener(served: &[Listen], host: &str, port: u16) -> Option<usize> {
    let ip = if host == "localhost" { IpAddr::from([127, 0, 0, 1]) } else { host.parse().ok()? };
    let reaches = |listening: SocketAddr| {
        let same = listening.ip() == ip || (listening.ip().is_unspecified() && ip.is_loopback());
        port == listening.port() && same
    };
    served.iter().position(|listener| matches!(listener.address, ListenAddress::Tcp(address) if reaches(address)))
}
