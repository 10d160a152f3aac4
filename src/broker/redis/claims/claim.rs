//! A claim of one node: that a property of the installation has its value. The record of a claim in Redis is the time since which
//! the value is in use, by the clock of this Redis (milliseconds since 1970), and the value. Of two values the one holds that has
//! been in use for longer. With `broker.redis.bus_key` the record is signed, so that a program without the key cannot take nodes out
//! of service with a record.
//!
//! The clocks of several servers may differ. So a node computes the time for the record of each server from that server's clock and
//! from how long it has used the value, and never carries the time of one server to another.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::super::{
    RedisContext,
    envelope::DropReason,
    scripts,
    server::{RedisServer, no_reply},
    store::millis,
};
use crate::broker::BrokerError;

/// Maximum length of a value in a record. No release writes a longer one.
const MAX_VALUE_BYTES: usize = 100;
/// How often a record that other programs change meanwhile is read before the node waits for its next turn.
const MAX_READS: usize = 8;

/// The value that this node claims, and what it knows of the records.
pub(super) struct Claim {
    /// What every value begins with, so that the record of one claim is worth nothing as that of another.
    subject: &'static str,
    own: String,
    record_ttl: Duration,
    known: Mutex<Known>,
}

/// What a node knows of the records.
#[derive(Default)]
struct Known {
    /// For how long the own value is in use. `None`: it has not held on any server yet.
    usage: Option<Usage>,
    /// What is known of each server that has answered, by its address.
    servers: BTreeMap<String, KnownRecord>,
}

/// For how long a value is in use.
#[derive(Clone, Copy)]
struct Usage {
    noted_at: Instant,
    /// For how long it had been in use then.
    before: Duration,
}

/// What is known of the record on one server.
struct KnownRecord {
    /// Since when the own value is in use, by the clock of the server.
    since: u64,
    /// The value that holds. `None`: not known yet.
    holding: Option<String>,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    since: u64,
    value: String,
}

/// Which value holds on a server, after a look at its record.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The value of other nodes.
    Other(String),
    /// The own value.
    Own {
        /// Since when it is in use, by the clock of the server: the time that the record has to have.
        since: u64,
        /// Whether the record has the own value, with this time or another one.
        is_stored: bool,
    },
}

impl Usage {
    fn duration(self) -> Duration {
        self.before.saturating_add(self.noted_at.elapsed())
    }
}

impl Claim {
    /// Creates the claim of the value `SUBJECT=VALUE`. A record that is not renewed for `record_ttl` ends.
    pub(super) fn new(subject: &'static str, value: &str, record_ttl: Duration) -> Self {
        Self { subject, own: format!("{subject}={value}"), record_ttl, known: Mutex::default() }
    }

    /// Returns the value that this node claims.
    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// Returns a server on which another value holds, and that value.
    pub(super) fn conflict(&self) -> Option<(String, String)> {
        let known = self.known.lock();
        known.servers.iter().find_map(|(address, record)| {
            let other = record.holding.as_ref().filter(|value| **value != self.own)?;
            Some((address.clone(), other.clone()))
        })
    }

    /// Returns whether it is known which value holds on a server.
    pub(super) fn is_known_at(&self, server: &RedisServer) -> bool {
        self.known.lock().servers.get(server.address()).is_some_and(|record| record.holding.is_some())
    }

    /// Forgets servers that are no longer in use.
    pub(super) fn keep_only(&self, is_in_use: impl Fn(&str) -> bool) {
        self.known.lock().servers.retain(|address, _| is_in_use(address));
    }

    /// Claims the value on a server. Takes at most a heartbeat interval: one that does not answer delays no other server's turn.
    ///
    /// # Errors
    /// Redis does not answer, or other programs replace the record again and again. What was known before still counts.
    pub(super) async fn renew(
        &self,
        context: &RedisContext,
        server: &RedisServer,
        key: &str,
    ) -> Result<(), BrokerError> {
        let limit = context.timeout.min(context.heartbeat_interval);
        let renewed = timeout(limit, self.exchange(context, server, key, limit)).await;
        let error = |error| BrokerError::Unavailable(format!("{key} at {}: {error}", server.address()));
        renewed.unwrap_or_else(|_| Err(no_reply(limit))).map_err(error)
    }

    /// Reads the record on a server, and replaces it unless another value holds.
    async fn exchange(
        &self,
        context: &RedisContext,
        server: &RedisServer,
        key: &str,
        limit: Duration,
    ) -> Result<(), String> {
        let address = server.address();
        let lifetime = millis(self.record_ttl);
        let (mut read, mut new, mut refused) = (Vec::new(), Vec::new(), None);
        for _ in 0..MAX_READS {
            let mut call = scripts::REPLACE_CLAIM.call(&[key]);
            call.arg(&read).arg(&new).arg(lifetime);
            let (stored, now) = server.query::<(Vec<u8>, u64)>(&call, limit).await?;
            if !new.is_empty() && stored == new {
                self.note(address, self.own.clone());
                return Ok(());
            }
            let record = self.read_record(context, stored.clone());
            refused = record.as_ref().err().copied();
            refused.iter().for_each(|reason| context.refused.count(*reason));
            match self.judge(address, record.unwrap_or_default(), now) {
                Verdict::Other(other) => {
                    self.note(address, other);
                    return Ok(());
                }
                // A node with the same value was faster, and has renewed the record.
                Verdict::Own { is_stored: true, .. } if !new.is_empty() => {
                    self.note(address, self.own.clone());
                    return Ok(());
                }
                Verdict::Own { since, .. } => new = context.signer.sign(format!("{since} {}", self.own).into_bytes()),
            }
            read = stored;
        }
        Err(match refused {
            Some(DropReason(reason)) => format!(
                "another program writes records there that this node refuses ({reason}); set the same broker.redis.bus_key on all \
                 nodes, or another broker.redis.prefix for another installation"
            ),
            None => "other nodes replace the record again and again".to_owned(),
        })
    }

    /// Notes which value holds on a server, and logs a change.
    fn note(&self, address: &str, value: String) {
        let is_own = value == self.own;
        let mut known = self.known.lock();
        if is_own {
            known.usage.get_or_insert_with(|| Usage { noted_at: Instant::now(), before: Duration::ZERO });
        }
        let Some(record) = known.servers.get_mut(address) else { return };
        let before = record.holding.replace(value.clone());
        drop(known);
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

    /// Returns which value holds on a server with this record, whose clock says `now`.
    fn judge(&self, address: &str, record: Option<Record>, now: u64) -> Verdict {
        let mut known = self.known.lock();
        let Known { usage, servers } = &mut *known;
        let own_usage = usage.map_or(Duration::ZERO, Usage::duration);
        let own = servers.entry(address.to_owned()).or_insert_with(|| {
            // A record of other nodes is older than the first look of this one. If its time is later, the clock of the server has
            // been set back, or another server with another clock has taken its place.
            let now = record.as_ref().map_or(now, |record| now.max(record.since.saturating_add(1)));
            KnownRecord { since: now.saturating_sub(millis(own_usage)), holding: None }
        });
        let Some(Record { since, value }) = record else {
            return Verdict::Own { since: own.since, is_stored: false };
        };
        if value == self.own {
            // Another node may have used it for longer.
            own.since = own.since.min(since);
            let before = Duration::from_millis(now.saturating_sub(since));
            if before > own_usage {
                *usage = Some(Usage { noted_at: Instant::now(), before });
            }
            return Verdict::Own { since: own.since, is_stored: true };
        }
        // All nodes have to decide alike for values that came into use in the same millisecond.
        if (since, value.as_str()) < (own.since, self.own.as_str()) {
            Verdict::Other(value)
        } else {
            Verdict::Own { since: own.since, is_stored: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "1 partitions=512";
    /// A server.
    const AT: &str = "a:1";

    fn claim_of(value: &str) -> Claim {
        Claim::new("version", value, Duration::from_secs(15))
    }

    /// A claim whose value is in use on the server since 1000.
    fn claim() -> Claim {
        let claim = claim_of(OWN);
        claim.judge(AT, None, 1000);
        claim
    }

    fn record(since: u64, value: &str) -> Option<Record> {
        Some(Record { since, value: value.to_owned() })
    }

    /// A server with a clock of its own, and a record.
    struct Server {
        address: &'static str,
        clock: u64,
        record: Option<(u64, String)>,
    }

    impl Server {
        fn new(address: &'static str, clock: u64) -> Self {
            Self { address, clock, record: None }
        }

        /// Has a node renew its claim. Returns whether its value holds.
        fn renew(&mut self, claim: &Claim) -> bool {
            let stored = self.record.as_ref().map(|(since, value)| Record { since: *since, value: value.clone() });
            match claim.judge(self.address, stored, self.clock) {
                Verdict::Other(other) => {
                    claim.note(self.address, other);
                    false
                }
                Verdict::Own { since, .. } => {
                    claim.note(self.address, claim.own.clone());
                    self.record = Some((since, claim.own.clone()));
                    true
                }
            }
        }
    }

    /// Lets a claim have held for a time.
    fn age(claim: &Claim, by: Duration) {
        claim.known.lock().usage.as_mut().expect("the value holds").before += by;
    }

    #[test]
    fn value_that_has_been_in_use_for_longer_holds() {
        for (since, other, holds) in [
            (999, "version=1", true),
            (1001, "version=1", false),
            (1000, "version=1", true),
            (1000, "version=2", false),
        ] {
            let verdict = claim().judge(AT, record(since, other), 2000);
            assert_eq!(verdict == Verdict::Other(other.to_owned()), holds, "{since} {other}");
        }
        assert_eq!(claim().judge(AT, None, 2000), Verdict::Own { since: 1000, is_stored: false });
    }

    #[test]
    fn nodes_with_one_value_agree_on_the_earliest_time_of_its_use() {
        let claim = claim();
        for (stored, since) in [(1500, 1000), (400, 400), (500, 400)] {
            let verdict = claim.judge(AT, record(stored, claim.own()), 2000);
            assert_eq!(verdict, Verdict::Own { since, is_stored: true });
        }
        let verdict = claim.judge(AT, record(500, "version=1"), 2000);
        assert_eq!(verdict, Verdict::Own { since: 400, is_stored: false });
    }

    #[test]
    fn node_is_not_displaced_on_a_server_whose_clock_is_behind_that_of_another_one() {
        const HOUR: u64 = 3_600_000;
        for (first_clock, second_clock) in [(9 * HOUR, HOUR), (HOUR, 9 * HOUR)] {
            let (mut first, mut second) = (Server::new("a:1", first_clock), Server::new("b:1", second_clock));
            let former = claim_of(OWN);
            assert!(first.renew(&former) && second.renew(&former));
            // Ten minutes later, a node that shares only the second server, and one that asks the first one before.
            let mut elsewhere = Server::new("c:1", 5 * HOUR);
            for clock in [&mut first.clock, &mut second.clock] {
                *clock += HOUR / 6;
            }
            let (other, shared) = (claim_of("2"), claim_of("3"));
            assert!(elsewhere.renew(&other) && !second.renew(&other));
            assert!(!first.renew(&shared) && !second.renew(&shared));
            assert!(first.renew(&former) && second.renew(&former), "the former node keeps its value");
            assert_eq!(former.conflict(), None);
        }
    }

    #[test]
    fn node_carries_how_long_it_has_used_its_value_to_a_server_that_was_down() {
        const SECOND: u64 = 1000;
        let (mut first, mut second) = (Server::new("a:1", 50 * SECOND), Server::new("b:1", 9_000 * SECOND));
        let former = claim_of(OWN);
        assert!(first.renew(&former));
        age(&former, Duration::from_secs(60));
        // It answers again, and a younger node is there before.
        let younger = claim_of("2");
        assert!(second.renew(&younger));
        second.clock += SECOND;
        assert!(second.renew(&former), "it has used its value for a minute");
        assert!(!second.renew(&younger));
        // A node with the value of the former one learns from its record for how long the value is in use.
        let same = claim_of(OWN);
        first.clock += 60 * SECOND;
        assert!(first.renew(&same));
        second.record = None;
        assert!(second.renew(&younger) && second.renew(&same) && !second.renew(&younger));
    }

    #[test]
    fn record_from_the_future_holds_against_a_node_that_has_just_started() {
        // A replica has become master, whose clock is behind that of the former master.
        let mut server = Server::new(AT, 1000);
        server.record = Some((5000, "version=2".to_owned()));
        let fresh = claim();
        assert!(server.renew(&fresh), "it had begun to use its value before");
        server.record = Some((5000, "version=2".to_owned()));
        assert!(!server.renew(&claim_of(OWN)));
        server.record = Some((u64::MAX, "version=2".to_owned()));
        server.renew(&claim_of(OWN));
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
        claim.judge("b:1", None, 1000);
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
