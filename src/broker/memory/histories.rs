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
const NOBODY: usize = usize::MAX;

/// Some histories, and what they count.
pub(super) struct Histories {
    places: HashMap<Channel, usize, foldhash::fast::RandomState>,
    entries: Slab<Entry>,
    /// Those to which nobody has ever published, and the others. The first are forgotten first: anybody who may subscribe
    /// can make them, and they hold nothing that could be missed.
    orders: [Order; 2],
    /// Where the next sweep begins.
    swept: usize,
    bytes: usize,
}

/// Two ends of a list.
#[derive(Clone, Copy)]
struct Order {
    newest: usize,
    oldest: usize,
}

impl Order {
    const EMPTY: Self = Self { newest: NOBODY, oldest: NOBODY };
}

struct Entry {
    channel: Channel,
    history: ChannelHistory,
    touched: Millis,
    /// Which of the orders it stands in.
    order: usize,
    newer: usize,
    older: usize,
}

impl Entry {
    fn cost_bytes(&self) -> usize {
        self.channel.as_str().len() + self.history.cost_bytes()
    }

    fn is_over(&self, now: Millis) -> bool {
        self.touched.saturating_add(millis(self.history.meta_ttl())) <= now
    }
}

impl Default for Histories {
    fn default() -> Self {
        let (places, entries) = (HashMap::default(), Slab::new());
        Self { places, entries, orders: [Order::EMPTY; 2], swept: 0, bytes: 0 }
    }
}

impl Histories {
    /// Lets `work` have the history of a channel, which begins if there is none; then it is the one last used.
    ///
    /// # Errors
    /// The system gives no randomness for the name of a new one.
    pub(super) fn with<T>(
        &mut self,
        channel: &Channel,
        retention: Retention,
        now: Millis,
        work: impl FnOnce(&mut ChannelHistory) -> T,
    ) -> Result<T, getrandom::Error> {
        if let Some(place) = self.places.get(channel).copied()
            && self.entries[place].is_over(now)
        {
            self.forget(place);
        }
        let place = match self.places.get(channel) {
            Some(place) => *place,
            None => self.begin(channel, retention, now)?,
        };
        self.unlink(place);
        let entry = &mut self.entries[place];
        let before = entry.cost_bytes();
        entry.touched = now;
        entry.history.retain(retention, now);
        let worked = work(&mut entry.history);
        self.bytes = self.bytes - before + entry.cost_bytes();
        self.link(place);
        Ok(worked)
    }

    fn begin(&mut self, channel: &Channel, retention: Retention, now: Millis) -> Result<usize, getrandom::Error> {
        let history = ChannelHistory::new(retention)?;
        let entry = Entry { channel: channel.clone(), history, touched: now, order: 0, newer: NOBODY, older: NOBODY };
        self.bytes += entry.cost_bytes();
        let place = self.entries.insert(entry);
        self.places.insert(channel.clone(), place);
        self.link(place);
        Ok(place)
    }

    /// Forgets what a channel has kept, not where it stands.
    pub(super) fn clear(&mut self, channel: &Channel) {
        let Some(place) = self.places.get(channel) else { return };
        let entry = &mut self.entries[*place];
        let before = entry.cost_bytes();
        entry.history.clear();
        self.bytes = self.bytes - before + entry.cost_bytes();
    }

    /// Looks at the next `count` places: publications and histories whose time is over are forgotten.
    pub(super) fn sweep(&mut self, now: Millis, count: usize) {
        let places = self.entries.capacity();
        for _ in 0..count.min(places) {
            let place = self.swept % places;
            self.swept = place + 1;
            match self.entries.get_mut(place) {
                None => {}
                Some(entry) if entry.is_over(now) => self.forget(place),
                Some(entry) => {
                    let before = entry.cost_bytes();
                    entry.history.expire(now);
                    self.bytes = self.bytes - before + entry.cost_bytes();
                }
            }
        }
    }

    /// The one that is to be forgotten first: whether anybody has ever published to it, and since when it has rested.
    pub(super) fn first_to_go(&self) -> Option<(bool, Millis)> {
        let first = self.orders.iter().find_map(|order| self.entries.get(order.oldest));
        first.map(|entry| (entry.order == 1, entry.touched))
    }

    /// Forgets [`Self::first_to_go`], and where it stood: nobody recovers over the hole.
    pub(super) fn forget_first(&mut self) {
        let first = self.orders.iter().map(|order| order.oldest).find(|oldest| *oldest != NOBODY);
        if let Some(first) = first {
            self.forget(first);
        }
    }

    /// What they count together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, place: usize) {
        self.unlink(place);
        let entry = self.entries.remove(place);
        self.bytes -= entry.cost_bytes();
        self.places.remove(&entry.channel);
        if self.entries.is_empty() {
            // Many may have been here at once.
            *self = Self::default();
        }
    }

    fn unlink(&mut self, place: usize) {
        let Entry { newer, older, order, .. } = self.entries[place];
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.orders[order].newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.orders[order].oldest = newer,
        }
    }

    /// Puts it before all others of its order.
    fn link(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        let order = usize::from(entry.history.position().offset > 0);
        let older = self.orders[order].newest;
        (entry.newer, entry.older, entry.order) = (NOBODY, older, order);
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = place,
            None => self.orders[order].oldest = place,
        }
        self.orders[order].newest = place;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{super::record::Record, *};
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
            let walk = |order: usize| {
                let (mut places, mut place) = (Vec::new(), self.orders[order].oldest);
                while let Some(entry) = self.entries.get(place) {
                    let is_well = entry.order == order && (places.last().copied().unwrap_or(NOBODY) == entry.older);
                    places.push(place);
                    place = entry.newer;
                    if !is_well || places.len() > self.entries.len() {
                        return None;
                    }
                }
                (self.orders[order].newest == places.last().copied().unwrap_or(NOBODY)).then_some(places.len())
            };
            walk(0).zip(walk(1)).is_some_and(|(empty, used)| empty + used == self.entries.len())
        }
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_there_whatever_the_clock_does(calls in prop::collection::vec(call(), 1..80)) {
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
                            history.append(Record::new(&publication, now), version, most);
                        };
                        histories.with(&channel, retention(size), now, append).expect("randomness");
                    }
                    Call::Ask => {
                        let request = HistoryRequest { limit: usize::MAX, ..HistoryRequest::default() };
                        let page = histories.with(&channel, retention(3), now, |history| history.page(&channel, &request));
                        prop_assert!(page.expect("randomness").len() <= 3);
                    }
                    Call::Clear => histories.clear(&channel),
                    Call::Sweep => histories.sweep(now, 3),
                    Call::Forget => histories.forget_first(),
                    Call::Wait(millis) => now += millis,
                }
                let there: usize = histories.entries.iter().map(|(_, entry)| entry.cost_bytes()).sum();
                prop_assert_eq!(histories.bytes(), there);
                prop_assert_eq!(histories.places.len(), histories.entries.len());
                prop_assert!(histories.is_linked());
            }
        }
    }
}
