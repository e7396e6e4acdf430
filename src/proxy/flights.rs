//! Coalescing: many clients that ask for the same thing at once cause one question upstream.
//!
//! The question is asked by a task of its own, so no client's leaving ends it (R28). Whoever comes while it runs gets
//! the value it publishes; the key stays taken until the task has ended, so that between publishing a value and storing
//! it nobody asks again. A question that has passed other servers of this kind is joined by those that have passed as many: where two
//! have each other as upstreams, one that comes back has passed more, so that none waits for itself. What was answered because
//! of the servers that the first had passed is nothing to those that passed others: they ask themselves (see `trail`).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::trail::{self, Trail};

/// The most questions asked at once (R26): clients that ask and leave cannot pile up more.
const MOST: usize = 4096;

/// What clients are told when there is no value.
pub(super) const NOT_ASKED: &str =
    "too many requests wait for upstreams here, or the question died (see snowbank's log); try again";

/// What is asked, how many servers the question has passed, and which, where that matters.
type Asked<K> = (K, usize, Option<Trail>);

type Running<K, V> = Arc<Mutex<HashMap<Asked<K>, (watch::Receiver<Option<V>>, Trail)>>>;

/// The questions being asked.
#[derive(Debug, Clone)]
pub(super) struct Flights<K, V> {
    running: Running<K, V>,
    tasks: TaskTracker,
}

/// Where the task says its value.
pub(super) struct Publish<V>(watch::Sender<Option<V>>);

impl<V> Publish<V> {
    /// Everybody who waits, and who still comes, gets `value`.
    pub(super) fn say(&self, value: V) {
        self.0.send_replace(Some(value));
    }
}

/// Gives the key up when the task ends, also when it panics (R35): those who wait are told by the closed channel.
struct Taken<K: Hash + Eq, V> {
    key: Asked<K>,
    running: Running<K, V>,
    /// Keeps the channel open until the key is free, so that whoever comes after its closing asks anew.
    _open: watch::Sender<Option<V>>,
}

impl<K: Hash + Eq, V> Drop for Taken<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { running: Arc::default(), tasks: TaskTracker::new() }
    }

    /// The value for `key`: from the task that is asking already, or from `ask`, run in a task of its own. The flag is
    /// true when it was asked for this call. `None` when too many questions are being asked, or the task died.
    pub(super) async fn join<F>(&self, key: K, ask: impl FnOnce(Publish<V>) -> F) -> (Option<V>, bool)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (here, mut ask) = (trail::here(), Some(ask));
        let (value, of) = self.join_one((key.clone(), here.len(), None), &here, &mut ask).await;
        if ask.is_none() || of.shares_with(&here) {
            return (value, ask.is_none());
        }
        let (value, _) = self.join_one((key, here.len(), Some(here.clone())), &here, &mut ask).await;
        (value, ask.is_none())
    }

    /// The value, and the trail that it was asked for on. Takes `ask`, if it is to be asked now.
    async fn join_one<F>(
        &self,
        key: Asked<K>,
        here: &Trail,
        ask: &mut Option<impl FnOnce(Publish<V>) -> F>,
    ) -> (Option<V>, Trail)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut receiver, of) = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match (running.get(&key), running.len() < MOST) {
                (Some(one), _) => one.clone(),
                (None, false) => return (None, here.clone()),
                (None, true) => {
                    let Some(ask) = ask.take() else { return (None, here.clone()) };
                    let (sender, receiver) = watch::channel(None);
                    running.insert(key.clone(), (receiver.clone(), here.clone()));
                    let taken = Taken { key, running: Arc::clone(&self.running), _open: sender.clone() };
                    let asked = trail::carry(ask(Publish(sender)));
                    self.tasks.spawn(async move {
                        asked.await;
                        drop(taken);
                    });
                    (receiver, here.clone())
                }
            }
        };
        let value = match receiver.wait_for(Option::is_some).await {
            Ok(value) => value.clone(),
            Err(_died) => None,
        };
        (value, of)
    }

    /// Waits until every question has been answered; none may be asked after this was called.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_hundred_callers_cause_one_question() {
        let flights: Flights<u8, usize> = Flights::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let (flights, asked, gate) = (flights.clone(), Arc::clone(&asked), Arc::clone(&gate));
                tokio::spawn(async move {
                    flights
                        .join(1, |publish| async move {
                            asked.fetch_add(1, Ordering::Relaxed);
                            gate.notified().await;
                            publish.say(7);
                        })
                        .await
                })
            })
            .collect();
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        let mut started = 0;
        for caller in callers {
            let (value, first) = caller.await.unwrap();
            assert_eq!(value, Some(7));
            started += usize::from(first);
        }
        flights.finish().await;
        assert_eq!((asked.load(Ordering::Relaxed), started), (1, 1));
    }

    fn passed(id: &str) -> Trail {
        let line = format!("snowbank;id={id}").parse().unwrap();
        Trail::of(&[(trail::CDN_LOOP, line)].into_iter().collect()).unwrap()
    }

    /// Fifty callers on each of these trails; how often it is asked for them, where the answers are because of `of`.
    async fn asked_for(trails: &[Trail], of: &'static str, least: usize) -> usize {
        let flights: Flights<u8, usize> = Flights::new();
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let callers: Vec<_> = trails
            .iter()
            .flat_map(|trail| vec![trail.clone(); 50])
            .map(|trail| {
                let (flights, asked, gate) = (flights.clone(), Arc::clone(&asked), Arc::clone(&gate));
                tokio::spawn(trail.clone().scope(async move {
                    let ask = |publish: Publish<usize>| async move {
                        assert_eq!(trail::here(), trail, "it goes on with the question");
                        if asked.fetch_add(1, Ordering::Relaxed) < least {
                            gate.notified().await;
                        }
                        let line = format!("snowbank;id={of}").parse().unwrap();
                        let looped = trail::is_about_us(&[(trail::CDN_LOOP, line)].into_iter().collect());
                        publish.say(if looped { 404 } else { 7 });
                    };
                    flights.join(1, ask).await
                }))
            })
            .collect();
        while asked.load(Ordering::Relaxed) < least {
            tokio::task::yield_now().await;
        }
        // Each has joined by then: the runtime has one thread, and they were all spawned before.
        tokio::task::yield_now().await;
        gate.notify_waiters();
        for caller in callers {
            let value = caller.await.unwrap().0;
            assert!(matches!(value, Some(7 | 404)));
        }
        flights.finish().await;
        asked.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn questions_are_joined_by_those_that_passed_as_many_servers() {
        let trails = [passed("00112233445566aa"), passed("00112233445566bb"), Trail::default()];
        assert_eq!(asked_for(&trails, "ffffffffffffffff", 2).await, 2);
        // A client can forge a trail for each of its requests.
        let forged: Vec<Trail> = (0..20).map(|n| passed(&format!("{n:016}"))).collect();
        assert_eq!(asked_for(&forged, "ffffffffffffffff", 1).await, 1);
    }

    #[tokio::test]
    async fn what_one_is_told_because_of_its_trail_is_nothing_to_another() {
        let (first, other) = (passed("00112233445566aa"), passed("00112233445566bb"));
        let flights: Flights<u8, &str> = Flights::new();
        let gate = Arc::new(Notify::new());
        let asking = |trail: &Trail, said: [&'static str; 2]| {
            let (flights, gate) = (flights.clone(), Arc::clone(&gate));
            tokio::spawn(trail.clone().scope(async move {
                let ask = |publish: Publish<&'static str>| async move {
                    gate.notified().await;
                    let line = "snowbank;id=00112233445566aa".parse().unwrap();
                    let looped = trail::is_about_us(&[(trail::CDN_LOOP, line)].into_iter().collect());
                    publish.say(said[usize::from(looped)]);
                };
                flights.join(1, ask).await
            }))
        };
        let asked = [&first, &first, &other, &other].map(|trail| asking(trail, ["have", "nobody but you"]));
        tokio::task::yield_now().await;
        for _ in 0..4 {
            gate.notify_one();
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        let told: Vec<_> = futures_util::future::join_all(asked).await.into_iter().map(Result::unwrap).collect();
        let told: Vec<_> = told.into_iter().map(|(value, _)| value.unwrap()).collect();
        assert_eq!(told, ["nobody but you", "nobody but you", "have", "have"]);
        flights.finish().await;
    }

    #[tokio::test]
    async fn past_the_bound_nothing_is_asked() {
        let flights: Flights<usize, usize> = Flights::new();
        let gate = tokio_util::sync::CancellationToken::new();
        for key in 0..MOST {
            let gate = gate.clone();
            let asked = flights.join(key, |publish| async move {
                gate.cancelled().await;
                publish.say(1);
            });
            // Asked, and not waited for: as a client that leaves.
            assert!(futures_util::FutureExt::now_or_never(asked).is_none());
        }
        assert_eq!(flights.join(MOST, |publish| async move { publish.say(2) }).await, (None, false));
        gate.cancel();
        flights.finish().await;
        assert_eq!(flights.join(MOST, |publish| async move { publish.say(2) }).await, (Some(2), true));
    }

    #[tokio::test]
    async fn a_task_that_dies_leaves_nobody_waiting_and_the_key_free() {
        let flights: Flights<u8, usize> = Flights::new();
        let (value, _) = flights.join(1, |_publish| async { panic!("on purpose") }).await;
        assert_eq!(value, None);
        let (value, started) = flights.join(1, |publish| async move { publish.say(3) }).await;
        assert_eq!((value, started), (Some(3), true));
    }
}
