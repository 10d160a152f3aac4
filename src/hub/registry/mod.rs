//! Who is here and who listens to what: plain data, on one thread, with no actor in it.

mod subscribers;
mod users;

use std::{collections::HashMap as StdMap, hash::BuildHasher, sync::Arc};

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use self::subscribers::{GroupPlace, Subscribers};
use super::{
    SessionKey,
    delivery_options::{DeliveryOptions, LeftChannel, Visibility},
    subscription_source::SubscriptionSource,
};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER},
};

type Hasher = foldhash::fast::RandomState;

/// A session's place in the slab: what is looked up on the way of a delivery, without a hash.
type Slot = u32;

/// No session.
const NO_SESSION: Slot = Slot::MAX;

/// Sessions of type `M`, their users and their channels, of which each has a state `S`. Every channel name is stored once; its holders share the text. The
/// entries lie side by side, and the indexes hold four bytes for each: a map of whole entries would be half empty.
pub(super) struct Registry<M, S> {
    sessions: Slab<SessionEntry<M>>,
    by_key: HashTable<Slot>,
    /// One session of each user; its neighbours lead to the others.
    by_user: HashTable<Slot>,
    channels: HashMap<Channel, Subscribers<S>, Hasher>,
    hasher: Hasher,
}

struct SessionEntry<M> {
    key: SessionKey,
    session: M,
    /// Whose session it is, once it is somebody's.
    user: Option<Arc<str>>,
    /// The next and the previous session of the same user.
    next: Slot,
    previous: Slot,
    channels: Vec<HeldSubscription>,
}

/// A channel that a session receives.
struct HeldSubscription {
    channel: Channel,
    /// This session's place among the channel's, so that leaving it takes no search.
    place: GroupPlace,
    /// Why it receives it.
    source: SubscriptionSource,
    /// Who it is to others there; boxed, since most channels do not tell.
    visibility: Option<Box<Visibility>>,
}

/// What a session begins to receive.
pub(super) struct NewSubscription {
    pub(super) channel: Channel,
    pub(super) source: SubscriptionSource,
    pub(super) options: DeliveryOptions,
    pub(super) visibility: Option<Box<Visibility>>,
}

/// The channels of one session.
pub(super) struct SessionChannels<'a>(&'a [HeldSubscription]);

impl<'a> SessionChannels<'a> {
    pub(super) fn source(&self, channel: &Channel) -> Option<&'a SubscriptionSource> {
        self.0.iter().find(|held| held.channel == *channel).map(|held| &held.source)
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.source(channel).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a Channel, &'a SubscriptionSource)> {
        self.0.iter().map(|held| (&held.channel, &held.source))
    }

    pub(super) fn has_expired(&self, channel: &Channel, now: Millis) -> bool {
        self.source(channel).is_some_and(|source| now >= source.expires_at())
    }

    /// When the first of the subscriptions ends by itself.
    pub(super) fn earliest_expiry(&self) -> Millis {
        self.0.iter().map(|held| held.source.expires_at()).min().unwrap_or(NEVER)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<M, S> Default for Registry<M, S> {
    fn default() -> Self {
        Self {
            sessions: Slab::new(),
            by_key: HashTable::new(),
            by_user: HashTable::new(),
            channels: HashMap::default(),
            hasher: Hasher::default(),
        }
    }
}

impl<M, S> Registry<M, S> {
    fn slot(&self, key: SessionKey) -> Option<Slot> {
        let is_it = |slot: &Slot| self.at(*slot).is_some_and(|entry| entry.key == key);
        self.by_key.find(self.hasher.hash_one(key), is_it).copied()
    }

    fn at(&self, slot: Slot) -> Option<&SessionEntry<M>> {
        self.sessions.get(slot as usize)
    }

    fn at_mut(&mut self, slot: Slot) -> Option<&mut SessionEntry<M>> {
        self.sessions.get_mut(slot as usize)
    }

    fn entry(&self, key: SessionKey) -> Option<&SessionEntry<M>> {
        self.slot(key).and_then(|slot| self.at(slot))
    }

    fn entry_mut(&mut self, key: SessionKey) -> Option<&mut SessionEntry<M>> {
        self.slot(key).and_then(|slot| self.at_mut(slot))
    }

    /// A session that was not here before.
    pub(super) fn insert(&mut self, key: SessionKey, session: M) {
        let entry =
            SessionEntry { key, session, user: None, next: NO_SESSION, previous: NO_SESSION, channels: Vec::new() };
        // 2^32 sessions would need more memory than there is.
        let Ok(slot) = Slot::try_from(self.sessions.insert(entry)) else { return };
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let hash = |slot: &Slot| sessions.get(*slot as usize).map_or(0, |entry| hasher.hash_one(entry.key));
        self.by_key.insert_unique(hasher.hash_one(key), slot, hash);
    }

    pub(super) fn session(&self, key: SessionKey) -> Option<&M> {
        self.entry(key).map(|entry| &entry.session)
    }

    pub(super) fn session_mut(&mut self, key: SessionKey) -> Option<&mut M> {
        self.entry_mut(key).map(|entry| &mut entry.session)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.iter().map(|(_, entry)| entry.key)
    }

    pub(super) fn channels_of(&self, key: SessionKey) -> Option<SessionChannels<'_>> {
        self.entry(key).map(|entry| SessionChannels(&entry.channels))
    }

    pub(super) fn has_subscribers(&self, channel: &Channel) -> bool {
        self.channels.contains_key(channel)
    }

    /// What the hub knows of a channel that somebody receives.
    pub(super) fn channel_state(&self, channel: &Channel) -> Option<&S> {
        self.channels.get(channel).map(|subscribers| &subscribers.state)
    }

    pub(super) fn channel_state_mut(&mut self, channel: &Channel) -> Option<&mut S> {
        self.channels.get_mut(channel).map(|subscribers| &mut subscribers.state)
    }

    /// The channels that somebody receives.
    pub(super) fn channel_states_mut(&mut self) -> impl Iterator<Item = (&Channel, &mut S)> {
        self.channels.iter_mut().map(|(channel, subscribers)| (channel, &mut subscribers.state))
    }

    /// Those who receive `channel`, by the way in which they do.
    pub(super) fn groups(
        &self,
        channel: &Channel,
    ) -> impl Iterator<Item = (u32, &DeliveryOptions, impl Iterator<Item = (SessionKey, &M)>)> {
        let groups = self.channels.get(channel).into_iter().flat_map(Subscribers::groups);
        groups.map(|(number, options, slots)| {
            let sessions = slots.iter().filter_map(|slot| self.at(*slot).map(|entry| (entry.key, &entry.session)));
            (number, options, sessions)
        })
    }

    /// Those of one class receive the channel in another way from now on.
    pub(super) fn change_group(&mut self, channel: &Channel, group: u32, options: DeliveryOptions) {
        let Some(subscribers) = self.channels.get_mut(channel) else { return };
        let (moved, first) = subscribers.change_group(group, options);
        for (index, slot) in (first.index..).zip(moved) {
            self.set_place(slot, channel, GroupPlace { group: first.group, index });
        }
    }

    /// One session receives a channel in another way from now on.
    pub(super) fn change_one(&mut self, key: SessionKey, channel: &Channel, change: impl FnOnce(&mut DeliveryOptions)) {
        let Some(slot) = self.slot(key) else { return };
        let held = self.at(slot).and_then(|entry| entry.channels.iter().find(|held| held.channel == *channel));
        let Some(before) = held.map(|held| held.place) else { return };
        let Some(subscribers) = self.channels.get_mut(channel) else { return };
        let Some(mut options) = subscribers.delivery_options(before.group).cloned() else { return };
        change(&mut options);
        let moved = subscribers.remove_at(before);
        let place = subscribers.add(slot, &options);
        if let Some(moved) = moved {
            self.set_place(moved, channel, before);
        }
        self.set_place(slot, channel, place);
    }

    fn set_place(&mut self, slot: Slot, channel: &Channel, place: GroupPlace) {
        let channels = self.at_mut(slot).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        if let Some(held) = channels.iter_mut().find(|held| held.channel == *channel) {
            held.place = place;
        }
    }

    pub(super) fn count_subscribers(&self) -> StdMap<Channel, usize> {
        self.channels.iter().map(|(channel, subscribers)| (channel.clone(), subscribers.len())).collect()
    }

    /// The session begins to receive the channel, which it did not before.
    pub(super) fn subscribe(&mut self, key: SessionKey, subscription: NewSubscription)
    where
        S: Default,
    {
        let Some(slot) = self.slot(key) else { return };
        let NewSubscription { channel, source, options, visibility } = subscription;
        let shared_name = self.channels.get_key_value(&channel).map_or(channel, |(shared_name, _)| shared_name.clone());
        let place = self.channels.entry(shared_name.clone()).or_default().add(slot, &options);
        if let Some(entry) = self.at_mut(slot) {
            // Most have one: a vector left to itself begins with room for four.
            entry.channels.reserve_exact(usize::from(entry.channels.is_empty()));
            entry.channels.push(HeldSubscription { channel: shared_name, place, source, visibility });
        }
    }

    /// The session receives a channel that it has for another reason from now on.
    /// Gives who it is to others there, if the channel tells.
    pub(super) fn replace_source(
        &mut self,
        key: SessionKey,
        channel: &Channel,
        source: SubscriptionSource,
    ) -> Option<&mut Visibility> {
        let channels = self.entry_mut(key).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        let held = channels.iter_mut().find(|held| held.channel == *channel)?;
        held.source = source;
        held.visibility.as_deref_mut()
    }

    /// One of `parts` parts of all who are to be seen, by turns.
    pub(super) fn visible_part(&self, part: usize, parts: usize) -> impl Iterator<Item = (&Channel, &Visibility)> {
        let slots = (part..self.sessions.capacity()).step_by(parts.max(1));
        let held = slots.filter_map(|slot| self.sessions.get(slot)).flat_map(|entry| &entry.channels);
        held.filter_map(|held| held.visibility.as_deref().map(|visibility| (&held.channel, visibility)))
    }

    /// The session stops receiving a channel; `None` if it did not.
    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Option<LeftChannel> {
        let entry = self.entry_mut(key)?;
        let index = entry.channels.iter().position(|held| held.channel == *channel)?;
        let held = entry.channels.swap_remove(index);
        Some(self.detach(held))
    }

    /// The session stops receiving everything.
    pub(super) fn unsubscribe_all(&mut self, key: SessionKey) -> Vec<LeftChannel> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        let held = std::mem::take(&mut entry.channels);
        held.into_iter().map(|held| self.detach(held)).collect()
    }

    /// Forgets a session; tells what it received.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<LeftChannel>)> {
        let slot = self.slot(key)?;
        let left = self.unsubscribe_all(key);
        self.unlink_user(slot);
        if let Ok(indexed) = self.by_key.find_entry(self.hasher.hash_one(key), |found| *found == slot) {
            indexed.remove();
        }
        let entry = self.sessions.try_remove(slot as usize)?;
        Some((entry.session, left))
    }

    fn detach(&mut self, held: HeldSubscription) -> LeftChannel {
        let HeldSubscription { channel, place, visibility, .. } = held;
        let Some(subscribers) = self.channels.get_mut(&channel) else {
            return LeftChannel { channel, is_last: false, visibility };
        };
        let moved = subscribers.remove_at(place);
        let is_last = subscribers.len() == 0;
        if is_last {
            self.channels.remove(&channel);
        }
        if let Some(moved) = moved {
            self.set_place(moved, &channel, place);
        }
        LeftChannel { channel, is_last, visibility }
    }
}

#[cfg(test)]
mod tests;
