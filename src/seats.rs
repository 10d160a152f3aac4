//! Counts that have a limit: whoever takes a seat gives it back by dropping it, so that no way out forgets to.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// A number of seats, shared by all workers and by both instances of the HTTP application.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    limit: usize,
    shown: Gauge,
}

/// One seat, given back when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// `limit` free seats; how many are taken is shown in `shown`.
    pub fn new(limit: usize, shown: Gauge) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), limit, shown })
    }

    /// A seat, or `None` when all are taken.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < self.limit).then_some(taken + 1));
        taken.ok().map(|_| {
            self.shown.inc();
            Seat(self.clone())
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.dec();
    }
}

/// So many seats for each key: a user, an address. Holds nothing for a key that has none taken.
#[derive(Debug)]
pub struct KeyedSeats<K> {
    taken: Mutex<HashMap<K, usize>>,
    limit: usize,
}

/// A seat of one key, given back when dropped. Where there is no limit it is nobody's, and costs nothing.
#[derive(Debug)]
pub struct KeyedSeat<K: Eq + Hash>(Option<Box<Held<K>>>);

#[derive(Debug)]
struct Held<K> {
    seats: Arc<KeyedSeats<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> KeyedSeats<K> {
    /// `limit` seats for each key; 0 is no limit.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), limit })
    }

    /// A seat, or `None` when the key has all of its own.
    pub fn take(self: &Arc<Self>, key: &K) -> Option<KeyedSeat<K>> {
        if self.limit == 0 {
            return Some(KeyedSeat(None));
        }
        let mut taken = self.taken.lock();
        match taken.entry(key.clone()) {
            Entry::Occupied(count) if *count.get() >= self.limit => return None,
            entry => *entry.or_insert(0) += 1,
        }
        Some(KeyedSeat(Some(Box::new(Held { seats: self.clone(), key: key.clone() }))))
    }
}

impl<K: Eq + Hash> Drop for KeyedSeat<K> {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        if let Entry::Occupied(mut count) = held.seats.taken.lock().entry(held.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_seats_and_leaves_nothing_behind() {
        let seats = KeyedSeats::new(1);
        let ann = seats.take(&"ann").unwrap();
        assert!(seats.take(&"ann").is_none());
        assert!(seats.take(&"bob").is_some());
        drop(ann);
        assert!(seats.take(&"ann").is_some());
        assert!(seats.taken.lock().is_empty());
        let unlimited = KeyedSeats::new(0);
        let _all: Vec<_> = (0..10).map(|_| unlimited.take(&"ann").unwrap()).collect();
    }

    #[test]
    fn a_dropped_seat_is_free_again() {
        let seats = Seats::new(1, Gauge::default());
        let seat = seats.take().unwrap();
        assert!(seats.take().is_none());
        drop(seat);
        assert!(seats.take().is_some());
        assert_eq!(seats.taken(), 0);
    }
}
