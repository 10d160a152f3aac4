//! Makes all connections to Redis: for subscriptions, for publishing, and those of the pool. One place makes them, so that
//! none is made without its timeouts.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{sync::Notify, time::timeout};

use super::BrokerStartError;
use crate::config;

/// The kernel closes a connection that does not answer a keep-alive or accept its bytes for this long. The broker's own
/// deadlines are shorter; this one also ends connections that no call is waiting for.
const TCP_TIMEOUT: Duration = Duration::from_secs(15);

/// Connects to the configured Redis.
pub(super) struct Connector {
    client: Client,
    pool: Pool,
    timeout: Duration,
}

/// A connection, and the signal of its end.
pub(super) struct RedisConnection {
    pub(super) redis: MultiplexedConnection,
    /// Notified once, when the connection has closed.
    pub(super) closed: Arc<Notify>,
}

impl Connector {
    /// Reads the URL. Nothing is connected: the pool connects when it is first used.
    pub(super) fn new(config: &config::RedisConfig) -> Result<Self, BrokerStartError> {
        let client = Client::open(connection_info(config)?).map_err(url_error)?;
        let manager = Manager::new_with_config(connection_info(config)?, connection_config(config.timeout));
        let pool = Pool::builder(manager.map_err(url_error)?)
            .max_size(config.pool_size)
            .wait_timeout(Some(config.timeout))
            .create_timeout(Some(config.timeout))
            .recycle_timeout(Some(config.timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(url_error)?;
        Ok(Self { client, pool, timeout: config.timeout })
    }

    /// Returns the host and port, or the path of a socket: the parts of the URL that may be logged.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Opens a connection. What Redis pushes over it goes to `push`.
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
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        connected.map(|redis| RedisConnection { redis, closed }).map_err(|error| format!("connecting: {error}"))
    }

    /// Runs a command over a connection of the pool. The error is a text for the operator; without a reply there is one
    /// after `limit`.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, String> {
        let reply = timeout(limit, async {
            let mut connection = self.pool.get().await.map_err(|error| error.to_string())?;
            command.query_async(&mut connection).await.map_err(|error| error.to_string())
        });
        reply.await.unwrap_or_else(|_| Err(format!("no reply within {limit:?}")))
    }
}

fn url_error(error: impl ToString) -> BrokerStartError {
    BrokerStartError::Url(error.to_string())
}

fn connection_info(config: &config::RedisConfig) -> Result<ConnectionInfo, BrokerStartError> {
    let info = config.url.expose().into_connection_info().map_err(url_error)?;
    // RESP3 even if the URL says otherwise: in RESP2 a connection that has subscribed accepts no other commands.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(socket2::TcpKeepalive::new().with_time(TCP_TIMEOUT).with_interval(TCP_TIMEOUT / 3))
        .set_user_timeout(TCP_TIMEOUT);
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

fn connection_config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
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
