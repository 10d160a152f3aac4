//! Counts that have a limit: whoever takes a seat gives it back by dropping it, so that no way out forgets to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
