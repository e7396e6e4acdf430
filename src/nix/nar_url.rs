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
    (!rest.is_empty() && split_scheme(rest).is_none()).then_some(rest)
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
    if authority.is_empty() || !authority.bytes().all(host_byte) {
        return None;
    }
    let origin = Url::parse(&format!("{scheme}://{authority}/")).ok()?.origin();
    (origin == base.origin()).then(|| &rest[authority.len()..])
}

fn elsewhere(url_field: &str, base: &Url) -> Error {
    Error::Elsewhere { origin: base.origin().ascii_serialization(), found: Excerpt::of(url_field) }
}

/// RFC 3986 `pchar`, `/` and `?`, without percent-escapes.
fn is_path_or_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte)
}
