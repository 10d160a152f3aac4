//! Start and stop of a hub, its health endpoints, and its limit of connections.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::{clock::Clock, config::Secret, server};

use crate::support::{
    Stopwatch, config, http, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
    start_hub, start_hub_on, start_hub_with,
};

#[actix_rt::test]
async fn stopping_hub_closes_clients_with_3001_within_drain_time() {
    let hub = start_hub().await;
    let mut clients = join_all((0..50).map(|_| hub.connect("ann"))).await;
    let started = Stopwatch::start();
    let closes = async { join_all(clients.iter_mut().map(|client| client.wait_for_close())).await };
    let (closes, ()) = tokio::join!(closes, hub.stop());
    let shutdown = (Some(3001), "shutdown".to_owned());
    assert!(closes.iter().all(|closed| *closed == shutdown), "{closes:?}");
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[actix_rt::test]
async fn health_and_metrics_report_a_running_hub() {
    let hub = start_hub().await;
    let _client = hub.connect("ann").await;
    assert_eq!(http::get(hub.address, "/health/live").send().await.json(), json!({"status": "live"}));
    let ready = http::get(hub.address, "/health/ready").send().await;
    assert_eq!((ready.status, ready.json()["status"].clone()), (200, json!("ready")));
    assert_eq!(hub.metric("wardcast_connections").await, 1.0);
    assert_eq!(http::get(hub.address, "/nothing").send().await.status, 404);
    assert_eq!(http::post(hub.address, "/health/live").send().await.status, 405);
}

/// One check takes 20 ms, so that a hundred of them in turn would take longer than a request waits for its own.
#[actix_rt::test]
async fn hundred_requests_for_the_readiness_at_once_are_answered_200_over_a_distant_redis() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let hub = start_hub_on(&redis, |config| {
        config.broker.redis.url = Secret::new(proxy.url());
        config.broker.redis.timeout = Duration::from_millis(500);
    })
    .await;
    let ready = async || http::get(hub.address, "/health/ready").send().await.status;
    poll_until("the hub is ready", async || ready().await == 200).await;
    proxy.set(ProxyMode::Delay(Duration::from_millis(10)));
    for _ in 0..3 {
        let statuses = join_all((0..100).map(|_| ready())).await;
        assert_eq!(statuses, [200; 100]);
    }
}

#[actix_rt::test]
async fn address_in_use_is_named_in_the_error() {
    let hub = start_hub().await;
    let mut taken = config();
    taken.server.bind = hub.address.into();
    let refused = server::start(taken, Clock::default()).await.err().unwrap().to_string();
    assert!(refused.contains(&hub.address.to_string()), "{refused}");
}

#[actix_rt::test]
async fn connections_over_the_limit_are_503_until_one_closes() {
    let hub = start_hub_with(|config| config.limits.connections = 2).await;
    let (one, two) = (hub.connect("ann").await, hub.connect("ann").await);
    let handshake = crate::support::raw::handshake(hub.address, &hub.path_for("ann"));
    let full = http::exchange(hub.address, handshake.as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after")), (503, Some("5")));
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    drop(one);
    hub.wait_for_connections(1).await;
    let _three = hub.connect("ann").await;
    drop(two);
}
