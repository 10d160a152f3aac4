//! A broker under test, and hubs that only record what the broker delivers to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;
use wardcast::{
    broker::{
        BrokerError, Control, ControlAction, Deliver, HistoryPage, HistoryRequest, NodeIdentity, PresenceEvent,
        PublishOptions, PublishReceipt, QueueFull, Retention, SharedBroker, SurveyQuestion, SurveyResult,
        memory::MemoryBroker, redis::RedisBroker,
    },
    channel::Channel,
    clock::Clock,
    config::{Config, Limits, RedisConfig, Secret},
    emulation::SendCommandsError,
    metrics::Metrics,
    position::Position,
    publication::{ClientInfo, Publication},
    revocation::{ListFull, Revocation, Revocations},
};

pub use crate::support::events::wait_until;
use crate::support::{
    events,
    redis::{PrefixedRedis, RedisForm, RedisServer},
    trace_log,
};

/// `limits.tickets` of [`memory_instance`].
pub const TICKETS: usize = 100;
/// `limits.history_bytes` of [`memory_instance`].
pub const HISTORY_BYTES: usize = 1 << 20;
/// `limits.idempotency_keys` of [`memory_instance`].
pub const KEYS: usize = 100;
/// Where no Redis is.
pub const ELSEWHERE: &str = "redis://127.0.0.1:1";
/// `broker.redis.timeout` of all instances over Redis.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Keeps five publications for a minute, and the position for an hour.
pub const KEEP_FIVE: Retention =
    Retention { size: 5, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(3600) };
/// Requests the whole history.
pub const WHOLE_HISTORY: HistoryRequest =
    HistoryRequest { since: None, limit: usize::MAX, is_reverse: false, max_bytes: None };

/// Hubs that record what they receive.
pub struct RecordingHubs {
    node: NodeIdentity,
    received: Mutex<Vec<Publication>>,
    pub revocations: Arc<Revocations>,
    pub presence_events: Mutex<Vec<(PresenceEvent, Arc<ClientInfo>)>>,
    controls: Mutex<Vec<Control>>,
    pub commands: Mutex<Vec<(Uuid, Bytes)>>,
    /// How often controls may have been lost.
    pub losses: AtomicUsize,
    /// How often channels were subscribed again.
    pub resubscribed: AtomicUsize,
    /// The answer to [`SurveyQuestion::Channels`], if it is not the default one.
    pub channels: Mutex<Option<Vec<u8>>>,
    pub has_full_queue: AtomicBool,
    /// Surveys get no answer.
    pub is_silent: AtomicBool,
}

/// Hubs of an instance with an identity of its own.
impl Default for RecordingHubs {
    fn default() -> Self {
        static CREATED: AtomicUsize = AtomicUsize::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        Self {
            node: NodeIdentity { uid: format!("node-{number}"), name: format!("host-{number}") },
            received: Mutex::default(),
            revocations: Arc::default(),
            presence_events: Mutex::default(),
            controls: Mutex::default(),
            commands: Mutex::default(),
            losses: AtomicUsize::default(),
            resubscribed: AtomicUsize::default(),
            channels: Mutex::default(),
            has_full_queue: AtomicBool::default(),
            is_silent: AtomicBool::default(),
        }
    }
}

impl RecordingHubs {
    fn record<T>(&self, list: &Mutex<Vec<T>>, item: T) -> Result<(), QueueFull> {
        if self.has_full_queue.load(Ordering::Relaxed) {
            return Err(QueueFull);
        }
        list.lock().push(item);
        events::notify();
        Ok(())
    }
}

impl Deliver for RecordingHubs {
    fn deliver_publication(&self, publication: Publication) -> Result<(), QueueFull> {
        self.record(&self.received, publication)
    }

    fn deliver_presence_event(
        &self,
        _: Channel,
        event: PresenceEvent,
        client: Arc<ClientInfo>,
    ) -> Result<(), QueueFull> {
        self.record(&self.presence_events, (event, client))
    }

    fn deliver_control(&self, control: Control) -> Result<(), QueueFull> {
        self.record(&self.controls, control)
    }

    fn deliver_commands(&self, session: &Uuid, message: Bytes) -> Result<(), SendCommandsError> {
        self.record(&self.commands, (*session, message)).map_err(|QueueFull| SendCommandsError::Full)
    }

    fn note_probe(&self, sent_at: Instant, lag: Histogram) {
        lag.observe(sent_at.elapsed().as_secs_f64());
    }

    fn note_lost_controls(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
        events::notify();
    }

    fn note_interrupted(&self, _: &[Channel]) {}

    fn note_resubscribed(&self, channels: &[Channel]) {
        self.resubscribed.fetch_add(channels.len(), Ordering::Relaxed);
        events::notify();
    }

    fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    fn add_revocations(&self, revocations: Vec<Revocation>) -> Result<(), ListFull> {
        let added = self.revocations.add(revocations).map(drop);
        events::notify();
        added
    }

    fn add_revocations_or_none(&self, revocations: Vec<Revocation>) -> Result<(), ListFull> {
        let added = self.revocations.add_all(revocations);
        events::notify();
        added
    }

    fn release_deliveries(&self) {
        self.revocations.release();
        events::notify();
    }

    fn node(&self) -> NodeIdentity {
        self.node.clone()
    }

    fn answer_survey(&self, question: SurveyQuestion) -> BoxFuture<'static, Vec<u8>> {
        let answer = match question {
            SurveyQuestion::Channels => self.channels.lock().clone().unwrap_or_else(|| b"{\"news\":1}".to_vec()),
            SurveyQuestion::Revoked(_) => Vec::new(),
            SurveyQuestion::Inspect(_) => b"{}".to_vec(),
            SurveyQuestion::Info => b"{\"uid\":\"recording\"}".to_vec(),
        };
        let is_silent = self.is_silent.load(Ordering::Relaxed);
        async move { if is_silent { std::future::pending().await } else { answer } }.boxed()
    }
}

impl Drop for RecordingHubs {
    fn drop(&mut self) {
        events::notify();
    }
}

/// One instance, as its broker sees it.
pub struct Instance {
    pub broker: SharedBroker,
    pub hubs: Arc<RecordingHubs>,
    pub metrics: Arc<Metrics>,
    /// The clock of histories, presence and idempotency keys.
    pub clock: Clock,
    /// The Redis of this instance, which stops when the last instance on it is dropped. `None` for the memory broker, and where
    /// the test stops its Redis.
    redis: Option<PrefixedRedis>,
}

/// An instance with the memory broker.
pub fn memory_instance() -> Instance {
    let hubs = Arc::new(RecordingHubs::default());
    let limits =
        Limits { tickets: TICKETS, history_bytes: HISTORY_BYTES, idempotency_keys: KEYS, ..Config::default().limits };
    let clock = Clock::default();
    let broker = Arc::new(MemoryBroker::new(hubs.clone(), &limits, clock.clone()));
    Instance { broker, hubs, metrics: Arc::default(), clock, redis: None }
}

/// An instance with its own Redis.
pub async fn redis_instance() -> Instance {
    start_on(PrefixedRedis::whole(RedisForm::one_server().await), |_| ()).await
}

/// An instance with its own Redis, which it reaches over a unix socket.
pub async fn unix_socket_instance() -> Instance {
    let server = RedisServer::start().await;
    let url = server.unix_url();
    let redis = PrefixedRedis::whole(RedisForm::OneServer(server));
    start_on(redis, |config| config.url = Secret::new(url)).await
}

/// An instance with three Redis servers, among which it spreads the channels.
pub async fn several_servers_instance() -> Instance {
    start_on(PrefixedRedis::whole(RedisForm::several_servers().await), |_| ()).await
}

/// A ready instance on this Redis.
pub async fn start_on(redis: PrefixedRedis, change: impl FnOnce(&mut RedisConfig)) -> Instance {
    let instance = start_broker_with(ELSEWHERE, |config| {
        redis.configure(config);
        // Tests of forms run several at a time, on a machine that may do other work too.
        config.timeout = TIMEOUT * 10;
        change(config);
    });
    instance.wait_until_ready().await;
    Instance { redis: Some(redis), ..instance }
}

/// The value for `broker.redis.urls`.
pub fn urls(servers: &[RedisServer]) -> Vec<Secret> {
    servers.iter().map(|server| Secret::new(server.url())).collect()
}

/// Two instances on one Redis that know each other.
pub async fn start_pair() -> (RedisServer, Instance, Instance) {
    let server = RedisServer::start().await;
    let (first, second) = (start_ready_broker(&server.url()).await, start_ready_broker(&server.url()).await);
    first.wait_for_nodes(2).await;
    second.wait_for_nodes(2).await;
    (server, first, second)
}

/// An instance on a Redis that works.
pub async fn start_ready_broker(url: &str) -> Instance {
    let instance = start_broker(url, "wardcast");
    instance.wait_until_ready().await;
    instance
}

/// An instance on a Redis that may be down, with short deadlines.
pub fn start_broker(url: &str, prefix: &str) -> Instance {
    start_broker_with(url, |config| config.prefix = prefix.to_owned())
}

/// An instance with short deadlines and a changed configuration.
pub fn start_broker_with(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Instance {
    trace_log::start();
    let mut config = Config::default().broker.redis;
    config.url = Secret::new(url);
    config.timeout = TIMEOUT;
    config.probe_interval = Duration::from_millis(500);
    change(&mut config);
    let (hubs, metrics) = (Arc::new(RecordingHubs::default()), Arc::new(Metrics::default()));
    let clock = Clock::default();
    let broker = RedisBroker::start(&config, 16 << 20, hubs.clone(), clock.clone(), metrics.clone()).unwrap();
    Instance { broker, hubs, metrics, clock, redis: None }
}

impl Instance {
    /// Its identity.
    pub fn node(&self) -> NodeIdentity {
        self.hubs.node()
    }

    pub async fn subscribe(&self, name: &str) {
        self.broker.subscribe(channel(name)).await.unwrap();
    }

    pub async fn publish(&self, name: &str, data: &str) -> Result<(), BrokerError> {
        self.publish_with(name, data, PublishOptions::default()).await.map(|_| ())
    }

    pub fn publish_with(
        &self,
        name: &str,
        data: &str,
        options: PublishOptions,
    ) -> impl Future<Output = Result<PublishReceipt, BrokerError>> + use<> {
        self.broker.publish(publication(name, data), options)
    }

    /// Publishes into a channel whose history keeps five publications; returns the position.
    pub async fn store(&self, name: &str, data: &str) -> Position {
        self.store_with(name, data, KEEP_FIVE).await
    }

    pub async fn store_with(&self, name: &str, data: &str, retention: Retention) -> Position {
        let options = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
        self.publish_with(name, data, options).await.unwrap().position.unwrap()
    }

    pub async fn read_history(&self, name: &str, request: HistoryRequest) -> HistoryPage {
        self.broker.read_history(channel(name), request, KEEP_FIVE).await.unwrap()
    }

    /// The offsets and data of a whole history.
    pub async fn read_all(&self, name: &str) -> Vec<(u64, String)> {
        offsets(&self.read_history(name, WHOLE_HISTORY).await)
    }

    /// Lets time pass, also in the instance's own Redis.
    pub fn advance_clock(&self, by: Duration) {
        self.clock.advance(by);
        self.redis.iter().for_each(|redis| redis.advance_clock(by));
    }

    /// The publications received so far.
    pub fn received(&self) -> Vec<Publication> {
        self.hubs.received.lock().clone()
    }

    /// The data received on a channel so far.
    pub fn data_received(&self, name: &str) -> Vec<String> {
        let received = self.hubs.received.lock();
        let of_channel = received.iter().filter(|publication| publication.channel.as_str() == name);
        of_channel.map(|publication| String::from_utf8(publication.data.to_vec()).unwrap()).collect()
    }

    /// The controls received so far.
    pub fn controls(&self) -> Vec<Control> {
        self.hubs.controls.lock().clone()
    }

    pub async fn wait_for_publications(&self, count: usize) -> Vec<Publication> {
        wait_until(&format!("{count} publications"), async || self.hubs.received.lock().len() >= count).await;
        self.received()
    }

    pub async fn wait_for_controls(&self, count: usize) -> Vec<Control> {
        wait_until(&format!("{count} controls"), async || self.hubs.controls.lock().len() >= count).await;
        self.controls()
    }

    /// Asks all live nodes.
    pub async fn survey(&self, timeout: Duration) -> Result<SurveyResult, BrokerError> {
        self.broker.survey(SurveyQuestion::Channels, timeout).await
    }

    /// Asks all live nodes; returns the answers and the number of nodes without one.
    pub async fn survey_all(&self, timeout: Duration) -> (Vec<Vec<u8>>, usize) {
        let result = self.survey(timeout).await.unwrap();
        (result.answers.into_iter().map(|answer| answer.answer).collect(), result.unreachable.len())
    }

    /// Waits until it knows so many nodes, itself included.
    pub async fn wait_for_nodes(&self, count: i64) {
        wait_until(&format!("{count} nodes"), async || self.metrics.nodes.get() == count).await;
    }

    pub async fn wait_until_ready(&self) {
        wait_until("ready", async || self.broker.check_ready().await.is_ok()).await;
    }

    /// Waits until the broker reports an error that contains `part`; returns the error.
    pub async fn wait_for_outage(&self, part: &str) -> String {
        let mut outage = String::new();
        wait_until("an outage", async || {
            let ready = self.broker.check_ready().await;
            outage = ready.err().map(|error| error.to_string()).unwrap_or_default();
            !outage.is_empty() && outage.contains(part)
        })
        .await;
        outage
    }

    /// How many messages of the bus were dropped for this reason.
    pub fn dropped_count(&self, reason: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let line = format!("wardcast_bus_refused_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Publishes until a publication arrives; returns how long that took. A publication is lost while Redis lacks the
/// subscription, so one that does not arrive is followed by another after the next event.
pub async fn wait_until_delivered(publisher: &Instance, subscriber: &Instance, name: &str) -> Duration {
    let since = Instant::now();
    let before = subscriber.data_received(name).len();
    wait_until(&format!("a publication arrives on {name}"), async || {
        let has_arrived = subscriber.data_received(name).len() > before;
        if !has_arrived {
            _ = publisher.publish(name, "\"again\"").await;
        }
        has_arrived
    })
    .await;
    since.elapsed()
}

/// The offsets and data of a page, in its order.
pub fn offsets(page: &HistoryPage) -> Vec<(u64, String)> {
    let publications = page.publications.iter().map(|publication| {
        let position = publication.position.unwrap();
        assert_eq!(position.epoch, page.top.epoch);
        (position.offset, String::from_utf8(publication.data.to_vec()).unwrap())
    });
    publications.collect()
}

pub fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

pub fn publication(name: &str, data: &str) -> Publication {
    Publication::new(channel(name), Bytes::copy_from_slice(data.as_bytes()))
}

/// A client of the user "é", with `conn_info` and `chan_info`.
pub fn client_info(client: &str) -> ClientInfo {
    let info = Some(Bytes::from_static(b"{\"name\":\"Ann\"}"));
    ClientInfo { user: "é".to_owned(), client: client.to_owned(), conn_info: info.clone(), chan_info: info }
}

/// The control that closes all connections of a user.
pub fn disconnect_user(user: &str) -> Control {
    let action = ControlAction::Disconnect { code: 3503, reason: "force disconnect".to_owned() };
    Control { user: user.to_owned(), client: None, whitelist: Vec::new(), action }
}
