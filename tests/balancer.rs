//! Hubs behind HAProxy with the shipped configuration: restarts and outages, as clients and publishers see them.

use std::{net::SocketAddr, time::Duration};

use actix_rt::task::JoinHandle;
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::watch;
use wardcast::config::Config;

use crate::support::{
    API_KEY, Client, TestHub, haproxy::HaProxy, http, poll_until, redis::RedisServer, start_hub_on, start_hub_with,
};

/// The settings of docker-compose.yml: the default times of a stop, and an internal listener.
fn configure(config: &mut Config) {
    let Config { server, .. } = Config::default();
    config.server.internal_bind = Some(([127, 0, 0, 1], 0).into());
    (config.server.drain, config.server.drain_delay) = (server.drain, server.drain_delay);
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.limits.handshakes_per_second = 0;
}

/// Starts a hub, perhaps on the addresses of an earlier one.
async fn start_hub_behind(redis: &RedisServer, addresses: Option<(SocketAddr, Option<SocketAddr>)>) -> TestHub {
    start_hub_on(redis, |config| {
        configure(config);
        if let Some((public, internal)) = addresses {
            (config.server.bind, config.server.internal_bind) = (public.into(), internal.map(Into::into));
        }
    })
    .await
}

async fn publish(balancer: &HaProxy) -> http::Response {
    publish_at(balancer.internal_address).await
}

async fn publish_at(address: SocketAddr) -> http::Response {
    let request = http::post(address, "/api/publish").header("X-API-Key", API_KEY);
    request.json(json!({"channel": "news", "data": 1})).send().await
}

/// Publishes through the load balancer until the test is over; returns the number of publications.
fn start_publisher(internal: SocketAddr, is_over: watch::Receiver<bool>) -> JoinHandle<u32> {
    actix_rt::spawn(async move {
        let mut count = 0;
        while !*is_over.borrow() {
            let response = publish_at(internal).await;
            assert_eq!((response.status, response.body.as_str()), (200, r#"{"result":{}}"#), "{response:?}");
            count += 1;
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
        count
    })
}

/// Keeps a client subscribed through the load balancer until the test is over. It connects again as soon as it is closed,
/// and the first attempt must succeed. Returns how often it was closed.
fn start_client(balancer: SocketAddr, path: String, mut is_over: watch::Receiver<bool>) -> JoinHandle<u32> {
    actix_rt::spawn(async move {
        for closed in 0.. {
            let mut client = Client::connect(balancer, &path).await.unwrap_or_else(|error| panic!("{error}"));
            client.receive_connect_push().await;
            client.subscribe("news").await;
            tokio::select! {
                (code, _) = client.wait_for_close() => assert_eq!(code, Some(3001)),
                _ = is_over.wait_for(|is_over| *is_over) => return closed,
            }
        }
        unreachable!("the test is over at some time")
    })
}

#[actix_rt::test]
async fn rolling_restart_behind_haproxy_fails_no_publish_and_no_reconnect() {
    let redis = RedisServer::start().await;
    let mut hubs = vec![start_hub_behind(&redis, None).await, start_hub_behind(&redis, None).await];
    let balancer = HaProxy::start(&hubs.iter().collect::<Vec<_>>()).await;
    let is_over = watch::Sender::new(false);
    let publishers: Vec<_> = (0..2).map(|_| start_publisher(balancer.internal_address, is_over.subscribe())).collect();
    let path = hubs[0].path_for("ann");
    let clients: Vec<_> = (0..20).map(|_| start_client(balancer.address, path.clone(), is_over.subscribe())).collect();
    poll_until("all clients are connected", async || hubs.iter().map(TestHub::connections).sum::<usize>() == 20).await;
    for _ in 0..2 {
        let hub = hubs.remove(0);
        let addresses = (hub.address, Some(hub.internal_address()));
        hub.stop().await;
        hubs.push(start_hub_behind(&redis, Some(addresses)).await);
        balancer.wait_for_ready_hubs(2).await;
    }
    is_over.send_replace(true);
    let published: Vec<u32> = join_all(publishers).await.into_iter().map(Result::unwrap).collect();
    assert!(published.iter().all(|count| *count > 100), "the load was steady: {published:?}");
    let closed: Vec<u32> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    assert!(closed.iter().sum::<u32>() >= 20, "each hub's clients were closed: {closed:?}");
}

/// What clients reach is the port that is open to the Internet.
#[actix_rt::test]
async fn server_api_and_metrics_are_not_forwarded_to_clients_and_the_api_is_to_backends() {
    let hub = start_hub_with(configure).await;
    let balancer = HaProxy::start(&[&hub]).await;
    let status = async |address, path: &str| http::get(address, path).send().await.status;
    for path in
        ["/api", "/api/", "/api/info", "//api/info", "/%61pi/info", "/metrics", "/%6detrics", "/admin", "/health"]
    {
        let answer = http::get(balancer.address, path).send().await;
        // The load balancer's own: that of a hub is JSON.
        assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
    }
    assert_eq!(publish_at(balancer.address).await.status, 404);
    let post = async |address, header, value: &str| {
        http::post(address, "/v1/channels/news/messages").header(header, value).json(json!(1)).send().await.status
    };
    assert_eq!(post(balancer.address, "X-API-Key", API_KEY).await, 401, "the key is worth nothing here");
    assert_eq!(post(balancer.address, "Authorization", &hub.bearer("ann")).await, 200);
    assert_eq!(
        (status(balancer.address, "/health/ready").await, status(balancer.internal_address, "/health/ready").await),
        (200, 200)
    );

    assert_eq!(publish(&balancer).await.json(), json!({"result": {}}));
    assert_eq!(post(balancer.internal_address, "X-API-Key", API_KEY).await, 200);
    for path in ["/metrics", "/connection/websocket", "/auth/login", "/"] {
        assert_eq!(status(balancer.internal_address, path).await, 404, "{path}");
    }
}

#[actix_rt::test]
async fn redis_outage_behind_haproxy_answers_error_100_in_json() {
    let mut redis = RedisServer::start().await;
    let hub = start_hub_behind(&redis, None).await;
    let balancer = HaProxy::start(&[&hub]).await;
    let mut open = Client::connect(balancer.address, &hub.path_for("ann")).await.unwrap();
    open.receive_connect_push().await;
    assert_eq!(publish(&balancer).await.json(), json!({"result": {}}));
    redis.kill();
    balancer.wait_for_ready_hubs(0).await;
    let failed = publish(&balancer).await;
    assert_eq!((failed.status, failed.json()["error"]["code"].clone()), (200, json!(100)), "{failed:?}");
    assert_eq!(open.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}));
    let mut new = Client::connect(balancer.address, &hub.path_for("bob")).await.unwrap();
    new.receive_connect_push().await;
    redis.restart().await;
    balancer.wait_for_ready_hubs(1).await;
    assert_eq!(publish(&balancer).await.json(), json!({"result": {}}));
    drop((open, new));
    hub.stop().await;
    let none = publish(&balancer).await;
    assert_eq!((none.status, none.json()["error"]["code"].clone()), (503, json!(100)), "{none:?}");
    assert_eq!(none.header("retry-after"), Some("1"), "{none:?}");
}

#[actix_rt::test]
async fn handshake_that_a_full_hub_refuses_is_retried_on_another_hub() {
    let start = async |connections| {
        start_hub_with(|config| {
            configure(config);
            config.limits.connections = connections;
        })
        .await
    };
    let (full, other) = (start(1).await, start(100).await);
    let balancer = HaProxy::start(&[&full, &other]).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::connect(balancer.address, &full.path_for("ann")).await.unwrap());
    }
    assert_eq!((full.connections(), other.connections()), (1, 5));
}

#[actix_rt::test]
async fn token_of_32_kib_passes_the_shipped_balancer_in_url_header_and_subprotocol() {
    let hub = start_hub_with(configure).await;
    let balancer = HaProxy::start(&[&hub]).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "groups": "x".repeat(24_000)}));
    assert!((32_000..=hub.config.limits.token_bytes).contains(&token.len()), "{}", token.len());
    let (bearer, offer) = (format!("Bearer {token}"), format!("wardcast.v1, {token}"));
    for (path, headers) in [
        (format!("/socket?token={token}"), vec![]),
        ("/socket".to_owned(), vec![("Authorization", bearer.as_str())]),
        ("/socket".to_owned(), vec![("Sec-WebSocket-Protocol", offer.as_str())]),
    ] {
        let mut client = Client::connect_with(balancer.address, &path, &headers).await.unwrap();
        client.receive_connect_push().await;
    }
}
