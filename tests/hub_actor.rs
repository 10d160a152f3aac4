//! The hub actor alone, without sessions, for an order of events that no client can bring about.

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use wardcast::{
    broker::{Broker, Deliver, PublishOptions, Retention},
    channel::Channel,
    hub::{Subscribe, Subscription, SubscriptionOptions, SubscriptionSource},
    publication::Publication,
};

use crate::support::{PATIENCE, slow_broker::Worker};

/// A broker's queue may still hold a publication that the hub has meanwhile read from the history.
#[actix_rt::test]
async fn repeated_delivery_from_broker_is_sent_once() {
    let worker = Worker::start(|config| config.channels.history_size = 10);
    worker.broker.answer(2);
    let (key, mut client) = worker.register().await;
    let channel = Channel::new("news").unwrap();
    let retention = Retention::from_options(&worker.config().channels);
    let options = SubscriptionOptions { retention, is_positioned: true, ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription::new(channel.clone(), SubscriptionSource::Client, options)];
    worker.hub.send(Subscribe { key, subscriptions, reply: None }).await.unwrap().unwrap();

    let publication = |data: &'static str| Publication::new(channel.clone(), Bytes::from_static(data.as_bytes()));
    let stored = PublishOptions { retention, ..PublishOptions::default() };
    let first = worker.broker.publish(publication("1"), stored).await.unwrap();
    // At another time it would be another publication at this position.
    let time = worker.broker.stored(&channel, retention.unwrap()).await[0].time;
    let repeated = Publication { position: first.position, time, ..publication("\"repeated\"") };
    worker.hubs.deliver_publication(repeated).unwrap();
    worker.publish("news", "2").await;

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
