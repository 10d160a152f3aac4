//! Redis Cluster: what happens to its channels when masters die, change or lose slots. Each test prints how long it took.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use wardcast::{broker::PresentClient, config::Secret};

use super::fixture::{Instance, channel, client_info, start_broker_with, wait_until};
use crate::support::{
    poll_until,
    redis::{ClusterOptions, RedisCluster, RedisServer},
};

/// So many channels that each master has some.
pub const CHANNELS: usize = 60;

pub fn start_cluster_broker(address: &str) -> Instance {
    start_broker_with("", |config| config.cluster.urls = vec![Secret::new(format!("redis://{address}"))])
}

pub fn channels() -> impl Iterator<Item = String> {
    (0..CHANNELS).map(|number| format!("chat:{number}"))
}

async fn start_subscriber_and_publisher(cluster: &RedisCluster) -> (Instance, Instance) {
    let addresses = cluster.addresses();
    // Each knows another node of the cluster: one a master, one a replica.
    let (subscriber, publisher) = (start_cluster_broker(&addresses[1]), start_cluster_broker(&addresses[5]));
    subscriber.wait_until_ready().await;
    publisher.wait_until_ready().await;
    for name in channels() {
        subscriber.subscribe(&name).await;
    }
    (subscriber, publisher)
}

/// Publishes to every channel until a publication of each has arrived. Publishing may fail meanwhile.
async fn wait_until_all_deliver(publisher: &Instance, subscriber: &Instance, what: &str) {
    let since = Instant::now();
    let mut deaf: HashSet<String> = channels().collect();
    wait_until(&format!("every channel delivers after {what}"), async || {
        let data = format!("{what:?}");
        for name in &deaf {
            _ = publisher.publish(name, &data).await;
        }
        tokio::task::yield_now().await;
        deaf.retain(|name| !subscriber.data_received(name).contains(&data));
        deaf.is_empty()
    })
    .await;
    println!("every channel delivered {:?} after {what}", since.elapsed());
    publisher.wait_until_ready().await;
    subscriber.wait_until_ready().await;
    assert_eq!(subscriber.metrics.broker_up.get(), 1);
}

#[tokio::test]
async fn every_channel_delivers_again_after_slots_move_and_masters_fail_over_or_die_or_become_replicas() {
    let mut cluster = RedisCluster::start().await;
    let (subscriber, publisher) = start_subscriber_and_publisher(&cluster).await;
    wait_until_all_deliver(&publisher, &subscriber, "the start").await;

    cluster.move_slots(0..=2000, 1).await;
    wait_until_all_deliver(&publisher, &subscriber, "a move of slots").await;

    let new = cluster.fail_over(1).await;
    wait_until_all_deliver(&publisher, &subscriber, "a failover").await;

    cluster.nodes[2].kill();
    let since = Instant::now();
    let heir = cluster.wait_for_new_master(2).await;
    println!("the cluster has promoted a replica after {:?}", since.elapsed());
    wait_until_all_deliver(&publisher, &subscriber, "the death of a master").await;

    cluster.move_slots(2001..=5460, new).await;
    cluster.replicate(0, heir).await;
    wait_until_all_deliver(&publisher, &subscriber, "CLUSTER REPLICATE").await;
    publisher.wait_for_nodes(2).await;
    assert_eq!(publisher.survey_all(Duration::from_secs(5)).await.1, 0);
}

#[tokio::test]
async fn incomplete_cluster_a_server_that_is_none_and_a_missing_password_are_named_in_the_readiness() {
    #[allow(clippy::reversed_empty_ranges, reason = "this master has no slots")]
    let slots = [0..=5460, 5461..=10_922, 1..=0];
    let cluster = RedisCluster::start_with(&ClusterOptions { slots, ..ClusterOptions::default() }).await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    let error = instance.wait_for_outage("10923 of 16384 slots").await;
    assert!(error.contains("redis-cli --cluster fix"), "{error}");
    let mut errors = Vec::new();
    for name in channels() {
        errors.extend(instance.publish(&name, "1").await.err());
    }
    assert!(errors.len() < CHANNELS && !errors.is_empty(), "{errors:?}");
    assert!(errors.iter().all(|error| error.to_string().contains("no redis master serves its slot")), "{errors:?}");

    let single = RedisServer::start().await;
    let instance = start_cluster_broker(&format!("127.0.0.1:{}", single.port()));
    let error = instance.wait_for_outage("not a node of a cluster").await;
    assert!(error.contains("broker.redis.url"), "{error}");
    assert_eq!(instance.metrics.broker_up.get(), 0);
    let locked = RedisServer::start_with(&["--requirepass", "secret"]).await;
    let instance = start_cluster_broker(&format!("127.0.0.1:{}", locked.port()));
    println!("{}", instance.wait_for_outage("set broker.redis.password").await);
}

/// Sums a number that `INFO SECTION` reports behind `name` over the masters.
async fn sum_of_masters(cluster: &RedisCluster, section: &str, name: &str) -> usize {
    let mut sum = 0;
    for master in &cluster.nodes[..3] {
        let info: String = master.run(&["INFO", section]).await;
        let value = info.lines().find_map(|line| line.strip_prefix(name));
        let digits = value.map_or("0", |value| value.split(|digit: char| !digit.is_ascii_digit()).next().unwrap());
        sum += digits.parse::<usize>().unwrap();
    }
    sum
}

/// One command names shard channels of one slot only, and a channel has one of 1,024 partitions.
#[tokio::test]
async fn channels_of_many_slots_are_subscribed_in_few_round_trips() {
    let cluster = RedisCluster::start().await;
    let subscriber = start_cluster_broker(&cluster.addresses()[0]);
    subscriber.wait_until_ready().await;
    let names: Vec<String> = (0..3000).map(|number| format!("chat:{number}")).collect();
    for command in ["ssubscribe", "sunsubscribe"] {
        let calls = format!("cmdstat_{command}:calls=");
        let commands = async || sum_of_masters(&cluster, "commandstats", &calls).await;
        let reads = async || sum_of_masters(&cluster, "stats", "total_reads_processed:").await;
        let before = (commands().await, reads().await);
        if command == "ssubscribe" {
            join_all(names.iter().map(|name| subscriber.subscribe(name))).await;
        } else {
            names.iter().for_each(|name| subscriber.broker.unsubscribe(channel(name)));
            poll_until("nothing is subscribed any more", async || {
                let mut subscribed = 0;
                for master in &cluster.nodes[..3] {
                    let names: Vec<String> = master.run(&["PUBSUB", "SHARDCHANNELS", "wardcast:c:*"]).await;
                    subscribed += names.len();
                }
                subscribed == 0
            })
            .await;
        }
        let (commands, reads) = (commands().await - before.0, reads().await - before.1);
        println!("{command}: {commands} commands, {reads} reads");
        assert!(commands > 700, "{commands} commands for 3,000 channels");
        assert!(reads < commands / 2, "{reads} reads of {commands} commands");
        if command == "ssubscribe" {
            let (commands, subscribed) = (sum_of_masters(&cluster, "commandstats", &calls).await, names.len());
            let before = subscriber.hubs.resubscribed.load(Ordering::Relaxed);
            for master in &cluster.nodes[..3] {
                master.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            }
            poll_until("everything is subscribed again", async || {
                subscriber.hubs.resubscribed.load(Ordering::Relaxed) >= before + subscribed
            })
            .await;
            let commands = sum_of_masters(&cluster, "commandstats", &calls).await - commands;
            // The instance has a few names of its own.
            assert!(commands <= subscribed.div_ceil(512) + 1024 + 8, "{commands} commands to subscribe again");
        }
    }
}

#[tokio::test]
async fn node_of_another_number_of_partitions_is_not_ready_until_the_others_are_gone() {
    let cluster = RedisCluster::start().await;
    let start = |partitions| {
        start_broker_with("", |config| {
            config.cluster.urls = vec![Secret::new(format!("redis://{}", cluster.addresses()[0]))];
            (config.partitions, config.heartbeat_interval) = (partitions, Duration::from_millis(200));
        })
    };
    let (first, second) = (start(1024), start(1024));
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    let other = start(512);
    let error = other.wait_for_outage("partitions=1024").await;
    assert!(error.contains("\"version=1 partitions=512\"") && error.contains("broker.redis.partitions"), "{error}");
    // Neither the claims of the other nor the loss of the record change what holds for those that were there before.
    for master in &cluster.nodes[..3] {
        _ = master.try_run::<i64>(&["DEL", "wardcast:layout"]).await;
    }
    other.wait_for_outage("partitions=1024").await;
    drop(first);
    let third = start(1024);
    third.wait_until_ready().await;
    second.wait_until_ready().await;
    other.wait_for_outage("partitions=1024").await;
    drop((second, third));
    other.wait_until_ready().await;
    start(1024).wait_for_outage("partitions=512").await;
}

/// The connections of brokers to the nodes that have subscriptions.
async fn connections(cluster: &RedisCluster) -> usize {
    let count = async |node: &RedisServer| {
        let list: String = node.run(&["CLIENT", "LIST"]).await;
        list.lines().filter(|client| is_subscribed(client)).count()
    };
    join_all(cluster.nodes.iter().map(count)).await.into_iter().sum()
}

#[tokio::test]
async fn masters_that_come_and_go_leave_no_connection_and_double_nothing_with_ipv6_too() {
    let arguments = ["--bind", "127.0.0.1", "::1", "--cluster-announce-ip", "::1"];
    let cluster =
        RedisCluster::start_with(&ClusterOptions { arguments: &arguments, ..ClusterOptions::default() }).await;
    let (subscriber, publisher) = start_subscriber_and_publisher(&cluster).await;
    wait_until_all_deliver(&publisher, &subscriber, "the start").await;
    let before = connections(&cluster).await;
    assert_eq!(before, 2 * 3, "of two instances to three masters");
    for master in 0..2 {
        cluster.move_slots(0..=100, master + 1).await;
        wait_until_all_deliver(&publisher, &subscriber, "a move of slots").await;
        cluster.fail_over(master).await;
        wait_until_all_deliver(&publisher, &subscriber, "a failover").await;
    }
    for name in channels() {
        publisher.publish(&name, "1").await.unwrap();
        publisher.publish(&name, "2").await.unwrap();
    }
    for name in channels() {
        wait_until("the last publication", async || subscriber.data_received(&name).contains(&"2".to_owned())).await;
        let received = subscriber.data_received(&name);
        assert_eq!(received.iter().filter(|data| *data == "1").count(), 1, "{name}: {received:?}");
    }
    wait_until("no more connections than before", async || connections(&cluster).await == before).await;
}

#[tokio::test]
async fn frozen_and_forgotten_master_is_replaced_and_its_return_changes_nothing() {
    let cluster = RedisCluster::start().await;
    let (subscriber, publisher) = start_subscriber_and_publisher(&cluster).await;
    wait_until_all_deliver(&publisher, &subscriber, "the start").await;
    // The only one that the subscriber is configured with.
    cluster.nodes[1].freeze();
    subscriber.wait_for_outage("").await;
    wait_until_all_deliver(&publisher, &subscriber, "a master was frozen").await;
    let forgotten = format!("{:040x}", 2);
    for node in cluster.nodes[..1].iter().chain(&cluster.nodes[2..]) {
        node.run::<()>(&["CLUSTER", "FORGET", &forgotten]).await;
    }
    cluster.nodes[1].resume();
    wait_until_all_deliver(&publisher, &subscriber, "the frozen master has returned").await;
    cluster.nodes[1].try_run::<()>(&["CLUSTER", "RESET"]).await.ok();
    wait_until_all_deliver(&publisher, &subscriber, "the forgotten master has lost its slots").await;
}

#[tokio::test]
async fn controls_may_be_lost_while_their_slot_moves() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    let names = subscribed_names(&cluster).await;
    let slot = cluster.slot_of(names.iter().find(|name| name.starts_with("wardcast:control")).unwrap()).await;
    let losses = || instance.hubs.losses.load(Ordering::Relaxed);
    let before = losses();
    let to = (cluster.master_of(slot).await.unwrap() + 1) % 3;
    cluster.move_slots(slot..=slot, to).await;
    wait_until("the loss is noted", async || losses() > before).await;
}

#[tokio::test]
async fn presence_follows_its_slots_and_outlives_a_failover() {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut cluster = RedisCluster::start().await;
    let (one, two) = start_subscriber_and_publisher(&cluster).await;
    let present = |client: &str| -> Vec<PresentClient> {
        channels().map(|name| (channel(&name), client_info(client).into())).collect()
    };
    one.broker.refresh_presence(present("a"), MINUTE).await.unwrap();
    two.broker.refresh_presence(present("b"), MINUTE).await.unwrap();
    let wait_for_all = async |what: &str, expected: usize| {
        for instance in [&one, &two] {
            wait_until(&format!("{expected} present after {what}"), async || {
                let counts = join_all(channels().map(|name| instance.broker.count_presence(channel(&name)))).await;
                counts.iter().all(|count| count.as_ref().is_ok_and(|count| count.clients == expected))
            })
            .await;
        }
    };
    wait_for_all("the start", 2).await;
    cluster.move_slots(0..=3000, 1).await;
    wait_for_all("a move of slots", 2).await;
    for name in channels() {
        one.broker.remove_presence(channel(&name), "a".into()).await.unwrap();
    }
    wait_for_all("a removal", 1).await;
    cluster.fail_over(1).await;
    wait_for_all("a failover", 1).await;
    cluster.nodes[2].kill();
    cluster.wait_for_new_master(2).await;
    one.wait_until_ready().await;
    one.broker.refresh_presence(present("a"), MINUTE).await.unwrap();
    wait_for_all("the death of a master", 2).await;
}

#[tokio::test]
async fn presence_that_is_read_while_its_slot_moves_lacks_nobody() {
    const CLIENTS: usize = 3000;
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    let client = |number: usize| (channel("news"), client_info(&format!("client-{number}")).into());
    let crowd: Vec<PresentClient> = (0..CLIENTS).map(client).collect();
    instance.broker.refresh_presence(crowd, Duration::from_secs(600)).await.unwrap();
    instance.subscribe("news").await;
    let slot = slot_of_channel(&cluster, "news").await;
    let (has_moved, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let moves = async {
        let mut moves = 0;
        while moves < 4 || reads.load(Ordering::Relaxed) <= 4 {
            let from = cluster.master_of(slot).await.unwrap();
            cluster.move_slots(slot..=slot, (from + 1) % 3).await;
            moves += 1;
        }
    };
    let keep_reading = async {
        while !has_moved.load(Ordering::Relaxed) {
            match instance.broker.count_presence(channel("news")).await {
                Ok(count) => assert_eq!(count.clients, CLIENTS, "read {reads:?}"),
                // It has moved too often, or has no master at the moment.
                Err(error) => println!("{error}"),
            }
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::join!(keep_reading, async {
        moves.await;
        has_moved.store(true, Ordering::Relaxed);
    });
    assert_eq!(instance.broker.count_presence(channel("news")).await.unwrap().clients, CLIENTS);
}

#[tokio::test]
async fn refresh_over_all_partitions_takes_one_round_trip_per_master() {
    const MINUTE: Duration = Duration::from_secs(60);
    let cluster = RedisCluster::start().await;
    let instance = start_broker_with("", |config| {
        config.cluster.urls = vec![Secret::new(format!("redis://{}", cluster.addresses()[0]))];
        config.probe_interval = MINUTE;
    });
    instance.wait_until_ready().await;
    let present: Vec<PresentClient> =
        (0..1000).map(|number| (channel(&format!("room-{number}")), client_info("a").into())).collect();
    instance.broker.refresh_presence(present.clone(), MINUTE).await.unwrap();
    // Each batch of commands ends with the question for the role.
    let round_trips = async || {
        let mut counts = Vec::new();
        for node in &cluster.nodes[..3] {
            let stats: String = node.run(&["INFO", "commandstats"]).await;
            let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_role:calls=")).unwrap();
            counts.push(line.split(',').next().unwrap().parse::<usize>().unwrap());
        }
        counts
    };
    let before = round_trips().await;
    instance.broker.refresh_presence(present, MINUTE).await.unwrap();
    let used: Vec<usize> = round_trips().await.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(used, [1, 1, 1]);
}

#[tokio::test]
async fn channel_whose_slot_has_moved_away_and_back_is_subscribed_again() {
    let cluster = RedisCluster::start().await;
    let instance = start_broker_with("", |config| {
        config.cluster.urls = vec![Secret::new(format!("redis://{}", cluster.addresses()[0]))];
        // The topology, once read, is not read again by itself.
        config.probe_interval = Duration::from_secs(600);
    });
    instance.wait_until_ready().await;
    let mut own_slots = HashSet::new();
    for name in subscribed_names(&cluster).await {
        own_slots.insert(cluster.slot_of(&name).await);
    }
    instance.subscribe("chat:1").await;
    let slot = slot_of_channel(&cluster, "chat:1").await;
    assert!(!own_slots.contains(&slot), "the slot has nothing else");
    let from = cluster.master_of(slot).await.unwrap();
    cluster.move_slots(slot..=slot, (from + 1) % 3).await;
    cluster.move_slots(slot..=slot, from).await;
    wait_until("the channel is subscribed again", async || {
        _ = instance.publish("chat:1", "1").await;
        !instance.data_received("chat:1").is_empty()
    })
    .await;
}

/// The shard channels to which brokers are subscribed.
pub async fn subscribed_names(cluster: &RedisCluster) -> Vec<String> {
    let mut names = Vec::new();
    for master in &cluster.nodes[..3] {
        names.extend(master.run::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS"]).await);
    }
    names
}

/// The slot of a channel to which a broker is subscribed.
pub async fn slot_of_channel(cluster: &RedisCluster, channel: &str) -> u16 {
    let names = subscribed_names(cluster).await;
    let name = names.iter().find(|name| name.ends_with(&format!("}}{channel}"))).expect("a subscribed shard channel");
    cluster.slot_of(name).await
}

/// Whether a line of CLIENT LIST is that of a client with shard channels.
pub fn is_subscribed(client: &str) -> bool {
    client.contains(" ssub=") && !client.contains(" ssub=0 ")
}
