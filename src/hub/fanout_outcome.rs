//! The work that is left for a delivery after its frames are queued in all outboxes: sessions to close, and groups of
//! subscribers whose delivery options change.

use super::{
    SessionKey,
    delivery::Delivery,
    subscription::{DeliveryOptions, DeltaState},
};
use crate::{clock::WallTime, transport::PushError};

/// The work that is left for a delivery after its frames are queued.
#[derive(Default)]
pub(super) struct FanoutOutcome {
    pub(super) now: WallTime,
    pub(super) delivered: u64,
    /// Sessions whose outbox refused the frame.
    pub(super) refused: Vec<(SessionKey, PushError)>,
    /// Sessions of which a subscription has expired.
    pub(super) with_expired_subscription: Vec<SessionKey>,
    /// Sessions that the publication excludes.
    pub(super) excluded: Vec<SessionKey>,
    /// Groups of subscribers whose delivery options change, in the order in which they have to be changed.
    pub(super) changes: Vec<(u32, DeliveryOptions)>,
    /// A subscriber may need this delivery as the base of the next delta.
    pub(super) needs_delta_base: bool,
}

impl FanoutOutcome {
    /// Notes how the delivery options of a group change, to which the delivery was sent or not.
    pub(super) fn note_group(&mut self, group: u32, options: &DeliveryOptions, delivery: &Delivery, is_sent: bool) {
        if delivery.publication().is_none() {
            return;
        }
        self.needs_delta_base |= options.delta != DeltaState::None;
        let has_caught_up =
            options.skip_up_to > 0 && delivery.position().is_some_and(|position| position.offset >= options.skip_up_to);
        let has_base = is_sent && options.delta == DeltaState::NeedsBase;
        let lacks_base = !is_sent && options.delta == DeltaState::HasBase;
        if has_caught_up || has_base || lacks_base {
            let mut next = options.clone();
            if has_caught_up {
                next.skip_up_to = 0;
            }
            if has_base {
                next.delta = DeltaState::HasBase;
            }
            if lacks_base {
                next.forget_base();
            }
            self.insert_change(group, options, next);
        }
    }

    /// Notes that the delivery options of a group change.
    pub(super) fn insert_change(&mut self, group: u32, before: &DeliveryOptions, after: DeliveryOptions) {
        // Groups that received the publication come first. A group that did not may merge into one of them, and would
        // then wrongly change with it.
        let has_base = before.delta == DeltaState::NeedsBase && after.delta == DeltaState::HasBase;
        let at = if has_base { 0 } else { self.changes.len() };
        self.changes.insert(at, (group, after));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        channel::Channel,
        hub::{registry::Registry, subscription::SubscriptionSource},
        position::{Epoch, Position},
        publication::Publication,
    };

    #[test]
    fn subscriber_that_skipped_a_publication_still_needs_a_delta_base() {
        let channel = Channel::new("news").unwrap();
        let fresh = DeliveryOptions { delta: DeltaState::NeedsBase, ..DeliveryOptions::default() };
        let ahead = DeliveryOptions { skip_up_to: 10, ..fresh.clone() };
        // It has received a publication without a position, which is no base for what follows the skipped one.
        let ahead_with_base = DeliveryOptions { delta: DeltaState::HasBase, ..ahead.clone() };
        let mut registry: Registry<(), ()> = Registry::default();
        for (key, options) in [(1, ahead), (2, fresh), (3, ahead_with_base)] {
            registry.insert(SessionKey(key), ());
            registry.subscribe(SessionKey(key), channel.clone(), SubscriptionSource::Client, &options, None);
        }
        let position = Some(Position { offset: 10, epoch: Epoch::parse("AAAAAAAA").unwrap() });
        let data = Bytes::from_static(b"1");
        let delivery = Delivery::new(Publication { position, ..Publication::new(channel.clone(), data) });
        let mut outcome = FanoutOutcome::default();
        for (group, options, _) in registry.groups(&channel) {
            outcome.note_group(group, options, &delivery, delivery.frame(options, None).is_some());
        }
        outcome.changes.into_iter().for_each(|(group, options)| registry.change_group(&channel, group, options));
        let groups = registry.groups(&channel);
        let mut found: Vec<_> = groups
            .flat_map(|(_, options, sessions)| {
                let now = (options.delta, options.skip_up_to);
                sessions.map(move |(_, key, ())| (key.0, now)).collect::<Vec<_>>()
            })
            .collect();
        found.sort_by_key(|(key, _)| *key);
        let (needs_base, has_base) = ((DeltaState::NeedsBase, 0), (DeltaState::HasBase, 0));
        assert_eq!(found, [(1, needs_base), (2, has_base), (3, needs_base)]);
    }
}
