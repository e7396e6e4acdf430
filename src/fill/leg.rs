//! One source's part of a body: from where the one before it broke off, to the end or until it breaks off itself.
//!
//! It is asked for the rest by range. An answer about another part, or of another total than was announced, is not
//! believed. One who ignores the range is read from the start: where nothing has left yet that is a new beginning, with
//! one sender less; else what came already is skipped, and its hash compared.
//!
//! Bytes that no FileHash binds (a narinfo without one: the NAR inside is known, not how it is compressed) are gone on
//! with only by the upstream that sent the first ones, and only if it says that they are still the same (a strong
//! `ETag`). Otherwise a fill begins anew while nothing has left, or breaks.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::time::{Instant, timeout};

use super::course::{Course, Off, Pass};
use super::partial::{self, HOLD_REST, Notes};
use super::state::Broken;
use super::task::{store_live, take};
use super::verify::{self, Verifier};
use super::wide::{self, Wide};
use super::{Claim, FillFailure, PLACE, Source, code_of};
use crate::metrics::{Left, Refusal};
use crate::nix::hash::Hasher;
use crate::store::{CHUNK, Manifest};
use crate::upstream::{Opened, Said, WhenDown};

/// With so much to come the place of a body is free in a moment anyhow, and fetching it anew would cost more.
const NEARLY_WHOLE: u64 = 256 << 10;

/// What came already, while it comes once more.
struct Skip {
    left: u64,
    hasher: Hasher,
}

impl Skip {
    /// Takes what belongs to it off a piece; how much.
    fn take(&mut self, piece: &mut Bytes) -> u64 {
        let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
        self.hasher.update(&piece[..now]);
        piece.advance(now);
        self.left -= now as u64;
        now as u64
    }
}

impl Course<'_> {
    /// Asks `source` for the rest.
    pub(super) async fn leg(&mut self, source: &Source) -> Result<Arc<Manifest>, Off> {
        self.is_page = false;
        let page = || {
            let name = source.upstream.name();
            Broken::new(FillFailure::Unknown, format!("upstream {name} answered with a page for a browser"))
        };
        self.leg_to_its_end(source).await.map_err(|off| match off {
            // A login, a proxy that is out of order: it says nothing of the NAR.
            Off::Other(_) if self.is_page => Off::Other(page()),
            Off::Wrong(_) if self.is_page => Off::Wrong(page()),
            off => off,
        })
    }

    async fn leg_to_its_end(&mut self, source: &Source) -> Result<Arc<Manifest>, Off> {
        if !self.may_go_on_from(source) && !self.start_over() {
            return Err(self.cannot_go_on(source));
        }
        if self.pass.verifier.is_none() && self.turn.is_none() {
            // No upstream waits for it in the middle of its answer.
            let turn = timeout(PLACE, verify::turn(self.plan, &source.upstream)).await;
            self.turn = turn.ok().flatten();
        }
        let (opened, asked) = self.open_rest(source).await?;
        let name = source.upstream.name();
        if let Some((from, left, at)) = self.left.take() {
            self.fills.inner.metrics.failovers.of(left).inc();
            tracing::warn!(
                key = %self.plan.digest,
                upstream = %from.upstream.name(),
                outcome = %left,
                "left at byte {at} of {}: upstream {name} goes on from byte {}",
                from.target,
                opened.from,
            );
        }
        self.fill.is_sent_by(name);
        let (from, total) = (opened.from, opened.total);
        let mut body = Wide::begin(source, opened, asked, self.pass.size, &self.fills.inner.parts);
        let received = self.receive(source, &mut body, from, total).await;
        self.budget.use_up(body.wasted());
        self.pass.in_parts |= body.is_in_parts();
        drop(body);
        let filled = match received {
            Ok(()) => self.finish().await,
            Err(off) => Err(off),
        };
        filled.map_err(|off| match off {
            // It is not known whose fault it is: asked again, it may be right.
            Off::Wrong(broken) if !self.is_to_blame(&broken) => {
                Off::Wrong(Broken::new(FillFailure::Spliced, broken.text))
            }
            off => off,
        })
    }

    /// Whether what this source sends may follow what came so far.
    fn may_go_on_from(&self, source: &Source) -> bool {
        let same = self.pass.senders.iter().all(|sender| *sender == *source.upstream.name());
        match self.plan.file_hash {
            _ if self.fill.received() == 0 => true,
            Some(_) => same || !self.way.is_singly(),
            None => same && self.pass.validator.is_some(),
        }
    }

    fn cannot_go_on(&self, source: &Source) -> Off {
        let senders = self.pass.senders.join(" and ");
        let text = format!("upstream {} cannot go on with what {senders} sent", source.upstream.name());
        Off::Unfit(Broken::new(FillFailure::Cut, text))
    }

    /// The rest of the body, or all of it; what came until now is then dropped or about to be skipped.
    async fn open_rest(&mut self, source: &Source) -> Result<(Opened, Option<u64>), Off> {
        let received = self.fill.received();
        let kept = match self.resumes && received == 0 && self.pass.verifier.is_none() {
            true => partial::left(self.fills, self.plan).await,
            false => Vec::new(),
        };
        let from = received.max(kept.len() as u64 * CHUNK as u64);
        // Parts are those of one body only where its hash says so, and not where they did not fit together.
        let size_of_all = self.plan.size.filter(|_| self.plan.file_hash.is_some() && !self.way.is_singly());
        let parts = &self.fills.inner.parts;
        let mut last = wide::first_part(source, from, size_of_all, parts);
        let mut opened = open(source, from, last).await?;
        self.is_page = opened.is_page;
        let mut size = self.size_offered(source, &opened)?;
        let other_size = self.plan.size.is_none() && self.pass.size.is_some() && self.pass.size != size;
        let changed = other_size || (self.plan.file_hash.is_none() && opened.validator != self.pass.validator);
        if self.pass.verifier.is_some() && (changed || opened.from == 0) {
            // While nothing has left, a new beginning is better than two upstreams' parts.
            match self.start_over() {
                true if opened.from > 0 => {
                    drop(opened);
                    last = wide::first_part(source, 0, size_of_all, parts);
                    opened = open(source, 0, last).await?;
                    size = self.size_offered(source, &opened)?;
                }
                true => {}
                false if changed => return Err(self.cannot_go_on(source)),
                false => {}
            }
        }
        if !self.budget.allows(size, opened.from) {
            let text =
                format!("upstream {} is not asked for all of it again: enough was fetched", source.upstream.name());
            return Err(Off::Unfit(Broken::new(FillFailure::Cut, text)));
        }
        self.pass.size = size;
        self.enter(source, &opened, &kept).await?;
        Ok((opened, last))
    }

    /// The size of the whole, if it is the announced one; where none was announced, the first source's word.
    fn size_offered(&self, source: &Source, opened: &Opened) -> Result<Option<u64>, Off> {
        match (self.plan.size, opened.total) {
            (Some(planned), Some(total)) if planned != total => {
                let name = source.upstream.name();
                let text = format!("upstream {name} offers {total} bytes where its narinfo says {planned}");
                Err(Off::Other(Broken::refused(Refusal::WrongSize, text)))
            }
            (planned, total) => Ok(planned.or(total).or(self.pass.size)),
        }
    }

    /// The source has answered: it sends from here on.
    async fn enter(&mut self, source: &Source, opened: &Opened, kept: &[[u8; 16]]) -> Result<(), Off> {
        let name = source.upstream.name();
        let resumed = self.fill.received() == 0 && opened.from > 0;
        if resumed && self.pass.size.is_some_and(|size| size - opened.from <= HOLD_REST) {
            self.fill.hold();
        }
        if !self.fill.is_streaming() {
            self.fill.begin(self.pass.size);
        }
        if !kept.is_empty() {
            self.fill.noted(true);
        }
        match &mut self.pass.verifier {
            Some(verifier) if !self.pass.senders.contains(name) => verifier.also_from(name),
            Some(_) => {}
            none => {
                let (prover, turn) = (&self.fills.inner.prover, self.turn.take());
                let begun = Verifier::begin(prover, self.plan, self.pass.size, name, turn).await;
                let verifier = none.insert(begun.map_err(Off::of)?);
                self.pass.validator.clone_from(&opened.validator);
                if resumed {
                    self.fills.inner.metrics.resumed.inc();
                    self.pass.senders.push("an earlier fetch".into());
                    partial::take_up(self.fills, self.fill, kept, verifier).await.map_err(Off::Lost)?;
                }
                self.pass.notes = Notes::new(self.fill.chunks_done());
            }
        }
        Ok(())
    }

    async fn receive(&mut self, source: &Source, body: &mut Wide, from: u64, total: Option<u64>) -> Result<(), Off> {
        let Self { fills, fill, plan, pass, .. } = self;
        let Pass { verifier: Some(verifier), senders, alone, notes, size, .. } = pass else {
            return Err(Off::of(no_verifier()));
        };
        let mut skip = Skip { left: fill.received() - from, hasher: Hasher::new() };
        let mut skipping = skip.left > 0;
        while let Some(piece) = body.next(fill.is_wanted()).await {
            let mut piece = match piece {
                Ok(piece) => piece,
                // All of it came, and only the end was not told: the hash proves it.
                Err(_) if plan.file_hash.is_some() && !skipping && *size == Some(fill.received()) => break,
                Err(error) => return Err(Off::Broke(Broken::new(FillFailure::Cut, error.to_string()), error.left())),
            };
            self.budget.use_up(piece.len() as u64);
            fills.inner.metrics.skipped.inc_by(skip.take(&mut piece));
            if skipping && skip.left == 0 {
                skipping = false;
                if std::mem::take(&mut skip.hasher).finish() != verifier.so_far() {
                    let text = format!("upstream {} sends another beginning than came before", source.upstream.name());
                    return Err(Off::Differs(Broken::new(FillFailure::Spliced, text)));
                }
            }
            if piece.is_empty() {
                continue;
            }
            if !senders.contains(source.upstream.name()) {
                senders.push(Arc::clone(source.upstream.name()));
            }
            verifier.update(&piece).await.map_err(Off::of)?;
            let crowd = || fills.is_crowded();
            alone.update(Instant::now(), fill.is_wanted(), crowd, piece.len(), *size).map_err(Off::Ends)?;
            take(fills, fill, plan, piece, notes).await;
            let is_nearly_whole = size.is_some_and(|size| size.saturating_sub(fill.received()) <= NEARLY_WHOLE);
            if fill.is_in_the_way() && !is_nearly_whole {
                let text = "it was fetched before anybody asked for it, and makes way for another";
                return Err(Off::Ends(Broken::new(FillFailure::Abandoned, text)));
            }
        }
        let received = fill.received();
        match size.or(total) {
            Some(size) if received < size => {
                let text = format!("upstream {} sent {received} of {size} bytes", source.upstream.name());
                Err(Off::Broke(Broken::new(FillFailure::Short, text), Left::Short))
            }
            _ if skipping => {
                let text = format!("upstream {} sent less than came before", source.upstream.name());
                Err(Off::Broke(Broken::new(FillFailure::Short, text), Left::Short))
            }
            _ => Ok(()),
        }
    }

    /// All of it came: the proof, and the last chunk.
    async fn finish(&mut self) -> Result<Arc<Manifest>, Off> {
        let verifier = self.pass.verifier.take().ok_or_else(|| Off::of(no_verifier()))?;
        let verified = verifier.finish().await.map_err(Off::of)?;
        store_live(self.fills, self.fill).await;
        Ok(Arc::new(Manifest {
            blob: self.fill.blob(),
            size: verified.size,
            file_hash: *verified.file_hash.as_bytes(),
            compression: code_of(self.plan.compression),
            inside: verified.inside,
            announced: self.plan.claim.as_deref().map(Claim::announced),
            digests: self.fill.digests(),
        }))
    }
}

impl Off {
    fn of(broken: Broken) -> Self {
        if broken.refusal.is_some() { Self::Wrong(broken) } else { Self::Ends(broken) }
    }
}

fn no_verifier() -> Broken {
    Broken::new(FillFailure::Internal, "a body came that nobody verifies")
}

async fn open(source: &Source, from: u64, last: Option<u64>) -> Result<Opened, Off> {
    let mut said = source.upstream.open(&source.target, from, last).await;
    if (from > 0 || last.is_some())
        && let Err(error) = &said
        && error.is_about_the_request()
    {
        // It makes nothing of the range (416, or another part than asked): from the start, then.
        said = source.upstream.open(&source.target, 0, None).await;
    }
    match said {
        Ok(Said::Have(opened)) => Ok(opened),
        Ok(Said::HaveNot) => {
            let text = format!("upstream {} has no {}", source.upstream.name(), source.target);
            Err(Off::Gone(Broken::new(FillFailure::Gone, text)))
        }
        // The operator says what it means to clients that this upstream cannot be asked.
        Err(error)
            if source.upstream.is_library() || (source.upstream.when_down() == WhenDown::Miss && !error.is_busy()) =>
        {
            Err(Off::Unasked(Broken::new(FillFailure::Down, error.to_string())))
        }
        Err(error) => Err(Off::Unasked(Broken::new(FillFailure::Unknown, error.to_string()))),
    }
}
