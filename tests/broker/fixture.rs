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
        BrokerError, Control, Deliver, History, HistoryRequest, Movement, NoRoom, Order, PublishOptions, Question,
        Retention, SharedBroker, memory::MemoryBroker, redis::RedisBroker,
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
pub struct Memo {
    received: Mutex<Vec<Publication>>,
    pub moved: Mutex<Vec<(Movement, Arc<ClientInfo>)>>,
    ordered: Mutex<Vec<Control>>,
    /// The answer to [`Question::Channels`], when it is not the usual one.
    pub channels: Mutex<Option<Vec<u8>>>,
    pub is_full: AtomicBool,
    pub is_mute: AtomicBool,
}

impl Deliver for Memo {
    fn deliver(&self, publication: Publication) -> Result<(), NoRoom> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(NoRoom);
        }
        self.received.lock().push(publication);
        Ok(())
    }

    fn announce(&self, _: Channel, movement: Movement, who: Arc<ClientInfo>) -> Result<(), NoRoom> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(NoRoom);
        }
        self.moved.lock().push((movement, who));
        Ok(())
    }

    fn control(&self, control: Control) -> Result<(), NoRoom> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(NoRoom);
        }
        self.ordered.lock().push(control);
        Ok(())
    }

    fn answer(&self, question: Question) -> BoxFuture<'static, Vec<u8>> {
        let answer = match question {
            Question::Channels => self.channels.lock().clone().unwrap_or_else(|| b"{\"news\":1}".to_vec()),
            Question::Info => b"{\"uid\":\"memo\"}".to_vec(),
        };
        let is_mute = self.is_mute.load(Ordering::Relaxed);
        async move { if is_mute { std::future::pending().await } else { answer } }.boxed()
    }
}

/// One instance as far as its broker sees it.
pub struct Instance {
    pub broker: SharedBroker,
    pub hubs: Arc<Memo>,
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
pub fn memory() -> Instance {
    let hubs = Arc::new(Memo::default());
    let limits =
        Limits { tickets: TICKETS, history_bytes: HISTORY_BYTES, idempotency_keys: KEYS, ..Config::default().limits };
    let clock = Clock::default();
    let broker = Arc::new(MemoryBroker::new(hubs.clone(), &limits, clock.clone()));
    Instance { broker, hubs, metrics: Arc::default(), clock, _server: None }
}

/// An instance with a Redis of its own.
pub async fn redis() -> Instance {
    let server = RedisServer::start().await;
    let instance = on(&server.url()).await;
    Instance { _server: Some(server), ..instance }
}

/// An instance at a Redis that is there.
pub async fn on(url: &str) -> Instance {
    let instance = at(url, "wardcast");
    instance.becomes_ready().await;
    instance
}

/// An instance at a Redis that may be there, with deadlines that suit a test.
pub fn at(url: &str, prefix: &str) -> Instance {
    crate::support::trace::begin();
    let mut config = Config::default().broker.redis;
    config.url = Secret::new(url);
    config.prefix = prefix.to_owned();
    config.timeout = TIMEOUT;
    config.probe_interval = Duration::from_millis(500);
    let (hubs, metrics) = (Arc::new(Memo::default()), Arc::new(Metrics::default()));
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
    pub async fn keep(&self, name: &str, data: &str, retention: Retention) -> Position {
        let options = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
        self.broker.publish(publication(name, data), options).await.unwrap().position.unwrap()
    }

    /// Asks a history.
    pub async fn ask(&self, name: &str, request: HistoryRequest) -> History {
        self.broker.history(channel(name), request, FIVE).await.unwrap()
    }

    /// All that a history has.
    pub async fn all(&self, name: &str) -> Vec<(u64, String)> {
        offsets(&self.ask(name, ALL).await)
    }

    /// Time passes for what is kept.
    pub fn later(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The data that came on a channel so far.
    pub fn heard(&self, name: &str) -> Vec<String> {
        let received = self.hubs.received.lock();
        let of_channel = received.iter().filter(|publication| publication.channel.as_str() == name);
        of_channel.map(|publication| String::from_utf8(publication.data.to_vec()).unwrap()).collect()
    }

    pub fn received(&self) -> Vec<Publication> {
        self.hubs.received.lock().clone()
    }

    /// The orders that came so far.
    pub fn ordered(&self) -> Vec<Control> {
        self.hubs.ordered.lock().clone()
    }

    /// Waits until so many publications have come.
    pub async fn receives(&self, count: usize) -> Vec<Publication> {
        eventually(&format!("{count} publications"), async || self.hubs.received.lock().len() >= count).await;
        self.received()
    }

    pub async fn becomes_ready(&self) {
        eventually("ready", async || self.broker.ready().await.is_ok()).await;
    }

    /// Waits until it says that it is not; says why.
    pub async fn becomes_unready(&self) -> String {
        let mut why = None;
        eventually("not ready", async || {
            why = self.broker.ready().await.err();
            why.is_some()
        })
        .await;
        why.unwrap()
    }

    /// How many messages on the bus were refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let line = format!("wardcast_bus_refused_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

/// Publishes until it is heard, because until then nothing says that the subscription is back; in what time.
pub async fn hears_again(publisher: &Instance, subscriber: &Instance, name: &str) -> Duration {
    let since = Instant::now();
    let before = subscriber.heard(name).len();
    eventually(&format!("{name} is heard again"), async || {
        _ = publisher.publish(name, "\"again\"").await;
        subscriber.heard(name).len() > before
    })
    .await;
    since.elapsed()
}

/// Keeps five publications for a minute, and the position for an hour.
pub const FIVE: Retention = Retention { size: 5, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(3600) };

/// Asks for everything.
pub const ALL: HistoryRequest = HistoryRequest { since: None, limit: usize::MAX, is_reverse: false };

/// What a history has, in its order: offsets and data.
pub fn offsets(history: &History) -> Vec<(u64, String)> {
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
pub fn leave(user: &str) -> Control {
    let order = Order::Disconnect { code: 3503, reason: "force disconnect".to_owned() };
    Control { user: user.to_owned(), client: None, whitelist: Vec::new(), order }
}

/// Looks again every few milliseconds until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
