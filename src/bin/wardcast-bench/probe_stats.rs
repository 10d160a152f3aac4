//! What the probe measures: when its operations are due, which of them are unanswered, and how long the others took.

use std::collections::BTreeMap;

use crate::delivery_stats::Latencies;

/// 2⁶⁴ divided by the golden ratio. Its multiples, taken modulo 2⁶⁴, are spread evenly over the range.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A time that the probe measures: a row of the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProbeTime {
    /// From publishing to the quiet channel to its delivery.
    Delivery,
    /// From publishing over the server API to the answer.
    Publish,
    /// From a command to its reply.
    Command,
    /// From a WebSocket ping to its pong.
    Ping,
    /// From connecting, with TLS if the URL says so, to the first push.
    Handshake,
    /// From sending a number to a thread that only echoes to its return: what the machine alone costs.
    Echo,
    /// From the moment when an operation is due to when the probe begins it.
    Timer,
}

/// All of them, each with its name in the report.
pub(crate) const PROBE_TIMES: [(ProbeTime, &str); 7] = [
    (ProbeTime::Delivery, "delivery"),
    (ProbeTime::Publish, "publish"),
    (ProbeTime::Command, "command"),
    (ProbeTime::Ping, "ping"),
    (ProbeTime::Handshake, "handshake"),
    (ProbeTime::Echo, "echo"),
    (ProbeTime::Timer, "timer"),
];

/// When the operations of one kind are due: one in each period, at a moment of the period that changes each time. Operations
/// at a constant distance could always meet the load at the same point of its own period.
pub(crate) struct Schedule {
    start: u64,
    period: u64,
    /// How many operations were due.
    count: u64,
}

impl Schedule {
    /// A schedule of `rate` operations per second from `start` on.
    pub(crate) fn new(start: u64, rate: u64) -> Self {
        Self { start, period: 1_000_000_000 / rate, count: 0 }
    }

    /// The clock when the next operation is due.
    pub(crate) fn due(&self) -> u64 {
        let part = self.count.wrapping_mul(GOLDEN) >> 32;
        self.start + self.count * self.period + ((part * self.period) >> 32)
    }

    /// Moves on to the next operation, if one is due. Returns when it was due.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<u64> {
        let due = self.due();
        (due <= now).then(|| {
            self.count += 1;
            due
        })
    }
}

/// The operations of one kind.
#[derive(Default)]
struct Operations {
    latencies: Latencies,
    last_number: u64,
    /// When each unanswered operation was due, by number.
    outstanding: BTreeMap<u64, u64>,
}

/// The times of all operations, each counted from when it was due, so that an operation that waits for an earlier one is
/// not judged more kindly than one that does not.
#[derive(Default)]
pub(crate) struct ProbeStats {
    operations: [Operations; PROBE_TIMES.len()],
    /// Operations that were due before this reading of the clock are not recorded.
    pub(crate) measured_from: u64,
    /// Operations that failed and connections that ended, by reason.
    pub(crate) failures: BTreeMap<String, u64>,
    /// How many operations had no answer in the end, by name.
    pub(crate) unanswered: BTreeMap<String, u64>,
}

impl ProbeStats {
    /// Begins an operation that was due at this reading of the clock. Returns its number, which counts from 1.
    pub(crate) fn begin(&mut self, time: ProbeTime, due: u64) -> u64 {
        let operations = &mut self.operations[time as usize];
        operations.last_number += 1;
        operations.outstanding.insert(operations.last_number, due);
        operations.last_number
    }

    /// Ends an operation that is answered. Unknown numbers are ignored.
    pub(crate) fn end(&mut self, time: ProbeTime, number: u64, now: u64) {
        if let Some(due) = self.operations[time as usize].outstanding.remove(&number) {
            self.record(time, due, now);
        }
    }

    /// Ends all operations up to a number: one answer is for all of them.
    pub(crate) fn end_up_to(&mut self, time: ProbeTime, number: u64, now: u64) {
        while let Some((&first, _)) = self.operations[time as usize].outstanding.first_key_value()
            && first <= number
        {
            self.end(time, first, now);
        }
    }

    /// Records a time.
    pub(crate) fn record(&mut self, time: ProbeTime, due: u64, now: u64) {
        if due >= self.measured_from {
            self.operations[time as usize].latencies.record(due, now);
        }
    }

    /// Forgets an operation that was refused.
    pub(crate) fn forget(&mut self, time: ProbeTime, number: u64) {
        self.operations[time as usize].outstanding.remove(&number);
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        *self.failures.entry(reason.into()).or_default() += 1;
    }

    /// Returns whether an operation is unanswered.
    pub(crate) fn has_outstanding(&self) -> bool {
        self.operations.iter().any(|operations| !operations.outstanding.is_empty())
    }

    /// Gives up all unanswered operations. Each is recorded with the time that it has waited, because without them a hub
    /// that stops answering would have good figures.
    pub(crate) fn give_up(&mut self, now: u64) {
        for (time, name) in PROBE_TIMES {
            let outstanding = std::mem::take(&mut self.operations[time as usize].outstanding);
            let measured = outstanding.into_values().filter(|due| *due >= self.measured_from);
            for due in measured.collect::<Vec<u64>>() {
                self.record(time, due, now);
                *self.unanswered.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    /// The times of one kind.
    pub(crate) fn latencies(&self, time: ProbeTime) -> &Latencies {
        &self.operations[time as usize].latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_has_one_operation_in_each_period_and_none_is_left_out_after_a_stall() {
        let mut schedule = Schedule::new(5_000, 1_000);
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take_due(5_000 + 99_999_999)).collect();
        assert_eq!(due.len(), 100);
        assert!((0..).zip(&due).all(|(number, due)| (due - 5_000) / 1_000_000 == number), "{due:?}");
        let parts: Vec<u64> = due.iter().map(|due| (due - 5_000) % 1_000_000 / 100_000).collect();
        assert!((0..10).all(|tenth| parts.iter().filter(|part| **part == tenth).count() >= 8), "{parts:?}");
        assert_eq!(schedule.take_due(5_000 + 99_999_999), None);
    }

    #[test]
    fn operations_are_timed_from_when_they_were_due_and_unanswered_ones_are_recorded() {
        let mut stats = ProbeStats { measured_from: 100, ..ProbeStats::default() };
        let numbers = [50, 100, 200, 300, 400].map(|due| stats.begin(ProbeTime::Ping, due));
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        stats.end_up_to(ProbeTime::Ping, 3, 700);
        stats.end(ProbeTime::Ping, 9, 700);
        assert_eq!((stats.latencies(ProbeTime::Ping).0.len(), stats.latencies(ProbeTime::Ping).0.max()), (2, 600));
        stats.forget(ProbeTime::Ping, 4);
        assert!(stats.has_outstanding());
        stats.give_up(5_400);
        assert!(!stats.has_outstanding());
        assert_eq!(stats.unanswered, BTreeMap::from([("ping".to_owned(), 1)]));
        assert!(stats.latencies(ProbeTime::Ping).0.max() >= 5_000);
        assert!(PROBE_TIMES.iter().enumerate().all(|(index, (time, _))| *time as usize == index));
    }
}
