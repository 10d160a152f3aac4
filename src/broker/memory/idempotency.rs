//! The idempotency keys of recent publications. A publish with a known key returns the receipt of the first one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    broker::{IDEMPOTENCY_TTL, PublishReceipt},
    channel::Channel,
    clock::MonotonicTime,
};

/// An idempotency key, which is valid in one channel.
pub(super) type IdempotencyKey = (Channel, Arc<str>);

/// The keys of the last five minutes. Above the limit the oldest one is dropped.
pub(super) struct IdempotencyCache {
    receipts: HashMap<IdempotencyKey, (PublishReceipt, MonotonicTime)>,
    /// Oldest first. All keys live equally long, so this is also the order in which they expire.
    by_age: VecDeque<IdempotencyKey>,
    max_keys: usize,
}

impl IdempotencyCache {
    pub(super) fn new(max_keys: usize) -> Self {
        Self { receipts: HashMap::new(), by_age: VecDeque::new(), max_keys }
    }

    /// Returns the receipt of the publication with this key.
    pub(super) fn find(&self, key: &IdempotencyKey, now: MonotonicTime) -> Option<PublishReceipt> {
        self.receipts.get(key).filter(|(_, until)| now < *until).map(|(receipt, _)| *receipt)
    }

    /// Stores the receipt of a publication under its key.
    pub(super) fn remember(&mut self, key: IdempotencyKey, receipt: PublishReceipt, now: MonotonicTime) {
        // Expired keys go first. Otherwise a key that is stored again after its expiry would keep its old place in the
        // queue, and be dropped too early.
        let is_expired =
            |key: &IdempotencyKey, keys: &Self| keys.receipts.get(key).is_none_or(|(_, until)| *until <= now);
        while self.by_age.front().is_some_and(|key| is_expired(key, self)) {
            self.forget_oldest();
        }
        if self.receipts.insert(key.clone(), (receipt, now.saturating_add(IDEMPOTENCY_TTL))).is_none() {
            self.by_age.push_back(key);
        }
        if self.by_age.len() > self.max_keys {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.by_age.pop_front() {
            self.receipts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time when a key that is stored at the start expires.
    const END: MonotonicTime = MonotonicTime::from_millis(IDEMPOTENCY_TTL.as_millis() as u64);

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_millis(millis)
    }

    fn key(channel: &str, key: &str) -> IdempotencyKey {
        (Channel::new(channel).expect("a valid name"), key.into())
    }

    #[test]
    fn key_is_dropped_when_it_expires_or_is_the_oldest_over_the_limit() {
        let mut keys = IdempotencyCache::new(2);
        let is_known = |keys: &IdempotencyCache, name: &str, now| keys.find(&key("news", name), now).is_some();
        keys.remember(key("news", "a"), PublishReceipt::default(), at(0));
        keys.remember(key("news", "b"), PublishReceipt::default(), at(1));
        assert!(is_known(&keys, "a", at(END.millis() - 1)) && !is_known(&keys, "a", END));
        assert_eq!(keys.find(&key("other", "a"), at(0)), None, "a key is valid in one channel only");
        keys.remember(key("news", "c"), PublishReceipt::default(), at(2));
        assert!(!is_known(&keys, "a", at(2)) && is_known(&keys, "b", at(2)) && is_known(&keys, "c", at(2)));
        keys.remember(key("news", "d"), PublishReceipt::default(), at(END.millis() + 2));
        assert_eq!((keys.receipts.len(), keys.by_age.len()), (1, 1), "expired keys are dropped");
    }

    #[test]
    fn key_repeated_after_expiry_becomes_the_newest() {
        let mut keys = IdempotencyCache::new(2);
        for name in ["a", "b"] {
            keys.remember(key("news", name), PublishReceipt::default(), at(0));
        }
        for name in ["a", "c"] {
            keys.remember(key("news", name), PublishReceipt::default(), END);
        }
        assert!(["a", "c"].iter().all(|name| keys.find(&key("news", name), END).is_some()));
        assert_eq!((keys.receipts.len(), keys.by_age.len()), (2, 2));
    }
}
