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
mod envelope;
mod health;
mod inbox;
mod key;
mod probe;
mod publisher;
mod subscriber;
mod survey;
mod tickets;
mod wanted;

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
    connect::Connector, health::Health, inbox::Inbox, key::Keys, probe::Probe, publisher::Publisher, survey::Surveys,
    wanted::Wanted,
};
use super::{
    Broker, BrokerError, Control, Deliver, History, HistoryRequest, Movement, PublishOptions, Published, Question,
    Retention, is_ticket_id, no_ticket_id,
};
use crate::{
    channel::Channel,
    config,
    metrics::Metrics,
    publication::{ClientInfo, Publication},
};

/// A broker that shares a Redis with other instances. Its tasks end when it is dropped.
pub struct RedisBroker {
    bus: Arc<Bus>,
    /// Where its tasks run: what uses the pool runs there too, because connections live on the runtime that made them.
    tasks: Handle,
    /// Dropped with the broker, which ends the thread.
    _stop: oneshot::Sender<()>,
}

/// Why the broker did not start. That Redis does not answer is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Without the URL, which may carry a password.
    #[error("broker.redis.url cannot be used: {0}")]
    Url(String),
    /// No thread, or no runtime on it.
    #[error("no thread for redis: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the tasks share.
struct Bus {
    /// The node and a random part: two instances that were given one id do not take each other's answers.
    instance: String,
    keys: Arc<Keys>,
    connector: Connector,
    pool: Pool,
    timeout: Duration,
    message_bytes: usize,
    probe_interval: Duration,
    health: Arc<Health>,
    wanted: Wanted,
    publisher: Publisher,
    surveys: Arc<Surveys>,
    probe: Arc<Probe>,
    received: Arc<AtomicU64>,
    deliver: Arc<dyn Deliver>,
    metrics: Arc<Metrics>,
}

impl RedisBroker {
    /// Whether [`Self::start`] would take the URL. Nothing is connected.
    ///
    /// # Errors
    /// [`StartError::Url`].
    pub fn judge(config: &config::Redis) -> Result<(), StartError> {
        Connector::new(config).map(drop)
    }

    /// Starts to connect, and returns without waiting for it: Redis may be down. Deliveries go to `deliver`; at most
    /// `queue_bytes` wait to be published (`limits.hub_queue_bytes`); `node` is this instance's name to others.
    ///
    /// # Errors
    /// [`StartError`]: the URL is malformed, or there is no thread.
    pub fn start(
        config: &config::Redis,
        queue_bytes: usize,
        deliver: Arc<dyn Deliver>,
        metrics: Arc<Metrics>,
        node: Arc<str>,
    ) -> Result<Arc<Self>, StartError> {
        let instance = format!("{node}.{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let connector = Connector::new(config)?;
        let health = Arc::new(Health::new(connector.address(), metrics.clone()));
        let (publisher, jobs) = Publisher::new(queue_bytes, config.message_bytes, config.timeout);
        let sender = publisher::Sender::new(connector.clone(), health.clone(), jobs, config.timeout);
        let bus = Arc::new(Bus {
            keys: Arc::new(Keys::new(&config.prefix, &instance)),
            instance,
            connector,
            pool: connect::pool(config)?,
            timeout: config.timeout,
            message_bytes: config.message_bytes,
            probe_interval: config.probe_interval,
            health,
            wanted: Wanted::default(),
            publisher,
            surveys: Surveys::new(),
            probe: Probe::new(),
            received: Arc::default(),
            deliver,
            metrics,
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let task = run(bus.clone(), sender);
        std::thread::Builder::new().name("redis".to_owned()).spawn(move || live(runtime, task, stopped))?;
        Ok(Arc::new(Self { bus, tasks, _stop: stop }))
    }

    /// Runs `work` where the pool's connections live; `None` if that has stopped.
    fn there<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let done = self.tasks.spawn(work);
        async move { done.await.ok() }
    }
}

fn live(runtime: Runtime, task: impl Future<Output = ()>, stopped: oneshot::Receiver<()>) {
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

async fn run(bus: Arc<Bus>, sender: publisher::Sender) {
    let (asked, questions) = mpsc::channel(survey::ANSWERING);
    let inbox = Arc::new(Inbox {
        keys: bus.keys.clone(),
        message_bytes: bus.message_bytes,
        deliver: bus.deliver.clone(),
        metrics: bus.metrics.clone(),
        probe: bus.probe.clone(),
        surveys: bus.surveys.clone(),
        asked,
        received: bus.received.clone(),
        dropped: Mutex::default(),
    });
    tokio::join!(subscriber::supervise(bus.clone(), inbox), sender.run(), survey::answer_all(bus, questions));
}

fn stopped() -> BrokerError {
    BrokerError::Unavailable("the broker has stopped".to_owned())
}

impl Broker for RedisBroker {
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<Published, BrokerError>> {
        if options != PublishOptions::default() {
            return ready(Err(BrokerError::NotAvailable)).boxed();
        }
        let name = self.bus.keys.channel(&publication.channel);
        let published = self.bus.publisher.publish(&name, &envelope::publication(&publication));
        published.map(|receivers| receivers.map(|_| Published::default())).boxed()
    }

    fn history(&self, _: Channel, _: HistoryRequest, _: Retention) -> BoxFuture<'static, Result<History, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_history(&self, _: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn announce(&self, _: Channel, _: Movement, _: Arc<ClientInfo>) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn add_member(&self, _: Channel, _: Arc<ClientInfo>, _: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn remove_member(&self, _: Channel, _: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn members(&self, _: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        let wanted = self.bus.wanted.subscribe(channel);
        async move { wanted?.await.unwrap_or_else(|_| Err(stopped())) }.boxed()
    }

    fn unsubscribe(&self, channel: Channel) {
        self.bus.wanted.unsubscribe(&channel);
    }

    fn survey(&self, question: Question, deadline: Duration) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        let bus = self.bus.clone();
        let asked = self.there(async move { survey::ask(&bus, question, deadline).await });
        asked.map(|answers| answers.unwrap_or_else(|| Err(stopped()))).boxed()
    }

    fn control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        let published = self.bus.publisher.publish(self.bus.keys.control(), &envelope::control(&control));
        async move {
            match published.await? {
                0 => Err(BrokerError::Unavailable("no instance listens, not even this one".to_owned())),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        if !is_ticket_id(&id) {
            return ready(Err(no_ticket_id())).boxed();
        }
        let bus = self.bus.clone();
        let put = self.there(async move { tickets::put(&bus, &id, &value, ttl).await });
        put.map(|put| put.unwrap_or_else(|| Err(stopped()))).boxed()
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        if !is_ticket_id(&id) {
            return ready(Ok(None)).boxed();
        }
        let bus = self.bus.clone();
        let taken = self.there(async move { tickets::take(&bus, &id).await });
        taken.map(|taken| taken.unwrap_or_else(|| Err(stopped()))).boxed()
    }

    fn ready(&self) -> BoxFuture<'static, Result<(), String>> {
        if let Some(fault) = self.bus.health.fault() {
            return ready(Err(fault)).boxed();
        }
        let bus = self.bus.clone();
        let pinged = self.there(async move { connect::ping(&bus.pool, bus.timeout).await });
        pinged.map(|pinged| pinged.unwrap_or_else(|| Err(stopped().to_string()))).boxed()
    }
}
