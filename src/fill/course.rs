//! How a fill gets from its first byte to its last, over as many sources as it takes.
//!
//! The bytes of one pass over the body are hashed as one, whoever sent them, and go to the live edge one after the other:
//! readers notice nothing of a change of the source but a pause. A source that breaks off is left at byte n, and the next
//! one goes on from n (see `leg`; in which order, `itinerary`).
//!
//! Whose byte it was when such a whole does not fit its hash, nobody can tell. Nobody is blamed then (the plan's judge
//! hears only of a source that sent everything), all of it is forgotten, and from there on one source has to give
//! everything, those first that did not break off: at once, as long as nothing had left, else in the next fill, which is
//! told so by `contested`. Hence a liar in front of an honest upstream costs at most the responses that contain its bytes.
//!
//! Where no source is left, the whole chunks that came are kept for the next fill (see `partial`).

use std::sync::Arc;

use http::HeaderValue;

use super::itinerary::{Budget, Itinerary};
use super::partial::{self, HOLD_REST, Notes};
use super::state::{Broken, Fill};
use super::task::Alone;
use super::verify::{Turn, Verifier};
use super::{FillFailure, Fills, Plan, Source};
use crate::metrics::{Left, Refusal};
use crate::store::{CHUNK, ChunkKey, Manifest};

/// A source that broke off and was asked again was so for good, if so many bytes came: a chunk.
const WORTH: u64 = CHUNK as u64;

/// See the module.
pub(super) struct Course<'a> {
    pub(super) fills: &'a Fills,
    pub(super) fill: &'a Fill,
    pub(super) plan: &'a Plan,
    pub(super) way: Itinerary,
    pub(super) budget: Budget,
    pub(super) pass: Pass,
    /// The turn to unpack that was taken with the fill's place.
    pub(super) turn: Turn,
    /// Whether what an earlier fill left may be gone on from.
    pub(super) resumes: bool,
    /// Whom the next source goes on from, why, and at which byte.
    pub(super) left: Option<(Source, Left, u64)>,
    /// Whether what came is known to be wrong, or may well be.
    doubted: bool,
    /// Whether the source says that it sends a page for a browser.
    pub(super) is_page: bool,
}

/// One pass over the body, from its first byte on.
#[derive(Default)]
pub(super) struct Pass {
    /// There as soon as a source has answered.
    pub(super) verifier: Option<Verifier>,
    /// Who sent something of it.
    pub(super) senders: Vec<Arc<str>>,
    /// Whether one of them sent it in several answers.
    pub(super) in_parts: bool,
    /// What its first source calls these bytes.
    pub(super) validator: Option<HeaderValue>,
    pub(super) size: Option<u64>,
    pub(super) alone: Alone,
    pub(super) notes: Notes,
}

/// How a source ended without the whole.
#[derive(Debug)]
pub(super) enum Off {
    /// It says that it has it not.
    Gone(Broken),
    /// It could not be asked.
    Unasked(Broken),
    /// What it has cannot follow what came so far, or would cost too much.
    Unfit(Broken),
    /// It offers something else than its own narinfo says.
    Other(Broken),
    /// It broke off.
    Broke(Broken, Left),
    /// All that came is not what was announced.
    Wrong(Broken),
    /// It sends another beginning than came before.
    Differs(Broken),
    /// What an earlier fill left is not there any more.
    Lost(Broken),
    /// The fill ends, whatever other sources have.
    Ends(Broken),
}

/// Fills from whatever source it takes; with the one that sent the end.
pub(super) async fn fill_from_any(
    fills: &Fills,
    fill: &Fill,
    plan: &Plan,
    turn: Turn,
) -> Result<(Arc<Manifest>, Source), Broken> {
    let mut course = Course {
        fills,
        fill,
        plan,
        way: Itinerary::new(plan),
        budget: Budget::default(),
        pass: Pass::default(),
        turn,
        resumes: true,
        left: None,
        doubted: false,
        is_page: false,
    };
    course.begin().await;
    let mut last = Broken::new(FillFailure::Gone, "no upstream has this NAR any more");
    while let Some(source) = course.way.next(plan).await {
        let (is_again, before) = (course.way.is_again(&source), fill.received());
        let leg = course.leg(&source).await;
        if is_again && (leg.is_ok() || fill.received() >= before + WORTH) {
            source.upstream.asked_again_well();
        }
        let off = match leg {
            Ok(manifest) => {
                fills.inner.contested.settled(fill.blob());
                return Ok((manifest, source));
            }
            Err(off) => off,
        };
        let (broken, tells) = (off.broken().clone(), !matches!(off, Off::Unfit(_)));
        let goes_on = course.after(&source, off).await;
        if (tells && weight(&broken) >= weight(&last)) || !goes_on {
            last = broken;
        }
        if !goes_on {
            break;
        }
    }
    course.keep().await;
    Err(last)
}

/// An unknown answer of one source must not become a 404 (R18) by what another one says.
fn weight(broken: &Broken) -> u8 {
    match broken.reason {
        FillFailure::Gone => 0,
        FillFailure::Down => 1,
        // Whoever gives the whole by himself afterwards says more.
        FillFailure::Refused | FillFailure::Spliced => 2,
        _ => 3,
    }
}

impl Course<'_> {
    /// What an earlier fill of this NAR found out.
    async fn begin(&mut self) {
        if let Some(broke) = self.fills.inner.contested.of(self.fill.blob()) {
            self.way.add_others(self.plan).await;
            self.singly(&broke);
        }
    }

    /// From here on one source has to give everything.
    fn singly(&mut self, broke: &[Arc<str>]) {
        self.resumes = false;
        self.left = None;
        self.way.singly(broke);
        if self.plan.size.is_some_and(|size| size <= HOLD_REST) {
            self.fill.hold();
        }
    }

    /// Whether it is known whose fault it is that all that came is wrong: it came from one upstream, in one answer, or its bytes are
    /// those that were announced, and only what is inside is not.
    pub(super) fn is_to_blame(&self, wrong: &Broken) -> bool {
        let fits = !matches!(wrong.refusal, Some(Refusal::WrongFileHash | Refusal::WrongSize));
        self.pass.senders.len() <= 1 && (fits || !self.pass.in_parts)
    }

    /// Draws the conclusions of a leg that was not the last one; false when there is nothing more to try.
    async fn after(&mut self, source: &Source, off: Off) -> bool {
        let received = self.fill.received();
        let under_way = received > 0;
        // The library's faults are nobody else's: where only it was to be asked, whoever has the same bytes is asked too.
        let of_library = self.plan.sources.iter().all(|source| source.upstream.is_library());
        match off {
            Off::Gone(_) => {
                self.plan.judge.lacks(source, self.plan).await;
                self.way.leave_out(source, under_way || of_library);
            }
            Off::Unasked(_) if under_way => {
                self.left.get_or_insert_with(|| (source.clone(), Left::Unasked, received));
                self.way.broke_off(source);
            }
            Off::Unasked(_) | Off::Unfit(_) => self.way.leave_out(source, true),
            Off::Other(broken) => {
                if broken.refusal.is_some() {
                    self.plan.judge.refuted(source, self.plan, &broken, false).await;
                }
                self.way.leave_out(source, under_way || of_library);
            }
            Off::Broke(_, left) => {
                self.left = Some((source.clone(), left, received));
                self.way.broke_off(source);
            }
            Off::Wrong(broken) if broken.reason != FillFailure::Spliced && self.is_to_blame(&broken) => {
                let may_have_left = self.fill.may_have_left();
                self.budget.forgive(self.fill.received());
                self.way.leave_out(source, of_library);
                let restarted = self.doubt();
                if broken.refusal.is_some() {
                    self.plan.judge.refuted(source, self.plan, &broken, may_have_left).await;
                }
                return restarted;
            }
            Off::Wrong(_) | Off::Differs(_) => return self.is_contested().await,
            Off::Lost(_) => {
                self.resumes = false;
                return self.doubt();
            }
            Off::Ends(_) => return false,
        }
        true
    }

    /// Parts that do not fit together: forgotten, and not tried again in this way.
    async fn is_contested(&mut self) -> bool {
        let broke = self.way.broke();
        tracing::warn!(
            key = %self.plan.digest,
            "a NAR of which {} sent parts is not what was announced: it is fetched from one upstream, in one piece, from now on",
            self.pass.senders.join(" and ")
        );
        self.fills.inner.contested.note(self.fill.blob(), broke.clone());
        let restarted = self.doubt();
        if restarted && !self.way.is_singly() {
            self.way.add_others(self.plan).await;
            self.singly(&broke);
        }
        restarted
    }

    /// What came is not to be kept. Whether the fill can begin again without it.
    fn doubt(&mut self) -> bool {
        self.doubted = true;
        self.start_over()
    }

    /// Begins again and forgets what came, if nothing of it can have left; else everything stays as it is.
    pub(super) fn start_over(&mut self) -> bool {
        let chunks = self.fill.chunks_done();
        if !self.fill.restart(self.plan.size.is_some()) {
            return false;
        }
        self.forget(chunks);
        (self.pass, self.doubted) = (Pass::default(), false);
        true
    }

    fn forget(&self, chunks: usize) {
        partial::forget(self.fills, self.fill);
        // They must not be found by the next source's readers.
        for index in (0_u32..).take(chunks) {
            self.fills.inner.store.remove_chunk(ChunkKey { blob: self.fill.blob(), index });
        }
    }

    /// Keeps what came for the next fill, where nothing speaks against it.
    async fn keep(&self) {
        let sound = !self.doubted && !self.way.is_singly();
        if !sound || !partial::note(self.fills, self.fill, self.plan).await {
            self.forget(self.fill.chunks_done());
        }
    }
}

impl Off {
    fn broken(&self) -> &Broken {
        match self {
            Self::Gone(broken)
            | Self::Unasked(broken)
            | Self::Unfit(broken)
            | Self::Other(broken)
            | Self::Broke(broken, _)
            | Self::Wrong(broken)
            | Self::Differs(broken)
            | Self::Lost(broken)
            | Self::Ends(broken) => broken,
        }
    }
}
