//! One Redis server, a master: everything that belongs to it alone. [`RedisServer`] has the way to connect, the publishing
//! connection with its queue, the subscription connection with the desired subscriptions, the pool, the probe and the health.
//! Its tasks ([`RedisServer::run`]) keep both connections up for as long as the server is used.
//!
//! What all servers share (names, nodes, surveys, receivers) is in the [`RedisContext`].

mod client;
mod connect;
mod desired_subscriptions;
mod fault;
mod health;
mod probe;
mod publisher;
mod ready;
mod role;
mod sentinel;
mod storage;
mod subscriber;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use redis::{Cmd, FromRedisValue, Value};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::{Instant, timeout_at},
};

use self::{
    connect::Connector,
    desired_subscriptions::DesiredSubscriptions,
    health::RedisHealth,
    probe::SubscriptionProbe,
    publisher::{PublishJob, Publisher, PublisherTask},
};
use super::{RedisConfigError, RedisContext, inbox::BusInbox, stopped_error};
use crate::{broker::BrokerError, channel::Channel, config, metrics::Metrics};

/// One Redis server.
pub(super) struct RedisServer {
    connector: Connector,
    timeout: Duration,
    health: RedisHealth,
    subscriptions: DesiredSubscriptions,
    publisher: Publisher,
    probe: SubscriptionProbe,
    /// Held by the check of the readiness that runs.
    ready_turn: AsyncMutex<()>,
    /// Messages received so far, valid or not: a connection that receives is not deaf.
    received: AtomicU64,
}

/// What has been queued for a server. [`RedisServer::run`] sends it.
pub(super) struct ServerQueue(mpsc::Receiver<PublishJob>);

impl RedisServer {
    /// Checks that [`Self::new`] would accept the URL and the files. Nothing is connected.
    ///
    /// # Errors
    /// [`RedisConfigError`].
    pub(super) fn check_config(config: &config::RedisConfig) -> Result<(), RedisConfigError> {
        Connector::new(config).map(drop)
    }

    /// Creates a server that is not connected yet. At most `queue_bytes` wait to be published.
    ///
    /// # Errors
    /// [`RedisConfigError`]: the URL or a file is invalid.
    pub(super) fn new(
        config: &config::RedisConfig,
        queue_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, ServerQueue), RedisConfigError> {
        let connector = Connector::new(config)?;
        let (publisher, jobs) = Publisher::new(queue_bytes, config.message_bytes, config.timeout);
        let server = Self {
            health: RedisHealth::new(connector.address(), metrics),
            connector,
            timeout: config.timeout,
            subscriptions: DesiredSubscriptions::default(),
            publisher,
            probe: SubscriptionProbe::new(),
            ready_turn: AsyncMutex::default(),
            received: AtomicU64::default(),
        };
        Ok((Arc::new(server), ServerQueue(jobs)))
    }

    /// Keeps both connections up, forever: connects, subscribes, publishes, and does it again after a failure or when the
    /// sentinels name another master. Checks the storage. What the server pushes goes to `inbox`.
    pub(super) async fn run(self: Arc<Self>, context: Arc<RedisContext>, queue: ServerQueue, inbox: Arc<BusInbox>) {
        let publisher = PublisherTask::new(context.clone(), self.clone(), queue.0);
        let interval = context.probe_interval;
        tokio::join!(
            subscriber::supervise(context.clone(), self.clone(), inbox),
            publisher.run(),
            storage::keep_checking(&context, &self),
            self.connector.follow_master(interval)
        );
    }

    /// Queues a message during the call. The future completes when Redis has accepted it, with the number of receivers.
    pub(super) fn publish(
        &self,
        name: &str,
        message: &[u8],
    ) -> impl Future<Output = Result<i64, BrokerError>> + Send + use<> {
        self.publisher.publish(name, message)
    }

    /// Runs a command over a connection of the pool. The error is a text for the operator; without a reply there is one
    /// after `limit`.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd, limit: Duration) -> Result<T, String> {
        self.connector.query(command, limit).await
    }

    /// Runs commands over a connection of the pool, in one round trip. Their replies may be errors.
    pub(super) async fn query_many(&self, commands: Vec<Cmd>, limit: Duration) -> Result<Vec<Value>, String> {
        self.connector.query_many(commands, limit).await
    }

    /// Queues the call of a script that publishes a message of `message_bytes`, during the call and in order with
    /// [`Self::publish`]. The future completes with its reply.
    pub(super) fn run_script(
        &self,
        call: Cmd,
        message_bytes: usize,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        self.publisher.run_script(call, message_bytes)
    }

    /// Subscribes to a channel; the request takes effect during the call. The future completes when Redis has confirmed it.
    pub(super) fn subscribe(
        self: Arc<Self>,
        channel: Channel,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
        let requested = self.subscriptions.subscribe(channel.clone());
        let limit = self.timeout;
        let deadline = Instant::now() + limit;
        async move {
            match timeout_at(deadline, requested?).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(stopped_error())),
                Err(_) => {
                    self.subscriptions.give_up(&channel);
                    Err(BrokerError::Unavailable(format!("redis confirmed no subscription within {limit:?}")))
                }
            }
        }
    }

    /// Unsubscribes from a channel.
    pub(super) fn unsubscribe(&self, channel: &Channel) {
        self.subscriptions.unsubscribe(channel);
    }

    /// Returns why the server cannot be used, as far as is known without asking it.
    pub(super) fn fault(&self) -> Option<BrokerError> {
        self.health.fault()
    }

    /// Asks the server whether it works at this moment.
    ///
    /// # Errors
    /// [`BrokerError::NotReady`].
    pub(super) async fn check_ready(&self, context: &RedisContext) -> Result<(), BrokerError> {
        ready::check(context, self).await
    }

    /// Reports a probe that has arrived over the subscriptions of this server.
    ///
    /// # Errors
    /// The probe is not on its way.
    pub(super) fn receive_probe(&self, nonce: u64) -> Result<(), super::envelope::DropReason> {
        self.probe.receive(nonce)
    }

    /// Counts a message that has arrived from this server.
    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
