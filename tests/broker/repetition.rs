//! Publications that come twice: under a key of the publisher's, or as a version that is there already.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, PublishOptions, Published, Retention, Version},
    position::Position,
};

use super::fixture::{FIVE, Instance, KEYS, memory, publication};

impl Instance {
    async fn once(&self, name: &str, data: &str, key: &str, retention: Option<Retention>) -> Published {
        let options = PublishOptions { retention, idempotency_key: Some(key.into()), ..PublishOptions::default() };
        self.broker.publish(publication(name, data), options).await.unwrap()
    }

    async fn state(&self, data: &str, number: u64, epoch: &str) -> Position {
        let version = Some(Version { number, epoch: epoch.into() });
        let options = PublishOptions { retention: Some(FIVE), version, ..PublishOptions::default() };
        self.broker.publish(publication("state", data), options).await.unwrap().position.unwrap()
    }
}

pub async fn a_key_publishes_once_in_its_channel_for_five_minutes(instance: Instance) {
    instance.subscribe("news").await;
    instance.subscribe("other").await;
    let first = instance.once("news", "1", "key", Some(FIVE)).await;
    instance.later(Duration::from_secs(299));
    assert_eq!(instance.once("news", "2", "key", Some(FIVE)).await, first);
    assert_eq!(instance.once("other", "3", "key", None).await, Published { position: None });
    assert_eq!(instance.once("other", "4", "key", None).await, Published { position: None });
    assert_ne!(instance.once("news", "5", "Key", Some(FIVE)).await, first);
    instance.later(Duration::from_secs(1));
    assert_ne!(instance.once("news", "6", "key", Some(FIVE)).await, first);
    instance.receives(4).await;
    assert_eq!(
        (instance.heard("news"), instance.heard("other")),
        (vec!["1".into(), "5".into(), "6".into()], vec!["3".into()])
    );
}

pub async fn of_many_with_one_key_at_once_one_is_published_and_all_get_its_answer(instance: Instance) {
    instance.subscribe("news").await;
    let instance = Arc::new(instance);
    for round in 1..=50 {
        let tries = (0..8).map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { instance.once("news", "1", &format!("key of {round}"), Some(FIVE)).await })
        });
        for published in join_all(tries).await {
            assert_eq!(published.unwrap().position.unwrap().offset, round);
        }
    }
    assert_eq!(instance.receives(50).await.len(), 50);
}

pub async fn a_key_that_failed_may_be_tried_again(instance: Instance) {
    instance.subscribe("news").await;
    instance.hubs.is_full.store(true, Ordering::Relaxed);
    let options = PublishOptions { idempotency_key: Some("key".into()), ..PublishOptions::default() };
    let failed = instance.broker.publish(publication("news", "1"), options).await;
    assert_eq!(failed, Err(BrokerError::Busy));
    instance.hubs.is_full.store(false, Ordering::Relaxed);
    instance.once("news", "2", "key", None).await;
    instance.receives(1).await;
    assert_eq!(instance.heard("news"), ["2"]);
}

pub async fn a_version_that_is_not_newer_is_left_out(instance: Instance) {
    instance.subscribe("state").await;
    let first = instance.state("a", 5, "x").await;
    assert_eq!(instance.state("b", 5, "x").await, first);
    assert_eq!(instance.state("c", 4, "x").await, first);
    assert_eq!(instance.state("d", u64::MAX, "x").await.offset, 2);
    // Of another epoch every number is new, and the old epoch is forgotten.
    assert_eq!(instance.state("e", 1, "y").await.offset, 3);
    assert_eq!(instance.state("f", 1, "x").await.offset, 4);
    // Without a version it is published, and changes nothing.
    assert_eq!(instance.keep("state", "g", FIVE).await.offset, 5);
    assert_eq!(instance.state("h", 1, "x").await.offset, 5);
    instance.receives(5).await;
    assert_eq!(instance.heard("state"), ["a", "d", "e", "f", "g"]);
}

#[tokio::test]
async fn in_memory_of_more_keys_than_the_limit_the_oldest_are_forgotten() {
    let instance = memory();
    for number in 0..=KEYS {
        instance.once("news", "1", &number.to_string(), Some(FIVE)).await;
    }
    let top = KEYS as u64 + 1;
    assert_eq!(instance.once("news", "1", "1", Some(FIVE)).await.position.unwrap().offset, 2, "it is known");
    assert_eq!(instance.once("news", "1", "0", Some(FIVE)).await.position.unwrap().offset, top + 1, "it is not");
}
