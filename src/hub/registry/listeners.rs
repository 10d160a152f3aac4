//! Who listens to one channel, by how they receive it: those who are alike stand in one list, so that a delivery asks once
//! for all of them.

use super::Slot;
use crate::hub::reception::Reception;

/// The sessions that receive a channel, and what the hub knows of it.
pub(super) struct Listeners<S> {
    classes: Vec<Class>,
    count: u32,
    pub(super) state: S,
}

#[derive(Default)]
struct Class {
    reception: Reception,
    slots: Vec<Slot>,
}

/// Where a session stands among those who receive a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: u32,
    pub(super) index: u32,
}

impl<S: Default> Default for Listeners<S> {
    fn default() -> Self {
        Self { classes: Vec::new(), count: 0, state: S::default() }
    }
}

impl<S> Listeners<S> {
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    /// Each way of receiving that somebody has, with who has it.
    pub(super) fn classes(&self) -> impl Iterator<Item = (u32, &Reception, &[Slot])> {
        let numbered = (0_u32..).zip(&self.classes).filter(|(_, class)| !class.slots.is_empty());
        numbered.map(|(number, class)| (number, &class.reception, class.slots.as_slice()))
    }

    pub(super) fn reception(&self, class: u32) -> Option<&Reception> {
        self.classes.get(class as usize).map(|class| &class.reception)
    }

    pub(super) fn add(&mut self, slot: Slot, reception: &Reception) -> Place {
        let number = self.class_for(reception);
        let class = &mut self.classes[number];
        class.slots.push(slot);
        self.count += 1;
        // 2^32 sessions would need more memory than there is.
        Place { class: number as u32, index: (class.slots.len() - 1) as u32 }
    }

    /// The list for this way of receiving; one that is empty is used again, since the others keep their numbers.
    fn class_for(&mut self, reception: &Reception) -> usize {
        let is_it = |class: &Class| !class.slots.is_empty() && class.reception == *reception;
        if let Some(number) = self.classes.iter().position(is_it) {
            return number;
        }
        if let Some(number) = self.classes.iter().position(|class| class.slots.is_empty()) {
            self.classes[number].reception = reception.clone();
            return number;
        }
        // Most channels have one: a vector left to itself begins with room for four.
        self.classes.reserve_exact(usize::from(self.classes.is_empty()));
        self.classes.push(Class { reception: reception.clone(), slots: Vec::new() });
        self.classes.len() - 1
    }

    /// Frees a place; whoever was last in its list moves there and is told.
    pub(super) fn vacate(&mut self, place: Place) -> Option<Slot> {
        let slots = &mut self.classes.get_mut(place.class as usize)?.slots;
        if place.index as usize >= slots.len() {
            return None;
        }
        slots.swap_remove(place.index as usize);
        self.count -= 1;
        let moved = slots.get(place.index as usize).copied();
        if slots.is_empty() {
            // A filter is no small thing to keep for nobody.
            self.classes[place.class as usize] = Class::default();
        }
        moved
    }

    /// All of one class receive in another way from now on. Tells who has moved, and to where the first of them; nobody has
    /// where the class only got another name.
    pub(super) fn change(&mut self, class: u32, reception: Reception) -> (Vec<Slot>, Place) {
        let (from, nowhere) = (class as usize, Place { class, index: 0 });
        if from >= self.classes.len() {
            return (Vec::new(), nowhere);
        }
        let is_other = |(number, class): &(usize, &Class)| {
            *number != from && !class.slots.is_empty() && class.reception == reception
        };
        let Some(to) = self.classes.iter().enumerate().find(is_other).map(|(number, _)| number) else {
            self.classes[from].reception = reception;
            return (Vec::new(), nowhere);
        };
        let moved = std::mem::take(&mut self.classes[from]).slots;
        let first = self.classes[to].slots.len() as u32;
        self.classes[to].slots.extend_from_slice(&moved);
        (moved, Place { class: to as u32, index: first })
    }
}
