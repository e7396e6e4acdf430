//! The address of an upstream.

use crate::options::{Mistakes, Value};

/// An `http` or `https` address, perhaps with a port and a path under which the cache lies.
///
/// Nothing else is in it: a user and password would end up in logs, and Nix's own parameters (`?priority=`) are for the
/// client and mean nothing to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl(url::Url);

impl UpstreamUrl {
    /// The address with a `/` at its end, against which relative references resolve.
    pub fn base(&self) -> url::Url {
        let mut base = self.0.clone();
        base.set_path(&format!("{}/", self.prefix()));
        base
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, whether written or implied by the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The path under which the cache lies: empty, or `/` and segments, without a `/` at the end.
    pub fn prefix(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    /// `host`, or `host:port` where the port is not the usual one.
    pub fn authority(&self) -> String {
        self.0.port().map_or_else(|| self.host().to_owned(), |port| format!("{}:{port}", self.host()))
    }
}

impl std::str::FromStr for UpstreamUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        // The parser mends what browsers mend, dropping blanks and turning backslashes; here a slip is told instead.
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
            return Err("an address without blanks, control characters and backslashes");
        }
        let mut url = url::Url::parse(text).map_err(|_| ACCEPTED)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ACCEPTED);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an address without user and password");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an address without `?` and `#`: Nix's parameters belong into the clients' nix.conf");
        }
        // One spelling, so that equal addresses are equal.
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl std::fmt::Display for UpstreamUrl {
    /// Without a `/` at the end, as Nix writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl Value for UpstreamUrl {
    fn read(found: toml::Value, at: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let Some(text) = found.as_str() else {
            mistakes.refuse(at, &found, ACCEPTED);
            return None;
        };
        text.parse().map_err(|why| mistakes.refuse(at, &toml::Value::String(masked(text)), why)).ok()
    }

    fn write(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }

    fn accepted() -> String {
        ACCEPTED.to_owned()
    }
}

const ACCEPTED: &str = "an address such as \"https://cache.example.org\" or \"http://127.0.0.1:5000/prefix\"";

/// The address without what may be a password or a token: everything between the scheme and the last `@`, and
/// everything after `?`.
pub(super) fn masked(text: &str) -> String {
    let (text, query) = text.split_once('?').map_or((text, ""), |(text, _)| (text, "?***"));
    match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.find("://").map_or("", |end| &before[..end + 3]);
            format!("{scheme}***@{after}{query}")
        }
        None => format!("{text}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> UpstreamUrl {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_taken_apart() {
        let plain = url("http://127.0.0.1:5000/a/b/");
        assert_eq!((plain.is_https(), plain.host(), plain.port(), plain.prefix()), (false, "127.0.0.1", 5000, "/a/b"));
        assert_eq!(plain.to_string(), "http://127.0.0.1:5000/a/b");
        assert_eq!(plain, url("http://127.0.0.1:5000/a/b"));
        assert_eq!(plain.authority(), "127.0.0.1:5000");
        let six = url("https://[::1]:8443");
        assert_eq!((six.is_https(), six.host(), six.port(), six.prefix()), (true, "::1", 8443, ""));
        assert_eq!(url("HTTPS://Cache.Example.org/").to_string(), "https://cache.example.org");
        assert_eq!(url("https://cache.example.org:443").authority(), "cache.example.org");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "a",
            "127.0.0.1:5000",
            "localhost:5000",
            "/nix",
            "file:///nix",
            "s3://bucket",
            "ftp://a",
            "http://",
            "http://a b",
            " http://a",
            "http:\\\\a",
            "http://a/\n",
            "http://a:99999",
            "http://a?priority=1",
            "http://a#b",
            "http://user@a",
            "http://user:word@a",
        ] {
            assert!(text.parse::<UpstreamUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_refused_address_does_not_show_its_password() {
        for text in ["https://user:pass-w0rd@a", "https://user@a?token=w0rd", "ftp://u:pass-w0rd@ws@a", "u:pass-w0rd@a"]
        {
            let mut mistakes = Mistakes::default();
            assert!(UpstreamUrl::read(toml::Value::String(text.to_owned()), "url", &mut mistakes).is_none());
            assert!(!mistakes.to_string().contains("w0rd"), "{mistakes}");
            assert!(mistakes.to_string().contains("***@a"), "{mistakes}");
        }
    }
}
