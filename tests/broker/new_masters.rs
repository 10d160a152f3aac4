//! Redis Cluster: how soon a slot works at a master that has just got it, or is getting its first one.

use std::time::Duration;

use wardcast::{broker::PublishOptions, config::Secret};

use super::{
    cluster::slot_of_channel,
    cluster_moves::{Move, name_of, start_patient_broker, wait_for_data},
    fixture::{KEEP_FIVE, TIMEOUT},
};
use crate::support::{
    Stopwatch, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::RedisCluster,
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn move_of_a_slot_is_followed_at_once_although_a_configured_node_does_not_answer() {
    let cluster = RedisCluster::start().await;
    let silent = Proxy::start(cluster.nodes[3].port()).await;
    silent.set(ProxyMode::BlackHole);
    let instance = start_patient_broker(&cluster, |config| config.cluster.urls.push(Secret::new(silent.url())));
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let mut shortest = MINUTE;
    // A busy machine may take longer once.
    for _ in 0..3 {
        let moving = Move::begin(&cluster, slot_of_channel(&cluster, "news").await, 1).await;
        moving.move_keys().await;
        let (name, since) = (name_of(&cluster, "news", 'c').await, Stopwatch::start());
        let followed = async {
            let subscribers =
                async || cluster.nodes[moving.to].try_run::<(String, u64)>(&["PUBSUB", "SHARDNUMSUB", &name]).await;
            poll_until("it is subscribed there", async || subscribers().await.is_ok_and(|(_, count)| count == 1)).await;
            since.elapsed()
        };
        shortest = shortest.min(tokio::join!(followed, moving.end()).0);
    }
    assert!(shortest < Duration::from_millis(500), "{shortest:?}");
}

/// No node names it as the master of anything until the move has ended.
#[tokio::test]
async fn first_slot_of_a_new_master_works_while_it_moves() {
    let cluster = RedisCluster::start().await;
    let instance = start_patient_broker(&cluster, |config| (config.partitions, config.timeout) = (1, TIMEOUT * 2));
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let slot = slot_of_channel(&cluster, "news").await;
    let from = cluster.master_of(slot).await.unwrap();
    let newcomer = cluster.replica_of((from + 1) % 3).await;
    cluster.make_empty_master(newcomer).await;
    instance.store("news", "1").await;
    cluster.begin_move(slot..=slot, from, newcomer).await;
    cluster.move_keys(slot..=slot, from, newcomer).await;
    let names: Vec<String> = (0..50).map(|number| format!("chat:{number}")).collect();
    let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    for name in ["news"].into_iter().chain(names.iter().map(String::as_str)) {
        instance.publish_with(name, "2", options.clone()).await.unwrap();
        instance.publish(name, "3").await.unwrap();
    }
    wait_for_data(&instance, "news", &["1", "2", "3"]).await;
    assert_eq!(instance.read_all("news").await.len(), 2);
    cluster.end_move(slot..=slot, from, newcomer).await;
    instance.store("news", "4").await;
    assert_eq!(instance.read_all("news").await.len(), 3);
    poll_until("the topology is followed", async || {
        instance.publish("news", "5").await.unwrap();
        instance.data_received("news").contains(&"5".to_owned())
    })
    .await;
}
