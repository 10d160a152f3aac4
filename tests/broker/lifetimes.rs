//! How long Redis keeps what the hub stores there.

use std::time::Duration;

use wardcast::{
    broker::{PublishOptions, Retention, Version},
    publication::Publication,
};

use super::{
    fixture::{KEEP_FIVE, WHOLE_HISTORY, channel, publication},
    redis_history::{META, STREAM, start},
};

#[tokio::test]
async fn everything_that_is_stored_has_a_lifetime() {
    let (server, instance) = start().await;
    let sent = Publication { use_delta: true, ..publication("news", "1") };
    let version = Some(Version { number: 1, epoch: "x".into() });
    let options = PublishOptions { retention: Some(KEEP_FIVE), idempotency_key: Some("key".into()), version };
    instance.broker.publish(sent, options).await.unwrap();
    let once = PublishOptions { idempotency_key: Some("key".into()), ..Default::default() };
    instance.publish_with("other", "1", once).await.unwrap();
    instance.read_history("read", WHOLE_HISTORY).await;
    let keys: Vec<String> = server.run(&["KEYS", "wardcast:*"]).await;
    assert!(keys.len() >= 5, "{keys:?}");
    for key in keys {
        assert!(server.run::<i64>(&["PTTL", &key]).await > 0, "{key}");
    }
    server.advance_clock("wardcast", Duration::from_secs(3_604));
    let keys: Vec<String> = server.run(&["KEYS", "wardcast:*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn history_and_its_position_live_as_long_as_the_retention_of_the_channel_says() {
    let (server, instance) = start().await;
    let seconds_left = async |key| server.run::<i64>(&["PTTL", key]).await.div_euclid(1_000);
    let assert_renewed = async |what: &str, ttl: i64| {
        let (stream, meta) = (seconds_left(STREAM).await, seconds_left(META).await);
        assert!(
            (ttl - 1..=ttl * 17 / 16).contains(&stream) && (3_599..=3_640).contains(&meta),
            "{what}: {stream}, {meta}"
        );
    };
    for number in 1..=20 {
        instance.store("news", &number.to_string()).await;
        assert_renewed("publications that follow each other", 60).await;
        server.advance_clock("wardcast", Duration::from_secs(1));
    }
    server.advance_clock("wardcast", Duration::from_secs(64));
    instance.store("news", "1").await;
    assert_renewed("the stream had expired", 60).await;
    server.run::<()>(&["DEL", STREAM]).await;
    instance.store("news", "1").await;
    assert_renewed("another client has removed the stream", 60).await;
    instance.broker.remove_history(channel("news")).await.unwrap();
    instance.store("news", "1").await;
    assert_renewed("the history was removed", 60).await;
    server.run::<()>(&["DEL", META]).await;
    instance.store("news", "1").await;
    assert_renewed("another client has removed the position", 60).await;
    let retention = Retention { ttl: Duration::from_secs(600), ..KEEP_FIVE };
    instance.store_with("news", "1", retention).await;
    assert_renewed("a publication has changed the retention", 600).await;
    instance.store("news", "1").await;
    instance.broker.read_history(channel("news"), WHOLE_HISTORY, retention).await.unwrap();
    instance.store_with("news", "1", retention).await;
    assert_renewed("a reader has changed the retention", 600).await;
}
