//! The sessions of each user. The index orders slots by a hash of their user: eight bytes for each session, whether its user
//! has other sessions or not.

use std::{hash::BuildHasher, sync::Arc};

use super::{Registry, Slot};
use crate::hub::SessionKey;

impl<M, S> Registry<M, S> {
    /// Half of a hash is enough: a lookup compares the users.
    pub(super) fn user_hash(&self, user: &str) -> u32 {
        self.hasher.hash_one(user) as u32
    }

    /// Sets the user of a session.
    pub(in crate::hub) fn set_user(&mut self, key: SessionKey, user: Arc<str>) {
        let Some(slot) = self.slot(key) else { return };
        self.forget_user(slot);
        self.by_user.insert((self.user_hash(&user), slot));
        if let Some(entry) = self.at_mut(slot) {
            entry.user = Some(user);
        }
    }

    /// Takes a session out of the index of users.
    pub(super) fn forget_user(&mut self, slot: Slot) {
        if let Some(user) = self.at_mut(slot).and_then(|entry| entry.user.take()) {
            self.by_user.remove(&(self.user_hash(&user), slot));
        }
    }

    /// Returns the sessions of a user.
    pub(in crate::hub) fn sessions_of(&self, user: &str) -> impl Iterator<Item = (SessionKey, &M)> {
        let hash = self.user_hash(user);
        let entries = self.by_user.range((hash, Slot::MIN)..=(hash, Slot::MAX)).filter_map(|(_, slot)| self.at(*slot));
        let of_user = entries.filter(move |entry| entry.user.as_deref() == Some(user));
        of_user.map(|entry| (entry.key, &entry.session))
    }

    /// Returns the sessions that have a user.
    pub(in crate::hub) fn keys_of_users(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.iter().filter_map(|(_, entry)| entry.user.as_ref().map(|_| entry.key))
    }
}
