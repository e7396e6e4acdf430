//! Names of upstreams to addresses: the system's resolver, asked anew for each connection, by a bounded number of threads.
//!
//! The resolver blocks its thread, at worst for as long as its servers are silent (half a minute), or for good. So who
//! asks for a name that is being looked up waits for that lookup; only one that takes longer than [`STUCK`] is joined by
//! a second, because the network may be back by then; and there are [`THREADS`] for an upstream, not one for each request.
//! Nothing is remembered: an upstream that moved is found by the next connection.
//!
//! Out of scope: how long anybody waits (`connect`), and which addresses may be connected to (`reach`).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Lookups of one upstream that block a thread each.
const THREADS: usize = 4;
/// After so long a lookup is not joined any more, while there is a thread for another.
const STUCK: Duration = Duration::from_secs(3);

/// What a lookup found, with port 0, in the order in which they should be tried.
type Found = Result<Arc<[SocketAddr]>, Arc<str>>;
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The names of one upstream: its own, its proxy's, and those that it redirects to.
#[derive(Clone)]
pub(super) struct Names(Arc<Inner>);

struct Inner {
    lookup: Box<Lookup>,
    running: Mutex<HashMap<String, Running>>,
    threads: Arc<Semaphore>,
}

/// The youngest lookup of a name.
struct Running {
    since: Instant,
    found: watch::Receiver<Option<Found>>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    /// The system's.
    pub(super) fn new() -> Self {
        Self::by(|name| Ok((name, 0).to_socket_addrs()?.collect()))
    }

    /// Those that `lookup` finds, which may block.
    pub(super) fn by(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        let threads = Arc::new(Semaphore::new(THREADS));
        Self(Arc::new(Inner { lookup: Box::new(lookup), running: Mutex::default(), threads }))
    }

    /// The addresses of `name`, with port 0.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub(super) async fn addresses(&self, name: &str) -> io::Result<Arc<[SocketAddr]>> {
        let mut found = self.begun(name)?;
        let found = found.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(why)) => Err(io::Error::other(format!("the name {name} has no address: {why}"))),
            None => Err(io::Error::other(format!("the lookup of the name {name} died"))),
        }
    }

    /// A lookup of `name` that runs.
    fn begun(&self, name: &str) -> io::Result<watch::Receiver<Option<Found>>> {
        let mut running = self.0.running();
        let joined = running.get(name);
        if let Some(Running { found, .. }) = joined.filter(|running| running.since.elapsed() < STUCK) {
            return Ok(found.clone());
        }
        let Ok(thread) = Arc::clone(&self.0.threads).try_acquire_owned() else {
            let none_left = || io::Error::other(format!("{THREADS} lookups of names hang already"));
            return joined.map(|running| running.found.clone()).ok_or_else(none_left);
        };
        let (tell, found) = watch::channel(None);
        let since = Instant::now();
        running.insert(name.to_owned(), Running { since, found: found.clone() });
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let looked_up = (inner.lookup)(&name);
            drop(thread);
            // Whoever asks from now on asks anew.
            let mut running = inner.running();
            if running.get(&name).is_some_and(|running| running.since == since) {
                running.remove(&name);
            }
            drop(running);
            let _ = tell.send(Some(looked_up.map(Arc::from).map_err(|error| error.to_string().into())));
        });
        Ok(found)
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn address(n: usize) -> SocketAddr {
        format!("192.0.2.{n}:0").parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_is_looked_up_anew_each_time() {
        let count = AtomicUsize::new(0);
        let names = Names::by(move |_| Ok(vec![address(count.fetch_add(1, Ordering::Relaxed))]));
        for n in 0..3 {
            assert_eq!(*names.addresses("a").await.unwrap(), [address(n)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_that_hang_are_joined_and_take_few_threads() {
        let (release, released) = mpsc::channel::<()>();
        let (released, count) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        let names = Names::by(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
            Ok(vec![address(1)])
        });
        // The clock is paused, and stays so while a thread of the resolver is busy: time is what the test says.
        let mut waiting = Vec::new();
        for _ in 0..3 * THREADS {
            for _ in 0..10 {
                waiting.push(names.begun("a").unwrap());
            }
            tokio::time::advance(STUCK).await;
        }
        assert!(names.begun("b").unwrap_err().to_string().contains("hang already"));
        for _ in 0..THREADS {
            release.send(()).unwrap();
        }
        for mut found in waiting {
            assert!(found.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_ok());
        }
        assert_eq!(count.load(Ordering::SeqCst), THREADS);
        release.send(()).unwrap();
        assert!(names.addresses("b").await.is_ok());
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_with_the_reason() {
        let names = Names::by(|_| Err(io::Error::other("nobody knows it")));
        let told = names.addresses("a.example").await.unwrap_err().to_string();
        assert_eq!(told, "the name a.example has no address: nobody knows it");
    }
}
