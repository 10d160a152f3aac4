//! Makes all connections to Redis: for subscriptions, for publishing, and those of the pool. One place makes them, so that
//! none is made without its timeouts and its check of the server's role.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Connection, Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError, Value,
    aio::MultiplexedConnection,
};
use tokio::{sync::Notify, time::timeout};

use super::{
    super::{RedisConfigError, scripts},
    client,
    role::RoleCheck,
};
use crate::config;

/// Connects to the configured Redis.
pub(super) struct Connector {
    client: Client,
    pool: Pool,
    role: RoleCheck,
    timeout: Duration,
}

/// A connection, and the signal of its end.
pub(super) struct RedisConnection {
    pub(super) redis: MultiplexedConnection,
    /// Notified once, when the connection has closed.
    pub(super) closed: Arc<Notify>,
}

impl Connector {
    /// Reads the address and the certificates. Nothing is connected: the pool connects when it is first used. To find out
    /// the server's role, `role_key` may be written.
    pub(super) fn new(config: &config::RedisConfig, role_key: &str) -> Result<Self, RedisConfigError> {
        let client = client::new(config)?;
        let manager = Manager::new_with_config(client.get_connection_info().clone(), connection_config(config.timeout));
        let pool = Pool::builder(manager.map_err(client::url_error)?)
            .max_size(config.pool_size)
            .wait_timeout(Some(config.timeout))
            .create_timeout(Some(config.timeout))
            .recycle_timeout(Some(config.timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(client::url_error)?;
        Ok(Self { client, pool, role: RoleCheck::new(role_key), timeout: config.timeout })
    }

    /// Returns the host and port, or the path of a socket: the parts of the URL that may be logged.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Opens a connection to a master. What Redis pushes over it goes to `push`.
    ///
    /// # Errors
    /// A text for the operator. Name resolution, TCP, TLS, the handshake and the role have one deadline together.
    pub(super) async fn connect(
        &self,
        push: impl Fn(PushInfo) + Send + Sync + 'static,
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
        let connected = timeout(self.timeout, async {
            let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
            let mut redis = connected.map_err(|error| self.error_text(&error))?;
            self.role.ask(&mut redis).await?;
            Ok(RedisConnection { redis, closed })
        });
        let connected = connected.await.unwrap_or_else(|_| Err(no_reply(self.timeout)));
        connected.map_err(|error: String| format!("connecting: {error}"))
    }

    /// Asks whether the server still is a master, and so also whether it answers at all.
    pub(super) async fn check_role(&self, redis: &mut MultiplexedConnection) -> Result<(), String> {
        self.send_to_master(redis, Pipeline::new(), 0).await.map(drop)
    }

    /// Sends commands, and returns their replies. Those are worth nothing from a server that is not a master after them, so
    /// that is an error. Scripts that the server does not have are loaded, and run behind the other commands.
    pub(super) async fn send_to_master(
        &self,
        redis: &mut MultiplexedConnection,
        mut commands: Pipeline,
        count: usize,
    ) -> Result<Vec<Value>, String> {
        commands.add_command(self.role.question());
        // The connection has a response timeout.
        let sent = redis.send_packed_commands(&commands, 0, count + 1).await;
        let mut replies = sent.map_err(|error| self.error_text(&error))?;
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
            redis.send_packed_commands(&commands, 0, count).await.map_err(|error| self.error_text(&error))?;
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
        let reply = self.query_many(vec![command.clone()], limit).await?.pop().unwrap_or_default();
        let reply = reply.extract_error().map_err(|error| error.to_string())?;
        redis::from_redis_value(reply).map_err(|error| error.to_string())
    }

    /// Runs commands over a connection of the pool, in one round trip. Their replies may be errors. The error is a text for
    /// the operator; without replies there is one after `limit`.
    pub(super) async fn query_many(&self, commands: Vec<Cmd>, limit: Duration) -> Result<Vec<Value>, String> {
        let replies = timeout(limit, async {
            let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
            let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
            let count = commands.len();
            commands.into_iter().for_each(|command| _ = pipeline.add_command(command));
            let replies = self.send_to_master(&mut connection, pipeline, count).await;
            if replies.is_err() {
                // The pool would hand it out again, and a new connection may lead to another server.
                drop(Connection::take(connection));
            }
            replies
        });
        replies.await.unwrap_or_else(|_| Err(no_reply(limit)))
    }

    fn error_text(&self, error: &RedisError) -> String {
        if error.is_timeout() { no_reply(self.timeout) } else { error.to_string() }
    }
}

fn no_reply(limit: Duration) -> String {
    format!("no reply within {limit:?}")
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
