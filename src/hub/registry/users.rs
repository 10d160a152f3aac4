//! Whose sessions they are: the sessions of one user are linked through their entries.

use std::{hash::BuildHasher, sync::Arc};

use super::{NO_SESSION, Registry, Slot};
use crate::hub::SessionKey;

impl<M, S> Registry<M, S> {
    /// Says whose session it is.
    pub(in crate::hub) fn set_user(&mut self, key: SessionKey, user: Arc<str>) {
        let Some(slot) = self.slot(key) else { return };
        if self.at(slot).is_some_and(|entry| entry.user.as_ref() == Some(&user)) {
            return;
        }
        self.unlink_user(slot);
        let hash = self.hasher.hash_one(&*user);
        let first = self.first_session_of(&user);
        if let Some(entry) = self.at_mut(slot) {
            entry.user = Some(user);
            entry.next = first.unwrap_or(NO_SESSION);
        }
        match first {
            Some(first) => {
                if let Some(entry) = self.at_mut(first) {
                    entry.previous = slot;
                }
                self.replace_first(hash, first, Some(slot));
            }
            None => {
                let (sessions, hasher) = (&self.sessions, &self.hasher);
                let user_of = |slot: &Slot| sessions.get(*slot as usize).and_then(|entry| entry.user.as_deref());
                self.by_user.insert_unique(hash, slot, |slot| hasher.hash_one(user_of(slot).unwrap_or_default()));
            }
        }
    }

    /// The sessions of a user.
    pub(in crate::hub) fn sessions_of(&self, user: &str) -> impl Iterator<Item = (SessionKey, &M)> {
        let first = self.first_session_of(user).and_then(|first| self.at(first));
        let all = std::iter::successors(first, |entry| self.at(entry.next));
        all.map(|entry| (entry.key, &entry.session))
    }

    /// The users who have sessions here.
    pub(in crate::hub) fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_user.iter().filter_map(|slot| self.at(*slot)?.user.as_ref())
    }

    fn first_session_of(&self, user: &str) -> Option<Slot> {
        let is_theirs = |slot: &Slot| self.at(*slot).is_some_and(|entry| entry.user.as_deref() == Some(user));
        self.by_user.find(self.hasher.hash_one(user), is_theirs).copied()
    }

    /// Puts `instead` into the index where `first` stands, or nobody.
    fn replace_first(&mut self, hash: u64, first: Slot, instead: Option<Slot>) {
        if let Ok(mut indexed) = self.by_user.find_entry(hash, |slot| *slot == first) {
            match instead {
                Some(slot) => *indexed.get_mut() = slot,
                None => drop(indexed.remove()),
            }
        }
    }

    /// Takes a session out of the row of its user's.
    pub(super) fn unlink_user(&mut self, slot: Slot) {
        let Some(entry) = self.at_mut(slot) else { return };
        let Some(user) = entry.user.take() else { return };
        let (next, previous) =
            (std::mem::replace(&mut entry.next, NO_SESSION), std::mem::replace(&mut entry.previous, NO_SESSION));
        if let Some(next) = self.at_mut(next) {
            next.previous = previous;
        }
        match self.at_mut(previous) {
            Some(previous) => previous.next = next,
            None => {
                self.replace_first(self.hasher.hash_one(&*user), slot, Some(next).filter(|next| *next != NO_SESSION))
            }
        }
    }
}
