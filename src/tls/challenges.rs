//! What a certificate authority asks to see while it validates a name.
//!
//! Whoever orders a certificate puts the answer here and keeps the [`Shown`] guard; the edge looks here when it is asked.
//! Nothing but what was put here is ever answered: http-01 knows tokens (RFC 8555 section 8.3), tls-alpn-01 names
//! (RFC 8737), each for as long as its guard lives.
//!
//! Out of scope: ordering, and dns-01, which never reaches this server.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol that a validating CA asks for, and nobody else (RFC 8737 section 6.2).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The answers in force. Clones share them.
#[derive(Clone, Default)]
pub struct Challenges(Arc<Answers>);

#[derive(Default)]
struct Answers {
    tokens: Mutex<Shelf<String>>,
    certificates: Mutex<Shelf<Arc<CertifiedKey>>>,
}

impl Challenges {
    /// The key authorization of `token`, if that is one of ours (RFC 8555 section 8.3).
    pub fn token(&self, token: &str) -> Option<String> {
        lock(&self.0.tokens).get(token).cloned()
    }

    /// Answers `token` with `key_authorization` until the guard is dropped.
    pub fn answer_token(&self, token: &str, key_authorization: &str) -> Shown {
        let number = lock(&self.0.tokens).put(token, key_authorization.to_owned());
        self.shown(Kind::Token, token.to_owned(), number)
    }

    /// Shows `key` to who asks for `server_name` with [`ACME_TLS`] alone, until the guard is dropped. Case and a dot at
    /// the end of the name do not matter.
    pub fn show_certificate(&self, server_name: &str, key: CertifiedKey) -> Shown {
        let name = plain(server_name);
        let number = lock(&self.0.certificates).put(&name, Arc::new(key));
        self.shown(Kind::Certificate, name, number)
    }

    fn shown(&self, kind: Kind, name: String, number: u64) -> Shown {
        Shown { answers: Arc::clone(&self.0), kind, name, number }
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if !asks_for_challenge(&hello) {
            return None;
        }
        lock(&self.0.certificates).get(&plain(hello.server_name()?)).cloned()
    }
}

/// Tells nothing of what is in it: an account's key thumbprint is in every key authorization.
impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

/// Whether [`ACME_TLS`] is the one protocol a client offers. RFC 8737 section 3 has the CA offer no other.
pub(super) fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|offered| offered.eq([ACME_TLS]))
}

fn plain(server_name: &str) -> String {
    server_name.strip_suffix('.').unwrap_or(server_name).to_ascii_lowercase()
}

/// Something that is shown; dropping this takes it away, and only it.
#[must_use = "it is shown until this is dropped"]
pub struct Shown {
    answers: Arc<Answers>,
    kind: Kind,
    name: String,
    number: u64,
}

impl Drop for Shown {
    fn drop(&mut self) {
        match self.kind {
            Kind::Token => lock(&self.answers.tokens).take(&self.name, self.number),
            Kind::Certificate => lock(&self.answers.certificates).take(&self.name, self.number),
        }
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Token,
    Certificate,
}

/// Values by name. Of several under one name the newest counts; each is taken away by its own number.
struct Shelf<V> {
    values: HashMap<String, Vec<(u64, V)>>,
    next: u64,
}

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), next: 0 }
    }
}

impl<V> Shelf<V> {
    fn get(&self, name: &str) -> Option<&V> {
        self.values.get(name)?.last().map(|(_, value)| value)
    }

    fn put(&mut self, name: &str, value: V) -> u64 {
        let number = self.next;
        self.next += 1;
        self.values.entry(name.to_owned()).or_default().push((number, value));
        number
    }

    fn take(&mut self, name: &str, number: u64) {
        if let Some(values) = self.values.get_mut(name) {
            values.retain(|(of, _)| *of != number);
            if values.is_empty() {
                self.values.remove(name);
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_its_guard_lives() {
        let challenges = Challenges::default();
        let shown = challenges.answer_token("token", "token.thumbprint");
        assert_eq!(challenges.clone().token("token").as_deref(), Some("token.thumbprint"));
        for other in ["", "Token", "token ", "toke"] {
            assert_eq!(challenges.token(other), None, "{other:?}");
        }
        drop(shown);
        assert_eq!(challenges.token("token"), None);
        assert!(lock(&challenges.0.tokens).values.is_empty(), "nothing stays");
    }

    #[test]
    fn a_guard_takes_away_what_is_its_own() {
        let challenges = Challenges::default();
        let older = challenges.answer_token("token", "older");
        let newer = challenges.answer_token("token", "newer");
        drop(older);
        assert_eq!(challenges.token("token").as_deref(), Some("newer"));
        let newest = challenges.answer_token("token", "newest");
        drop(newest);
        assert_eq!(challenges.token("token").as_deref(), Some("newer"), "its guard lives still");
        drop(newer);
        assert_eq!(challenges.token("token"), None);
    }

    #[test]
    fn nothing_of_an_answer_is_in_the_debug_form() {
        let challenges = Challenges::default();
        let _shown = challenges.answer_token("token", "token.thumbprint");
        assert!(!format!("{challenges:?}").contains("thumbprint"));
    }
}
