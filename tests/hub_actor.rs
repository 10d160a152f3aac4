//! The hub actor alone, without sessions, for an order of events that no client can bring about.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;
use wardcast::{
    broker::{Broker, Deliver, PublishOptions, Retention, memory::MemoryBroker},
    channel::Channel,
    clock::Clock,
    config::Config,
    hub::{
        BrokerSubscriptions, Hub, Hubs, KeepAlive, Register, SessionControl, SessionKey, Subscribe, Subscription,
        SubscriptionOptions, SubscriptionSource,
    },
    metrics::Metrics,
    protocol::Format,
    publication::Publication,
    transport::{Outbox, TransportLimits},
};

use crate::support::PATIENCE;

/// Stands in for the session of a subscriber.
struct SessionStub;

impl Actor for SessionStub {
    type Context = Context<Self>;
}

impl Handler<SessionControl> for SessionStub {
    type Result = ();

    fn handle(&mut self, _: SessionControl, _: &mut Self::Context) {}
}

/// The client's and the server's end of a connection.
async fn connected_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// A broker's queue may still hold a publication that the hub has meanwhile read from the history.
#[actix_rt::test]
async fn repeated_delivery_from_broker_is_sent_once() {
    let (config, clock, metrics) = (Config::default(), Clock::default(), Arc::new(Metrics::default()));
    let hubs = Hubs::new(metrics.clone(), "node");
    let broker = Arc::new(MemoryBroker::new(hubs.clone(), &config.limits, clock.clone()));
    let broker_subscriptions = BrokerSubscriptions::new(broker.clone(), Duration::ZERO);
    let hub = Hub::start_on_this_thread(&hubs, broker_subscriptions, &config, clock, metrics);
    let (mut client, server) = connected_sockets().await;
    let (key, channel) = (SessionKey::unique(), Channel::new("news").unwrap());
    hub.do_send(Register {
        key,
        outbox: Outbox::new(server, &TransportLimits::from(&config)).unwrap(),
        keep_alive: KeepAlive::NativePing,
        user: Some("ann".into()),
        client: Uuid::new_v4(),
        format: Format::Json,
        controls: SessionStub.start().recipient(),
    });
    let retention = Retention { size: 10, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(60) };
    let options =
        SubscriptionOptions { retention: Some(retention), is_positioned: true, ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription::new(channel.clone(), SubscriptionSource::Client, options)];
    hub.send(Subscribe { key, subscriptions, reply: None }).await.unwrap().unwrap();

    let kept = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
    let publication = |data: &'static str| Publication::new(channel.clone(), Bytes::from_static(data.as_bytes()));
    let first = broker.publish(publication("1"), kept.clone()).await.unwrap();
    hubs.deliver_publication(Publication { position: first.position, ..publication("\"repeated\"") }).unwrap();
    broker.publish(publication("2"), kept).await.unwrap();

    let mut received = String::new();
    while !received.contains(r#""data":2"#) {
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, client.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {received}");
        received += &String::from_utf8_lossy(&bytes[..read]);
    }
    assert!(received.contains(r#""data":1"#) && !received.contains("repeated"), "{received}");
    assert!(!received.contains("unsubscribe"), "{received}");
}
