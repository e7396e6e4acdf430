//! The connections that each client has open, and how many handshakes of it run at a time.
//!
//! A client has an entry while it has a connection, so there are no more of them than connections, whose number is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::{Client, Patience};

/// Who has connections open.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<Client, Place>>);

#[derive(Debug)]
struct Place {
    open: usize,
    handshakes: Arc<Semaphore>,
    patience: Arc<Patience>,
}

/// One open connection of a client. Dropping it gives the place back.
#[derive(Debug)]
pub struct Seat {
    places: Arc<Places>,
    client: Client,
    handshakes: Arc<Semaphore>,
    patience: Arc<Patience>,
}

impl Places {
    /// A place for one more connection, while the client has fewer than `most`; of all its connections `handshakes` may shake
    /// hands at a time.
    pub fn take(self: &Arc<Self>, client: Client, most: usize, handshakes: usize) -> Option<Seat> {
        let mut places = self.lock();
        let new = || Place { open: 0, handshakes: Arc::new(Semaphore::new(handshakes)), patience: Arc::default() };
        let place = places.entry(client).or_insert_with(new);
        if place.open >= most && place.open > 0 {
            return None;
        }
        place.open += 1;
        let (handshakes, patience) = (Arc::clone(&place.handshakes), Arc::clone(&place.patience));
        Some(Seat { places: Arc::clone(self), client, handshakes, patience })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // numbers: nothing is half done
    }
}

impl Seat {
    /// The permits for handshakes of this client.
    pub fn handshakes(&self) -> &Semaphore {
        &self.handshakes
    }

    /// What is borne of this client.
    pub fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        if let Some(place) = places.get_mut(&self.client) {
            place.open -= 1;
            if place.open == 0 {
                places.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_connection_has_no_entry() {
        let places = Arc::new(Places::default());
        let client = |n: u8| Client::at(Some([127, 0, 0, n].into()));
        let seats = [places.take(client(1), 2, 1).unwrap(), places.take(client(1), 2, 1).unwrap()];
        assert!(places.take(client(1), 2, 1).is_none());
        let other = places.take(client(2), 2, 1).expect("another one has places of its own");
        let held = seats[0].handshakes().try_acquire().unwrap();
        assert!(seats[1].handshakes().try_acquire().is_err() && other.handshakes().try_acquire().is_ok());
        drop(held);
        let [first, second] = seats;
        drop(first);
        let third = places.take(client(1), 2, 1).expect("one is free again");
        drop((second, third, other));
        assert!(places.lock().is_empty());
        assert!(places.take(client(3), 0, 1).is_some(), "no bound closes a door for good");
        assert!(places.lock().is_empty());
    }
}
