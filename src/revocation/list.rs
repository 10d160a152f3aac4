//! The list of revocations: pure, limited in number, and asked in constant time. It never forgets a revocation before it has
//! expired: above the limit it refuses new ones.

use std::collections::{HashMap, VecDeque};

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
        if token.key.is_some_and(|number| self.is_revoked_by_key(number, user, now)) {
            return true;
        }
        self.revocations_of(user, token, now).next().is_some()
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

    /// Returns whether the key of a token has been removed or has ended, or may not name this user.
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
mod tests {
    use super::*;
    use crate::{
        config::KeyPurpose,
        revocation::{IssuerScope, RevocationTarget, TokenIds},
    };

    #[test]
    fn user_may_log_in_again_when_the_last_revocation_that_means_the_token_allows_it() {
        let mut list = RevocationList::new(10);
        let ids = TokenIds { issuer: Some("i".to_owned()), ..TokenIds::default() };
        let token = TokenIdentity::new(&ids, Some(at(1)));
        let until = |list: &RevocationList| list.revoked_until("ann", &token, at(1));
        assert_eq!(until(&list), None);
        for (scope, issued_before) in [(IssuerScope::Only("i".to_owned()), at(5)), (IssuerScope::Any, at(3))] {
            let target = RevocationTarget::User("ann".to_owned(), scope);
            list.add(Revocation { issued_before, ..Revocation::of_all(target, at(100)) }, at(1)).unwrap();
        }
        assert_eq!(until(&list), Some(at(5)));
        assert_eq!(list.revoked_until("bob", &token, at(1)), None);
        let of_then = TokenIdentity { issued_at: at(5), ..token };
        assert_eq!(list.revoked_until("ann", &of_then, at(1)), None);
    }

    #[test]
    fn removed_key_revokes_its_tokens_and_no_others() {
        let (old, new) = (KeyNumber::unique(), KeyNumber::unique());
        let of = |key| TokenIdentity { key, ..TokenIdentity::default() };
        let mut list = RevocationList::new(1);
        let in_use = |number| KeyInUse { number, rules: KeyRules::default(), ends: NEVER };
        list.add_keys([old, new].map(in_use));
        assert!(!list.is_revoked("ann", &of(Some(old)), at(1)));
        list.remove_keys(&[old]);
        let revoked = [None, Some(new), Some(old)].map(|key| list.is_revoked("ann", &of(key), at(1)));
        assert_eq!(revoked, [false, false, true]);
        assert_eq!(list.changes_since(0), None, "every session is checked");
        list.add(jti("1", 100), at(1)).unwrap();
        assert_eq!(list.changes_since(0), None);
        assert_eq!(list.changes_since(1).map(|changes| changes.len()), Some(1));
        list.remove_keys(&[new]);
        assert_eq!(list.changes_since(2), None, "whatever was revoked before");
    }

    #[test]
    fn key_revokes_its_tokens_when_its_end_has_come() {
        let (ending, other) = (KeyNumber::unique(), KeyNumber::unique());
        let mut list = RevocationList::new(1);
        let in_use = |number, ends| KeyInUse { number, rules: KeyRules::default(), ends };
        list.add_keys([in_use(ending, at(10)), in_use(other, NEVER)]);
        assert_eq!((list.next_key_end(), list.end_keys(at(9)), list.version()), (at(10), false, 0));
        let is_revoked = |list: &RevocationList, now| {
            [ending, other].map(|key| {
                list.is_revoked("ann", &TokenIdentity { key: Some(key), ..TokenIdentity::default() }, at(now))
            })
        };
        assert_eq!((is_revoked(&list, 9), is_revoked(&list, 10)), ([false, false], [true, false]));
        assert!(list.end_keys(at(10)));
        assert_eq!((list.changes_since(0), list.next_key_end()), (None, NEVER), "every session is checked");
        assert_eq!(is_revoked(&list, 9), [true, false], "also if the clock is set back");
        assert!(!list.end_keys(at(11)));
    }

    #[test]
    fn new_prefix_revokes_tokens_of_other_keys_that_name_its_users() {
        let of = |prefix: &str, purpose| {
            let rules = KeyRules { user_prefix: prefix.to_owned(), purpose, ..KeyRules::default() };
            KeyInUse { number: KeyNumber::unique(), rules, ends: NEVER }
        };
        let (general, of_partner) = (of("", KeyPurpose::Any), of("p:", KeyPurpose::Any));
        let subscriptions = of("", KeyPurpose::Subscription);
        let mut list = RevocationList::new(1);
        list.add_keys([general.clone(), of_partner.clone(), subscriptions.clone()]);
        let is_revoked = |list: &RevocationList, user: &str| {
            [&general, &of_partner, &subscriptions].map(|key| {
                list.is_revoked(user, &TokenIdentity { key: Some(key.number), ..TokenIdentity::default() }, at(1))
            })
        };
        assert_eq!(is_revoked(&list, "p:5"), [false; 3]);
        let mut auth = crate::config::Config::default().auth;
        auth.keys =
            vec![toml::from_str("id = \"k\"\nalgorithm = \"HS256\"\nfile = \"f\"\nuser_prefix = \"p:\"").unwrap()];
        list.set_user_prefixes(UserPrefixes::new(&auth));
        assert_eq!(list.changes_since(0), None, "every session is checked");
        assert_eq!(is_revoked(&list, "p:5"), [true, false, false]);
        assert_eq!(is_revoked(&list, "5"), [false; 3]);
    }

    #[test]
    fn hundred_thousand_and_first_revocation_is_refused_and_none_is_forgotten() {
        let max_entries = crate::config::Config::default().limits.revocations;
        let mut list = RevocationList::new(max_entries);
        for number in 0..max_entries {
            assert_eq!(list.add(jti(&number.to_string(), 100), at(0)), Ok(true));
        }
        assert_eq!((max_entries, list.add(jti("one more", 100), at(0))), (100_000, Err(ListFull)));
        let is_revoked = |id: &str| list.is_revoked("", &token(Some(id), None, None), at(99));
        assert!((0..max_entries).step_by(99).all(|number| is_revoked(&number.to_string())) && !is_revoked("one more"));
    }

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_seconds(seconds)
    }

    fn jti(id: &str, expires_at: i64) -> Revocation {
        Revocation::of_all(RevocationTarget::Token(id.to_owned(), IssuerScope::Any), at(expires_at))
    }

    fn user(name: &str, issued_before: i64) -> Revocation {
        let target = RevocationTarget::User(name.to_owned(), IssuerScope::Any);
        Revocation { issued_before: at(issued_before), ..Revocation::of_all(target, at(1000)) }
    }

    fn token(jti: Option<&str>, sid: Option<&str>, issued_at: Option<i64>) -> TokenIdentity {
        let ids = TokenIds { issuer: None, jti: jti.map(str::to_owned), sid: sid.map(str::to_owned) };
        TokenIdentity::new(&ids, issued_at.map(at))
    }

    #[test]
    fn revocation_of_one_issuer_means_no_token_of_another() {
        let only = |issuer: &str| IssuerScope::Only(issuer.to_owned());
        let token = |issuer: &str| {
            let (issuer, jti, sid) = (Some(issuer.to_owned()), Some("1".to_owned()), Some("1".to_owned()));
            TokenIdentity::new(&TokenIds { issuer, jti, sid }, Some(at(1)))
        };
        let kinds: [fn(String, IssuerScope) -> RevocationTarget; 3] =
            [RevocationTarget::Token, RevocationTarget::Session, RevocationTarget::User];
        for kind in kinds {
            for (scope, expected) in [
                (only("a"), [true, false, false]),
                (only(""), [false, false, true]),
                (only("c"), [false, false, false]),
                (IssuerScope::Any, [true, true, true]),
            ] {
                let mut list = RevocationList::new(10);
                let target = kind("1".to_owned(), scope);
                list.add(Revocation::of_all(target.clone(), NEVER), at(0)).unwrap();
                let revoked = ["a", "b", ""].map(|issuer| list.is_revoked("1", &token(issuer), at(1)));
                assert_eq!(revoked, expected, "{target:?}");
            }
        }
    }

    #[test]
    fn tokens_without_a_session_are_revoked_apart_from_those_with_one() {
        let mut list = RevocationList::new(10);
        let target = RevocationTarget::UserWithoutSession("ann".to_owned(), IssuerScope::Only(String::new()));
        list.add(Revocation { issued_before: at(50), ..Revocation::of_all(target, NEVER) }, at(0)).unwrap();
        for (name, token, is_revoked) in [
            ("ann", token(None, None, Some(49)), true),
            ("ann", token(Some("t"), None, None), true),
            ("ann", token(None, None, Some(50)), false),
            ("ann", token(None, Some("s"), Some(49)), false),
            ("bob", token(None, None, Some(49)), false),
        ] {
            assert_eq!(list.is_revoked(name, &token, at(1)), is_revoked, "{name} {token:?}");
        }
    }

    #[test]
    fn each_kind_means_its_own_tokens_only() {
        let mut list = RevocationList::new(10);
        let news = Channel::new("news").unwrap();
        let sid = Revocation::of_all(RevocationTarget::Session("s".to_owned(), IssuerScope::Any), NEVER);
        let channel = RevocationTarget::Channel("bob".to_owned(), news.clone());
        let channel = Revocation { issued_before: at(50), ..Revocation::of_all(channel, NEVER) };
        for revocation in [jti("t", 1000), sid, user("ann", 50), channel] {
            assert_eq!(list.add(revocation, at(0)), Ok(true));
        }
        for (name, token, is_revoked) in [
            ("x", token(Some("t"), None, Some(99)), true),
            ("x", token(Some("s"), Some("t"), Some(99)), false),
            ("x", token(None, Some("s"), Some(99)), true),
            ("ann", token(None, None, Some(49)), true),
            ("ann", token(None, None, Some(50)), false),
            ("ann", token(Some("u"), None, None), true),
            ("bob", token(None, None, Some(49)), false),
        ] {
            assert_eq!(list.is_revoked(name, &token, at(1)), is_revoked, "{name} {token:?}");
        }
        let in_channel =
            |name, channel, issued_at| list.is_revoked_in(name, channel, &token(None, None, Some(issued_at)), at(1));
        assert!(in_channel("bob", &news, 49));
        assert!(!in_channel("bob", &news, 50) && !in_channel("ann", &news, 49));
        assert!(!in_channel("bob", &Channel::new("other").unwrap(), 49));
    }

    #[test]
    fn revocation_lasts_until_it_expires_and_later_times_replace_earlier_ones() {
        let mut list = RevocationList::new(10);
        assert_eq!(list.add(jti("t", 10), at(10)), Ok(false), "it has expired already");
        assert_eq!(list.add(jti("t", 10), at(0)), Ok(true));
        assert_eq!(list.add(jti("t", 5), at(0)), Ok(false));
        let token = token(Some("t"), None, None);
        assert!(list.is_revoked("", &token, at(9)) && !list.is_revoked("", &token, at(10)));
        assert_eq!(list.add(jti("t", 20), at(0)), Ok(true));
        assert!(list.is_revoked("", &token, at(19)));
        assert_eq!((list.add(user("ann", 7), at(0)), list.add(user("ann", 5), at(0))), (Ok(true), Ok(false)));
        assert!(list.is_revoked("ann", &TokenIdentity { issued_at: at(6), ..TokenIdentity::default() }, at(1)));
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn full_list_refuses_new_revocations_and_forgets_none() {
        let mut list = RevocationList::new(2);
        assert_eq!((list.add(jti("a", 10), at(0)), list.add(jti("b", 20), at(0))), (Ok(true), Ok(true)));
        assert_eq!(list.add(jti("c", 20), at(0)), Err(ListFull));
        assert_eq!(list.add(jti("a", 11), at(0)), Ok(true), "a known one needs no more room");
        let is_revoked = |list: &RevocationList, id| list.is_revoked("", &token(Some(id), None, None), at(1));
        assert!(is_revoked(&list, "a") && is_revoked(&list, "b") && !is_revoked(&list, "c"));
        assert_eq!(list.add(jti("c", 20), at(11)), Ok(true), "a has expired");
        assert_eq!(list.add(jti("d", 30), at(11)), Err(ListFull));
        assert_eq!(list.entries(at(11)).count(), 2);
    }

    #[test]
    fn changes_are_returned_once_and_until_there_are_too_many() {
        let mut list = RevocationList::new(usize::MAX);
        for number in 0..KEPT_CHANGES as i64 {
            list.add(jti(&number.to_string(), 10), at(0)).unwrap();
        }
        assert_eq!(list.changes_since(0).map(|changes| changes.len()), Some(KEPT_CHANGES));
        list.add(jti("last", 10), at(0)).unwrap();
        assert_eq!(list.changes_since(0), None);
        assert_eq!(list.changes_since(list.version() - 1), Some(vec![jti("last", 10)]));
        assert_eq!(list.changes_since(list.version()), Some(Vec::new()));
    }
}
