//! Messages of the bus that no node has sent, over each kind of PUB/SUB channel: they are dropped, counted by their reason, and
//! logged in one line per minute. Everything that a node sends is signed if there is a key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use uuid::Uuid;
use wardcast::{
    broker::{PresenceEvent, PublishOptions},
    config::Secret,
};

use crate::{
    broker::fixture::{
        Instance, KEEP_FIVE, channel, client_info, disconnect_user, publication, start_broker_with, wait_until,
    },
    support::{
        node::Node,
        poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
    },
};

const KEY: &str = "5a1f0c7e9b3d2468ace013579bdf2468";

/// The names of the PUB/SUB channels of an instance that has no other subscriptions than "news": one of each kind.
async fn names(server: &RedisServer) -> BTreeMap<&'static str, String> {
    let all: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:*"]).await;
    let kind = |name: &str| match name.split(':').nth(1).unwrap() {
        "c" => "data",
        "control" => "control",
        "replies" => "replies",
        "probe" => "probe",
        other => panic!("unknown kind of channel: {other}"),
    };
    let names: BTreeMap<_, _> = all.into_iter().map(|name| (kind(&name), name)).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    names
}

async fn start(server: &RedisServer, key: &str) -> Instance {
    let instance = start_broker_with(&server.url(), |config| config.bus_key = Secret::new(key));
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance
}

async fn assert_dropped(server: &RedisServer, instance: &Instance, name: &str, message: &[u8], reason: &str) {
    let before = instance.dropped_count(reason);
    assert_eq!(server.publish(name, message).await, 1, "{name}");
    wait_until(&format!("{reason} is counted for {name}"), async || instance.dropped_count(reason) == before + 1).await;
}

/// A valid message of each kind and form, without a signature.
fn valid_messages() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let client = b"\x06\0\0\0\x03ann\0\0\0\x01c\0\0\0\x011\0\0\0\x012".as_slice();
    let control =
        br#"WC.o{"user":"ann","client":null,"whitelist":[],"order":{"disconnect":{"code":3503,"reason":"go"}}}"#;
    let question = |question: &[u8]| [b"WC\x01q7777777777777777\0\0\0\x03a.1".as_slice(), question].concat();
    let heartbeat = |kind: u8| [b"WC\x01h\0\0\0\x03a.1\0\0\0\x01a\0\0\0\x04host".as_slice(), &[kind]].concat();
    vec![
        ("publication", "data", b"WC\x01p\0\0\0\x04news\0[1]".to_vec()),
        ("join", "data", [b"WC\x01j\0\0\0\x04news", client].concat()),
        ("leave", "data", [b"WC\x01l\0\0\0\x04news", client].concat()),
        ("history removed", "data", b"WC\x01d\0\0\0\x04news".to_vec()),
        ("control", "control", [b"WC\x01".as_slice(), &control[3..]].concat()),
        ("channels", "control", question(b"c")),
        ("info", "control", question(b"i")),
        ("inspection", "control", question(br#"x{"channel":"news"}"#)),
        ("revocations", "control", question(br#"r[{"target":"u:ann","expires_at":9000000000000}]"#)),
        ("hello", "control", heartbeat(b'h')),
        ("alive", "control", heartbeat(b'a')),
        ("goodbye", "control", heartbeat(b'g')),
        ("layout", "control", b"WC\x01y\0\0\0\x03a.1\0\0\0\0\0\0\x378".to_vec()),
        ("answer", "replies", b"WC\x01r7777777777777777\0\0\0\x03a.1\0\0\0\0\x01{}".to_vec()),
        ("commands", "replies", b"WC\x01e7777777777777777{}".to_vec()),
        ("receiver check", "replies", b"WC\x01n\0\0\0\0\0\0\0\0".to_vec()),
        ("probe", "probe", b"WC\x01n\0\0\0\0\0\0\x378".to_vec()),
    ]
}

fn nothing_was_obeyed(instance: &Instance) -> bool {
    instance.received().is_empty()
        && instance.controls().is_empty()
        && instance.hubs.commands.lock().is_empty()
        && instance.hubs.presence_events.lock().is_empty()
        && instance.hubs.revocations.is_empty()
        && instance.metrics.nodes.get() == 1
}

#[tokio::test]
async fn messages_that_are_not_ours_are_dropped_and_counted_on_each_kind_of_channel() {
    let server = RedisServer::start().await;
    let instance = start(&server, "").await;
    let names = names(&server).await;
    let mut random = vec![0; 4096];
    getrandom::fill(&mut random).unwrap();
    random[0] = b'\0';
    for name in names.values() {
        for (message, reason) in [
            (Vec::new(), "not_ours"),
            (b"W".to_vec(), "not_ours"),
            (b"garbage".to_vec(), "not_ours"),
            (random.clone(), "not_ours"),
            (vec![b'x'; 10 << 20], "too_long"),
            ([b"WC\x01p".as_slice(), &vec![0; 10 << 20]].concat(), "too_long"),
            (b"WC\x00p".to_vec(), "version"),
            (b"WC\x02p\0\0\0\x04news\0[1]".to_vec(), "version"),
            (b"WC\xffo{}".to_vec(), "version"),
            (b"WC\x01?".to_vec(), "kind"),
            (b"WC\x01S".to_vec(), "truncated"),
        ] {
            assert_dropped(&server, &instance, name, &message, reason).await;
        }
    }
    // A message of one kind means nothing on a channel of another.
    for (form, kind, message) in valid_messages() {
        for (other, name) in names.iter().filter(|(other, _)| **other != kind) {
            let is_probe = message[3] == b'n' && ["probe", "replies"].contains(other);
            if !is_probe {
                println!("{form} on {other}");
                assert_dropped(&server, &instance, name, &message, "misplaced").await;
            }
        }
    }
    assert!(nothing_was_obeyed(&instance));
    assert_eq!(instance.metrics.broker_reconnects.get(), 0);
    instance.broker.check_ready().await.unwrap();
    instance.publish("news", "1").await.unwrap();
    instance.wait_for_publications(1).await;
}

/// Every form, as it is recorded from an instance with another key, and without a signature.
#[tokio::test]
async fn every_form_is_dropped_and_counted_if_its_signature_is_missing_or_wrong() {
    let server = RedisServer::start().await;
    let instance = start(&server, KEY).await;
    let names = names(&server).await;
    for (form, kind, message) in valid_messages() {
        println!("{form}");
        assert_dropped(&server, &instance, &names[kind], &message, "unsigned").await;
        let signed = [b"WC\x01S".as_slice(), &[7; 32], &1_700_000_000_000_i64.to_be_bytes(), &message].concat();
        assert_dropped(&server, &instance, &names[kind], &signed, "forged").await;
        assert_dropped(&server, &instance, &names[kind], &signed[..20], "truncated").await;
    }
    // A script puts the position before what is signed.
    let position = b"WC\x01s\0\0\0\0\0\0\0\x07abcdefgh";
    let record = b"WC\x01p\0\0\0\x04news\0[1]";
    let forged = [b"WC\x01S".as_slice(), &[7; 40], record].concat();
    for (record, reason) in [(record.as_slice(), "unsigned"), (&forged, "forged")] {
        assert_dropped(&server, &instance, &names["data"], &[position, record].concat(), reason).await;
    }
    assert!(nothing_was_obeyed(&instance));
    instance.broker.check_ready().await.unwrap();
}

/// What all instances send to each other, over any channel, while they do everything that they can.
#[tokio::test]
async fn everything_that_an_instance_with_a_key_sends_is_signed() {
    let server = RedisServer::start().await;
    let mut recorder = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    recorder.psubscribe("wardcast:*").await.unwrap();
    let fast = |config: &mut wardcast::config::RedisConfig| {
        config.bus_key = Secret::new(KEY);
        config.heartbeat_interval = Duration::from_millis(100);
    };
    let (first, second) = (start_broker_with(&server.url(), fast), start_broker_with(&server.url(), fast));
    for instance in [&first, &second] {
        instance.wait_until_ready().await;
        instance.wait_for_nodes(2).await;
        instance.subscribe("news").await;
    }
    first.publish("news", "1").await.unwrap();
    first.store("news", "2").await;
    let once = PublishOptions { idempotency_key: Some("key".into()), ..PublishOptions::default() };
    first.broker.publish(publication("news", "3"), once.clone()).await.unwrap();
    let stored_once = PublishOptions { retention: Some(KEEP_FIVE), ..once };
    first.broker.publish(publication("news", "4"), stored_once).await.unwrap();
    for event in [PresenceEvent::Join, PresenceEvent::Leave] {
        let info = Arc::new(client_info("c"));
        first.broker.publish_presence_event(channel("news"), event, info).await.unwrap();
    }
    first.broker.remove_history(channel("news")).await.unwrap();
    first.broker.send_control(disconnect_user("ann")).await.unwrap();
    first.survey_all(Duration::from_secs(5)).await;
    let node = second.survey(Duration::from_secs(5)).await.unwrap().answers.remove(0).node;
    let commands = first.broker.send_commands(&node.uid, Uuid::from_u128(7), Bytes::from_static(b"{}"));
    assert_eq!(commands.await, Ok(true));
    second.broker.announce_stop().await.unwrap();

    let head = b"WC\x01S";
    let position = b"WC\x01s";
    let mut kinds: BTreeMap<char, usize> = BTreeMap::new();
    let mut messages = recorder.on_message();
    // The goodbye is the last one of these.
    while !kinds.contains_key(&'g') {
        let message = messages.next().await.unwrap();
        let bytes = message.get_payload_bytes();
        if message.get_channel_name() == "wardcast:publish-check" {
            // Shows that publishing works. Nothing subscribes to it, and it says nothing.
            assert!(bytes.is_empty());
            continue;
        }
        let signed = if bytes.starts_with(position) { &bytes[20..] } else { bytes };
        assert!(signed.starts_with(head), "{}: {}", message.get_channel_name(), bytes.escape_ascii());
        let kind = if bytes.starts_with(position) { 's' } else { char::from(signed[44 + 3]) };
        *kinds.entry(kind).or_default() += 1;
        if kind == 'h' && signed.last() == Some(&b'g') {
            kinds.insert('g', 1);
        }
    }
    println!("{kinds:?}");
    let sent: String = kinds.keys().collect();
    for kind in "deghjlnopqrsy".chars() {
        assert!(sent.contains(kind), "{kind} was not sent: {kinds:?}");
    }
}

/// The log of a real process has one line for a flood of messages.
#[actix_rt::test]
async fn flood_of_messages_that_are_not_ours_is_one_line_in_the_log() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let node = Node::start(&redis, &[]).await;
    let server = &redis.form.masters()[0];
    for number in 0..100 {
        let message = if number % 2 == 0 { b"garbage".as_slice() } else { b"WC\x02o{}" };
        assert_eq!(server.publish("wardcast:control", message).await, 1);
    }
    for reason in ["not_ours", "version"] {
        let name = format!("wardcast_bus_refused_total{{reason=\"{reason}\"}}");
        poll_until("all are counted", async || node.metric(&name).await == 50.0).await;
    }
    assert!(node.is_ready().await);
    node.begin_stop();
    let log = node.wait_for_exit().stderr;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("dropped bus messages")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("not_ours="), "{lines:?}");
}
