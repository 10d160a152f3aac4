//! The clients that were refused last when they presented a token, so that the server API can explain why a user receives nothing who
//! is not connected. Two rings of limited length for an instance: names that a key has signed, and names that anyone may have written
//! into a token. Names of the second ring displace none of the first. Deliveries do not use the rings.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

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

/// The latest refused attempts of this instance, `limits.ended_sessions` of each kind. The oldest are forgotten first.
#[derive(Debug)]
pub struct RefusedAttempts {
    signed: Mutex<VecDeque<RefusedAttempt>>,
    claimed: Mutex<VecDeque<RefusedAttempt>>,
    max_attempts: usize,
}

impl RefusedAttempts {
    /// Creates empty rings.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let (signed, claimed) = (Mutex::default(), Mutex::default());
        Arc::new(Self { signed, claimed, max_attempts: limits.ended_sessions })
    }

    /// Returns whether anything is remembered. Callers need not gather it otherwise.
    pub fn is_enabled(&self) -> bool {
        self.max_attempts > 0
    }

    /// Remembers an attempt.
    pub fn note(&self, attempt: RefusedAttempt) {
        if !self.is_enabled() {
            return;
        }
        let mut ring = if attempt.is_signed { self.signed.lock() } else { self.claimed.lock() };
        // A client that tries again and again does not drive out the others.
        let is_repeated = |last: &RefusedAttempt| (&last.user, &last.reason) == (&attempt.user, &attempt.reason);
        if ring.back().is_some_and(is_repeated) {
            ring.pop_back();
        }
        if ring.len() >= self.max_attempts {
            ring.pop_front();
        }
        ring.push_back(attempt);
    }

    /// Returns the attempts of a user or of one connection, at most `limit`, the newest first.
    pub(super) fn find(&self, user: Option<&str>, client: Option<Uuid>, limit: usize) -> Vec<RefusedAttempt> {
        let is_meant = |attempt: &&RefusedAttempt| {
            user.is_none_or(|user| *attempt.user == *user) && client.is_none_or(|client| attempt.client == client)
        };
        let of = |ring: &Mutex<VecDeque<RefusedAttempt>>| -> Vec<RefusedAttempt> {
            ring.lock().iter().rev().filter(is_meant).take(limit).cloned().collect()
        };
        let mut found = [of(&self.signed), of(&self.claimed)].concat();
        found.sort_by_key(|attempt| std::cmp::Reverse(attempt.at));
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

    fn found(attempts: &RefusedAttempts, user: &str) -> Vec<i64> {
        attempts.find(Some(user), None, 10).iter().map(|attempt| attempt.at.unix_seconds()).collect()
    }

    #[test]
    fn names_that_anyone_may_write_do_not_drive_out_those_that_a_key_has_signed() {
        let attempts = attempts(3);
        attempts.note(attempt("ann", true, 1));
        for second in 2..100 {
            attempts.note(attempt(&format!("user-{second}"), false, second));
        }
        attempts.note(attempt("ann", false, 100));
        assert_eq!(found(&attempts, "ann"), [100, 1], "the newest first");
        assert_eq!((found(&attempts, "user-2"), found(&attempts, "user-99")), (vec![], vec![99]));
        for second in 101..104 {
            attempts.note(attempt(&format!("user-{second}"), true, second));
        }
        assert_eq!(found(&attempts, "ann"), [100], "the oldest of each kind is forgotten");
    }

    #[test]
    fn client_that_repeats_itself_counts_once_with_its_last_time() {
        let attempts = attempts(3);
        attempts.note(attempt("bob", true, 1));
        for second in 2..50 {
            attempts.note(attempt("ann", true, second));
        }
        assert_eq!((found(&attempts, "ann"), found(&attempts, "bob")), (vec![49], vec![1]));
        let of_client = attempts.find(None, Some(Uuid::from_u128(49)), 10);
        assert_eq!(of_client, [attempt("ann", true, 49)]);
        assert_eq!(attempts.find(Some("bob"), Some(Uuid::from_u128(49)), 10), []);
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let attempts = attempts(0);
        attempts.note(attempt("ann", true, 1));
        assert!(found(&attempts, "ann").is_empty() && !attempts.is_enabled());
    }
}
