//! `broker.redis.bus_key`: other writers on the same Redis, and changes of the key while the instances run.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use wardcast::config::{RedisConfig, Secret};

use super::fixture::{Instance, channel, client_info, disconnect_user, start_broker_with, wait_until};
use crate::support::redis::RedisServer;

const OLD: &str = "5a1f0c7e9b3d2468ace013579bdf2468";
const NEW: &str = "c0ffee1234567890abcdef0987654321";
const NEWS: &str = "wardcast:c:{news}";

/// Starts an instance whose configuration has these keys, subscribed to `news`.
async fn start(server: &RedisServer, key: &str, accepted: &str, accepts_unsigned: bool) -> Instance {
    let instance = start_broker_with(&server.url(), |config: &mut RedisConfig| {
        (config.bus_key, config.bus_key_accepted) = (Secret::new(key), Secret::new(accepted));
        config.bus_accept_unsigned = accepts_unsigned;
    });
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance
}

/// Waits until a call has dropped one more message for this reason.
async fn assert_dropped(instance: &Instance, reason: &str, call: impl AsyncFnOnce()) {
    let before = instance.dropped_count(reason);
    call().await;
    wait_until(&format!("{reason} is counted"), async || instance.dropped_count(reason) > before).await;
}

/// What the next call publishes on these PUB/SUB channels.
async fn record(server: &RedisServer, names: &[&str], call: impl AsyncFnOnce()) -> Vec<u8> {
    let mut subscriber = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    for name in names {
        subscriber.subscribe(name).await.unwrap();
    }
    call().await;
    subscriber.on_message().next().await.unwrap().get_payload_bytes().to_vec()
}

#[tokio::test]
async fn instances_with_a_key_deliver_to_each_other_and_drop_everything_else() {
    let server = RedisServer::start().await;
    let (first, second) = (start(&server, OLD, "", false).await, start(&server, OLD, "", false).await);
    first.wait_for_nodes(2).await;
    second.wait_for_nodes(2).await;
    first.publish("news", "1").await.unwrap();
    first.broker.send_control(disconnect_user("ann")).await.unwrap();
    for instance in [&first, &second] {
        instance.wait_for_publications(1).await;
        instance.wait_for_controls(1).await;
        let (answers, unreachable) = instance.survey_all(Duration::from_secs(10)).await;
        assert_eq!((answers.len(), unreachable), (2, 0));
    }

    assert_dropped(&first, "unsigned", async || {
        server.publish(NEWS, b"WC\x01p\0\0\0\x04news\x002").await;
    })
    .await;
    let stranger = start(&server, NEW, "", false).await;
    assert_dropped(&first, "forged", async || stranger.publish("news", "3").await.unwrap()).await;
    assert_dropped(&first, "forged", async || {
        stranger.broker.send_control(disconnect_user("bob")).await.unwrap();
    })
    .await;
    for instance in [&first, &second] {
        assert_eq!((instance.data_received("news"), instance.controls().len()), (vec!["1".to_owned()], 1));
        assert_eq!(instance.metrics.nodes.get(), 2, "heartbeats of the stranger are dropped, too");
    }
}

#[tokio::test]
async fn signed_message_is_worth_nothing_in_another_channel_or_changed() {
    let server = RedisServer::start().await;
    let instance = start(&server, OLD, "", false).await;
    instance.subscribe("other").await;
    let recorded = record(&server, &[NEWS], async || instance.publish("news", "1").await.unwrap()).await;
    assert_dropped(&instance, "other_channel", async || _ = server.publish("wardcast:c:{other}", &recorded).await)
        .await;
    assert_dropped(&instance, "misplaced", async || _ = server.publish("wardcast:control", &recorded).await).await;
    let mut changed = recorded.clone();
    *changed.last_mut().unwrap() = b'2';
    assert_dropped(&instance, "forged", async || _ = server.publish(NEWS, &changed).await).await;
    let command = async || instance.broker.send_control(disconnect_user("ann")).await.unwrap();
    let recorded = record(&server, &["wardcast:control"], command).await;
    instance.wait_for_controls(1).await;
    let (head, control) = recorded.split_at(recorded.len() - 1);
    assert_dropped(&instance, "forged", async || _ = server.publish("wardcast:control", head).await).await;
    assert!(!control.is_empty() && instance.data_received("other").is_empty());
    assert_eq!(instance.data_received("news"), ["1"]);
}

#[tokio::test]
async fn key_can_be_introduced_and_changed_without_losing_a_message() {
    let server = RedisServer::start().await;
    let steps =
        [("", "", false), (OLD, "", true), (OLD, "", false), (OLD, NEW, false), (NEW, OLD, false), (NEW, "", false)];
    let mut before = start(&server, "", "", false).await;
    for (step, (key, accepted, accepts_unsigned)) in steps.into_iter().enumerate() {
        let after = start(&server, key, accepted, accepts_unsigned).await;
        for (sender, receiver) in [(&before, &after), (&after, &before)] {
            let count = receiver.received().len();
            sender.publish("news", "1").await.unwrap();
            receiver.wait_for_publications(count + 1).await;
            sender.broker.send_control(disconnect_user("ann")).await.unwrap();
            receiver.wait_for_controls(receiver.controls().len().max(1)).await;
        }
        for instance in [&before, &after] {
            assert_eq!((instance.dropped_count("forged"), instance.dropped_count("unsigned")), (0, 0), "step {step}");
        }
        before = after;
    }
}

#[tokio::test]
async fn history_returns_only_what_is_signed_for_its_channel() {
    let server = RedisServer::start().await;
    let instance = start(&server, OLD, "", false).await;
    instance.store("news", "1").await;
    instance.store("other", "2").await;
    assert_eq!(instance.read_all("news").await, [(1, "1".to_owned())]);
    let unsigned = b"WC\x01p\0\0\0\x04news\x003".to_vec();
    let announced = [b"WC\x01s\0\0\0\0\0\0\0\x02abcdefgh".to_vec(), unsigned.clone()].concat();
    assert_dropped(&instance, "unsigned", async || _ = server.publish(NEWS, &announced).await).await;

    let mut redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let entries: Vec<(String, Vec<Vec<u8>>)> =
        redis::cmd("XRANGE").arg("wardcast:s:{other}").arg("-").arg("+").query_async(&mut redis).await.unwrap();
    let [time_name, time, record_name, record] = entries[0].1.as_slice() else { panic!("{entries:?}") };
    for (forged, reason) in [(&unsigned, "unsigned"), (record, "other_channel")] {
        let mut replace = redis::pipe();
        replace.cmd("DEL").arg("wardcast:s:{news}").ignore();
        replace.cmd("XADD").arg("wardcast:s:{news}").arg("1-0").arg(time_name).arg(time).arg(record_name).arg(forged);
        replace.query_async::<()>(&mut redis).await.unwrap();
        assert_dropped(&instance, reason, async || assert_eq!(instance.read_all("news").await, [])).await;
    }
    assert_eq!(instance.read_all("other").await, [(1, "2".to_owned())]);
    assert_eq!(instance.data_received("news"), ["1"]);
}

#[tokio::test]
async fn record_that_is_not_signed_takes_no_node_out_of_service() {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let start = |server: &RedisServer, key: &str| {
        start_broker_with(&server.url(), |config: &mut RedisConfig| {
            config.bus_key = Secret::new(key);
            config.heartbeat_interval = Duration::from_millis(100);
        })
    };
    let instance = start(&servers[0], OLD);
    let stranger = start(&servers[1], NEW);
    instance.wait_until_ready().await;
    stranger.wait_until_ready().await;
    let mut redis = redis::Client::open(servers[0].url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut elsewhere =
        redis::Client::open(servers[1].url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for (key, unsigned) in [("wardcast:layout", "1 version=0"), ("wardcast:servers", "1 servers=9")] {
        let mut get = redis::cmd("GET");
        let get = get.arg(key);
        let own: Vec<u8> = get.query_async(&mut redis).await.unwrap();
        let foreign: Vec<u8> = get.query_async(&mut elsewhere).await.unwrap();
        assert!(own.starts_with(b"WC") && foreign.starts_with(b"WC"));
        for (record, reason) in [(unsigned.as_bytes(), "unsigned"), (&foreign, "forged")] {
            assert_dropped(&instance, reason, async || {
                redis::cmd("SET").arg(key).arg(record).query_async::<()>(&mut redis.clone()).await.unwrap();
            })
            .await;
            wait_until("the record is replaced", async || {
                let stored: Vec<u8> = get.query_async(&mut redis.clone()).await.unwrap();
                stored.starts_with(b"WC") && stored != foreign
            })
            .await;
            instance.broker.check_ready().await.unwrap();
        }
        // One that was signed by a node and is stored again later.
        instance.clock.advance(Duration::from_secs(120));
        assert_dropped(&instance, "stale", async || {
            redis::cmd("SET").arg(key).arg(&own).query_async::<()>(&mut redis.clone()).await.unwrap();
        })
        .await;
        instance.wait_until_ready().await;
    }
}

#[tokio::test]
async fn presence_has_only_clients_that_are_signed_for_its_channel() {
    let server = RedisServer::start().await;
    let instance = start(&server, OLD, "", false).await;
    for (name, client) in [("news", "a"), ("other", "b")] {
        let stored =
            instance.broker.add_presence(channel(name), Arc::new(client_info(client)), Duration::from_secs(60));
        stored.await.unwrap();
    }
    let mut redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let recorded: Vec<u8> =
        redis::cmd("HGET").arg("wardcast:p:{other}").arg("b").query_async(&mut redis).await.unwrap();
    // What follows the signature and its time.
    let unsigned = &recorded[44..];
    assert!(unsigned.starts_with(b"WC"));
    for (client, record) in [("b", recorded.as_slice()), ("c", unsigned)] {
        let mut add = redis::pipe();
        add.cmd("HSET").arg("wardcast:p:{news}").arg(client).arg(record).ignore();
        add.cmd("ZADD").arg("wardcast:e:{news}").arg(1_u64 << 52).arg(client).ignore();
        add.query_async::<()>(&mut redis).await.unwrap();
    }
    let present = instance.broker.presence(channel("news"), usize::MAX).await.unwrap();
    assert_eq!(present.iter().map(|client| client.client.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!((instance.dropped_count("other_channel"), instance.dropped_count("unsigned")), (1, 1));
}
