//! Who is here and who listens to what: plain data, on one thread, with no actor in it.

use std::{collections::HashMap as StdMap, sync::Arc};

use hashbrown::HashMap;

use super::{SessionKey, subscription::Grant};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER},
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Sessions of type `M` and their channels. Every channel name is stored once; its holders share the text.
pub(super) struct Registry<M> {
    sessions: Map<SessionKey, Entry<M>>,
    channels: Map<Channel, Vec<SessionKey>>,
    users: Map<Arc<str>, Vec<SessionKey>>,
}

struct Entry<M> {
    member: M,
    /// Whose session it is, once it is somebody's.
    user: Option<Arc<str>>,
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
        Self { sessions: Map::default(), channels: Map::default(), users: Map::default() }
    }
}

impl<M> Registry<M> {
    pub(super) fn insert(&mut self, key: SessionKey, member: M) {
        self.sessions.insert(key, Entry { member, user: None, channels: Vec::new() });
    }

    /// Says whose session it is.
    pub(super) fn belongs_to(&mut self, key: SessionKey, user: Arc<str>) {
        let Some(entry) = self.sessions.get_mut(&key).filter(|entry| entry.user.as_ref() != Some(&user)) else {
            return;
        };
        let before = entry.user.replace(user.clone());
        self.forget_user(key, before);
        self.users.entry(user).or_insert_with(|| Vec::with_capacity(1)).push(key);
    }

    /// The sessions of a user.
    pub(super) fn sessions_of(&self, user: &str) -> &[SessionKey] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// The users who have sessions here.
    pub(super) fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        self.users.keys()
    }

    fn forget_user(&mut self, key: SessionKey, user: Option<Arc<str>>) {
        let Some(user) = user else { return };
        let Some(keys) = self.users.get_mut(&user) else { return };
        keys.retain(|held| *held != key);
        if keys.is_empty() {
            self.users.remove(&user);
        }
    }

    pub(super) fn member(&self, key: SessionKey) -> Option<&M> {
        self.sessions.get(&key).map(|entry| &entry.member)
    }

    pub(super) fn member_mut(&mut self, key: SessionKey) -> Option<&mut M> {
        self.sessions.get_mut(&key).map(|entry| &mut entry.member)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.keys().copied()
    }

    pub(super) fn channels_of(&self, key: SessionKey) -> Option<Channels<'_>> {
        self.sessions.get(&key).map(|entry| Channels(&entry.channels))
    }

    pub(super) fn has_subscribers(&self, channel: &Channel) -> bool {
        self.channels.contains_key(channel)
    }

    /// The members that receive `channel`.
    pub(super) fn subscribers(&self, channel: &Channel) -> impl Iterator<Item = (SessionKey, &M)> {
        let keys = self.channels.get(channel).map_or(&[][..], Vec::as_slice);
        keys.iter().filter_map(|key| Some((*key, self.member(*key)?)))
    }

    pub(super) fn count_channels(&self) -> StdMap<Channel, usize> {
        self.channels.iter().map(|(channel, keys)| (channel.clone(), keys.len())).collect()
    }

    /// The session begins to receive the channel, which it did not before.
    pub(super) fn subscribe(&mut self, key: SessionKey, channel: Channel, grant: Grant) {
        let Some(entry) = self.sessions.get_mut(&key) else { return };
        let interned = self.channels.get_key_value(&channel).map_or(channel, |(interned, _)| interned.clone());
        let keys = self.channels.entry(interned.clone()).or_default();
        let place = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        entry.channels.push(Held { channel: interned, place, grant });
        keys.push(key);
    }

    /// The session receives a channel that it has for another reason from now on.
    pub(super) fn grant_anew(&mut self, key: SessionKey, channel: &Channel, grant: Grant) {
        let channels = self.sessions.get_mut(&key).map(|entry| entry.channels.as_mut_slice()).unwrap_or_default();
        if let Some(held) = channels.iter_mut().find(|held| held.channel == *channel) {
            held.grant = grant;
        }
    }

    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Left {
        let Some(entry) = self.sessions.get_mut(&key) else { return Left::WasNotThere };
        let Some(index) = entry.channels.iter().position(|held| held.channel == *channel) else {
            return Left::WasNotThere;
        };
        let held = entry.channels.swap_remove(index);
        if self.vacate(channel, held.place) { Left::Last } else { Left::Others }
    }

    /// Unsubscribes a session from everything and tells the channels that nobody here receives any more.
    pub(super) fn leave_all(&mut self, key: SessionKey) -> Vec<Channel> {
        let Some(entry) = self.sessions.get_mut(&key) else { return Vec::new() };
        let held = std::mem::take(&mut entry.channels);
        held.into_iter().filter_map(|held| self.vacate(&held.channel, held.place).then_some(held.channel)).collect()
    }

    /// Forgets a session; tells the channels that nobody here receives any more.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<Channel>)> {
        let emptied = self.leave_all(key);
        let entry = self.sessions.remove(&key)?;
        self.forget_user(key, entry.user);
        Some((entry.member, emptied))
    }

    /// Frees a place in a channel's list; whoever was last moves there. Tells whether the list is empty now.
    fn vacate(&mut self, channel: &Channel, place: u32) -> bool {
        let Some(keys) = self.channels.get_mut(channel) else { return false };
        keys.swap_remove(place as usize);
        if let Some(moved) = keys.get(place as usize) {
            let channels = self.sessions.get_mut(moved).map(|entry| entry.channels.iter_mut());
            if let Some(held) = channels.and_then(|mut channels| channels.find(|held| held.channel == *channel)) {
                held.place = place;
            }
            return false;
        }
        if keys.is_empty() {
            self.channels.remove(channel);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(u64),
        Belong(u64, u8),
        Subscribe(u64, u8),
        Unsubscribe(u64, u8),
        LeaveAll(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (session, channel) = (0_u64..6, 0_u8..4);
        prop_oneof![
            session.clone().prop_map(Step::Insert),
            session.clone().prop_map(Step::Remove),
            (session.clone(), 0_u8..3).prop_map(|(s, u)| Step::Belong(s, u)),
            (session.clone(), channel.clone()).prop_map(|(s, c)| Step::Subscribe(s, c)),
            (session.clone(), channel).prop_map(|(s, c)| Step::Unsubscribe(s, c)),
            session.prop_map(Step::LeaveAll),
        ]
    }

    fn channel(number: u8) -> Channel {
        Channel::new(&format!("channel-{number}")).unwrap()
    }

    proptest! {
        /// Whatever sessions do, the registry says the same as a set of pairs, and names a channel as emptied exactly
        /// when its last subscriber goes.
        #[test]
        fn the_registry_is_a_set_of_pairs(steps in proptest::collection::vec(step(), 0..200)) {
            let mut registry = Registry::default();
            let mut model: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
            let mut owners: BTreeMap<u64, u8> = BTreeMap::new();
            for step in steps {
                let count = |model: &BTreeMap<u64, BTreeSet<u8>>, c: u8| model.values().filter(|set| set.contains(&c)).count();
                match step {
                    Step::Insert(s) => if let Entry::Vacant(free) = model.entry(s) {
                        free.insert(BTreeSet::new());
                        registry.insert(SessionKey(s), ());
                    },
                    Step::Belong(s, u) => {
                        registry.belongs_to(SessionKey(s), u.to_string().into());
                        if model.contains_key(&s) {
                            owners.insert(s, u);
                        }
                    }
                    Step::Subscribe(s, c) => if model.get_mut(&s).is_some_and(|set| set.insert(c)) {
                        registry.subscribe(SessionKey(s), channel(c), Grant::default());
                    },
                    Step::Unsubscribe(s, c) => {
                        let was_there = model.get_mut(&s).is_some_and(|set| set.remove(&c));
                        let expected = match (was_there, count(&model, c)) {
                            (false, _) => Left::WasNotThere,
                            (true, 0) => Left::Last,
                            (true, _) => Left::Others,
                        };
                        prop_assert_eq!(registry.unsubscribe(SessionKey(s), &channel(c)), expected);
                    }
                    Step::Remove(s) | Step::LeaveAll(s) => {
                        let held = model.get_mut(&s).map(std::mem::take).unwrap_or_default();
                        let expected: BTreeSet<Channel> = held.into_iter().filter(|c| count(&model, *c) == 0).map(channel).collect();
                        let emptied = if matches!(step, Step::Remove(_)) {
                            model.remove(&s);
                            owners.remove(&s);
                            registry.remove(SessionKey(s)).map(|((), emptied)| emptied).unwrap_or_default()
                        } else {
                            registry.leave_all(SessionKey(s))
                        };
                        prop_assert_eq!(emptied.into_iter().collect::<BTreeSet<_>>(), expected);
                    }
                }
                for u in 0..3_u8 {
                    let expected: BTreeSet<u64> = owners.iter().filter(|(_, owner)| **owner == u).map(|(s, _)| *s).collect();
                    let found: BTreeSet<u64> = registry.sessions_of(&u.to_string()).iter().map(|key| key.0).collect();
                    prop_assert_eq!(found, expected);
                }
                prop_assert_eq!(registry.users().count(), owners.values().collect::<BTreeSet<_>>().len());
                for c in 0..4 {
                    let expected: BTreeSet<u64> = model.iter().filter(|(_, set)| set.contains(&c)).map(|(s, _)| *s).collect();
                    let found: BTreeSet<u64> = registry.subscribers(&channel(c)).map(|(key, ())| key.0).collect();
                    prop_assert_eq!(&found, &expected);
                    prop_assert_eq!(registry.has_subscribers(&channel(c)), !expected.is_empty());
                }
            }
        }
    }
}
