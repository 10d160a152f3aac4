//! One Redis server, a master: everything that belongs to it alone. [`RedisServer`] has the way to connect, the publishing
//! connection with its queue, the subscription connection with the desired subscriptions, the pool, the probe and the health.
//! Its tasks ([`RedisServer::run`]) keep both connections up for as long as the server is used.
//!
//! What all servers share (names, nodes, surveys, receivers) is in the [`RedisContext`].

mod availability;
mod batch;
mod client;
mod connect;
mod desired_subscriptions;
mod fault;
mod health;
mod job;
mod probe;
mod publisher;
mod ready;
mod redirect;
mod resend;
mod role;
mod sentinel;
mod slot_queues;
mod storage;
mod subscribe_commands;
mod subscriber;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt};
use redis::{Cmd, FromRedisValue, Value};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

pub(super) use self::{
    availability::ServerAvailability,
    desired_subscriptions::DesiredSubscriptions,
    fault::{accepted, describe, no_reply},
    redirect::Redirects,
    resend::resend,
};
use self::{
    connect::Connector,
    health::{RedisHealth, RedisLink},
    job::PublishJob,
    probe::SubscriptionProbe,
    publisher::{Publisher, PublisherTask},
    ready::ReadyCheck,
    redirect::Redirect,
};
use super::{
    RedisConfigError, RedisContext,
    envelope::DropReason,
    history::{PositionReads, StoredPublication},
    inbox::BusInbox,
    names::{OwnNames, RedisNames},
};
use crate::{broker::BrokerError, config, metrics::QueueDepth};

/// One Redis server.
pub(super) struct RedisServer {
    /// Host and port: never the URL, which may contain a password.
    address: String,
    connector: Arc<Connector>,
    timeout: Duration,
    health: RedisHealth,
    subscriptions: DesiredSubscriptions,
    position_reads: PositionReads,
    publisher: Publisher,
    probe: SubscriptionProbe,
    /// The names that this instance uses on the server. A Cluster changes them.
    own_names: ArcSwap<OwnNames>,
    own_names_changed: Notify,
    /// Whether channels have been refused, so that not everything arrives that should.
    is_refused: AtomicBool,
    /// Whether the subscription connection is open.
    is_connected: AtomicBool,
    /// Whether a connection is subscribed to everything that is desired.
    is_subscribed: AtomicBool,
    ready_check: ReadyCheck,
    /// Messages received so far, valid or not: a connection that receives is not deaf.
    received: AtomicU64,
    /// Takes the commands that the server refuses, if it is one of a Cluster.
    redirects: Option<Arc<Redirects>>,
}

/// Returns the client for the `url` of the configuration, with the user and the certificates of the configuration. Nothing is connected.
///
/// # Errors
/// [`RedisConfigError`]: the URL or a file is invalid.
pub(super) fn client_of(config: &config::RedisConfig) -> Result<redis::Client, RedisConfigError> {
    client::new(config)
}

/// What a server has answered to a command.
pub(super) enum Reply {
    /// It may be an error.
    Received(Value),
    /// The server has refused the command, which was sent to another one of the Cluster: its reply, or a text for the operator.
    Redirected(BoxFuture<'static, Result<Value, String>>),
}

impl Reply {
    /// Waits for the reply, if it has not been received yet.
    pub(super) async fn wait(self) -> Result<Value, String> {
        match self {
            Self::Received(reply) => Ok(reply),
            Self::Redirected(reply) => reply.await,
        }
    }
}

/// What has been queued for a server. [`RedisServer::run`] sends it.
pub(super) struct ServerQueue(mpsc::Receiver<PublishJob>);

impl RedisServer {
    /// Checks that [`Self::new`] would accept the URL and the files, and returns the address. Nothing is connected.
    ///
    /// # Errors
    /// [`RedisConfigError`].
    pub(super) fn check_config(config: &config::RedisConfig) -> Result<String, RedisConfigError> {
        Ok(Connector::new(config)?.address())
    }

    /// Creates a server that is not connected yet. At most `queue_bytes` wait to be published. Its health counts for `availability`.
    ///
    /// # Errors
    /// [`RedisConfigError`]: the URL or a file is invalid.
    pub(super) fn new(
        config: &config::RedisConfig,
        names: &RedisNames,
        queue_bytes: usize,
        availability: &Arc<ServerAvailability>,
        redirects: Option<Arc<Redirects>>,
    ) -> Result<(Arc<Self>, ServerQueue), RedisConfigError> {
        let connector = Connector::new(config)?;
        let address = connector.address();
        let (command, limit) = (names.publish_command(), config.message_bytes);
        let (publisher, jobs) = Publisher::new(command, queue_bytes, limit, config.timeout, redirects.clone());
        let server = Self {
            health: RedisHealth::new(address.clone(), availability.clone()),
            address,
            connector: Arc::new(connector),
            timeout: config.timeout,
            subscriptions: DesiredSubscriptions::default(),
            position_reads: PositionReads::default(),
            publisher,
            probe: SubscriptionProbe::new(),
            own_names: ArcSwap::default(),
            own_names_changed: Notify::new(),
            is_refused: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            is_subscribed: AtomicBool::new(false),
            ready_check: ReadyCheck::default(),
            received: AtomicU64::default(),
            redirects,
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
        let reply = self.query_with_origin(command, limit).await?.0;
        redis::from_redis_value(reply).map_err(|error| error.to_string())
    }

    /// Runs a command like [`Self::query`]. Returns also whether another server of the Cluster has run it instead of this one.
    pub(super) async fn query_with_origin(&self, command: &Cmd, limit: Duration) -> Result<(Value, bool), String> {
        let reply = self.query_many(vec![command.clone()], limit).await?.pop();
        let reply = reply.unwrap_or(Reply::Received(Value::Nil));
        let is_redirected = matches!(reply, Reply::Redirected(_));
        Ok((fault::accepted(reply.wait().await?)?, is_redirected))
    }

    /// Runs commands over a connection of the pool, in one round trip. Those that the server has refused because another one has
    /// their slot are on their way there: the callers of the others need not wait for them.
    pub(super) async fn query_many(&self, commands: Vec<Cmd>, limit: Duration) -> Result<Vec<Reply>, String> {
        let Some(redirects) = &self.redirects else {
            return Ok(self.connector.query_many(commands, limit).await?.into_iter().map(Reply::Received).collect());
        };
        let deadline = Instant::now() + limit;
        let replies = self.connector.query_many(commands.clone(), limit).await?;
        let replies = replies.into_iter().zip(commands).map(|(reply, command)| {
            let Some(redirect) = Redirect::of_reply(&reply) else { return Reply::Received(reply) };
            let (job, answer) = PublishJob::again(command);
            redirects.send_again(job, redirect, &self.address);
            let answer = async move {
                let answer = timeout_at(deadline, answer).await.map_err(|_| fault::no_reply(limit))?;
                answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            };
            Reply::Redirected(answer.boxed())
        });
        Ok(replies.collect())
    }

    /// Returns why the server answers nothing, as far as is known without asking it: it has no connection of this instance.
    pub(super) fn outage(&self) -> Option<String> {
        // A server may answer although it refuses publications.
        self.health.fault_of(RedisLink::Publishing).filter(|_| !self.is_connected.load(Ordering::Relaxed))
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

    /// Waits until everything is answered, or sent elsewhere, that was queued to be published before the call.
    pub(super) fn publishing_done(&self) -> impl Future<Output = ()> + Send + use<> {
        // Commands are answered in their order.
        let last = self.publisher.run_script(redis::cmd("PING"), 0);
        async move { _ = last.await }
    }

    /// Returns how full the queue of commands for the publishing connection is.
    pub(super) fn publishing_depth(&self) -> QueueDepth {
        self.publisher.depth()
    }

    /// Returns whether half of the room for what waits to be published is taken.
    pub(super) fn is_publishing_queue_half_full(&self) -> bool {
        self.publisher.is_half_full()
    }

    /// Queues a publication for a history, as [`Self::run_script`] does with a call. The future completes with the reply of the
    /// script for it.
    pub(super) fn store(
        &self,
        publication: StoredPublication,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send + use<> {
        self.publisher.store(publication)
    }

    /// Returns the host and port, or the path of a socket.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the subscriptions that this instance should have here.
    pub(super) fn subscriptions(&self) -> &DesiredSubscriptions {
        &self.subscriptions
    }

    /// Returns the calls for positions that wait for the server.
    pub(super) fn position_reads(&self) -> &PositionReads {
        &self.position_reads
    }

    /// Sets the names that this instance uses here for itself.
    pub(super) fn set_own_names(&self, names: OwnNames) {
        if **self.own_names.load() != names {
            self.own_names.store(Arc::new(names));
            self.own_names_changed.notify_one();
        }
    }

    /// Notes whether a connection is subscribed to everything that is desired.
    pub(super) fn set_subscribed(&self, is_subscribed: bool) {
        self.is_subscribed.store(is_subscribed, Ordering::Relaxed);
    }

    /// Returns whether this instance is subscribed here, and so hears `name`, one of its own PUB/SUB channels.
    pub(super) fn is_hearing(&self, name: &str) -> bool {
        self.is_subscribed.load(Ordering::Relaxed) && self.has_own_name(name)
    }

    /// Returns whether this instance uses `name`, one of its own PUB/SUB channels, here.
    pub(super) fn has_own_name(&self, name: &str) -> bool {
        self.own_names.load().subscribed.iter().any(|own| own == name)
    }

    /// Returns why the server cannot be used, as far as is known without asking it.
    pub(super) fn fault(&self) -> Option<BrokerError> {
        self.health.fault()
    }

    /// Asks the server whether it works at this moment.
    ///
    /// # Errors
    /// [`BrokerError::NotReady`].
    pub(super) async fn check_ready(&self) -> Result<(), BrokerError> {
        ready::check(self).await
    }

    /// Reports a probe that has arrived over the subscriptions of this server. Returns when it was sent.
    ///
    /// # Errors
    /// The probe is not on its way.
    pub(super) fn receive_probe(&self, nonce: u64) -> Result<Instant, DropReason> {
        self.probe.receive(nonce)
    }

    /// Counts a message that has arrived from this server.
    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }
}
