//! Starting, stopping, health.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::{clock::Clock, server};

use crate::support::{config, http, hub, hub_with};

#[actix_rt::test]
async fn a_hub_that_stops_tells_its_clients_3001_within_the_drain() {
    let hub = hub().await;
    let mut clients = join_all((0..50).map(|_| hub.client("ann"))).await;
    let began = std::time::Instant::now();
    let told = async { join_all(clients.iter_mut().map(|client| client.ended())).await };
    let (ends, ()) = tokio::join!(told, hub.stop());
    assert!(ends.iter().all(|(code, push)| *code == Some(3001) && push.as_ref().unwrap()["code"] == 3001), "{ends:?}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[actix_rt::test]
async fn health_says_live_and_ready_and_what_is_counted() {
    let hub = hub().await;
    let _client = hub.client("ann").await;
    assert_eq!(http::get(hub.address, "/health/live").send().await.json(), json!({"status": "live"}));
    let ready = http::get(hub.address, "/health/ready").send().await;
    assert_eq!((ready.status, ready.json()["status"].clone()), (200, json!("ready")));
    assert_eq!(hub.metric("wardcast_connections").await, 1.0);
    assert_eq!(http::get(hub.address, "/nothing").send().await.status, 404);
    assert_eq!(http::post(hub.address, "/health/live").send().await.status, 405);
}

#[actix_rt::test]
async fn a_taken_address_is_named() {
    let hub = hub().await;
    let mut taken = config();
    taken.server.bind = hub.address;
    let refused = server::start(taken, Clock::default()).await.err().unwrap().to_string();
    assert!(refused.contains(&hub.address.to_string()), "{refused}");
}

#[actix_rt::test]
async fn connections_over_the_limit_are_503_until_one_goes() {
    let hub = hub_with(|config| config.limits.connections = 2).await;
    let (one, two) = (hub.client("ann").await, hub.client("ann").await);
    let handshake = crate::support::raw::handshake(hub.address, &format!("/socket?token={}", hub.token("ann")));
    let full = http::exchange(hub.address, handshake.as_bytes()).await;
    assert_eq!((full.status, full.header("retry-after")), (503, Some("5")));
    assert_eq!(http::get(hub.address, "/health/ready").send().await.status, 200);
    drop(one);
    crate::support::eventually("a seat is free", async || hub.connections() == 1).await;
    hub.client("ann").await;
    drop(two);
}
