//! Reads the sessions in the order of their slots, from any slot on. A session keeps its slot as long as it lives, so that a
//! reader can go on later where it has stopped, whatever sessions have come and gone meanwhile.

use std::{collections::BinaryHeap, sync::Arc};

use super::{DeliveryOptions, Live, Registry, SessionChannels, SessionKey, Slot, subscribers::Subscribers};
use crate::channel::Channel;

/// A session that has a user, with what the registry knows of it.
pub(in crate::hub) struct OwnedSession<'a, M> {
    pub(in crate::hub) session: &'a M,
    pub(in crate::hub) user: &'a Arc<str>,
    pub(in crate::hub) channels: SessionChannels<'a>,
}

/// A session, with what the registry knows of it.
pub(in crate::hub) struct VisitedSession<'a, M> {
    pub(in crate::hub) session: &'a M,
    /// The user, once the session is authenticated.
    pub(in crate::hub) user: Option<&'a Arc<str>>,
    pub(in crate::hub) channels: SessionChannels<'a>,
}

impl<M, S> Registry<M, S> {
    /// Visits the sessions from a slot on, until so many slots or channels are visited, of which each visit returns the number of the
    /// latter. Returns the slot to go on with; `None`: all sessions are visited.
    pub(in crate::hub) fn visit_page(
        &self,
        first: Slot,
        max_slots: usize,
        max_channels: usize,
        mut visit: impl FnMut(VisitedSession<'_, M>) -> usize,
    ) -> Option<Slot> {
        let mut channels = 0;
        for (count, slot) in self.slots_from(first).enumerate() {
            if count >= max_slots || channels >= max_channels {
                return Some(slot);
            }
            if let Some(entry) = self.at(slot) {
                let (session, user) = (&entry.session, entry.user.as_ref());
                channels += visit(VisitedSession { session, user, channels: SessionChannels(&entry.subscriptions) });
            }
        }
        None
    }

    /// Returns the session in a slot, if it has a user.
    pub(in crate::hub) fn owned_at(&self, slot: Slot) -> Option<OwnedSession<'_, M>> {
        let entry = self.at(slot)?;
        let channels = SessionChannels(&entry.subscriptions);
        Some(OwnedSession { session: &entry.session, user: entry.user.as_ref()?, channels })
    }

    /// Returns the session for which this holds.
    pub(in crate::hub) fn find(&self, is_it: impl Fn(&M) -> bool) -> Option<SessionKey> {
        self.sessions.iter().find(|(_, entry)| is_it(&entry.session)).map(|(_, entry)| entry.key)
    }

    /// Returns the user of a session, if it has one.
    pub(in crate::hub) fn user(&self, key: SessionKey) -> Option<&Arc<str>> {
        self.entry(key).and_then(|entry| entry.user.as_ref())
    }

    /// Returns a live subscription, and how publications are delivered to it.
    pub(in crate::hub) fn subscription(&self, key: SessionKey, channel: &Channel) -> Option<(&Live, &DeliveryOptions)> {
        let live = &self.entry(key)?.subscriptions.get(channel)?.stage;
        Some((live, self.channels.get(channel)?.delivery_options(live.place.group)?))
    }

    /// Returns the slots from `first` on.
    pub(in crate::hub) fn slots_from(&self, first: Slot) -> impl Iterator<Item = Slot> + use<M, S> {
        // 2^32 sessions would need more memory than there is.
        first..self.sessions.capacity() as Slot
    }

    /// Returns how many subscribers a channel has in each group, with their delivery options.
    pub(in crate::hub) fn group_sizes(&self, channel: &Channel) -> impl Iterator<Item = (&DeliveryOptions, usize)> {
        let groups = self.channels.get(channel).into_iter().flat_map(Subscribers::groups);
        groups.map(|(_, options, slots)| (options, slots.len()))
    }

    /// Returns the slots of a user's sessions from `first` on, and perhaps those of other users.
    pub(in crate::hub) fn slots_of_user_from(&self, user: &str, first: Slot) -> impl Iterator<Item = Slot> {
        let hash = self.user_hash(user);
        self.by_user.range((hash, first)..=(hash, Slot::MAX)).map(|(_, slot)| *slot)
    }

    /// Returns the lowest slots of a channel's subscribers from `first` on, at most `count`.
    pub(in crate::hub) fn slots_of_channel_from(&self, channel: &Channel, first: Slot, count: usize) -> Vec<Slot> {
        let mut lowest = BinaryHeap::new();
        let groups = self.channels.get(channel).into_iter().flat_map(|subscribers| subscribers.groups());
        for slot in groups.flat_map(|(_, _, slots)| slots).copied().filter(|slot| *slot >= first) {
            if lowest.len() < count {
                lowest.push(slot);
            } else if let Some(mut highest) = lowest.peek_mut()
                && slot < *highest
            {
                *highest = slot;
            }
        }
        lowest.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::subscription::SubscriptionSource;

    #[test]
    fn slots_of_a_channel_are_read_in_pages_while_sessions_come_and_go() {
        let (mut registry, news) = (Registry::<u32, ()>::default(), Channel::new("news").unwrap());
        let keys: Vec<SessionKey> = (0..10).map(|_| SessionKey::unique()).collect();
        // Subscribed in another order than that of their slots.
        for key in &keys {
            registry.insert(*key, 0);
        }
        for key in keys.iter().rev() {
            let source = SubscriptionSource::Client;
            registry.subscribe(*key, news.clone(), source, &DeliveryOptions::default(), None);
        }
        assert_eq!(registry.slots_of_channel_from(&news, 0, 4), [0, 1, 2, 3]);
        registry.remove(keys[1]);
        registry.remove(keys[5]);
        assert_eq!(registry.slots_of_channel_from(&news, 4, 4), [4, 6, 7, 8]);
        assert_eq!(registry.slots_of_channel_from(&news, 9, 4), [9]);
        assert!(registry.slots_of_channel_from(&news, 10, 4).is_empty());
        assert!(registry.slots_of_channel_from(&news, 0, 0).is_empty());
    }

    #[test]
    fn slots_of_a_user_are_read_from_any_slot_on() {
        let mut registry = Registry::<u32, ()>::default();
        for number in 0..6 {
            let key = SessionKey::unique();
            registry.insert(key, 0);
            registry.set_user(key, if number % 2 == 0 { "ann" } else { "bob" }.into());
        }
        assert_eq!(registry.slots_of_user_from("ann", 0).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(registry.slots_of_user_from("ann", 1).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(&**registry.owned_at(3).unwrap().user, "bob");
    }
}
