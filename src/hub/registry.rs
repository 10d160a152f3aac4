//! Who is here and who listens to what: plain data, on one thread, with no actor in it.

use std::collections::HashMap as StdMap;

use hashbrown::HashMap;

use super::SessionKey;
use crate::channel::Channel;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Sessions of type `M` and their channels. Every channel name is stored once; its holders share the text.
pub(super) struct Registry<M> {
    sessions: Map<SessionKey, Entry<M>>,
    channels: Map<Channel, Vec<SessionKey>>,
}

struct Entry<M> {
    member: M,
    /// Each with this session's place in the channel's list, so that leaving it takes no search.
    channels: Vec<(Channel, usize)>,
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
pub(super) struct Channels<'a>(&'a [(Channel, usize)]);

impl Channels<'_> {
    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.0.iter().any(|(held, _)| held == channel)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<M> Default for Registry<M> {
    fn default() -> Self {
        Self { sessions: Map::default(), channels: Map::default() }
    }
}

impl<M> Registry<M> {
    pub(super) fn insert(&mut self, key: SessionKey, member: M) {
        self.sessions.insert(key, Entry { member, channels: Vec::new() });
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
    pub(super) fn subscribe(&mut self, key: SessionKey, channel: Channel) {
        let Some(entry) = self.sessions.get_mut(&key) else { return };
        let interned = self.channels.get_key_value(&channel).map_or(channel, |(interned, _)| interned.clone());
        let keys = self.channels.entry(interned.clone()).or_default();
        entry.channels.push((interned, keys.len()));
        keys.push(key);
    }

    pub(super) fn unsubscribe(&mut self, key: SessionKey, channel: &Channel) -> Left {
        let Some(entry) = self.sessions.get_mut(&key) else { return Left::WasNotThere };
        let Some(index) = entry.channels.iter().position(|(held, _)| held == channel) else { return Left::WasNotThere };
        let (_, place) = entry.channels.swap_remove(index);
        if self.vacate(channel, place) { Left::Last } else { Left::Others }
    }

    /// Unsubscribes a session from everything and tells the channels that nobody here receives any more.
    pub(super) fn leave_all(&mut self, key: SessionKey) -> Vec<Channel> {
        let Some(entry) = self.sessions.get_mut(&key) else { return Vec::new() };
        let held = std::mem::take(&mut entry.channels);
        held.into_iter().filter_map(|(channel, place)| self.vacate(&channel, place).then_some(channel)).collect()
    }

    /// Forgets a session; tells the channels that nobody here receives any more.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<(M, Vec<Channel>)> {
        let emptied = self.leave_all(key);
        self.sessions.remove(&key).map(|entry| (entry.member, emptied))
    }

    /// Frees a place in a channel's list; whoever was last moves there. Tells whether the list is empty now.
    fn vacate(&mut self, channel: &Channel, place: usize) -> bool {
        let Some(keys) = self.channels.get_mut(channel) else { return false };
        keys.swap_remove(place);
        if let Some(moved) = keys.get(place) {
            let held = self
                .sessions
                .get_mut(moved)
                .and_then(|entry| entry.channels.iter_mut().find(|(held, _)| held == channel));
            if let Some((_, its_place)) = held {
                *its_place = place;
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
        Subscribe(u64, u8),
        Unsubscribe(u64, u8),
        LeaveAll(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (session, channel) = (0_u64..6, 0_u8..4);
        prop_oneof![
            session.clone().prop_map(Step::Insert),
            session.clone().prop_map(Step::Remove),
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
            for step in steps {
                let count = |model: &BTreeMap<u64, BTreeSet<u8>>, c: u8| model.values().filter(|set| set.contains(&c)).count();
                match step {
                    Step::Insert(s) => if let Entry::Vacant(free) = model.entry(s) {
                        free.insert(BTreeSet::new());
                        registry.insert(SessionKey(s), ());
                    },
                    Step::Subscribe(s, c) => if model.get_mut(&s).is_some_and(|set| set.insert(c)) {
                        registry.subscribe(SessionKey(s), channel(c));
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
                            registry.remove(SessionKey(s)).map(|((), emptied)| emptied).unwrap_or_default()
                        } else {
                            registry.leave_all(SessionKey(s))
                        };
                        prop_assert_eq!(emptied.into_iter().collect::<BTreeSet<_>>(), expected);
                    }
                }
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
