//! Redis goes and comes back, in every way we know. Each test prints how long it took.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use wardcast::broker::{BrokerError, Question};

use super::{
    fixture::{Instance, TIMEOUT, at, channel, eventually, hears_again, on},
    proxy::{Mode, Proxy},
};
use crate::support::redis::RedisServer;

/// Somebody who listens and somebody who publishes, on one Redis.
async fn pair(url: &str) -> (Instance, Instance) {
    let (alice, bob) = (on(url).await, on(url).await);
    alice.subscribe("news").await;
    (alice, bob)
}

#[tokio::test]
async fn old_subscriptions_receive_again_after_a_crash() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.kill();
    let since = Instant::now();
    let why = alice.becomes_unready().await;
    println!("noticed after {:?}: {why}", since.elapsed());
    assert_eq!(alice.metrics.broker_up.get(), 0);
    server.restart().await;
    println!("heard again {:?} after the restart", hears_again(&bob, &alice, "news").await);
    alice.becomes_ready().await;
    assert_eq!(alice.metrics.broker_up.get(), 1);
    assert!(alice.metrics.broker_reconnects.get() >= 1);
}

#[tokio::test]
async fn two_thousand_channels_survive_a_crash() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    let names: Vec<String> = (0..2_000).map(|n| format!("c{n}")).collect();
    let since = Instant::now();
    try_join_all(names.iter().map(|name| alice.broker.subscribe(channel(name)))).await.unwrap();
    println!("2,000 channels subscribed in {:?}", since.elapsed());
    server.kill();
    alice.becomes_unready().await;
    bob.becomes_unready().await;
    server.restart().await;
    let since = Instant::now();
    hears_again(&bob, &alice, "news").await;
    println!("back {:?} after the restart", since.elapsed());
    // One channel that is heard is not all of them.
    alice.becomes_ready().await;
    bob.becomes_ready().await;
    for name in &names {
        bob.publish(name, "1").await.unwrap();
    }
    let heard = async || alice.received().iter().filter(|publication| publication.data == "1").count();
    eventually("all are received", async || heard().await == names.len()).await;
    assert!(names.iter().all(|name| alice.heard(name) == ["1"]));
}

#[tokio::test]
async fn what_is_given_back_in_an_outage_stays_given_back() {
    let mut server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    alice.subscribe("left").await;
    server.kill();
    alice.becomes_unready().await;
    alice.broker.unsubscribe(channel("left"));
    assert!(alice.broker.subscribe(channel("never")).await.is_err());
    server.restart().await;
    hears_again(&bob, &alice, "news").await;
    let subscribed: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await;
    assert_eq!(subscribed, ["wardcast:c:{news}"]);
}

#[tokio::test]
async fn a_frozen_redis_is_noticed() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.freeze();
    let since = Instant::now();
    let why = alice.becomes_unready().await;
    println!("noticed after {:?}: {why}", since.elapsed());
    let since = Instant::now();
    assert!(matches!(bob.publish("news", "1").await, Err(BrokerError::Unavailable(_))));
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", since.elapsed());
    // Until the supervisors have noticed too, and begin anew.
    eventually("it is marked down", async || alice.metrics.broker_up.get() == 0).await;
    println!("marked down {:?} after that", since.elapsed());
    server.thaw();
    println!("heard again {:?} after going on", hears_again(&bob, &alice, "news").await);
    alice.becomes_ready().await;
}

#[tokio::test]
async fn killed_connections_are_made_anew() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    for kind in ["pubsub", "normal"] {
        let killed: usize = server.run(&["CLIENT", "KILL", "TYPE", kind]).await;
        assert!(killed >= 2, "{killed}");
        println!("{kind}: heard again after {:?}", hears_again(&bob, &alice, "news").await);
    }
    alice.becomes_ready().await;
}

#[tokio::test]
async fn an_output_buffer_that_overruns_costs_a_blip() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"]).await;
    assert_eq!(server.publish("wardcast:c:{news}", &vec![b'x'; 2 << 20]).await, 1);
    eventually("redis cuts the subscriber off", async || alice.metrics.broker_reconnects.get() >= 1).await;
    hears_again(&bob, &alice, "news").await;
}

#[tokio::test]
async fn a_refused_publish_is_not_the_subscribers_fault() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-publish"]).await;
    let refused = alice.publish("news", "1").await;
    assert!(matches!(&refused, Err(BrokerError::Unavailable(why)) if why.contains("permissions")), "{refused:?}");
    let why = bob.becomes_unready().await;
    assert!(why.contains("cannot publish") && why.contains("permissions"), "{why}");
    server.run::<()>(&["ACL", "SETUSER", "default", "+publish"]).await;
    bob.becomes_ready().await;
    hears_again(&bob, &alice, "news").await;
    assert_eq!((alice.metrics.broker_reconnects.get(), bob.metrics.broker_reconnects.get()), (0, 0));
}

#[tokio::test]
async fn refused_subscriptions_come_back_when_they_are_allowed() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    // Redis disconnects whoever is subscribed to what he may not.
    server.run::<()>(&["ACL", "SETUSER", "default", "resetchannels"]).await;
    let why = alice.becomes_unready().await;
    println!("{why}");
    server.run::<()>(&["ACL", "SETUSER", "default", "allchannels"]).await;
    hears_again(&bob, &alice, "news").await;
}

#[tokio::test]
async fn a_subscribe_during_a_blip_waits_for_the_next_connection() {
    let server = RedisServer::start().await;
    let (alice, bob) = pair(&server.url()).await;
    server.run::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("it is noticed", async || alice.metrics.broker_up.get() == 0).await;
    alice.subscribe("more").await;
    bob.becomes_ready().await;
    bob.publish("more", "1").await.unwrap();
    eventually("it is received", async || alice.heard("more") == ["1"]).await;
}

#[tokio::test]
async fn redis_may_be_down_at_the_start() {
    let mut server = RedisServer::start_later().await;
    let alice = at(&server.url(), "wardcast");
    let why = alice.becomes_unready().await;
    assert!(why.contains(&server.port().to_string()), "{why}");
    eventually("subscribing fails", async || alice.broker.subscribe(channel("news")).await.is_err()).await;
    server.restart().await;
    alice.becomes_ready().await;
    alice.subscribe("news").await;
    alice.publish("news", "1").await.unwrap();
    alice.receives(1).await;
}

#[tokio::test]
async fn what_cannot_be_published_is_an_error_at_once() {
    let mut server = RedisServer::start().await;
    let alice = on(&server.url()).await;
    server.kill();
    for _ in 0..20 {
        let since = Instant::now();
        let results = try_join_all((0..100).map(|_| alice.publish("news", "1"))).await;
        assert!(matches!(results, Err(BrokerError::Unavailable(_))), "{results:?}");
        assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
    }
    let survey = alice.broker.survey(Question::Channels, Duration::from_secs(1)).await;
    assert!(matches!(survey, Err(BrokerError::Unavailable(_))), "{survey:?}");
}

#[tokio::test]
async fn nothing_is_lost_without_an_error_while_connections_are_killed() {
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
    eventually("all that was published is received", async || {
        let heard = alice.heard("news");
        published.iter().all(|n| heard.contains(n))
    })
    .await;
}

#[tokio::test]
async fn a_deaf_subscription_is_found() {
    let server = RedisServer::start().await;
    let (proxy, bob) = (Proxy::start(server.port()).await, on(&server.url()).await);
    let alice = on(&proxy.url()).await;
    alice.subscribe("news").await;
    hears_again(&bob, &alice, "news").await;
    eventually("a probe has been heard", async || alice.metrics.probe_micros.get() > 0).await;
    proxy.set(Mode::Deaf);
    let since = Instant::now();
    let why = alice.becomes_unready().await;
    println!("found after {:?}: {why}", since.elapsed());
    assert!(why.contains("deaf"), "{why}");
    proxy.set(Mode::Pass);
    println!("heard again after {:?}", hears_again(&bob, &alice, "news").await);
}

#[tokio::test]
async fn a_black_hole_is_found() {
    let server = RedisServer::start().await;
    let (proxy, bob) = (Proxy::start(server.port()).await, on(&server.url()).await);
    let alice = on(&proxy.url()).await;
    alice.subscribe("news").await;
    proxy.set(Mode::BlackHole);
    let since = Instant::now();
    // By a deadline: through the hole no probe says anything about the subscriptions.
    eventually("the subscriptions are given up", async || {
        alice.broker.ready().await.is_err_and(|why| why.contains("receives no publications"))
    })
    .await;
    println!("found after {:?}: {:?}", since.elapsed(), alice.broker.ready().await);
    proxy.set(Mode::Pass);
    println!("heard again after {:?}", hears_again(&bob, &alice, "news").await);
    alice.becomes_ready().await;
}

#[tokio::test]
async fn a_dropped_broker_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let clients = async || server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    let before = clients().await;
    let alice = on(&server.url()).await;
    alice.subscribe("news").await;
    assert!(clients().await > before);
    let hubs = std::sync::Arc::downgrade(&alice.hubs);
    drop(alice);
    eventually("its connections are closed", async || clients().await == before).await;
    eventually("nothing holds the hubs", async || hubs.upgrade().is_none()).await;
}
