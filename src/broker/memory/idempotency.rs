//! Which publications have been made under a key of the publisher's: who repeats one gets the first answer.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    broker::Published,
    channel::Channel,
    clock::{Millis, millis},
};

/// How long a key is remembered: longer than anybody tries again.
const TTL: Duration = Duration::from_secs(300);

/// A key holds in one channel.
pub(super) type Key = (Channel, Arc<str>);

/// The keys of the last five minutes, the oldest forgotten first.
pub(super) struct Keys {
    published: HashMap<Key, (Published, Millis)>,
    /// As they came, which is as they end: all live equally long.
    by_age: VecDeque<Key>,
    most: usize,
}

impl Keys {
    pub(super) fn new(most: usize) -> Self {
        Self { published: HashMap::new(), by_age: VecDeque::new(), most }
    }

    /// What came of the publication under this key.
    pub(super) fn find(&self, key: &Key, now: Millis) -> Option<Published> {
        self.published.get(key).filter(|(_, until)| now < *until).map(|(published, _)| *published)
    }

    pub(super) fn remember(&mut self, key: Key, published: Published, now: Millis) {
        // First, or one that comes again after its time would keep its old place, and go before those that are over.
        let is_over = |key: &Key, keys: &Self| keys.published.get(key).is_none_or(|(_, until)| *until <= now);
        while self.by_age.front().is_some_and(|key| is_over(key, self)) {
            self.forget_oldest();
        }
        if self.published.insert(key.clone(), (published, now.saturating_add(millis(TTL)))).is_none() {
            self.by_age.push_back(key);
        }
        if self.by_age.len() > self.most {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.by_age.pop_front() {
            self.published.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(channel: &str, key: &str) -> Key {
        (Channel::new(channel).expect("a name"), key.into())
    }

    #[test]
    fn a_key_is_forgotten_when_it_is_over_or_the_oldest_of_too_many() {
        let mut keys = Keys::new(2);
        let is_known = |keys: &Keys, name: &str, now| keys.find(&key("news", name), now).is_some();
        keys.remember(key("news", "a"), Published::default(), 0);
        keys.remember(key("news", "b"), Published::default(), 1);
        assert!(is_known(&keys, "a", millis(TTL) - 1) && !is_known(&keys, "a", millis(TTL)));
        assert_eq!(keys.find(&key("other", "a"), 0), None, "it holds in its channel");
        keys.remember(key("news", "c"), Published::default(), 2);
        assert!(!is_known(&keys, "a", 2) && is_known(&keys, "b", 2) && is_known(&keys, "c", 2));
        keys.remember(key("news", "d"), Published::default(), millis(TTL) + 2);
        assert_eq!((keys.published.len(), keys.by_age.len()), (1, 1), "what is over takes no room");
    }

    #[test]
    fn a_key_that_comes_again_after_its_time_is_the_newest() {
        let mut keys = Keys::new(2);
        for name in ["a", "b"] {
            keys.remember(key("news", name), Published::default(), 0);
        }
        for name in ["a", "c"] {
            keys.remember(key("news", name), Published::default(), millis(TTL));
        }
        assert!(["a", "c"].iter().all(|name| keys.find(&key("news", name), millis(TTL)).is_some()));
        assert_eq!((keys.published.len(), keys.by_age.len()), (2, 2));
    }
}
