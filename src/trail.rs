//! Which servers of this kind a request has passed, so that those which have each other as upstreams do not ask in circles.
//!
//! The field is that of RFC 8586, `CDN-Loop`: each server adds itself, by an id that it makes up when it starts. A request
//! that comes back is answered 508 and asks nobody ([`Looped`]). Whoever is told so has learned that there is nothing to be
//! had that way for the one who asked in the first place. As that is true for this trail alone, it is not shared with
//! questions on another ([`Trail::shares_with`]), and not remembered.
//!
//! The trail goes with the task that answers a request ([`Trail::scope`]) and with those it starts ([`carry`]), which its trace goes
//! with, too.
//!
//! Out of scope: circles through other software, which the field says nothing about here.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::trace;

/// The field.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// What stands before an id.
const PREFIX: &str = "snowbank;id=";
/// Hexadecimal digits of an id.
const ID_CHARS: usize = 16;
/// A request that has passed more servers than this goes in circles, too.
const MOST: usize = 8;

tokio::task_local! {
    static HERE: Trail;
}

/// The servers that a request has passed, this one not among them.
#[derive(Debug, Clone, Default)]
pub struct Trail(Arc<Passed>);

#[derive(Debug, Default)]
struct Passed {
    ids: Vec<String>,
    /// An upstream did not answer because of one of them.
    looped: AtomicBool,
}

impl PartialEq for Trail {
    fn eq(&self, other: &Self) -> bool {
        self.0.ids == other.0.ids
    }
}

impl Eq for Trail {}

impl Hash for Trail {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.ids.hash(state);
    }
}

/// The request has been here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looped;

impl Trail {
    /// What stands in the head of a request.
    ///
    /// # Errors
    /// This server does, or too many others.
    pub fn of(headers: &HeaderMap) -> Result<Self, Looped> {
        if !headers.contains_key(CDN_LOOP) {
            return Ok(Self::default());
        }
        let ids: Vec<String> = ids(headers).take(MOST).map(str::to_owned).collect();
        match ids.len() == MOST || own_id().is_some_and(|own| ids.iter().any(|id| id == own)) {
            true => Err(Looped),
            false => Ok(Self(Arc::new(Passed { ids, looped: AtomicBool::new(false) }))),
        }
    }

    /// How many servers the request has passed. A question that it causes at any other has passed more.
    pub fn len(&self) -> usize {
        self.0.ids.len()
    }

    /// Whether it has passed none.
    pub fn is_empty(&self) -> bool {
        self.0.ids.is_empty()
    }

    /// Whether what was answered to a request on this trail is an answer to one on the other.
    pub fn shares_with(&self, other: &Self) -> bool {
        self == other || !self.0.looped.load(Ordering::Relaxed)
    }

    /// Runs `future` on this trail.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        HERE.scope(self, future)
    }
}

/// The trail of the request that is being answered.
pub fn here() -> Trail {
    HERE.try_with(Clone::clone).unwrap_or_default()
}

/// Whether what is being answered was asked by another server of this kind.
pub fn is_anothers() -> bool {
    HERE.try_with(|trail| !trail.is_empty()).unwrap_or(false)
}

/// The same future on the trail, and in the trace, of the task that calls this, whatever task runs it.
pub fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> {
    here().scope(trace::scope(trace::here(), future))
}

/// What to put into a request; `None` when the system has no random bytes to make an id of.
pub fn header() -> Option<HeaderValue> {
    let trail = here();
    let ids = trail.0.ids.iter().map(String::as_str).chain([own_id()?]);
    let parts: Vec<String> = ids.map(|id| format!("{PREFIX}{id}")).collect();
    HeaderValue::try_from(parts.join(", ")).ok()
}

/// What goes into the answer to a request that looped.
pub fn own_header() -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{PREFIX}{}", own_id()?)).ok()
}

/// Whether a 508 with these headers is about the request that is being answered: from a server that it has passed. Then what
/// comes of the request is for its trail alone.
pub fn is_about_us(headers: &HeaderMap) -> bool {
    let trail = here();
    let is = ids(headers).take(MOST).any(|id| own_id() == Some(id) || trail.0.ids.iter().any(|passed| passed == id));
    trail.0.looped.fetch_or(is, Ordering::Relaxed);
    is
}

/// The ids in the field, of those that are well formed.
fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CDN_LOOP).iter().filter_map(|line| line.to_str().ok());
    let parts = lines.flat_map(|line| line.split(',')).filter_map(|part| part.trim_ascii().strip_prefix(PREFIX));
    parts.filter(|id| id.len() == ID_CHARS && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The id of this process.
fn own_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let made = || {
        let mut random = [0; ID_CHARS / 2];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        Some(random.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    ID.get_or_init(made).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (CDN_LOOP, line.parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn a_request_that_passed_here_has_looped_and_its_trail_goes_on() {
        let (a, b) = ("snowbank;id=00112233445566aa", "snowbank;id=00112233445566bb");
        let own = own_header().unwrap();
        let own = own.to_str().unwrap();
        assert_eq!(Trail::of(&head(&[])), Ok(Trail::default()));
        assert_eq!(Trail::of(&head(&[a, own])), Err(Looped));
        assert_eq!(Trail::of(&head(&[&format!("other, {own} ,x")])), Err(Looped));
        let trail = Trail::of(&head(&["cdn.example; v=1", &format!("{a}, {b}"), "snowbank;id=short"])).unwrap();
        assert_eq!(header().unwrap(), own);
        let carried = trail.scope(async {
            assert!(is_anothers() && is_about_us(&head(&[b])) && is_about_us(&head(&[own])));
            tokio::spawn(carry(async { header().unwrap() })).await.unwrap()
        });
        assert_eq!(carried.await, format!("{a}, {b}, {own}"));
        assert!(!is_anothers() && !is_about_us(&head(&[b])));
        let many: Vec<String> = (0..MOST).map(|n| format!("snowbank;id={n:016}")).collect();
        assert_eq!(Trail::of(&head(&[&many.join(",")])), Err(Looped));
        assert!(Trail::of(&head(&[&many[1..].join(",")])).is_ok());
    }
}
