//! A broker over Redis, which connects several instances: PUB/SUB carries publications, controls, heartbeats, and survey
//! questions and answers; keys hold histories, idempotency keys and tickets. Hubs, sessions and the server API call [`RedisBroker`]. Everything that it does
//! runs on a separate thread, so that no worker waits for Redis.
//!
//! ```text
//!              ┌ server: one Redis, its two connections, its pool ──────────────────────────────┐
//!  publish ───▶│ publisher ──▶ its connection ──▶ Redis ──▶ subscription connection             │─▶ inbox ──▶ hubs
//!  subscribe ─▶│ desired subscriptions ◀── subscriber (supervises and probes that connection)   │     │
//!              └────────────────────────────────────────────────────────────────────────────────┘     │
//!  survey ────▶ pool of a server ──▶ question … survey (answers of the other nodes) ◀─────────────────┤
//!  heartbeat ─▶ server ──▶ … ──▶ nodes (those that are alive, which a survey asks) ◀──────────────────┤
//!  control ───▶ server ──▶ … ──▶ hubs ◀───────────────────────────────────────────────────────────────┘
//!  history, tickets ───▶ pool of a server (a publish with history is a script of the publisher)
//! ```
//!
//! Everything that belongs to one Redis server is in [`server`]; the context says which server has a channel.
//!
//! An outage of Redis stops nothing here: the desired subscriptions stay, publishing fails at once, both connections try
//! again at least every half second, and its health reports the state. A Redis that is not a master is an outage, too.

mod envelope;
mod heartbeat;
mod history;
mod inbox;
mod log_throttle;
#[allow(dead_code, reason = "used by histories, presence and Redis Cluster, which follow")]
mod names;
mod nodes;
#[allow(dead_code, reason = "used by Redis Cluster, which follows")]
mod partition;
mod presence;
mod refused;
mod scripts;
mod server;
mod survey;
mod tickets;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{mpsc, oneshot},
};

use self::{
    envelope::MessageSigner,
    heartbeat::Announcer,
    inbox::BusInbox,
    names::RedisNames,
    nodes::NodeRegistry,
    presence::PresenceRead,
    refused::RefusedMessages,
    server::{RedisServer, ServerQueue},
    survey::SurveyRegistry,
};
use super::{
    Broker, BrokerError, BrokerFuture, Control, Deliver, HistoryPage, HistoryRequest, PositionResult, PresenceCount,
    PresenceEvent, PresentClient, PublishOptions, PublishReceipt, Retention, SurveyQuestion, SurveyResult, completed,
    invalid_ticket_id, is_valid_ticket_id,
};
use crate::{
    channel::Channel,
    clock::Clock,
    config,
    metrics::Metrics,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
};

/// A broker that shares a Redis with other instances. Dropping it ends its tasks.
pub struct RedisBroker {
    context: Arc<RedisContext>,
    /// The runtime of its thread. Connections belong to the runtime that made them, so whatever uses the pool runs there.
    runtime: Handle,
    /// Ends the thread when it is dropped together with the broker.
    _stop: oneshot::Sender<()>,
}

/// Why the broker did not start. A Redis that does not answer is not a reason: the broker keeps trying to connect.
#[derive(Debug, thiserror::Error)]
pub enum BrokerStartError {
    /// `broker.redis` is invalid.
    #[error(transparent)]
    Config(#[from] RedisConfigError),
    /// The system gives no thread, or no runtime for it.
    #[error("cannot start the redis thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why the configuration of Redis, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct RedisConfigError {
    /// The key.
    pub key: &'static str,
    /// The problem and its remedy. It does not contain the URL or a password.
    pub problem: String,
}

/// What the broker's tasks share.
struct RedisContext {
    /// The node's id and a random part. So two instances with the same id do not receive each other's survey answers.
    instance: String,
    names: RedisNames,
    server: Arc<RedisServer>,
    timeout: Duration,
    message_bytes: usize,
    probe_interval: Duration,
    heartbeat_interval: Duration,
    surveys: SurveyRegistry,
    nodes: NodeRegistry,
    announcer: Announcer,
    /// Signs what this instance sends and stores.
    signer: MessageSigner,
    refused: RefusedMessages,
    deliver: Arc<dyn Deliver>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl RedisContext {
    /// Returns the server of a channel: its publications, its history and its presence are there.
    ///
    /// # Errors
    /// At the moment no server is responsible for the channel.
    fn server_of(&self, _channel: &Channel) -> Result<Arc<RedisServer>, BrokerError> {
        Ok(self.server.clone())
    }

    /// Returns the server of whatever has no channel but a name, such as a ticket or a user.
    ///
    /// # Errors
    /// At the moment no server is responsible for the name.
    fn server_of_name(&self, _name: &str) -> Result<Arc<RedisServer>, BrokerError> {
        Ok(self.server.clone())
    }
}

impl RedisBroker {
    /// Checks that [`Self::start`] would accept the URL and the files. Nothing is connected.
    ///
    /// # Errors
    /// [`RedisConfigError`].
    pub fn check_config(config: &config::RedisConfig) -> Result<(), RedisConfigError> {
        RedisServer::check_config(config)
    }

    /// Starts to connect, and returns without waiting for a connection: Redis may be down. Deliveries go to `deliver`. At
    /// most `queue_bytes` wait to be published (`limits.hub_queue_bytes`).
    ///
    /// # Errors
    /// [`BrokerStartError`]: the configuration is invalid, or there is no thread.
    pub fn start(
        config: &config::RedisConfig,
        queue_bytes: usize,
        deliver: Arc<dyn Deliver>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, BrokerStartError> {
        let instance =
            format!("{}.{:08x}", deliver.node().uid, getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let names = RedisNames::new(&config.prefix, &instance);
        let (server, queue) = RedisServer::new(config, queue_bytes, metrics.clone())?;
        let context = Arc::new(RedisContext {
            names,
            instance,
            server,
            timeout: config.timeout,
            message_bytes: config.message_bytes,
            probe_interval: config.probe_interval,
            heartbeat_interval: config.heartbeat_interval,
            surveys: SurveyRegistry::new(),
            nodes: NodeRegistry::new(config, metrics.clone()),
            announcer: Announcer::default(),
            signer: MessageSigner::new(config, clock.clone()),
            refused: RefusedMessages::new(metrics.clone()),
            deliver,
            clock,
            metrics,
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let tasks = run_tasks(context.clone(), queue);
        std::thread::Builder::new().name("redis".to_owned()).spawn(move || run_thread(runtime, tasks, stopped))?;
        Ok(Arc::new(Self { context, runtime: handle, _stop: stop }))
    }

    /// Runs `call` on the broker's runtime, where the connections of the pool belong.
    fn spawn<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<RedisContext>) -> F) -> BrokerFuture<T>
    where
        F: Future<Output = Result<T, BrokerError>> + Send + 'static,
    {
        let done = self.runtime.spawn(call(self.context.clone()));
        async move { done.await.unwrap_or_else(|_| Err(stopped_error())) }.boxed()
    }
}

fn run_thread(runtime: Runtime, tasks: impl Future<Output = ()>, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        tokio::select! {
            // Nothing is ever sent: this completes when the broker is dropped.
            _ = stopped => (),
            () = tasks => (),
        }
    });
    // Does not wait for a host name that is still being resolved.
    runtime.shutdown_background();
}

async fn run_tasks(context: Arc<RedisContext>, queue: ServerQueue) {
    let (question_sender, questions) = mpsc::channel(survey::MAX_ANSWERING);
    let inbox = BusInbox::new(context.clone(), question_sender);
    tokio::join!(
        context.server.clone().run(context.clone(), queue, inbox),
        heartbeat::send_heartbeats(context.clone()),
        survey::answer_questions(context.clone(), questions),
        context.refused.log_forever()
    );
}

fn stopped_error() -> BrokerError {
    BrokerError::Unavailable("the broker has stopped".to_owned())
}

fn no_receiver_error() -> BrokerError {
    BrokerError::Unavailable("no instance is subscribed to the control channel, not even this one".to_owned())
}

impl Broker for RedisBroker {
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt> {
        history::publish(&self.context, publication, options)
    }

    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage> {
        self.spawn(async move |context| history::read_page(&context, channel, request, retention).await)
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        let count = channels.len();
        let read = self.spawn(async move |context| Ok(history::read_positions(&context, channels).await));
        read.map(move |read| read.unwrap_or_else(|error| vec![Err(error); count])).boxed()
    }

    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>> {
        self.spawn(async move |context| history::renew_epoch(&context, channel, lost).await)
    }

    fn remove_history(&self, channel: Channel) -> BrokerFuture<()> {
        self.spawn(async move |context| history::remove(&context, channel).await)
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> BrokerFuture<()> {
        let name = self.context.names.publication_channel(&channel);
        let message = self.context.signer.sign(envelope::encode_presence_event(&channel, event, &client));
        let queued = self.context.server_of(&channel).map(|server| server.publish(&name, &message));
        async move { queued?.await.map(drop) }.boxed()
    }

    fn add_presence(&self, channel: Channel, client: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()> {
        self.refresh_presence(vec![(channel, client)], ttl)
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()> {
        presence::store(&self.context, clients, ttl).boxed()
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()> {
        presence::remove(&self.context, &channel, &client).boxed()
    }

    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>> {
        let read = PresenceRead::begin(&self.context, channel);
        self.spawn(async move |context| read?.clients(&context, max_bytes).await)
    }

    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount> {
        let read = PresenceRead::begin(&self.context, channel);
        self.spawn(async move |context| read?.count(&context).await)
    }

    fn subscribe(&self, channel: Channel) -> BrokerFuture<()> {
        match self.context.server_of(&channel) {
            Ok(server) => server.subscribe(channel).boxed(),
            Err(error) => completed(Err(error)),
        }
    }

    fn unsubscribe(&self, channel: Channel) {
        if let Ok(server) = self.context.server_of(&channel) {
            server.unsubscribe(&channel);
        }
    }

    fn survey(&self, question: SurveyQuestion, timeout: Duration) -> BrokerFuture<SurveyResult> {
        self.spawn(async move |context| survey::run_survey(&context, question, timeout).await)
    }

    fn announce_stop(&self) -> BrokerFuture<()> {
        self.spawn(async move |context| heartbeat::announce_stop(&context).await)
    }

    fn send_control(&self, control: Control) -> BrokerFuture<()> {
        let name = self.context.names.control_channel();
        let server = match self.context.server_of_name(name) {
            Ok(server) => server,
            Err(error) => return completed(Err(error)),
        };
        let published = server.publish(name, &self.context.signer.sign(envelope::encode_control(&control)));
        async move { if published.await? == 0 { Err(no_receiver_error()) } else { Ok(()) } }.boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()> {
        if !is_valid_ticket_id(&id) {
            return completed(Err(invalid_ticket_id()));
        }
        self.spawn(async move |context| tickets::put(&context, &id, &value, ttl).await)
    }

    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        if !is_valid_ticket_id(&id) {
            return completed(Ok(None));
        }
        self.spawn(async move |context| tickets::take(&context, &id).await)
    }

    fn check_ready(&self) -> BrokerFuture<()> {
        if let Some(fault) = self.context.server.fault() {
            return completed(Err(fault));
        }
        self.spawn(async move |context| context.server.check_ready(&context).await)
    }
}
