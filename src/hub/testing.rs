//! A hub with connected sessions, for the tests of its modules.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use uuid::Uuid;

use super::{
    ApiGrants, BrokerSubscriptions, Hub, Hubs, KeepAlive, RefusedAttempts, Register, SessionControl, SessionDetails,
    SessionKey, Subscribe, Subscription, SubscriptionOptions, SubscriptionSource,
};
use crate::{
    broker::SharedBroker,
    channel::Channel,
    clock::{Clock, NEVER},
    config::Config,
    metrics::Metrics,
    protocol::Format,
    revocation::{Revocations, TokenIdentity},
    transport::{Outbox, Socket, TransportLimits},
};

/// Runs the hub's periodic work so many times, without waiting for the time to pass.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RunTicks(pub(super) u32);

impl Handler<RunTicks> for Hub {
    type Result = ();

    fn handle(&mut self, RunTicks(count): RunTicks, ctx: &mut Self::Context) {
        (0..count).for_each(|_| self.on_tick(ctx));
    }
}

/// A session actor that ignores every control.
struct IgnoreControls;

impl Actor for IgnoreControls {
    type Context = Context<Self>;
}

impl Handler<SessionControl> for IgnoreControls {
    type Result = ();

    fn handle(&mut self, _: SessionControl, _: &mut Self::Context) {}
}

/// A session of a hub, and the client's end of its connection.
pub(super) struct TestSession {
    pub(super) key: SessionKey,
    pub(super) outbox: Arc<Outbox>,
    /// Its client id.
    pub(super) id: Uuid,
    client: TcpStream,
}

impl TestSession {
    /// Registers a session of the user `ann`.
    pub(super) async fn connect(hub: &Addr<Hub>) -> Self {
        Self::connect_as("ann", hub).await
    }

    /// Registers a session of a user.
    pub(super) async fn connect_as(user: &str, hub: &Addr<Hub>) -> Self {
        Self::connect_over(user, hub, |socket| socket).await
    }

    /// Registers a session of a user on a socket that `wrap` makes of its end of the connection.
    pub(super) async fn connect_over<S: Socket>(
        user: &str,
        hub: &Addr<Hub>,
        wrap: impl FnOnce(TcpStream) -> S,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let outbox = Outbox::new(wrap(server), &TransportLimits::from(&Config::default())).unwrap();
        let (key, id) = (SessionKey::unique(), Uuid::new_v4());
        let register = Register {
            key,
            outbox: outbox.clone(),
            keep_alive: KeepAlive::NativePing,
            warn_at: NEVER,
            owner: Some((user.into(), TokenIdentity::default())),
            client: id,
            format: Format::Json,
            details: Box::new(SessionDetails {
                address: [127, 0, 0, 1].into(),
                connected_at: Clock::default().now(),
                credential: None,
                software: None,
            }),
            controls: IgnoreControls.start().recipient(),
        };
        hub.send(register).await.unwrap();
        Self { key, outbox, id, client }
    }

    /// Subscribes to a channel.
    pub(super) async fn subscribe(&self, channel: &Channel, hub: &Addr<Hub>) {
        let (source, options) = (SubscriptionSource::Client, SubscriptionOptions::default());
        let subscriptions = vec![Subscription::new(channel.clone(), source, options)];
        hub.send(Subscribe { key: self.key, subscriptions, reply: None }).await.unwrap().unwrap();
    }

    /// Reads until the client has received `text`.
    pub(super) async fn read_until(&mut self, text: &str) {
        let mut bytes = Vec::new();
        while !String::from_utf8_lossy(&bytes).contains(text) {
            let read = timeout(Duration::from_secs(10), self.client.read_buf(&mut bytes)).await;
            assert_ne!(read.expect(text).unwrap(), 0, "the server has ended the connection");
        }
    }

    /// Everything that the client receives until the server ends the connection.
    pub(super) async fn read_until_close(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.client.read_to_end(&mut bytes);
        timeout(Duration::from_secs(10), read).await.expect("an end").unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The handle of no hubs.
pub(super) fn test_hubs() -> Arc<Hubs> {
    test_hubs_at(&Clock::default())
}

/// The handle of no hubs, whose keys and revocations end by this clock.
pub(super) fn test_hubs_at(clock: &Clock) -> Arc<Hubs> {
    let (config, metrics) = (Config::default(), Arc::new(Metrics::default()));
    let revocations = Revocations::new(&config, clock.clone(), metrics.clone());
    let refused = RefusedAttempts::new(&config.limits);
    Hubs::new(metrics, "node", ApiGrants::new(&config, Clock::default()), revocations, refused)
}

/// Starts a hub with the default configuration on this thread, and makes it one of `hubs`.
pub(super) fn start_hub(hubs: &Hubs, broker: SharedBroker) -> Addr<Hub> {
    start_hub_at(&Clock::default(), hubs, broker)
}

/// Starts a hub as [`start_hub`] does, with this clock.
pub(super) fn start_hub_at(clock: &Clock, hubs: &Hubs, broker: SharedBroker) -> Addr<Hub> {
    let subscriptions = BrokerSubscriptions::new(broker, Duration::ZERO);
    let metrics = Arc::new(Metrics::default());
    Hub::start_on_this_thread(hubs, subscriptions, &Config::default(), clock.clone(), metrics, None)
}
