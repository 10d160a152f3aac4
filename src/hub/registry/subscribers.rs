//! Who listens to one channel, by how they receive it: those who are alike stand in one list, so that a delivery asks once
//! for all of them.

use super::Slot;
use crate::hub::delivery_options::DeliveryOptions;

/// The sessions that receive a channel, and what the hub knows of it.
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

/// Where a session stands among those who receive a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupPlace {
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

    /// Each way of receiving that somebody has, with who has it.
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

    /// The list for this way of receiving; one that is empty is used again, since the others keep their numbers.
    fn group_for(&mut self, options: &DeliveryOptions) -> usize {
        let is_it = |group: &SubscriberGroup| !group.slots.is_empty() && group.options == *options;
        if let Some(number) = self.groups.iter().position(is_it) {
            return number;
        }
        if let Some(number) = self.groups.iter().position(|group| group.slots.is_empty()) {
            self.groups[number].options = options.clone();
            return number;
        }
        // Most channels have one: a vector left to itself begins with room for four.
        self.groups.reserve_exact(usize::from(self.groups.is_empty()));
        self.groups.push(SubscriberGroup { options: options.clone(), slots: Vec::new() });
        self.groups.len() - 1
    }

    /// Frees a place; whoever was last in its list moves there and is told.
    pub(super) fn remove_at(&mut self, place: GroupPlace) -> Option<Slot> {
        let slots = &mut self.groups.get_mut(place.group as usize)?.slots;
        if place.index as usize >= slots.len() {
            return None;
        }
        slots.swap_remove(place.index as usize);
        self.count -= 1;
        let moved = slots.get(place.index as usize).copied();
        if slots.is_empty() {
            // A filter is no small thing to keep for nobody.
            self.groups[place.group as usize] = SubscriberGroup::default();
        }
        moved
    }

    /// All of one class receive in another way from now on. Tells who has moved, and to where the first of them; nobody has
    /// where the class only got another name.
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
