//! Redis goes and comes back, in every way we know. Each test prints how long it took.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use wardcast::broker::{BrokerError, SurveyQuestion};

use super::{
    fixture::{Instance, TIMEOUT, channel, start_broker, start_ready_broker, wait_until, wait_until_delivered},
    proxy::{Proxy, ProxyMode},
};
use crate::support::redis::RedisServer;

/// Somebody who listens and somebody who publishes, on one Redis.
async fn pair(url: &str) -> (Instance, Instance) {
    let (alice, bob) = (start_ready_broker(url).await, start_ready_broker(url).await);
    alice.subscribe("news").await;
    (alice, bob)
}

#[tokio::test]
async fn subscriptions_survive_a_redis_crash() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.kill();
    let since = Instant::now();
    let why = alice.wait_until_unready().await;
    println!("noticed after {:?}: {why}", since.elapsed());
    assert_eq!(alice.metrics.broker_up.get(), 0);
    server.restart().await;
    println!("heard again {:?} after the restart", wait_until_delivered(&bob, &alice, "news").await);
    alice.wait_until_ready().await;
    assert_eq!(alice.metrics.broker_up.get(), 1);
    assert!(alice.metrics.broker_reconnects.get() >= 1);
}

#[tokio::test]
async fn two_thousand_channels_survive_a_redis_crash() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    let names: Vec<String> = (0..2_000).map(|n| format!("c{n}")).collect();
    let since = Instant::now();
    try_join_all(names.iter().map(|name| alice.broker.subscribe(channel(name)))).await.unwrap();
    println!("2,000 channels subscribed in {:?}", since.elapsed());
    server.kill();
    alice.wait_until_unready().await;
    bob.wait_until_unready().await;
    server.restart().await;
    let since = Instant::now();
    wait_until_delivered(&bob, &alice, "news").await;
    println!("back {:?} after the restart", since.elapsed());
    // One channel that is heard is not all of them.
    alice.wait_until_ready().await;
    bob.wait_until_ready().await;
    for name in &names {
        bob.publish(name, "1").await.unwrap();
    }
    let heard = async || alice.received().iter().filter(|publication| publication.data == "1").count();
    wait_until("all are received", async || heard().await == names.len()).await;
    assert!(names.iter().all(|name| alice.data_received(name) == ["1"]));
}

#[tokio::test]
async fn unsubscribe_during_an_outage_is_kept() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    alice.subscribe("left").await;
    server.kill();
    alice.wait_until_unready().await;
    alice.broker.unsubscribe(channel("left"));
    assert!(alice.broker.subscribe(channel("never")).await.is_err());
    server.restart().await;
    wait_until_delivered(&bob, &alice, "news").await;
    let subscribed: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await;
    assert_eq!(subscribed, ["wardcast:c:{news}"]);
}

#[tokio::test]
async fn frozen_redis_is_detected() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.freeze();
    let since = Instant::now();
    let why = alice.wait_until_unready().await;
    println!("noticed after {:?}: {why}", since.elapsed());
    let since = Instant::now();
    assert!(matches!(bob.publish("news", "1").await, Err(BrokerError::Unavailable(_))));
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", since.elapsed());
    // Until the supervisors have noticed too, and begin anew.
    wait_until("it is marked down", async || alice.metrics.broker_up.get() == 0).await;
    println!("marked down {:?} after that", since.elapsed());
    server.resume();
    println!("heard again {:?} after going on", wait_until_delivered(&bob, &alice, "news").await);
    alice.wait_until_ready().await;
}

#[tokio::test]
async fn killed_connections_are_replaced() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    for kind in ["pubsub", "normal"] {
        let killed: usize = server.run(&["CLIENT", "KILL", "TYPE", kind]).await;
        assert!(killed >= 2, "{killed}");
        println!("{kind}: heard again after {:?}", wait_until_delivered(&bob, &alice, "news").await);
    }
    alice.wait_until_ready().await;
}

#[tokio::test]
async fn output_buffer_overrun_causes_one_reconnect() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"]).await;
    assert_eq!(server.publish("wardcast:c:{news}", &vec![b'x'; 2 << 20]).await, 1);
    wait_until("redis cuts the subscriber off", async || alice.metrics.broker_reconnects.get() >= 1).await;
    wait_until_delivered(&bob, &alice, "news").await;
}

#[tokio::test]
async fn refused_publish_does_not_reconnect_the_subscriptions() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-publish"]).await;
    let refused = alice.publish("news", "1").await;
    assert!(matches!(&refused, Err(BrokerError::Unavailable(why)) if why.contains("permissions")), "{refused:?}");
    let why = bob.wait_until_unready().await;
    assert!(why.contains("cannot publish") && why.contains("permissions"), "{why}");
    server.run::<()>(&["ACL", "SETUSER", "default", "+publish"]).await;
    bob.wait_until_ready().await;
    wait_until_delivered(&bob, &alice, "news").await;
    assert_eq!((alice.metrics.broker_reconnects.get(), bob.metrics.broker_reconnects.get()), (0, 0));
}

#[tokio::test]
async fn subscriptions_recover_after_their_permission_was_revoked() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    // Redis disconnects whoever is subscribed to what he may not.
    server.run::<()>(&["ACL", "SETUSER", "default", "resetchannels"]).await;
    let why = alice.wait_until_unready().await;
    println!("{why}");
    server.run::<()>(&["ACL", "SETUSER", "default", "allchannels"]).await;
    wait_until_delivered(&bob, &alice, "news").await;
}

#[tokio::test]
async fn subscribe_during_reconnect_waits_for_the_next_connection() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    wait_until("it is noticed", async || alice.metrics.broker_up.get() == 0).await;
    alice.subscribe("more").await;
    bob.wait_until_ready().await;
    bob.publish("more", "1").await.unwrap();
    wait_until("it is received", async || alice.data_received("more") == ["1"]).await;
}

#[tokio::test]
async fn broker_starts_while_redis_is_down() {
    let mut server = RedisServer::start_stopped().await;
    let alice = start_broker(&server.url(), "wardcast");
    let why = alice.wait_until_unready().await;
    assert!(why.contains(&server.port().to_string()), "{why}");
    wait_until("subscribing fails", async || alice.broker.subscribe(channel("news")).await.is_err()).await;
    server.restart().await;
    alice.wait_until_ready().await;
    alice.subscribe("news").await;
    alice.publish("news", "1").await.unwrap();
    alice.wait_for_publications(1).await;
}

#[tokio::test]
async fn publishing_during_an_outage_fails_at_once() {
    let mut server = RedisServer::start().await;
    let alice = start_ready_broker(&server.url()).await;
    server.kill();
    for _ in 0..20 {
        let since = Instant::now();
        let results = try_join_all((0..100).map(|_| alice.publish("news", "1"))).await;
        assert!(matches!(results, Err(BrokerError::Unavailable(_))), "{results:?}");
        assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
    }
    let survey = alice.broker.survey(SurveyQuestion::Channels, Duration::from_secs(1)).await;
    assert!(matches!(survey, Err(BrokerError::Unavailable(_))), "{survey:?}");
}

#[tokio::test]
async fn publications_without_an_error_arrive_while_connections_are_killed() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    let mut published = Vec::new();
    for n in 0..2_000 {
        if n % 200 == 100 {
            server.run::<usize>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        }
        if bob.publish("news", &n.to_string()).await.is_ok() {
            published.push(n.to_string());
        }
    }
    println!("{} of 2,000 published while the connection was killed 10 times", published.len());
    wait_until("all that was published is received", async || {
        let heard = alice.data_received("news");
        published.iter().all(|n| heard.contains(n))
    })
    .await;
}

#[tokio::test]
async fn deaf_subscription_is_detected_by_probe() {
    let server = RedisServer::start().await;
    let (proxy, bob) = (Proxy::start(server.port()).await, start_ready_broker(&server.url()).await);
    let alice = start_ready_broker(&proxy.url()).await;
    alice.subscribe("news").await;
    wait_until_delivered(&bob, &alice, "news").await;
    wait_until("a probe has been heard", async || alice.metrics.probe_microseconds.get() > 0).await;
    proxy.set(ProxyMode::Deaf);
    let since = Instant::now();
    let why = alice.wait_until_unready().await;
    println!("found after {:?}: {why}", since.elapsed());
    assert!(why.contains("deaf"), "{why}");
    proxy.set(ProxyMode::Pass);
    println!("heard again after {:?}", wait_until_delivered(&bob, &alice, "news").await);
}

#[tokio::test]
async fn silent_connection_is_detected_by_timeout() {
    let server = RedisServer::start().await;
    let (proxy, bob) = (Proxy::start(server.port()).await, start_ready_broker(&server.url()).await);
    let alice = start_ready_broker(&proxy.url()).await;
    alice.subscribe("news").await;
    proxy.set(ProxyMode::BlackHole);
    let since = Instant::now();
    // By a deadline: through the hole no probe says anything about the subscriptions.
    wait_until("the subscriptions are given up", async || {
        alice.broker.check_ready().await.is_err_and(|why| why.contains("receives no publications"))
    })
    .await;
    println!("found after {:?}: {:?}", since.elapsed(), alice.broker.check_ready().await);
    proxy.set(ProxyMode::Pass);
    println!("heard again after {:?}", wait_until_delivered(&bob, &alice, "news").await);
    alice.wait_until_ready().await;
}

#[tokio::test]
async fn dropped_broker_closes_its_connections_and_releases_the_hubs() {
    let server = RedisServer::start().await;
    let clients = async || server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    let before = clients().await;
    let alice = start_ready_broker(&server.url()).await;
    alice.subscribe("news").await;
    assert!(clients().await > before);
    let hubs = std::sync::Arc::downgrade(&alice.hubs);
    drop(alice);
    wait_until("its connections are closed", async || clients().await == before).await;
    wait_until("nothing holds the hubs", async || hubs.upgrade().is_none()).await;
}
