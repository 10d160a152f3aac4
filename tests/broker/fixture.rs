//! A broker and the hubs behind it, which only remember what they were given.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use wardcast::{
    broker::{
        BrokerError, Control, ControlAction, Deliver, HistoryPage, HistoryRequest, PresenceEvent, PublishOptions,
        QueueFull, Retention, SharedBroker, SurveyQuestion, memory::MemoryBroker, redis::RedisBroker,
    },
    channel::Channel,
    clock::Clock,
    config::{Config, Limits, Secret},
    metrics::Metrics,
    position::Position,
    publication::{ClientInfo, Publication},
};

use crate::support::redis::RedisServer;

/// What anything may take that is to happen at all, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Hubs that remember.
#[derive(Default)]
pub struct RecordingHubs {
    received: Mutex<Vec<Publication>>,
    pub presence_events: Mutex<Vec<(PresenceEvent, Arc<ClientInfo>)>>,
    controls: Mutex<Vec<Control>>,
    /// The answer to [`SurveyQuestion::Channels`], when it is not the usual one.
    pub channels: Mutex<Option<Vec<u8>>>,
    pub has_full_queue: AtomicBool,
    pub is_silent: AtomicBool,
}

impl Deliver for RecordingHubs {
    fn deliver_publication(&self, publication: Publication) -> Result<(), QueueFull> {
        if self.has_full_queue.load(Ordering::Relaxed) {
            return Err(QueueFull);
        }
        self.received.lock().push(publication);
        Ok(())
    }

    fn deliver_presence_event(
        &self,
        _: Channel,
        movement: PresenceEvent,
        who: Arc<ClientInfo>,
    ) -> Result<(), QueueFull> {
        if self.has_full_queue.load(Ordering::Relaxed) {
            return Err(QueueFull);
        }
        self.presence_events.lock().push((movement, who));
        Ok(())
    }

    fn deliver_control(&self, control: Control) -> Result<(), QueueFull> {
        if self.has_full_queue.load(Ordering::Relaxed) {
            return Err(QueueFull);
        }
        self.controls.lock().push(control);
        Ok(())
    }

    fn answer_survey(&self, question: SurveyQuestion) -> BoxFuture<'static, Vec<u8>> {
        let answer = match question {
            SurveyQuestion::Channels => self.channels.lock().clone().unwrap_or_else(|| b"{\"news\":1}".to_vec()),
            SurveyQuestion::Info => b"{\"uid\":\"memo\"}".to_vec(),
        };
        let is_silent = self.is_silent.load(Ordering::Relaxed);
        async move { if is_silent { std::future::pending().await } else { answer } }.boxed()
    }
}

/// One instance as far as its broker sees it.
pub struct Instance {
    pub broker: SharedBroker,
    pub hubs: Arc<RecordingHubs>,
    pub metrics: Arc<Metrics>,
    /// What time it is for what is kept.
    pub clock: Clock,
    /// Kept as long as the broker uses it.
    _server: Option<RedisServer>,
}

/// Tickets that an instance alone keeps.
pub const TICKETS: usize = 100;
/// Bytes of its histories.
pub const HISTORY_BYTES: usize = 1 << 20;
/// Idempotency keys that it remembers.
pub const KEYS: usize = 100;

/// An instance alone.
pub fn memory_instance() -> Instance {
    let hubs = Arc::new(RecordingHubs::default());
    let limits =
        Limits { tickets: TICKETS, history_bytes: HISTORY_BYTES, idempotency_keys: KEYS, ..Config::default().limits };
    let clock = Clock::default();
    let broker = Arc::new(MemoryBroker::new(hubs.clone(), &limits, clock.clone()));
    Instance { broker, hubs, metrics: Arc::default(), clock, _server: None }
}

/// An instance with a Redis of its own.
pub async fn redis_instance() -> Instance {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    Instance { _server: Some(server), ..instance }
}

/// An instance at a Redis that is there.
pub async fn start_ready_broker(url: &str) -> Instance {
    let instance = start_broker(url, "wardcast");
    instance.wait_until_ready().await;
    instance
}

/// An instance at a Redis that may be there, with deadlines that suit a test.
pub fn start_broker(url: &str, prefix: &str) -> Instance {
    crate::support::trace_log::start();
    let mut config = Config::default().broker.redis;
    config.url = Secret::new(url);
    config.prefix = prefix.to_owned();
    config.timeout = TIMEOUT;
    config.probe_interval = Duration::from_millis(500);
    let (hubs, metrics) = (Arc::new(RecordingHubs::default()), Arc::new(Metrics::default()));
    let broker = RedisBroker::start(&config, 16 << 20, hubs.clone(), metrics.clone(), "node".into()).unwrap();
    Instance { broker, hubs, metrics, clock: Clock::default(), _server: None }
}

/// `broker.redis.timeout` of the tests.
pub const TIMEOUT: Duration = Duration::from_secs(1);

impl Instance {
    pub async fn subscribe(&self, name: &str) {
        self.broker.subscribe(channel(name)).await.unwrap();
    }

    pub async fn publish(&self, name: &str, data: &str) -> Result<(), BrokerError> {
        self.broker.publish(publication(name, data), PublishOptions::default()).await.map(|_| ())
    }

    /// Publishes into a history.
    pub async fn store(&self, name: &str, data: &str, retention: Retention) -> Position {
        let options = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
        self.broker.publish(publication(name, data), options).await.unwrap().position.unwrap()
    }

    /// Asks a history.
    pub async fn read_history(&self, name: &str, request: HistoryRequest) -> HistoryPage {
        self.broker.read_history(channel(name), request, KEEP_FIVE).await.unwrap()
    }

    /// All that a history has.
    pub async fn read_all(&self, name: &str) -> Vec<(u64, String)> {
        offsets(&self.read_history(name, WHOLE_HISTORY).await)
    }

    /// Time passes for what is kept.
    pub fn advance_clock(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The data that came on a channel so far.
    pub fn data_received(&self, name: &str) -> Vec<String> {
        let received = self.hubs.received.lock();
        let of_channel = received.iter().filter(|publication| publication.channel.as_str() == name);
        of_channel.map(|publication| String::from_utf8(publication.data.to_vec()).unwrap()).collect()
    }

    pub fn received(&self) -> Vec<Publication> {
        self.hubs.received.lock().clone()
    }

    /// The orders that came so far.
    pub fn controls(&self) -> Vec<Control> {
        self.hubs.controls.lock().clone()
    }

    /// Waits until so many publications have come.
    pub async fn wait_for_publications(&self, count: usize) -> Vec<Publication> {
        wait_until(&format!("{count} publications"), async || self.hubs.received.lock().len() >= count).await;
        self.received()
    }

    pub async fn wait_until_ready(&self) {
        wait_until("ready", async || self.broker.check_ready().await.is_ok()).await;
    }

    /// Waits until it says that it is not; says why.
    pub async fn wait_until_unready(&self) -> String {
        let mut why = None;
        wait_until("not ready", async || {
            why = self.broker.check_ready().await.err();
            why.is_some()
        })
        .await;
        why.unwrap()
    }

    /// How many messages on the bus were refused for this reason.
    pub fn dropped_count(&self, reason: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let line = format!("wardcast_bus_refused_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Publishes until it is heard, because until then nothing says that the subscription is back; in what time.
pub async fn wait_until_delivered(publisher: &Instance, subscriber: &Instance, name: &str) -> Duration {
    let since = Instant::now();
    let before = subscriber.data_received(name).len();
    wait_until(&format!("{name} is heard again"), async || {
        _ = publisher.publish(name, "\"again\"").await;
        subscriber.data_received(name).len() > before
    })
    .await;
    since.elapsed()
}

/// Keeps five publications for a minute, and the position for an hour.
pub const KEEP_FIVE: Retention =
    Retention { size: 5, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(3600) };

/// Asks for everything.
pub const WHOLE_HISTORY: HistoryRequest = HistoryRequest { since: None, limit: usize::MAX, is_reverse: false };

/// What a history has, in its order: offsets and data.
pub fn offsets(history: &HistoryPage) -> Vec<(u64, String)> {
    let told = history.publications.iter().map(|publication| {
        let position = publication.position.unwrap();
        assert_eq!(position.epoch, history.top.epoch);
        (position.offset, String::from_utf8(publication.data.to_vec()).unwrap())
    });
    told.collect()
}

pub fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

pub fn publication(name: &str, data: &str) -> Publication {
    Publication::new(channel(name), Bytes::copy_from_slice(data.as_bytes()))
}

/// The order that closes all connections of a user.
pub fn disconnect_user(user: &str) -> Control {
    let action = ControlAction::Disconnect { code: 3503, reason: "force disconnect".to_owned() };
    Control { user: user.to_owned(), client: None, whitelist: Vec::new(), action }
}

/// Looks again every few milliseconds until it holds.
pub async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
