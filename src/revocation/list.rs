//! The list of revocations: pure, limited in number, and asked in constant time. It never forgets a revocation before it has
//! expired: above the limit it refuses new ones. The wall clock may be ahead for a while, so it keeps what has expired for longer.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    Fingerprint, KeyNumber, Revocation, RevocationTarget, TokenIdentity, fingerprint,
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

/// How long a revocation is kept after it has expired: it is in force again if the wall clock was ahead and is set back.
///
/// A day: a machine that takes the local time for UTC when it boots is ahead by up to 14 h.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 3600);

/// No time is earlier.
const EARLIEST: WallTime = WallTime::from_unix_millis(i64::MIN);

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
    /// Those that have expired, for [`CLOCK_TOLERANCE`] and besides at most `max_entries`: above that the ones that expired first are
    /// dropped.
    expired: HashMap<Fingerprint, Revocation>,
    max_entries: usize,
    /// None of `entries` expires before this time. Until then a full list need not be searched for expired ones.
    earliest_expiry: WallTime,
    /// All of `expired` have expired at this time. Before it, the clock was set back.
    latest_expired: WallTime,
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
        let (entries, expired, changes) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self {
            entries,
            expired,
            max_entries,
            earliest_expiry: NEVER,
            latest_expired: EARLIEST,
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
        let added = self.insert(revocation, now);
        self.drop_surplus();
        added
    }

    /// Adds revocations.
    ///
    /// # Errors
    /// [`ListFull`]: those that had room are added.
    pub fn add_each(
        &mut self,
        revocations: impl IntoIterator<Item = Revocation>,
        now: WallTime,
    ) -> Result<(), ListFull> {
        let mut added = Ok(());
        for revocation in revocations {
            // Also after one that has no room: one that is known needs none.
            added = added.and(self.insert(revocation, now).map(drop));
        }
        // Once for all of them: it reads the whole list.
        self.drop_surplus();
        added
    }

    /// Adds revocations, all or none.
    ///
    /// # Errors
    /// [`ListFull`]: the list is as before.
    pub fn add_all(&mut self, revocations: Vec<Revocation>, now: WallTime) -> Result<(), ListFull> {
        let merged = revocations.iter().map(|revocation| self.merge(revocation.clone()));
        let in_force: HashSet<Fingerprint> =
            merged.filter(|(_, merged)| now < merged.expires_at).map(|(id, _)| id).collect();
        let has_room = |list: &Self| {
            let new = in_force.iter().filter(|id| !list.entries.contains_key(id)).count();
            list.entries.len() + new <= list.max_entries
        };
        if !has_room(self) {
            self.drop_expired(now);
            if !has_room(self) {
                return Err(ListFull);
            }
        }
        self.add_each(revocations, now)
    }

    fn insert(&mut self, revocation: Revocation, now: WallTime) -> Result<bool, ListFull> {
        let (id, merged) = self.merge(revocation);
        if is_forgotten(&merged, now) || self.get(id) == Some(&merged) {
            return Ok(false);
        }
        if merged.expires_at <= now {
            self.entries.remove(&id);
            self.latest_expired = self.latest_expired.max(merged.expires_at);
            self.expired.insert(id, merged.clone());
        } else {
            if self.entries.len() >= self.max_entries && !self.entries.contains_key(&id) {
                self.drop_expired(now);
                if self.entries.len() >= self.max_entries {
                    return Err(ListFull);
                }
            }
            self.earliest_expiry = self.earliest_expiry.min(merged.expires_at);
            self.expired.remove(&id);
            self.entries.insert(id, merged.clone());
        }
        self.note_change(merged);
        Ok(true)
    }

    /// Returns the later times of a revocation and of what is known for its target.
    fn merge(&self, revocation: Revocation) -> (Fingerprint, Revocation) {
        let id = revocation.target.fingerprint();
        let merged = match self.get(id) {
            None => revocation,
            Some(known) => Revocation {
                issued_before: known.issued_before.max(revocation.issued_before),
                expires_at: known.expires_at.max(revocation.expires_at),
                target: revocation.target,
            },
        };
        (id, merged)
    }

    /// Returns what is known for a target, also if it has expired.
    fn get(&self, id: Fingerprint) -> Option<&Revocation> {
        self.entries.get(&id).or_else(|| self.expired.get(&id))
    }

    /// Has the hubs apply a revocation.
    fn note_change(&mut self, revocation: Revocation) {
        self.version += 1;
        if self.changes.len() == KEPT_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(revocation);
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

    /// Returns the revocation of this target, if it means the token.
    pub fn entry<'a>(
        &'a self,
        user: &str,
        token: &'a TokenIdentity,
        target: &RevocationTarget,
        now: WallTime,
    ) -> Option<&'a Revocation> {
        self.revocations_of(user, token, now).find(|revocation| revocation.target == *target)
    }

    /// Returns the revocation that means a token for the longest time.
    pub fn longest_entry<'a>(&'a self, user: &str, token: &'a TokenIdentity, now: WallTime) -> Option<&'a Revocation> {
        self.revocations_of(user, token, now).max_by_key(|revocation| revocation.expires_at)
    }

    /// Returns the revocation of this target, if it has not expired.
    pub fn find(&self, target: &RevocationTarget, now: WallTime) -> Option<&Revocation> {
        self.get(target.fingerprint()).filter(|entry| now < entry.expires_at)
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
        let names = (!self.is_empty()).then(|| {
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
        !self.is_empty() && self.revocation_of(token, id(), now).is_some()
    }

    /// Returns the revocation with this fingerprint, if it has not expired and means the token.
    fn revocation_of(&self, token: &TokenIdentity, id: Fingerprint, now: WallTime) -> Option<&Revocation> {
        self.get(id).filter(|entry| token.issued_at < entry.issued_before && now < entry.expires_at)
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
        self.entries.values().chain(self.expired.values()).filter(move |entry| now < entry.expires_at)
    }

    /// Returns the number of revocations that had not expired at the last [`Self::drop_expired`], or were added since.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the list has no revocations, not even expired ones.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.expired.is_empty()
    }

    /// Sets the revocations apart that have expired, and drops those that expired long ago. Those that have not expired by a clock that
    /// was set back count again, as far as there is room; the others are in force, too.
    pub fn drop_expired(&mut self, now: WallTime) {
        if now < self.latest_expired {
            let room = self.max_entries.saturating_sub(self.entries.len());
            self.entries.extend(self.expired.extract_if(|_, entry| now < entry.expires_at).take(room));
            self.earliest_expiry = earliest_expiry(&self.entries);
            self.latest_expired = latest_expiry(&self.expired);
        }
        if self.earliest_expiry <= now {
            self.expired.retain(|_, entry| !is_forgotten(entry, now));
            self.expired.extend(self.entries.extract_if(|_, entry| entry.expires_at <= now));
            self.earliest_expiry = earliest_expiry(&self.entries);
            self.latest_expired = latest_expiry(&self.expired);
            self.drop_surplus();
        }
    }

    /// Has the hubs check all of their sessions, if revocations had expired by a clock that has been set back, and are in force again.
    /// `before` is the latest time that it has shown. Returns whether there are any.
    pub fn set_clock_back(&mut self, now: WallTime, before: WallTime) -> bool {
        let is_back = |entry: &Revocation| now < entry.expires_at && entry.expires_at <= before;
        let are_back = self.entries.values().chain(self.expired.values()).any(is_back);
        if are_back {
            self.drop_expired(now);
            self.check_all();
        }
        are_back
    }

    /// Drops the revocations that expired first, if more have expired than are kept.
    fn drop_surplus(&mut self) {
        let surplus = self.expired.len().saturating_sub(self.max_entries);
        if surplus > 0 {
            let mut by_expiry: Vec<(WallTime, Fingerprint)> =
                self.expired.iter().map(|(id, entry)| (entry.expires_at, *id)).collect();
            by_expiry.select_nth_unstable(surplus - 1);
            by_expiry[..surplus].iter().for_each(|(_, id)| _ = self.expired.remove(id));
        }
    }
}

/// Returns whether a revocation expired so long ago that it is not kept.
fn is_forgotten(revocation: &Revocation, now: WallTime) -> bool {
    revocation.expires_at.saturating_add(CLOCK_TOLERANCE) <= now
}

fn earliest_expiry(entries: &HashMap<Fingerprint, Revocation>) -> WallTime {
    entries.values().map(|entry| entry.expires_at).min().unwrap_or(NEVER)
}

fn latest_expiry(entries: &HashMap<Fingerprint, Revocation>) -> WallTime {
    entries.values().map(|entry| entry.expires_at).max().unwrap_or(EARLIEST)
}

#[cfg(test)]
mod tests;
