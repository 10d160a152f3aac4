//! Delays after failed logins. Pure: the time is an input, nothing is hashed here, and the names of unknown users are treated
//! like all others.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroUsize,
    time::Duration,
};

use aws_lc_rs::hmac::{Key, sign};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lru::LruCache;
use parking_lot::Mutex;

use super::derived_key::derive_key;
use crate::{
    address::ClientAddress,
    broker::{LoginDelayRule, LoginFailureNames, SharedLoginVerdict},
    clock::MonotonicTime,
    config::Secret,
};

/// Maximum number of entries in each of the three tables, about 10 MiB each when full. A full table drops its least recently
/// used entry, so an attacker who wants an entry dropped has to make that many attempts for other users or from other addresses.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// Failures are forgotten after this time without another one.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// The first delay. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// An address has this many times the free failures of a single user: a household or an office may share it.
const ADDRESS_FACTOR: u32 = 4;
/// A user with more than this many times the free failures, from all addresses together, is under attack.
const ATTACKED_USER_FACTOR: u32 = 20;

/// Bytes of a MAC that name failures. Without the key, an attacker cannot find two users or addresses with the same name.
const NAME_BYTES: usize = 16;

/// Counts failed logins per user and address, per address, and per user.
///
/// An attempt counts as failed from its start, so that concurrent attempts are all counted; success undoes it. An address is not
/// delayed for a user for whom it has no failures, unless it has failed often for other users. So attackers at other addresses
/// cannot lock a user out. All they can achieve is that the user's own first failure delays the next attempt by a second.
pub struct LoginBackoff {
    rule: LoginDelayRule,
    /// Tables store the hash of a name: names have any length, hashes do not, and attackers cannot predict them.
    hasher: RandomState,
    tables: Mutex<Tables>,
}

struct Tables {
    pairs: LruCache<(u64, ClientAddress), FailureRecord>,
    addresses: LruCache<ClientAddress, FailureRecord>,
    users: LruCache<u64, FailureRecord>,
}

#[derive(Clone, Copy, Default)]
struct FailureRecord {
    failures: u32,
    /// When the last attempt started.
    last: MonotonicTime,
    /// The earliest time for the next attempt.
    until: MonotonicTime,
}

/// An attempt that has started. It counts as failed unless [`LoginBackoff::succeed`] or [`LoginBackoff::withdraw`] is called.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LoginAttempt {
    pair: (u64, ClientAddress),
    pair_wait: WaitChange,
    address_wait: WaitChange,
}

/// The change that an attempt made to the earliest time for the next one.
#[derive(Clone, Copy, Debug)]
struct WaitChange {
    until: MonotonicTime,
    before: MonotonicTime,
}

impl LoginBackoff {
    /// Creates a backoff: after `free_failures` failures for one user from one address each further attempt is delayed, by at most
    /// `max_wait`.
    pub fn new(free_failures: u32, max_wait: Duration) -> Self {
        Self::with_rule(LoginDelayRule {
            forget_after: FORGET_AFTER,
            first_wait: FIRST_WAIT,
            max_wait,
            free_of_pair: free_failures,
            free_of_address: free_failures.saturating_mul(ADDRESS_FACTOR),
            attacked_above: free_failures.saturating_mul(ATTACKED_USER_FACTOR),
        })
    }

    /// Creates a backoff with any rule.
    pub fn with_rule(rule: LoginDelayRule) -> Self {
        let tables = Tables { pairs: table(), addresses: table(), users: table() };
        Self { rule, hasher: RandomState::new(), tables: Mutex::new(tables) }
    }

    /// Returns how failures delay the next attempts.
    pub fn delay_rule(&self) -> LoginDelayRule {
        self.rule
    }

    /// Starts an attempt.
    ///
    /// # Errors
    /// How long to wait, if the attempt comes too early. It is not counted then.
    pub fn begin(&self, now: MonotonicTime, user: &str, address: ClientAddress) -> Result<LoginAttempt, Duration> {
        let user = self.hasher.hash_one(user);
        let forget_after = self.rule.forget_after;
        let mut tables = self.tables.lock();
        let Tables { pairs, addresses, users } = &mut *tables;
        let pair = current_record(pairs, (user, address), now, forget_after);
        let address_record = current_record(addresses, address, now, forget_after);
        let wait = pair.wait(now).max(address_record.wait(now));
        if !wait.is_zero() {
            return Err(wait);
        }
        let user_record = current_record(users, user, now, forget_after);
        let _ = user_record.fail(now, Duration::ZERO);
        let free = if user_record.failures > self.rule.attacked_above { 1 } else { self.rule.free_of_pair };
        let pair_wait = pair.fail(now, self.wait_after(pair.failures.saturating_add(1), free));
        let free = self.rule.free_of_address;
        let address_wait = address_record.fail(now, self.wait_after(address_record.failures.saturating_add(1), free));
        Ok(LoginAttempt { pair: (user, address), pair_wait, address_wait })
    }

    /// Replaces what this table knows of an attempt by what all instances have counted. Returns the attempt as it is counted then.
    pub fn adopt(&self, now: MonotonicTime, attempt: LoginAttempt, counted: &SharedLoginVerdict) -> LoginAttempt {
        let record = |failures, wait| FailureRecord { failures, last: now, until: now.saturating_add(wait) };
        let (pair, address) = (&counted.pair, &counted.address);
        let (pair, address) = (record(pair.failures, pair.wait), record(address.failures, address.wait));
        let mut tables = self.tables.lock();
        tables.pairs.put(attempt.pair, pair);
        tables.addresses.put(attempt.pair.1, address);
        tables.users.put(attempt.pair.0, record(counted.user, Duration::ZERO));
        // The attempt was allowed, so there was no delay before it.
        let change = |record: FailureRecord| WaitChange { until: record.until, before: now };
        LoginAttempt { pair_wait: change(pair), address_wait: change(address), ..attempt }
    }

    /// Records that the password was right, and forgets the failures of this user from this address. The failures of the address
    /// for other users remain: one valid account must not give free guesses at the others.
    pub fn succeed(&self, attempt: LoginAttempt) {
        self.withdraw(attempt);
        self.tables.lock().pairs.pop(&attempt.pair);
    }

    /// Undoes an attempt for which no password was checked.
    pub fn withdraw(&self, attempt: LoginAttempt) {
        let mut tables = self.tables.lock();
        let Tables { pairs, addresses, users } = &mut *tables;
        if let Some(pair) = pairs.peek_mut(&attempt.pair) {
            pair.undo(Some(attempt.pair_wait));
        }
        if let Some(user) = users.peek_mut(&attempt.pair.0) {
            user.undo(None);
        }
        if let Some(address) = addresses.peek_mut(&attempt.pair.1) {
            address.undo(Some(attempt.address_wait));
        }
    }

    /// Returns the delay of the next attempt after `failures` failures, of which fewer than `free` cause none.
    fn wait_after(&self, failures: u32, free: u32) -> Duration {
        match failures.checked_sub(free) {
            None => Duration::ZERO,
            // One second doubled 31 times is 68 years.
            Some(beyond) => self.rule.first_wait.saturating_mul(1 << beyond.min(31)).min(self.rule.max_wait),
        }
    }
}

/// Makes the names under which a broker counts failed logins. They are MACs, so that a reader of the store of the broker finds
/// neither users nor addresses in it, nor what was typed into the field for the user by mistake.
pub struct FailureNames {
    key: Key,
}

impl FailureNames {
    /// Takes the secret that signs the tokens of the login, which all instances have.
    pub fn new(secret: &Secret) -> Self {
        Self { key: derive_key(secret, "wardcast failed logins") }
    }

    /// Returns the names for a user and an address.
    pub fn of(&self, user: &str, address: ClientAddress) -> LoginFailureNames {
        // An address has no line break, so no two pairs are the same text.
        LoginFailureNames {
            pair: self.name(&format!("pair\n{address}\n{user}")),
            address: self.name(&format!("address\n{address}")),
            user: self.name(&format!("user\n{user}")),
        }
    }

    fn name(&self, text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&sign(&self.key, text.as_bytes()).as_ref()[..NAME_BYTES])
    }
}

/// Creates an empty table that allocates as it fills: `LruCache::new` would allocate all of it at once.
fn table<K: Hash + Eq, V>() -> LruCache<K, V> {
    let mut table = LruCache::unbounded();
    table.resize(MAX_ENTRIES);
    table
}

/// Returns the record of `key`, or a new record if `key` has none or its last failure was more than `forget_after` ago.
fn current_record<K: Hash + Eq>(
    table: &mut LruCache<K, FailureRecord>,
    key: K,
    now: MonotonicTime,
    forget_after: Duration,
) -> &mut FailureRecord {
    let record = table.get_or_insert_mut(key, FailureRecord::default);
    if now.saturating_duration_since(record.last) > forget_after {
        *record = FailureRecord::default();
    }
    record
}

impl FailureRecord {
    /// Returns the remaining delay.
    fn wait(&self, now: MonotonicTime) -> Duration {
        self.until.saturating_duration_since(now)
    }

    fn fail(&mut self, now: MonotonicTime, wait: Duration) -> WaitChange {
        let before = self.until;
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        if !wait.is_zero() {
            self.until = now.saturating_add(wait);
        }
        WaitChange { until: self.until, before }
    }

    /// Removes one failure, and the delay only if this attempt set it. Otherwise attempts that are withdrawn, because the hub
    /// is busy, would remove the delays of real failures.
    fn undo(&mut self, wait: Option<WaitChange>) {
        self.failures = self.failures.saturating_sub(1);
        if let Some(WaitChange { until, before }) = wait
            && self.until == until
        {
            self.until = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::broker::LoginFailures;

    const START: MonotonicTime = MonotonicTime::START;

    fn after(start: MonotonicTime, millis: u64) -> MonotonicTime {
        start.saturating_add(Duration::from_millis(millis))
    }

    fn backoff() -> LoginBackoff {
        LoginBackoff::new(5, Duration::from_secs(60))
    }

    fn at(last: u32) -> ClientAddress {
        ClientAddress::from(IpAddr::from(last.to_be_bytes()))
    }

    /// Makes an attempt that fails. Returns the delay if it was refused.
    fn guess(backoff: &LoginBackoff, now: MonotonicTime, user: &str, address: ClientAddress) -> Option<Duration> {
        backoff.begin(now, user, address).err()
    }

    #[test]
    fn the_wait_doubles_after_the_free_failures_up_to_the_maximum() {
        let (backoff, mut now) = (backoff(), START);
        assert!((0..5).all(|_| guess(&backoff, now, "ann", at(1)).is_none()));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(guess(&backoff, now, "ann", at(1)), Some(wait));
            assert_eq!(
                guess(&backoff, now.saturating_add(wait - Duration::from_millis(1)), "ann", at(1)),
                Some(Duration::from_millis(1))
            );
            now = now.saturating_add(wait);
            assert_eq!(guess(&backoff, now, "ann", at(1)), None);
        }
        assert_eq!(guess(&backoff, now, "ann", at(2)), None, "no delay from another address");
        assert_eq!(guess(&backoff, now, "bob", at(1)), None, "no delay for other users");
        let later = after(now.saturating_add(FORGET_AFTER), 1);
        assert!((0..5).all(|_| guess(&backoff, later, "ann", at(1)).is_none()), "failures are forgotten");
    }

    #[test]
    fn concurrent_attempts_count_as_failures_from_the_start() {
        let backoff = backoff();
        let begun = (0..100).filter_map(|_| backoff.begin(START, "ann", at(1)).ok()).count();
        assert_eq!(begun, 5);
    }

    #[test]
    fn success_resets_the_failure_count() {
        let backoff = backoff();
        for _ in 0..20 {
            assert!((0..4).all(|_| guess(&backoff, START, "ann", at(1)).is_none()));
            let now = after(START, 120_000);
            let right = backoff.begin(now, "ann", at(1)).unwrap();
            backoff.succeed(right);
            backoff.tables.lock().addresses.clear();
        }
    }

    #[test]
    fn success_does_not_reset_the_failures_of_the_address() {
        let (backoff, now) = (backoff(), START);
        let mut guesses = 0;
        for number in 0..100 {
            if let Ok(own) = backoff.begin(now, "mallory", at(1)) {
                backoff.succeed(own);
            }
            guesses += usize::from(guess(&backoff, now, &format!("user {number}"), at(1)).is_none());
        }
        assert_eq!(guesses, 20, "the free failures of an address");
    }

    #[test]
    fn an_address_that_only_succeeds_never_waits() {
        let backoff = backoff();
        for _ in 0..1_000 {
            let right = backoff.begin(START, "ann", at(1)).unwrap();
            backoff.succeed(right);
        }
    }

    #[test]
    fn a_withdrawn_attempt_is_not_counted() {
        let backoff = backoff();
        for _ in 0..1_000 {
            let attempt = backoff.begin(START, "ann", at(1)).unwrap();
            backoff.withdraw(attempt);
        }
        assert_eq!(guess(&backoff, START, "ann", at(1)), None);
    }

    #[test]
    fn withdrawing_an_attempt_keeps_the_wait_of_a_later_one() {
        let backoff = backoff();
        for _ in 0..3 {
            assert_eq!(guess(&backoff, START, "ann", at(1)), None);
        }
        let withdrawn = backoff.begin(START, "ann", at(1)).unwrap();
        assert_eq!(guess(&backoff, START, "ann", at(1)), None, "the fifth, which delays the next one");
        backoff.withdraw(withdrawn);
        assert_eq!(guess(&backoff, START, "ann", at(1)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn attempts_with_out_of_order_clock_readings_do_not_wait() {
        let backoff = backoff();
        let attempt = backoff.begin(after(START, 1), "ann", at(1)).unwrap();
        backoff.withdraw(attempt);
        assert_eq!(guess(&backoff, START, "ann", at(1)), None);
    }

    #[test]
    fn a_thousand_addresses_get_one_guess_each_and_cannot_lock_the_user_out() {
        let backoff = backoff();
        let guesses = (0..1_000).map(|n| (0..5).filter(|_| guess(&backoff, START, "ann", at(n)).is_none()).count());
        let guesses: usize = guesses.sum();
        assert!((1_000..1_100).contains(&guesses), "{guesses}");
        let ann = at(5_000);
        assert_eq!(guess(&backoff, START, "ann", ann), None, "the first failure of the real user is free");
        assert_eq!(guess(&backoff, START, "ann", ann), Some(Duration::from_secs(1)));
        let right = backoff.begin(after(START, 1_000), "ann", ann).unwrap();
        backoff.succeed(right);
        assert_eq!(guess(&backoff, after(START, 1_000), "ann", ann), None);
        assert_eq!(guess(&backoff, START, "bob", at(2)), None, "other users are not delayed");
    }

    #[test]
    fn counts_of_all_instances_replace_those_of_the_table() {
        let backoff = backoff();
        let counted = |failures, millis| LoginFailures { failures, wait: Duration::from_millis(millis) };
        let verdict = |pair, address| SharedLoginVerdict { attempt: None, pair, address, user: 1 };
        let begin = || backoff.begin(START, "ann", at(1)).unwrap();
        backoff.withdraw(backoff.adopt(START, begin(), &verdict(counted(7, 4000), counted(7, 0))));
        let attempt = begin();
        let attempt = backoff.adopt(START, attempt, &verdict(counted(6, 2000), counted(20, 1000)));
        assert_eq!(guess(&backoff, START, "ann", at(1)), Some(Duration::from_secs(2)));
        assert_eq!(guess(&backoff, START, "bob", at(1)), Some(Duration::from_secs(1)));
        backoff.succeed(attempt);
        assert_eq!(guess(&backoff, START, "bob", at(1)), None, "the delay was that of this attempt");
        let attempt = backoff.begin(START, "eve", at(2)).unwrap();
        let _ = backoff.adopt(START, attempt, &verdict(counted(0, 0), counted(1, 0)));
        assert_eq!(
            (0..5).map(|_| guess(&backoff, START, "eve", at(2))).collect::<Vec<_>>(),
            [None; 5],
            "forgotten elsewhere"
        );
        assert_eq!(guess(&backoff, START, "eve", at(2)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn names_of_failures_are_the_same_on_all_instances_and_tell_nothing() {
        let names = || FailureNames::new(&Secret::new("0123456789abcdef0123456789abcdef"));
        let ann = names().of("ann", at(1));
        assert_eq!(ann, names().of("ann", at(1)));
        let (other_address, other_user) = (names().of("ann", at(2)), names().of("bob", at(1)));
        assert!(ann.user == other_address.user && ann.address == other_user.address);
        let mut all = vec![&ann.pair, &ann.address, &ann.user, &other_address.pair, &other_address.address];
        all.extend([&other_user.pair, &other_user.user]);
        let other_key = FailureNames::new(&Secret::new("0123456789abcdef0123456789abcdeg")).of("ann", at(1));
        all.extend([&other_key.pair, &other_key.address, &other_key.user]);
        assert!(all.iter().all(|name| name.len() == 22));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_ne!(names().of("a\nb", at(1)).pair, names().of("b", at(1)).pair);
    }

    #[test]
    fn the_tables_stay_bounded_under_any_attempts() {
        let backoff = backoff();
        for number in 0..250_000 {
            let _ = backoff.begin(START, &format!("user {number}"), at(number));
        }
        let tables = backoff.tables.lock();
        assert_eq!([tables.pairs.len(), tables.addresses.len(), tables.users.len()], [MAX_ENTRIES.get(); 3]);
    }
}
