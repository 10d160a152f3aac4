//! The presence of a channel, and the joins and leaves that subscribers receive.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{PresenceCount, PresenceEvent, PresentClient},
    config::Secret,
    publication::ClientInfo,
};

use super::fixture::{
    Instance, channel, client_info, redis_instance, start_broker, start_broker_with, start_pair, start_ready_broker,
    wait_until,
};
use crate::support::redis::RedisServer;

const MINUTE: Duration = Duration::from_secs(60);
/// A time to live whose end a test waits for.
const SHORT: Duration = Duration::from_secs(1);

impl Instance {
    async fn add_presence(&self, name: &str, client: &str, ttl: Duration) {
        self.broker.add_presence(channel(name), client_info(client).into(), ttl).await.unwrap();
    }

    async fn remove_presence(&self, name: &str, client: &str) {
        self.broker.remove_presence(channel(name), client.into()).await.unwrap();
    }

    pub(super) async fn present_clients(&self, name: &str) -> Vec<String> {
        let present = self.broker.presence(channel(name), usize::MAX).await.unwrap();
        let mut clients: Vec<String> = present.iter().map(|present| present.client.clone()).collect();
        clients.sort_unstable();
        clients
    }

    async fn count_presence(&self, name: &str) -> (usize, usize) {
        let PresenceCount { clients, users } = self.broker.count_presence(channel(name)).await.unwrap();
        (clients, users)
    }

    /// Waits until exactly these clients are present.
    async fn wait_for_presence(&self, name: &str, expected: &[&str]) {
        wait_until(&format!("presence of {expected:?}"), async || self.present_clients(name).await == expected).await;
    }
}

fn client_of(user: &str, client: &str) -> Arc<ClientInfo> {
    Arc::new(ClientInfo { user: user.to_owned(), ..client_info(client) })
}

/// So many clients of 100 users in a channel.
pub(super) fn crowd(name: &str, clients: usize) -> Vec<PresentClient> {
    let client = |number| client_of(&format!("user-{}", number % 100), &format!("client-{number}"));
    (0..clients).map(|number| (channel(name), client(number))).collect()
}

/// The keys in which Redis stores presence.
async fn presence_keys(server: &RedisServer) -> Vec<String> {
    server.run(&["KEYS", "wardcast:[pe]:*"]).await
}

/// How often Redis has run a command.
async fn calls(server: &RedisServer, command: &str) -> usize {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Their keys may be on several servers, and in many slots.
pub async fn presence_of_many_channels_is_stored_in_one_call(instance: Instance) {
    let names: Vec<String> = (0..60).map(|number| format!("room-{number}")).collect();
    let clients = names.iter().map(|name| (channel(name), client_of("ann", &format!("client of {name}"))));
    instance.broker.refresh_presence(clients.collect(), MINUTE).await.unwrap();
    for name in &names {
        assert_eq!(instance.present_clients(name).await, [format!("client of {name}")]);
    }
}

pub async fn presence_ends_with_removal_or_expiry(instance: Instance) {
    assert!(instance.present_clients("room").await.is_empty());
    assert_eq!(instance.count_presence("room").await, (0, 0));
    for client in ["b", "c"] {
        instance.add_presence("room", client, MINUTE).await;
    }
    instance.add_presence("room", "a", SHORT).await;
    instance.add_presence("other", "d", SHORT).await;
    instance.remove_presence("room", "b").await;
    instance.remove_presence("room", "never").await;
    instance.remove_presence("nowhere", "a").await;
    assert_eq!(instance.present_clients("room").await, ["a", "c"]);
    assert_eq!(instance.count_presence("room").await, (2, 1));
    // A step of the wall clock neither ends nor extends presence.
    instance.clock.step_forward(61 * MINUTE);
    assert_eq!(instance.present_clients("room").await, ["a", "c"]);
    instance.clock.step_back(3600 * MINUTE);
    instance.advance_clock(SHORT);
    instance.wait_for_presence("room", &["c"]).await;
    instance.wait_for_presence("other", &[]).await;
    assert_eq!(instance.count_presence("room").await, (1, 1));
    instance.remove_presence("room", "c").await;
    assert!(instance.present_clients("room").await.is_empty());
}

pub async fn repeated_presence_lasts_longer(instance: Instance) {
    for client in ["a", "b", "c"] {
        instance.add_presence("room", client, SHORT).await;
    }
    instance.add_presence("room", "b", MINUTE).await;
    let refreshed = vec![(channel("room"), client_info("c").into()), (channel("other"), client_info("d").into())];
    instance.broker.refresh_presence(refreshed, MINUTE).await.unwrap();
    instance.advance_clock(SHORT);
    instance.wait_for_presence("room", &["b", "c"]).await;
    assert_eq!(instance.present_clients("other").await, ["d"]);
}

pub async fn reconnecting_client_leaves_no_stale_presence(instance: Instance) {
    for round in 0..100 {
        instance.add_presence("room", &format!("c{round}"), MINUTE).await;
        if round > 0 {
            // The hub detects the end of the old connection after the new one has been added.
            instance.remove_presence("room", &format!("c{}", round - 1)).await;
        }
    }
    assert_eq!(instance.present_clients("room").await, ["c99"]);
    // The latest information about a client replaces the earlier one.
    let renamed = client_of("bob", "c99");
    instance.broker.add_presence(channel("room"), renamed.clone(), MINUTE).await.unwrap();
    assert_eq!(instance.broker.presence(channel("room"), usize::MAX).await.unwrap(), [renamed]);
}

pub async fn presence_calls_take_effect_in_call_order(instance: Instance) {
    let room = || channel("room");
    for round in 0..100 {
        let client = client_info(&format!("c{round}"));
        let id: Arc<str> = client.client.as_str().into();
        let client = Arc::new(client);
        let calls = vec![
            instance.broker.add_presence(room(), client.clone(), MINUTE),
            instance.broker.remove_presence(room(), id.clone()),
            instance.broker.refresh_presence(vec![(room(), client.clone())], MINUTE),
            instance.broker.remove_presence(room(), id.clone()),
            instance.broker.add_presence(room(), client, MINUTE),
        ];
        let before = instance.broker.presence(room(), usize::MAX);
        let removed = instance.broker.remove_presence(room(), id);
        // Awaited in another order than they were called: the order of the calls counts.
        removed.await.unwrap();
        let present = before.await.unwrap();
        assert_eq!(present.len(), 1, "round {round}: {present:?}");
        join_all(calls.into_iter().rev()).await.into_iter().for_each(Result::unwrap);
        assert!(instance.present_clients("room").await.is_empty(), "round {round}");
    }
}

pub async fn large_presence_is_read_up_to_a_limit_and_counted_without_one(instance: Instance) {
    instance.broker.refresh_presence(crowd("room", 3000), MINUTE).await.unwrap();
    instance.add_presence("room", "client-7", MINUTE).await;
    let all = instance.present_clients("room").await;
    assert_eq!(all.len(), 3000);
    assert_eq!(instance.count_presence("room").await, (3000, 101));
    // At least so many bytes are in the reply.
    let bytes = |clients: &[Arc<ClientInfo>]| -> usize {
        let raw = |client: &ClientInfo| [&client.conn_info, &client.chan_info].map(|raw| raw.as_ref().unwrap().len());
        clients.iter().map(|client| client.user.len() + client.client.len() + raw(client).iter().sum::<usize>()).sum()
    };
    let some = instance.broker.presence(channel("room"), 10_000).await.unwrap();
    assert!(bytes(&some) > 10_000 && bytes(&some) < 11_000, "{}", bytes(&some));
    let whole = instance.broker.presence(channel("room"), usize::MAX).await.unwrap();
    assert_eq!(instance.broker.presence(channel("room"), bytes(&whole)).await.unwrap().len(), 3000);
}

pub async fn joins_and_leaves_reach_subscribers(instance: Instance) {
    instance.subscribe("room").await;
    let sent = [Some("{\"name\":\"Ann\"}"), None].map(|info| {
        let info = info.map(|info| bytes::Bytes::from_static(info.as_bytes()));
        Arc::new(ClientInfo { conn_info: info, chan_info: None, ..client_info("a") })
    });
    for (name, event, client) in [
        ("room", PresenceEvent::Join, sent[0].clone()),
        ("other", PresenceEvent::Join, sent[1].clone()),
        ("room", PresenceEvent::Leave, sent[1].clone()),
    ] {
        instance.broker.publish_presence_event(channel(name), event, client).await.unwrap();
    }
    let received = &instance.hubs.presence_events;
    wait_until("both events", async || received.lock().len() >= 2).await;
    let [first, second] = sent;
    assert_eq!(*received.lock(), [(PresenceEvent::Join, first), (PresenceEvent::Leave, second)]);
}

#[tokio::test]
async fn clients_of_all_nodes_are_present_on_each_of_them() {
    let (server, one, two) = start_pair().await;
    one.add_presence("room", "a", MINUTE).await;
    two.add_presence("room", "b", MINUTE).await;
    for node in [&one, &two] {
        assert_eq!(node.present_clients("room").await, ["a", "b"]);
        assert_eq!(node.count_presence("room").await, (2, 1));
    }
    // A client that has moved from one node to the other stays present, in whatever order the nodes notice it.
    two.add_presence("room", "a2", MINUTE).await;
    one.remove_presence("room", "a").await;
    assert_eq!(one.present_clients("room").await, ["a2", "b"]);
    two.remove_presence("room", "a2").await;
    two.remove_presence("room", "b").await;
    assert_eq!(presence_keys(&server).await, Vec::<String>::new(), "nothing is left in Redis");
}

#[tokio::test]
async fn presence_keys_expire_with_their_last_client() {
    let server = RedisServer::start().await;
    let node = start_ready_broker(&server.url()).await;
    for number in 0..20 {
        node.add_presence(&format!("room-{number}"), "a", SHORT).await;
        node.add_presence(&format!("room-{number}"), "b", SHORT / 2).await;
    }
    assert_eq!(presence_keys(&server).await.len(), 40);
    drop(node);
    wait_until("no key of presence is left", async || presence_keys(&server).await.is_empty()).await;
}

#[tokio::test]
async fn expired_clients_leave_redis_while_others_stay() {
    let server = RedisServer::start().await;
    let node = start_ready_broker(&server.url()).await;
    node.broker.refresh_presence(crowd("room", 1000), Duration::from_millis(100)).await.unwrap();
    node.add_presence("room", "stays", MINUTE).await;
    node.wait_for_presence("room", &["stays"]).await;
    let stored = async || server.run::<usize>(&["HLEN", "wardcast:p:{room}"]).await;
    for _ in 0..20 {
        node.add_presence("room", "stays", MINUTE).await;
    }
    assert_eq!((stored().await, server.run::<usize>(&["ZCARD", "wardcast:e:{room}"]).await), (1, 1));
}

#[tokio::test]
async fn refresh_takes_one_round_trip_for_a_thousand_clients_and_reads_are_split() {
    const CLIENTS: usize = 10_000;
    let server = RedisServer::start().await;
    let node = start_broker_with(&server.url(), |config| (config.probe_interval, config.timeout) = (MINUTE, MINUTE));
    node.wait_until_ready().await;
    let spread: Vec<PresentClient> =
        (0..1000).map(|number| (channel(&format!("room-{number}")), client_info("a").into())).collect();
    let large: Vec<PresentClient> = crowd_with_info("large", 1000, 4000);
    for clients in [crowd("room", CLIENTS), spread, large] {
        node.broker.refresh_presence(clients.clone(), MINUTE).await.unwrap();
        // Each batch of commands ends with the question for the role.
        let (round_trips, bytes) = (calls(&server, "role").await, received_bytes(&server).await);
        node.broker.refresh_presence(clients.clone(), MINUTE).await.unwrap();
        let round_trips = calls(&server, "role").await - round_trips;
        assert!(round_trips <= clients.len() / 1000, "{round_trips} round trips");
        let bytes = received_bytes(&server).await - bytes;
        assert!(bytes <= 150 * clients.len(), "{bytes} bytes: what Redis has is not sent again");
    }
    let before = calls(&server, "hscan").await;
    assert_eq!(node.present_clients("room").await.len(), CLIENTS);
    assert_eq!(node.count_presence("room").await, (CLIENTS, 100));
    let pages = calls(&server, "hscan").await - before;
    assert!(pages >= 2 * CLIENTS / 1000, "{pages} pages");
}

/// So many clients with so many bytes of information each.
fn crowd_with_info(name: &str, clients: usize, bytes: usize) -> Vec<PresentClient> {
    let info = bytes::Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
    let with_info = |(channel, client): PresentClient| {
        (channel, Arc::new(ClientInfo { conn_info: Some(info.clone()), ..ClientInfo::clone(&client) }))
    };
    crowd(name, clients).into_iter().map(with_info).collect()
}

/// The bytes that Redis has received.
async fn received_bytes(server: &RedisServer) -> usize {
    let stats: String = server.run(&["INFO", "stats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn refresh_restores_what_redis_has_lost_and_not_what_has_changed_since() {
    let server = RedisServer::start().await;
    let node = start_ready_broker(&server.url()).await;
    let crowd = crowd("room", 2000);
    for lost in ["wardcast:p:{room}", "wardcast:e:{room}"] {
        node.broker.refresh_presence(crowd.clone(), MINUTE).await.unwrap();
        server.run::<()>(&["DEL", lost]).await;
        let refreshed = node.broker.refresh_presence(crowd.clone(), MINUTE);
        let removed = node.broker.remove_presence(channel("room"), "client-7".into());
        let renamed = node.broker.add_presence(channel("room"), client_of("new name", "client-8"), MINUTE);
        for call in [refreshed, removed, renamed] {
            call.await.unwrap();
        }
        let present = node.broker.presence(channel("room"), usize::MAX).await.unwrap();
        assert_eq!(present.len(), 1999, "without {lost}");
        assert!(!present.iter().any(|client| client.client == "client-7"));
        let renamed = present.iter().find(|client| client.client == "client-8").unwrap();
        assert_eq!(renamed.user, "new name");
        server.run::<()>(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn clients_of_a_dead_node_are_gone_once_its_heartbeats_are_missed() {
    let server = RedisServer::start().await;
    let start = || start_broker_with(&server.url(), |config| config.heartbeat_interval = Duration::from_millis(200));
    let (survivor, dead) = (start(), start());
    survivor.wait_for_nodes(2).await;
    dead.wait_until_ready().await;
    dead.broker.refresh_presence(crowd("room", 300), MINUTE).await.unwrap();
    survivor.add_presence("room", "alive", MINUTE).await;
    assert_eq!(survivor.count_presence("room").await.0, 301);
    // Without a goodbye, as if it were killed.
    drop(dead);
    survivor.wait_for_nodes(1).await;
    survivor.wait_for_presence("room", &["alive"]).await;
    assert_eq!(survivor.count_presence("room").await, (1, 1));
    // A node that starts later learns that the owner of these entries does not exist any more.
    let late = start();
    late.wait_for_nodes(2).await;
    late.wait_for_presence("room", &["alive"]).await;
    assert_eq!(server.run::<usize>(&["HLEN", "wardcast:p:{room}"]).await, 301, "the entries have not expired");
}

#[tokio::test]
async fn clients_of_a_node_that_has_stopped_are_gone_at_its_goodbye() {
    let server = RedisServer::start().await;
    let start = || start_broker_with(&server.url(), |config| config.heartbeat_interval = Duration::from_millis(200));
    let (survivor, stopping) = (start(), start());
    survivor.wait_for_nodes(2).await;
    stopping.wait_until_ready().await;
    stopping.add_presence("room", "a", MINUTE).await;
    survivor.add_presence("room", "b", MINUTE).await;
    stopping.broker.announce_stop().await.unwrap();
    survivor.wait_for_presence("room", &["b"]).await;
}

#[tokio::test]
async fn presence_works_after_the_scripts_were_flushed_and_after_a_restart() {
    let mut server = RedisServer::start().await;
    let node = start_ready_broker(&server.url()).await;
    node.add_presence("room", "a", MINUTE).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    node.add_presence("room", "b", MINUTE).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(node.present_clients("room").await, ["a", "b"]);
    server.kill();
    node.wait_for_outage("").await;
    assert!(node.broker.presence(channel("room"), usize::MAX).await.is_err());
    server.restart().await;
    node.wait_until_ready().await;
    assert!(node.present_clients("room").await.is_empty());
    node.add_presence("room", "c", MINUTE).await;
    assert_eq!(node.present_clients("room").await, ["c"]);
}

#[tokio::test]
async fn foreign_values_in_the_keys_of_presence_are_errors_or_left_out() {
    let server = RedisServer::start().await;
    let node = start_ready_broker(&server.url()).await;
    server.run::<()>(&["SET", "wardcast:p:{text}", "1"]).await;
    for failed in [
        node.broker.add_presence(channel("text"), client_info("a").into(), MINUTE).await.map(|()| 0),
        node.broker.presence(channel("text"), usize::MAX).await.map(|clients| clients.len()),
        node.broker.count_presence(channel("text")).await.map(|count| count.clients),
    ] {
        assert!(failed.clone().unwrap_err().to_string().contains("WRONGTYPE"), "{failed:?}");
    }
    assert_eq!(node.broker.check_ready().await, Ok(()), "the other channels work");
    let clients = ["text", "room", "zoo"].map(|name| (channel(name), client_info("a").into()));
    let refreshed = node.broker.refresh_presence(clients.to_vec(), MINUTE).await;
    assert!(refreshed.clone().unwrap_err().to_string().contains("WRONGTYPE"), "{refreshed:?}");
    assert_eq!(node.present_clients("zoo").await, ["a"]);
    for (client, record) in [("x", "garbage"), ("y", ""), ("z", "WC\u{2}m")] {
        server.run::<()>(&["HSET", "wardcast:p:{room}", client, record]).await;
        server.run::<()>(&["ZADD", "wardcast:e:{room}", "9999999999999", client]).await;
    }
    assert_eq!(node.present_clients("room").await, ["a"]);
    assert_eq!((node.dropped_count("not_ours"), node.dropped_count("version")), (2, 1));
}

#[tokio::test]
async fn with_a_bus_key_clients_that_another_program_has_stored_are_left_out() {
    let server = RedisServer::start().await;
    let start = async |key: &str| {
        let node = start_broker_with(&server.url(), |config| config.bus_key = Secret::new(key));
        node.wait_until_ready().await;
        node
    };
    let (node, other_key, no_key) = (start("the key").await, start("another key").await, start("").await);
    for (stored_by, client) in [(&node, "a"), (&other_key, "b"), (&no_key, "c")] {
        stored_by.add_presence("room", client, MINUTE).await;
    }
    assert_eq!(node.present_clients("room").await, ["a"]);
    // The heartbeats of the other nodes are dropped, too.
    assert!(node.dropped_count("forged") >= 1 && node.dropped_count("unsigned") >= 1);
    // A record is worth nothing in another channel.
    let record: Vec<u8> = server.run(&["HGET", "wardcast:p:{room}", "a"]).await;
    let mut connection = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut copy = redis::pipe();
    copy.cmd("HSET").arg("wardcast:p:{other}").arg("a").arg(record);
    copy.cmd("ZADD").arg("wardcast:e:{other}").arg(9_999_999_999_999_u64).arg("a");
    copy.query_async::<()>(&mut connection).await.unwrap();
    assert!(node.present_clients("other").await.is_empty());
    assert_eq!(node.dropped_count("other_channel"), 1);
}

#[tokio::test]
async fn deployments_with_different_prefixes_have_presence_of_their_own() {
    let server = RedisServer::start().await;
    let (one, two) = (start_ready_broker(&server.url()).await, start_broker(&server.url(), "other"));
    two.wait_until_ready().await;
    one.add_presence("room", "a", MINUTE).await;
    assert!(two.present_clients("room").await.is_empty());
}

#[tokio::test]
async fn every_channel_name_has_presence_of_its_own() {
    let node = redis_instance().await;
    let names = ["a", "{a}", "a}", "}a{", "a\"'\\", "a?", "[a]", "%7Ba%7D", "a b", "чат", &"é".repeat(127)];
    for (index, name) in names.iter().enumerate() {
        node.add_presence(name, &index.to_string(), MINUTE).await;
    }
    for (index, name) in names.iter().enumerate() {
        assert_eq!(node.present_clients(name).await, [index.to_string()], "{name:?}");
    }
}
