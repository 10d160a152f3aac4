//! The subscribers of one channel, in groups with equal delivery options: a delivery chooses its frame once for each group.

use super::Slot;
use crate::hub::subscription::DeliveryOptions;

/// The subscribers of a channel, and the state of the channel.
pub(super) struct Subscribers<S> {
    groups: Vec<SubscriberGroup>,
    count: u32,
    pub(super) state: S,
}

#[derive(Default)]
struct SubscriberGroup {
    options: DeliveryOptions,
    slots: Vec<Slot>,
}

/// The place of a session among the subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) struct GroupPlace {
    pub(super) group: u32,
    pub(super) index: u32,
}

impl<S: Default> Default for Subscribers<S> {
    fn default() -> Self {
        Self { groups: Vec::new(), count: 0, state: S::default() }
    }
}

impl<S> Subscribers<S> {
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    /// Returns the groups that have subscribers, each with its number.
    pub(super) fn groups(&self) -> impl Iterator<Item = (u32, &DeliveryOptions, &[Slot])> {
        let numbered = (0_u32..).zip(&self.groups).filter(|(_, group)| !group.slots.is_empty());
        numbered.map(|(number, group)| (number, &group.options, group.slots.as_slice()))
    }

    pub(super) fn delivery_options(&self, group: u32) -> Option<&DeliveryOptions> {
        self.groups.get(group as usize).map(|group| &group.options)
    }

    pub(super) fn add(&mut self, slot: Slot, options: &DeliveryOptions) -> GroupPlace {
        let number = self.group_for(options);
        let group = &mut self.groups[number];
        group.slots.push(slot);
        self.count += 1;
        // 2^32 sessions would need more memory than there is.
        GroupPlace { group: number as u32, index: (group.slots.len() - 1) as u32 }
    }

    /// Returns the group with these options. An empty one is used again, since the others have to keep their numbers.
    fn group_for(&mut self, options: &DeliveryOptions) -> usize {
        let is_it = |group: &SubscriberGroup| !group.slots.is_empty() && group.options == *options;
        if let Some(number) = self.groups.iter().position(is_it) {
            return number;
        }
        if let Some(number) = self.groups.iter().position(|group| group.slots.is_empty()) {
            self.groups[number].options = options.clone();
            return number;
        }
        // Most channels have one group, and the first push would reserve room for four.
        self.groups.reserve_exact(usize::from(self.groups.is_empty()));
        self.groups.push(SubscriberGroup { options: options.clone(), slots: Vec::new() });
        self.groups.len() - 1
    }

    /// Removes a subscriber. The last of its group moves to its place; returns that one, if there is another.
    pub(super) fn remove_at(&mut self, place: GroupPlace) -> Option<Slot> {
        let slots = &mut self.groups.get_mut(place.group as usize)?.slots;
        if place.index as usize >= slots.len() {
            return None;
        }
        slots.swap_remove(place.index as usize);
        self.count -= 1;
        let moved = slots.get(place.index as usize).copied();
        if slots.is_empty() {
            // An empty group must not keep a filter in memory.
            self.groups[place.group as usize] = SubscriberGroup::default();
        }
        moved
    }

    /// Gives all subscribers of a group other options. If another group has these options, they move there: returns those
    /// that moved, and the place of the first of them. Otherwise the group keeps its subscribers, and none has moved.
    pub(super) fn change_group(&mut self, group: u32, options: DeliveryOptions) -> (Vec<Slot>, GroupPlace) {
        let (from, nowhere) = (group as usize, GroupPlace { group, index: 0 });
        if from >= self.groups.len() {
            return (Vec::new(), nowhere);
        }
        let is_other = |(number, group): &(usize, &SubscriberGroup)| {
            *number != from && !group.slots.is_empty() && group.options == options
        };
        let Some(to) = self.groups.iter().enumerate().find(is_other).map(|(number, _)| number) else {
            self.groups[from].options = options;
            return (Vec::new(), nowhere);
        };
        let moved = std::mem::take(&mut self.groups[from]).slots;
        let first = self.groups[to].slots.len() as u32;
        self.groups[to].slots.extend_from_slice(&moved);
        (moved, GroupPlace { group: to as u32, index: first })
    }
}
