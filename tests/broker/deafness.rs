//! A node whose connections to one server are open, and that receives nothing over them: it finds out within two probe intervals,
//! is not ready meanwhile, and what it has on the other servers goes on. Each test prints how long it took.

use std::time::Duration;

use wardcast::config::{RedisConfig, Secret};

use super::{
    cluster::channels,
    fixture::{ELSEWHERE, Instance, start_broker_with, start_ready_broker, urls, wait_until},
};
use crate::support::{
    Stopwatch,
    proxy::{Proxy, ProxyMode},
    redis::{ClusterOptions, RedisCluster, RedisServer, SentinelTrio, start_sentinel_of},
};

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// What the answers of the readiness check and the timers of the test may add.
const TOLERANCE: Duration = Duration::from_millis(500);

fn start(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Instance {
    start_broker_with(url, |config| {
        config.probe_interval = PROBE_INTERVAL;
        change(config);
    })
}

/// Subscribes to all channels of the tests.
async fn subscribe(instance: &Instance) {
    instance.wait_until_ready().await;
    for name in channels() {
        instance.subscribe(&name).await;
    }
}

/// Publishes to every channel; returns those that the instance has received.
async fn delivered(publisher: &Instance, subscriber: &Instance, data: &str, count: usize) -> Vec<String> {
    for name in channels() {
        publisher.publish(&name, data).await.unwrap();
    }
    let received = || channels().filter(|name| subscriber.data_received(name).contains(&data.to_owned())).collect();
    wait_until("the channels deliver", async || {
        let received: Vec<String> = received();
        received.len() >= count
    })
    .await;
    received()
}

/// Makes a working instance deaf behind this proxy, which leads to the server `address`, and then lets it hear again. At least
/// `unaffected` channels are on other servers.
async fn make_deaf(proxy: &Proxy, address: &str, subscriber: &Instance, publisher: &Instance, unaffected: usize) {
    subscriber.wait_until_ready().await;
    let all = channels().count();
    // Differs between the shards of one test.
    let data = |when: &str| format!("\"{when} {}\"", proxy.port());
    assert_eq!(delivered(publisher, subscriber, &data("before"), all).await.len(), all);
    let since = Stopwatch::start();
    proxy.set(ProxyMode::Deaf);
    let error = subscriber.wait_for_outage("the subscriptions receive nothing").await;
    let found_after = since.elapsed();
    println!("found after {found_after:?}: {error}");
    assert!(found_after < 2 * PROBE_INTERVAL + TOLERANCE, "{found_after:?}");
    assert!(error.contains(address), "{error} does not name {address}");
    assert_eq!(subscriber.metrics.broker_up.get(), 0);
    let others = delivered(publisher, subscriber, &data("deaf"), unaffected).await.len();
    assert!(others < all, "all channels deliver");
    // A new connection receives nothing either, so it does not make the node ready.
    wait_until("new connections", async || {
        assert!(subscriber.broker.check_ready().await.is_err());
        subscriber.metrics.broker_reconnects.get() >= 3
    })
    .await;
    proxy.set(ProxyMode::Pass);
    subscriber.wait_until_ready().await;
    assert_eq!(delivered(publisher, subscriber, &data("after"), all).await.len(), all);
}

#[tokio::test]
async fn deaf_node_of_one_server_is_found() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let (subscriber, publisher) = (start(&proxy.url(), |_| ()), start_ready_broker(&server.url()).await);
    subscribe(&subscriber).await;
    make_deaf(&proxy, "", &subscriber, &publisher, 0).await;
}

#[tokio::test]
async fn deaf_node_of_one_of_several_servers_is_found() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let proxy = Proxy::start(servers[1].port()).await;
    let mut all = urls(&servers);
    all[1] = Secret::new(proxy.url());
    // The text of the entries decides which channel is on which server.
    let (subscriber, publisher) =
        (start("", |config| config.urls.clone_from(&all)), start("", |config| config.urls = all.clone()));
    publisher.wait_until_ready().await;
    subscribe(&subscriber).await;
    let address = format!("127.0.0.1:{}", proxy.port());
    // The publisher only publishes: both are deaf.
    make_deaf(&proxy, &address, &subscriber, &publisher, 10).await;
}

#[tokio::test]
async fn deaf_node_of_a_master_that_sentinels_name_is_found() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let sentinel = start_sentinel_of(proxy.port()).await;
    let subscriber = start(ELSEWHERE, |config| {
        config.sentinel.urls = vec![Secret::new(sentinel.url())];
        config.sentinel.master_name = SentinelTrio::MASTER.to_owned();
    });
    let publisher = start_ready_broker(&server.url()).await;
    subscribe(&subscriber).await;
    make_deaf(&proxy, "", &subscriber, &publisher, 0).await;
}

#[tokio::test]
async fn deaf_node_of_one_shard_of_a_cluster_is_found() {
    let cluster = RedisCluster::start_with(&ClusterOptions { has_proxies: true, ..ClusterOptions::default() }).await;
    let addresses = cluster.addresses();
    let node = |number: usize| {
        let url = Secret::new(format!("redis://{}", addresses[number]));
        start("", |config| config.cluster.urls = vec![url])
    };
    let (subscriber, publisher) = (node(0), node(5));
    publisher.wait_until_ready().await;
    subscribe(&subscriber).await;
    for (shard, address) in addresses.iter().enumerate().take(2) {
        make_deaf(&cluster.proxies[shard], address, &subscriber, &publisher, 10).await;
    }
}
