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
    newest: usize,
    oldest: usize,
    /// Where the next sweep begins.
    swept: usize,
    bytes: usize,
}

struct Entry {
    channel: Channel,
    history: ChannelHistory,
    touched: Millis,
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
        Self { places, entries, newest: NOBODY, oldest: NOBODY, swept: 0, bytes: 0 }
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
        self.link(place);
        let entry = &mut self.entries[place];
        let before = entry.cost_bytes();
        entry.touched = now;
        entry.history.retain(retention, now);
        let worked = work(&mut entry.history);
        self.bytes = self.bytes - before + entry.cost_bytes();
        Ok(worked)
    }

    fn begin(&mut self, channel: &Channel, retention: Retention, now: Millis) -> Result<usize, getrandom::Error> {
        let history = ChannelHistory::new(retention)?;
        let entry = Entry { channel: channel.clone(), history, touched: now, newer: NOBODY, older: NOBODY };
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

    /// Since when the one has rested that has rested longest.
    pub(super) fn rested_since(&self) -> Option<Millis> {
        self.entries.get(self.oldest).map(|entry| entry.touched)
    }

    /// Forgets the one that has rested longest, and where it stood: nobody recovers over the hole.
    pub(super) fn forget_oldest(&mut self) {
        if self.entries.contains(self.oldest) {
            self.forget(self.oldest);
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
        let (newer, older) = (self.entries[place].newer, self.entries[place].older);
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Puts it before all others.
    fn link(&mut self, place: usize) {
        let older = self.newest;
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        let entry = &mut self.entries[place];
        (entry.newer, entry.older) = (NOBODY, older);
        self.newest = place;
    }
}
