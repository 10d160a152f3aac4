//! The subscriptions of one session. Most sessions have few, which are compared one by one. A session that has many gets an
//! index, so that no subscription costs more than the one before it.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::Hasher;
use crate::{
    channel::Channel,
    hub::subscription::{Live, Subscription},
};

/// Maximum number of subscriptions without an index: comparing so many costs about as much as a look into the index.
const MAX_UNINDEXED: usize = 32;

/// The subscriptions of one session, in no order.
#[derive(Default)]
pub(super) struct SessionSubscriptions {
    held: Vec<Subscription<Live>>,
    /// Boxed: few sessions have one, and all would pay for the memory.
    index: Option<Box<ChannelIndex>>,
}

/// Finds the place of a channel in the list.
#[derive(Default)]
struct ChannelIndex {
    places: HashTable<u32>,
    hasher: Hasher,
}

impl ChannelIndex {
    fn of(held: &[Subscription<Live>]) -> Box<Self> {
        let mut index = Box::<Self>::default();
        (0..held.len()).for_each(|place| index.insert(held, place));
        index
    }

    /// Adds the subscription at a place.
    fn insert(&mut self, held: &[Subscription<Live>], place: usize) {
        let Self { places, hasher } = self;
        let hash = |place: &u32| hasher.hash_one(&held[*place as usize].channel);
        // 2^32 subscriptions would need more memory than there is.
        let place = place as u32;
        places.insert_unique(hash(&place), place, hash);
    }

    fn find(&self, held: &[Subscription<Live>], channel: &Channel) -> Option<usize> {
        let is_it = |place: &u32| held[*place as usize].channel == *channel;
        self.places.find(self.hasher.hash_one(channel), is_it).map(|place| *place as usize)
    }

    /// Removes the entry of a channel that is at a place.
    fn remove(&mut self, channel: &Channel, place: usize) {
        let is_it = |found: &u32| *found as usize == place;
        if let Ok(entry) = self.places.find_entry(self.hasher.hash_one(channel), is_it) {
            entry.remove();
        }
    }
}

impl SessionSubscriptions {
    fn position(&self, channel: &Channel) -> Option<usize> {
        match &self.index {
            Some(index) => index.find(&self.held, channel),
            None => self.held.iter().position(|held| held.channel == *channel),
        }
    }

    pub(super) fn get(&self, channel: &Channel) -> Option<&Subscription<Live>> {
        self.position(channel).map(|place| &self.held[place])
    }

    pub(super) fn get_mut(&mut self, channel: &Channel) -> Option<&mut Subscription<Live>> {
        self.position(channel).map(|place| &mut self.held[place])
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Subscription<Live>> {
        self.held.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Adds a subscription to a channel that has none here.
    pub(super) fn push(&mut self, subscription: Subscription<Live>) {
        // Most sessions have one subscription, and the first push would reserve room for four.
        self.held.reserve_exact(usize::from(self.held.is_empty()));
        self.held.push(subscription);
        match &mut self.index {
            Some(index) => index.insert(&self.held, self.held.len() - 1),
            None if self.held.len() > MAX_UNINDEXED => self.index = Some(ChannelIndex::of(&self.held)),
            None => {}
        }
    }

    /// Removes a subscription. The last one moves to its place.
    pub(super) fn remove(&mut self, channel: &Channel) -> Option<Subscription<Live>> {
        let place = self.position(channel)?;
        let last = self.held.len() - 1;
        if let Some(index) = &mut self.index {
            index.remove(channel, place);
            if place < last {
                index.remove(&self.held[last].channel, last);
            }
        }
        let removed = self.held.swap_remove(place);
        if let Some(index) = self.index.as_mut().filter(|_| place < last) {
            index.insert(&self.held, place);
        }
        if self.held.is_empty() {
            self.index = None;
        }
        Some(removed)
    }

    /// Removes all subscriptions.
    pub(super) fn take_all(&mut self) -> Vec<Subscription<Live>> {
        self.index = None;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{SubscriptionSource, registry::GroupPlace, subscription::SubscriptionStart};

    fn channel(number: usize) -> Channel {
        Channel::new(&format!("channel-{number}")).unwrap()
    }

    fn subscription(number: usize) -> Subscription<Live> {
        let place = GroupPlace { group: 0, index: number as u32 };
        let stage = Live { place, visibility: None, start: SubscriptionStart::default() };
        Subscription { channel: channel(number), source: SubscriptionSource::default(), stage }
    }

    fn index_of(subscriptions: &SessionSubscriptions, number: usize) -> Option<u32> {
        subscriptions.get(&channel(number)).map(|held| held.stage.place.index)
    }

    #[test]
    fn each_of_few_and_of_many_subscriptions_is_found_until_it_is_removed() {
        let mut subscriptions = SessionSubscriptions::default();
        for number in 0..100 {
            subscriptions.push(subscription(number));
            assert_eq!(subscriptions.index.is_some(), number >= MAX_UNINDEXED);
            assert!((0..100).all(|n| index_of(&subscriptions, n) == (n <= number).then_some(n as u32)));
        }
        // The first, the last, and some between them, so that others move to their places.
        let order = || (0..100).map(|step| step * 37 % 100);
        for (step, number) in order().enumerate() {
            assert_eq!(subscriptions.remove(&channel(number)).map(|held| held.channel), Some(channel(number)));
            assert!(subscriptions.remove(&channel(number)).is_none());
            let left: Vec<usize> = order().skip(step + 1).collect();
            assert!((0..100).all(|n| index_of(&subscriptions, n) == left.contains(&n).then_some(n as u32)));
        }
        assert!(subscriptions.index.is_none() && subscriptions.len() == 0);
    }

    #[test]
    fn subscriptions_are_found_after_all_were_taken() {
        let mut subscriptions = SessionSubscriptions::default();
        (0..100).for_each(|number| subscriptions.push(subscription(number)));
        assert_eq!(subscriptions.take_all().len(), 100);
        assert!(subscriptions.get(&channel(50)).is_none());
        subscriptions.push(subscription(50));
        assert_eq!(index_of(&subscriptions, 50), Some(50));
    }
}
