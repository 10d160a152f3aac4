//! How full the queues of an instance are. Each part reports its own queue when metrics are read, from what it counts anyway:
//! nothing is kept up to date for a scrape that may never come.

use super::{Metrics, QueueLabel};
use crate::text_enum::text_enum;

/// Maximum controls that wait for hubs. Above it they are refused, so that a flood of them does not fill the memory.
pub const MAX_QUEUED_CONTROLS: usize = 1024;
/// Maximum commands that wait for one Redis. Their bytes are limited, too.
pub const MAX_BROKER_COMMANDS: usize = 16_384;
/// Maximum concurrent surveys of an instance, beside rounds of revocations.
pub const MAX_SURVEYS: usize = 16;

text_enum! {
    /// A queue, or another bounded store of work that waits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Queue {
        /// Returns its name in the label `queue`.
        fn name;
        /// Publications, joins and leaves that wait for a hub, in bytes; of the hub that has the most (`limits.hub_queue_bytes`).
        Deliveries = "deliveries";
        /// Controls of the server API that not every hub has applied ([`MAX_QUEUED_CONTROLS`]).
        Controls = "controls";
        /// Bytes for clients whose sockets are full, of all connections whose hubs answer; each has a limit of its own (`limits.outbox_bytes`).
        Outboxes = "outboxes";
        /// Clients that wait for the verification of their tokens, on all workers (`limits.verification_queue`).
        Verifications = "verifications";
        /// Calls that wait for their turn at a hook, of all hooks (`hooks.waiting`, each).
        Hooks = "hooks";
        /// Reports of sessions that are not in the outbox of events yet (`hooks.events.queue`).
        HookEvents = "hook_events";
        /// Lines of the audit log that are not written yet (`audit.queue`).
        AuditLines = "audit_lines";
        /// Passwords that are being hashed (`login.concurrency`).
        PasswordHashes = "password_hashes";
        /// Commands that wait for Redis or its answer, on the server for which most wait ([`MAX_BROKER_COMMANDS`], and their bytes).
        BrokerCommands = "broker_commands";
        /// Surveys of all nodes that are running ([`MAX_SURVEYS`]).
        Surveys = "surveys";
    }
}

impl Queue {
    /// Returns the maximum number of its entries if no option sets it.
    pub fn fixed_limit(self) -> Option<usize> {
        match self {
            Self::Controls => Some(MAX_QUEUED_CONTROLS),
            Self::BrokerCommands => Some(MAX_BROKER_COMMANDS),
            Self::Surveys => Some(MAX_SURVEYS),
            Self::Deliveries
            | Self::Outboxes
            | Self::Verifications
            | Self::Hooks
            | Self::HookEvents
            | Self::AuditLines
            | Self::PasswordHashes => None,
        }
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueDepth {
    queue: Queue,
    entries: Option<usize>,
    bytes: Option<usize>,
    ratio: Option<f64>,
}

impl QueueDepth {
    /// A queue of at most `limit` entries.
    pub fn of_entries(queue: Queue, entries: usize, limit: usize) -> Self {
        Self { queue, entries: Some(entries), bytes: None, ratio: Some(ratio(entries, limit)) }
    }

    /// A queue of at most `limit` bytes; `None`: its parts have limits of their own.
    pub fn of_bytes(queue: Queue, bytes: usize, limit: Option<usize>) -> Self {
        Self { queue, entries: None, bytes: Some(bytes), ratio: limit.map(|limit| ratio(bytes, limit)) }
    }

    /// The same queue, which also has so many bytes of at most `limit`.
    #[must_use]
    pub fn with_bytes(self, bytes: usize, limit: usize) -> Self {
        Self { bytes: Some(bytes), ..self.or_fuller(ratio(bytes, limit)) }
    }

    /// The same queue, one part of which is fuller than the whole: at its limit that part refuses more.
    #[must_use]
    pub fn or_fuller(self, part: f64) -> Self {
        Self { ratio: Some(self.ratio.map_or(part, |ratio| ratio.max(part))), ..self }
    }

    /// Returns how full it is: 1 is full.
    pub fn ratio(&self) -> f64 {
        self.ratio.unwrap_or_default()
    }
}

/// Returns how full a queue with a limit is: 1 is full. A queue that has room for nothing is empty until something is in it.
pub fn ratio(used: usize, limit: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
    let ratio = used as f64 / limit.max(1) as f64;
    ratio
}

impl Metrics {
    /// Notes how full queues are.
    pub fn set_queue_depths(&self, depths: impl IntoIterator<Item = QueueDepth>) {
        for QueueDepth { queue, entries, bytes, ratio } in depths {
            let label = QueueLabel { queue: queue.name() };
            let to_gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
            if let Some(entries) = entries {
                self.queue_entries.get_or_create(&label).set(to_gauge(entries));
            }
            if let Some(bytes) = bytes {
                self.queue_bytes.get_or_create(&label).set(to_gauge(bytes));
            }
            if let Some(ratio) = ratio {
                self.queue_ratio.get_or_create(&label).set(ratio);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_that_of_the_fullest_limit() {
        let depth = QueueDepth::of_entries(Queue::BrokerCommands, 10, 100);
        assert_eq!(depth.ratio(), 0.1);
        assert_eq!(depth.with_bytes(3, 4).ratio(), 0.75);
        assert_eq!(depth.with_bytes(0, 4).ratio(), 0.1);
        assert_eq!(depth.or_fuller(0.5).ratio(), 0.5);
        assert_eq!(QueueDepth::of_entries(Queue::Hooks, 0, 0).ratio(), 0.0);
    }

    #[test]
    fn names_are_different_words() {
        let mut names = Queue::ALL.map(Queue::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
