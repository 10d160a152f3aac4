//! The sentinels of a server, which know where its master is. All of them are asked, at each connect and at each probe
//! interval, over connections that stay open; a switch of the master that one of them announces causes a round at once.
//!
//! A sentinel that does not answer, or is behind the others, is passed over: the master with the highest configuration epoch
//! counts, which each failover raises. A master of an older epoch is never used, even if the newer one cannot be reached:
//! writes to it would be lost.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, Pipeline, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    time::timeout,
};

use super::{super::RedisConfigError, client, fault};
use crate::config::RedisConfig;

/// A sentinel publishes a failover on this channel, as `NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT`.
const SWITCH_CHANNEL: &str = "+switch-master";
/// Which part of the time to connect the sentinels may take to answer.
const TIMEOUT_PART: u32 = 4;

/// Host and port of a master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MasterAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What one sentinel says about the master.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MasterReport {
    address: MasterAddress,
    /// The configuration epoch; 0 if the user of the sentinel may not read it.
    epoch: u64,
}

/// The sentinels of one master.
pub(super) struct Sentinels {
    sentinels: Vec<Sentinel>,
    master_name: String,
    timeout: Duration,
    /// The master that connections lead to.
    current: watch::Sender<Option<MasterAddress>>,
    /// Notified when a sentinel announces a new master.
    switched: Arc<Notify>,
}

struct Sentinel {
    client: Client,
    connection: AsyncMutex<Option<MultiplexedConnection>>,
    /// Why it did not answer the last time.
    fault: Mutex<Option<String>>,
}

impl Sentinels {
    /// Reads the configuration. Nothing is connected.
    ///
    /// # Errors
    /// [`RedisConfigError`]: a URL or a file is invalid.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let clients = client::of_sentinels(&config.sentinel)?;
        let sentinel = |client| Sentinel { client, connection: AsyncMutex::default(), fault: Mutex::default() };
        Ok(Self {
            sentinels: clients.into_iter().map(sentinel).collect(),
            master_name: config.sentinel.master_name.clone(),
            timeout: config.timeout / TIMEOUT_PART,
            current: watch::Sender::default(),
            switched: Arc::default(),
        })
    }

    /// Returns the name of the master and the addresses of the sentinels, for the log.
    pub(super) fn address(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(Sentinel::address).collect();
        format!("{} of {}", self.master_name, addresses.join(", "))
    }

    /// Asks all sentinels; returns where the master may be. It is at one of these addresses, or cannot be used.
    ///
    /// # Errors
    /// No sentinel knows the master. The text is for the operator.
    pub(super) async fn locate(&self) -> Result<Vec<MasterAddress>, String> {
        let answers = join_all(self.sentinels.iter().map(|sentinel| self.ask(sentinel))).await;
        let mut reports = Vec::new();
        let mut problems = Vec::new();
        for (sentinel, answer) in self.sentinels.iter().zip(answers) {
            sentinel.note(answer.as_ref().err());
            match answer {
                Ok(report) => reports.push(report),
                Err(problem) => problems.push(format!("{}: {problem}", sentinel.address())),
            }
        }
        let candidates = newest(&reports);
        if candidates.is_empty() {
            return Err(format!("no sentinel names the master {:?}: {}", self.master_name, problems.join("; ")));
        }
        Ok(candidates)
    }

    /// Reports that a connection leads to this master. The connections to any other one end.
    pub(super) fn use_master(&self, address: &MasterAddress) -> FollowedMaster {
        self.change_current(address);
        FollowedMaster { address: address.clone(), current: self.current.subscribe() }
    }

    /// Follows the master, forever: after a failover, the connections to the old one end, even if it still is there.
    pub(super) async fn follow(&self, interval: Duration) {
        loop {
            // An error means that the interval has passed.
            _ = timeout(interval, self.switched.notified()).await;
            let is_connected = self.current.borrow().is_some();
            // The sentinels' own faults are in the log, and a master that works stays.
            if is_connected && let Ok(candidates) = self.locate().await {
                let has_moved = self.current.borrow().as_ref().is_none_or(|current| !candidates.contains(current));
                if let Some(address) = candidates.first().filter(|_| has_moved) {
                    self.change_current(address);
                }
            }
        }
    }

    fn change_current(&self, address: &MasterAddress) {
        self.current.send_if_modified(|current| {
            if current.as_ref() == Some(address) {
                return false;
            }
            if let Some(old) = current.replace(address.clone()) {
                log::warn!(
                    "redis master switched by its sentinels master={:?} old=\"{old}\" new=\"{address}\"",
                    self.master_name
                );
            }
            true
        });
    }

    async fn ask(&self, sentinel: &Sentinel) -> Result<MasterReport, String> {
        let asked = timeout(self.timeout, async {
            let mut kept = sentinel.connection.lock().await;
            // It is put back only after a reply. One that has been closed meanwhile is replaced at once.
            if let Some(mut connection) = kept.take()
                && let Ok(replies) = self.query(&mut connection).await
            {
                *kept = Some(connection);
                return parse_replies(replies);
            }
            let mut connection = self.connect(sentinel).await?;
            let replies = self.query(&mut connection).await?;
            *kept = Some(connection);
            parse_replies(replies)
        });
        asked.await.unwrap_or_else(|_| Err(fault::no_reply(self.timeout)))
    }

    async fn connect(&self, sentinel: &Sentinel) -> Result<MultiplexedConnection, String> {
        let (switched, own) = (self.switched.clone(), format!("{} ", self.master_name));
        let push = move |push: PushInfo| {
            if push.kind == PushKind::Message
                && matches!(push.data.last(), Some(Value::BulkString(text)) if text.starts_with(own.as_bytes()))
            {
                switched.notify_one();
            }
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(self.timeout))
            .set_push_sender(push);
        let connected = sentinel.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.map_err(|error| fault::describe(&error, self.timeout))?;
        // Without the right for it, a failover is found at the next interval, or when the old master has gone.
        if let Err(error) = connection.subscribe(SWITCH_CHANNEL).await {
            let error = fault::describe(&error, self.timeout);
            log::debug!("sentinel announces no failovers sentinel={:?} error={error:?}", sentinel.address());
        }
        Ok(connection)
    }

    /// Asks for the address and for the state of the master. In the middle of a failover only the first names the new one.
    async fn query(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Value>, String> {
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master_name);
        questions.cmd("SENTINEL").arg("MASTER").arg(&self.master_name);
        let replies = connection.send_packed_commands(&questions, 0, 2).await;
        replies.map_err(|error| fault::describe(&error, self.timeout))
    }
}

impl Sentinel {
    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Logs when the sentinel begins or ceases to answer.
    fn note(&self, problem: Option<&String>) {
        let before = std::mem::replace(&mut *self.fault.lock(), problem.cloned());
        let address = self.address();
        match (before, problem) {
            (None, Some(error)) => log::warn!("sentinel unavailable address={address:?} error={error:?}"),
            (Some(_), None) => log::info!("sentinel answers again address={address:?}"),
            _ => (),
        }
    }
}

/// The master that a connection leads to.
pub(super) struct FollowedMaster {
    address: MasterAddress,
    current: watch::Receiver<Option<MasterAddress>>,
}

impl FollowedMaster {
    /// Returns whether connections lead to another master by now.
    pub(super) fn has_moved(&self) -> bool {
        self.current.borrow().as_ref() != Some(&self.address)
    }

    /// Waits until they do.
    pub(super) async fn moved(&mut self) {
        let address = &self.address;
        if self.current.wait_for(|current| current.as_ref() != Some(address)).await.is_err() {
            // The broker ends.
            std::future::pending::<()>().await;
        }
    }
}

/// Returns the addresses of the newest configuration epoch, those that most sentinels name first.
fn newest(reports: &[MasterReport]) -> Vec<MasterAddress> {
    let epoch = reports.iter().map(|report| report.epoch).max();
    let mut votes: Vec<(MasterAddress, usize)> = Vec::new();
    for MasterReport { address, .. } in reports.iter().filter(|report| Some(report.epoch) == epoch) {
        match votes.iter_mut().find(|(known, _)| known == address) {
            Some((_, count)) => *count += 1,
            None => votes.push((address.clone(), 1)),
        }
    }
    votes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    votes.into_iter().map(|(address, _)| address).collect()
}

/// Reads the replies to the questions of [`Sentinels::query`].
fn parse_replies(replies: Vec<Value>) -> Result<MasterReport, String> {
    let Ok([address, state]) = <[Value; 2]>::try_from(replies) else {
        return Err("not two replies to two commands".to_owned());
    };
    let (host, port) = match address {
        Value::ServerError(error) => return Err(fault::describe_reply(&error)),
        Value::Nil => return Err("it monitors no master of this name".to_owned()),
        address => redis::from_redis_value::<(String, u16)>(address)
            .map_err(|error| format!("the reply is not an address: {error}"))?,
    };
    let state: Vec<(String, String)> = redis::from_redis_value(state).unwrap_or_default();
    let epoch = state.iter().find(|(name, _)| name == "config-epoch").and_then(|(_, epoch)| epoch.parse().ok());
    Ok(MasterReport { address: MasterAddress { host, port }, epoch: epoch.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, epoch: u64) -> MasterReport {
        MasterReport { address: MasterAddress { host: host.to_owned(), port: 6379 }, epoch }
    }

    fn newest_hosts(reports: &[MasterReport]) -> Vec<String> {
        newest(reports).into_iter().map(|address| address.host).collect()
    }

    #[test]
    fn master_of_the_highest_epoch_wins_over_the_one_that_more_sentinels_name() {
        assert_eq!(newest_hosts(&[report("old", 3), report("new", 4), report("old", 3)]), ["new"]);
        assert_eq!(newest_hosts(&[]), [""; 0]);
    }

    #[test]
    fn among_masters_of_one_epoch_the_one_that_most_sentinels_name_is_first() {
        assert_eq!(newest_hosts(&[report("one", 0), report("two", 0), report("two", 0)]), ["two", "one"]);
    }

    #[test]
    fn state_that_may_not_be_read_leaves_the_address() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let address = || Value::Array(vec![bulk("10.0.0.7"), bulk("6379")]);
        let state = Value::Array(vec![bulk("name"), bulk("mymaster"), bulk("config-epoch"), bulk("7")]);
        assert_eq!(parse_replies(vec![address(), state]), Ok(report("10.0.0.7", 7)));
        assert_eq!(parse_replies(vec![address(), Value::Nil]), Ok(report("10.0.0.7", 0)));
        assert!(parse_replies(vec![Value::Nil, Value::Nil]).unwrap_err().contains("no master of this name"));
    }
}
