//! What the compressor and the inflater of a thread have done, for the metrics of its hub.

use std::cell::RefCell;

use prometheus_client::metrics::counter::Counter;

use super::InflateError;

thread_local! {
    /// Without a hub, as in tests and in the load generator, no metrics show them.
    static COUNTERS: RefCell<CompressionCounters> = RefCell::default();
}

/// Counters of messages and their bytes. Each is counted once, when it is compressed or inflated, however many clients receive it.
#[derive(Clone, Debug, Default)]
pub struct CompressionCounters {
    /// Messages that the hub has compressed.
    pub compressed: Counter,
    /// Messages that would not have become shorter, and were sent uncompressed.
    pub not_shorter: Counter,
    /// Messages of clients that were inflated.
    pub inflated: Counter,
    /// Messages of clients that were too long, or were not valid.
    pub refused: Counter,
    /// Bytes of the messages in `compressed`.
    pub sent: ByteCounters,
    /// Bytes of the messages in `inflated`.
    pub received: ByteCounters,
}

/// Bytes of payloads, in both forms.
#[derive(Clone, Debug, Default)]
pub struct ByteCounters {
    /// Without compression.
    pub plain: Counter,
    /// As on the wire.
    pub compressed: Counter,
}

impl ByteCounters {
    fn add(&self, plain: usize, compressed: usize) {
        self.plain.inc_by(plain as u64);
        self.compressed.inc_by(compressed as u64);
    }
}

impl CompressionCounters {
    /// Has this thread count into these from now on.
    pub fn install(self) {
        COUNTERS.set(self);
    }
}

/// Counts a message that the compressor had; `compressed` is its length then, if it became shorter.
pub(super) fn count_sent(plain: usize, compressed: Option<usize>) {
    COUNTERS.with_borrow(|counters| match compressed {
        Some(compressed) => {
            counters.compressed.inc();
            counters.sent.add(plain, compressed);
        }
        None => drop(counters.not_shorter.inc()),
    });
}

/// Counts a message that the inflater had; `plain` is its length then.
pub(super) fn count_received(compressed: usize, plain: Result<usize, InflateError>) {
    COUNTERS.with_borrow(|counters| match plain {
        Ok(plain) => {
            counters.inflated.inc();
            counters.received.add(plain, compressed);
        }
        Err(_) => drop(counters.refused.inc()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::{compress, inflate};

    /// In a thread of its own, which leaves no counters to other tests.
    #[test]
    fn messages_are_counted_by_what_became_of_them() {
        let check = || {
            let counters = CompressionCounters::default();
            counters.clone().install();
            let compressed = compress(&[b'a'; 1000], 6).unwrap();
            assert_eq!(compress(b"x", 6), None);
            inflate(&compressed, 1000).unwrap();
            assert!(inflate(&compressed, 999).is_err() && inflate(b"", 1000).is_err());
            let CompressionCounters { compressed: to_clients, not_shorter, inflated, refused, sent, received } =
                counters;
            assert_eq!([to_clients, not_shorter, inflated, refused].map(|counter| counter.get()), [1, 1, 1, 2]);
            for bytes in [sent, received] {
                assert_eq!((bytes.plain.get(), bytes.compressed.get()), (1000, compressed.len() as u64));
            }
        };
        std::thread::spawn(check).join().unwrap();
    }
}
