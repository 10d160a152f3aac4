//! What every broker does, except when the queue of a hub is full: in memory that is an error of the publish, which delivers
//! at once; over Redis the publisher does not learn of it, and the instance that drops the publication counts it.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, Control, ControlAction, NodeAnswer, PublishOptions, RecoverSince, SurveyResult},
    clock::WallTime,
    config::OptionOverrides,
    publication::{ClientInfo, Publication},
};

use super::fixture::{
    Instance, channel, client_info, disconnect_user, memory_instance, publication, redis_instance, wait_until,
};

pub async fn publication_reaches_subscriber_unchanged(instance: Instance) {
    instance.subscribe("news").await;
    let over_rest = ClientInfo { conn_info: None, ..client_info("") };
    let sent = [Some(client_info("c1").into()), Some(over_rest.into()), None]
        .map(|info| Publication { info, ..publication("news", "{\"text\":\"hé\"}") });
    for publication in sent.clone() {
        instance.broker.publish(publication, PublishOptions::default()).await.unwrap();
    }
    assert_eq!(instance.wait_for_publications(3).await, sent);
}

pub async fn only_subscribed_channels_are_delivered(instance: Instance) {
    instance.subscribe("news").await;
    instance.subscribe("left").await;
    instance.broker.unsubscribe(channel("left"));
    // Once this is confirmed, the unsubscribe before it has taken effect, too.
    instance.subscribe("after").await;
    for name in ["left", "never", "New", "news:1", "news"] {
        instance.publish(name, "1").await.unwrap();
    }
    instance.wait_for_publications(1).await;
    assert_eq!(instance.data_received("news"), ["1"]);
    assert_eq!(instance.received().len(), 1);
}

pub async fn publications_arrive_in_call_order(instance: Instance) {
    instance.subscribe("news").await;
    let publish = |n: u32| instance.publish_with("news", &n.to_string(), PublishOptions::default());
    let calls: Vec<_> = (0..1_000).map(publish).collect();
    // Awaited in reverse: the order of the calls counts.
    for published in join_all(calls.into_iter().rev()).await {
        published.unwrap();
    }
    instance.wait_for_publications(1_000).await;
    assert_eq!(instance.data_received("news"), (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub async fn last_call_decides_whether_a_channel_is_received(instance: Instance) {
    for round in 1..=20 {
        let first = instance.broker.subscribe(channel("on"));
        instance.broker.unsubscribe(channel("on"));
        let second = instance.broker.subscribe(channel("on"));
        let other = instance.broker.subscribe(channel("off"));
        instance.broker.unsubscribe(channel("off"));
        // Awaited in another order than they were called.
        other.await.unwrap();
        second.await.unwrap();
        first.await.unwrap();
        instance.subscribe(&format!("round{round}")).await;
        instance.publish("off", "1").await.unwrap();
        instance.publish("on", "1").await.unwrap();
        wait_until("a publication on the subscribed channel", async || instance.data_received("on").len() == round)
            .await;
        assert!(instance.data_received("off").is_empty());
    }
}

pub async fn every_valid_channel_name_works(instance: Instance) {
    let longest = "é".repeat(127) + "x";
    assert_eq!(longest.len(), 255);
    let braces = "{}%".repeat(85);
    let names = [
        "}",
        "{",
        "{}",
        "}{",
        "a{b}c",
        "%",
        "%7B",
        "%257D",
        "{%7d}",
        "a b",
        "чат",
        "日本",
        "👩‍🚀".trim_end_matches('👩'),
        "$private",
        "#",
        "a:b:c",
        "\"'\\",
        "c:{news}",
        "[x]?",
        &longest,
        &braces,
    ];
    // Some combinations of emoji are not valid names.
    let names: Vec<&str> = names.into_iter().filter(|name| wardcast::channel::Channel::new(name).is_ok()).collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in &names {
        instance.subscribe(name).await;
    }
    for (index, name) in names.iter().enumerate() {
        instance.publish(name, &index.to_string()).await.unwrap();
    }
    instance.wait_for_publications(names.len()).await;
    for (index, name) in names.iter().enumerate() {
        assert_eq!(instance.data_received(name), [index.to_string()], "{name:?}");
    }
}

pub async fn large_data_arrives(instance: Instance) {
    instance.subscribe("news").await;
    let data = format!("\"{}\"", "x".repeat(64 * 1024 - 2));
    assert_eq!(data.len(), 65_536);
    for _ in 0..50 {
        instance.publish("news", &data).await.unwrap();
    }
    let received = instance.wait_for_publications(50).await;
    assert!(received.iter().all(|publication| publication.data == data));
}

pub async fn survey_names_the_node_of_each_answer(instance: Instance) {
    let answer = NodeAnswer { node: instance.node(), answer: b"{\"news\":1}".to_vec() };
    let expected = SurveyResult { answers: vec![answer], unreachable: Vec::new() };
    for result in join_all((0..10).map(|_| instance.survey(Duration::from_secs(10)))).await {
        assert_eq!(result, Ok(expected.clone()));
    }
}

pub async fn survey_without_any_answer_is_an_error(instance: Instance) {
    instance.hubs.is_silent.store(true, Ordering::Relaxed);
    assert_eq!(instance.survey(Duration::from_millis(300)).await, Err(BrokerError::NoAnswer));
}

pub async fn stop_can_be_announced(instance: Instance) {
    assert_eq!(instance.broker.announce_stop().await, Ok(()));
}

pub async fn control_arrives_unchanged(instance: Instance) {
    let control = |action| Control {
        user: "ann \"ü\"".to_owned(),
        client: Some("c1".to_owned()),
        whitelist: vec!["c2".to_owned(), "c3".to_owned()],
        action,
    };
    let controls = [
        control(ControlAction::Subscribe {
            channel: "чат:日本 1".to_owned(),
            info: Some("{\"role\":\"é\"}".to_owned()),
            data: Some("null".to_owned()),
            recover_since: Some(RecoverSince { offset: u64::MAX, epoch: "abcdefgh".to_owned() }),
            expires_at: Some(WallTime::from_unix_millis(i64::MAX)),
            overrides: OptionOverrides { presence: Some(false), force_recovery: Some(true), ..Default::default() },
        }),
        control(ControlAction::Unsubscribe { channel: "чат:日本 1".to_owned() }),
        control(ControlAction::Disconnect { code: 3503, reason: "line\none".to_owned() }),
        control(ControlAction::Refresh {
            expires_at: Some(WallTime::from_unix_millis(1)),
            info: Some("{\"name\": 1}".to_owned()),
        }),
        Control {
            client: None,
            whitelist: Vec::new(),
            ..control(ControlAction::Refresh { expires_at: None, info: None })
        },
    ];
    for control in controls.clone() {
        instance.broker.send_control(control).await.unwrap();
    }
    assert_eq!(instance.wait_for_controls(controls.len()).await, controls);
}

pub async fn healthy_broker_is_ready(instance: Instance) {
    assert_eq!(instance.broker.check_ready().await, Ok(()));
}

#[tokio::test]
async fn in_memory_full_hub_queue_is_a_busy_error() {
    let instance = memory_instance();
    instance.subscribe("news").await;
    instance.hubs.has_full_queue.store(true, Ordering::Relaxed);
    assert_eq!(instance.publish("news", "1").await, Err(BrokerError::Busy));
    assert_eq!(instance.publish("unsubscribed", "1").await, Ok(()));
    assert_eq!(instance.broker.send_control(disconnect_user("ann")).await, Err(BrokerError::Busy));
}

#[tokio::test]
async fn over_redis_full_hub_queue_loses_only_what_does_not_fit() {
    let instance = redis_instance().await;
    instance.subscribe("news").await;
    instance.hubs.has_full_queue.store(true, Ordering::Relaxed);
    instance.publish("news", "1").await.unwrap();
    instance.broker.send_control(disconnect_user("ann")).await.unwrap();
    // The control takes the same way as the publication, which therefore has been dropped before it.
    wait_until("the control is dropped", async || instance.dropped_count("no_room_for_order") == 1).await;
    instance.hubs.has_full_queue.store(false, Ordering::Relaxed);
    instance.publish("news", "2").await.unwrap();
    instance.broker.send_control(disconnect_user("bob")).await.unwrap();
    instance.wait_for_publications(1).await;
    assert_eq!(instance.data_received("news"), ["2"]);
    assert_eq!(instance.wait_for_controls(1).await, [disconnect_user("bob")]);
}
