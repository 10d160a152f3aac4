//! Rate limits: the algorithm, and a limiter for many keys. Its table has a fixed size, so that no number of keys makes it
//! grow, and needs no cleanup.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Cells in each of the two rows. The table takes 512 KiB; the system provides its pages when they are first used.
const CELLS_PER_ROW: usize = 32 * 1024;

/// The generic cell rate algorithm (GCRA): a token bucket in one number, the time at which the bucket will be full again. Pure;
/// times are nanoseconds since a start that the caller chooses once.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    /// Time between two events at the sustained rate.
    pub interval: u64,
    /// How far in the future a bucket may be full: the number of events that are allowed at once, as time.
    pub burst: u64,
}

impl Gcra {
    /// Returns the time between two events, or `None` for a rate of 0, which means no limit.
    pub fn interval(per_second: u32) -> Option<u64> {
        1_000_000_000_u64.checked_div(per_second.into())
    }

    /// Charges one more event at `now` to a bucket that would be full at `full_at`. Returns when the bucket will then be full, and
    /// how long the event would have to wait to be within the burst; 0 if it is within the burst now.
    pub fn charge(self, full_at: u64, now: u64) -> (u64, u64) {
        let full_at = full_at.max(now).saturating_add(self.interval);
        (full_at, (full_at - now).saturating_sub(self.burst))
    }
}

/// Limits the events of each key to a rate, with a burst for keys that were idle before.
///
/// A key has one cell in each of two rows. A hash that clients cannot predict chooses them. An event is charged to both cells and
/// refused only if both are exhausted: a key that shares one cell with a flooding key still has the other. With 1,000 keys at
/// their limit, one in a thousand other keys shares both cells with them. Exhausting all cells takes `CELLS_PER_ROW` times the
/// rate, which is more than an instance can serve.
#[derive(Debug)]
pub struct KeyedRateLimiter {
    /// `None`: no limit.
    gcra: Option<Gcra>,
    started: Instant,
    hasher: RandomState,
    /// For each cell the nanoseconds since `started` at which its bucket is full. One lock protects both rows and is held for two
    /// loads and two stores, so that two events at the same time are charged as two.
    rows: Mutex<[Box<[u64]>; 2]>,
}

impl KeyedRateLimiter {
    /// Creates a limiter that allows `per_second` events for each key, and `burst` (at least one) at once. 0 per second: no limit
    /// and no memory.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::with_nanos(Gcra::interval(per_second), burst)
    }

    /// Creates a limiter that allows an event for each key in each `interval`, and `burst` (at least one) at once.
    pub fn with_interval(interval: Duration, burst: u32) -> Self {
        Self::with_nanos(Some(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)), burst)
    }

    fn with_nanos(interval: Option<u64>, burst: u32) -> Self {
        let gcra = interval.map(|interval| Gcra { interval, burst: interval.saturating_mul(u64::from(burst.max(1))) });
        let cells = if gcra.is_some() { CELLS_PER_ROW } else { 0 };
        Self {
            gcra,
            started: Instant::now(),
            hasher: RandomState::new(),
            rows: Mutex::new([vec![0; cells].into(), vec![0; cells].into()]),
        }
    }

    /// Charges an event to `key`.
    ///
    /// # Errors
    /// How long the key has to wait, if the event exceeds the rate. It is not charged then.
    pub fn charge<K: Hash + ?Sized>(&self, key: &K) -> Result<(), Duration> {
        self.charge_at(key, self.now())
    }

    /// Checks whether an event of `key` would be within the rate, and charges none.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn check<K: Hash + ?Sized>(&self, key: &K) -> Result<(), Duration> {
        self.check_at(key, self.now())
    }

    /// Returns the rate; `None`: no limit.
    pub fn gcra(&self) -> Option<Gcra> {
        self.gcra
    }

    /// Has the bucket of `key` be full again after this time, unless that takes longer anyway: others have charged the rest.
    pub fn exhaust<K: Hash + ?Sized>(&self, key: &K, left: Duration) {
        self.exhaust_at(key, left, self.now());
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn cells<K: Hash + ?Sized>(&self, key: &K) -> [usize; 2] {
        let hash = self.hasher.hash_one(key);
        [hash as usize % CELLS_PER_ROW, (hash >> 32) as usize % CELLS_PER_ROW]
    }

    fn check_at<K: Hash + ?Sized>(&self, key: &K, now: u64) -> Result<(), Duration> {
        let Some(gcra) = self.gcra else { return Ok(()) };
        let cells = self.cells(key);
        let rows = self.rows.lock();
        let (_, wait) = gcra.charge(rows[0][cells[0]].min(rows[1][cells[1]]), now);
        if wait > 0 { Err(Duration::from_nanos(wait)) } else { Ok(()) }
    }

    fn exhaust_at<K: Hash + ?Sized>(&self, key: &K, left: Duration, now: u64) {
        if self.gcra.is_some() {
            let full_at = now.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            self.raise(&mut self.rows.lock(), self.cells(key), full_at);
        }
    }

    /// Has both cells be full at this time, or later. A cell that another key has charged further stays as it is.
    fn raise(&self, rows: &mut [Box<[u64]>; 2], cells: [usize; 2], full_at: u64) {
        for (row, cell) in rows.iter_mut().zip(cells) {
            row[cell] = row[cell].max(full_at);
        }
    }

    fn charge_at<K: Hash + ?Sized>(&self, key: &K, now: u64) -> Result<(), Duration> {
        let Some(gcra) = self.gcra else { return Ok(()) };
        let cells = self.cells(key);
        let mut rows = self.rows.lock();
        let (full_at, wait) = gcra.charge(rows[0][cells[0]].min(rows[1][cells[1]]), now);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        self.raise(&mut rows, cells, full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn after_the_burst_a_key_that_waits_as_long_as_returned_is_allowed() {
        let limiter = KeyedRateLimiter::new(10, 20);
        let served = (0..100).filter(|_| limiter.charge_at("ann", SECOND).is_ok()).count();
        assert_eq!(served, 20);
        let wait = limiter.charge_at("ann", SECOND).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        let then = SECOND + u64::try_from(wait.as_nanos()).unwrap();
        assert!(limiter.charge_at("ann", then - 1).is_err());
        assert_eq!(limiter.charge_at("ann", then), Ok(()));
        assert!(limiter.charge_at("ann", then).is_err());
        assert_eq!(limiter.charge_at("bob", SECOND), Ok(()), "each key has its own bucket");
        let again = (0..100).filter(|_| limiter.charge_at("ann", 60 * SECOND).is_ok()).count();
        assert_eq!(again, 20, "an idle bucket fills up, but not beyond the burst");
    }

    #[test]
    fn check_tells_what_a_charge_would_and_charges_nothing() {
        let limiter = KeyedRateLimiter::new(10, 2);
        assert!((0..100).all(|_| limiter.check_at("ann", SECOND).is_ok()));
        assert!(limiter.charge_at("ann", SECOND).is_ok() && limiter.charge_at("ann", SECOND).is_ok());
        assert_eq!(limiter.check_at("ann", SECOND), Err(Duration::from_millis(100)));
        assert_eq!((limiter.check_at("bob", SECOND), limiter.check_at("ann", 2 * SECOND)), (Ok(()), Ok(())));
        assert_eq!(KeyedRateLimiter::new(0, 0).check("ann"), Ok(()));
    }

    #[test]
    fn bucket_that_others_have_exhausted_is_full_again_after_the_time_they_say() {
        let limiter = KeyedRateLimiter::new(10, 20);
        assert_eq!(limiter.charge_at("ann", SECOND), Ok(()));
        limiter.exhaust_at("ann", Duration::from_secs(3), SECOND);
        assert_eq!(
            limiter.charge_at("ann", SECOND),
            Err(Duration::from_millis(1100)),
            "3 s are 30 events, and 20 may wait"
        );
        limiter.exhaust_at("ann", Duration::ZERO, SECOND);
        assert!(limiter.charge_at("ann", SECOND).is_err(), "others make no room");
        assert_eq!(limiter.charge_at("ann", SECOND + 1_100_000_000), Ok(()));
        assert_eq!(limiter.charge_at("bob", SECOND), Ok(()));
        KeyedRateLimiter::new(0, 0).exhaust("ann", Duration::from_secs(3));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit_and_uses_no_memory() {
        let limiter = KeyedRateLimiter::new(0, 0);
        assert!((0..10_000).all(|_| limiter.charge("ann").is_ok()));
        assert!(limiter.rows.lock()[0].is_empty());
    }

    #[test]
    fn a_rate_of_one_without_a_burst_allows_one() {
        let limiter = KeyedRateLimiter::new(1, 0);
        assert_eq!(limiter.charge_at("ann", 0), Ok(()));
        assert_eq!(limiter.charge_at("ann", 0), Err(Duration::from_secs(1)));
    }

    #[test]
    fn a_thousand_flooding_keys_affect_few_other_keys() {
        let limiter = KeyedRateLimiter::new(10, 20);
        for flood in 0..1_000 {
            let spent = (0..30).filter(|_| limiter.charge_at(&("flood", flood), SECOND).is_err()).count();
            assert!(spent >= 10);
        }
        let refused = (0..10_000).filter(|other| limiter.charge_at(&("other", other), SECOND).is_err()).count();
        // One in a thousand is expected. The bound fails by chance less than once in 10^12 runs.
        assert!(refused < 60, "{refused} of 10,000 refused because of the flooding keys");
    }

    #[test]
    fn concurrent_events_are_all_counted() {
        let limiter = KeyedRateLimiter::new(1, 100);
        let served = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| limiter.charge_at("ann", 0).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(served, 100);
    }
}
