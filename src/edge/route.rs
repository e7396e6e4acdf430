//! From a method and a request target to what is asked for: a total function, with no byte of the target left in its
//! result that was not checked (R13, R19).
//!
//! Paths may be percent-encoded. Where a part has a fixed form (hash, store path name, output name) it is decoded once
//! before it is read, since clients differ in what they encode (`?` in a name must be, `+ = ! :` need not be); what
//! decodes to anything that stands in no such form is not found. NAR names of unknown form stay exactly as asked,
//! because they can only be compared with what a narinfo announced.

use std::borrow::Cow;

use http::Method;

use crate::metrics::Route as Label;
use crate::nix::hash::Sha256;
use crate::nix::narinfo::Compression;
use crate::nix::store_path::{HashPart, StorePath};
use crate::proxy::request::{NarName, Request, Small};

/// What a request target means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Something a binary cache has.
    Known(Request),
    /// What a CA reads while it validates a name (RFC 8555 section 8.3): a token as it was asked for. It can only be
    /// compared with those that are known.
    Challenge(String),
    /// The page for a browser, whatever its query.
    Page,
    /// Nothing a binary cache has.
    NotFound,
    /// Neither GET nor HEAD (R20).
    MethodNotAllowed,
}

impl Route {
    /// The word for metrics and log.
    pub fn label(&self) -> Label {
        match self {
            Self::Known(Request::CacheInfo) => Label::CacheInfo,
            Self::Known(Request::NarInfo(_)) => Label::NarInfo,
            Self::Known(Request::Nar(_)) => Label::Nar,
            Self::Known(Request::Small(small)) => match small {
                Small::Listing(_) => Label::Listing,
                Small::Log(_) => Label::Log,
                Small::Realisation { .. } => Label::Realisation,
                Small::BuildTrace { .. } => Label::BuildTrace,
                Small::DebugInfo { .. } => Label::DebugInfo,
            },
            Self::Challenge(_) => Label::AcmeChallenge,
            Self::Page => Label::Page,
            Self::NotFound | Self::MethodNotAllowed => Label::Other,
        }
    }
}

/// Where RFC 8555 section 8.3 has tokens, after the first `/`.
const CHALLENGES: &str = ".well-known/acme-challenge/";

/// Finds out what `path` and `query` ask for. A query counts only where a NAR's name may have one.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Route {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Route::MethodNotAllowed;
    }
    let Some(path) = path.strip_prefix('/') else { return Route::NotFound };
    if path.is_empty() {
        return Route::Page;
    }
    if let Some(token) = path.strip_prefix(CHALLENGES) {
        return Route::Challenge(token.to_owned());
    }
    known(path, query).map_or(Route::NotFound, Route::Known)
}

fn known(path: &str, query: Option<&str>) -> Option<Request> {
    if let Some(name) = path.strip_prefix("nar/") {
        return nar(path, name, query).map(Request::Nar);
    }
    let segments: Vec<Cow<'_, str>> = path.splitn(4, '/').map(decode).collect::<Option<_>>()?;
    let small = match segments.iter().map(AsRef::as_ref).collect::<Vec<&str>>().as_slice() {
        ["nix-cache-info"] => return Some(Request::CacheInfo),
        [file] => {
            if let Some(hash) = file.strip_suffix(".narinfo") {
                return HashPart::parse(hash).ok().map(Request::NarInfo);
            }
            Small::Listing(HashPart::parse(file.strip_suffix(".ls")?).ok()?)
        }
        ["log", name] => Small::Log(StorePath::parse_base(name).ok()?),
        ["realisations", file] => realisation(file)?,
        ["build-trace-v2", drv, file] => {
            Small::BuildTrace { drv: StorePath::parse_base(drv).ok()?, output: output(file.strip_suffix(".doi")?)? }
        }
        ["debuginfo", id] => {
            let digits = id.strip_suffix(".debug").unwrap_or(id);
            is_hex(digits, 40).then(|| Small::DebugInfo { id: (*id).to_owned() })?
        }
        _ => return None,
    };
    Some(Request::Small(small))
}

/// `sha256:<64 hex>!<output>.doi`
fn realisation(file: &str) -> Option<Small> {
    let (hash, file) = file.strip_prefix("sha256:")?.split_once('!')?;
    let output = output(file.strip_suffix(".doi")?)?;
    is_hex(hash, 64).then(|| Small::Realisation { hash: hash.to_owned(), output })
}

/// An output's name: it becomes the end of a store path's name, so it has the same characters.
fn output(name: &str) -> Option<String> {
    const LONGEST: usize = 211;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
    let fine = (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.');
    fine.then(|| name.to_owned())
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The shapes of NAR URL, see [`NarName`]. `path` is all of it, `name` what follows `nar/`.
fn nar(path: &str, name: &str, query: Option<&str>) -> Option<NarName> {
    if let Some(known) = decode(name).and_then(|name| nar_of_known_form(path, &name, query)) {
        return Some(known);
    }
    // A narinfo's URL has no `.` or `..` segments (R14), so a path with some was never announced.
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let sound = name.split('/').all(plain) && visible(name) && query.is_none_or(visible);
    sound.then(|| NarName::Opaque(query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))))
}

fn nar_of_known_form(path: &str, name: &str, query: Option<&str>) -> Option<NarName> {
    const HASH_DIGITS: usize = 32;
    let (stem, extension) = name.split_once(".nar")?;
    let compression = Compression::from_extension(extension)?;
    if let Some(query) = query {
        // harmonia's. Any other query may choose among contents, so the name alone says too little.
        let hash = HashPart::parse(query.strip_prefix("hash=")?).ok()?;
        let nar_hash = Sha256::from_nix32(stem).ok()?;
        return (compression == Compression::None).then_some(NarName::ByNarHash { nar_hash, hash });
    }
    if let Ok(file_hash) = Sha256::from_nix32(stem) {
        return Some(NarName::ByFileHash { file_hash, compression });
    }
    let (hash, rest) = stem.split_at_checked(HASH_DIGITS)?;
    let hash = HashPart::parse(hash).ok()?;
    if rest.is_empty() {
        return Some(NarName::ByStorePath { hash, path: path.to_owned() });
    }
    let digest = Sha256::from_nix32(rest.strip_prefix('-')?).ok()?;
    Some(NarName::Full { hash, digest, compression })
}

/// Decodes percent escapes of one segment, once. `None` where an escape is broken or stands for something that is in
/// no name of ours: a separator, a `%` that would begin another escape, a control character, a byte beyond ASCII.
fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut decoded = String::with_capacity(segment.len());
    let mut parts = segment.split('%');
    decoded.push_str(parts.next()?);
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None; // from_str_radix would take a sign
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if !byte.is_ascii_alphanumeric() && !b"-._~?=+!:".contains(&byte) {
            return None;
        }
        decoded.push(char::from(byte));
        decoded.push_str(rest);
    }
    Some(Cow::Owned(decoded))
}

/// Entry of the fuzz target `route`: a request target, the query after the first `?`.
///
/// # Panics
/// When a route does not lead back to itself, or is longer than what was asked.
#[allow(clippy::panic)] // what the fuzzer looks for
pub fn fuzz(input: &[u8]) {
    let Ok(target) = std::str::from_utf8(input) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let found = route(&Method::GET, path, query);
    assert_eq!(route(&Method::HEAD, path, query), found);
    assert_eq!(route(&Method::PUT, path, query), Route::MethodNotAllowed);
    match &found {
        // What upstreams are asked for is the same thing, and there is one way to write it.
        Route::Known(Request::Small(small)) => {
            assert_eq!(route(&Method::GET, &format!("/{}", small.path()), None), found);
        }
        Route::Challenge(token) => assert_eq!(format!("/{CHALLENGES}{token}"), path),
        Route::Page => assert_eq!(path, "/"),
        Route::Known(Request::Nar(NarName::Opaque(name) | NarName::ByStorePath { path: name, .. })) => {
            assert_eq!(format!("/{name}"), target);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
