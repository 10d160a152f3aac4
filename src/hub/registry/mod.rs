//! Who is here and who listens to what: plain data, on one thread, with no actor in it.

mod listeners;
mod users;

use std::{collections::HashMap as StdMap, hash::BuildHasher, sync::Arc};

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use self::listeners::{Listeners, Place};
use super::{
    SessionKey,
    reception::{Departed, Reception, Shown},
    subscription::Grant,
};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER},
};

type Hasher = foldhash::fast::RandomState;

/// A session's place in the slab: what is looked up on the way of a delivery, without a hash.
type Slot = u32;

/// No session.
const NOBODY: Slot = Slot::MAX;

/// Sessions of type `M`, their users and their channels, of which each has a state `S`. Every channel name is stored once; its holders share the text. The
/// entries lie side by side, and the indexes hold four bytes for each: a map of whole entries would be half empty.
pub(super) struct Registry<M, S> {
    sessions: Slab<Entry<M>>,
    by_key: HashTable<Slot>,
    /// One session of each user; its neighbours lead to the others.
    by_user: HashTable<Slot>,
    channels: HashMap<Channel, Listeners<S>, Hasher>,
    hasher: Hasher,
}

struct Entry<M> {
    key: SessionKey,
    member: M,
    /// Whose session it is, once it is somebody's.
    user: Option<Arc<str>>,
    /// The next and the previous session of the same user.
    next: Slot,
    previous: Slot,
    channels: Vec<Held>,
}

/// A channel that a session receives.
struct Held {
    channel: Channel,
    /// This session's place among the channel's, so that leaving it takes no search.
    place: Place,
    /// Why it receives it.
    grant: Grant,
    /// Who it is to others there; boxed, since most channels do not tell.
    shown: Option<Box<Shown>>,
}

/// What a session begins to receive.
pub(super) struct Subscription {
    pub(super) channel: Channel,
    pub(super) grant: Grant,
    pub(super) reception: Reception,
    pub(super) shown: Option<Box<Shown>>,
}

/// The channels of one session.
pub(super) struct Channels<'a>(&'a [Held]);

impl<'a> Channels<'a> {
    pub(super) fn grant(&self, channel: &Channel) -> Option<&'a Grant> {
        self.0.iter().find(|held| held.channel == *channel).map(|held| &held.grant)
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.grant(channel).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a Channel, &'a Grant)> {
        self.0.iter().map(|held| (&held.channel, &held.grant))
    }

    pub(super) fn has_expired(&self, channel: &Channel, now: Millis) -> bool {
        self.grant(channel).is_some_and(|grant| now >= grant.expires_at())
    }

    /// When the first of the subscriptions ends by itself.
    pub(super) fn first_expiry(&self) -> Millis {
        self.0.iter().map(|held| held.grant.expires_at()).min().unwrap_or(NEVER)
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

    fn at(&self, slot: Slot) -> Option<&Entry<M>> {
        self.sessions.get(slot as usize)
    }

    fn at_mut(&mut self, slot: Slot) -> Option<&mut Entry<M>> {
        self.sessions.get_mut(slot as usize)
    }

    fn entry(&self, key: SessionKey) -> Option<&Entry<M>> {
        self.slot(key).and_then(|slot| self.at(slot))
    }

    fn entry_mut(&mut self, key: SessionKey) -> Option<&mut Entry<M>> {
        self.slot(key).and_then(|slot| self.at_mut(slot))
    }

    /// A session that was not here before.
    pub(super) fn insert(&mut self, key: SessionKey, member: M) {
        let entry = Entry { key, member, user: None, next: NOBODY, previous: NOBODY, channels: Vec::new() };
        // 2^32 sessions would need more memory than there is.
        let Ok(slot) = Slot::try_from(self.sessions.insert(entry)) else { return };
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let hash = |slot: &Slot| sessions.get(*slot as usize).map_or(0, |entry| hasher.hash_one(entry.key));
        self.by_key.insert_unique(hasher.hash_one(key), slot, hash);
    }

    pub(super) fn member(&self, key: SessionKey) -> Option<&M> {
        self.entry(key).map(|entry| &entry.member)
    }

    pub(super) fn member_mut(&mut self, key: SessionKey) -> Option<&mut M> {
        self.entry_mut(key).map(|entry| &mut entry.member)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.iter().map(|(_, entry)| entry.key)
    }

    pub(super) fn channels_of(&self, key: SessionKey) -> Option<Channels<'_>> {
        self.entry(key).map(|entry| Channels(&entry.channels))
    }

    pub(super) fn has_subscribers(&self, channel: &Channel) -> bool {
        self.channels.contains_key(channel)
    }

    /// What the hub knows of a channel that somebody receives.
    pub(super) fn state(&self, channel: &Channel) -> Option<&S> {
        self.channels.get(channel).map(|listeners| &listeners.state)
    }

    pub(super) fn state_mut(&mut self, channel: &Channel) -> Option<&mut S> {
        self.channels.get_mut(channel).map(|listeners| &mut listeners.state)
    }

    /// The channels that somebody receives.
    pub(super) fn states_mut(&mut self) -> impl Iterator<Item = (&Channel, &mut S)> {
        self.channels.iter_mut().map(|(channel, listeners)| (channel, &mut listeners.state))
    }

    /// Those who receive `channel`, by the way in which they do.
    pub(super) fn classes(
        &self,
        channel: &Channel,
    ) -> impl Iterator<Item = (u32, &Reception, impl Iterator<Item = (SessionKey, &M)>)> {
        let classes = self.channels.get(channel).into_iter().flat_map(Listeners::classes);
        classes.map(|(number, reception, slots)| {
            let members = slots.iter().filter_map(|slot| self.at(*slot).map(|entry| (entry.key, &entry.member)));
            (number, reception, members)
        })
    }

    /// Those of one class receive the channel in another way from now on.
    pub(super) fn change(&mut self, channel: &Channel, class: u32, reception: Reception) {
        let Some(listeners) = self.channels.get_mut(channel) else { return };
        let (moved, first) = listeners.change(class, reception);
        for (index, slot) in (first.index..).zip(moved) {
            self.put(slot, channel, Place { class: first.class, index });
        }
    }

    /// One session receives a channel in another way from now on.
    pub(super) fn change_one(&mut self, key: SessionKey, channel: &Channel, change: impl FnOnce(&mut Reception)) {
        let Some(slot) = self.slot(key) else { return };
        let held = self.at(slot).and_then(|entry| entry.channels.iter().find(|held| held.channel == *channel));
        let Some(before) = held.map(|held| held.place) else { return };
        let Some(listeners) = self.channels.get_mut(channel) else { return };
        let Some(mut reception) = listeners.reception(before.class).cloned() else { return };
        change(&mut reception);
        let moved = listeners.vacate(before);
        let place = listeners.add(slot, &reception);
        if let Some(moved) = moved {
            self.put(moved, channel, before);
        }
        self.put(slot, channel, place);
    }

    fn put(&mut self, slot: Slot, channel: &Channel, place: Place) {
        let channels = self.at_mut(slot).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        if let Some(held) = channels.iter_mut().find(|held| held.channel == *channel) {
            held.place = place;
        }
    }

    pub(super) fn count_channels(&self) -> StdMap<Channel, usize> {
        self.channels.iter().map(|(channel, listeners)| (channel.clone(), listeners.len())).collect()
    }

    /// The session begins to receive the channel, which it did not before.
    pub(super) fn subscribe(&mut self, key: SessionKey, subscription: Subscription)
    where
        S: Default,
    {
        let Some(slot) = self.slot(key) else { return };
        let Subscription { channel, grant, reception, shown } = subscription;
        let interned = self.channels.get_key_value(&channel).map_or(channel, |(interned, _)| interned.clone());
        let place = self.channels.entry(interned.clone()).or_default().add(slot, &reception);
        if let Some(entry) = self.at_mut(slot) {
            // Most have one: a vector left to itself begins with room for four.
            entry.channels.reserve_exact(usize::from(entry.channels.is_empty()));
            entry.channels.push(Held { channel: interned, place, grant, shown });
        }
    }

    /// The session receives a channel that it has for another reason from now on.
    /// Gives who it is to others there, if the channel tells.
    pub(super) fn grant_anew(&mut self, key: SessionKey, channel: &Channel, grant: Grant) -> Option<&mut Shown> {
        let channels = self.entry_mut(key).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        let held = channels.iter_mut().find(|held| held.channel == *channel)?;
        held.grant = grant;
        held.shown.as_deref_mut()
    }

    /// One of `parts` parts of all who are to be seen, by turns.
    pub(super) fn shown(&self, part: usize, parts: usize) -> impl Iterator<Item = (&Channel, &Shown)> {
        let slots = (part..self.sessions.capacity()).step_by(parts.max(1));
        let held = slots.filter_map(|slot| self.sessions.get(slot)).flat_map(|entry| &entry.channels);
        held.filter_map(|held| held.shown.as_deref().map(|shown| (&held.channel, shown)))
    }

    /// The session stops receiving a channel; `None` if it did not.
    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Option<Departed> {
        let entry = self.entry_mut(key)?;
        let index = entry.channels.iter().position(|held| held.channel == *channel)?;
        let held = entry.channels.swap_remove(index);
        Some(self.depart(held))
    }

    /// The session stops receiving everything.
    pub(super) fn leave_all(&mut self, key: SessionKey) -> Vec<Departed> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        let held = std::mem::take(&mut entry.channels);
        held.into_iter().map(|held| self.depart(held)).collect()
    }

    /// Forgets a session; tells what it received.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<Departed>)> {
        let slot = self.slot(key)?;
        let departed = self.leave_all(key);
        self.forget_user(slot);
        if let Ok(indexed) = self.by_key.find_entry(self.hasher.hash_one(key), |found| *found == slot) {
            indexed.remove();
        }
        let entry = self.sessions.try_remove(slot as usize)?;
        Some((entry.member, departed))
    }

    fn depart(&mut self, held: Held) -> Departed {
        let Held { channel, place, shown, .. } = held;
        let Some(listeners) = self.channels.get_mut(&channel) else {
            return Departed { channel, is_last: false, shown };
        };
        let moved = listeners.vacate(place);
        let is_last = listeners.len() == 0;
        if is_last {
            self.channels.remove(&channel);
        }
        if let Some(moved) = moved {
            self.put(moved, &channel, place);
        }
        Departed { channel, is_last, shown }
    }
}

#[cfg(test)]
mod tests;
