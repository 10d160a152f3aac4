//! A Redis that is not a master, or accepts no writes: nothing is published into the void, and the instance is not ready.

use std::time::Duration;

use bytes::Bytes;
use wardcast::broker::{BrokerError, SharedBroker};

use super::fixture::{Instance, start_broker_with, start_ready_broker, wait_until, wait_until_delivered};
use crate::support::{mark_secret, poll_until, proxy::Proxy, redis::RedisServer};

/// Two masters, and an instance behind a proxy before each of them. Only the second is subscribed to "news".
async fn start_after_half_a_failover() -> ([RedisServer; 2], Proxy, Instance, Instance) {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let proxy = Proxy::start(servers[0].port()).await;
    let (late, early) = (start_ready_broker(&proxy.url()).await, start_ready_broker(&servers[1].url()).await);
    early.subscribe("news").await;
    (servers, proxy, late, early)
}

async fn put_ticket(broker: &SharedBroker) -> Result<(), BrokerError> {
    broker.put_ticket("ticket".to_owned(), Bytes::from_static(b"value"), Duration::from_secs(10)).await
}

#[tokio::test]
async fn publication_on_a_demoted_master_fails_or_arrives() {
    let (servers, proxy, late, early) = start_after_half_a_failover().await;
    servers[0].demote(&servers[1]).await;
    let mut accepted = Vec::new();
    for number in 0..50 {
        if late.publish("news", &number.to_string()).await.is_ok() {
            accepted.push(number.to_string());
        }
    }
    println!("{} of 50 accepted", accepted.len());
    println!("{}", late.wait_for_outage("receives no publications").await);
    assert!(late.broker.subscribe(super::fixture::channel("more")).await.is_err());
    assert!(put_ticket(&late.broker).await.is_err());
    proxy.lead_to(servers[1].port());
    late.wait_until_ready().await;
    wait_until_delivered(&late, &early, "news").await;
    let arrived = early.data_received("news");
    assert!(accepted.iter().all(|data| arrived.contains(data)), "{accepted:?} accepted, {arrived:?} arrived");
    put_ticket(&late.broker).await.unwrap();
}

#[tokio::test]
async fn subscriptions_move_to_the_new_master() {
    let (servers, proxy, late, early) = start_after_half_a_failover().await;
    late.subscribe("old").await;
    servers[0].demote(&servers[1]).await;
    late.wait_for_outage("replica of").await;
    proxy.lead_to(servers[1].port());
    // A delivery proves nothing: the old master delivers, too, because replicas get the publications of their master.
    let subscribed =
        async |server: &RedisServer| server.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "*{old}"]).await.len();
    poll_until("the subscription is on the new master only", async || {
        (subscribed(&servers[0]).await, subscribed(&servers[1]).await) == (0, 1)
    })
    .await;
    wait_until_delivered(&early, &late, "old").await;
}

#[tokio::test]
async fn idle_instance_notices_that_its_redis_is_a_replica() {
    let (server, master) = (RedisServer::start().await, RedisServer::start().await);
    let instance = start_ready_broker(&server.url()).await;
    server.demote(&master).await;
    wait_until("the gauge shows it", async || instance.metrics.broker_up.get() == 0).await;
    server.promote().await;
    instance.wait_until_ready().await;
}

/// A user without the right to ROLE asks HELLO, which every user may.
#[tokio::test]
async fn replica_is_recognised_with_each_right_that_the_user_may_have() {
    for (denied, expected) in [(&[][..], "replica of"), (&["-role"][..], "redis is a replica")] {
        let (server, master) = (RedisServer::start().await, RedisServer::start().await);
        let user = ["ACL", "SETUSER", "hub", "on", ">long enough", "allkeys", "allchannels", "+@all"];
        server.run::<()>(&[&user, denied].concat()).await;
        let instance = start_broker_with(&server.url(), |config| {
            config.username = Some("hub".to_owned());
            config.password = wardcast::config::Secret::new(mark_secret("long enough"));
        });
        instance.wait_until_ready().await;
        server.demote(&master).await;
        let error = instance.wait_for_outage(expected).await;
        println!("{denied:?}: {error}");
        assert!(instance.publish("news", "1").await.is_err());
        server.promote().await;
        instance.wait_until_ready().await;
        instance.publish("news", "1").await.unwrap();
    }
}

/// It would answer MASTERDOWN to what asks for its data.
#[tokio::test]
async fn replica_that_has_lost_its_master_is_a_replica_until_it_is_promoted() {
    let (server, mut master) =
        (RedisServer::start_with(&["--replica-serve-stale-data", "no"]).await, RedisServer::start().await);
    let instance = start_ready_broker(&server.url()).await;
    server.demote(&master).await;
    master.kill();
    instance.wait_for_outage("redis is a replica of 127.0.0.1").await;
    let refused = server.try_run::<()>(&["GET", "key"]).await;
    assert_eq!(refused.unwrap_err().code(), Some("MASTERDOWN"));
    assert!(put_ticket(&instance.broker).await.is_err());
    server.promote().await;
    instance.wait_until_ready().await;
    put_ticket(&instance.broker).await.unwrap();
}

#[tokio::test]
async fn revoked_right_to_ask_for_the_role_is_replaced_by_another() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-role"]).await;
    println!("{}", instance.wait_for_outage("may not run ROLE").await);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    wait_until_delivered(&instance, &instance, "news").await;
}

#[tokio::test]
async fn paused_writes_make_the_instance_ready_only_after_a_publication() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["CLIENT", "PAUSE", "3000", "WRITE"]).await;
    println!("{}", instance.wait_for_outage("cannot publish to").await);
    wait_until("a publication is accepted", async || {
        let is_shown = instance.metrics.broker_up.get() == 1;
        let is_ready = instance.broker.check_ready().await.is_ok();
        let published = instance.publish("news", "1").await;
        assert!(published.is_ok() || !is_shown && !is_ready, "gauge {is_shown}, ready {is_ready}, then {published:?}");
        is_shown && is_ready
    })
    .await;
    assert_eq!(instance.metrics.broker_reconnects.get(), 0, "subscriptions stay");
}

/// The check itself publishes, so that an instance is not ready until the next probe has failed.
#[tokio::test]
async fn first_check_during_paused_writes_finds_the_instance_not_ready() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["CLIENT", "PAUSE", "3000", "WRITE"]).await;
    let ready = instance.broker.check_ready().await;
    assert!(matches!(ready, Err(BrokerError::NotReady { problem: "cannot publish", .. })), "{ready:?}");
}
