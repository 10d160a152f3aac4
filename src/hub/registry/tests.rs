//! The registry against a model.

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
                let found: BTreeSet<u64> = registry.sessions_of(&u.to_string()).map(|(key, ())| key.0).collect();
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
