//! How long Redis keeps what the hub stores there.

use std::time::Duration;

use wardcast::{
    broker::{HistoryRequest, PublishOptions, Retention, Version},
    publication::Publication,
};

use super::{
    fixture::{KEEP_FIVE, WHOLE_HISTORY, channel, publication},
    redis_history::{META, STREAM, start, store_five},
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
    let mut keys: Vec<String> = server.run(&["KEYS", "wardcast:*"]).await;
    // A living node renews its claims again and again.
    keys.retain(|key| !["wardcast:layout", "wardcast:servers"].contains(&key.as_str()));
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

/// A publication that follows soon does not renew the lifetime.
#[tokio::test]
async fn position_outlives_a_publication_by_its_lifetime_whatever_has_used_it_before() {
    let (server, instance) = start().await;
    let version = Some(Version { number: 1, epoch: "x".into() });
    let versioned = PublishOptions { retention: Some(KEEP_FIVE), version, ..PublishOptions::default() };
    instance.publish_with("news", "0", versioned.clone()).await.unwrap();
    for user in ["reader", "subscription", "comparison", "old version"] {
        server.advance_clock("wardcast", Duration::from_secs(10));
        instance.store("news", "1").await;
        let position = HistoryRequest::default();
        match user {
            "reader" => drop(instance.read_history("news", WHOLE_HISTORY).await),
            "subscription" => drop(instance.read_history("news", position).await),
            "comparison" => drop(instance.broker.read_positions(vec![(channel("news"), KEEP_FIVE)]).await),
            _ => drop(instance.publish_with("news", "0", versioned.clone()).await.unwrap()),
        }
        server.advance_clock("wardcast", Duration::from_secs(3));
        instance.store("news", "2").await;
        let left: i64 = server.run(&["PTTL", META]).await;
        assert!(left > 3_600_000, "{user}: {left} ms");
    }
}

#[tokio::test]
async fn expired_publications_leave_redis_while_others_follow() {
    const TRIM_INTERVAL: usize = 64;
    let (server, instance) = start().await;
    let retention = Retention { size: 1_000, ..KEEP_FIVE };
    let store = async |count| {
        for _ in 0..count {
            instance.store_with("news", "1", retention).await;
        }
        server.run::<usize>(&["XLEN", STREAM]).await
    };
    let (part, expired) = (retention.ttl / 2, TRIM_INTERVAL / 2);
    assert_eq!(store(expired).await, expired);
    server.advance_clock("wardcast", part);
    // Also extends the lifetime of the stream.
    assert_eq!(store(TRIM_INTERVAL - expired - 1).await, TRIM_INTERVAL - 1);
    server.advance_clock("wardcast", part);
    assert_eq!(server.run::<usize>(&["XLEN", STREAM]).await, TRIM_INTERVAL - 1);
    assert_eq!(store(1).await, TRIM_INTERVAL - expired);
}

#[tokio::test]
async fn position_that_is_compared_outlives_its_lifetime() {
    let (server, instance) = start().await;
    let last = store_five(&instance).await;
    for _ in 0..2 {
        server.advance_clock("wardcast", KEEP_FIVE.meta_ttl - Duration::from_secs(60));
        let found = instance.broker.read_positions(vec![(channel("news"), KEEP_FIVE)]).await.remove(0);
        assert_eq!(found.unwrap().map(|top| top.position), Some(last));
    }
}

#[tokio::test]
async fn shorter_retention_applies_to_what_is_stored_from_the_next_read_on() {
    let (server, instance) = start().await;
    store_five(&instance).await;
    let read = async |retention: Retention| {
        let page = instance.broker.read_history(channel("news"), WHOLE_HISTORY, retention).await.unwrap();
        page.publications.into_iter().map(|publication| publication.position.unwrap().offset).collect::<Vec<_>>()
    };
    let few = Retention { size: 2, ..KEEP_FIVE };
    assert_eq!(read(few).await, [4, 5]);
    assert_eq!(read(KEEP_FIVE).await, [4, 5], "the others are gone");
    server.advance_clock("wardcast", KEEP_FIVE.ttl / 2);
    assert!(read(Retention { ttl: KEEP_FIVE.ttl / 3, ..few }).await.is_empty());
    assert!(read(KEEP_FIVE).await.is_empty());
}

#[tokio::test]
async fn versions_end_with_the_epoch_that_another_client_has_removed() {
    let (server, instance) = start().await;
    let store = async |number| {
        let version = Some(Version { number, epoch: "x".into() });
        let options = PublishOptions { retention: Some(KEEP_FIVE), version, ..PublishOptions::default() };
        instance.publish_with("news", "1", options).await.unwrap().position.unwrap()
    };
    let first = store(5).await;
    server.run::<()>(&["HDEL", META, "e"]).await;
    assert!(instance.read_all("news").await.is_empty());
    let second = store(1).await;
    assert!(second.epoch != first.epoch && second.offset == 1, "{second:?}");
    assert_eq!(instance.read_all("news").await, [(1, "1".to_owned())]);
}
