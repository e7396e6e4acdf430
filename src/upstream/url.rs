//! The address of an upstream.

mod bucket;

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

pub use bucket::BucketName;

use crate::options::{Mistakes, Value};

/// An address of one of three kinds: an `http` or `https` address, perhaps with a port and a path under which the cache lies,
/// a bucket (`s3`), or a directory (`file`).
///
/// Nothing else is in it: a user and password would end up in logs, and Nix's own parameters (`?priority=`) are for the
/// client and mean nothing to a server. Those of a bucket say where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// As it is written out again.
    written: String,
    /// What is asked: of a bucket its address over HTTP. Without a `/` at the end.
    at: url::Url,
    place: Place,
}

/// What is at the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A binary cache that speaks HTTP.
    Http,
    /// A bucket that speaks the protocol of S3.
    Bucket(BucketName),
    /// A directory of this machine.
    Directory(PathBuf),
}

impl UpstreamUrl {
    /// The address with a `/` at its end, against which relative references resolve.
    pub fn base(&self) -> url::Url {
        let mut base = self.at.clone();
        base.set_path(&format!("{}/", self.prefix()));
        base
    }

    /// What is there.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it is a binary cache over HTTP, which nothing can be written into.
    pub fn is_http(&self) -> bool {
        self.place == Place::Http
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.at.scheme() == "https"
    }

    /// Whether it is a binary cache over HTTP without TLS, which nix-serve may be behind.
    pub fn is_plain_http(&self) -> bool {
        self.place == Place::Http && !self.is_https()
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without brackets. Empty for a directory.
    pub fn host(&self) -> &str {
        self.at.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, whether written or implied by the scheme.
    pub fn port(&self) -> u16 {
        self.at.port_or_known_default().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// The path under which the cache lies: empty, or `/` and segments, without a `/` at the end.
    pub fn prefix(&self) -> &str {
        self.at.path().trim_end_matches('/')
    }

    /// What it is called unless configured: `host`, or `host:port` where the port is not the usual one; the name of a bucket;
    /// the path of a directory.
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Http => {
                self.at.port().map_or_else(|| self.host().to_owned(), |port| format!("{}:{port}", self.host()))
            }
            Place::Bucket(bucket) => bucket.name.clone(),
            Place::Directory(path) => path.display().to_string(),
        }
    }
}

impl std::str::FromStr for UpstreamUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        // The parser mends what browsers mend, dropping blanks and turning backslashes; here a slip is told instead.
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
            return Err("an address without blanks, control characters and backslashes; in `file` a blank is `%20`");
        }
        let mut url = url::Url::parse(text).map_err(|_| ACCEPTED)?;
        match url.scheme() {
            "s3" => return bucket::parse(&url),
            "file" => return directory(&url),
            "http" | "https" if url.has_host() => {}
            _ => return Err(ACCEPTED),
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
        Ok(Self { written: url.as_str().trim_end_matches('/').to_owned(), at: url, place: Place::Http })
    }
}

/// `file:///dir`, percent-encoded where it must be.
fn directory(url: &url::Url) -> Result<UpstreamUrl, &'static str> {
    const ACCEPTED: &str = "the directory of a cache such as \"file:///mnt/cache\", with three slashes";
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a directory without parameters; `?` and `#` in its name are `%3F` and `%23`");
    }
    let path = url.to_file_path().map_err(|()| ACCEPTED)?;
    // The path is in logs.
    if url.host().is_some() || path.as_os_str().as_bytes().iter().any(u8::is_ascii_control) {
        return Err(ACCEPTED);
    }
    let mut at = url.clone();
    at.set_path(url.path().trim_end_matches('/'));
    let path = path.components().collect(); // without a `/` at its end
    Ok(UpstreamUrl { written: at.as_str().to_owned(), at, place: Place::Directory(path) })
}

impl std::fmt::Display for UpstreamUrl {
    /// Without a `/` at the end, as Nix writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written)
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

const ACCEPTED: &str = "an address such as \"https://cache.example.org\" or \"http://127.0.0.1:5000/prefix\", a bucket such as \
                        \"s3://bucket?region=eu-west-1\", or a directory such as \"file:///mnt/cache\"";

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
            "file://nix",
            "file:nix?a",
            "file:///nix?priority=1",
            "file:///nix%00",
            "file:///nix%0ainfo",
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
    fn a_directory_is_percent_decoded_and_its_references_are_below_it() {
        for (text, path, base) in [
            ("file:///mnt/usb", "/mnt/usb", "/mnt/usb/"),
            ("file:///mnt/usb/", "/mnt/usb", "/mnt/usb/"),
            ("file:///mnt/my%20stick%3F", "/mnt/my stick?", "/mnt/my%20stick%3F/"),
            ("file:///", "/", "/"),
        ] {
            let url = url(text);
            assert_eq!(url.place(), &Place::Directory(path.into()), "{text}");
            assert_eq!((url.base().path(), url.authority().as_str(), url.host()), (base, path, ""), "{text}");
            assert_eq!(url.to_string().parse(), Ok(url), "{text}");
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
