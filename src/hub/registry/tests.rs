//! Tests of the registry against a model.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    Remove(u64),
    SetUser(u64, u8),
    /// With one of three delivery options.
    Subscribe(u64, u8, u64),
    /// Gives the subscribers with the first delivery options the second ones.
    Change(u8, u64, u64),
    ChangeOne(u64, u8, u64),
    Unsubscribe(u64, u8),
    UnsubscribeAll(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (session, channel, options) = (0_u64..6, 0_u8..4, 0_u64..3);
    prop_oneof![
        1 => session.clone().prop_map(Step::Insert),
        1 => session.clone().prop_map(Step::Remove),
        1 => (session.clone(), 0_u8..3).prop_map(|(s, u)| Step::SetUser(s, u)),
        2 => (session.clone(), channel.clone(), options.clone()).prop_map(|(s, c, w)| Step::Subscribe(s, c, w)),
        1 => (channel.clone(), options.clone(), options.clone()).prop_map(|(c, from, to)| Step::Change(c, from, to)),
        1 => (session.clone(), channel.clone(), options).prop_map(|(s, c, w)| Step::ChangeOne(s, c, w)),
        1 => (session.clone(), channel).prop_map(|(s, c)| Step::Unsubscribe(s, c)),
        1 => session.prop_map(Step::UnsubscribeAll),
    ]
}

fn channel(number: u8) -> Channel {
    Channel::new(&format!("channel-{number}")).unwrap()
}

/// Delivery options that differ by this number.
fn options(number: u64) -> DeliveryOptions {
    DeliveryOptions { skip_up_to: number, ..DeliveryOptions::default() }
}

type Model = BTreeMap<u64, BTreeMap<u8, u64>>;

fn check(registry: &Registry<(), u8>, model: &Model) {
    for c in 0..4 {
        let expected: BTreeSet<(u64, u64)> =
            model.iter().filter_map(|(s, held)| held.get(&c).map(|w| (*w, *s))).collect();
        let channel = channel(c);
        let groups = registry.groups(&channel);
        let found: Vec<(u64, u64)> = groups
            .flat_map(|(_, options, sessions)| sessions.map(|(_, key, ())| (options.skip_up_to, key.0)))
            .collect();
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(registry.has_subscribers(&channel), !expected.is_empty());
        let size = registry.channel_sizes().find(|(name, _)| **name == channel).map_or(0, |(_, size)| size);
        assert_eq!(size, expected.len());
    }
}

fn check_owners(registry: &Registry<(), u8>, owners: &BTreeMap<u64, u8>) {
    for u in 0..3_u8 {
        let expected: BTreeSet<u64> = owners.iter().filter(|(_, owner)| **owner == u).map(|(s, _)| *s).collect();
        let found: BTreeSet<u64> = registry.sessions_of(&u.to_string()).map(|(key, ())| key.0).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(registry.keys_of_users().count(), owners.len());
}

proptest! {
    /// Whatever sessions do, the registry holds the same subscriptions as a set of pairs, and the state of a channel exactly
    /// as long as it has a subscriber.
    #[test]
    fn registry_matches_a_set_of_session_channel_pairs(steps in proptest::collection::vec(step(), 0..200)) {
        let mut registry: Registry<(), u8> = Registry::default();
        let mut model = Model::new();
        let mut owners: BTreeMap<u64, u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(s) => if let Entry::Vacant(free) = model.entry(s) {
                    free.insert(BTreeMap::new());
                    registry.insert(SessionKey(s), ());
                },
                Step::SetUser(s, u) => {
                    registry.set_user(SessionKey(s), u.to_string().into());
                    if model.contains_key(&s) {
                        owners.insert(s, u);
                    }
                }
                Step::Subscribe(s, c, w) => if let Some(Entry::Vacant(free)) = model.get_mut(&s).map(|held| held.entry(c)) {
                    free.insert(w);
                    let (source, options) = (SubscriptionSource::default(), options(w));
                    registry.subscribe(SessionKey(s), channel(c), source, &options, None);
                },
                Step::Change(c, from, to) => {
                    let name = channel(c);
                    let group = registry.groups(&name).find(|(_, options, _)| options.skip_up_to == from).map(|(group, ..)| group);
                    if let Some(group) = group {
                        registry.change_group(&name, group, options(to));
                    }
                    model.values_mut().filter_map(|held| held.get_mut(&c)).filter(|w| **w == from).for_each(|w| *w = to);
                }
                Step::ChangeOne(s, c, to) => {
                    registry.change_one(SessionKey(s), &channel(c), |options| options.skip_up_to = to);
                    model.get_mut(&s).and_then(|held| held.get_mut(&c)).into_iter().for_each(|w| *w = to);
                }
                Step::Unsubscribe(s, c) => {
                    let existed = model.get_mut(&s).is_some_and(|held| held.remove(&c).is_some());
                    let ended = registry.unsubscribe(SessionKey(s), &channel(c)).map(|ended| ended.channel);
                    prop_assert_eq!(ended, existed.then(|| channel(c)));
                }
                Step::Remove(s) | Step::UnsubscribeAll(s) => {
                    let held = model.get_mut(&s).map(std::mem::take).unwrap_or_default();
                    let ended = if matches!(step, Step::Remove(_)) {
                        model.remove(&s);
                        owners.remove(&s);
                        registry.remove(SessionKey(s)).map(|((), ended)| ended).unwrap_or_default()
                    } else {
                        registry.unsubscribe_all(SessionKey(s))
                    };
                    let ended: BTreeSet<Channel> = ended.into_iter().map(|ended| ended.channel).collect();
                    prop_assert_eq!(ended, held.into_keys().map(channel).collect::<BTreeSet<_>>());
                }
            }
            check_owners(&registry, &owners);
            check(&registry, &model);
        }
    }
}
