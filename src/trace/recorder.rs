//! Where spans wait until somebody sends them on: a queue with a bound, which nobody who is served ever waits for.
//!
//! Without the feature `otlp` there is no value of [`Recorder`], so that whatever would be recorded compiles to nothing.

#[cfg(feature = "otlp")]
pub use self::queue::{BOUND, Batch, Recorder};

/// Who takes spans: nobody.
#[cfg(not(feature = "otlp"))]
#[derive(Debug, Clone)]
pub struct Recorder(std::convert::Infallible);

#[cfg(not(feature = "otlp"))]
impl Recorder {
    /// Takes one.
    pub fn take(&self, _: super::Span) {
        match self.0 {}
    }
}

#[cfg(feature = "otlp")]
mod queue {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use prometheus::IntCounter;
    use tokio::sync::Notify;

    use crate::trace::Span;

    /// So many spans wait: a few megabytes.
    pub const BOUND: usize = 4096;
    /// Whoever sends them is woken for so many; it looks by itself now and then.
    const WORTH_A_WAKE: usize = 512;

    /// Who takes spans. Cheap to clone.
    #[derive(Debug, Clone)]
    pub struct Recorder(Arc<Shared>);

    #[derive(Debug)]
    struct Shared {
        waiting: Mutex<VecDeque<Span>>,
        many: Notify,
        dropped: IntCounter,
    }

    impl Recorder {
        /// An empty one, which counts in `dropped` the spans that come to nothing.
        pub fn new(dropped: IntCounter) -> Self {
            Self(Arc::new(Shared { waiting: Mutex::default(), many: Notify::new(), dropped }))
        }

        /// Takes a span, or drops it where too many wait already.
        pub fn take(&self, span: Span) {
            let mut waiting = self.lock();
            if waiting.len() >= BOUND {
                drop(waiting);
                self.0.dropped.inc();
                return;
            }
            waiting.push_back(span);
            let is_worth_a_wake = waiting.len().is_multiple_of(WORTH_A_WAKE);
            drop(waiting);
            if is_worth_a_wake {
                self.0.many.notify_one();
            }
        }

        /// Until many wait; told to one who asks.
        pub async fn many(&self) {
            self.0.many.notified().await;
        }

        /// The oldest spans, `most` at most.
        pub fn batch(&self, most: usize) -> Batch {
            let mut waiting = self.lock();
            let count = most.min(waiting.len());
            Batch { spans: waiting.drain(..count).collect(), dropped: self.0.dropped.clone() }
        }

        fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
            // A push or a drain is all that happens under it.
            self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
            self.dropped.inc_by(waiting.len() as u64);
        }
    }

    /// Spans on their way; whatever is not [`sent`](Batch::sent) counts as dropped.
    #[derive(Debug)]
    pub struct Batch {
        spans: Vec<Span>,
        dropped: IntCounter,
    }

    impl Batch {
        /// What is on the way.
        pub fn spans(&self) -> &[Span] {
            &self.spans
        }

        /// It has arrived, but for so many; tells how many did.
        pub fn sent(mut self, but: u64) -> u64 {
            let all = std::mem::take(&mut self.spans).len() as u64;
            let refused = but.min(all);
            self.dropped.inc_by(refused);
            all - refused
        }
    }

    impl Drop for Batch {
        fn drop(&mut self) {
            self.dropped.inc_by(self.spans.len() as u64);
        }
    }

    #[cfg(test)]
    mod tests {
        use std::time::Duration;

        use super::*;
        use crate::trace::{Kind, Trace};

        fn span() -> Span {
            let Trace { id: trace, parent, span: id, .. } = Trace::begin();
            let (begun, took) = (Duration::ZERO, Duration::ZERO);
            Span { trace, id, parent, kind: Kind::Server, name: "nar", begun, took, failed: None, attributes: vec![] }
        }

        fn recorder() -> (Recorder, IntCounter) {
            let dropped = IntCounter::new("dropped", "dropped").unwrap();
            (Recorder::new(dropped.clone()), dropped)
        }

        #[test]
        fn what_is_beyond_the_bound_is_dropped_and_every_span_is_counted_once() {
            let (recorder, dropped) = recorder();
            let spans: Vec<Span> = (0..BOUND + 7).map(|_| span()).collect();
            spans.iter().for_each(|span| recorder.take(span.clone()));
            assert_eq!(dropped.get(), 7);
            let first = recorder.batch(100);
            assert_eq!(first.spans(), &spans[..100], "the oldest, in order");
            assert_eq!(first.sent(0), 100);
            assert_eq!((recorder.batch(10).sent(3), dropped.get()), (7, 10), "some were refused");
            drop(recorder.batch(5));
            assert_eq!(dropped.get(), 15, "never sent");
            drop(recorder);
            assert_eq!(dropped.get(), 15 + BOUND as u64 - 115, "nobody will send them any more");
        }

        #[tokio::test]
        async fn who_sends_is_woken_for_many_and_not_for_each() {
            let (recorder, _) = recorder();
            let mut many = std::pin::pin!(recorder.many());
            for n in 1..WORTH_A_WAKE {
                recorder.take(span());
                assert!(futures_util::poll!(many.as_mut()).is_pending(), "{n}");
            }
            recorder.take(span());
            assert!(futures_util::poll!(many).is_ready());
        }
    }
}
