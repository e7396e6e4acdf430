//! The `URL` field of a narinfo, checked against the cache that announced it (R14).
//!
//! Nobody signs this field, so it is the one place where an upstream's text could send the program elsewhere. Accepted
//! are a path relative to the cache, an absolute path, and a full URL at the cache's own origin, in a set of characters
//! that every HTTP implementation reads alike. What follows the last `/` is opaque (R12).
//!
//! Out of scope: other hosts that an operator may have allowed, redirects and addresses (the upstream room's).

use url::Url;

use super::excerpt::Excerpt;

/// The longest field, in bytes.
pub const MAX_LEN: usize = 1024;

/// Why a NAR URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Empty or more than [`MAX_LEN`] bytes.
    #[error("expected 1 to {MAX_LEN} bytes, found {0}")]
    Length(usize),
    /// A blank, control character, backslash, percent-escape, fragment, or anything else outside of RFC 3986's path and
    /// query characters.
    #[error("expected the characters of a path and query without percent-escapes, found {0}")]
    Character(Excerpt),
    /// A path with an empty, `.` or `..` segment, or none at all.
    #[error("expected a path without empty, `.` and `..` segments, found {0}")]
    Segment(Excerpt),
    /// A URL with another scheme, host or port than the cache.
    #[error("expected a path or a URL at {origin}, found {found}")]
    Elsewhere {
        /// The cache's origin.
        origin: String,
        /// What was found.
        found: Excerpt,
    },
}

/// Where a NAR is in the cache that announced it: a path with perhaps a query, relative to the cache's base where it lies
/// below it, else beginning with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NarUrl(String);

impl NarUrl {
    /// Checks the field `url_field` of a narinfo that came from the cache at `base`. The query is kept as it is; some
    /// caches cannot find the NAR without it.
    ///
    /// # Errors
    /// When it leads out of the cache's origin or could be read in two ways.
    pub fn parse(url_field: &str, base: &Url) -> Result<Self, Error> {
        if !(1..=MAX_LEN).contains(&url_field.len()) {
            return Err(Error::Length(url_field.len()));
        }
        let reference = match split_scheme(url_field) {
            Some((scheme, rest)) => at_origin(scheme, rest, base).ok_or_else(|| elsewhere(url_field, base))?,
            None if url_field.starts_with("//") => return Err(elsewhere(url_field, base)),
            None => url_field,
        };
        if !reference.bytes().all(is_path_or_query) {
            return Err(Error::Character(Excerpt::of(url_field)));
        }
        let (path, _query) = reference.split_once('?').unwrap_or((reference, ""));
        let segment = |s: &str| !matches!(s, "" | "." | "..");
        if !path.strip_prefix('/').unwrap_or(path).split('/').all(segment) {
            return Err(Error::Segment(Excerpt::of(url_field)));
        }
        Ok(Self(below(base, reference).unwrap_or(reference).to_owned()))
    }

    /// The path and query, relative to the base where they lie below it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path and query to request from the host of `base`, the same that was given to [`parse`](Self::parse).
    pub fn target(&self, base: &Url) -> String {
        if self.0.starts_with('/') { self.0.clone() } else { format!("{}/{}", prefix(base), self.0) }
    }
}

/// The path of the base without a `/` at the end.
fn prefix(base: &Url) -> &str {
    base.path().trim_end_matches('/')
}

/// What remains of an absolute path that lies below the base. Nothing, when the remainder alone would be read as a scheme.
fn below<'a>(base: &Url, reference: &'a str) -> Option<&'a str> {
    let rest = reference.strip_prefix(prefix(base))?.strip_prefix('/')?;
    split_scheme(rest).is_none().then_some(rest)
}

/// Splits off what RFC 3986 section 4.2 takes for a scheme: a colon in the first segment.
fn split_scheme(reference: &str) -> Option<(&str, &str)> {
    reference.split_once(':').filter(|(scheme, _)| !scheme.contains(['/', '?', '#']))
}

/// The path and query of a full URL, if it is at the origin of `base`.
fn at_origin<'a>(scheme: &str, rest: &'a str, base: &Url) -> Option<&'a str> {
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let rest = rest.strip_prefix("//")?;
    let (authority, _) = rest.split_at(rest.find('/')?);
    // No user, no escapes: the parser below must have nothing to interpret.
    let host_byte = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    if !authority.bytes().all(host_byte) {
        return None;
    }
    let origin = Url::parse(&format!("{scheme}://{authority}/")).ok()?.origin();
    (origin == base.origin()).then(|| &rest[authority.len()..])
}

fn elsewhere(url_field: &str, base: &Url) -> Error {
    Error::Elsewhere { origin: base.origin().ascii_serialization(), found: Excerpt::of(url_field) }
}

/// RFC 3986 `pchar`, `/` and `?`, without percent-escapes and without `'`, which URL parsers escape in a query.
fn is_path_or_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&()*+,;=:@/?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(field: &str, base: &str) -> Result<NarUrl, Error> {
        NarUrl::parse(field, &Url::parse(base).unwrap())
    }

    #[test]
    fn names_of_real_caches_are_kept_as_they_are() {
        for field in [
            "nar/0788prnvkcbi70crixxgv413ncidd7m868vkfyl4a5jxpglnkq6g.nar.xz",
            "nar/n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq-1xp1ak4j2v1inlg6chy2gz3zgna6ywykb5whshgn245b2x3zk095.nar",
            "nar/1xp1ak4j2v1inlg6chy2gz3zgna6ywykb5whshgn245b2x3zk095.nar?hash=n7n8ijhh9svnmrjjm01fpwj6p2n9yfvq",
            "nar/6f0a4c2e-3d51-4b9c-8f4e-0a1b2c3d4e5f.nar.zst",
            "nar/snix-castore/CiUKC2JsYWtlMw+/aGFzaA==?narsize=944",
            "nar/upstream/6f0a4c2e/x.nar",
            "nar/sha256:1xp1.nar",
            "x",
            "...",
            "nar/..x",
            "nar/x?y=../z&a=//b",
        ] {
            for (base, prefix) in [
                ("https://cache.example.org", ""),
                ("https://cache.example.org/", ""),
                ("http://127.0.0.1:5000/team/main", "/team/main"),
                ("http://127.0.0.1:5000/team/main/", "/team/main"),
            ] {
                let url = parse(field, base).unwrap();
                assert_eq!(url.as_str(), field);
                assert_eq!(url.target(&Url::parse(base).unwrap()), format!("{prefix}/{field}"));
            }
        }
    }

    #[test]
    fn absolute_paths_and_urls_of_the_same_origin_resolve_against_the_base() {
        for (field, base, as_str, target) in [
            ("/nar/x", "https://c.org", "nar/x", "/nar/x"),
            ("/nar/x", "https://c.org/cache", "/nar/x", "/nar/x"),
            ("/cache/nar/x?y", "https://c.org/cache", "nar/x?y", "/cache/nar/x?y"),
            ("/cache/nar/x", "https://c.org/cache/", "nar/x", "/cache/nar/x"),
            ("/cachex/nar/x", "https://c.org/cache", "/cachex/nar/x", "/cachex/nar/x"),
            ("/cache/a:b", "https://c.org/cache", "/cache/a:b", "/cache/a:b"),
            ("/a:b", "https://c.org", "/a:b", "/a:b"),
            ("https://c.org/nar/x?y=1", "https://c.org", "nar/x?y=1", "/nar/x?y=1"),
            ("https://c.org:443/cache/nar/x", "https://c.org/cache", "nar/x", "/cache/nar/x"),
            ("https://C.ORG/nar/x", "https://c.org/cache", "/nar/x", "/nar/x"),
            ("http://[::1]:5000/nar/x", "http://[0:0::1]:5000", "nar/x", "/nar/x"),
        ] {
            let url = parse(field, base).unwrap();
            assert_eq!(
                (url.as_str(), url.target(&Url::parse(base).unwrap()).as_str()),
                (as_str, target),
                "{field} at {base}"
            );
        }
    }

    #[test]
    fn r14_other_origins_are_refused() {
        for field in [
            "http://c.org/nar/x",
            "https://c.org:444/nar/x",
            "https://d.org/nar/x",
            "https://c.org.evil.org/nar/x",
            "https://c.org@evil.org/nar/x",
            "https://user@c.org/nar/x",
            "https://user:pw@c.org/nar/x",
            "https://c.org",
            "https://c.org?x",
            "https:nar/x",
            "https:/nar/x",
            "https:///c.org/nar/x",
            "HTTPS://c.org/nar/x",
            "//c.org/nar/x",
            "//evil.org/nar/x",
            "file:///etc/passwd",
            "data:,x",
            "nar:x",
            ":x",
        ] {
            assert!(matches!(parse(field, "https://c.org"), Err(Error::Elsewhere { .. })), "{field}");
        }
        assert_eq!(
            parse("http://169.254.169.254/latest", "https://c.org").unwrap_err().to_string(),
            "expected a path or a URL at https://c.org, found `http://169.254.169.254/latest`"
        );
    }

    #[test]
    fn r14_what_could_be_read_in_two_ways_is_refused() {
        for field in [
            "nar/x y",
            "nar/x\n",
            "nar/x\r\nHost: y",
            "nar/x\0",
            "nar\\x",
            "\\\\evil.org/x",
            "nar/%2e%2e/x",
            "nar/x%20",
            "nar/x%",
            "nar/x#y",
            "nar/ä",
            "nar/x\"",
            "nar/<x>",
            "nar/x?y=[z]",
            "nar/x?y='z'",
            "nar/{x}",
            "https://c.org/nar/%2fx",
        ] {
            assert!(matches!(parse(field, "https://c.org"), Err(Error::Character(_))), "{field:?}");
        }
        for field in [
            "/",
            "?x=y",
            "/?x",
            "..",
            ".",
            "../x",
            "./x",
            "nar/../x",
            "nar/./x",
            "nar/..",
            "nar/",
            "nar//x",
            "/nar//x",
            "/../x",
            "nar/..?x",
            "https://c.org/",
            "https://c.org//nar/x",
            "https://c.org/nar/../x",
        ] {
            assert!(matches!(parse(field, "https://c.org"), Err(Error::Segment(_))), "{field:?}");
        }
    }

    #[test]
    fn the_length_is_bounded() {
        assert_eq!(parse("", "https://c.org"), Err(Error::Length(0)));
        assert!(parse(&"x".repeat(MAX_LEN), "https://c.org").is_ok());
        assert_eq!(parse(&"x".repeat(MAX_LEN + 1), "https://c.org"), Err(Error::Length(MAX_LEN + 1)));
    }
}
