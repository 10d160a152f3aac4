//! The histories of some channels, in the order in which they were last asked or published to. There is no timer: whoever
//! comes looks at a few others, too.

use hashbrown::HashMap;
use slab::Slab;

use super::history::ChannelHistory;
use crate::{
    broker::Retention,
    channel::Channel,
    clock::{Millis, millis},
};

/// No neighbour.
const NO_SLOT: usize = usize::MAX;

/// Some histories, and what they count.
pub(super) struct Histories {
    slots: HashMap<Channel, usize, foldhash::fast::RandomState>,
    entries: Slab<Entry>,
    /// Those to which nobody has ever published, and the others. The first are forgotten first: anybody who may subscribe
    /// can make them, and they hold nothing that could be missed.
    lru_lists: [LruList; 2],
    /// Where the next sweep begins.
    next_sweep_slot: usize,
    bytes: usize,
}

/// Two ends of a list.
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
    last_used: Millis,
    /// Which of the orders it stands in.
    list: usize,
    newer: usize,
    older: usize,
}

impl Entry {
    fn cost_bytes(&self) -> usize {
        self.channel.as_str().len() + self.history.cost_bytes()
    }

    fn is_expired(&self, now: Millis) -> bool {
        self.last_used.saturating_add(millis(self.history.meta_ttl())) <= now
    }
}

impl Default for Histories {
    fn default() -> Self {
        let (slots, entries) = (HashMap::default(), Slab::new());
        Self { slots, entries, lru_lists: [LruList::EMPTY; 2], next_sweep_slot: 0, bytes: 0 }
    }
}

impl Histories {
    /// Lets `work` have the history of a channel, which begins if there is none; then it is the one last used.
    ///
    /// # Errors
    /// The system gives no randomness for the name of a new one.
    pub(super) fn with_channel<T>(
        &mut self,
        channel: &Channel,
        retention: Retention,
        now: Millis,
        work: impl FnOnce(&mut ChannelHistory) -> T,
    ) -> Result<T, getrandom::Error> {
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
        let entry = &mut self.entries[slot];
        let before = entry.cost_bytes();
        entry.last_used = now;
        entry.history.set_retention(retention, now);
        let worked = work(&mut entry.history);
        self.bytes = self.bytes - before + entry.cost_bytes();
        self.link_newest(slot);
        Ok(worked)
    }

    fn create(&mut self, channel: &Channel, retention: Retention, now: Millis) -> Result<usize, getrandom::Error> {
        let history = ChannelHistory::new(retention)?;
        let entry =
            Entry { channel: channel.clone(), history, last_used: now, list: 0, newer: NO_SLOT, older: NO_SLOT };
        self.bytes += entry.cost_bytes();
        let slot = self.entries.insert(entry);
        self.slots.insert(channel.clone(), slot);
        self.link_newest(slot);
        Ok(slot)
    }

    /// Forgets what a channel has kept, not where it stands.
    pub(super) fn clear(&mut self, channel: &Channel) {
        let Some(slot) = self.slots.get(channel) else { return };
        let entry = &mut self.entries[*slot];
        let before = entry.cost_bytes();
        entry.history.clear();
        self.bytes = self.bytes - before + entry.cost_bytes();
    }

    /// Looks at the next `count` slots: publications and histories whose time is over are forgotten.
    pub(super) fn sweep(&mut self, now: Millis, count: usize) {
        let slots = self.entries.capacity();
        for _ in 0..count.min(slots) {
            let slot = self.next_sweep_slot % slots;
            self.next_sweep_slot = slot + 1;
            match self.entries.get_mut(slot) {
                None => {}
                Some(entry) if entry.is_expired(now) => self.remove(slot),
                Some(entry) => {
                    let before = entry.cost_bytes();
                    entry.history.drop_expired(now);
                    self.bytes = self.bytes - before + entry.cost_bytes();
                }
            }
        }
    }

    /// The one that is to be forgotten first: whether anybody has ever published to it, and since when it has rested.
    pub(super) fn eviction_candidate(&self) -> Option<(bool, Millis)> {
        let first = self.lru_lists.iter().find_map(|list| self.entries.get(list.oldest));
        first.map(|entry| (entry.list == 1, entry.last_used))
    }

    /// Forgets [`Self::eviction_candidate`], and where it stood: nobody recovers over the hole.
    pub(super) fn evict_first(&mut self) {
        let first = self.lru_lists.iter().map(|list| list.oldest).find(|oldest| *oldest != NO_SLOT);
        if let Some(first) = first {
            self.remove(first);
        }
    }

    /// What they count together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, slot: usize) {
        self.unlink(slot);
        let entry = self.entries.remove(slot);
        self.bytes -= entry.cost_bytes();
        self.slots.remove(&entry.channel);
        if self.entries.is_empty() {
            // Many may have been here at once.
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

    /// Puts it before all others of its order.
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
        publication::Publication,
    };

    #[derive(Clone, Debug)]
    enum Call {
        Publish { size: usize, bytes: usize, most: usize, version: Option<u64> },
        Ask,
        Clear,
        Sweep,
        Forget,
        Wait(Millis),
    }

    fn call() -> impl Strategy<Value = (usize, Call)> {
        let publish = (1..6_usize, 0..3_000_usize, 0..9_000_usize, prop::option::of(1..9_u64));
        let call = prop_oneof![
            8 => publish.prop_map(|(size, bytes, most, version)| Call::Publish { size, bytes, most, version }),
            3 => Just(Call::Ask),
            1 => Just(Call::Clear),
            2 => Just(Call::Sweep),
            1 => Just(Call::Forget),
            3 => (-40_000..40_000_i64).prop_map(Call::Wait),
        ];
        (0..5_usize, call)
    }

    impl Histories {
        /// Both orders from either end have every entry once, in the order that it says of itself.
        fn is_linked(&self) -> bool {
            let walk = |list: usize| {
                let (mut slots, mut slot) = (Vec::new(), self.lru_lists[list].oldest);
                while let Some(entry) = self.entries.get(slot) {
                    let is_well = entry.list == list && (slots.last().copied().unwrap_or(NO_SLOT) == entry.older);
                    slots.push(slot);
                    slot = entry.newer;
                    if !is_well || slots.len() > self.entries.len() {
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
            let (mut histories, mut now) = (Histories::default(), 1_000_000);
            let (ttl, meta_ttl) = (Duration::from_secs(20), Duration::from_secs(60));
            for (number, call) in calls {
                let channel = Channel::new(&format!("c{number}")).expect("a name");
                let retention = |size| Retention { size, ttl, meta_ttl };
                match call {
                    Call::Publish { size, bytes, most, version } => {
                        let publication = Publication::new(channel.clone(), Bytes::from(vec![b'7'; bytes]));
                        let version = version.map(|number| Version { number, epoch: "".into() });
                        let append = |history: &mut ChannelHistory| {
                            history.append(HistoryRecord::new(&publication, now), version, most);
                        };
                        histories.with_channel(&channel, retention(size), now, append).expect("randomness");
                    }
                    Call::Ask => {
                        let request = HistoryRequest { limit: usize::MAX, ..HistoryRequest::default() };
                        let page = histories.with_channel(&channel, retention(3), now, |history| history.page(&channel, &request));
                        prop_assert!(page.expect("randomness").len() <= 3);
                    }
                    Call::Clear => histories.clear(&channel),
                    Call::Sweep => histories.sweep(now, 3),
                    Call::Forget => histories.evict_first(),
                    Call::Wait(millis) => now += millis,
                }
                let there: usize = histories.entries.iter().map(|(_, entry)| entry.cost_bytes()).sum();
                prop_assert_eq!(histories.bytes(), there);
                prop_assert_eq!(histories.slots.len(), histories.entries.len());
                prop_assert!(histories.is_linked());
            }
        }
    }
}
