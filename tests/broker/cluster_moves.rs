//! Redis Cluster while a slot moves: its keys are at the old master, at both, or at the new one, and only the old one has the
//! subscribers. And commands that a server has not run, because it has lost its place, or does not have one yet.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{HistoryRequest, PublishOptions},
    config::{RedisConfig, Secret},
    publication::ClientInfo,
};

use super::{
    cluster::{CHANNELS, channels, is_subscribed, slot_of_channel, start_cluster_broker, subscribed_names},
    fixture::{Instance, KEEP_FIVE, TIMEOUT, WHOLE_HISTORY, channel, client_info, start_broker_with, wait_until},
};
use crate::support::{
    poll_until,
    redis::{ClusterOptions, RedisCluster},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A slot that moves from its master to another one.
pub(super) struct Move<'a> {
    cluster: &'a RedisCluster,
    slot: u16,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl<'a> Move<'a> {
    pub(super) async fn begin(cluster: &'a RedisCluster, slot: u16, places: usize) -> Self {
        let from = cluster.master_of(slot).await.unwrap();
        let to = (from + places) % 3;
        cluster.begin_move(slot..=slot, from, to).await;
        Self { cluster, slot, from, to }
    }

    /// Moves some of the keys.
    pub(super) async fn migrate(&self, keys: &[&str]) {
        let port = self.cluster.nodes[self.to].port().to_string();
        let migrate = [&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"], keys].concat();
        assert_eq!(self.cluster.nodes[self.from].run::<String>(&migrate).await, "OK", "{keys:?}");
    }

    pub(super) async fn move_keys(&self) {
        self.cluster.move_keys(self.slot..=self.slot, self.from, self.to).await;
    }

    pub(super) async fn end(&self) {
        self.cluster.end_move(self.slot..=self.slot, self.from, self.to).await;
    }
}

/// An instance whose calls wait for long, so that a busy machine does not fail them.
pub(super) fn start_patient_broker(cluster: &RedisCluster, change: impl FnOnce(&mut RedisConfig)) -> Instance {
    start_broker_with("", |config| {
        // Any of them may be the one that the test breaks.
        config.cluster.urls = cluster.addresses().iter().map(|node| Secret::new(format!("redis://{node}"))).collect();
        config.timeout = TIMEOUT * 10;
        change(config);
    })
}

pub(super) async fn wait_for_data(instance: &Instance, name: &str, data: &[&str]) {
    wait_until(&format!("{data:?} on {name}"), async || instance.data_received(name).len() >= data.len()).await;
    assert_eq!(instance.data_received(name), data, "{name}");
}

#[tokio::test]
async fn publications_are_stored_and_delivered_once_in_every_phase_of_a_move_of_their_slot() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance.store("news", "1").await;
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "news").await, 1).await;
    instance.store("news", "2").await;
    moving.move_keys().await;
    // The old master answers ASK, and has the subscribers.
    instance.store("news", "3").await;
    instance.publish("news", "100").await.unwrap();
    wait_for_data(&instance, "news", &["1", "2", "3", "100"]).await;
    moving.end().await;
    instance.store("news", "4").await;
    let stored = instance.read_all("news").await;
    let data: Vec<_> = stored.iter().map(|(offset, data)| (*offset, data.as_str())).collect();
    assert_eq!(data, [(1, "1"), (2, "2"), (3, "3"), (4, "4")]);
    wait_until("the subscription has moved", async || {
        instance.publish("news", "5").await.unwrap();
        instance.data_received("news").contains(&"5".to_owned())
    })
    .await;
    let received = instance.data_received("news");
    assert_eq!(&received[..4], ["1", "2", "3", "100"], "{received:?}");
}

/// All channels of the instance are in one partition, so publications that are sent together share a call.
#[tokio::test]
async fn publications_of_one_call_are_stored_while_half_of_their_channels_have_moved() {
    let cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |config| config.partitions = 1);
    instance.wait_until_ready().await;
    let store_all = async || {
        let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
        let calls = channels().map(|name| instance.publish_with(&name, "1", options.clone()));
        let receipts = join_all(calls.collect::<Vec<_>>()).await;
        receipts.into_iter().map(|receipt| receipt.unwrap().position.unwrap().offset).collect::<Vec<_>>()
    };
    assert_eq!(store_all().await, [1; CHANNELS]);
    instance.subscribe("chat:0").await;
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "chat:0").await, 1).await;
    let names = subscribed_names(&cluster).await;
    let name = names.into_iter().find(|name| name.ends_with("chat:0")).unwrap();
    for moved in channels().step_by(2) {
        for kind in ["s", "m"] {
            let key = name.replacen(":c:", &format!(":{kind}:"), 1).replace("chat:0", &moved);
            moving.migrate(&[&key]).await;
        }
    }
    assert_eq!(store_all().await, [2; CHANNELS]);
    moving.move_keys().await;
    assert_eq!(store_all().await, [3; CHANNELS]);
    // Each is sent to the other master; one after the other would take longer than a call may.
    let reads =
        channels().map(|name| instance.broker.read_history(channel(&name), HistoryRequest::default(), KEEP_FIVE));
    let tops = join_all(reads.collect::<Vec<_>>()).await.into_iter().map(|read| read.map(|page| page.top.offset));
    assert_eq!(tops.collect::<Result<Vec<_>, _>>(), Ok(vec![3; CHANNELS]));
    moving.end().await;
    assert_eq!(store_all().await, [4; CHANNELS]);
}

/// A message must not overtake what a script announces on the importing server.
#[tokio::test]
async fn publications_with_and_without_history_keep_their_order_while_their_slot_moves() {
    let cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance.store("news", "0").await;
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "news").await, 1).await;
    moving.move_keys().await;
    // From the first refused command on.
    instance.store("news", "1").await;
    let publish = |number: usize| {
        let retention = number.is_multiple_of(2).then_some(KEEP_FIVE);
        instance.publish_with("news", &number.to_string(), PublishOptions { retention, ..PublishOptions::default() })
    };
    let published = join_all((2..=20).map(publish).collect::<Vec<_>>()).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    let expected: Vec<String> = (0..=20).map(|number| number.to_string()).collect();
    wait_until("all have arrived", async || instance.data_received("news").len() >= expected.len()).await;
    assert_eq!(instance.data_received("news"), expected);
    moving.end().await;
}

/// The name of a key of a channel, or of its shard channel, by its kind.
pub(super) async fn name_of(cluster: &RedisCluster, channel: &str, kind: char) -> String {
    let name = subscribed_names(cluster).await.into_iter().find(|name| name.ends_with(&format!("}}{channel}")));
    name.unwrap().replacen(":c:", &format!(":{kind}:"), 1)
}

#[tokio::test]
async fn presence_of_many_channels_is_changed_while_half_of_them_have_moved() {
    let cluster = RedisCluster::start().await;
    // One script changes the presence of all channels of a slot.
    let instance = start_patient_broker(&cluster, |config| config.partitions = 1);
    instance.wait_until_ready().await;
    instance.subscribe("chat:0").await;
    let (client, other) = (Arc::new(client_info("a")), Arc::new(client_info("b")));
    for name in channels() {
        instance.broker.add_presence(channel(&name), client.clone(), MINUTE).await.unwrap();
    }
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "chat:0").await, 1).await;
    let [clients, expiries] = [name_of(&cluster, "chat:0", 'p').await, name_of(&cluster, "chat:0", 'e').await];
    for moved in channels().step_by(2) {
        moving.migrate(&[&clients.replace("chat:0", &moved), &expiries.replace("chat:0", &moved)]).await;
    }
    // Redis lacks the second client of every channel.
    let both = channels().flat_map(|name| [(channel(&name), client.clone()), (channel(&name), other.clone())]);
    // Without being divided it would wait for the end of the move, until the timeout of the instance.
    instance.broker.refresh_presence(both.collect(), MINUTE).await.unwrap();
    for name in channels() {
        assert_eq!(instance.broker.count_presence(channel(&name)).await.unwrap().clients, 2, "{name}");
    }
}

/// A client that is removed after it was added must not be added last. Adds clients, removes them when the instance has followed
/// the Cluster, and counts those that are left.
async fn count_clients_after_their_removal(
    instance: &Instance,
    name: &str,
    followed: impl Future<Output = ()>,
) -> usize {
    let clients: Vec<_> = (0..50).map(|number| Arc::new(client_info(&number.to_string()))).collect();
    let add = |client: &Arc<_>| instance.broker.add_presence(channel(name), Arc::clone(client), MINUTE);
    let added = tokio::spawn(join_all(clients.iter().map(add).collect::<Vec<_>>()));
    followed.await;
    let remove =
        |client: &Arc<ClientInfo>| instance.broker.remove_presence(channel(name), client.client.as_str().into());
    let removed = join_all(clients.iter().map(remove).collect::<Vec<_>>()).await;
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    assert!(added.await.unwrap().iter().any(Result::is_ok));
    instance.broker.count_presence(channel(name)).await.unwrap().clients
}

#[tokio::test]
async fn clients_that_were_removed_while_their_slot_moved_are_not_present_afterwards() {
    let cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |config| config.probe_interval = MINUTE);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let slot = slot_of_channel(&cluster, "news").await;
    // Nothing tells the instance that the slot moves.
    instance.broker.unsubscribe(channel("news"));
    poll_until("it is unsubscribed", async || {
        !subscribed_names(&cluster).await.iter().any(|name| name.ends_with("}news"))
    })
    .await;
    let from = cluster.master_of(slot).await.unwrap();
    cluster.move_slots(slot..=slot, (from + 1) % 3).await;
    assert_eq!(count_clients_after_their_removal(&instance, "news", instance.subscribe("news")).await, 0);
}

#[tokio::test]
async fn keys_that_exist_nowhere_are_created_while_their_slot_moves() {
    let cluster = RedisCluster::start().await;
    // All channels have the same slot.
    let instance = start_patient_broker(&cluster, |config| config.partitions = 1);
    instance.wait_until_ready().await;
    for name in ["new", "once", "read", "removed", "known"] {
        instance.subscribe(name).await;
    }
    let epoch = instance.store("removed", "0").await.epoch;
    instance.store("known", "1").await;
    instance.broker.remove_history(channel("removed")).await.unwrap();
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "new").await, 1).await;
    moving.move_keys().await;
    let once = |retention| PublishOptions { retention, idempotency_key: Some("key".into()), ..Default::default() };
    for _ in 0..2 {
        let stored = instance.publish_with("new", "1", once(Some(KEEP_FIVE))).await.unwrap();
        assert_eq!(stored.position.unwrap().offset, 1);
        instance.publish_with("once", "1", once(None)).await.unwrap();
    }
    let lost = instance.store("removed", "1").await;
    assert_eq!((lost.offset, lost.epoch), (2, epoch));
    let top = instance.read_history("read", WHOLE_HISTORY).await.top;
    assert_eq!(instance.store("read", "1").await.epoch, top.epoch);
    let client = Arc::new(client_info("a"));
    instance.broker.add_presence(channel("new"), client.clone(), MINUTE).await.unwrap();
    let clients = instance.broker.presence(channel("new"), 1 << 20).await.unwrap();
    assert_eq!(clients, [client]);
    instance.broker.remove_presence(channel("new"), "a".into()).await.unwrap();
    assert_eq!(instance.broker.count_presence(channel("new")).await.unwrap().clients, 0);
    let known = instance.read_history("known", WHOLE_HISTORY).await.top;
    instance.broker.renew_epoch(channel("known"), known.epoch).await.unwrap();
    assert_ne!(instance.store("known", "2").await.epoch, known.epoch);
    for name in ["new", "once"] {
        wait_for_data(&instance, name, &["1"]).await;
    }
    moving.end().await;
    instance.store("new", "2").await;
    assert_eq!(instance.read_all("new").await, [(1, "1".to_owned()), (2, "2".to_owned())]);
}

#[tokio::test]
async fn importing_server_that_is_frozen_holds_up_no_other() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    // Two channels of one master, whose slots differ.
    let mut slots = Vec::new();
    for number in 0.. {
        let name = format!("chat:{number}");
        instance.subscribe(&name).await;
        let slot = slot_of_channel(&cluster, &name).await;
        if cluster.master_of(slot).await == Some(0) && slots.iter().all(|(_, other)| *other != slot) {
            slots.push((name, slot));
        }
        if slots.len() == 2 {
            break;
        }
    }
    let [(frozen, frozen_slot), (other, other_slot)] = <[_; 2]>::try_from(slots).unwrap();
    let _frozen = Move::begin(&cluster, frozen_slot, 1).await;
    let _other = Move::begin(&cluster, other_slot, 2).await;
    cluster.nodes[1].freeze();
    let options = || PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    let waiting = instance.publish_with(&frozen, "1", options());
    let stored = instance.publish_with(&other, "1", options());
    let (refused, stored) = tokio::join!(waiting, stored);
    refused.unwrap_err();
    stored.unwrap();
    cluster.nodes[1].resume();
}

#[tokio::test]
async fn calls_to_an_instance_that_has_just_been_started_wait_until_it_knows_the_cluster() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    let calls = tokio::join!(
        instance.publish("news", "1"),
        instance.broker.subscribe(channel("chat")),
        instance.broker.add_presence(channel("chat"), client_info("a").into(), MINUTE),
        instance.broker.count_presence(channel("other")),
        instance.broker.read_history(channel("read"), WHOLE_HISTORY, KEEP_FIVE),
    );
    calls.0.unwrap();
    calls.1.unwrap();
    calls.2.unwrap();
    calls.3.unwrap();
    calls.4.unwrap();
    let nowhere = start_cluster_broker("127.0.0.1:1");
    let error = nowhere.publish("news", "1").await.unwrap_err().to_string();
    assert!(error.contains("no redis master serves its slot"), "{error}");
    nowhere.broker.subscribe(channel("news")).await.unwrap_err();
}

#[tokio::test]
async fn commands_that_wait_for_a_master_that_dies_go_to_its_heir() {
    let mut cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let master = cluster.master_of(slot_of_channel(&cluster, "news").await).await.unwrap();
    cluster.nodes[master].freeze();
    let options = || PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    let sent = instance.publish_with("news", "1", options());
    let watcher = &cluster.nodes[(master + 1) % 3];
    poll_until("the others miss it", async || watcher.run::<String>(&["CLUSTER", "NODES"]).await.contains("fail"))
        .await;
    // The connection still waits for the answer to the first.
    let queued = join_all((2..10).map(|number| instance.publish_with("news", &number.to_string(), options())));
    cluster.wait_for_new_master(master).await;
    let (sent, queued) = tokio::join!(sent, queued);
    let error = sent.unwrap_err().to_string();
    assert!(!error.contains("stopped"), "{error}");
    for (offset, receipt) in (1..).zip(queued) {
        assert_eq!(receipt.unwrap().position.unwrap().offset, offset);
    }
    cluster.nodes[master].kill();
}

#[tokio::test]
async fn clients_that_were_removed_while_their_master_died_are_not_present_at_its_heir() {
    let mut cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let master = cluster.master_of(slot_of_channel(&cluster, "news").await).await.unwrap();
    let heir = cluster.replica_of(master).await;
    cluster.nodes[master].freeze();
    // The connection waits for the answer to this.
    let sent = tokio::spawn(instance.publish_with("news", "1", PublishOptions::default()));
    let watcher = &cluster.nodes[(master + 1) % 3];
    poll_until("the others miss it", async || watcher.run::<String>(&["CLUSTER", "NODES"]).await.contains("fail"))
        .await;
    let followed = poll_until("the heir has the channel", async || {
        let names: Vec<String> = cluster.nodes[heir].run(&["PUBSUB", "SHARDCHANNELS", "wardcast:c:*"]).await;
        names.iter().any(|name| name.ends_with("}news"))
    });
    assert_eq!(count_clients_after_their_removal(&instance, "news", followed).await, 0);
    _ = sent.await;
    cluster.nodes[master].kill();
}

#[tokio::test]
async fn channel_that_a_cluster_has_refused_is_requested_again_when_the_cluster_works() {
    let slots = [0..=5460, 5461..=10_922, 10_923..=16_382];
    let arguments = &["--cluster-allow-pubsubshard-when-down", "no"];
    let cluster = RedisCluster::start_with(&ClusterOptions { slots, arguments, ..ClusterOptions::default() }).await;
    let instance = start_patient_broker(&cluster, |_| ());
    instance.wait_for_outage("16383 of 16384 slots").await;
    let before = refusals(&cluster).await;
    let subscribed = tokio::spawn(instance.broker.subscribe(channel("news")));
    // Each round also requests the names of the instance itself.
    poll_until("the channel is refused", async || refusals(&cluster).await > before + 20).await;
    assert_eq!(subscribed_names(&cluster).await, [""; 0]);
    assert!(!subscribed.is_finished());
    cluster.nodes[2].run::<()>(&["CLUSTER", "ADDSLOTS", "16383"]).await;
    subscribed.await.unwrap().unwrap();
    instance.wait_until_ready().await;
}

/// How often masters have refused a command because the cluster is down.
async fn refusals(cluster: &RedisCluster) -> u64 {
    let mut refusals = 0;
    for master in &cluster.nodes[..3] {
        let errors: String = master.run(&["INFO", "errorstats"]).await;
        let count = errors.lines().find_map(|line| line.strip_prefix("errorstat_CLUSTERDOWN:count="));
        refusals += count.map_or(0, |count| count.trim().parse().unwrap());
    }
    refusals
}

/// redis-rs takes the end of a subscription that arrives instead of a reply for that reply.
#[tokio::test]
async fn end_of_a_subscription_that_arrives_before_a_reply_is_not_taken_for_it() {
    let cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |config| (config.partitions, config.probe_interval) = (1, MINUTE));
    instance.wait_until_ready().await;
    instance.subscribe("old").await;
    let moving = Move::begin(&cluster, slot_of_channel(&cluster, "old").await, 1).await;
    let new_id: String = cluster.nodes[moving.to].run(&["CLUSTER", "MYID"]).await;
    let slot = moving.slot.to_string();
    // The frozen master handles what it has received in this order: the end of the move, and then the subscribe.
    let from = &cluster.nodes[moving.from];
    let clients: String = from.run(&["CLIENT", "LIST"]).await;
    let subscriptions = client_port(clients.lines().find(|client| is_subscribed(client)).expect("a subscriber"));
    let mut connection = from.connection().await.unwrap();
    let own: String = redis::cmd("CLIENT").arg("INFO").query_async(&mut connection).await.unwrap();
    let own = client_port(&own);
    from.freeze();
    let mut command = redis::cmd("CLUSTER");
    command.arg(&["SETSLOT", &slot, "NODE", &new_id]);
    let ended = tokio::spawn(async move { command.query_async::<()>(&mut connection).await });
    poll_until("the end of the move has arrived", async || has_unread_bytes(from.port(), own)).await;
    let subscribed = tokio::spawn(instance.broker.subscribe(channel("new")));
    poll_until("the subscribe has arrived", async || has_unread_bytes(from.port(), subscriptions)).await;
    from.resume();
    ended.await.unwrap().unwrap();
    moving.end().await;
    subscribed.await.unwrap().unwrap();
    cluster.move_slots(moving.slot..=moving.slot, moving.from).await;
    poll_until("the connection is used again", async || {
        let names: Vec<String> = from.run(&["PUBSUB", "SHARDCHANNELS", "wardcast:c:*"]).await;
        names.len() == 2
    })
    .await;
    for name in ["old", "new"] {
        wait_until("the channel delivers", async || {
            _ = instance.publish(name, "1").await;
            !instance.data_received(name).is_empty()
        })
        .await;
    }
    assert_eq!(instance.metrics.broker_reconnects.get(), 0, "the connection goes on");
}

/// The port of a client in a line of CLIENT LIST.
fn client_port(client: &str) -> u16 {
    let address = client.split_whitespace().find_map(|field| field.strip_prefix("addr=")).expect("a client");
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Whether the server has not read everything that this client has sent, by the queues of the kernel.
fn has_unread_bytes(server: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(&address[address.len() - 4..], 16).unwrap();
        (port(fields[1]), port(fields[2])) == (server, client) && !fields[4].ends_with(":00000000")
    })
}
