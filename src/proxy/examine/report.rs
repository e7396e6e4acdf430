//! What an examination found, in numbers and in words.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::super::nar::Meant;
use crate::fill::Examined;
use crate::metrics::Refusal;
use crate::nix::store_path::HashPart;
use crate::store::Walked;

/// The most problems that are told one by one; all are counted.
const MOST: usize = 1000;

/// One thing that was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `narinfo`, `nar` or `chunk`.
    pub what: &'static str,
    /// The hash part of the path, or the digest of the NAR where no path is known.
    pub key: String,
    /// The upstream it came from, when that is known.
    pub upstream: String,
    /// The reason in a word, as in `snowbank_upstream_refused_total`; `damaged` for a chunk.
    pub reason: String,
    /// In words.
    pub text: String,
}

/// See the module. What was wrong was dropped, quarantined or made a hole.
#[derive(Debug, Clone)]
pub struct Report {
    begun: Instant,
    /// Seconds it took so far.
    pub seconds: f64,
    /// Narinfos seen.
    pub narinfos: u64,
    /// Narinfos of upstreams that are not configured now.
    pub unused_narinfos: u64,
    /// Narinfos that did not hold.
    pub wrong_narinfos: u64,
    /// NARs seen.
    pub nars: u64,
    /// NARs that are known to be what was claimed.
    pub proven_nars: u64,
    /// NARs of which that is not known: `verify` is off, nobody said what they should be, or their compression is not
    /// understood here.
    pub unproven_nars: u64,
    /// NARs with holes.
    pub incomplete_nars: u64,
    /// NARs that are not what was claimed.
    pub wrong_nars: u64,
    /// Chunks that are right.
    pub right_chunks: u64,
    /// Chunks that were wrong.
    pub wrong_chunks: u64,
    /// Chunks that are not there.
    pub absent_chunks: u64,
    /// Wrong chunks that were fetched again.
    pub mended_chunks: u64,
    /// Bytes of NARs read.
    pub bytes: u64,
    /// Small objects that nothing vouches for: counted only.
    pub others: u64,
    /// Places on disk that could not be read.
    pub unreadable: u64,
    /// Whether everything was seen.
    pub complete: bool,
    /// What was wrong, the first thousand.
    pub problems: Vec<Problem>,
}

impl Report {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            seconds: 0.0,
            narinfos: 0,
            unused_narinfos: 0,
            wrong_narinfos: 0,
            nars: 0,
            proven_nars: 0,
            unproven_nars: 0,
            incomplete_nars: 0,
            wrong_nars: 0,
            right_chunks: 0,
            wrong_chunks: 0,
            absent_chunks: 0,
            mended_chunks: 0,
            bytes: 0,
            others: 0,
            unreadable: 0,
            complete: false,
            problems: Vec::new(),
        }
    }

    pub(super) fn end(&mut self, walked: Walked) {
        self.seconds = self.begun.elapsed().as_secs_f64();
        self.unreadable = walked.unreadable;
        self.complete = walked.complete;
    }

    /// How many things were wrong.
    pub fn wrong(&self) -> u64 {
        self.wrong_narinfos + self.wrong_nars + self.wrong_chunks
    }

    pub(super) fn take(&mut self, found: &Examined) {
        self.right_chunks += found.right;
        self.bytes += found.bytes;
        self.absent_chunks += found.absent;
    }

    pub(super) fn narinfo_is_wrong(&mut self, hash: HashPart, upstream: &str, reason: Refusal, text: &str) {
        self.wrong_narinfos += 1;
        self.problem("narinfo", hash.to_string(), upstream, &reason.to_string(), text);
    }

    pub(super) fn nar_is_wrong(&mut self, meant: &Meant, upstream: &str, reason: Refusal, text: &str) {
        self.wrong_nars += 1;
        self.problem("nar", name_of(meant), upstream, &reason.to_string(), text);
    }

    pub(super) fn chunk_is_wrong(&mut self, meant: &Meant, index: u32) {
        self.wrong_chunks += 1;
        let text = format!("chunk {index} of {} is not the one that was stored", meant.digest);
        self.problem("chunk", name_of(meant), "", "damaged", &text);
    }

    fn problem(&mut self, what: &'static str, key: String, upstream: &str, reason: &str, text: &str) {
        tracing::warn!(key, upstream, reason, "a {what} that was kept is wrong: {text}");
        if self.problems.len() < MOST {
            let (upstream, reason, text) = (upstream.to_owned(), reason.to_owned(), text.to_owned());
            self.problems.push(Problem { what, key, upstream, reason, text });
        }
    }

    /// One line about how far it is, or what came of it.
    pub fn line(&self) -> String {
        format!(
            "{} narinfos ({} wrong), {} NARs ({} wrong, {} proven, {} with holes), {} chunks wrong, {} MiB read",
            self.narinfos,
            self.wrong_narinfos,
            self.nars,
            self.wrong_nars,
            self.proven_nars,
            self.incomplete_nars,
            self.wrong_chunks,
            self.bytes >> 20
        )
    }

    /// The whole as JSON.
    pub fn json(&self) -> Value {
        let problems = self.problems.iter().map(|problem| {
            json!({
                "what": problem.what, "key": problem.key, "upstream": problem.upstream,
                "reason": problem.reason, "text": problem.text,
            })
        });
        let mut json = Map::new();
        let mut put = |name: &str, value: Value| json.insert(name.to_owned(), value);
        put("wrong", self.wrong().into());
        put("complete", self.complete.into());
        put("seconds", self.seconds.into());
        put("narinfos", json!({ "seen": self.narinfos, "wrong": self.wrong_narinfos, "unused": self.unused_narinfos }));
        put(
            "nars",
            json!({
                "seen": self.nars, "wrong": self.wrong_nars, "proven": self.proven_nars,
                "unproven": self.unproven_nars, "incomplete": self.incomplete_nars, "bytes": self.bytes,
            }),
        );
        put(
            "chunks",
            json!({
                "right": self.right_chunks, "wrong": self.wrong_chunks, "absent": self.absent_chunks,
                "mended": self.mended_chunks,
            }),
        );
        put("others", self.others.into());
        put("unreadable", self.unreadable.into());
        put("problems", problems.collect::<Vec<_>>().into());
        json.into()
    }
}

fn name_of(meant: &Meant) -> String {
    meant.hash.map_or_else(|| meant.digest.nix32(), |hash| hash.to_string())
}
