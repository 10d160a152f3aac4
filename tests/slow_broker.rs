//! Subscriptions while the broker is slow, or fails: a session and a hub around a broker that waits for the test.

use std::{collections::HashSet, rc::Rc, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use futures_util::{
    SinkExt, StreamExt,
    future::{BoxFuture, FutureExt, ready},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use uuid::Uuid;
use wardcast::{
    address::ClientAddress,
    auth::{Admission, HandshakeAuth, Permissions, Verifier},
    broker::{
        Broker, BrokerError, Control, HistoryPage, HistoryRequest, PresenceEvent, PublishOptions, PublishReceipt,
        Retention, SurveyQuestion, memory::MemoryBroker,
    },
    channel::Channel,
    clock::Clock,
    config::Config,
    connection_limit::{ConnectionLimit, KeyedLimit},
    hub::{
        BrokerSubscriptions, CheckHealth, Hub, Hubs, KeepAlive, Register, SessionControl, SessionKey, Subscribe,
        SubscribeError, Subscription, SubscriptionOptions, SubscriptionSource, Unsubscribe,
    },
    metrics::Metrics,
    protocol::Format,
    publication::{ClientInfo, Publication},
    session::{self, Services},
    transport::{Outbox, TransportLimits},
};

use crate::support::{self, PATIENCE, SECRET};

/// A memory broker that answers each `subscribe` and `read_history` only when the test lets it.
struct SlowBroker {
    inner: Arc<MemoryBroker>,
    answers: Arc<Semaphore>,
    calls: watch::Sender<Vec<&'static str>>,
    unsubscribed: watch::Sender<HashSet<Channel>>,
    /// A channel to which it cannot subscribe.
    failing: Mutex<Option<Channel>>,
}

impl SlowBroker {
    fn new(inner: MemoryBroker) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(inner),
            answers: Arc::new(Semaphore::new(0)),
            calls: watch::Sender::default(),
            unsubscribed: watch::Sender::default(),
            failing: Mutex::default(),
        })
    }

    /// Lets it answer so many calls.
    fn answer(&self, count: usize) {
        self.answers.add_permits(count);
    }

    async fn wait_for_calls(&self, expected: &[&str]) {
        wait_for(&self.calls, |calls| calls == expected).await;
    }

    async fn wait_for_unsubscribe(&self, channel: &str) {
        wait_for(&self.unsubscribed, |unsubscribed| unsubscribed.iter().any(|found| found.as_str() == channel)).await;
    }

    fn answer_later<T: Send + 'static>(
        &self,
        call: &'static str,
        result: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, BrokerError>> {
        self.calls.send_modify(|calls| calls.push(call));
        let answers = self.answers.clone();
        async move {
            answers.acquire().await.unwrap().forget();
            result.await
        }
        .boxed()
    }
}

async fn wait_for<T>(value: &watch::Sender<T>, is_met: impl FnMut(&T) -> bool) {
    timeout(PATIENCE, value.subscribe().wait_for(is_met)).await.expect("in time").unwrap();
}

impl Broker for SlowBroker {
    fn publish(
        &self,
        publication: Publication,
        options: PublishOptions,
    ) -> BoxFuture<'static, Result<PublishReceipt, BrokerError>> {
        self.inner.publish(publication, options)
    }

    /// What is published after the call is not in the result, as if the answer were slow on its way.
    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BoxFuture<'static, Result<HistoryPage, BrokerError>> {
        let page = self.inner.read_history(channel, request, retention).now_or_never().unwrap();
        self.answer_later("read_history", ready(page))
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.remove_history(channel)
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        info: Arc<ClientInfo>,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.publish_presence_event(channel, event, info)
    }

    fn add_presence(
        &self,
        channel: Channel,
        info: Arc<ClientInfo>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.add_presence(channel, info, ttl)
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.remove_presence(channel, client)
    }

    fn presence(&self, channel: Channel) -> BoxFuture<'static, Result<Vec<Arc<ClientInfo>>, BrokerError>> {
        self.inner.presence(channel)
    }

    fn subscribe(&self, channel: Channel) -> BoxFuture<'static, Result<(), BrokerError>> {
        let result = if self.failing.lock().as_ref() == Some(&channel) {
            ready(Err(BrokerError::Unavailable("as the test asks".to_owned()))).boxed()
        } else {
            self.inner.subscribe(channel)
        };
        self.answer_later("subscribe", result)
    }

    fn unsubscribe(&self, channel: Channel) {
        self.inner.unsubscribe(channel.clone());
        self.unsubscribed.send_modify(|unsubscribed| unsubscribed.extend([channel]));
    }

    fn survey(
        &self,
        question: SurveyQuestion,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<Vec<u8>>, BrokerError>> {
        self.inner.survey(question, deadline)
    }

    fn send_control(&self, control: Control) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.send_control(control)
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BoxFuture<'static, Result<(), BrokerError>> {
        self.inner.put_ticket(id, value, ttl)
    }

    fn take_ticket(&self, id: String) -> BoxFuture<'static, Result<Option<Bytes>, BrokerError>> {
        self.inner.take_ticket(id)
    }

    fn check_ready(&self) -> BoxFuture<'static, Result<(), String>> {
        self.inner.check_ready()
    }
}

async fn connected_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Ignores what a session would be asked to do.
struct SessionStub;

impl Actor for SessionStub {
    type Context = Context<Self>;
}

impl Handler<SessionControl> for SessionStub {
    type Result = ();

    fn handle(&mut self, _: SessionControl, _: &mut Self::Context) {}
}

/// One hub on this thread, with the sessions that a test starts.
struct Worker {
    services: Rc<Services>,
    broker: Arc<SlowBroker>,
    hub: Addr<Hub>,
    clock: Clock,
}

impl Worker {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = support::config();
        change(&mut config);
        let config = Arc::new(config);
        let (clock, metrics) = (Clock::default(), Arc::new(Metrics::default()));
        let hubs = Hubs::new(metrics.clone(), "node".into());
        let broker = SlowBroker::new(MemoryBroker::new(hubs.clone(), &config.limits, clock.clone()));
        let broker_subscriptions = BrokerSubscriptions::new(broker.clone(), Duration::ZERO);
        let hub = Hub::start_on_this_thread(&hubs, broker_subscriptions, &config, clock.clone(), metrics.clone());
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        let services = Rc::new(Services {
            hub: hub.clone(),
            broker: broker.clone(),
            verifier: Arc::new(Verifier::new(&config, permissions.clone(), clock.clone()).unwrap()),
            permissions,
            user_limit: KeyedLimit::new(0),
            clock: clock.clone(),
            metrics,
            config,
            node: "node".into(),
        });
        Self { services, broker, hub, clock }
    }

    /// A token with these claims for user ann; a number for a date counts from now.
    fn token(&self, mut claims: Value) -> String {
        claims["sub"] = json!("ann");
        claims["exp"] = json!(self.clock.now() / 1000 + claims["exp"].as_i64().unwrap());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        support::mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap())
    }

    /// A plain session of ann's, whose token has these claims beside its expiry.
    async fn connect(&self, mut claims: Value) -> Client {
        claims["exp"] = json!(3600);
        let claims = self.services.verifier.verify(&self.token(claims)).unwrap();
        let (client, server) = connected_sockets().await;
        let admission = Admission {
            auth: HandshakeAuth::Authenticated(Arc::new(claims)),
            format: Format::Json,
            has_native_pings: true,
            permit: ConnectionLimit::new(1, self.services.metrics.connections.clone()).acquire().unwrap(),
            address_permit: KeyedLimit::new(0).acquire(&ClientAddress::from(server.peer_addr().unwrap().ip())).unwrap(),
            user_permit: None,
            unauthenticated_permits: None,
        };
        session::start(server, BytesMut::new(), admission, self.services.clone());
        Client(WebSocketStream::from_raw_socket(client, Role::Client, None).await)
    }

    /// A session without an actor, known to the hub; and the client's end of its connection.
    async fn register(&self) -> (SessionKey, TcpStream) {
        let (client, server) = connected_sockets().await;
        let key = SessionKey::unique();
        self.hub.do_send(Register {
            key,
            outbox: Outbox::new(server, &TransportLimits::from(&*self.services.config)).unwrap(),
            keep_alive: KeepAlive::NativePing,
            user: Some("ann".into()),
            client: Uuid::new_v4(),
            format: Format::Json,
            controls: SessionStub.start().recipient(),
        });
        (key, client)
    }

    /// A request for channels without a reply.
    fn request(&self, key: SessionKey, channels: &[&str]) -> Subscribe {
        let subscription = |channel: &&str| {
            let (channel, options) = (Channel::new(channel).unwrap(), SubscriptionOptions::default());
            Subscription::new(channel, SubscriptionSource::Client, options, None)
        };
        Subscribe { key, subscriptions: channels.iter().map(subscription).collect(), reply: None }
    }

    async fn publish(&self, channel: &str, data: &'static str) {
        let channel = Channel::new(channel).unwrap();
        let retention = Retention::from_options(&self.services.config.channels);
        let publication = Publication::new(channel, Bytes::from_static(data.as_bytes()));
        self.broker.publish(publication, PublishOptions { retention, ..PublishOptions::default() }).await.unwrap();
        // The hub handles the message that woke it first.
        self.hub.send(CheckHealth).await.unwrap();
    }
}

/// The client's end of a plain session.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn send(&mut self, commands: &[Value]) {
        let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
        self.0.send(Message::text(lines.join("\n"))).await.unwrap();
    }

    /// The next frame with one reply or push.
    async fn receive(&mut self) -> Value {
        match timeout(PATIENCE, self.0.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")),
            other => panic!("{other:?}"),
        }
    }

    /// The code with which the connection is closed, whatever is sent before.
    async fn wait_for_close(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a message in time").unwrap().unwrap() {
                Message::Close(Some(frame)) => return frame.code.into(),
                Message::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A subscribe command; `options` are added to its channel.
fn subscribe(id: u32, channel: &str, mut options: Value) -> Value {
    options["channel"] = json!(channel);
    json!({"id": id, "subscribe": options})
}

fn error(id: u32, code: u32) -> impl Fn(&Value) -> bool {
    move |reply| reply["id"] == id && reply["error"]["code"] == code
}

#[actix_rt::test]
async fn subscription_token_that_expires_while_the_broker_is_slow_is_109_and_nothing_is_delivered() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let token = worker.token(json!({"channel": "news", "exp": 60}));
    client.send(&[subscribe(1, "news", json!({"token": token, "recover": true}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    worker.clock.advance(Duration::from_secs(61));
    worker.broker.answer(1);
    let reply = client.receive().await;
    assert!(error(1, 109)(&reply), "{reply}");
    worker.broker.wait_for_unsubscribe("news").await;
    worker.publish("news", "2").await;
    client.send(&[json!({"id": 2, "unsubscribe": {"channel": "news"}})]).await;
    assert_eq!(client.receive().await, json!({"id": 2, "unsubscribe": {}}), "no publication came before");

    let token = worker.token(json!({"channel": "news", "exp": 60}));
    worker.broker.answer(2);
    client.send(&[subscribe(3, "news", json!({"token": token}))]).await;
    let reply = client.receive().await;
    assert_eq!((&reply["id"], &reply["subscribe"]["offset"]), (&json!(3), &json!(2)), "{reply}");
}

#[actix_rt::test]
async fn server_side_subscription_that_expires_while_the_broker_is_slow_closes_with_3006() {
    let worker = Worker::start(|_| ());
    let expire_at = worker.clock.now() / 1000 + 60;
    let mut client = worker.connect(json!({"subs": {"news": {"override": {}, "expire_at": expire_at}}})).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.clock.advance(Duration::from_secs(61));
    worker.broker.answer(1);
    assert_eq!(client.wait_for_close().await, 3006);
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn second_of_two_subscribes_in_one_frame_is_105_and_publications_come_once() {
    let worker = Worker::start(|_| ());
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send(&[subscribe(1, "news", json!({})), subscribe(2, "news", json!({}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
    let reply = client.receive().await;
    assert!(error(2, 105)(&reply), "{reply}");
    for data in ["1", "2"] {
        worker.publish("news", data).await;
        assert_eq!(client.receive().await["push"]["pub"]["data"].to_string(), data);
    }
    client.send(&[json!({"id": 3, "unsubscribe": {"channel": "news"}})]).await;
    assert_eq!(client.receive().await, json!({"id": 3, "unsubscribe": {}}));
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn publications_delivered_while_the_history_is_read_follow_it() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send(&[subscribe(1, "news", json!({"recover": true}))]).await;
    worker.broker.answer(1);
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    worker.publish("news", "2").await;
    worker.broker.answer(1);
    let reply = client.receive().await["subscribe"].take();
    assert_eq!((&reply["recovered"], data(&reply)), (&json!(true), json!([1, 2])), "{reply}");
    worker.publish("news", "3").await;
    assert_eq!(client.receive().await["push"]["pub"]["data"], 3);
}

/// The catch-up buffer holds one delivery. Each time two are delivered the history has to be read again, three times at most.
#[actix_rt::test]
async fn history_is_read_again_if_too_much_is_delivered_and_recovery_fails_after_the_third_time() {
    for (outrun, is_recovered) in [(1, true), (2, true), (3, false)] {
        let worker = Worker::start(|config| {
            (config.channels.history_size, config.channels.force_recovery) = (10, true);
            config.limits.hub_queue_bytes = 4 * 200;
        });
        worker.publish("news", "1").await;
        let mut client = worker.connect(json!({})).await;
        assert!(client.receive().await["push"]["connect"].is_object());
        client.send(&[subscribe(1, "news", json!({"recover": true}))]).await;
        let mut expected = vec!["subscribe"];
        worker.broker.answer(1);
        for _ in 0..outrun {
            expected.push("read_history");
            worker.broker.wait_for_calls(&expected).await;
            worker.publish("news", "2").await;
            worker.publish("news", "3").await;
            worker.broker.answer(1);
        }
        worker.broker.answer(1);
        let reply = client.receive().await["subscribe"].take();
        assert_eq!(reply["recovered"].as_bool().unwrap_or_default(), is_recovered, "{reply}");
        let publications = data(&reply).as_array().map_or(0, Vec::len);
        assert_eq!(publications, if is_recovered { 1 + 2 * outrun } else { 0 }, "{reply}");
        assert_eq!(worker.broker.calls.borrow().len(), 1 + outrun + usize::from(is_recovered));
        worker.publish("news", "4").await;
        let push = client.receive().await["push"].take();
        if is_recovered {
            assert_eq!(push["pub"]["data"], 4);
        } else {
            assert_eq!(push["unsubscribe"]["code"], 2500, "what was outrun is a gap: {push}");
        }
    }
}

/// The data of the publications in a reply.
fn data(reply: &Value) -> Value {
    reply["publications"].as_array().map_or(Value::Null, |all| all.iter().map(|one| one["data"].clone()).collect())
}

#[actix_rt::test]
async fn concurrent_requests_of_one_session_subscribe_it_once() {
    let worker = Worker::start(|_| ());
    let (key, _client) = worker.register().await;
    let first = worker.hub.send(worker.request(key, &["news"]));
    let second = worker.hub.send(worker.request(key, &["news", "other"]));
    let both = tokio::spawn(async move { (first.await.unwrap(), second.await.unwrap()) });
    worker.broker.wait_for_calls(&["subscribe", "subscribe"]).await;
    worker.broker.answer(2);
    let results = timeout(PATIENCE, both).await.unwrap().unwrap();
    assert_eq!(results, (Ok(()), Err(SubscribeError::AlreadySubscribed)));
    worker.broker.wait_for_unsubscribe("other").await;
    assert!(worker.hub.send(Unsubscribe { key, channel: Channel::new("news").unwrap() }).await.unwrap());
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn failed_channel_releases_the_other_channels_of_its_request() {
    let worker = Worker::start(|_| ());
    *worker.broker.failing.lock() = Some(Channel::new("bad").unwrap());
    let (key, _client) = worker.register().await;
    worker.broker.answer(2);
    let result = worker.hub.send(worker.request(key, &["news", "bad"])).await.unwrap();
    assert!(matches!(result, Err(SubscribeError::Broker(BrokerError::Unavailable(_)))), "{result:?}");
    worker.broker.wait_for_unsubscribe("news").await;
    worker.broker.wait_for_unsubscribe("bad").await;

    worker.broker.failing.lock().take();
    worker.broker.answer(2);
    assert_eq!(worker.hub.send(worker.request(key, &["news", "bad"])).await.unwrap(), Ok(()));
}
