//! Redis between instances: PUB/SUB carries publications, orders, questions and answers; keys hold tickets. The hubs, the sessions and the API talk
//! to [`RedisBroker`]; everything it does runs on a thread of its own, so that no worker waits for Redis.
//!
//! ```text
//!  publish ──▶ publisher ──▶ its connection ──▶ Redis ──▶ subscription connection ──▶ inbox ──▶ hubs
//!  subscribe ─▶ wanted ◀── subscriber (supervises that connection, probes it) ──────────┘  │
//!  survey ───▶ pool ──▶ question … survey (answers of this and other instances) ◀──────────┘
//!  control ──▶ publisher ──▶ … ──▶ inbox ──▶ hubs            tickets ──▶ pool
//! ```
//!
//! When Redis goes, nothing here stops: what is wanted stays wanted, publishing fails at once, both connections try again
//! every half second at the latest, and [`health`] says how it stands.

mod connect;
mod desired_subscriptions;
mod envelope;
mod health;
mod inbox;
mod names;
mod probe;
mod publisher;
mod subscriber;
mod survey;
mod tickets;

use std::{
    future::ready,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use deadpool_redis::Pool;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{mpsc, oneshot},
};

use self::{
    connect::Connector, desired_subscriptions::DesiredSubscriptions, health::RedisHealth, inbox::BusInbox,
    names::RedisNames, probe::SubscriptionProbe, publisher::Publisher, survey::SurveyRegistry,
};
use super::{
    Broker, BrokerError, Control, Deliver, HistoryPage, HistoryRequest, PresenceEvent, PublishOptions, PublishReceipt,
    Retention, SurveyQuestion, invalid_ticket_id, is_valid_ticket_id,
};
use crate::{
    channel::Channel,
    config,
    metrics::Metrics,
    publication::{ClientInfo, Publication},
};

/// A broker that shares a Redis with other instances. Its tasks end when it is dropped.
pub struct RedisBroker {
    context: Arc<RedisContext>,
    /// Where its tasks run: what uses the pool runs there too, because connections live on the runtime that made them.
    tasks: Handle,
    /// Dropped with the broker, which ends the thread.
    _stop: oneshot::Sender<()>,
}

/// Why the broker did not start. That Redis does not answer is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum BrokerStartError {
    /// Without the URL, which may carry a password.
    #[error("broker.redis.url cannot be used: {0}")]
    Url(String),
    /// No thread, or no runtime on it.
    #[error("no thread for redis: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the tasks share.
struct RedisContext {
    /// The node and a random part: two instances that were given one id do not take each other's answers.
    instance: String,
    names: Arc<RedisNames>,
    connector: Connector,
    pool: Pool,
    timeout: Duration,
    message_bytes: usize,
    probe_interval: Duration,
    health: Arc<RedisHealth>,
    subscriptions: DesiredSubscriptions,
    publisher: Publisher,
    surveys: Arc<SurveyRegistry>,
    probe: Arc<SubscriptionProbe>,
    received: Arc<AtomicU64>,
    deliver: Arc<dyn Deliver>,
    metrics: Arc<Metrics>,
}

impl RedisBroker {
    /// Whether [`Self::start`] would take the URL. Nothing is connected.
    ///
    /// # Errors
    /// [`BrokerStartError::Url`].
    pub fn check_url(config: &config::RedisConfig) -> Result<(), BrokerStartError> {
        Connector::new(config).map(drop)
    }

    /// Starts to connect, and returns without waiting for it: Redis may be down. Deliveries go to `deliver`; at most
    /// `queue_bytes` wait to be published (`limits.hub_queue_bytes`); `node` is this instance's name to others.
    ///
    /// # Errors
    /// [`BrokerStartError`]: the URL is malformed, or there is no thread.
    pub fn start(
        config: &config::RedisConfig,
        queue_bytes: usize,
        deliver: Arc<dyn Deliver>,
        metrics: Arc<Metrics>,
        node: Arc<str>,
    ) -> Result<Arc<Self>, BrokerStartError> {
        let instance = format!("{node}.{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let connector = Connector::new(config)?;
        let health = Arc::new(RedisHealth::new(connector.address(), metrics.clone()));
        let (publisher, jobs) = Publisher::new(queue_bytes, config.message_bytes, config.timeout);
        let sender = publisher::PublisherTask::new(connector.clone(), health.clone(), jobs, config.timeout);
        let context = Arc::new(RedisContext {
            names: Arc::new(RedisNames::new(&config.prefix, &instance)),
            instance,
            connector,
            pool: connect::build_pool(config)?,
            timeout: config.timeout,
            message_bytes: config.message_bytes,
            probe_interval: config.probe_interval,
            health,
            subscriptions: DesiredSubscriptions::default(),
            publisher,
            surveys: SurveyRegistry::new(),
            probe: SubscriptionProbe::new(),
            received: Arc::default(),
            deliver,
            metrics,
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let task = run_tasks(context.clone(), sender);
        std::thread::Builder::new().name("redis".to_owned()).spawn(move || run_thread(runtime, task, stopped))?;
        Ok(Arc::new(Self { context, tasks, _stop: stop }))
    }

    /// Runs `work` where the pool's connections live; `None` if that has stopped.
    fn spawn_on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let done = self.tasks.spawn(work);
        async move { done.await.ok() }
    }
}

fn run_thread(runtime: Runtime, task: impl Future<Output = ()>, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        tokio::select! {
            // Nothing is ever sent: it ends when the broker is dropped.
            _ = stopped => (),
            () = task => (),
        }
    });
    // A name that is just being resolved must not hold anybody up.
    runtime.shutdown_background();
}

async fn run_tasks(context: Arc<RedisContext>, sender: publisher::PublisherTask) {
    let (question_sender, questions) = mpsc::channel(survey::MAX_ANSWERING);
    let inbox = Arc::new(BusInbox {
        names: context.names.clone(),
        message_bytes: context.message_bytes,
        deliver: context.deliver.clone(),
        metrics: context.metrics.clone(),
        probe: context.probe.clone(),
        surveys: context.surveys.clone(),
        questions: question_sender,
        received: context.received.clone(),
        dropped: Mutex::default(),
    });
    tokio::join!(
        subscriber::supervise(context.clone(), inbox),
        sender.run(),
        survey::answer_questions(context, questions)
    );
}

fn stopped_error() -> BrokerError {
    BrokerError::Unavailable("the broker has stopped".to_owned())
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<PublishReceipt, BrokerError>> {
        if options != PublishOptions::default() {
            return ready(Err(BrokerError::NotAvailable)).boxed();
        }
        let name = self.context.names.publication_channel(&publication.channel);
        let published = self.context.publisher.publish(&name, &envelope::encode_publication(&publication));
        published.map(|receivers| receivers.map(|_| PublishReceipt::default())).boxed()
    }

    fn read_history(
        &self,
        _: Channel,
        _: HistoryRequest,
        _: Retention,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_history(&self, _: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn publish_presence_event(
        &self,
        _: Channel,
        _: PresenceEvent,
        _: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn add_presence(&self, _: Channel, _: Arc<ClientInfo>, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_presence(&self, _: Channel, _: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn presence(&self, _: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        let wanted = self.context.subscriptions.subscribe(channel);
        async move { wanted?.await.unwrap_or_else(|_| Err(stopped_error())) }.boxed()
    }

    fn unsubscribe(&self, channel: Channel) {
        self.context.subscriptions.unsubscribe(&channel);
    }

    fn survey(
        &self,
        question: SurveyQuestion,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        let context = self.context.clone();
        let asked = self.spawn_on_runtime(async move { survey::run_survey(&context, question, deadline).await });
        asked.map(|answers| answers.unwrap_or_else(|| Err(stopped_error()))).boxed()
    }

    fn send_control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        let published =
            self.context.publisher.publish(self.context.names.control_channel(), &envelope::encode_control(&control));
        async move {
            match published.await? {
                0 => Err(BrokerError::Unavailable("no instance listens, not even this one".to_owned())),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        if !is_valid_ticket_id(&id) {
            return ready(Err(invalid_ticket_id())).boxed();
        }
        let context = self.context.clone();
        let put = self.spawn_on_runtime(async move { tickets::put(&context, &id, &value, ttl).await });
        put.map(|put| put.unwrap_or_else(|| Err(stopped_error()))).boxed()
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        if !is_valid_ticket_id(&id) {
            return ready(Ok(None)).boxed();
        }
        let context = self.context.clone();
        let taken = self.spawn_on_runtime(async move { tickets::take(&context, &id).await });
        taken.map(|taken| taken.unwrap_or_else(|| Err(stopped_error()))).boxed()
    }

    fn check_ready(&self) -> BoxFuture<'static, Result<(), String>> {
        if let Some(fault) = self.context.health.fault() {
            return ready(Err(fault)).boxed();
        }
        let context = self.context.clone();
        let pinged = self.spawn_on_runtime(async move { connect::check_pool(&context.pool, context.timeout).await });
        pinged.map(|pinged| pinged.unwrap_or_else(|| Err(stopped_error().to_string()))).boxed()
    }
}
