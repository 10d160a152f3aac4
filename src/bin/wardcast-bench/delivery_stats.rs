//! A receiving thread's books: what came, what was skipped, how long it took, and which publications reached everyone.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::publication_stamp::PublicationStamp;
use crate::stream_position::RecoveryStats;

/// A jump further than this is a publication of somebody else's run, not a gap.
const MAX_SEQUENCE_JUMP: u32 = 1_000_000;

/// Latencies in nanoseconds, to three digits, up to two minutes.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("constant bounds, within what the crate takes")
}

/// The publications of one lane that have not reached every connection of this thread.
#[derive(Debug)]
struct PendingPublications {
    /// Sequence number of the first count.
    first_sequence: u32,
    /// How many connections are done with it: got it, skipped it, or left before it came.
    done_counts: VecDeque<u32>,
}

/// The books of one receiving thread.
#[derive(Debug)]
pub(crate) struct DeliveryStats {
    client_count: u32,
    departed_count: u32,
    publishers: Vec<PendingPublications>,
    /// Deliveries of this program's publications.
    pub(crate) delivered: u64,
    /// Bytes read from sockets.
    pub(crate) received_bytes: u64,
    /// Times a sequence number jumped.
    pub(crate) gaps: u64,
    /// Publications skipped by those jumps.
    pub(crate) missed: u64,
    /// Deliveries that came twice or too late.
    pub(crate) out_of_order: u64,
    /// What positioned clients found.
    pub(crate) recoveries: RecoveryStats,
    /// Publish to delivery.
    pub(crate) latency: Histogram<u64>,
    /// Publications that every connection here is done with, as (lane, sequence), since this was last emptied.
    pub(crate) completed: Vec<(u16, u32)>,
}

impl DeliveryStats {
    /// Empty books for publishers with this many lanes.
    pub(crate) fn new(publishers: usize) -> Self {
        let publisher = || PendingPublications { first_sequence: 1, done_counts: VecDeque::new() };
        Self {
            client_count: 0,
            departed_count: 0,
            publishers: (0..publishers).map(|_| publisher()).collect(),
            delivered: 0,
            received_bytes: 0,
            gaps: 0,
            missed: 0,
            out_of_order: 0,
            recoveries: RecoveryStats::default(),
            latency: latencies(),
            completed: Vec::new(),
        }
    }

    /// Counts a connection in, before the first publication.
    pub(crate) fn add_client(&mut self) {
        self.client_count += 1;
    }

    /// Books one delivery. `last` are the connection's newest sequence numbers by lane; only what was sent at or after
    /// `measured_from` goes into the latencies.
    pub(crate) fn record_delivery(
        &mut self,
        newest_sequence: &mut [u32],
        stamp: PublicationStamp,
        now: u64,
        measured_from: u64,
    ) {
        let Some(newest_sequence) = newest_sequence.get_mut(usize::from(stamp.publisher)) else {
            self.record_unordered(stamp, now, measured_from);
            return;
        };
        if stamp.sequence <= *newest_sequence {
            self.out_of_order += 1;
            return;
        }
        let skipped = stamp.sequence - *newest_sequence - 1;
        if skipped > MAX_SEQUENCE_JUMP {
            return;
        }
        self.gaps += u64::from(skipped > 0);
        self.missed += u64::from(skipped);
        self.delivered += 1;
        for sequence in *newest_sequence + 1..=stamp.sequence {
            self.mark_received(stamp.publisher, sequence);
        }
        *newest_sequence = stamp.sequence;
        if stamp.sent >= measured_from {
            self.latency.saturating_record(now.saturating_sub(stamp.sent));
        }
    }

    /// With no lanes nothing is known of order: a lane's publications went to several channels, or several at once.
    fn record_unordered(&mut self, stamp: PublicationStamp, now: u64, measured_from: u64) {
        if self.publishers.is_empty() {
            self.delivered += 1;
            if stamp.sent >= measured_from {
                self.latency.saturating_record(now.saturating_sub(stamp.sent));
            }
        }
    }

    /// Counts a connection out: nobody waits any longer for what it did not get.
    pub(crate) fn remove_client(&mut self, newest_sequence: &[u32]) {
        self.departed_count += 1;
        for (number, publisher) in (0..).zip(0..self.publishers.len().min(newest_sequence.len())) {
            let pending = &mut self.publishers[publisher];
            let known = pending.first_sequence.saturating_sub(1);
            let had = newest_sequence[publisher].saturating_sub(known) as usize;
            pending.done_counts.iter_mut().skip(had).for_each(|count| *count += 1);
            self.collect_completed(number);
        }
    }

    fn mark_received(&mut self, publisher: u16, sequence: u32) {
        let pending = &mut self.publishers[usize::from(publisher)];
        let index = sequence.saturating_sub(pending.first_sequence) as usize;
        if pending.done_counts.len() <= index {
            pending.done_counts.resize(index + 1, self.departed_count);
        }
        pending.done_counts[index] += 1;
        self.collect_completed(publisher);
    }

    /// Within a lane they complete in order, as each connection gets them in order.
    fn collect_completed(&mut self, publisher: u16) {
        let pending = &mut self.publishers[usize::from(publisher)];
        while pending.done_counts.front().is_some_and(|count| *count >= self.client_count) {
            pending.done_counts.pop_front();
            self.completed.push((publisher, pending.first_sequence));
            pending.first_sequence += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(publisher: u16, sequence: u32) -> PublicationStamp {
        PublicationStamp { publisher, sequence, sent: 10 }
    }

    fn two_clients() -> DeliveryStats {
        let mut deliveries = DeliveryStats::new(2);
        deliveries.add_client();
        deliveries.add_client();
        deliveries
    }

    #[test]
    fn publication_is_complete_when_every_client_received_it() {
        let mut deliveries = two_clients();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        deliveries.record_delivery(&mut one, stamp(1, 1), 25, 0);
        deliveries.record_delivery(&mut one, stamp(1, 2), 25, 0);
        assert!(deliveries.completed.is_empty());
        deliveries.record_delivery(&mut two, stamp(1, 1), 25, 0);
        assert_eq!(deliveries.completed, [(1, 1)]);
        assert_eq!((deliveries.delivered, deliveries.gaps, deliveries.latency.max()), (3, 0, 15));
    }

    #[test]
    fn gap_is_counted_and_does_not_delay_completion() {
        let mut deliveries = two_clients();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        deliveries.record_delivery(&mut one, stamp(0, 3), 25, 0);
        deliveries.record_delivery(&mut two, stamp(0, 1), 25, 0);
        deliveries.record_delivery(&mut two, stamp(0, 1), 25, 0);
        assert_eq!((deliveries.gaps, deliveries.missed, deliveries.out_of_order), (1, 2, 1));
        assert_eq!(deliveries.completed, [(0, 1)]);
    }

    #[test]
    fn closed_connection_does_not_delay_completion() {
        let mut deliveries = two_clients();
        let (mut one, mut two) = ([0; 2], [0; 2]);
        deliveries.record_delivery(&mut one, stamp(0, 1), 25, 0);
        deliveries.record_delivery(&mut two, stamp(0, 1), 25, 0);
        deliveries.record_delivery(&mut one, stamp(0, 2), 25, 0);
        deliveries.remove_client(&two);
        deliveries.record_delivery(&mut one, stamp(0, 3), 25, 100);
        assert_eq!(deliveries.completed, [(0, 1), (0, 2), (0, 3)]);
        assert_eq!(deliveries.latency.len(), 3);
    }
}
