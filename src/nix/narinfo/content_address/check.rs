//! Whether the content of a NAR has a content address, while it streams by.

use aws_lc_rs::digest::{self, Context};

use super::flat::Contents;
use super::modulo::Modulo;
use crate::nix::store_path::HashPart;

/// A running check of one NAR. Needs a fixed amount of memory, and 8 bytes for each reference of the NAR to itself.
pub struct ContentCheck {
    subject: Subject,
    expected: Vec<u8>,
}

/// What is hashed.
enum Subject {
    /// The NAR as it is.
    Whole(Context),
    /// The NAR without its own hash part.
    Modulo(Box<Modulo>),
    /// The contents of the one file in it.
    Flat(Contents),
}

impl ContentCheck {
    pub(super) fn whole(algorithm: &'static digest::Algorithm, expected: &[u8]) -> Self {
        Self::of(Subject::Whole(Context::new(algorithm)), expected)
    }

    pub(super) fn modulo(algorithm: &'static digest::Algorithm, own: HashPart, expected: &[u8]) -> Self {
        Self::of(Subject::Modulo(Box::new(Modulo::new(algorithm, own))), expected)
    }

    pub(super) fn flat(algorithm: &'static digest::Algorithm, expected: &[u8]) -> Self {
        Self::of(Subject::Flat(Contents::new(algorithm)), expected)
    }

    fn of(subject: Subject, expected: &[u8]) -> Self {
        Self { subject, expected: expected.to_vec() }
    }

    /// Takes the next bytes of the NAR, in pieces of any size.
    pub fn update(&mut self, nar: &[u8]) {
        match &mut self.subject {
            Subject::Whole(context) => context.update(nar),
            Subject::Modulo(modulo) => modulo.update(nar),
            Subject::Flat(contents) => contents.update(nar),
        }
    }

    /// Whether the NAR, which is whole now, has the address.
    pub fn finish(self) -> bool {
        let digest = match self.subject {
            Subject::Whole(context) => Some(context.finish()),
            Subject::Modulo(modulo) => Some(modulo.finish()),
            Subject::Flat(contents) => contents.finish(),
        };
        digest.is_some_and(|digest| digest.as_ref() == self.expected)
    }
}

impl std::fmt::Debug for ContentCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentCheck")
    }
}
