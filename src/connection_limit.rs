//! Limits on the number of connections. A connection holds a permit and returns it when the permit is dropped, so that no exit
//! path can forget it.

use std::{
    any::Any,
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// A limit that is shared by all workers and by both instances of the HTTP application.
#[derive(Debug)]
pub struct ConnectionLimit {
    in_use: AtomicUsize,
    limit: AtomicUsize,
    gauge: Gauge,
}

/// A permit for one connection, returned when dropped.
#[derive(Debug)]
pub struct Permit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Creates a limit of `limit` permits. `gauge` shows how many are in use.
    pub fn new(limit: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { in_use: AtomicUsize::new(0), limit: AtomicUsize::new(limit), gauge })
    }

    /// Changes the limit. Permits in use above a lower one stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns a permit, or `None` if all are in use.
    pub fn acquire(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let in_use = self
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| (in_use < limit).then_some(in_use + 1));
        in_use.ok().map(|_| {
            self.gauge.inc();
            Permit(self.clone())
        })
    }

    /// Returns how many permits are in use.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}

/// A limit for each key, such as a user or an address. Keys without permits in use take no memory.
#[derive(Debug)]
pub struct KeyedLimit<K> {
    in_use: Mutex<HashMap<K, usize>>,
    limit: AtomicUsize,
}

/// A permit of one key, returned when dropped. Without a limit it belongs to no key and costs nothing.
#[derive(Debug)]
pub struct KeyedPermit<K: Eq + Hash>(Option<Box<HeldPermit<K>>>);

#[derive(Debug)]
struct HeldPermit<K> {
    limit: Arc<KeyedLimit<K>>,
    key: K,
    /// Dropped together with the permit.
    attached: Option<Box<dyn Any + Send + Sync>>,
}

impl<K: Eq + Hash + Clone> KeyedLimit<K> {
    /// Creates a limit of `limit` permits for each key. 0: no limit.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { in_use: Mutex::default(), limit: AtomicUsize::new(limit) })
    }

    /// Changes the limit; 0: no limit. Permits in use above a lower one stay. Those that were acquired without a limit belong to no
    /// key, and do not count.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns a permit, or `None` if all permits of the key are in use.
    pub fn acquire(self: &Arc<Self>, key: &K) -> Option<KeyedPermit<K>> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Some(KeyedPermit(None));
        }
        let mut in_use = self.in_use.lock();
        match in_use.entry(key.clone()) {
            Entry::Occupied(count) if *count.get() >= limit => return None,
            entry => *entry.or_insert(0) += 1,
        }
        Some(KeyedPermit(Some(Box::new(HeldPermit { limit: self.clone(), key: key.clone(), attached: None }))))
    }
}

impl<K: Eq + Hash> KeyedPermit<K> {
    /// Keeps `attached` until the permit is dropped. It replaces what was attached before.
    pub fn attach(&mut self, attached: Box<dyn Any + Send + Sync>) {
        if let Some(held) = &mut self.0 {
            held.attached = Some(attached);
        }
    }
}

impl<K: Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        if let Entry::Occupied(mut count) = held.limit.in_use.lock().entry(held.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        drop(held.attached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_permits_and_leaves_no_entry_behind() {
        let permits = KeyedLimit::new(1);
        let ann = permits.acquire(&"ann").unwrap();
        assert!(permits.acquire(&"ann").is_none());
        assert!(permits.acquire(&"bob").is_some());
        drop(ann);
        assert!(permits.acquire(&"ann").is_some());
        assert!(permits.in_use.lock().is_empty());
        permits.set_limit(2);
        let two = [permits.acquire(&"ann"), permits.acquire(&"ann")];
        assert!(two.iter().all(Option::is_some) && permits.acquire(&"ann").is_none());
        permits.set_limit(1);
        drop(two);
        assert!(permits.in_use.lock().is_empty());
        let unlimited = KeyedLimit::new(0);
        let _all: Vec<_> = (0..10).map(|_| unlimited.acquire(&"ann").unwrap()).collect();
    }

    #[test]
    fn key_that_holds_another_permit_stays_counted_when_one_is_dropped() {
        let permits = KeyedLimit::new(2);
        let (one, _other) = (permits.acquire(&"ann").unwrap(), permits.acquire(&"ann").unwrap());
        drop(one);
        let _third = permits.acquire(&"ann").unwrap();
        assert!(permits.acquire(&"ann").is_none());
    }

    #[test]
    fn a_dropped_permit_is_available_again() {
        let permits = ConnectionLimit::new(1, Gauge::default());
        let permit = permits.acquire().unwrap();
        assert!(permits.acquire().is_none());
        drop(permit);
        assert!(permits.acquire().is_some());
        assert_eq!(permits.in_use(), 0);
        permits.set_limit(2);
        let two = [permits.acquire(), permits.acquire()];
        assert!(two.iter().all(Option::is_some) && permits.acquire().is_none());
    }
}
