//! The clients that were refused last when they presented a token, so that the server API can explain why a user who is not
//! connected receives nothing. Two tables of limited size for an instance: names that a key has signed, and names that anyone
//! may have written into a token. Names of the second table displace none of the first, and a client that tries again and again
//! displaces no other. Deliveries do not use the tables.

use std::{borrow::Cow, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{clock::WallTime, config::Limits};

/// An attempt to connect that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAttempt {
    /// When it was refused.
    pub at: WallTime,
    /// The id of the connection.
    pub client: Uuid,
    /// The user that the token names. Not empty.
    pub user: Box<str>,
    /// Whether a key has signed the name.
    pub is_signed: bool,
    /// The code that the client got over its connection; `None`: its handshake was refused.
    pub code: Option<u32>,
    /// Why, for operators.
    pub reason: Cow<'static, str>,
}

/// The attempts of a user that were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepeatedAttempt {
    /// The last of them.
    pub(super) last: RefusedAttempt,
    /// How many there were.
    pub(super) attempts: u64,
}

/// A user, and why its client was refused.
type AttemptKey = (Box<str>, Cow<'static, str>);

/// The latest refused attempts of this instance: of each kind at most `limits.ended_sessions` users with a reason. Those whose last
/// attempt is the oldest are forgotten first.
#[derive(Debug)]
pub struct RefusedAttempts {
    /// `None`: nothing is remembered.
    tables: Option<Tables>,
}

#[derive(Debug)]
struct Tables {
    signed: Mutex<LruCache<AttemptKey, RepeatedAttempt>>,
    unsigned: Mutex<LruCache<AttemptKey, RepeatedAttempt>>,
}

impl RefusedAttempts {
    /// Creates empty tables.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let tables = NonZeroUsize::new(limits.ended_sessions).map(|limit| {
            // Allocates as it fills: `LruCache::new` would allocate all of it at once.
            let table = || {
                let mut table = LruCache::unbounded();
                table.resize(limit);
                Mutex::new(table)
            };
            Tables { signed: table(), unsigned: table() }
        });
        Arc::new(Self { tables })
    }

    /// Returns whether anything is remembered. Callers need not gather it otherwise.
    pub fn is_enabled(&self) -> bool {
        self.tables.is_some()
    }

    /// Remembers an attempt.
    pub fn note(&self, attempt: RefusedAttempt) {
        let Some(Tables { signed, unsigned }) = &self.tables else { return };
        let mut table = if attempt.is_signed { signed.lock() } else { unsigned.lock() };
        let key = (attempt.user.clone(), attempt.reason.clone());
        let attempts = table.peek(&key).map_or(0, |repeated| repeated.attempts).saturating_add(1);
        table.put(key, RepeatedAttempt { last: attempt, attempts });
    }

    /// Returns the attempts of a user, or those whose last one was of one connection, at most `limit`: the signed ones first, and of
    /// these the newest.
    pub(super) fn find(&self, user: Option<&str>, client: Option<Uuid>, limit: usize) -> Vec<RepeatedAttempt> {
        let Some(Tables { signed, unsigned }) = &self.tables else { return Vec::new() };
        let is_meant = |RepeatedAttempt { last, .. }: &&RepeatedAttempt| {
            user.is_none_or(|user| *last.user == *user) && client.is_none_or(|client| last.client == client)
        };
        // From the last one that was noted to the first.
        let of = |table: &Mutex<LruCache<AttemptKey, RepeatedAttempt>>| -> Vec<RepeatedAttempt> {
            table.lock().iter().map(|(_, repeated)| repeated).filter(is_meant).take(limit).cloned().collect()
        };
        let mut found = [of(signed), of(unsigned)].concat();
        found.truncate(limit);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn attempts(limit: usize) -> Arc<RefusedAttempts> {
        RefusedAttempts::new(&Limits { ended_sessions: limit, ..Config::default().limits })
    }

    fn attempt(user: &str, is_signed: bool, second: i64) -> RefusedAttempt {
        let (at, client) = (WallTime::from_unix_seconds(second), Uuid::from_u128(second.unsigned_abs().into()));
        RefusedAttempt { at, client, user: user.into(), is_signed, code: None, reason: "expired".into() }
    }

    fn found(attempts: &RefusedAttempts, user: &str) -> Vec<(i64, u64)> {
        let found = attempts.find(Some(user), None, 10);
        found.iter().map(|repeated| (repeated.last.at.unix_seconds(), repeated.attempts)).collect()
    }

    #[test]
    fn names_that_anyone_may_write_come_last_and_do_not_drive_out_those_that_a_key_has_signed() {
        let attempts = attempts(3);
        attempts.note(attempt("ann", true, 1));
        for second in 2..100 {
            attempts.note(attempt(&format!("user-{second}"), false, second));
        }
        attempts.note(attempt("ann", false, 100));
        assert_eq!(found(&attempts, "ann"), [(1, 1), (100, 1)]);
        assert_eq!(attempts.find(Some("ann"), None, 1), attempts.find(None, Some(Uuid::from_u128(1)), 1));
        assert_eq!((found(&attempts, "user-2"), found(&attempts, "user-99")), (vec![], vec![(99, 1)]));
        for second in 101..104 {
            attempts.note(attempt(&format!("user-{second}"), true, second));
        }
        assert_eq!(found(&attempts, "ann"), [(100, 1)], "the oldest of each kind is forgotten");
    }

    #[test]
    fn attempts_of_a_user_for_one_reason_count_together_with_the_time_of_the_last() {
        let attempts = attempts(3);
        attempts.note(attempt("bob", true, 1));
        // Two clients in turn, and one of them for another reason at last.
        for second in 2..50 {
            attempts.note(attempt(if second % 2 == 0 { "ann" } else { "carl" }, true, second));
        }
        assert_eq!(found(&attempts, "bob"), [(1, 1)]);
        assert_eq!((found(&attempts, "ann"), found(&attempts, "carl")), (vec![(48, 24)], vec![(49, 24)]));
        let of_client = attempts.find(None, Some(Uuid::from_u128(48)), 10);
        assert_eq!(of_client, [RepeatedAttempt { last: attempt("ann", true, 48), attempts: 24 }]);
        assert_eq!(attempts.find(Some("bob"), Some(Uuid::from_u128(48)), 10), []);
        attempts.note(RefusedAttempt { reason: "revoked".into(), ..attempt("ann", true, 50) });
        assert_eq!(found(&attempts, "ann"), [(50, 1), (48, 24)], "the newest first");
        assert_eq!(found(&attempts, "bob"), [], "it was noted before all others");
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let attempts = attempts(0);
        attempts.note(attempt("ann", true, 1));
        assert!(found(&attempts, "ann").is_empty() && !attempts.is_enabled());
    }
}
