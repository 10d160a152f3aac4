//! What a delivery leaves to be done when it stands in all outboxes: who is to be closed, and who receives in another way from
//! now on.

use super::{
    SessionKey,
    delivery::Delivery,
    reception::{Differences, Reception},
};
use crate::{clock::Millis, transport::Refused};

/// What a delivery leaves to be done when it has been queued.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) now: Millis,
    pub(super) delivered: u64,
    pub(super) refused: Vec<(SessionKey, Refused)>,
    pub(super) overdue: Vec<SessionKey>,
    pub(super) excluded: Vec<SessionKey>,
    /// Classes that receive in another way from now on.
    pub(super) changes: Vec<(u32, Reception)>,
    /// Somebody may want the difference to it.
    pub(super) has_differences: bool,
}

impl Passed {
    /// Notes what becomes of those of one class, to whom it was sent or not.
    pub(super) fn note_class(&mut self, class: u32, reception: &Reception, delivery: &Delivery, is_sent: bool) {
        if delivery.publication().is_none() {
            return;
        }
        self.has_differences |= reception.differences != Differences::None;
        let has_caught_up =
            reception.after > 0 && delivery.position().is_some_and(|position| position.offset >= reception.after);
        let has_base = is_sent && reception.differences == Differences::Fresh;
        if has_caught_up || has_base {
            let mut next = reception.clone();
            if has_caught_up {
                next.after = 0;
            }
            if has_base {
                next.differences = Differences::Based;
            }
            // Those who got it come first: others may become what these were, and would be taken for them.
            let at = if has_base { 0 } else { self.changes.len() };
            self.changes.insert(at, (class, next));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        channel::Channel,
        hub::{registry::Registry, registry::Subscription, subscription::Grant},
        position::{Epoch, Position},
        publication::Publication,
    };

    #[test]
    fn who_catches_up_with_a_publication_that_others_get_whole_has_nothing_that_a_difference_could_be_to() {
        let channel = Channel::new("news").unwrap();
        let fresh = Reception { differences: Differences::Fresh, ..Reception::default() };
        let ahead = Reception { after: 10, ..fresh.clone() };
        let mut registry: Registry<(), ()> = Registry::default();
        for (key, reception) in [(1, ahead), (2, fresh)] {
            registry.insert(SessionKey(key), ());
            let (grant, channel) = (Grant::Asked, channel.clone());
            registry.subscribe(SessionKey(key), Subscription { channel, grant, reception, shown: None });
        }
        let position = Some(Position { offset: 10, epoch: Epoch::read("AAAAAAAA").unwrap() });
        let data = Bytes::from_static(b"1");
        let delivery = Delivery::new(Publication { position, ..Publication::new(channel.clone(), data) });
        let mut passed = Passed::default();
        for (class, reception, _) in registry.classes(&channel) {
            passed.note_class(class, reception, &delivery, delivery.frame(reception, None).is_some());
        }
        passed.changes.into_iter().for_each(|(class, reception)| registry.change(&channel, class, reception));
        let classes = registry.classes(&channel);
        let mut found: Vec<_> = classes
            .flat_map(|(_, reception, members)| {
                let now = (reception.differences, reception.after);
                members.map(move |(key, ())| (key.0, now)).collect::<Vec<_>>()
            })
            .collect();
        found.sort_by_key(|(key, _)| *key);
        assert_eq!(found, [(1, (Differences::Fresh, 0)), (2, (Differences::Based, 0))]);
    }
}
