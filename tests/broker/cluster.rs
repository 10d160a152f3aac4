//! Redis Cluster: what happens to its channels when masters die, change or lose slots. Each test prints how long it took.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use wardcast::config::Secret;

use super::fixture::{Instance, start_broker_with, wait_until};
use crate::support::redis::{ClusterOptions, RedisCluster, RedisServer};

/// So many channels that each master has some.
const CHANNELS: usize = 60;

fn start_cluster_broker(address: &str) -> Instance {
    start_broker_with("", |config| config.cluster.urls = vec![Secret::new(format!("redis://{address}"))])
}

fn channels() -> impl Iterator<Item = String> {
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
async fn publications_with_history_are_neither_refused_nor_doubled_while_their_slot_moves() {
    let cluster = RedisCluster::start().await;
    let instance = start_cluster_broker(&cluster.addresses()[0]);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance.store("news", "1").await;
    let mut names = Vec::<String>::new();
    for master in &cluster.nodes[..3] {
        names.extend(master.run::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS", "wardcast:c:*"]).await);
    }
    let name = &names[0];
    let slot = cluster.slot_of(name).await;
    let from = cluster.master_of(slot).await.unwrap();
    let to = (from + 1) % 3;
    cluster.begin_move(slot..=slot, from, to).await;
    // Meanwhile both masters answer TRYAGAIN, since no key has the name of the shard channel: publications wait for the end.
    let waiting = async { tokio::join!(instance.store("news", "2"), instance.store("news", "3")) };
    let moving = async {
        cluster.move_keys(slot..=slot, from, to).await;
        cluster.end_move(slot..=slot, from, to).await;
    };
    tokio::join!(waiting, moving);
    instance.store("news", "4").await;
    let stored = instance.read_all("news").await;
    let data: Vec<_> = stored.iter().map(|(offset, data)| (*offset, data.as_str())).collect();
    assert_eq!(data, [(1, "1"), (2, "2"), (3, "3"), (4, "4")]);
    wait_until("the subscription has moved", async || {
        instance.publish("news", "5").await.unwrap();
        instance.data_received("news").contains(&"5".to_owned())
    })
    .await;
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
    let error = instance.wait_for_outage("no node of a cluster").await;
    assert!(error.contains("broker.redis.url"), "{error}");
    assert_eq!(instance.metrics.broker_up.get(), 0);
    let locked = RedisServer::start_with(&["--requirepass", "secret"]).await;
    let instance = start_cluster_broker(&format!("127.0.0.1:{}", locked.port()));
    println!("{}", instance.wait_for_outage("set broker.redis.password").await);
}
