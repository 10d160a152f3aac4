//! A receiving thread's books: what came, what was skipped, how long it took, and which publications reached everyone.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::stamp::Stamp;
use crate::standing::Recoveries;

/// A jump further than this is a publication of somebody else's run, not a gap.
const FOREIGN_JUMP: u32 = 1_000_000;

/// Latencies in nanoseconds, to three digits, up to two minutes.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("constant bounds, within what the crate takes")
}

/// The publications of one lane that have not reached every connection of this thread.
#[derive(Debug)]
struct Lane {
    /// Sequence number of the first count.
    first: u32,
    /// How many connections are done with it: got it, skipped it, or left before it came.
    counts: VecDeque<u32>,
}

/// The books of one receiving thread.
#[derive(Debug)]
pub(crate) struct Tally {
    members: u32,
    departed: u32,
    lanes: Vec<Lane>,
    /// Deliveries of this program's publications.
    pub(crate) delivered: u64,
    /// Bytes read from sockets.
    pub(crate) bytes: u64,
    /// Times a sequence number jumped.
    pub(crate) gaps: u64,
    /// Publications skipped by those jumps.
    pub(crate) missed: u64,
    /// Deliveries that came twice or too late.
    pub(crate) disorder: u64,
    /// What positioned clients found.
    pub(crate) recoveries: Recoveries,
    /// Publish to delivery.
    pub(crate) latency: Histogram<u64>,
    /// Publications that every connection here is done with, as (lane, sequence), since this was last emptied.
    pub(crate) completed: Vec<(u16, u32)>,
}

impl Tally {
    /// Empty books for publishers with this many lanes.
    pub(crate) fn new(lanes: usize) -> Self {
        let lane = || Lane { first: 1, counts: VecDeque::new() };
        Self {
            members: 0,
            departed: 0,
            lanes: (0..lanes).map(|_| lane()).collect(),
            delivered: 0,
            bytes: 0,
            gaps: 0,
            missed: 0,
            disorder: 0,
            recoveries: Recoveries::default(),
            latency: latencies(),
            completed: Vec::new(),
        }
    }

    /// Counts a connection in, before the first publication.
    pub(crate) fn join(&mut self) {
        self.members += 1;
    }

    /// Books one delivery. `last` are the connection's newest sequence numbers by lane; only what was sent at or after
    /// `measured_from` goes into the latencies.
    pub(crate) fn deliver(&mut self, last: &mut [u32], stamp: Stamp, now: u64, measured_from: u64) {
        let Some(last) = last.get_mut(usize::from(stamp.lane)) else {
            self.count_only(stamp, now, measured_from);
            return;
        };
        if stamp.sequence <= *last {
            self.disorder += 1;
            return;
        }
        let skipped = stamp.sequence - *last - 1;
        if skipped > FOREIGN_JUMP {
            return;
        }
        self.gaps += u64::from(skipped > 0);
        self.missed += u64::from(skipped);
        self.delivered += 1;
        for sequence in *last + 1..=stamp.sequence {
            self.credit(stamp.lane, sequence);
        }
        *last = stamp.sequence;
        if stamp.sent >= measured_from {
            self.latency.saturating_record(now.saturating_sub(stamp.sent));
        }
    }

    /// With no lanes nothing is known of order: a lane's publications went to several channels, or several at once.
    fn count_only(&mut self, stamp: Stamp, now: u64, measured_from: u64) {
        if self.lanes.is_empty() {
            self.delivered += 1;
            if stamp.sent >= measured_from {
                self.latency.saturating_record(now.saturating_sub(stamp.sent));
            }
        }
    }

    /// Counts a connection out: nobody waits any longer for what it did not get.
    pub(crate) fn leave(&mut self, last: &[u32]) {
        self.departed += 1;
        for (number, lane) in (0..).zip(0..self.lanes.len().min(last.len())) {
            let books = &mut self.lanes[lane];
            let known = books.first.saturating_sub(1);
            let had = last[lane].saturating_sub(known) as usize;
            books.counts.iter_mut().skip(had).for_each(|count| *count += 1);
            self.settle(number);
        }
    }

    fn credit(&mut self, lane: u16, sequence: u32) {
        let books = &mut self.lanes[usize::from(lane)];
        let index = sequence.saturating_sub(books.first) as usize;
        if books.counts.len() <= index {
            books.counts.resize(index + 1, self.departed);
        }
        books.counts[index] += 1;
        self.settle(lane);
    }

    /// Within a lane they complete in order, as each connection gets them in order.
    fn settle(&mut self, lane: u16) {
        let books = &mut self.lanes[usize::from(lane)];
        while books.counts.front().is_some_and(|count| *count >= self.members) {
            books.counts.pop_front();
            self.completed.push((lane, books.first));
            books.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(lane: u16, sequence: u32) -> Stamp {
        Stamp { lane, sequence, sent: 10 }
    }

    fn two_members() -> Tally {
        let mut tally = Tally::new(2);
        tally.join();
        tally.join();
        tally
    }

    #[test]
    fn a_publication_is_complete_when_everyone_has_it() {
        let mut tally = two_members();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        tally.deliver(&mut one, stamp(1, 1), 25, 0);
        tally.deliver(&mut one, stamp(1, 2), 25, 0);
        assert!(tally.completed.is_empty());
        tally.deliver(&mut two, stamp(1, 1), 25, 0);
        assert_eq!(tally.completed, [(1, 1)]);
        assert_eq!((tally.delivered, tally.gaps, tally.latency.max()), (3, 0, 15));
    }

    #[test]
    fn a_gap_is_counted_and_holds_nobody_up() {
        let mut tally = two_members();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        tally.deliver(&mut one, stamp(0, 3), 25, 0);
        tally.deliver(&mut two, stamp(0, 1), 25, 0);
        tally.deliver(&mut two, stamp(0, 1), 25, 0);
        assert_eq!((tally.gaps, tally.missed, tally.disorder), (1, 2, 1));
        assert_eq!(tally.completed, [(0, 1)]);
    }

    #[test]
    fn a_connection_that_leaves_is_not_waited_for() {
        let mut tally = two_members();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        tally.deliver(&mut one, stamp(0, 1), 25, 0);
        tally.deliver(&mut two, stamp(0, 1), 25, 0);
        tally.deliver(&mut one, stamp(0, 2), 25, 0);
        tally.leave(&two);
        tally.deliver(&mut one, stamp(0, 3), 25, 100);
        assert_eq!(tally.completed, [(0, 1), (0, 2), (0, 3)]);
        assert_eq!(tally.latency.len(), 3);
    }
}
