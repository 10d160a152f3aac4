//! What the clients of a run receive: counted, timed, checked for its order, and followed until all clients have it. Each
//! receiving thread has its own statistics, and shares counts and results with the main thread.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::{collections::BTreeMap, sync::Arc};

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};

use crate::error::BenchError;
use crate::publication_stamp::{PublicationStamp, StampFinder};

/// A larger jump of a sequence number comes from a publication of another run and is not a gap.
const MAX_SEQUENCE_JUMP: u32 = 1_000_000;

/// A histogram of nanoseconds, exact to three digits, up to two minutes.
pub(crate) struct Latencies(pub(crate) Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("constant bounds that the crate accepts"))
    }
}

impl Latencies {
    /// Records the time between two readings of the clock.
    pub(crate) fn record(&mut self, from: u64, to: u64) {
        self.0.saturating_record(to.saturating_sub(from));
    }
}

/// A number that any thread may change.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces the number.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds to the number.
    pub(crate) fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Release);
    }
}

/// The state.
#[derive(Default)]
pub(crate) struct SharedState {
    /// Receiving threads end when this is set.
    pub(crate) stop: AtomicBool,
    /// Receiving threads disconnect their clients when this is set.
    pub(crate) disconnect_requested: AtomicBool,
    /// The clock when disconnected clients may reconnect; 0 until then.
    pub(crate) reconnect_at: Counter,
    /// Latencies are recorded of publications that were sent at this reading of the clock or later.
    pub(crate) measured_from: Counter,
    /// Clients that became live.
    pub(crate) opened: Counter,
    /// Clients that failed to.
    pub(crate) failed: Counter,
    /// Clients that became live and have ended for good.
    pub(crate) ended: Counter,
    /// Disconnected clients that became live again or failed to.
    pub(crate) reconnected: Counter,
    /// Deliveries of this program's publications.
    pub(crate) delivered: Counter,
    /// Bytes read from sockets.
    pub(crate) received_bytes: Counter,
    /// Times that a sequence number jumped.
    pub(crate) sequence_gaps: Counter,
    /// Publications that those jumps skipped.
    pub(crate) sequence_missed: Counter,
    /// Deliveries that came twice or too late.
    pub(crate) sequence_out_of_order: Counter,
    /// Times that an offset jumped.
    pub(crate) offset_gaps: Counter,
    /// Offsets that came twice or too late.
    pub(crate) offset_out_of_order: Counter,
    /// Clients that reconnected and, as the hub says, received all that they had missed.
    pub(crate) recovered: Counter,
    /// Clients that reconnected and did not.
    pub(crate) unrecovered: Counter,
    /// Publications that came with subscribe replies.
    pub(crate) recovered_publications: Counter,
    /// By receiving thread and publisher: a sequence number up to which all clients of the thread have received everything, if
    /// it is the last one that was sent. Empty if deliveries are only counted.
    pub(crate) completed: Vec<Vec<AtomicU32>>,
    /// Everything that is not a number.
    pub(crate) results: Mutex<ClientResults>,
    /// Notified when a receiving thread has opened or disconnected its clients, or a client failed that may not.
    pub(crate) changed: Condvar,
}

impl SharedState {
    /// The state of this many receiving threads and publishers.
    pub(crate) fn new(threads: usize, publishers: usize) -> Self {
        let completed = || (0..publishers).map(|_| AtomicU32::new(0)).collect();
        let threads = if publishers == 0 { 0 } else { threads };
        Self { completed: (0..threads).map(|_| completed()).collect(), ..Self::default() }
    }

    /// Returns whether all clients have received everything up to the last publication of a publisher.
    pub(crate) fn is_completed(&self, publisher: usize, sequence: u32) -> bool {
        self.completed.iter().all(|thread| thread[publisher].load(Ordering::Acquire) >= sequence)
    }
}

/// The results of the clients of a run.
#[derive(Default)]
pub(crate) struct ClientResults {
    /// From sending a publication to its delivery.
    pub(crate) delivery: Latencies,
    /// From connecting to 101.
    pub(crate) to_101: Latencies,
    /// From connecting to live: the first push, or the subscribe reply.
    pub(crate) to_live: Latencies,
    /// From the permission to reconnect to live.
    pub(crate) to_recovered: Latencies,
    /// Refusals of clients that reconnected, after which they tried again, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Clients that never became live, by reason.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Live clients whose connection ended, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
    /// The clock when each of those ended.
    pub(crate) closed_at: Vec<u64>,
    /// Local ports of the live clients; only of those that do not read.
    pub(crate) ports: Vec<u16>,
    /// How many receiving threads have opened their clients: all are live, or failed where they may.
    pub(crate) opened_threads: usize,
    /// How many receiving threads have disconnected their clients.
    pub(crate) disconnected_threads: usize,
    /// Why a client failed that may not.
    pub(crate) error: Option<BenchError>,
}

/// The deliveries of one receiving thread.
pub(crate) struct DeliveryStats {
    /// What the receiving threads share.
    pub(crate) shared: Arc<SharedState>,
    client_count: u64,
    /// By publisher: the sum of the newest sequence numbers of all clients. Empty if deliveries are only counted.
    ///
    /// No client can have a larger number than the last one that was sent. So when this sum is that number times the number
    /// of clients, all of them have received everything.
    newest_sums: Vec<u64>,
    finder: StampFinder,
    /// Latencies are recorded of publications that were sent at this reading of the clock or later.
    pub(crate) measured_from: u64,
    /// From sending a publication to its delivery.
    pub(crate) latency: Latencies,
    /// How many there were.
    pub(crate) delivered: u64,
    /// Publisher and sequence number of publications that may have completed the above, since this was last emptied.
    pub(crate) completed: Vec<(usize, u32)>,
}

impl DeliveryStats {
    /// Without deliveries. With 0 publishers deliveries are only counted: their order is unknown if the publications of one
    /// publisher go to several channels, or several at once.
    pub(crate) fn new(shared: Arc<SharedState>, publishers: usize) -> Self {
        Self {
            shared,
            client_count: 0,
            newest_sums: vec![0; publishers],
            finder: StampFinder::default(),
            measured_from: u64::MAX,
            latency: Latencies::default(),
            delivered: 0,
            completed: Vec::new(),
        }
    }

    /// Adds a client, before the first publication.
    pub(crate) fn add_client(&mut self) {
        self.client_count += 1;
    }

    /// Removes a client that ended. Publications that it did not receive no longer wait for it.
    pub(crate) fn remove_client(&mut self, newest: &[u32]) {
        self.client_count -= 1;
        for (publisher, (sum, newest)) in self.newest_sums.iter_mut().zip(newest).enumerate() {
            *sum -= u64::from(*newest);
            self.completed.extend(sum.checked_div(self.client_count).map(|sequence| (publisher, sequence as u32)));
        }
    }

    /// Records a push that a client received. `newest` are the newest sequence numbers of the client by publisher. Returns
    /// whether the push is a publication of this program.
    pub(crate) fn record_push(&mut self, newest: &mut [u32], push: &[u8], now: u64) -> bool {
        let stamp = self.finder.find(push);
        if let Some(stamp) = stamp {
            self.record(newest, stamp, now);
        }
        stamp.is_some()
    }

    /// Records a publication that a client received.
    pub(crate) fn record(&mut self, newest: &mut [u32], stamp: PublicationStamp, now: u64) {
        let PublicationStamp { publisher, sequence, sent_at } = stamp;
        let publisher = usize::from(publisher);
        if let Some(newest) = newest.get_mut(publisher) {
            if sequence <= *newest {
                self.shared.sequence_out_of_order.add(1);
                return;
            }
            let advance = sequence - *newest;
            if advance > MAX_SEQUENCE_JUMP {
                return;
            }
            if advance > 1 {
                self.shared.sequence_gaps.add(1);
                self.shared.sequence_missed.add(u64::from(advance - 1));
            }
            *newest = sequence;
            self.newest_sums[publisher] += u64::from(advance);
            if self.newest_sums[publisher] == self.client_count * u64::from(sequence) {
                self.completed.push((publisher, sequence));
            }
        } else if !self.newest_sums.is_empty() {
            return;
        }
        self.delivered += 1;
        if sent_at >= self.measured_from {
            self.latency.record(sent_at, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deliveries of two clients, whose newest sequence numbers come with them.
    fn two_clients() -> (DeliveryStats, [[u32; 2]; 2]) {
        let mut stats = DeliveryStats::new(Arc::default(), 2);
        stats.measured_from = 0;
        stats.add_client();
        stats.add_client();
        (stats, [[0; 2]; 2])
    }

    fn stamp(publisher: u16, sequence: u32) -> PublicationStamp {
        PublicationStamp { publisher, sequence, sent_at: 10 }
    }

    #[test]
    fn publication_is_complete_when_every_client_received_it() {
        let (mut stats, [mut one, mut two]) = two_clients();
        stats.record(&mut one, stamp(1, 1), 25);
        stats.record(&mut one, stamp(1, 2), 25);
        assert!(stats.completed.is_empty());
        stats.record(&mut two, stamp(1, 1), 25);
        stats.record(&mut two, stamp(1, 2), 25);
        assert_eq!(stats.completed, [(1, 2)]);
        assert_eq!((stats.delivered, stats.shared.sequence_gaps.get(), stats.latency.0.max()), (4, 0, 15));
    }

    #[test]
    fn gap_is_counted_and_does_not_delay_completion() {
        let (mut stats, [mut one, mut two]) = two_clients();
        stats.record(&mut one, stamp(0, 3), 25);
        stats.record(&mut two, stamp(0, 1), 25);
        stats.record(&mut two, stamp(0, 1), 25);
        stats.record(&mut two, stamp(0, 3), 25);
        let SharedState { sequence_gaps, sequence_missed, sequence_out_of_order, .. } = &*stats.shared;
        assert_eq!([sequence_gaps, sequence_missed, sequence_out_of_order].map(|count| count.get()), [2, 3, 1]);
        assert_eq!(stats.completed, [(0, 3)]);
    }

    #[test]
    fn closed_client_does_not_delay_completion() {
        let (mut stats, [mut one, mut two]) = two_clients();
        stats.record(&mut one, stamp(0, 1), 25);
        stats.record(&mut two, stamp(0, 1), 25);
        stats.record(&mut one, stamp(0, 2), 25);
        stats.remove_client(&two);
        stats.measured_from = 100;
        stats.record(&mut one, stamp(0, 3), 25);
        assert_eq!(stats.completed, [(0, 1), (0, 2), (1, 0), (0, 3)]);
        assert_eq!(stats.latency.0.len(), 3);
    }
}
