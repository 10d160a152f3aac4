//! A channel of a Redis Cluster of whose keys one has moved to another master and the other has not. Redis runs no script there that
//! needs both, so calls wait, and other channels do not.

use std::time::Duration;

use futures_util::future::join_all;
use wardcast::broker::{BrokerError, HistoryRequest, PublishOptions, Retention};

use super::{
    cluster::slot_of_channel,
    cluster_moves::{Move, name_of, start_patient_broker},
    fixture::{Instance, TIMEOUT, WHOLE_HISTORY, channel, client_info, wait_until},
};
use crate::support::{PATIENCE, poll_until, redis::RedisCluster};

const KEEP: Retention = Retention { size: 1000, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(3600) };

fn keep() -> PublishOptions {
    PublishOptions { retention: Some(KEEP), ..PublishOptions::default() }
}

/// All channels are in one slot. "news" has one publication and one client, and "other" a publication.
async fn prepare(cluster: &RedisCluster, timeout: Duration) -> Instance {
    let instance = start_patient_broker(cluster, |config| (config.partitions, config.timeout) = (1, timeout));
    instance.wait_until_ready().await;
    for name in ["news", "other"] {
        instance.subscribe(name).await;
        instance.publish_with(name, "1", keep()).await.unwrap();
    }
    instance.broker.add_presence(channel("news"), client_info("a").into(), KEEP.ttl).await.unwrap();
    instance
}

/// Moves the stream and the members of "news", but neither the position nor the expiries.
async fn move_half(cluster: &RedisCluster) -> Move<'_> {
    let moving = Move::begin(cluster, slot_of_channel(cluster, "news").await, 1).await;
    moving.migrate(&[&name_of(cluster, "news", 's').await, &name_of(cluster, "news", 'p').await]).await;
    moving
}

/// How often a master has refused a command because it has only some of the keys.
async fn refusals(cluster: &RedisCluster, master: usize) -> u64 {
    let errors: String = cluster.nodes[master].run(&["INFO", "errorstats"]).await;
    let count = errors.lines().find_map(|line| line.strip_prefix("errorstat_TRYAGAIN:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test]
async fn calls_for_a_channel_whose_keys_are_on_two_masters_wait_and_lose_nothing() {
    let cluster = RedisCluster::start().await;
    let instance = prepare(&cluster, PATIENCE).await;
    let moving = move_half(&cluster).await;
    let before = refusals(&cluster, moving.from).await;
    let stored = tokio::spawn(join_all(
        (2..=20).map(|number| instance.publish_with("news", &number.to_string(), keep())).collect::<Vec<_>>(),
    ));
    let read = tokio::spawn(instance.broker.read_history(channel("news"), WHOLE_HISTORY, KEEP));
    // Each of them several times.
    poll_until("the calls are refused", async || refusals(&cluster, moving.from).await > before + 60).await;
    instance.publish_with("other", "2", keep()).await.unwrap();
    // Changes of presence keep their order, so what comes for their slot from now on waits behind this one.
    let present = tokio::spawn(instance.broker.add_presence(channel("news"), client_info("b").into(), KEEP.ttl));
    let before = refusals(&cluster, moving.from).await;
    poll_until("all are refused again", async || refusals(&cluster, moving.from).await > before + 60).await;
    assert!(!stored.is_finished() && !read.is_finished() && !present.is_finished());

    moving.move_keys().await;
    let stored = stored.await.unwrap().into_iter().map(|receipt| receipt.unwrap().position.unwrap().offset);
    let mut offsets: Vec<u64> = stored.collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (2..=20).collect::<Vec<_>>());
    let page = read.await.unwrap().unwrap();
    assert_eq!(page.publications.len() as u64, page.top.offset);
    present.await.unwrap().unwrap();
    assert_eq!(instance.broker.count_presence(channel("news")).await.unwrap().clients, 2);
    moving.end().await;
    instance.publish_with("news", "21", keep()).await.unwrap();
    let news = || instance.received().into_iter().filter(|publication| publication.channel.as_str() == "news");
    wait_until("the publications of the move", async || news().count() >= 20).await;
    let received: Vec<u64> = news().map(|publication| publication.position.unwrap().offset).collect();
    assert_eq!(received[..20], (1..=20).collect::<Vec<_>>(), "{received:?}");
}

/// Positions are read together, in one round trip.
#[tokio::test]
async fn position_of_a_channel_whose_keys_are_on_two_masters_does_not_delay_those_of_other_channels() {
    let cluster = RedisCluster::start().await;
    let instance = prepare(&cluster, PATIENCE).await;
    let others: Vec<String> = (0..100).map(|number| format!("chat:{number}")).collect();
    for name in &others {
        instance.publish_with(name, "1", keep()).await.unwrap();
    }
    let moving = move_half(&cluster).await;
    let position = |name: &str| instance.broker.read_history(channel(name), HistoryRequest::default(), KEEP);
    // Those that come while the first round trips are on their way share the next one.
    let (mut calls, mut moved) = (Vec::new(), Vec::new());
    for (number, name) in others.iter().enumerate() {
        calls.push(position(name));
        if number % 20 == 10 {
            moved.push(position("news"));
        }
    }
    let moved = tokio::spawn(join_all(moved));
    // The calls for the other channel may wait for twice as long.
    let others = tokio::time::timeout(PATIENCE / 2, join_all(calls)).await.expect("they wait for nothing");
    assert!(others.iter().all(|page| page.as_ref().is_ok_and(|page| page.top.offset == 1)), "{others:?}");
    assert!(!moved.is_finished());
    moving.move_keys().await;
    assert!(moved.await.unwrap().into_iter().all(|page| page.unwrap().top.offset == 1));
    moving.end().await;
}

#[tokio::test]
async fn call_for_a_channel_whose_keys_are_on_two_masters_fails_after_its_timeout_and_is_not_run_later() {
    let cluster = RedisCluster::start().await;
    let instance = prepare(&cluster, TIMEOUT * 2).await;
    let moving = move_half(&cluster).await;
    let calls = async {
        let lost = join_all((0..5).map(|_| instance.publish_with("news", "lost", keep())).collect::<Vec<_>>());
        let read = instance.broker.read_history(channel("news"), WHOLE_HISTORY, KEEP);
        let present = instance.broker.add_presence(channel("news"), client_info("b").into(), KEEP.ttl);
        let (lost, read, present) = tokio::join!(lost, read, present);
        let errors = lost.into_iter().map(|lost| lost.map(drop)).chain([read.map(drop), present]);
        errors.map(Result::unwrap_err).collect::<Vec<_>>()
    };
    let errors = tokio::time::timeout(PATIENCE, calls).await.expect("they fail by themselves");
    assert!(errors.iter().all(|error| matches!(error, BrokerError::Unavailable(_))), "{errors:?}");
    moving.move_keys().await;
    moving.end().await;
    let next = instance.publish_with("news", "2", keep()).await.unwrap().position.unwrap();
    assert_eq!(next.offset, 2, "nothing was stored meanwhile");
    assert_eq!(instance.broker.count_presence(channel("news")).await.unwrap().clients, 1);
}
