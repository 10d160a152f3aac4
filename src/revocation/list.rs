//! The list of revocations: pure, limited in number, and asked in constant time. It never forgets a revocation before it has
//! expired: above the limit it refuses new ones.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    Fingerprint, KeyNumber, Revocation, TokenIdentity, fingerprint,
    identity::{CHANNEL, USER, USER_WITHOUT_SESSION},
    scoped,
};
use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    config::{KeyRules, UserPrefixes},
};

/// How many of the latest changes are kept for the hubs, each of which applies them once.
const KEPT_CHANGES: usize = 1024;

/// The list has reached `limits.revocations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits.revocations is reached; raise it on all instances")]
pub struct ListFull;

/// A key that verifies tokens.
#[derive(Clone, Debug)]
pub struct KeyInUse {
    /// Its number.
    pub number: KeyNumber,
    /// What its tokens must have.
    pub rules: KeyRules,
    /// When its tokens are revoked. [`NEVER`] if they expire by themselves when the key does.
    pub ends: WallTime,
}

/// Revocations by the fingerprint of what they name.
pub struct RevocationList {
    entries: HashMap<Fingerprint, Revocation>,
    max_entries: usize,
    /// No revocation expires before this time. Until then a full list need not be searched for expired ones.
    earliest_expiry: WallTime,
    /// The latest changes, the oldest first.
    changes: VecDeque<Revocation>,
    /// Changes so far.
    version: u64,
    /// The keys that are in use.
    keys: HashMap<KeyNumber, KeyInUse>,
    /// The prefixes of their users.
    prefixes: UserPrefixes,
}

impl RevocationList {
    /// Creates an empty list of at most `max_entries`.
    pub fn new(max_entries: usize) -> Self {
        let (entries, changes) = (HashMap::new(), VecDeque::new());
        Self {
            entries,
            max_entries,
            earliest_expiry: WallTime::from_unix_millis(i64::MAX),
            changes,
            version: 0,
            keys: HashMap::new(),
            prefixes: UserPrefixes::default(),
        }
    }

    /// Adds a revocation. Of two for the same tokens, the later times apply. Returns whether that changes anything.
    ///
    /// # Errors
    /// [`ListFull`].
    pub fn add(&mut self, revocation: Revocation, now: WallTime) -> Result<bool, ListFull> {
        if revocation.expires_at <= now {
            return Ok(false);
        }
        let id = revocation.target.fingerprint();
        let merged = match self.entries.get(&id) {
            None => revocation,
            Some(known) => Revocation {
                issued_before: known.issued_before.max(revocation.issued_before),
                expires_at: known.expires_at.max(revocation.expires_at),
                target: revocation.target,
            },
        };
        if self.entries.get(&id) == Some(&merged) {
            return Ok(false);
        }
        if self.entries.len() >= self.max_entries && !self.entries.contains_key(&id) {
            self.drop_expired(now);
            if self.entries.len() >= self.max_entries {
                return Err(ListFull);
            }
        }
        self.earliest_expiry = self.earliest_expiry.min(merged.expires_at);
        self.entries.insert(id, merged.clone());
        self.version += 1;
        if self.changes.len() == KEPT_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(merged);
        Ok(true)
    }

    /// Adds revocations as [`Self::add`] does, but all or none.
    ///
    /// # Errors
    /// [`ListFull`]: the list is as before.
    pub fn add_all(&mut self, revocations: Vec<Revocation>, now: WallTime) -> Result<(), ListFull> {
        let targets: HashSet<Fingerprint> =
            revocations.iter().map(|revocation| revocation.target.fingerprint()).collect();
        let has_room = |list: &Self| {
            let new = targets.iter().filter(|id| !list.entries.contains_key(id)).count();
            list.entries.len() + new <= list.max_entries
        };
        if !has_room(self) {
            self.drop_expired(now);
            if !has_room(self) {
                return Err(ListFull);
            }
        }
        for revocation in revocations {
            self.add(revocation, now)?;
        }
        Ok(())
    }

    /// Notes that keys are in use.
    pub fn add_keys(&mut self, keys: impl IntoIterator<Item = KeyInUse>) {
        self.keys.extend(keys.into_iter().map(|key| (key.number, key)));
    }

    /// Returns whether a key is in use.
    pub fn has_key(&self, key: KeyNumber) -> bool {
        self.keys.contains_key(&key)
    }

    /// Revokes the tokens of keys that are no longer in use.
    pub fn remove_keys(&mut self, keys: &[KeyNumber]) {
        keys.iter().for_each(|key| _ = self.keys.remove(key));
        self.check_all();
    }

    /// Revokes the tokens of the keys whose end has come. Returns whether there are any.
    pub fn end_keys(&mut self, now: WallTime) -> bool {
        let before = self.keys.len();
        self.keys.retain(|_, key| now < key.ends);
        let has_ended = self.keys.len() < before;
        if has_ended {
            self.check_all();
        }
        has_ended
    }

    /// Returns when the first key ends; [`NEVER`] if none does.
    pub fn next_key_end(&self) -> WallTime {
        self.keys.values().map(|key| key.ends).min().unwrap_or(NEVER)
    }

    /// Replaces the prefixes of users, and revokes the tokens of keys whose users belong to other keys now.
    pub fn set_user_prefixes(&mut self, prefixes: UserPrefixes) {
        self.prefixes = prefixes;
        self.check_all();
    }

    /// Has the hubs check all of their sessions, because no index has those of a key.
    fn check_all(&mut self) {
        self.version += 1;
        self.changes.clear();
    }

    /// Returns whether a token is revoked everywhere.
    pub fn is_revoked(&self, user: &str, token: &TokenIdentity, now: WallTime) -> bool {
        self.has_revoked_key(user, token, now) || self.revocations_of(user, token, now).next().is_some()
    }

    /// Returns the earliest time at which a token like this one may be issued without being revoked by an id that it has, or as one
    /// of its user; `None` if it may be now, and [`NEVER`] if it may not before a revocation has expired.
    pub fn revoked_until(&self, user: &str, token: &TokenIdentity, now: WallTime) -> Option<WallTime> {
        self.revocations_of(user, token, now).map(|revocation| revocation.issued_before).max()
    }

    /// Returns the revocations that mean a token by its ids or its user.
    fn revocations_of<'a>(
        &'a self,
        user: &str,
        token: &'a TokenIdentity,
        now: WallTime,
    ) -> impl Iterator<Item = &'a Revocation> + use<'a> {
        // Without revocations nothing is hashed.
        let names = (!self.entries.is_empty()).then(|| {
            let without_session = token.sid.is_none().then(|| fingerprint(USER_WITHOUT_SESSION, user, ""));
            token.ids().chain([fingerprint(USER, user, "")]).chain(without_session)
        });
        let names = names.into_iter().flatten().flat_map(|name| [name, scoped(name, token.issuer)]);
        names.filter_map(move |id| self.revocation_of(token, id, now))
    }

    /// Returns whether a token is revoked because its key has been removed or has ended, or may not name this user.
    pub fn has_revoked_key(&self, user: &str, token: &TokenIdentity, now: WallTime) -> bool {
        token.key.is_some_and(|number| self.is_revoked_by_key(number, user, now))
    }

    /// Returns whether a key has been removed or has ended, or may not name this user.
    fn is_revoked_by_key(&self, number: KeyNumber, user: &str, now: WallTime) -> bool {
        let key = self.keys.get(&number);
        key.is_none_or(|key| now >= key.ends || self.prefixes.is_foreign(user, &key.rules))
    }

    /// Returns whether a token is revoked in one channel.
    pub fn is_revoked_in(&self, user: &str, channel: &Channel, token: &TokenIdentity, now: WallTime) -> bool {
        let id = || fingerprint(CHANNEL, user, channel.as_str());
        !self.entries.is_empty() && self.revocation_of(token, id(), now).is_some()
    }

    /// Returns the revocation with this fingerprint, if it has not expired and means the token.
    fn revocation_of(&self, token: &TokenIdentity, id: Fingerprint, now: WallTime) -> Option<&Revocation> {
        let entry = self.entries.get(&id);
        entry.filter(|entry| token.issued_at < entry.issued_before && now < entry.expires_at)
    }

    /// Returns the number of changes so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the changes after a version; `None` if not all of them are known any more.
    pub fn changes_since(&self, version: u64) -> Option<Vec<Revocation>> {
        let count = usize::try_from(self.version.saturating_sub(version)).ok()?;
        let skipped = self.changes.len().checked_sub(count)?;
        Some(self.changes.iter().skip(skipped).cloned().collect())
    }

    /// Returns all revocations that have not expired.
    pub fn entries(&self, now: WallTime) -> impl Iterator<Item = &Revocation> {
        self.entries.values().filter(move |entry| now < entry.expires_at)
    }

    /// Returns the number of revocations, with those that have expired and were not dropped yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the list has no revocations.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops the revocations that have expired.
    pub fn drop_expired(&mut self, now: WallTime) {
        if self.earliest_expiry <= now {
            self.entries.retain(|_, entry| now < entry.expires_at);
            let earliest = self.entries.values().map(|entry| entry.expires_at).min();
            self.earliest_expiry = earliest.unwrap_or(WallTime::from_unix_millis(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests;
