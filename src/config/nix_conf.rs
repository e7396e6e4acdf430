//! What to paste into a client's nix.conf.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{Config, defaults};
use crate::edge::{BoundAddress, ListenAddress};
use crate::nix::signature::PublicKey;
use crate::tls::Name;
use crate::upstream::{Options as Upstream, Trust};

/// The lines that make Nix on this machine (or on others, where a listener is open to them) use this server, with
/// comments on what they do. `ca_file` holds the certificates a client has to trust; `None` where the certificate is
/// one that clients trust anyway. `own_keys` are the public halves of the keys that this server signs with.
///
/// The lines are for nix.conf as they are; whatever is not a setting is a comment there.
pub fn nix_conf_lines(
    config: &Config,
    bound: &[BoundAddress],
    ca_file: Option<&Path>,
    own_keys: &[PublicKey],
) -> String {
    let address = |tls| bound.iter().filter(|b| b.tls == tls && !b.redirects).find_map(|b| client_url(config, b));
    let (encrypted, plain) = (address(true), address(false));
    let Some(url) = encrypted.as_deref().or(plain.as_deref()) else {
        return "# Nix cannot use a unix socket: it needs an HTTP server or a TCP listener in front of this one.\n"
            .to_owned();
    };
    let ca_file = ca_file.filter(|_| encrypted.is_some());
    let keys = public_keys(config, own_keys);
    let mut text = String::from("# In /etc/nix/nix.conf of each client; restart nix-daemon afterwards:\n");
    settings(&mut text, url, &keys, ca_file);
    let signed_here = |upstream: &Upstream| upstream.trust == Trust::Origin && !own_keys.is_empty();
    for upstream in config.upstream.iter().filter(|u| u.public_keys.is_empty() && !signed_here(u)) {
        unsigned(&mut text, url, upstream);
    }
    trial(&mut text, plain.as_deref().unwrap_or(url), &keys, ca_file.filter(|_| plain.is_none()));
    text
}

/// The three settings. Where cache.nixos.org is not among what is mirrored, they add to what the client has, so that it
/// does not lose the cache and the key it is born with.
fn settings(text: &mut String, url: &str, keys: &[String], ca_file: Option<&Path>) {
    let extra = if keys.iter().any(|key| key == defaults::CACHE_NIXOS_ORG.1) { "" } else { "extra-" };
    let _ = writeln!(text, "{extra}substituters = {url}");
    if !keys.is_empty() {
        let _ = writeln!(text, "{extra}trusted-public-keys = {}", keys.join(" "));
    }
    if let Some(ca_file) = ca_file {
        let ca_file = ca_file.display();
        let _ = writeln!(text, "ssl-cert-file = {ca_file}");
        let _ = writeln!(
            text,
            "# Other machines need a copy of that file. Old Nix (2.8 for one) ignores ssl-cert-file; there, set"
        );
        let _ = writeln!(text, "# NIX_SSL_CERT_FILE={ca_file}");
        let _ = writeln!(text, "# in the environment of nix-daemon, or of Nix itself where it runs without a daemon.");
    }
}

/// Nix demands a signature by a key it trusts, whatever is trusted here (`require-sigs`, on by default).
fn unsigned(text: &mut String, url: &str, upstream: &Upstream) {
    let name = upstream.display_name();
    let _ = writeln!(
        text,
        "# {name} has no public_keys in this configuration: Nix takes from it what is signed by a key in its own"
    );
    let _ = writeln!(
        text,
        "# trusted-public-keys. `{url}?trusted=1` as substituter takes everything, unsigned too, from all upstreams."
    );
}

fn trial(text: &mut String, url: &str, keys: &[String], ca_file: Option<&Path>) {
    let _ = writeln!(text, "# To try it without changing nix.conf, as root or as one of nix.conf's trusted-users:");
    let environment = ca_file.map(|f| format!("NIX_SSL_CERT_FILE={} ", f.display())).unwrap_or_default();
    let trusted =
        if keys.is_empty() { String::new() } else { format!(" --option trusted-public-keys '{}'", keys.join(" ")) };
    let _ = writeln!(text, "#   {environment}nix-build --option substituters {url}{trusted} '<nixpkgs>' -A hello");
    if ca_file.is_some() {
        let _ = writeln!(text, "# (where there is a daemon, it is the daemon that needs NIX_SSL_CERT_FILE)");
    }
    let _ = writeln!(text, "# Other users can only name what is in substituters or trusted-substituters of nix.conf.");
}

/// Every key that signs for some upstream, in the order of the upstreams, and then our own, each once. Ours do not
/// replace the others: what the store had before signing began, and what clients have, is signed by those.
fn public_keys(config: &Config, own_keys: &[PublicKey]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for key in config.upstream.iter().flat_map(|u| &u.public_keys).chain(own_keys).map(ToString::to_string) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The address a client uses: a listener open to all is reached by its first name, or from this machine alone.
/// None for a unix socket.
fn client_url(config: &Config, bound: &BoundAddress) -> Option<String> {
    let ListenAddress::Tcp(address) = bound.address else { return None };
    let ip = address.ip();
    let called = config.tls.names.iter().find(|name| !matches!(name, Name::Wildcard(_)));
    // A certificate of a CA is not for an address of loopback, whoever listens there.
    let by_name = !ip.is_loopback() || (bound.tls && config.tls.are_given());
    let name = called.filter(|_| by_name).map(ToString::to_string);
    let host = match (name, address) {
        (Some(name), _) if name.contains(':') => format!("[{name}]"),
        (Some(name), _) => name,
        (None, SocketAddr::V4(_)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        (None, SocketAddr::V6(_)) if ip.is_unspecified() => "[::1]".to_owned(),
        (None, SocketAddr::V4(_)) => ip.to_string(),
        (None, SocketAddr::V6(_)) => format!("[{ip}]"),
    };
    let (scheme, usual) = if bound.tls { ("https", 443) } else { ("http", 80) };
    let port = address.port();
    Some(if port == usual { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::options::Mistakes;

    const KEY: &str = defaults::CACHE_NIXOS_ORG.1;

    fn lines(config: &str, bound: &[(&str, bool)], ca_file: Option<&str>) -> String {
        lines_with(config, bound, ca_file, &[])
    }

    fn lines_with(config: &str, bound: &[(&str, bool)], ca_file: Option<&str>, own_keys: &[&str]) -> String {
        let mut mistakes = Mistakes::default();
        let root = Environment { root: true, ..Environment::default() };
        let config = Config::read(config, &root, &mut mistakes).ok_or(mistakes).unwrap();
        let bound: Vec<BoundAddress> = bound
            .iter()
            .map(|(address, tls)| BoundAddress { address: address.parse().unwrap(), tls: *tls, redirects: false })
            .collect();
        let own_keys: Vec<PublicKey> = own_keys.iter().map(|key| PublicKey::parse(key).unwrap()).collect();
        nix_conf_lines(&config, &bound, ca_file.map(Path::new), &own_keys)
    }

    /// The settings alone.
    fn set(lines: &str) -> Vec<&str> {
        lines.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn the_defaults_replace_cache_nixos_org() {
        let text = lines("", &[("127.0.0.1:5443", true), ("127.0.0.1:5080", false)], Some("/s/ca-bundle.pem"));
        let expected = format!(
            "# In /etc/nix/nix.conf of each client; restart nix-daemon afterwards:
substituters = https://127.0.0.1:5443
trusted-public-keys = {KEY}
ssl-cert-file = /s/ca-bundle.pem
# Other machines need a copy of that file. Old Nix (2.8 for one) ignores ssl-cert-file; there, set
# NIX_SSL_CERT_FILE=/s/ca-bundle.pem
# in the environment of nix-daemon, or of Nix itself where it runs without a daemon.
# To try it without changing nix.conf, as root or as one of nix.conf's trusted-users:
#   nix-build --option substituters http://127.0.0.1:5080 --option trusted-public-keys '{KEY}' '<nixpkgs>' -A hello
# Other users can only name what is in substituters or trusted-substituters of nix.conf.
"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cache_without_cache_nixos_org_is_added_to_what_the_client_has() {
        let text = lines(
            "[[upstream]]\nurl = 'http://127.0.0.1:5000'\ntrust = 'origin'",
            &[("0.0.0.0:80", false)],
            Some("/not/used"),
        );
        assert_eq!(set(&text), ["extra-substituters = http://127.0.0.1"]);
        assert!(
            text.contains("# 127.0.0.1:5000 has no public_keys") && text.contains("http://127.0.0.1?trusted=1"),
            "{text}"
        );
        assert!(!text.contains("CERT_FILE"), "{text}");
    }

    #[test]
    fn keys_are_listed_once_and_names_are_used() {
        let upstreams = format!(
            "[[upstream]]\nurl = 'http://a'\npublic_keys = ['{KEY}']\n\
             [[upstream]]\nurl = 'http://b'\npublic_keys = ['{KEY}']"
        );
        let text = lines(
            &format!("[tls]\nnames = ['cache.example.org']\n{upstreams}"),
            &[("[::]:443", true)],
            Some("/ca.pem"),
        );
        assert_eq!(
            set(&text),
            [
                "substituters = https://cache.example.org",
                &format!("trusted-public-keys = {KEY}"),
                "ssl-cert-file = /ca.pem"
            ]
        );
        assert!(
            text.contains("#   NIX_SSL_CERT_FILE=/ca.pem nix-build --option substituters https://cache.example.org "),
            "{text}"
        );
    }

    #[test]
    fn our_own_keys_come_after_those_of_the_upstreams() {
        const OURS: &str = "ours-1:JqxkR8cKg7LQutsBfQ9rqTH8tJihhND3XfcjgOKbWSk=";
        let bound = [("127.0.0.1:80", false)];
        let text = lines_with("", &bound, None, &[OURS, KEY]);
        let keys = format!("trusted-public-keys = {KEY} {OURS}");
        assert_eq!(set(&text), ["substituters = http://127.0.0.1", &keys]);
        assert!(text.contains(&format!("--option trusted-public-keys '{KEY} {OURS}' ")), "{text}");

        // What an upstream that is vouched for did not sign, we do.
        let upstream = |trust: &str| format!("[[upstream]]\nurl = 'http://127.0.0.1:5000'\ntrust = '{trust}'");
        let text = lines_with(&upstream("origin"), &bound, None, &[OURS]);
        let keys = format!("extra-trusted-public-keys = {OURS}");
        assert_eq!(set(&text), ["extra-substituters = http://127.0.0.1", &keys]);
        assert!(!text.contains("trusted=1"), "{text}");
        assert!(lines_with(&upstream("pass"), &bound, None, &[OURS]).contains("trusted=1"));
    }

    #[test]
    fn a_trusted_certificate_needs_no_file_and_a_socket_has_no_lines() {
        let text = lines("", &[("[::1]:5443", true)], None);
        assert_eq!(set(&text), ["substituters = https://[::1]:5443", &format!("trusted-public-keys = {KEY}")]);
        assert_eq!(set(&lines("", &[("unix:/run/s", false)], None)), Vec::<&str>::new());
    }
}
