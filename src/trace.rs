//! The trace that a request belongs to, as W3C Trace Context has it in the field `traceparent`: taken over from who asks,
//! begun here where nobody asks with one, and sent on to the upstreams that are asked for it.
//!
//! What a client sends is parsed into two numbers and a flag, or ignored; what is sent on is written from those. The context goes with
//! the task that answers a request ([`scope`]) and, by `trail::carry`, with those it starts. `tracestate` is not read.
//!
//! Where traces are exported (the feature `otlp`), a trace that is sampled goes with the [`Recorder`] that takes its spans: one of the
//! request that is answered (`edge/access`), and one of each request to an upstream ([`Asking`]).
//!
//! Out of scope: who collects them, and how they get there (`otlp`).

mod asking;
mod recorder;
mod span;

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::{NonZeroU64, NonZeroU128};

use http::{HeaderMap, HeaderName, HeaderValue};

pub use self::asking::Asking;
pub use self::recorder::Recorder;
#[cfg(feature = "otlp")]
pub use self::recorder::{BOUND, Batch};
pub use self::span::{Kind, Span, Value};

/// The field.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    static HERE: Option<Trace>;
}

/// What stands in a `traceparent`: whose child this request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: NonZeroU128,
    /// The span of who asks.
    pub span: NonZeroU64,
    /// Who asks may have recorded it.
    pub sampled: bool,
}

impl Parent {
    /// Reads a field's value: exactly the form of version 00 (W3C Trace Context section 3.2). Later versions are ignored.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let &[b'0', b'0', b'-', ref rest @ ..] = value else { return None };
        let (trace, rest) = rest.split_at_checked(32)?;
        let &[b'-', ref rest @ ..] = rest else { return None };
        let (span, rest) = rest.split_at_checked(16)?;
        let &[b'-', a, b] = rest else { return None };
        let flags = number(&[a, b])?;
        Some(Self {
            trace: NonZeroU128::new(number(trace)?)?,
            span: NonZeroU64::new(u64::try_from(number(span)?).ok()?)?,
            sampled: flags & 1 == 1,
        })
    }

    /// The only one in a head; `None` also where there are several.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| Self::parse(value.as_bytes()))
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The trace of one request, and its place there.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The trace's id.
    pub id: NonZeroU128,
    /// The span of the one who asked.
    pub parent: Option<NonZeroU64>,
    /// This request's own span, whose id nobody else chooses.
    pub span: NonZeroU64,
    /// Whether somebody may record it.
    pub sampled: bool,
    /// Whether upstreams are told of it.
    pub told: bool,
    /// Who takes its spans here, if anybody does.
    pub recorder: Option<Recorder>,
}

impl Trace {
    /// A trace that begins here.
    pub fn begin() -> Self {
        let id = u128::from(unique()) << 64 | u128::from(unique());
        let id = NonZeroU128::new(id).unwrap_or(NonZeroU128::MIN);
        Self { id, parent: None, span: new_span(), sampled: false, told: true, recorder: None }
    }

    /// The trace that a request with these header fields belongs to, else one that begins here.
    pub fn of(headers: &HeaderMap) -> Self {
        match Parent::of(headers) {
            Some(Parent { trace, span: parent, sampled }) => {
                Self { id: trace, parent: Some(parent), span: new_span(), sampled, told: true, recorder: None }
            }
            None => Self::begin(),
        }
    }

    /// The same, of which upstreams are not told.
    #[must_use]
    pub fn untold(self) -> Self {
        Self { told: false, ..self }
    }

    /// The same, recorded where there is a recorder. For one that was taken over, who asked has decided; one that begins here
    /// is sampled if `chosen` says so of a random number.
    #[must_use]
    pub fn recorded_by(mut self, recorder: Option<&Recorder>, chosen: impl FnOnce(u64) -> bool) -> Self {
        let Some(recorder) = recorder else { return self };
        // The lower half of an id is the part that is random for everybody who decides by it.
        self.sampled = match self.parent {
            Some(_) => self.sampled,
            None => chosen((self.id.get() & u128::from(u64::MAX)).try_into().unwrap_or_default()),
        };
        self.recorder = self.sampled.then(|| recorder.clone());
        self
    }

    /// What upstreams are told.
    fn header(&self) -> Option<HeaderValue> {
        self.told.then(|| HeaderValue::try_from(self.to_string()).ok()).flatten()
    }

    /// The trace's id as it is written, put into `digits`.
    pub fn id_text<'a>(&self, digits: &'a mut [u8; 32]) -> &'a str {
        for (byte, pair) in self.id.get().to_be_bytes().into_iter().zip(digits.as_chunks_mut::<2>().0) {
            *pair = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
        }
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

/// As it stands in the field of a request that is made for this one.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, u8::from(self.sampled))
    }
}

/// An id that no span has had.
fn new_span() -> NonZeroU64 {
    NonZeroU64::new(unique()).unwrap_or(NonZeroU64::MIN)
}

/// A number that nobody has had: no secret, but with the system's random bytes in it, and cheap.
fn unique() -> u64 {
    // Each state has keys of its own: those of its thread, and how many there were before.
    RandomState::new().build_hasher().finish()
}

/// Runs `future` as a part of this trace.
pub fn scope<F: Future>(trace: Option<Trace>, future: F) -> impl Future<Output = F::Output> {
    HERE.scope(trace, future)
}

/// The trace of the request that is being answered.
pub fn here() -> Option<Trace> {
    HERE.try_with(Clone::clone).unwrap_or_default()
}

/// What to put into a request to an upstream, where it may be told.
pub fn header() -> Option<HeaderValue> {
    HERE.try_with(|trace| trace.as_ref().and_then(Trace::header)).unwrap_or_default()
}

/// Entry of the fuzz target `traceparent`.
///
/// # Panics
/// When what is read is not what was written, or is written in another way than it was read.
#[allow(clippy::panic)] // what the fuzzer looks for
pub fn fuzz(input: &[u8]) {
    let Some(parent) = Parent::parse(input) else { return };
    let Parent { trace: id, span, sampled } = parent;
    let written = Trace { id, span, sampled, ..Trace::begin() }.to_string();
    assert_eq!(input.len(), written.len());
    assert_eq!(&input[..53], &written.as_bytes()[..53]); // of the flags only one is sent on
    assert_eq!(Parent::parse(written.as_bytes()), Some(parent));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn head(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_trace_is_taken_over_and_goes_on_with_a_span_of_ours() {
        let trace = Trace::of(&head(&[GOOD]));
        assert_eq!(trace.id_text(&mut [0; 32]), &GOOD[3..35]);
        assert_eq!(trace.parent.map(|parent| format!("{parent:016x}")).as_deref(), Some(&GOOD[36..52]));
        let sent = trace.to_string();
        assert!(sent.starts_with(&GOOD[..36]) && sent.ends_with("-01") && sent[36..52] != GOOD[36..52], "{sent}");
    }

    #[test]
    fn what_is_not_of_the_form_is_ignored() {
        let (id, span) = (&GOOD[3..35], &GOOD[36..52]);
        let wrong = [
            String::new(),
            GOOD.replacen("00-", "01-", 1),
            GOOD.replacen("00-", "ff-", 1),
            GOOD.to_uppercase(),
            format!("{GOOD}-"),
            format!("{GOOD}-more"),
            format!(" {GOOD}"),
            GOOD[..54].to_owned(),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{id}-{span}-0g"),
            format!("00-{id}_{span}-01"),
            format!("00-{id}+{span}-01"),
            format!("00-+{}-{span}-01", &id[1..]),
        ];
        for text in wrong {
            assert_eq!(Parent::parse(text.as_bytes()), None, "{text:?}");
            assert_eq!(Trace::of(&head(&[&text])).parent, None, "{text:?}");
        }
        assert_eq!(Trace::of(&head(&[GOOD, GOOD])).parent, None, "which of them is meant?");
        assert!(Parent::parse(GOOD.replace("-01", "-02").as_bytes()).is_some_and(|parent| !parent.sampled));
    }

    #[test]
    fn no_two_requests_have_the_same_ids() {
        let many = (0..4).map(|_| std::thread::spawn(|| (0..5000).map(|_| Trace::begin()).collect::<Vec<_>>()));
        let traces: Vec<Trace> = many.collect::<Vec<_>>().into_iter().flat_map(|t| t.join().unwrap()).collect();
        let ids: std::collections::BTreeSet<_> = traces.iter().map(|trace| trace.id).collect();
        let spans: std::collections::BTreeSet<_> = traces.iter().map(|trace| trace.span).collect();
        assert_eq!((ids.len(), spans.len()), (20_000, 20_000));
    }

    #[tokio::test]
    async fn it_goes_with_the_task_and_is_sent_where_there_is_one() {
        assert_eq!(header(), None);
        let trace = Trace::of(&head(&[GOOD]));
        let carried = scope(Some(trace.clone()), async {
            tokio::spawn(crate::trail::carry(async { header().unwrap() })).await.unwrap()
        });
        assert_eq!(carried.await, trace.to_string());
        assert_eq!(scope(None, async { header() }).await, None);
        assert_eq!(scope(Some(trace.untold()), async { header() }).await, None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(id in 1u128.., span in 1u64.., flags: u8) {
            let text = format!("00-{id:032x}-{span:016x}-{flags:02x}");
            let parent = Parent::parse(text.as_bytes()).unwrap();
            prop_assert_eq!((parent.trace.get(), parent.span.get(), parent.sampled), (id, span, flags & 1 == 1));
            fuzz(text.as_bytes());
        }

        #[test]
        fn one_byte_off_is_another_trace_or_none(at in 0usize..55, byte: u8) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = byte;
            let is_hex = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let fixed = matches!(at, 0..3 | 35 | 52);
            let accepted = if fixed { byte == GOOD.as_bytes()[at] } else { is_hex };
            prop_assert_eq!(Parent::parse(&text).is_some(), accepted);
            fuzz(&text);
        }

        #[test]
        fn nothing_at_all_is_too_much(bytes: Vec<u8>) {
            fuzz(&bytes);
        }
    }

    #[test]
    fn the_corpus_is_replayed() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/traceparent");
        let mut accepted = 0;
        for file in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            fuzz(&bytes);
            accepted += usize::from(Parent::parse(&bytes).is_some());
        }
        assert!(accepted > 0, "seeds from which a fuzzer gets somewhere");
    }
}
