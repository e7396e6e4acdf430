//! What each client has used of its budget: one number for each, of a bounded number of clients (R26).
//!
//! The number is the time at which the budget would be whole again, as the generic cell rate algorithm has it; `governor` decides
//! with it over requests and connections, and [`pacer`](super::pacer) over bytes. A client whose budget is whole needs no
//! entry: a sweep each minute takes out those.
//!
//! Addresses are cheap to whoever has a network of them. When there is no room, newcomers share a budget with others whose hash
//! falls into the same shard: 64 budgets together, more than the server could spend, so that strangers in great number may
//! push each other about, and neither memory grows nor the server stops (R40).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use prometheus::IntCounter;

use super::Client;

/// Parts with a lock each.
const SHARDS: usize = 64;
/// Entries of one part.
const MOST_OF_SHARD: usize = 1024;

/// The budgets of at most 65,536 clients, and 64 that the others share.
#[derive(Debug)]
pub struct Budgets {
    shards: Box<[Mutex<Shard>]>,
    /// Keyed, so that nobody can choose addresses that meet in one shard.
    hasher: RandomState,
    /// Counts who found no room.
    shared: IntCounter,
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<Client, Nanos>,
    shared: Option<Nanos>,
}

impl Budgets {
    /// None used. `shared` counts what is charged to shared budgets.
    pub fn new(shared: IntCounter) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), shared }
    }

    /// Lets `change` see what is known of a client, and keeps what it makes of it, all in one step.
    ///
    /// # Errors
    /// Those of `change`; nothing is kept then.
    pub fn update<T, E>(
        &self,
        client: &Client,
        change: impl FnOnce(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        let place = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or(0);
        let Shard { clients, shared } = &mut *lock(&self.shards[place]);
        if let Some(known) = clients.get_mut(client) {
            let (value, next) = change(Some(*known))?;
            *known = next;
            return Ok(value);
        }
        if clients.len() < MOST_OF_SHARD {
            let (value, next) = change(None)?;
            clients.insert(*client, next);
            return Ok(value);
        }
        self.shared.inc();
        let (value, next) = change(*shared)?;
        *shared = Some(next);
        Ok(value)
    }

    /// Forgets whose number is not above this.
    pub fn keep_above(&self, least: Nanos) {
        for shard in &self.shards {
            let Shard { clients, shared } = &mut *lock(shard);
            clients.retain(|_, known| *known > least);
            clients.shrink_to_fit();
            *shared = shared.filter(|known| *known > least);
        }
    }

    /// Clients with a budget of their own.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).clients.len()).sum()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner) // numbers: nothing is half done
}

impl StateStore for Budgets {
    type Key = Client;

    fn measure_and_replace<T, F, E>(&self, key: &Client, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.update(key, f)
    }
}

impl ShrinkableKeyedStateStore<Client> for Budgets {
    fn retain_recent(&self, drop_below: Nanos) {
        self.keep_above(drop_below);
    }

    fn len(&self) -> usize {
        self.count()
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;

    use super::*;

    fn budgets() -> Budgets {
        Budgets::new(IntCounter::new("shared", "shared").unwrap())
    }

    fn spend(budgets: &Budgets, client: Client, to: u64) -> Option<u64> {
        let spent = budgets.update(&client, |known| Ok::<_, Infallible>((known.map(u64::from), Nanos::new(to))));
        spent.unwrap_or_else(|never| match never {})
    }

    fn client(n: u32) -> Client {
        Client::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn a_million_clients_take_the_room_of_some_thousands() {
        let budgets = budgets();
        for n in 0..1_000_000 {
            spend(&budgets, client(n), 5);
        }
        assert_eq!(budgets.count(), SHARDS * MOST_OF_SHARD);
        let room: usize = budgets.shards.iter().map(|shard| lock(shard).clients.capacity()).sum();
        assert!(room <= 2 * SHARDS * MOST_OF_SHARD, "{room}");
        assert_eq!(usize::try_from(budgets.shared.get()).unwrap(), 1_000_000 - SHARDS * MOST_OF_SHARD);
        // Who came first keeps what is his, whoever else came; the others find what somebody like them left.
        assert_eq!(spend(&budgets, client(0), 9), Some(5));
        assert_eq!(spend(&budgets, client(0), 9), Some(9));
        assert_eq!(spend(&budgets, client(2_000_000), 7), Some(5));
        budgets.keep_above(Nanos::new(6));
        assert_eq!(budgets.count(), 1, "only one had more than that");
        let room: usize = budgets.shards.iter().map(|shard| lock(shard).clients.capacity()).sum();
        assert!(room < 100, "{room}");
        assert_eq!(spend(&budgets, client(2_000_001), 7), None);
    }

    #[test]
    fn what_is_refused_leaves_no_entry() {
        let budgets = budgets();
        assert_eq!(budgets.update(&client(1), |_| Err::<((), Nanos), _>("no")), Err("no"));
        assert_eq!(budgets.count(), 0);
        assert_eq!(spend(&budgets, client(1), 3), None);
        assert_eq!(budgets.update(&client(1), |_| Err::<((), Nanos), _>("no")), Err("no"));
        assert_eq!(spend(&budgets, client(1), 4), Some(3));
        assert_eq!(spend(&budgets, client(2), 4), None, "each has one of its own");
    }
}
