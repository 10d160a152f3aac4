//! Outages of Redis and of single connections, of every kind that is known, and the recovery from each. Each test prints how
//! long it took.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all, try_join_all};
use wardcast::broker::{BrokerError, SurveyQuestion, SurveyResult};

use super::fixture::{
    Instance, TIMEOUT, channel, disconnect_user, publication, start_broker, start_broker_with, start_pair,
    start_ready_broker, wait_until, wait_until_delivered,
};
use crate::support::{
    Stopwatch, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
};

/// A subscriber of "news" and a publisher, on one Redis.
async fn start_subscriber_and_publisher() -> (RedisServer, Instance, Instance) {
    let (server, subscriber, publisher) = start_pair().await;
    subscriber.subscribe("news").await;
    (server, subscriber, publisher)
}

/// A subscriber of "news" that reaches Redis through a proxy, and a publisher.
async fn start_subscriber_behind_proxy() -> (RedisServer, Proxy, Instance, Instance) {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let (subscriber, publisher) = (start_ready_broker(&proxy.url()).await, start_ready_broker(&server.url()).await);
    subscriber.subscribe("news").await;
    (server, proxy, subscriber, publisher)
}

#[tokio::test]
async fn subscriptions_survive_a_redis_crash() {
    let (mut server, subscriber, publisher) = start_subscriber_and_publisher().await;
    server.kill();
    let since = Instant::now();
    let error = subscriber.wait_for_outage("").await;
    println!("detected after {:?}: {error}", since.elapsed());
    assert_eq!(subscriber.metrics.broker_up.get(), 0);
    server.restart().await;
    println!("delivered {:?} after the restart", wait_until_delivered(&publisher, &subscriber, "news").await);
    subscriber.wait_until_ready().await;
    assert_eq!(subscriber.metrics.broker_up.get(), 1);
    assert!(subscriber.metrics.broker_reconnects.get() >= 1);
}

/// Behind a distant Redis a round trip for each command would take too long.
#[tokio::test]
async fn subscribe_commands_do_not_wait_for_the_confirmations_of_those_before() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subscriber = start_broker_with(&proxy.url(), |config| {
        (config.timeout, config.probe_interval) = (TIMEOUT * 60, Duration::from_secs(60));
    });
    subscriber.wait_until_ready().await;
    let commands = async || {
        let stats: String = server.run(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_subscribe:calls=")).unwrap();
        line.split(',').next().unwrap().parse::<usize>().unwrap()
    };
    let before = commands().await;
    // What Redis answers from now on does not arrive, so no subscription is confirmed.
    proxy.set(ProxyMode::HalfOpen);
    let _requests: Vec<_> =
        (0..3000).map(|number| subscriber.broker.subscribe(channel(&format!("chat:{number}")))).collect();
    poll_until("further commands arrive", async || commands().await >= before + 3).await;
}

#[tokio::test]
async fn two_thousand_channels_survive_a_redis_crash() {
    let mut server = RedisServer::start().await;
    // All of them are requested at once, and a busy machine takes a while.
    let patient = start_broker_with(&server.url(), |config| config.timeout = TIMEOUT * 10);
    let (subscriber, publisher) = (patient, start_ready_broker(&server.url()).await);
    subscriber.wait_until_ready().await;
    subscriber.subscribe("news").await;
    let names: Vec<String> = (0..2_000).map(|n| format!("c{n}")).collect();
    let since = Instant::now();
    try_join_all(names.iter().map(|name| subscriber.broker.subscribe(channel(name)))).await.unwrap();
    println!("2,000 channels subscribed in {:?}", since.elapsed());
    server.kill();
    subscriber.wait_for_outage("").await;
    publisher.wait_for_outage("").await;
    server.restart().await;
    println!("delivered {:?} after the restart", wait_until_delivered(&publisher, &subscriber, "news").await);
    // A publication on one channel does not prove that all of them are subscribed.
    subscriber.wait_until_ready().await;
    publisher.wait_until_ready().await;
    for name in &names {
        publisher.publish(name, "1").await.unwrap();
    }
    let last = names.last().unwrap();
    wait_until("the last publication", async || !subscriber.data_received(last).is_empty()).await;
    assert!(names.iter().all(|name| subscriber.data_received(name) == ["1"]));
}

#[tokio::test]
async fn unsubscribe_during_an_outage_is_kept() {
    let (mut server, subscriber, publisher) = start_subscriber_and_publisher().await;
    subscriber.subscribe("left").await;
    server.kill();
    subscriber.wait_for_outage("").await;
    subscriber.broker.unsubscribe(channel("left"));
    assert!(subscriber.broker.subscribe(channel("never")).await.is_err());
    server.restart().await;
    wait_until_delivered(&publisher, &subscriber, "news").await;
    let subscribed: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await;
    assert_eq!(subscribed, ["wardcast:c:{news}"]);
}

#[tokio::test]
async fn frozen_redis_is_detected() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    server.freeze();
    let since = Instant::now();
    let error = subscriber.wait_for_outage("").await;
    println!("detected after {:?}: {error}", since.elapsed());
    let since = Stopwatch::start();
    assert!(matches!(publisher.publish("news", "1").await, Err(BrokerError::Unavailable(_))));
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", since.elapsed());
    // The supervisors detect it, too, and connect again.
    wait_until("the gauge shows it", async || subscriber.metrics.broker_up.get() == 0).await;
    println!("shown by the gauge {:?} after that", since.elapsed());
    server.resume();
    println!("delivered {:?} after it resumed", wait_until_delivered(&publisher, &subscriber, "news").await);
    subscriber.wait_until_ready().await;
}

#[tokio::test]
async fn killed_connections_are_replaced() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    for kind in ["pubsub", "normal"] {
        let killed: usize = server.run(&["CLIENT", "KILL", "TYPE", kind]).await;
        assert!(killed >= 2, "{killed}");
        println!("{kind}: delivered after {:?}", wait_until_delivered(&publisher, &subscriber, "news").await);
    }
    subscriber.wait_until_ready().await;
}

#[tokio::test]
async fn output_buffer_overrun_causes_one_reconnect() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    server.run::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"]).await;
    assert_eq!(server.publish("wardcast:c:{news}", &vec![b'x'; 2 << 20]).await, 1);
    wait_until("the subscriber connects again", async || subscriber.metrics.broker_reconnects.get() >= 1).await;
    wait_until_delivered(&publisher, &subscriber, "news").await;
}

#[tokio::test]
async fn refused_publish_does_not_reconnect_the_subscriptions() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-publish"]).await;
    let refused = subscriber.publish("news", "1").await;
    assert!(matches!(&refused, Err(BrokerError::Unavailable(why)) if why.contains("permissions")), "{refused:?}");
    let error = publisher.wait_for_outage("cannot publish").await;
    assert!(error.contains("permissions"), "{error}");
    server.run::<()>(&["ACL", "SETUSER", "default", "+publish"]).await;
    publisher.wait_until_ready().await;
    wait_until_delivered(&publisher, &subscriber, "news").await;
    assert_eq!((subscriber.metrics.broker_reconnects.get(), publisher.metrics.broker_reconnects.get()), (0, 0));
}

#[tokio::test]
async fn subscriptions_recover_after_their_permission_was_revoked() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    // Redis disconnects clients that lose the permission for one of their subscriptions.
    server.run::<()>(&["ACL", "SETUSER", "default", "resetchannels"]).await;
    println!("{}", subscriber.wait_for_outage("").await);
    server.run::<()>(&["ACL", "SETUSER", "default", "allchannels"]).await;
    wait_until_delivered(&publisher, &subscriber, "news").await;
}

#[tokio::test]
async fn subscribe_during_reconnect_waits_for_the_next_connection() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    server.run::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    wait_until("the loss is detected", async || subscriber.metrics.broker_up.get() == 0).await;
    subscriber.subscribe("more").await;
    publisher.wait_until_ready().await;
    publisher.publish("more", "1").await.unwrap();
    wait_until("the publication", async || subscriber.data_received("more") == ["1"]).await;
}

#[tokio::test]
async fn broker_starts_while_redis_is_down() {
    let mut server = RedisServer::start_stopped().await;
    let instance = start_broker(&server.url(), "wardcast");
    instance.wait_for_outage(&server.port().to_string()).await;
    assert!(instance.broker.subscribe(channel("news")).await.is_err());
    server.restart().await;
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    instance.publish("news", "1").await.unwrap();
    instance.wait_for_publications(1).await;
}

#[tokio::test]
async fn publishing_during_an_outage_fails_at_once() {
    let mut server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.kill();
    for _ in 0..20 {
        let since = Stopwatch::start();
        let results = try_join_all((0..100).map(|_| instance.publish("news", "1"))).await;
        assert!(matches!(results, Err(BrokerError::Unavailable(_))), "{results:?}");
        assert!(since.elapsed() < TIMEOUT, "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn publications_without_an_error_arrive_while_connections_are_killed() {
    let (server, subscriber, publisher) = start_subscriber_and_publisher().await;
    let mut published = HashSet::new();
    for n in 0..2_000 {
        if n % 200 == 100 {
            server.run::<usize>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        }
        if publisher.publish("news", &n.to_string()).await.is_ok() {
            published.insert(n.to_string());
        }
    }
    println!("{} of 2,000 published while the connection was killed 10 times", published.len());
    wait_until("all accepted publications", async || {
        published.is_subset(&subscriber.data_received("news").into_iter().collect())
    })
    .await;
}

#[tokio::test]
async fn deaf_subscription_is_detected_by_probe() {
    let (_server, proxy, subscriber, publisher) = start_subscriber_behind_proxy().await;
    wait_until_delivered(&publisher, &subscriber, "news").await;
    wait_until("a probe", async || {
        subscriber.metrics.encode().unwrap().contains("wardcast_broker_probe_microseconds{server=")
    })
    .await;
    proxy.set(ProxyMode::Deaf);
    let since = Instant::now();
    let error = subscriber.wait_for_outage("the subscriptions receive nothing").await;
    println!("detected after {:?}: {error}", since.elapsed());
    proxy.set(ProxyMode::Pass);
    println!("delivered after {:?}", wait_until_delivered(&publisher, &subscriber, "news").await);
}

#[tokio::test]
async fn silent_connection_is_detected_by_timeout() {
    let (_server, proxy, subscriber, publisher) = start_subscriber_behind_proxy().await;
    proxy.set(ProxyMode::BlackHole);
    let since = Instant::now();
    // By a deadline: no probe passes the black hole, so none says anything about the subscriptions.
    let error = subscriber.wait_for_outage("receives no publications").await;
    println!("detected after {:?}: {error}", since.elapsed());
    proxy.set(ProxyMode::Pass);
    println!("delivered after {:?}", wait_until_delivered(&publisher, &subscriber, "news").await);
    subscriber.wait_until_ready().await;
}

/// Whether a survey has the answer of its own node and names the other one.
fn names_one_node(result: &Result<SurveyResult, BrokerError>) -> bool {
    result.as_ref().is_ok_and(|result| (result.answers.len(), result.unreachable.len()) == (1, 1))
}

#[tokio::test]
async fn every_call_on_a_frozen_redis_fails_within_the_timeout() {
    let (server, instance, _) = start_subscriber_and_publisher().await;
    server.freeze();
    let failed_after = async |call: BoxFuture<'static, bool>| {
        let since = Instant::now();
        assert!(call.await, "a call succeeds on a frozen redis");
        since.elapsed()
    };
    let broker = || instance.broker.clone();
    let ticket = Bytes::from_static(b"value");
    // All at once, before anything has noticed the outage, and again during it.
    for round in ["first", "second"] {
        let calls = [
            ("subscribe", broker().subscribe(channel("more")).map(|result| result.is_err()).boxed()),
            ("publish", broker().publish(publication("news", "1"), Default::default()).map(|r| r.is_err()).boxed()),
            ("control", broker().send_control(disconnect_user("ann")).map(|result| result.is_err()).boxed()),
            ("put", broker().put_ticket("id".to_owned(), ticket.clone(), TIMEOUT).map(|r| r.is_err()).boxed()),
            ("read", broker().read_ticket("id".to_owned()).map(|result| result.is_err()).boxed()),
            ("take", broker().take_ticket("id".to_owned()).map(|result| result.is_err()).boxed()),
            ("survey", broker().survey(SurveyQuestion::Info, TIMEOUT).map(|result| names_one_node(&result)).boxed()),
            ("ready", broker().check_ready().map(|result| result.is_err()).boxed()),
        ];
        let ended = join_all(calls.map(async |(name, call)| (name, failed_after(call).await))).await;
        println!("{round}: {ended:?}");
        assert!(ended.iter().all(|(_, after)| *after < TIMEOUT + Duration::from_secs(1)), "{ended:?}");
    }
    server.resume();
    instance.wait_until_ready().await;
    let subscribed: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await;
    assert_eq!(subscribed, ["wardcast:c:{news}"], "a subscription that has failed is not made up for");
    instance.subscribe("more").await;
}

#[tokio::test]
async fn redis_that_accepts_connections_and_never_answers_is_reported_and_recovers() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    proxy.set(ProxyMode::BlackHole);
    let instance = start_broker(&proxy.url(), "wardcast");
    println!("{}", instance.wait_for_outage("no reply within").await);
    assert!(instance.broker.subscribe(channel("news")).await.is_err());
    proxy.set(ProxyMode::Pass);
    instance.wait_until_ready().await;
}

/// Readiness comes with the first probe that arrives, not with a connection: it does not alternate.
#[tokio::test]
async fn subscriptions_that_are_deaf_from_the_start_are_never_ready() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    proxy.set(ProxyMode::Deaf);
    let instance = start_broker(&proxy.url(), "wardcast");
    wait_until("two new connections", async || {
        assert_eq!(instance.metrics.broker_up.get(), 0);
        instance.metrics.broker_reconnects.get() >= 2
    })
    .await;
    proxy.set(ProxyMode::Pass);
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn dropped_broker_closes_its_connections_and_releases_the_hubs() {
    let server = RedisServer::start().await;
    let clients = async || server.run::<String>(&["CLIENT", "LIST"]).await.lines().count();
    let before = clients().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    assert!(clients().await > before);
    let hubs = Arc::downgrade(&instance.hubs);
    drop(instance);
    wait_until("the hubs are released", async || hubs.upgrade().is_none()).await;
    // Polls, because Redis reports no event when a connection closes.
    crate::support::poll_until("the connections are closed", async || clients().await == before).await;
}
