//! The registry of a hub: its sessions, their users, and their subscriptions. Plain data on one thread, without an actor.

mod places;
mod session_subscriptions;
mod subscribers;
mod tokens;
mod users;

use std::{collections::BTreeSet, hash::BuildHasher, sync::Arc};

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use self::{session_subscriptions::SessionSubscriptions, subscribers::Subscribers};
use super::{
    SessionKey,
    subscription::{DeliveryOptions, Ended, Live, Subscription, SubscriptionSource, SubscriptionStart, Visibility},
};
use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    revocation::TokenIdentity,
};

pub(super) use self::{
    places::{OwnedSession, VisitedSession},
    subscribers::GroupPlace,
};

type Hasher = foldhash::fast::RandomState;

/// A session's index in the slab: a delivery finds a session by it, without a hash. When the session is removed, another
/// one gets it.
pub(super) type Slot = u32;

/// Sessions of type `M`, their users, and their channels, each with a state of type `S`. Every channel name is stored once;
/// its subscriptions share the text. The entries of sessions lie side by side, and the indexes hold four or eight bytes for
/// each: a map of whole entries would be half empty.
pub(super) struct Registry<M, S> {
    sessions: Slab<SessionEntry<M>>,
    by_key: HashTable<Slot>,
    /// The sessions that have a user, ordered by a hash of it.
    by_user: BTreeSet<(u32, Slot)>,
    /// The sessions of each `jti` and `sid`, ordered by a part of its fingerprint.
    by_token: BTreeSet<(u32, Slot)>,
    channels: HashMap<Channel, Subscribers<S>, Hasher>,
    hasher: Hasher,
}

struct SessionEntry<M> {
    key: SessionKey,
    session: M,
    /// The user, once the session is authenticated.
    user: Option<Arc<str>>,
    /// What names its token.
    token: TokenIdentity,
    subscriptions: SessionSubscriptions,
}

/// The subscriptions of one session.
pub(super) struct SessionChannels<'a>(&'a SessionSubscriptions);

impl<'a> SessionChannels<'a> {
    pub(super) fn source(&self, channel: &Channel) -> Option<&'a SubscriptionSource> {
        self.0.get(channel).map(|held| &held.source)
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.source(channel).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a Channel, &'a SubscriptionSource)> {
        self.0.iter().map(|held| (&held.channel, &held.source))
    }

    pub(super) fn has_expired(&self, channel: &Channel, now: WallTime) -> bool {
        self.source(channel).is_some_and(|source| now >= source.expires_at())
    }

    /// Returns when the first of the subscriptions expires.
    pub(super) fn earliest_expiry(&self) -> WallTime {
        self.0.iter().map(|held| held.source.expires_at()).min().unwrap_or(NEVER)
    }

    /// Returns when the backend is asked about the first of the subscriptions.
    pub(super) fn earliest_renewal(&self) -> WallTime {
        self.0.iter().map(|held| held.source.renew_at()).min().unwrap_or(NEVER)
    }

    /// Returns when the client is first warned that a subscription expires.
    pub(super) fn earliest_warning(&self) -> WallTime {
        self.0.iter().map(|held| held.source.warn_at()).min().unwrap_or(NEVER)
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
            by_user: BTreeSet::new(),
            by_token: BTreeSet::new(),
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

    /// Adds a session.
    pub(super) fn insert(&mut self, key: SessionKey, session: M) {
        let (token, subscriptions) = (TokenIdentity::default(), SessionSubscriptions::default());
        let entry = SessionEntry { key, session, user: None, token, subscriptions };
        // 2^32 sessions would need more memory than there is.
        let Ok(slot) = Slot::try_from(self.sessions.insert(entry)) else { return };
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let hash = |slot: &Slot| sessions.get(*slot as usize).map_or(0, |entry| hasher.hash_one(entry.key));
        self.by_key.insert_unique(hasher.hash_one(key), slot, hash);
    }

    pub(super) fn session(&self, key: SessionKey) -> Option<&M> {
        self.entry(key).map(|entry| &entry.session)
    }

    /// Returns the session that has a slot now.
    pub(super) fn session_at(&self, slot: Slot) -> Option<(SessionKey, &M)> {
        self.at(slot).map(|entry| (entry.key, &entry.session))
    }

    pub(super) fn session_mut(&mut self, key: SessionKey) -> Option<&mut M> {
        self.entry_mut(key).map(|entry| &mut entry.session)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.iter().map(|(_, entry)| entry.key)
    }

    /// Returns the subscriptions of a session.
    pub(super) fn channels_of(&self, key: SessionKey) -> Option<SessionChannels<'_>> {
        self.entry(key).map(|entry| SessionChannels(&entry.subscriptions))
    }

    pub(super) fn has_subscribers(&self, channel: &Channel) -> bool {
        self.channels.contains_key(channel)
    }

    /// Returns the state of a channel that has subscribers.
    pub(super) fn channel_state(&self, channel: &Channel) -> Option<&S> {
        self.channels.get(channel).map(|subscribers| &subscribers.state)
    }

    pub(super) fn channel_state_mut(&mut self, channel: &Channel) -> Option<&mut S> {
        self.channels.get_mut(channel).map(|subscribers| &mut subscribers.state)
    }

    /// Returns the channels that have subscribers.
    pub(super) fn channel_states_mut(&mut self) -> impl Iterator<Item = (&Channel, &mut S)> {
        self.channels.iter_mut().map(|(channel, subscribers)| (channel, &mut subscribers.state))
    }

    /// Returns the subscribers of a channel, grouped by their delivery options.
    pub(super) fn groups(
        &self,
        channel: &Channel,
    ) -> impl Iterator<Item = (u32, &DeliveryOptions, impl Iterator<Item = (Slot, SessionKey, &M)>)> {
        let groups = self.channels.get(channel).into_iter().flat_map(Subscribers::groups);
        groups.map(|(number, options, slots)| {
            let sessions =
                slots.iter().filter_map(|slot| self.at(*slot).map(|entry| (*slot, entry.key, &entry.session)));
            (number, options, sessions)
        })
    }

    /// Gives all subscribers of a group other delivery options.
    pub(super) fn change_group(&mut self, channel: &Channel, group: u32, options: DeliveryOptions) {
        let Some(subscribers) = self.channels.get_mut(channel) else { return };
        let (moved, first) = subscribers.change_group(group, options);
        for (index, slot) in (first.index..).zip(moved) {
            self.set_place(slot, channel, GroupPlace { group: first.group, index });
        }
    }

    /// Gives one subscriber of a channel other delivery options.
    pub(super) fn change_one(&mut self, key: SessionKey, channel: &Channel, change: impl FnOnce(&mut DeliveryOptions)) {
        let Some(slot) = self.slot(key) else { return };
        let held = self.at(slot).and_then(|entry| entry.subscriptions.get(channel));
        let Some(before) = held.map(|held| held.stage.place) else { return };
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
        if let Some(held) = self.at_mut(slot).and_then(|entry| entry.subscriptions.get_mut(channel)) {
            held.stage.place = place;
        }
    }

    /// Returns the number of channels that have subscribers.
    pub(super) fn count_channels(&self) -> usize {
        self.channels.len()
    }

    /// Returns all channels with the number of their subscribers.
    pub(super) fn channel_sizes(&self) -> impl Iterator<Item = (&Channel, usize)> {
        self.channels.iter().map(|(channel, subscribers)| (channel, subscribers.len()))
    }

    /// Subscribes a session to a channel to which it is not subscribed.
    pub(super) fn subscribe(
        &mut self,
        key: SessionKey,
        channel: Channel,
        source: SubscriptionSource,
        options: &DeliveryOptions,
        visibility: Option<Box<Visibility>>,
    ) where
        S: Default,
    {
        let Some(slot) = self.slot(key) else { return };
        let channel = self.channels.get_key_value(&channel).map_or(channel, |(shared_name, _)| shared_name.clone());
        let place = self.channels.entry(channel.clone()).or_default().add(slot, options);
        source.token().into_iter().for_each(|token| self.index_token(slot, token));
        if let Some(entry) = self.at_mut(slot) {
            entry.subscriptions.push(Subscription {
                channel,
                source,
                stage: Live { place, visibility, start: SubscriptionStart::default() },
            });
        }
    }

    /// Sets from where on the client of a subscription receives.
    pub(super) fn set_start(&mut self, key: SessionKey, channel: &Channel, start: SubscriptionStart) {
        if let Some(held) = self.entry_mut(key).and_then(|entry| entry.subscriptions.get_mut(channel)) {
            held.stage.start = start;
        }
    }

    /// Replaces the source of a subscription. Returns how other clients see its subscriber.
    pub(super) fn replace_source(
        &mut self,
        key: SessionKey,
        channel: &Channel,
        source: SubscriptionSource,
    ) -> Option<&mut Visibility> {
        let slot = self.slot(key)?;
        self.at(slot)?.subscriptions.get(channel)?;
        source.token().into_iter().for_each(|token| self.index_token(slot, token));
        let held = self.at_mut(slot)?.subscriptions.get_mut(channel)?;
        let before = std::mem::replace(&mut held.source, source);
        before.token().into_iter().for_each(|token| self.forget_token(slot, token));
        self.at_mut(slot)?.subscriptions.get_mut(channel)?.stage.visibility.as_deref_mut()
    }

    /// Notes that the client is warned that a subscription expires.
    pub(super) fn note_warned(&mut self, key: SessionKey, channel: &Channel) {
        let held = self.slot(key).and_then(|slot| self.at_mut(slot)?.subscriptions.get_mut(channel));
        held.into_iter().for_each(|held| held.source.note_warned());
    }

    /// Returns one of `parts` equal parts of the subscribers that other clients see.
    pub(super) fn visible_part(&self, part: usize, parts: usize) -> impl Iterator<Item = (&Channel, &Visibility)> {
        let slots = (part..self.sessions.capacity()).step_by(parts.max(1));
        let held = slots.filter_map(|slot| self.sessions.get(slot)).flat_map(|entry| entry.subscriptions.iter());
        held.filter_map(|held| held.stage.visibility.as_deref().map(|visibility| (&held.channel, visibility)))
    }

    /// Ends a subscription; `None` if it does not exist.
    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Option<Subscription<Ended>> {
        let slot = self.slot(key)?;
        let held = self.at_mut(slot)?.subscriptions.remove(channel)?;
        held.source.token().into_iter().for_each(|token| self.forget_token(slot, token));
        Some(self.detach(held))
    }

    /// Ends all subscriptions of a session.
    pub(super) fn unsubscribe_all(&mut self, key: SessionKey) -> Vec<Subscription<Ended>> {
        let Some(slot) = self.slot(key) else { return Vec::new() };
        let held = self.at_mut(slot).map(|entry| entry.subscriptions.take_all()).unwrap_or_default();
        held.iter().filter_map(|held| held.source.token()).for_each(|token| self.forget_token(slot, token));
        held.into_iter().map(|held| self.detach(held)).collect()
    }

    /// Removes a session and ends its subscriptions.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<Subscription<Ended>>)> {
        let slot = self.slot(key)?;
        let ended = self.unsubscribe_all(key);
        self.forget_user(slot);
        self.set_token_at(slot, TokenIdentity::default());
        if let Ok(indexed) = self.by_key.find_entry(self.hasher.hash_one(key), |found| *found == slot) {
            indexed.remove();
        }
        let entry = self.sessions.try_remove(slot as usize)?;
        Some((entry.session, ended))
    }

    /// Takes a subscription out of its channel. With its last subscription the channel's state is dropped.
    fn detach(&mut self, Subscription { channel, source, stage }: Subscription<Live>) -> Subscription<Ended> {
        let Live { place, visibility, .. } = stage;
        if let Some(subscribers) = self.channels.get_mut(&channel) {
            let moved = subscribers.remove_at(place);
            if subscribers.len() == 0 {
                self.channels.remove(&channel);
            }
            if let Some(moved) = moved {
                self.set_place(moved, &channel, place);
            }
        }
        Subscription { channel, source, stage: Ended { visibility } }
    }
}

#[cfg(test)]
mod tests;
