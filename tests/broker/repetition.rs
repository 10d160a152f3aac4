//! Repeated publications: with an idempotency key, or with a version that is not newer.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, PublishOptions, PublishReceipt, Version},
    position::Position,
};

use super::fixture::{Instance, KEEP_FIVE, KEYS, memory_instance};

impl Instance {
    /// Publishes with an idempotency key into the history of "news".
    async fn store_once(&self, data: &str, key: &str) -> Position {
        let options = PublishOptions { retention: Some(KEEP_FIVE), ..with_key(key) };
        self.publish_with("news", data, options).await.unwrap().position.unwrap()
    }

    async fn publish_version(&self, data: &str, number: u64, epoch: &str) -> Position {
        let version = Some(Version { number, epoch: epoch.into() });
        let options = PublishOptions { retention: Some(KEEP_FIVE), version, ..PublishOptions::default() };
        self.publish_with("state", data, options).await.unwrap().position.unwrap()
    }
}

fn with_key(key: &str) -> PublishOptions {
    PublishOptions { idempotency_key: Some(key.into()), ..PublishOptions::default() }
}

pub async fn idempotency_key_publishes_once_per_channel_for_five_minutes(instance: Instance) {
    instance.subscribe("news").await;
    instance.subscribe("other").await;
    let first = instance.store_once("1", "key").await;
    instance.advance_clock(Duration::from_secs(299));
    assert_eq!(instance.store_once("2", "key").await, first);
    for data in ["3", "4"] {
        let receipt = instance.publish_with("other", data, with_key("key")).await;
        assert_eq!(receipt, Ok(PublishReceipt { position: None }));
    }
    assert_ne!(instance.store_once("5", "Key").await, first);
    instance.advance_clock(Duration::from_secs(1));
    assert_ne!(instance.store_once("6", "key").await, first);
    instance.wait_for_publications(4).await;
    assert_eq!(
        (instance.data_received("news"), instance.data_received("other")),
        (vec!["1".into(), "5".into(), "6".into()], vec!["3".into()])
    );
}

pub async fn concurrent_publishes_with_one_key_publish_once_and_share_the_receipt(instance: Instance) {
    instance.subscribe("news").await;
    let instance = Arc::new(instance);
    for round in 1..=50 {
        let tries = (0..8).map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { instance.store_once("1", &format!("key of {round}")).await })
        });
        for published in join_all(tries).await {
            assert_eq!(published.unwrap().offset, round);
        }
    }
    assert_eq!(instance.wait_for_publications(50).await.len(), 50);
}

pub async fn publication_with_an_old_version_is_skipped(instance: Instance) {
    instance.subscribe("state").await;
    let first = instance.publish_version("1", 5, "x").await;
    assert_eq!(instance.publish_version("2", 5, "x").await, first);
    assert_eq!(instance.publish_version("3", 4, "x").await, first);
    assert_eq!(instance.publish_version("4", u64::MAX, "x").await.offset, 2);
    // Every number of another version epoch is new, and the history forgets the old epoch.
    assert_eq!(instance.publish_version("5", 1, "y").await.offset, 3);
    assert_eq!(instance.publish_version("6", 1, "x").await.offset, 4);
    // A publication without a version is published, and leaves the newest version unchanged.
    assert_eq!(instance.store("state", "7").await.offset, 5);
    assert_eq!(instance.publish_version("8", 1, "x").await.offset, 5);
    instance.wait_for_publications(5).await;
    assert_eq!(instance.data_received("state"), ["1", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn in_memory_oldest_idempotency_keys_over_the_limit_are_dropped() {
    let instance = memory_instance();
    for number in 0..=KEYS {
        instance.store_once("1", &number.to_string()).await;
    }
    assert_eq!(instance.store_once("1", "1").await.offset, 2, "the key is known");
    assert_eq!(instance.store_once("1", "0").await.offset, KEYS as u64 + 2, "the key has been dropped");
}

#[tokio::test]
async fn in_memory_failed_publish_does_not_store_its_idempotency_key() {
    let instance = memory_instance();
    instance.subscribe("news").await;
    instance.hubs.has_full_queue.store(true, Ordering::Relaxed);
    assert_eq!(instance.publish_with("news", "1", with_key("key")).await, Err(BrokerError::Busy));
    instance.hubs.has_full_queue.store(false, Ordering::Relaxed);
    instance.publish_with("news", "2", with_key("key")).await.unwrap();
    instance.wait_for_publications(1).await;
    assert_eq!(instance.data_received("news"), ["2"]);
}
