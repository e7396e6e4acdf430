//! `/` for a browser: what this cache is, and the lines with which Nix uses it.
//!
//! It is made anew for each request, of what everybody may know ([`About`]) and of the address by which the client came ([`Base`]).
//! That address is the client's own word: it is told to nobody else (`no-store`), and only if it is plainly a host, since the lines
//! are for shells and for files of Nix (R21: it chooses nothing).

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use http::Uri;
use http::header::HOST;
use http::uri::Authority;

use super::address::{Entrance, Peer};
use super::respond::Asked;
use crate::page::{Asks, Document, Html};
use crate::proxy::About;

/// The page, with blanks to fill in.
pub static DOCUMENT: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("page.html"), Asks::Nobody));

/// What stands for the address where the request does not tell it.
const UNKNOWN: &str = "https://ADDRESS-OF-THIS-CACHE";

/// How the client calls this cache: scheme, host and perhaps a port; `None` where that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base(Option<String>);

impl Base {
    /// Of a request for this target.
    pub fn of(target: &Uri, peer: &Peer, asked: Asked<'_>) -> Self {
        let told = peer.forwarded.then(|| peer.listener.forwarded.scheme(asked.headers)).flatten();
        let scheme = told.unwrap_or(if peer.entrance == Entrance::Tls { "https" } else { "http" });
        // RFC 9112 section 3.2.2: what the target says goes before Host.
        let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = target.authority().map(Authority::as_str).or(host);
        Self(authority.and_then(plain).map(|authority| format!("{scheme}://{authority}")))
    }

    fn is_https(&self) -> bool {
        self.0.as_ref().is_none_or(|base| base.starts_with("https:"))
    }
}

/// A name or an address, in lower case, and perhaps a port, without a character that means anything to a shell, to Nix or to HTML.
/// Much less than RFC 3986 lets be a host, and all that machines are called.
fn plain(authority: &str) -> Option<String> {
    const LONGEST: usize = 253;
    let bracket = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    let colon = authority[bracket..].find(':').map_or(authority.len(), |colon| bracket + colon);
    let (host, port) = authority.split_at(colon);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => (1..=LONGEST).contains(&host.len()) && host.bytes().all(is_name) && !host.starts_with(['-', '.']),
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    let port = match digits {
        "" => String::new(),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => format!(":{}", digits.parse::<u16>().ok()?),
        _ => return None,
    };
    is_host.then(|| host.to_ascii_lowercase() + &port)
}

/// The page.
pub fn render(about: &About, base: &Base) -> String {
    let url = base.0.as_deref().unwrap_or(UNKNOWN);
    let keys: Vec<String> = about.keys.iter().map(ToString::to_string).collect();
    DOCUMENT.filled(|name| match name {
        "url" => Html::text(url),
        "unknown" if base.0.is_none() => Html::literal(
            "<p>How you reach this cache is not known here: put its address in place of \
             <code>ADDRESS-OF-THIS-CACHE</code>.</p>",
        ),
        "nix-conf" => Html::text(&nix_conf(url, &keys)),
        "nixos" => Html::text(&nixos(url, &keys)),
        "command" => Html::text(&command(url, &keys)),
        "keys" => key_list(&keys),
        "left" if about.leaves_to_clients => Html::literal(
            "<p>Some of what is here is passed on as it came, signed by others or not at all. Of that Nix takes what is signed by a \
             key that it trusts already.</p>",
        ),
        "certificate" if base.is_https() => Html::literal(
            "<li>Nix cannot verify the certificate: ask who runs this cache for the file of its certificate authority, and name it in \
             <code>ssl-cert-file</code>.</li>",
        ),
        "store-dir" => Html::text(about.cache.store_dir.as_str()),
        "priority" => Html::text(&about.cache.priority.to_string()),
        _ => Html::default(),
    })
}

/// Lines for nix.conf. They add to what is there, so that Nix keeps the caches and keys that it has.
fn nix_conf(url: &str, keys: &[String]) -> String {
    match keys {
        [] => format!("extra-substituters = {url}"),
        keys => format!("extra-substituters = {url}\nextra-trusted-public-keys = {}", keys.join(" ")),
    }
}

/// Options of NixOS, which merges lists.
fn nixos(url: &str, keys: &[String]) -> String {
    let mut text = format!("nix.settings = {{\n  substituters = [ {} ];\n", nix_string(url));
    if !keys.is_empty() {
        text.push_str("  trusted-public-keys = [\n");
        keys.iter().for_each(|key| text.push_str(&format!("    {}\n", nix_string(key))));
        text.push_str("  ];\n");
    }
    text + "};"
}

/// A command that uses this cache once.
fn command(url: &str, keys: &[String]) -> String {
    let trusting = match keys {
        [] => String::new(),
        keys => format!(" \\\n  --option extra-trusted-public-keys {}", shell_word(&keys.join(" "))),
    };
    format!("nix build nixpkgs#hello \\\n  --option extra-substituters {}{trusting}", shell_word(url))
}

fn nix_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}

/// In quotes unless it needs none.
fn shell_word(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:/+=".contains(&b);
    if text.bytes().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn key_list(keys: &[String]) -> Html {
    if keys.is_empty() {
        return Html::literal("<p>None: Nix judges what is here by the keys that it trusts already.</p>");
    }
    let item = |key: &String| Html::literal("<li><code>").and(&Html::text(key)).and(&Html::literal("</code></li>"));
    let items = keys.iter().map(item).fold(Html::default(), |items, item| items.and(&item));
    Html::literal("<ul class=\"keys\">").and(&items).and(&Html::literal("</ul>"))
}

#[cfg(test)]
mod tests;
