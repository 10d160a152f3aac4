//! One worker, hub and sessions included, around a broker that answers when the test lets it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use uuid::Uuid;
use wardcast::{
    address::ClientAddress,
    audit::AuditLog,
    auth::{
        Admission, Claims, CommandSource, HandshakeAuth, Permissions, VerificationQueue, Verifier,
        refusal_log::RefusalLog,
    },
    broker::{
        Broker, BrokerError, BrokerFuture, ChannelTop, Control, EventOutbox, HistoryPage, HistoryRequest, Login,
        LoginLimits, LoginRecord, LoginRefresh, LoginSelection, NodeIdentity, PositionResult, PresenceCount,
        PresenceEvent, PresentClient, PublishOptions, PublishReceipt, Retention, SharedLimits, SincePosition,
        SurveyQuestion, SurveyResult, UserLimit, memory::MemoryBroker,
    },
    channel::Channel,
    clock::{Clock, WallTime},
    config::{Config, LiveConfig},
    connection_limit::{ConnectionLimit, KeyedLimit},
    hub::{
        ApiGrants, BrokerSubscriptions, CheckHealth, Hub, Hubs, KeepAlive, RefusedAttempts, Register, SessionDetails,
        SessionKey, Subscribe, Subscription, SubscriptionOptions, SubscriptionSource,
    },
    metrics::{Metrics, QueueDepth},
    position::{Epoch, Position},
    protocol::Format,
    publication::{ClientInfo, Publication},
    revocation::{LoginId, Revocation, Revocations, TokenIdentity, TokenIds},
    session::{self, CommandCounters, Services},
    transport::{Outbox, TransportLimits},
};

pub use super::worker_client::Client;
use super::{
    PATIENCE, config,
    worker_client::{SessionStub, connected_sockets},
};

/// A memory broker that answers each `subscribe`, `read_history`, `presence`, `count_presence` and `find_logins` only when the test lets it.
pub struct SlowBroker {
    inner: Arc<MemoryBroker>,
    answers: Arc<Semaphore>,
    pub calls: watch::Sender<Vec<&'static str>>,
    unsubscribed: watch::Sender<HashSet<Channel>>,
    /// A channel to which it cannot subscribe.
    pub failing: Mutex<Option<Channel>>,
    /// Found by the next comparisons of positions, if it is not what is stored.
    pub top: Mutex<Option<ChannelTop>>,
    /// So many of the next reads of a history and of positions fail.
    pub failing_reads: AtomicUsize,
    /// The histories that were read so far.
    pub requests: Mutex<Vec<HistoryRequest>>,
    /// Questions for positions so far, each with its channels.
    pub position_queries: Mutex<Vec<Vec<Channel>>>,
    /// The calls so far that may have changed something.
    pub writes: Mutex<Vec<&'static str>>,
}

impl SlowBroker {
    fn new(inner: MemoryBroker) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(inner),
            answers: Arc::new(Semaphore::new(0)),
            calls: watch::Sender::default(),
            unsubscribed: watch::Sender::default(),
            failing: Mutex::default(),
            top: Mutex::default(),
            failing_reads: AtomicUsize::new(0),
            requests: Mutex::default(),
            position_queries: Mutex::default(),
            writes: Mutex::default(),
        })
    }

    /// Lets it answer so many calls.
    pub fn answer(&self, count: usize) {
        self.answers.add_permits(count);
    }

    pub async fn wait_for_calls(&self, expected: &[&str]) {
        wait_for(&self.calls, |calls| calls == expected).await;
    }

    pub async fn wait_for_unsubscribe(&self, channel: &str) {
        wait_for(&self.unsubscribed, |unsubscribed| unsubscribed.iter().any(|found| found.as_str() == channel)).await;
    }

    /// Stores a publication that reaches no hub.
    pub async fn lose(&self, publication: Publication, retention: Retention) {
        let channel = publication.channel.clone();
        self.inner.unsubscribe(channel.clone());
        let options = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
        self.inner.publish(publication, options).await.unwrap();
        self.inner.subscribe(channel).await.unwrap();
    }

    /// What is stored in a channel.
    pub async fn stored(&self, channel: &Channel, retention: Retention) -> Vec<Publication> {
        let request = HistoryRequest { limit: usize::MAX, ..HistoryRequest::default() };
        self.inner.read_history(channel.clone(), request, retention).await.unwrap().publications
    }

    /// The ids of the clients in the presence of a channel.
    pub async fn present(&self, channel: &str) -> Vec<String> {
        let present = self.inner.presence(Channel::new(channel).unwrap(), usize::MAX).await.unwrap();
        present.iter().map(|client| client.client.clone()).collect()
    }

    fn fails(&self) -> bool {
        self.failing_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
    }

    fn answer_later<T: Send + 'static>(
        &self,
        call: &'static str,
        result: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> BrokerFuture<T> {
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
    tokio::time::timeout(PATIENCE, value.subscribe().wait_for(is_met)).await.expect("in time").unwrap();
}

impl Broker for SlowBroker {
    fn publish(&self, publication: Publication, options: PublishOptions) -> BrokerFuture<PublishReceipt> {
        self.writes.lock().push("publish");
        self.inner.publish(publication, options)
    }

    /// What is published after the call is not in the result, as if the answer were slow on its way.
    fn read_history(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
    ) -> BrokerFuture<HistoryPage> {
        self.requests.lock().push(request);
        let page = if self.fails() {
            Err(BrokerError::Unavailable("as the test asks".to_owned()))
        } else {
            self.inner.read_history(channel, request, retention).now_or_never().unwrap()
        };
        self.answer_later("read_history", ready(page))
    }

    fn read_missed(
        &self,
        channel: Channel,
        request: HistoryRequest,
        retention: Retention,
        _: Option<SincePosition>,
    ) -> BrokerFuture<HistoryPage> {
        self.read_history(channel, request, retention)
    }

    fn read_positions(&self, channels: Vec<(Channel, Retention)>) -> BoxFuture<'static, Vec<PositionResult>> {
        self.position_queries.lock().push(channels.iter().map(|(channel, _)| channel.clone()).collect());
        if self.fails() {
            let error = BrokerError::Unavailable("as the test asks".to_owned());
            return ready(vec![Err(error); channels.len()]).boxed();
        }
        match *self.top.lock() {
            Some(top) => ready(vec![Ok(Some(top)); channels.len()]).boxed(),
            None => self.inner.read_positions(channels),
        }
    }

    fn renew_epoch(&self, channel: Channel, lost: Epoch) -> BrokerFuture<Option<Position>> {
        self.writes.lock().push("renew_epoch");
        self.inner.renew_epoch(channel, lost)
    }

    fn remove_history(&self, channel: Channel) -> BrokerFuture<()> {
        self.writes.lock().push("remove_history");
        self.inner.remove_history(channel)
    }

    fn publish_presence_event(
        &self,
        channel: Channel,
        event: PresenceEvent,
        info: Arc<ClientInfo>,
    ) -> BrokerFuture<()> {
        self.writes.lock().push("publish_presence_event");
        self.inner.publish_presence_event(channel, event, info)
    }

    fn add_presence(&self, channel: Channel, info: Arc<ClientInfo>, ttl: Duration) -> BrokerFuture<()> {
        self.writes.lock().push("add_presence");
        self.inner.add_presence(channel, info, ttl)
    }

    fn refresh_presence(&self, clients: Vec<PresentClient>, ttl: Duration) -> BrokerFuture<()> {
        self.writes.lock().push("refresh_presence");
        self.inner.refresh_presence(clients, ttl)
    }

    fn remove_presence(&self, channel: Channel, client: Arc<str>) -> BrokerFuture<()> {
        self.writes.lock().push("remove_presence");
        self.inner.remove_presence(channel, client)
    }

    fn presence(&self, channel: Channel, max_bytes: usize) -> BrokerFuture<Vec<Arc<ClientInfo>>> {
        self.answer_later("presence", self.inner.presence(channel, max_bytes))
    }

    fn count_presence(&self, channel: Channel) -> BrokerFuture<PresenceCount> {
        self.answer_later("count_presence", self.inner.count_presence(channel))
    }

    fn subscribe(&self, channel: Channel) -> BrokerFuture<()> {
        self.writes.lock().push("subscribe");
        let result = if self.failing.lock().as_ref() == Some(&channel) {
            ready(Err(BrokerError::Unavailable("as the test asks".to_owned()))).boxed()
        } else {
            self.inner.subscribe(channel)
        };
        self.answer_later("subscribe", result)
    }

    fn unsubscribe(&self, channel: Channel) {
        self.writes.lock().push("unsubscribe");
        self.inner.unsubscribe(channel.clone());
        self.unsubscribed.send_modify(|unsubscribed| unsubscribed.extend([channel]));
    }

    fn survey(&self, question: SurveyQuestion, deadline: Duration) -> BrokerFuture<SurveyResult> {
        self.inner.survey(question, deadline)
    }

    fn revoke(&self, revocations: Vec<Revocation>, timeout: Duration) -> BrokerFuture<Vec<NodeIdentity>> {
        self.writes.lock().push("revoke");
        self.inner.revoke(revocations, timeout)
    }

    fn confirm_revocations(&self, frozen_for: Duration) {
        self.inner.confirm_revocations(frozen_for);
    }

    fn announce_stop(&self) -> BrokerFuture<()> {
        self.inner.announce_stop()
    }

    fn send_control(&self, control: Control) -> BrokerFuture<()> {
        self.writes.lock().push("send_control");
        self.inner.send_control(control)
    }

    fn send_commands(&self, node: &str, session: Uuid, message: Bytes) -> BrokerFuture<bool> {
        self.writes.lock().push("send_commands");
        self.inner.send_commands(node, session, message)
    }

    fn put_ticket(&self, id: String, value: Bytes, ttl: Duration) -> BrokerFuture<()> {
        self.writes.lock().push("put_ticket");
        self.inner.put_ticket(id, value, ttl)
    }

    fn read_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        self.inner.read_ticket(id)
    }

    fn take_ticket(&self, id: String) -> BrokerFuture<Option<Bytes>> {
        self.writes.lock().push("take_ticket");
        self.inner.take_ticket(id)
    }

    fn start_login(&self, id: LoginId, login: Login, limits: LoginLimits) -> BrokerFuture<Vec<LoginRecord>> {
        self.writes.lock().push("start_login");
        self.inner.start_login(id, login, limits)
    }

    fn refresh_login(
        &self,
        id: LoginId,
        generation: u32,
        now: WallTime,
        limits: LoginLimits,
    ) -> BrokerFuture<LoginRefresh> {
        self.writes.lock().push("refresh_login");
        self.inner.refresh_login(id, generation, now, limits)
    }

    fn find_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        self.answer_later("find_logins", self.inner.find_logins(user_tag, selection))
    }

    fn end_logins(&self, user_tag: String, selection: LoginSelection) -> BrokerFuture<Vec<LoginRecord>> {
        self.writes.lock().push("end_logins");
        self.inner.end_logins(user_tag, selection)
    }

    fn shared_limits(&self) -> Option<Arc<dyn SharedLimits>> {
        None
    }

    fn event_outbox(&self) -> Arc<dyn EventOutbox> {
        unreachable!("no test asks for it")
    }

    fn queue_depths(&self) -> Vec<QueueDepth> {
        self.inner.queue_depths()
    }

    fn check_ready(&self) -> BrokerFuture<()> {
        self.inner.check_ready()
    }
}

/// One hub on this thread, with the sessions that a test starts.
pub struct Worker {
    pub services: Arc<Services>,
    pub broker: Arc<SlowBroker>,
    pub hubs: Arc<Hubs>,
    pub hub: Addr<Hub>,
    pub clock: Clock,
}

impl Worker {
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        let config = LiveConfig::new(config);
        let (live, config) = (config.clone(), config.snapshot());
        let (clock, metrics) = (Clock::default(), Arc::new(Metrics::default()));
        let (grants, revoked) = (ApiGrants::new(&config, clock.clone()), metrics.clone());
        let hubs = Hubs::new(
            metrics.clone(),
            "node",
            grants,
            Revocations::new(&config, clock.clone(), revoked),
            RefusedAttempts::new(&config.limits),
        );
        let broker = SlowBroker::new(MemoryBroker::new(hubs.clone(), &config.limits, clock.clone()));
        let broker_subscriptions = BrokerSubscriptions::new(broker.clone(), Duration::ZERO);
        let hub = Hub::start_on_this_thread(&hubs, broker_subscriptions, &config, clock.clone(), metrics.clone(), None);
        let permissions = Permissions::new(&config.channels, &config.namespaces);
        let permissions = Arc::new(permissions.without_revoked(hubs.revocations().clone()));
        let services = Arc::new(Services {
            hub: hub.clone(),
            broker: broker.clone(),
            verifier: Arc::new(Verifier::new(&config, permissions.clone(), clock.clone()).unwrap()),
            verifications: VerificationQueue::new(&config.limits, metrics.clone()),
            refusals: RefusalLog::new(live.clone(), AuditLog::disabled()),
            audit: AuditLog::disabled(),
            permissions,
            hooks: Arc::default(),
            user_limit: UserLimit::new(0, &*broker),
            api_grants: hubs.api_grants().clone(),
            refused_attempts: hubs.refused_attempts().clone(),
            clock: clock.clone(),
            command_counters: CommandCounters::new(&metrics),
            metrics,
            config: live,
            node: "node".into(),
        });
        Self { services, broker, hubs, hub, clock }
    }

    pub fn config(&self) -> Arc<Config> {
        self.services.config.snapshot()
    }

    /// Replaces the rules of the channels, as a reload of the configuration does.
    pub fn reload_channels(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.config());
        change(&mut config);
        self.services.permissions.replace_rules(&config.channels, &config.namespaces);
    }

    /// A plain session of ann's, whose token has these claims beside its expiry.
    pub async fn connect(&self, claims: Value) -> Client {
        let claims = self.services.verifier.verify(&self.token(claims)).unwrap();
        self.start_session(claims, b"").await
    }

    /// A plain session with verified claims, of a client that has sent these bytes with its handshake.
    pub async fn start_session(&self, claims: Claims, read: &[u8]) -> Client {
        let (client, server) = connected_sockets().await;
        let admission = Admission {
            client: Uuid::new_v4(),
            ip: [127, 0, 0, 1].into(),
            request_id: None,
            ids: TokenIds::default(),
            credential: None,
            auth: HandshakeAuth::Authenticated(Arc::new(claims)),
            format: Format::Json,
            connect_data: None,
            hook_headers: Default::default(),
            commands: CommandSource::WebSocket,
            head: Bytes::new(),
            has_native_pings: true,
            permit: ConnectionLimit::new(1, self.services.metrics.connections.clone()).acquire().unwrap(),
            address_permit: KeyedLimit::new(0).acquire(&ClientAddress::from(server.peer_addr().unwrap().ip())).unwrap(),
            user_permit: None,
            unauthenticated_permits: None,
        };
        session::start(server, BytesMut::from(read), admission, self.services.clone());
        Client(WebSocketStream::from_raw_socket(client, Role::Client, None).await)
    }

    /// A session without an actor, known to the hub; and the client's end of its connection.
    pub async fn register(&self) -> (SessionKey, TcpStream) {
        let ((client, server), key) = (connected_sockets().await, SessionKey::unique());
        self.hub.do_send(Register {
            key,
            outbox: Outbox::new(server, &TransportLimits::from(&*self.config())).unwrap(),
            keep_alive: KeepAlive::NativePing,
            warn_at: wardcast::clock::NEVER,
            owner: Some(("ann".into(), TokenIdentity::default())),
            client: Uuid::new_v4(),
            format: Format::Json,
            details: Box::new(SessionDetails {
                address: [127, 0, 0, 1].into(),
                connected_at: Clock::default().now(),
                credential: None,
                software: None,
            }),
            controls: SessionStub.start().recipient(),
        });
        (key, client)
    }

    /// A request for channels without a reply.
    pub fn request(&self, key: SessionKey, channels: &[&str]) -> Subscribe {
        let subscription = |channel: &&str| {
            let (channel, options) = (Channel::new(channel).unwrap(), SubscriptionOptions::default());
            Subscription::new(channel, SubscriptionSource::Client, options)
        };
        Subscribe { key, subscriptions: channels.iter().map(subscription).collect(), reply: None }
    }

    pub async fn publish(&self, channel: &str, data: &'static str) {
        self.publish_excluding(channel, data, None).await;
    }

    /// Publishes to all but this client.
    pub async fn publish_excluding(&self, channel: &str, data: &'static str, exclude: Option<Uuid>) {
        let channel = Channel::new(channel).unwrap();
        let retention = Retention::from_options(&self.config().channels);
        let data = Bytes::from_static(data.as_bytes());
        let publication = Publication { exclude, ..Publication::new(channel, data) };
        self.broker.publish(publication, PublishOptions { retention, ..PublishOptions::default() }).await.unwrap();
        // The hub handles the message that woke it first.
        self.hub.send(CheckHealth).await.unwrap();
    }
}
