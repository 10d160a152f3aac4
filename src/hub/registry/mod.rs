//! Who is here and who listens to what: plain data, on one thread, with no actor in it.

use std::{collections::HashMap as StdMap, hash::BuildHasher, sync::Arc};

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::{SessionKey, subscription::Grant};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER},
};

type Hasher = foldhash::fast::RandomState;

/// A session's place in the slab: what is looked up on the way of a delivery, without a hash.
type Slot = u32;

/// No session.
const NOBODY: Slot = Slot::MAX;

/// Sessions of type `M`, their users and their channels. Every channel name is stored once; its holders share the text. The
/// entries lie side by side, and the indexes hold four bytes for each: a map of whole entries would be half empty.
pub(super) struct Registry<M> {
    sessions: Slab<Entry<M>>,
    by_key: HashTable<Slot>,
    /// One session of each user; its neighbours lead to the others.
    by_user: HashTable<Slot>,
    channels: HashMap<Channel, Vec<Slot>, Hasher>,
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
    /// This session's place in the channel's list, so that leaving it takes no search.
    place: u32,
    /// Why it receives it.
    grant: Grant,
}

/// What was left behind by an unsubscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It did not receive the channel.
    WasNotThere,
    /// Others still do.
    Others,
    /// Nobody here does.
    Last,
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

impl<M> Default for Registry<M> {
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

impl<M> Registry<M> {
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

    /// The members that receive `channel`.
    pub(super) fn subscribers(&self, channel: &Channel) -> impl Iterator<Item = (SessionKey, &M)> {
        let slots = self.channels.get(channel).map_or(&[][..], Vec::as_slice);
        slots.iter().filter_map(|slot| self.at(*slot).map(|entry| (entry.key, &entry.member)))
    }

    pub(super) fn count_channels(&self) -> StdMap<Channel, usize> {
        self.channels.iter().map(|(channel, slots)| (channel.clone(), slots.len())).collect()
    }

    /// The session begins to receive the channel, which it did not before.
    pub(super) fn subscribe(&mut self, key: SessionKey, channel: Channel, grant: Grant) {
        let Some(slot) = self.slot(key) else { return };
        let interned = self.channels.get_key_value(&channel).map_or(channel, |(interned, _)| interned.clone());
        let slots = self.channels.entry(interned.clone()).or_default();
        let place = Slot::try_from(slots.len()).unwrap_or(NOBODY);
        slots.push(slot);
        if let Some(entry) = self.at_mut(slot) {
            // Most have one: a vector left to itself begins with room for four.
            entry.channels.reserve_exact(usize::from(entry.channels.is_empty()));
            entry.channels.push(Held { channel: interned, place, grant });
        }
    }

    /// The session receives a channel that it has for another reason from now on.
    pub(super) fn grant_anew(&mut self, key: SessionKey, channel: &Channel, grant: Grant) {
        let channels = self.entry_mut(key).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        if let Some(held) = channels.iter_mut().find(|held| held.channel == *channel) {
            held.grant = grant;
        }
    }

    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Left {
        let Some(entry) = self.entry_mut(key) else { return Left::WasNotThere };
        let Some(index) = entry.channels.iter().position(|held| held.channel == *channel) else {
            return Left::WasNotThere;
        };
        let held = entry.channels.swap_remove(index);
        if self.vacate(channel, held.place) { Left::Last } else { Left::Others }
    }

    /// Unsubscribes a session from everything and tells the channels that nobody here receives any more.
    pub(super) fn leave_all(&mut self, key: SessionKey) -> Vec<Channel> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        let held = std::mem::take(&mut entry.channels);
        held.into_iter().filter_map(|held| self.vacate(&held.channel, held.place).then_some(held.channel)).collect()
    }

    /// Forgets a session; tells the channels that nobody here receives any more.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<Channel>)> {
        let slot = self.slot(key)?;
        let emptied = self.leave_all(key);
        self.forget_user(slot);
        if let Ok(indexed) = self.by_key.find_entry(self.hasher.hash_one(key), |found| *found == slot) {
            indexed.remove();
        }
        let entry = self.sessions.try_remove(slot as usize)?;
        Some((entry.member, emptied))
    }

    /// Frees a place in a channel's list; whoever was last moves there. Tells whether the list is empty now.
    fn vacate(&mut self, channel: &Channel, place: u32) -> bool {
        let Some(slots) = self.channels.get_mut(channel) else { return false };
        slots.swap_remove(place as usize);
        if let Some(moved) = slots.get(place as usize).copied() {
            let channels = self.at_mut(moved).map(|entry| entry.channels.iter_mut());
            if let Some(held) = channels.and_then(|mut channels| channels.find(|held| held.channel == *channel)) {
                held.place = place;
            }
            return false;
        }
        if slots.is_empty() {
            self.channels.remove(channel);
            return true;
        }
        false
    }
}

/// Whose sessions they are.
impl<M> Registry<M> {
    /// Says whose session it is.
    pub(super) fn belongs_to(&mut self, key: SessionKey, user: Arc<str>) {
        let Some(slot) = self.slot(key) else { return };
        if self.at(slot).is_some_and(|entry| entry.user.as_ref() == Some(&user)) {
            return;
        }
        self.forget_user(slot);
        let hash = self.hasher.hash_one(&*user);
        let first = self.first_of(&user);
        if let Some(entry) = self.at_mut(slot) {
            entry.user = Some(user);
            entry.next = first.unwrap_or(NOBODY);
        }
        match first {
            Some(first) => {
                if let Some(entry) = self.at_mut(first) {
                    entry.previous = slot;
                }
                self.lead_with(hash, first, Some(slot));
            }
            None => {
                let (sessions, hasher) = (&self.sessions, &self.hasher);
                let user_of = |slot: &Slot| sessions.get(*slot as usize).and_then(|entry| entry.user.as_deref());
                self.by_user.insert_unique(hash, slot, |slot| hasher.hash_one(user_of(slot).unwrap_or_default()));
            }
        }
    }

    /// The sessions of a user.
    pub(super) fn sessions_of(&self, user: &str) -> impl Iterator<Item = (SessionKey, &M)> {
        let first = self.first_of(user).and_then(|first| self.at(first));
        let all = std::iter::successors(first, |entry| self.at(entry.next));
        all.map(|entry| (entry.key, &entry.member))
    }

    /// The users who have sessions here.
    pub(super) fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_user.iter().filter_map(|slot| self.at(*slot)?.user.as_ref())
    }

    fn first_of(&self, user: &str) -> Option<Slot> {
        let is_theirs = |slot: &Slot| self.at(*slot).is_some_and(|entry| entry.user.as_deref() == Some(user));
        self.by_user.find(self.hasher.hash_one(user), is_theirs).copied()
    }

    /// Puts `instead` into the index where `first` stands, or nobody.
    fn lead_with(&mut self, hash: u64, first: Slot, instead: Option<Slot>) {
        if let Ok(mut indexed) = self.by_user.find_entry(hash, |slot| *slot == first) {
            match instead {
                Some(slot) => *indexed.get_mut() = slot,
                None => drop(indexed.remove()),
            }
        }
    }

    /// Takes a session out of the row of its user's.
    fn forget_user(&mut self, slot: Slot) {
        let Some(entry) = self.at_mut(slot) else { return };
        let Some(user) = entry.user.take() else { return };
        let (next, previous) =
            (std::mem::replace(&mut entry.next, NOBODY), std::mem::replace(&mut entry.previous, NOBODY));
        if let Some(next) = self.at_mut(next) {
            next.previous = previous;
        }
        match self.at_mut(previous) {
            Some(previous) => previous.next = next,
            None => self.lead_with(self.hasher.hash_one(&*user), slot, Some(next).filter(|next| *next != NOBODY)),
        }
    }
}

#[cfg(test)]
mod tests;
