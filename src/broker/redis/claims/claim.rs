//! A claim of one node: that a property of the installation has its value. The record of a claim in Redis is the time since which
//! the value is in use (milliseconds since 1970) and the value. Of two values the one holds that has been in use for longer. With
//! `broker.redis.bus_key` the record is signed, so that a program without the key cannot take nodes out of service with a record.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::{RedisContext, envelope::DropReason, scripts, server::RedisServer};
use crate::broker::BrokerError;

/// Maximum length of a value in a record. No release writes a longer one.
const MAX_VALUE_BYTES: usize = 100;
/// How often a record that other nodes change meanwhile is read before the node waits for its next turn.
const MAX_READS: usize = 8;

/// The value that this node claims, and what it knows of the records.
pub(super) struct Claim {
    /// What every value begins with, so that the record of one claim is worth nothing as that of another.
    subject: &'static str,
    own: String,
    record_ttl: Duration,
    /// Since when the own value is in use, by the clock of the Redis that was asked first; 0: not known yet.
    since: AtomicU64,
    /// The value that holds on each server that has answered.
    holding: Mutex<BTreeMap<String, String>>,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    since: u64,
    value: String,
}

impl Claim {
    /// Creates the claim of the value `SUBJECT=VALUE`. A record that is not renewed for `record_ttl` ends.
    pub(super) fn new(subject: &'static str, value: &str, record_ttl: Duration) -> Self {
        let own = format!("{subject}={value}");
        Self { subject, own, record_ttl, since: AtomicU64::new(0), holding: Mutex::default() }
    }

    /// Returns the value that this node claims.
    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// Returns a server on which another value holds, and that value.
    pub(super) fn conflict(&self) -> Option<(String, String)> {
        let holding = self.holding.lock();
        let other = holding.iter().find(|(_, value)| **value != self.own);
        other.map(|(address, value)| (address.clone(), value.clone()))
    }

    /// Returns whether it is known which value holds on a server.
    pub(super) fn is_known_at(&self, server: &RedisServer) -> bool {
        self.holding.lock().contains_key(server.address())
    }

    /// Forgets servers that are no longer in use.
    pub(super) fn keep_only(&self, is_in_use: impl Fn(&str) -> bool) {
        self.holding.lock().retain(|address, _| is_in_use(address));
    }

    /// Claims the value on a server.
    ///
    /// # Errors
    /// Redis does not answer. What was known before still counts.
    pub(super) async fn renew(
        &self,
        context: &RedisContext,
        server: &RedisServer,
        key: &str,
    ) -> Result<(), BrokerError> {
        let unavailable = |error: String| BrokerError::Unavailable(format!("{key}: {error}"));
        let lifetime = u64::try_from(self.record_ttl.as_millis()).unwrap_or(u64::MAX);
        let (mut read, mut new) = (Vec::new(), Vec::new());
        for _ in 0..MAX_READS {
            let mut call = scripts::REPLACE_CLAIM.call(&[key]);
            call.arg(&read).arg(&new).arg(lifetime);
            let reply = server.query::<(Vec<u8>, u64)>(&call, context.timeout).await;
            let (stored, now) = reply.map_err(unavailable)?;
            if !new.is_empty() && stored == new {
                self.note(server.address(), self.own.clone());
                return Ok(());
            }
            let record = self.read_record(context, stored.clone()).unwrap_or_else(|reason| {
                context.refused.count(reason);
                None
            });
            _ = self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            match self.judge(record) {
                Some(other) => {
                    self.note(server.address(), other);
                    return Ok(());
                }
                None => {
                    let record = format!("{} {}", self.since.load(Ordering::Relaxed), self.own);
                    new = context.signer.sign(record.into_bytes());
                }
            }
            read = stored;
        }
        Err(unavailable("other nodes change the record all the time".to_owned()))
    }

    /// Notes which value holds on a server, and logs a change.
    fn note(&self, address: &str, value: String) {
        let is_own = value == self.own;
        let before = self.holding.lock().insert(address.to_owned(), value.clone());
        match before {
            Some(before) if before == value => {}
            None if is_own => {}
            Some(_) if is_own => log::info!("nodes agree again server={address:?} value={value:?}"),
            _ => log::error!("nodes disagree server={address:?} value={value:?} own={:?}", self.own),
        }
    }

    /// Reads a record. `None`: the key does not exist, or no node has written its value.
    ///
    /// # Errors
    /// The record is not signed with the key of this installation, or was not signed recently.
    fn read_record(&self, context: &RedisContext, stored: Vec<u8>) -> Result<Option<Record>, DropReason> {
        if stored.is_empty() {
            return Ok(None);
        }
        let text = context.signer.verify_record(Bytes::from(stored), self.record_ttl)?;
        Ok(self.parse(&text))
    }

    fn parse(&self, text: &[u8]) -> Option<Record> {
        let (since, value) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        let since = since.bytes().all(|byte| byte.is_ascii_digit()).then(|| since.parse().ok())??;
        let is_printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let is_ours = value.len() <= MAX_VALUE_BYTES && value.strip_prefix(self.subject)?.starts_with('=');
        (is_printable && is_ours).then(|| Record { since, value: value.to_owned() })
    }

    /// Returns the value of a record if it holds instead of the own one. `None`: the own one holds.
    fn judge(&self, record: Option<Record>) -> Option<String> {
        let Record { since, value } = record?;
        let own_since = self.since.load(Ordering::Relaxed);
        if value == self.own {
            // Another node has used it for longer.
            self.since.fetch_min(since, Ordering::Relaxed);
            return None;
        }
        // All nodes have to decide alike for values that came into use in the same millisecond.
        ((since, value.as_str()) < (own_since, self.own.as_str())).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        let claim = Claim::new("version", "1 partitions=512", Duration::from_secs(15));
        claim.since.store(1000, Ordering::Relaxed);
        claim
    }

    fn record(since: u64, value: &str) -> Option<Record> {
        Some(Record { since, value: value.to_owned() })
    }

    #[test]
    fn value_that_has_been_in_use_for_longer_holds() {
        for (since, other, holds) in [
            (999, "version=1", true),
            (1001, "version=1", false),
            (1000, "version=1", true),
            (1000, "version=2", false),
        ] {
            assert_eq!(claim().judge(record(since, other)).is_some(), holds, "{since} {other}");
        }
        assert_eq!(claim().judge(None), None);
    }

    #[test]
    fn nodes_with_one_value_agree_on_the_earliest_time_of_its_use() {
        let claim = claim();
        for (since, expected) in [(1500, 1000), (400, 400)] {
            assert_eq!(claim.judge(record(since, "version=1 partitions=512")), None);
            assert_eq!(claim.since.load(Ordering::Relaxed), expected);
        }
        assert_eq!(claim.judge(record(500, "version=1")), None);
    }

    #[test]
    fn what_no_node_writes_is_no_record() {
        let claim = claim();
        assert_eq!(claim.parse(b"7 version=0"), record(7, "version=0"));
        let long = format!("1 version={}", "x".repeat(MAX_VALUE_BYTES));
        for text in ["", "garbage", "1 ", "1  version=1", "+1 version=1", "-1 version=1", "1 version", "1 servers=2"] {
            assert_eq!(claim.parse(text.as_bytes()), None, "{text:?}");
        }
        for text in ["99999999999999999999999999 version=1", "1 version=a\nb", "1 version=é", long.as_str()] {
            assert_eq!(claim.parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(claim.parse(b"1 version=\xff"), None);
    }

    #[test]
    fn conflict_lasts_while_another_value_holds_on_any_server() {
        let claim = claim();
        assert_eq!(claim.conflict(), None);
        claim.note("a:1", claim.own().to_owned());
        claim.note("b:1", "version=2".to_owned());
        assert_eq!(claim.conflict(), Some(("b:1".to_owned(), "version=2".to_owned())));
        claim.keep_only(|address| address == "a:1");
        assert_eq!(claim.conflict(), None);
        claim.note("a:1", "version=2".to_owned());
        claim.note("a:1", claim.own().to_owned());
        assert_eq!(claim.conflict(), None);
    }
}
