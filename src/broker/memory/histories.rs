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
