//! Several instances on one Redis, and other writers on the same Redis.

use std::{sync::Arc, time::Duration};

use wardcast::{
    broker::{BrokerError, Control, ControlAction, redis::RedisBroker},
    clock::Clock,
    config::{Config, Secret},
};

use super::fixture::{
    RecordingHubs, channel, disconnect_user, redis_instance, start_broker, start_pair, start_ready_broker, wait_until,
    wait_until_delivered,
};
use crate::support::{mark_secret, redis::RedisServer};

const NEWS: &str = "wardcast:c:{news}";

#[tokio::test]
async fn instances_deliver_to_each_other() {
    let (_server, first, second) = start_pair().await;
    first.subscribe("news").await;
    second.subscribe("news").await;
    first.publish("news", "\"from first\"").await.unwrap();
    second.publish("news", "\"from second\"").await.unwrap();
    for instance in [&first, &second] {
        instance.wait_for_publications(2).await;
        assert_eq!(instance.data_received("news"), ["\"from first\"", "\"from second\""]);
    }
}

#[tokio::test]
async fn prefixes_separate_installations() {
    let server = RedisServer::start().await;
    let (one, other) = (start_broker(&server.url(), "one"), start_broker(&server.url(), "other"));
    for instance in [&one, &other] {
        instance.wait_until_ready().await;
        instance.subscribe("news").await;
    }
    one.publish("news", "1").await.unwrap();
    other.publish("news", "2").await.unwrap();
    one.wait_for_publications(1).await;
    other.wait_for_publications(1).await;
    assert_eq!((one.data_received("news"), other.data_received("news")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    let (answers, unreachable) = one.survey_all(Duration::from_secs(10)).await;
    assert_eq!((answers.len(), unreachable, one.metrics.nodes.get()), (1, 0, 1));
}

/// A control as JSON.
fn disconnect_control(code: u16, reason: &str) -> Vec<u8> {
    let action = ControlAction::Disconnect { code, reason: reason.to_owned() };
    serde_json::to_vec(&Control { action, ..disconnect_user("ann") }).unwrap()
}

#[tokio::test]
async fn controls_reach_every_instance_in_call_order() {
    let (_server, first, second) = start_pair().await;
    let controls: Vec<Control> = (0..100).map(|number| disconnect_user(&number.to_string())).collect();
    let calls: Vec<_> = controls.iter().map(|control| first.broker.send_control(control.clone())).collect();
    for sent in futures_util::future::join_all(calls.into_iter().rev()).await {
        sent.unwrap();
    }
    for instance in [&first, &second] {
        assert_eq!(instance.wait_for_controls(controls.len()).await, controls);
    }
}

#[tokio::test]
async fn control_without_a_listening_instance_is_an_error() {
    let server = RedisServer::start().await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-subscribe"]).await;
    let instance = start_broker(&server.url(), "wardcast");
    let sent = instance.broker.send_control(disconnect_user("ann")).await;
    assert!(matches!(&sent, Err(BrokerError::Unavailable(why)) if why.contains("no instance")), "{sent:?}");
}

#[tokio::test]
async fn forged_messages_are_dropped_and_counted() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    let own: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:[rp]*"]).await;
    let (mut probe, mut replies) = (own[0].as_str(), own[1].as_str());
    if probe.contains("replies") {
        (probe, replies) = (replies, probe);
    }
    let publication = |data: &[u8]| [b"WC\x01p\0\0\0\x04news\0".as_slice(), data].concat();
    assert_eq!(server.publish(NEWS, &publication(b"1")).await, 1, "a valid message is delivered");
    instance.wait_for_publications(1).await;
    let long = publication(&[b"\"".as_slice(), &vec![b'x'; 10 << 20], b"\""].concat());
    let answer = |instance: &[u8]| [b"WC\x01r".as_slice(), &[7; 16], instance, b"\0\0\0\0\x01{}"].concat();
    let control = |json: &[u8]| [b"WC\x01o".as_slice(), json].concat();
    let question = |question: &[u8]| [b"WC\x01q".as_slice(), &[7; 16], b"\0\0\0\x01x", question].concat();
    let endless = b"WC\x01p\xff\xff\xff\xffnews\0\x31".to_vec();
    for (name, message, reason) in [
        (NEWS, b"garbage".to_vec(), "not_ours"),
        (NEWS, Vec::new(), "not_ours"),
        (NEWS, b"WC\x02p\0\0\0\x04news\0\x31".to_vec(), "version"),
        (NEWS, b"WC\x01!\0\0\0\x04news\0\x31".to_vec(), "kind"),
        (NEWS, b"WC\x01p\0\0\0\x04news\x021".to_vec(), "flags"),
        (NEWS, b"WC\x01p\0\0\0\x05other\0\x31".to_vec(), "other_channel"),
        (NEWS, endless, "truncated"),
        (NEWS, long, "too_long"),
        (NEWS, publication(b"{\"a\":}"), "not_json"),
        (NEWS, publication(b"1\n2"), "not_json"),
        (NEWS, publication(b"\"\xff\""), "not_text"),
        ("wardcast:control", answer(b"\0\0\0\x01x"), "misplaced"),
        ("wardcast:control", control(b"{\"user\":\"ann\"}"), "order"),
        ("wardcast:control", control(&disconnect_control(3503, "{}")), "order"),
        ("wardcast:control", control(&disconnect_control(2999, "")), "order"),
        ("wardcast:control", control(&[b' '; 600_000]), "too_long"),
        ("wardcast:control", question(b"r[{\"target\":\"x:1\",\"expires_at\":1}]"), "revocations"),
        ("wardcast:control", question(b"r"), "revocations"),
        ("wardcast:control", question(b"!"), "question"),
        (NEWS, control(&disconnect_control(3503, "go")), "misplaced"),
        ("wardcast:control", publication(b"1"), "misplaced"),
        (replies, answer(b"\0\0\0\x01x"), "stray_answer"),
        (replies, answer(b"\0\0\0\0"), "instance"),
        (probe, b"WC\x01n\0\0\0\0\0\0\0\x01".to_vec(), "stray_probe"),
    ] {
        let before = instance.dropped_count(reason);
        assert_eq!(server.publish(name, &message).await, 1, "{name}");
        wait_until(&format!("{reason} is counted"), async || instance.dropped_count(reason) == before + 1).await;
    }
    assert!(instance.controls().is_empty());
    assert_eq!(server.publish("wardcast:control", &control(&disconnect_control(3503, "go"))).await, 1);
    assert_eq!(instance.wait_for_controls(1).await.len(), 1);
    wait_until_delivered(&instance, &instance, "news").await;
    let received = instance.data_received("news");
    assert!(received[0] == "1" && received[1..].iter().all(|data| data == "\"again\""), "{received:?}");
    assert_eq!(instance.metrics.broker_reconnects.get(), 0);
}

#[tokio::test]
async fn awkward_channel_names_do_not_meet_in_redis() {
    let instance = redis_instance().await;
    let longest = format!("{}a", "é".repeat(127));
    let names = [
        "{}",
        "}{",
        "{a}",
        "a",
        "{a",
        "a}",
        "%7Ba%7D",
        "%257Ba",
        "%",
        "a b",
        "\"a\"",
        "'a'",
        "a?",
        "[a]",
        "\\a",
        "wardcast:c:{a}",
        "$a",
        "a\\n",
        "a;FLUSHALL",
        "чат:日本",
        &longest,
    ];
    for name in names {
        instance.subscribe(name).await;
    }
    for (number, name) in names.into_iter().enumerate() {
        instance.publish(name, &number.to_string()).await.unwrap();
    }
    instance.wait_for_publications(names.len()).await;
    for (number, name) in names.into_iter().enumerate() {
        assert_eq!(instance.data_received(name), [number.to_string()], "{name}");
    }
}

#[tokio::test]
async fn message_over_the_size_limit_is_not_published() {
    let instance = redis_instance().await;
    let long = format!("\"{}\"", "x".repeat(3 << 20));
    assert!(instance.publish("news", &long).await.is_err());
    instance.publish("news", "1").await.unwrap();
}

#[test]
fn only_an_invalid_url_prevents_the_start() {
    for url in [
        "",
        "redis",
        "http://localhost",
        "redis://me:hunter22@host:port",
        "rediss://me:hunter22@localhost/#insecure",
        "redis://me@localhost",
    ] {
        let mut config = Config::default().broker.redis;
        config.url = Secret::new(url);
        mark_secret("hunter22");
        let hubs = Arc::new(RecordingHubs::default());
        let started = RedisBroker::start(&config, 1 << 20, hubs, Clock::default(), Arc::default());
        let why = started.err().map(|error| error.to_string()).unwrap();
        assert!(why.contains("broker.redis.") && !why.contains("hunter22"), "{why}");
        println!("{why}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_reported_without_the_password() {
    let server = RedisServer::start().await;
    let url = server.url().replace("redis://", &format!("redis://somebody:{}@", mark_secret("hunter22")));
    let instance = start_broker(&url, "wardcast");
    let why = instance.wait_for_outage("WRONGPASS").await;
    println!("{why}");
    assert!(!why.contains("hunter22"), "{why}");
    assert!(instance.broker.subscribe(channel("news")).await.is_err());
}
