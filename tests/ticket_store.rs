//! Tickets while Redis works, but not for them: each refusal is temporary (503), and none loses a ticket that was issued, or makes
//! one good for two connections.

use std::time::Duration;

use crate::{
    support::{
        TestHub, http, mark_secret, poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
        start_hub_over,
    },
    tickets::{request_ticket, ticket_request},
};

async fn start() -> (PrefixedRedis, TestHub) {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let hub = start_hub_over(&redis, |_| ()).await;
    (redis, hub)
}

fn server(redis: &PrefixedRedis) -> &RedisServer {
    &redis.form.masters()[0]
}

async fn request_at_once(hub: &TestHub) -> http::Response {
    ticket_request(hub, &hub.token("ann")).send().await
}

fn assert_temporary(response: &http::Response) {
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.body.contains("tickets are temporarily unavailable; try again soon"), "{response:?}");
}

/// Opens a connection with a ticket; returns the status.
async fn open(hub: &TestHub, ticket: &str) -> u16 {
    hub.try_handshake(&format!("/socket?ticket={ticket}"), &[]).await.status
}

async fn assert_opens_once(hub: &TestHub, ticket: &str) {
    assert_eq!((open(hub, ticket).await, open(hub, ticket).await), (101, 401));
}

#[actix_rt::test]
async fn full_redis_issues_no_ticket_and_takes_those_that_it_has_once() {
    let (redis, hub) = start().await;
    let issued = request_ticket(&hub, &hub.token("ann")).await;
    server(&redis).run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_temporary(&request_at_once(&hub).await);
    assert_opens_once(&hub, &issued).await;
    server(&redis).run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_opens_once(&hub, &request_ticket(&hub, &hub.token("ann")).await).await;
}

#[actix_rt::test]
async fn redis_that_refuses_writes_uses_no_ticket_up() {
    let (redis, hub) = start().await;
    let issued = request_ticket(&hub, &hub.token("ann")).await;
    server(&redis).run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert_temporary(&request_at_once(&hub).await);
    assert_eq!((open(&hub, &issued).await, open(&hub, &issued).await), (503, 503));
    server(&redis).run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert_opens_once(&hub, &issued).await;
}

#[actix_rt::test]
async fn read_only_replica_issues_no_ticket_and_uses_none_up() {
    let (redis, hub) = start().await;
    let issued = request_ticket(&hub, &hub.token("ann")).await;
    // A replica whose master does not exist keeps its data, and accepts no writes.
    server(&redis).run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_temporary(&request_at_once(&hub).await);
    assert_eq!((open(&hub, &issued).await, open(&hub, &issued).await), (503, 503));
    server(&redis).promote().await;
    hub.wait_for_broker(true).await;
    assert_opens_once(&hub, &issued).await;
}

#[actix_rt::test]
async fn key_of_another_type_is_no_ticket_and_stays() {
    let (redis, hub) = start().await;
    let issued = request_ticket(&hub, &hub.token("ann")).await;
    let key = format!("{}:ticket:{issued}", redis.prefix);
    server(&redis).run::<()>(&["DEL", &key]).await;
    server(&redis).run::<()>(&["RPUSH", &key, "1"]).await;
    assert_eq!((open(&hub, &issued).await, open(&hub, &issued).await), (503, 503));
    assert_eq!(server(&redis).run::<String>(&["TYPE", &key]).await, "list");
    assert_opens_once(&hub, &request_ticket(&hub, &hub.token("ann")).await).await;
}

/// What only Redis can know: whether a ticket was taken before the connection to it broke.
#[actix_rt::test]
async fn ticket_is_good_for_one_connection_at_most_while_redis_is_killed_and_comes_back() {
    let mut redis = PrefixedRedis::whole(RedisForm::OneServer(RedisServer::start_durable().await));
    let hub = start_hub_over(&redis, |config| config.auth.ticket_ttl = Duration::from_secs(60)).await;
    let tickets = [request_ticket(&hub, &hub.token("ann")).await, request_ticket(&hub, &hub.token("ann")).await];
    assert_eq!(open(&hub, &tickets[0]).await, 101);
    redis.servers_without_replicas().unwrap()[0].kill();
    assert_temporary(&request_at_once(&hub).await);
    assert_eq!((open(&hub, &tickets[0]).await, open(&hub, &tickets[1]).await), (503, 503));
    redis.servers_without_replicas().unwrap()[0].restart().await;
    hub.wait_for_broker(true).await;
    assert_eq!(open(&hub, &tickets[0]).await, 401, "it was used up");
    poll_until("the other one", async || open(&hub, &tickets[1]).await == 101).await;
    assert_eq!(open(&hub, &mark_secret(tickets[1].clone())).await, 401);
}
