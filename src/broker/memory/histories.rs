//! The histories of a shard's channels, ordered by their last use. There is no timer: expired entries are dropped by calls
//! that come for other channels.

use hashbrown::HashMap;
use slab::Slab;

use super::history::ChannelHistory;
use crate::{
    broker::{BrokerError, Retention},
    channel::Channel,
    clock::MonotonicTime,
    position::{Epoch, Position},
};

/// The slot of an entry that does not exist: the neighbour of the first and of the last one of a list.
const NO_SLOT: usize = usize::MAX;

/// The histories of one shard, and the bytes that they cost.
pub(super) struct Histories {
    slots: HashMap<Channel, usize, foldhash::fast::RandomState>,
    entries: Slab<Entry>,
    /// Histories that never had a publication, and all others. The first are evicted first: every client that may subscribe
    /// can create them, and without a publication there is nothing in them to recover.
    lru_lists: [LruList; 2],
    /// The slot where the next sweep starts.
    next_sweep_slot: usize,
    bytes: usize,
}

/// A doubly linked list through the entries, from the most to the least recently used one.
#[derive(Clone, Copy)]
struct LruList {
    newest: usize,
    oldest: usize,
}

impl LruList {
    const EMPTY: Self = Self { newest: NO_SLOT, oldest: NO_SLOT };
}

struct Entry {
    channel: Channel,
    history: ChannelHistory,
    last_used: MonotonicTime,
    /// Index of the list that it is in.
    list: usize,
    newer: usize,
    older: usize,
}

impl Entry {
    fn cost_bytes(&self) -> usize {
        self.channel.as_str().len() + self.history.cost_bytes()
    }

    fn is_expired(&self, now: MonotonicTime) -> bool {
        self.last_used.saturating_add(self.history.meta_ttl()) <= now
    }
}

impl Default for Histories {
    fn default() -> Self {
        let (slots, entries) = (HashMap::default(), Slab::new());
        Self { slots, entries, lru_lists: [LruList::EMPTY; 2], next_sweep_slot: 0, bytes: 0 }
    }
}

impl Histories {
    /// Calls `work` with the history of a channel, and makes it the most recently used one. Creates the history if there is
    /// none, or if the old one has expired.
    ///
    /// # Errors
    /// Those of `work`, or [`BrokerError::Unavailable`]: the system has no randomness for the epoch of a new history.
    pub(super) fn with_channel<T>(
        &mut self,
        channel: &Channel,
        retention: Retention,
        now: MonotonicTime,
        work: impl FnOnce(&mut ChannelHistory) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        if let Some(slot) = self.slots.get(channel).copied()
            && self.entries[slot].is_expired(now)
        {
            self.remove(slot);
        }
        let slot = match self.slots.get(channel) {
            Some(slot) => *slot,
            None => self.create(channel, retention, now)?,
        };
        self.unlink(slot);
        self.entries[slot].last_used = now;
        let result = self.update(slot, |history| {
            history.set_retention(retention, now);
            work(history)
        });
        self.link_newest(slot);
        result
    }

    /// Returns whether a channel has a history that has not expired.
    pub(super) fn contains(&self, channel: &Channel, now: MonotonicTime) -> bool {
        self.slots.get(channel).is_some_and(|slot| !self.entries[*slot].is_expired(now))
    }

    /// Removes the history of a channel if it has this epoch. Returns the position that the channel has then.
    pub(super) fn remove_epoch(&mut self, channel: &Channel, epoch: Epoch) -> Option<Position> {
        let slot = self.slots.get(channel).copied()?;
        let position = self.entries[slot].history.position();
        if position.epoch == epoch {
            self.remove(slot);
            return None;
        }
        Some(position)
    }

    fn create(&mut self, channel: &Channel, retention: Retention, now: MonotonicTime) -> Result<usize, BrokerError> {
        let history = ChannelHistory::new(retention).map_err(BrokerError::no_epoch)?;
        let entry =
            Entry { channel: channel.clone(), history, last_used: now, list: 0, newer: NO_SLOT, older: NO_SLOT };
        self.bytes += entry.cost_bytes();
        let slot = self.entries.insert(entry);
        self.slots.insert(channel.clone(), slot);
        self.link_newest(slot);
        Ok(slot)
    }

    /// Changes a history, and keeps the sum of bytes up to date.
    fn update<T>(&mut self, slot: usize, update: impl FnOnce(&mut ChannelHistory) -> T) -> T {
        let entry = &mut self.entries[slot];
        let before = entry.cost_bytes();
        let updated = update(&mut entry.history);
        self.bytes = self.bytes - before + entry.cost_bytes();
        updated
    }

    /// Removes the publications of a channel. It keeps its position.
    pub(super) fn clear(&mut self, channel: &Channel) {
        if let Some(slot) = self.slots.get(channel).copied() {
            self.update(slot, ChannelHistory::clear);
        }
    }

    /// Drops expired publications and histories from the next `count` slots.
    pub(super) fn sweep(&mut self, now: MonotonicTime, count: usize) {
        let slots = self.entries.capacity();
        for _ in 0..count.min(slots) {
            let slot = self.next_sweep_slot % slots;
            self.next_sweep_slot = slot + 1;
            match self.entries.get(slot) {
                None => {}
                Some(entry) if entry.is_expired(now) => self.remove(slot),
                Some(_) => self.update(slot, |history| history.drop_expired(now)),
            }
        }
    }

    /// Returns how urgently the next history of this shard should be evicted, the smallest value first: whether it ever had
    /// a publication, then when it was last used.
    pub(super) fn eviction_candidate(&self) -> Option<(bool, MonotonicTime)> {
        let first = self.lru_lists.iter().find_map(|list| self.entries.get(list.oldest));
        first.map(|entry| (entry.list == 1, entry.last_used))
    }

    /// Evicts [`Self::eviction_candidate`] with its epoch, so that no client recovers over the lost publications.
    pub(super) fn evict_first(&mut self) {
        let first = self.lru_lists.iter().map(|list| list.oldest).find(|oldest| *oldest != NO_SLOT);
        if let Some(first) = first {
            self.remove(first);
        }
    }

    /// Returns the bytes that all of them cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, slot: usize) {
        self.unlink(slot);
        let entry = self.entries.remove(slot);
        self.bytes -= entry.cost_bytes();
        self.slots.remove(&entry.channel);
        if self.entries.is_empty() {
            // There may have been many at once: this gives their memory back.
            *self = Self::default();
        }
    }

    fn unlink(&mut self, slot: usize) {
        let Entry { newer, older, list, .. } = self.entries[slot];
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.lru_lists[list].newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.lru_lists[list].oldest = newer,
        }
    }

    /// Makes an unlinked entry the newest one of its list.
    fn link_newest(&mut self, slot: usize) {
        let entry = &mut self.entries[slot];
        let list = usize::from(entry.history.position().offset > 0);
        let older = self.lru_lists[list].newest;
        (entry.newer, entry.older, entry.list) = (NO_SLOT, older, list);
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = slot,
            None => self.lru_lists[list].oldest = slot,
        }
        self.lru_lists[list].newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{super::record::HistoryRecord, *};
    use crate::{
        broker::{HistoryRequest, Version},
        clock::WallTime,
        publication::Publication,
    };

    #[derive(Clone, Debug)]
    enum Call {
        Publish { size: usize, bytes: usize, max_bytes: usize, version: Option<u64> },
        Read,
        Clear,
        Sweep,
        Evict,
        AdvanceClock { millis: u64 },
    }

    fn call() -> impl Strategy<Value = (usize, Call)> {
        let publish = (1..6_usize, 0..3_000_usize, 0..9_000_usize, prop::option::of(1..9_u64));
        let call = prop_oneof![
            8 => publish.prop_map(|(size, bytes, max_bytes, version)| Call::Publish { size, bytes, max_bytes, version }),
            3 => Just(Call::Read),
            1 => Just(Call::Clear),
            2 => Just(Call::Sweep),
            1 => Just(Call::Evict),
            3 => (0..40_000_u64).prop_map(|millis| Call::AdvanceClock { millis }),
        ];
        (0..5_usize, call)
    }

    impl Histories {
        /// Returns whether both lists together contain every entry once, and every entry names its list and neighbours.
        fn is_linked(&self) -> bool {
            let walk = |list: usize| {
                let (mut slots, mut slot) = (Vec::new(), self.lru_lists[list].oldest);
                while let Some(entry) = self.entries.get(slot) {
                    let is_consistent = entry.list == list && (slots.last().copied().unwrap_or(NO_SLOT) == entry.older);
                    slots.push(slot);
                    slot = entry.newer;
                    if !is_consistent || slots.len() > self.entries.len() {
                        return None;
                    }
                }
                (self.lru_lists[list].newest == slots.last().copied().unwrap_or(NO_SLOT)).then_some(slots.len())
            };
            walk(0).zip(walk(1)).is_some_and(|(empty, used)| empty + used == self.entries.len())
        }
    }

    proptest! {
        #[test]
        fn counted_bytes_match_the_stored_histories(calls in prop::collection::vec(call(), 1..80)) {
            let (mut histories, mut now) = (Histories::default(), MonotonicTime::START);
            let (ttl, meta_ttl) = (Duration::from_secs(20), Duration::from_secs(60));
            for (number, call) in calls {
                let channel = Channel::new(&format!("c{number}")).expect("a valid name");
                let retention = |size| Retention { size, ttl, meta_ttl };
                match call {
                    Call::Publish { size, bytes, max_bytes, version } => {
                        let publication = Publication::new(channel.clone(), Bytes::from(vec![b'7'; bytes]));
                        let version = version.map(|number| Version { number, epoch: "".into() });
                        let append = |history: &mut ChannelHistory| {
                            history.append(HistoryRecord::new(&publication, WallTime::default(), now), version, max_bytes);
                            Ok(())
                        };
                        histories.with_channel(&channel, retention(size), now, append).expect("randomness");
                    }
                    Call::Read => {
                        let request = HistoryRequest { limit: usize::MAX, ..HistoryRequest::default() };
                        let read = |history: &mut ChannelHistory| Ok(history.page(&channel, &request));
                        let page = histories.with_channel(&channel, retention(3), now, read).expect("randomness");
                        prop_assert!(page.len() <= 3);
                    }
                    Call::Clear => histories.clear(&channel),
                    Call::Sweep => histories.sweep(now, 3),
                    Call::Evict => histories.evict_first(),
                    Call::AdvanceClock { millis } => now = now.saturating_add(Duration::from_millis(millis)),
                }
                let stored: usize = histories.entries.iter().map(|(_, entry)| entry.cost_bytes()).sum();
                prop_assert_eq!(histories.bytes(), stored);
                prop_assert_eq!(histories.slots.len(), histories.entries.len());
                prop_assert!(histories.is_linked());
            }
        }
    }
}
