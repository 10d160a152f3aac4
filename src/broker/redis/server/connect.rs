//! Makes all connections to Redis: for subscriptions, for publishing, and those of the pool. One place makes them, so that
//! none is made without its timeouts and its check of the server's role. If sentinels are configured, they name the server.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, PushInfo, PushKind, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{sync::Notify, time::timeout};

use super::{
    super::{RedisConfigError, scripts},
    client,
    fault::{accepted, describe, no_reply},
    role::RoleCheck,
    sentinel::{FollowedMaster, Sentinels},
};
use crate::config;

/// Connects to the configured Redis.
pub(super) struct Connector {
    /// The client of the configured URL. Sentinels replace its host and port.
    client: Client,
    sentinels: Option<Sentinels>,
    /// With sentinels: of the master that was connected last.
    pool: ArcSwapOption<MasterPool>,
    pool_size: usize,
    role: RoleCheck,
    timeout: Duration,
}

/// The pool of connections to one server.
struct MasterPool {
    address: String,
    pool: Pool,
}

/// A connection, and the signal of its end.
pub(super) struct RedisConnection {
    pub(super) redis: MultiplexedConnection,
    end: ConnectionEnd,
}

/// Tells why a connection ends, although no command has failed.
pub(super) struct ConnectionEnd {
    /// Notified once, when the connection has closed.
    closed: Arc<Notify>,
    master: Option<FollowedMaster>,
}

impl ConnectionEnd {
    const MOVED: &str = "the sentinels name another master";

    /// Waits for the end of the connection; returns the reason.
    pub(super) async fn reached(&mut self) -> &'static str {
        let moved = async {
            match &mut self.master {
                Some(master) => master.moved().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.closed.notified() => "the connection was closed",
            () = moved => Self::MOVED,
        }
    }

    /// Returns the reason why the connection must not be used any more, for a caller that never waits.
    pub(super) fn is_due(&self) -> Option<&'static str> {
        self.master.as_ref().is_some_and(FollowedMaster::has_moved).then_some(Self::MOVED)
    }
}

impl RedisConnection {
    /// Returns the connection and what tells its end.
    pub(super) fn into_parts(self) -> (MultiplexedConnection, ConnectionEnd) {
        (self.redis, self.end)
    }
}

impl Connector {
    /// Reads the addresses and the certificates. Nothing is connected: the pool connects when it is first used.
    pub(super) fn new(config: &config::RedisConfig) -> Result<Self, RedisConfigError> {
        let client = client::new(config)?;
        let sentinels = if config.sentinel.urls.is_empty() { None } else { Some(Sentinels::new(config)?) };
        let connector = Self {
            client,
            sentinels,
            pool: ArcSwapOption::empty(),
            pool_size: config.pool_size,
            role: RoleCheck::default(),
            timeout: config.timeout,
        };
        if connector.sentinels.is_none() {
            connector.lead_pool_to(&connector.client).map_err(|error| client::url_fault(config, error))?;
        }
        Ok(connector)
    }

    /// Returns the way to connect to another server, at `address`, with the same login and certificates. Nothing is connected.
    pub(super) fn at(&self, address: &str) -> Result<Self, String> {
        let (host, port) = address.rsplit_once(':').ok_or("no port")?;
        let port = port.parse().map_err(|_| "invalid port")?;
        let client =
            client::at(&self.client, host.trim_matches(['[', ']']), port).map_err(|error| error.to_string())?;
        let (pool_size, timeout, role) = (self.pool_size, self.timeout, RoleCheck::default());
        let connector = Self { client, sentinels: None, pool: ArcSwapOption::empty(), pool_size, role, timeout };
        connector.lead_pool_to(&connector.client).map_err(|error| error.to_string())?;
        Ok(connector)
    }

    /// Returns the host and port, or the path of a socket, or the sentinels: the parts of the URLs that may be logged.
    pub(super) fn address(&self) -> String {
        self.sentinels.as_ref().map_or_else(|| address_of(&self.client), Sentinels::address)
    }

    /// Keeps the connections at the master that the sentinels name, forever.
    pub(super) async fn follow_master(&self, interval: Duration) {
        if let Some(sentinels) = &self.sentinels {
            sentinels.follow(interval).await;
        }
    }

    /// Opens a connection to a master. What Redis pushes over it goes to `push`.
    ///
    /// # Errors
    /// A text for the operator. The sentinels, name resolution, TCP, TLS, the handshake and the role have one deadline
    /// together.
    pub(super) async fn connect(
        &self,
        push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<RedisConnection, String> {
        let push: Arc<dyn Fn(PushInfo) + Send + Sync> = Arc::new(push);
        let connected = timeout(self.timeout, async {
            match &self.sentinels {
                None => self.connect_to(&self.client, push).await,
                Some(sentinels) => self.connect_by(sentinels, push).await,
            }
        });
        let connected = connected.await.unwrap_or_else(|_| Err(no_reply(self.timeout)));
        connected.map_err(|error: String| format!("connecting: {error}"))
    }

    async fn connect_by(
        &self,
        sentinels: &Sentinels,
        push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    ) -> Result<RedisConnection, String> {
        let mut problems = Vec::new();
        for address in sentinels.locate().await? {
            let client = client::at(&self.client, &address.host, address.port).map_err(|error| error.to_string())?;
            match self.connect_to(&client, push.clone()).await {
                Ok(mut connection) => {
                    self.lead_pool_to(&client).map_err(|error| error.to_string())?;
                    connection.end.master = Some(sentinels.use_master(&address));
                    return Ok(connection);
                }
                Err(error) => problems.push(format!("{address}, which the sentinels name: {error}")),
            }
        }
        Err(problems.join("; "))
    }

    async fn connect_to(
        &self,
        client: &Client,
        push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    ) -> Result<RedisConnection, String> {
        let closed = Arc::new(Notify::new());
        let notify_closed = closed.clone();
        let config = connection_config(self.timeout).set_push_sender(move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                notify_closed.notify_one()
            } else {
                push(info)
            }
            Ok::<(), ()>(())
        });
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut redis = connected.map_err(|error| describe(&error, self.timeout))?;
        self.role.ask(&mut redis).await?;
        Ok(RedisConnection { redis, end: ConnectionEnd { closed, master: None } })
    }

    /// Gives calls of the pool connections to this server, unless they lead there already.
    fn lead_pool_to(&self, client: &Client) -> RedisResult<()> {
        let address = address_of(client);
        if self.pool.load().as_ref().is_some_and(|current| current.address == address) {
            return Ok(());
        }
        let manager = Manager::new_with_config(client.get_connection_info().clone(), connection_config(self.timeout))?;
        let pool = Pool::builder(manager)
            .max_size(self.pool_size)
            .wait_timeout(Some(self.timeout))
            .create_timeout(Some(self.timeout))
            .recycle_timeout(Some(self.timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("the pool has a runtime");
        self.pool.store(Some(Arc::new(MasterPool { address, pool })));
        Ok(())
    }

    /// Asks whether the server still is a master, and so also whether it answers at all.
    pub(super) async fn check_role(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        self.send_to_master(redis, &mut Pipeline::new(), 0).await.map(drop)
    }

    /// Sends commands, and returns their replies. Replies of a server that is not a master after them do not count, so
    /// that is an error. Scripts that the server does not have are loaded, and run behind the other commands.
    pub(super) async fn send_to_master(
        &self,
        redis: &mut MultiplexedConnection,
        commands: &mut Pipeline,
        count: usize,
    ) -> Result<Vec<Value>, String> {
        commands.add_command(self.role.question());
        // The connection has a response timeout.
        let sent = redis.send_packed_commands(commands, 0, count + 1).await;
        let mut replies = sent.map_err(|error| describe(&error, self.timeout))?;
        if replies.len() != count + 1 {
            return Err(format!("{} replies to {} commands", replies.len(), count + 1));
        }
        self.role.judge(replies.pop().unwrap_or_default())?;
        let missing: Vec<usize> = (0..count).filter(|index| scripts::is_missing(&replies[*index])).collect();
        if !missing.is_empty() {
            let calls = missing.iter().filter_map(|index| commands.cmd_iter().nth(*index).cloned());
            let answers = self.run_missing(redis, calls.collect()).await?;
            missing.into_iter().zip(answers).for_each(|(index, answer)| replies[index] = answer);
        }
        Ok(replies)
    }

    /// Loads the scripts, and runs those again that were missing: nothing of them has run.
    async fn run_missing(&self, redis: &mut MultiplexedConnection, calls: Vec<Cmd>) -> Result<Vec<Value>, String> {
        let mut commands = Pipeline::new();
        scripts::load_commands().chain(calls).for_each(|command| _ = commands.add_command(command));
        let (loads, count) = (scripts::load_commands().len(), commands.len());
        let mut replies =
            redis.send_packed_commands(&commands, 0, count).await.map_err(|error| describe(&error, self.timeout))?;
        let answers = replies.split_off(loads.min(replies.len()));
        let refusal = replies.into_iter().find(|reply| matches!(reply, Value::ServerError(_)));
        Ok(answers
            .into_iter()
            .map(|answer| match &refusal {
                Some(refusal) if scripts::is_missing(&answer) => refusal.clone(),
                _ => answer,
            })
            .collect())
    }

    /// Runs a command over a connection of the pool. The error is a text for the operator; without a reply there is one
    /// after `limit`.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, String> {
        let reply = accepted(self.query_many(vec![command.clone()], limit).await?.pop().unwrap_or_default())?;
        redis::from_redis_value(reply).map_err(|error| error.to_string())
    }

    /// Runs commands over a connection of the pool, in one round trip. Their replies may be errors. The error is a text for
    /// the operator; without replies there is one after `limit`.
    pub(super) async fn query_many(&self, commands: Vec<Cmd>, limit: Duration) -> Result<Vec<Value>, String> {
        let replies = timeout(limit, async {
            let Some(master) = self.pool.load_full() else { return Err("not connected yet".to_owned()) };
            let mut connection = master.pool.get().await.map_err(|error| self.pool_error(&error))?;
            let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
            let count = commands.len();
            commands.into_iter().for_each(|command| _ = pipeline.add_command(command));
            let replies = self.send_to_master(&mut connection, &mut pipeline, count).await;
            if replies.is_err() {
                // The pool would hand it out again, and a new connection may lead to another server.
                drop(Connection::take(connection));
            }
            replies
        });
        replies.await.unwrap_or_else(|_| Err(no_reply(limit)))
    }

    fn pool_error(&self, error: &PoolError) -> String {
        match error {
            PoolError::Backend(error) => describe(error, self.timeout),
            other => other.to_string(),
        }
    }
}

fn address_of(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// The callers limit the time to connect: [`Connector::connect`] and the pool.
fn connection_config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(timeout))
}

/// Delays between attempts to connect. They double from 50 to 500 ms, and up to half of each is taken off at random, so that
/// the instances do not all connect at the same moment when Redis returns, and none of them is late.
#[derive(Default)]
pub(super) struct ReconnectBackoff {
    failures: u32,
}

impl ReconnectBackoff {
    const MIN_DELAY: Duration = Duration::from_millis(50);
    const MAX_DELAY: Duration = Duration::from_millis(500);
    /// A connection that lived this long starts the delays again from the shortest.
    const STABLE_AFTER: Duration = Duration::from_secs(5);

    /// Returns the delay after a failed attempt, whose `uptime` is zero, or after a connection that lived for `uptime`.
    pub(super) fn next_delay(&mut self, uptime: Duration) -> Duration {
        if uptime >= Self::STABLE_AFTER {
            self.failures = 0;
        }
        let delay = Self::MIN_DELAY.saturating_mul(1 << self.failures.min(8)).min(Self::MAX_DELAY);
        self.failures = self.failures.saturating_add(1);
        let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        delay.mul_f64(0.5 + 0.5 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delays_grow_to_half_a_second() {
        let mut backoff = ReconnectBackoff::default();
        for max in [50, 100, 200, 400, 500, 500, 500] {
            let delay = backoff.next_delay(Duration::ZERO);
            assert!(
                delay <= Duration::from_millis(max) && delay >= Duration::from_millis(max / 2),
                "{delay:?} of {max} ms"
            );
        }
        assert!(backoff.next_delay(Duration::from_secs(60)) <= Duration::from_millis(50));
    }
}
