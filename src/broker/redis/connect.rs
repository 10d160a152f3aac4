//! How connections to Redis are made: one way for subscriptions, publishes and the pool, so that none of them is made
//! without its timeouts.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{sync::Notify, time::timeout};

use super::BrokerStartError;
use crate::config;

/// A connection that does not answer a keep-alive or take its bytes for this long is closed by the kernel: our own deadlines
/// are shorter, this one also ends what nobody waits for.
const TCP_TIMEOUT: Duration = Duration::from_secs(15);

/// Where Redis is and how to talk to it.
#[derive(Clone)]
pub(super) struct Connector {
    client: Client,
    timeout: Duration,
}

/// A connection whose end is told.
pub(super) struct RedisConnection {
    pub(super) redis: MultiplexedConnection,
    /// Told once, when the connection has ended.
    pub(super) closed: Arc<Notify>,
}

impl Connector {
    /// Reads the URL; nothing is connected.
    pub(super) fn new(config: &config::RedisConfig) -> Result<Self, BrokerStartError> {
        let client =
            Client::open(connection_info(config)?).map_err(|error| BrokerStartError::Url(error.to_string()))?;
        Ok(Self { client, timeout: config.timeout })
    }

    /// Host and port, or path: what may be logged of the URL.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// A connection that gives what Redis pushes to `push`.
    pub(super) async fn connect(
        &self,
        push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<RedisConnection, String> {
        let closed = Arc::new(Notify::new());
        let tell = closed.clone();
        let config = async_config(self.timeout).set_push_sender(move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                tell.notify_one()
            } else {
                push(info)
            }
            Ok::<(), ()>(())
        });
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        connected.map(|redis| RedisConnection { redis, closed }).map_err(|error| format!("connecting: {error}"))
    }
}

/// The pool for request and response work; it connects when it is first used.
pub(super) fn build_pool(config: &config::RedisConfig) -> Result<Pool, BrokerStartError> {
    let manager = Manager::new_with_config(connection_info(config)?, async_config(config.timeout))
        .map_err(|error| BrokerStartError::Url(error.to_string()))?;
    Pool::builder(manager)
        .max_size(config.pool_size)
        .wait_timeout(Some(config.timeout))
        .create_timeout(Some(config.timeout))
        .recycle_timeout(Some(config.timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| BrokerStartError::Url(error.to_string()))
}

/// Whether the pool gets an answer within `limit`; the reason in the operator's words if not.
pub(super) async fn check_pool(pool: &Pool, limit: Duration) -> Result<(), String> {
    let pinged = timeout(limit, async {
        let mut connection = pool.get().await.map_err(|error| error.to_string())?;
        redis::cmd("PING").exec_async(&mut connection).await.map_err(|error| error.to_string())
    });
    let pinged = pinged.await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
    pinged.map_err(|cause| format!("redis answers no commands: {cause}"))
}

fn connection_info(config: &config::RedisConfig) -> Result<ConnectionInfo, BrokerStartError> {
    let info = config.url.expose().into_connection_info().map_err(|error| BrokerStartError::Url(error.to_string()))?;
    // RESP3 whatever the URL says: in RESP2 a connection that has subscribed takes no other commands.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(socket2::TcpKeepalive::new().with_time(TCP_TIMEOUT).with_interval(TCP_TIMEOUT / 3))
        .set_user_timeout(TCP_TIMEOUT);
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

fn async_config(timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout))
}

/// Delays between attempts: doubling from 50 ms to 500 ms, jitter included, so that the instances of a Redis that comes
/// back do not knock all at once, and none of them is late.
#[derive(Default)]
pub(super) struct ReconnectBackoff {
    failures: u32,
}

impl ReconnectBackoff {
    const MIN_DELAY: Duration = Duration::from_millis(50);
    const MAX_DELAY: Duration = Duration::from_millis(500);
    /// A connection that uptime this long was no failure.
    const STABLE_AFTER: Duration = Duration::from_secs(5);

    /// The delay after a failure, or after a connection that lived for `uptime`.
    pub(super) fn next_delay(&mut self, uptime: Duration) -> Duration {
        if uptime >= Self::STABLE_AFTER {
            self.failures = 0;
        }
        let whole = Self::MIN_DELAY.saturating_mul(1 << self.failures.min(8)).min(Self::MAX_DELAY);
        self.failures = self.failures.saturating_add(1);
        let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + 0.5 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delays_grow_to_half_a_second() {
        let mut backoff = ReconnectBackoff::default();
        for most in [50, 100, 200, 400, 500, 500, 500] {
            let delay = backoff.next_delay(Duration::ZERO);
            assert!(
                delay <= Duration::from_millis(most) && delay >= Duration::from_millis(most / 2),
                "{delay:?} of {most}"
            );
        }
        assert!(backoff.next_delay(Duration::from_secs(60)) <= Duration::from_millis(50));
    }
}
