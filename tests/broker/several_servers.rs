//! Several independent Redis servers, among which the channels are spread.

use std::time::Duration;

use wardcast::{
    broker::redis::RedisBroker,
    config::{Config, RedisConfig, Secret},
};

use super::fixture::{KEEP_FIVE, TIMEOUT, channel, disconnect_user, start_broker_with, urls, wait_until};
use crate::support::{
    Stopwatch, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
};

/// So many channels that each server has some.
const CHANNELS: usize = 60;

fn channels() -> impl Iterator<Item = String> {
    (0..CHANNELS).map(|number| format!("chat:{number}"))
}

#[tokio::test]
async fn every_node_finds_each_channel_on_the_same_server_whatever_the_order_of_its_list() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let first = start_broker_with("", |config| config.urls = urls(&servers));
    let second = start_broker_with("", |config| config.urls = urls(&servers).into_iter().rev().collect());
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    for name in channels() {
        second.subscribe(&name).await;
        first.publish(&name, "1").await.unwrap();
    }
    second.wait_for_publications(CHANNELS).await;
    for server in &servers {
        let subscribed: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await;
        assert!((5..40).contains(&subscribed.len()), "{} of {CHANNELS} channels", subscribed.len());
    }
    first.wait_for_nodes(2).await;
    assert_eq!(first.survey_all(Duration::from_secs(5)).await.1, 0);
}

#[tokio::test]
async fn channels_controls_and_surveys_of_other_servers_outlive_one_of_them() {
    let mut servers = [RedisServer::start().await, RedisServer::start().await];
    let first = start_broker_with("", |config| config.urls = urls(&servers));
    let second = start_broker_with("", |config| config.urls = urls(&servers));
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    for name in channels() {
        second.subscribe(&name).await;
    }
    servers[1].kill();
    let dead = format!("127.0.0.1:{}", servers[1].port());
    for instance in [&first, &second] {
        assert!(instance.wait_for_outage(&dead).await.contains(&dead));
        assert_eq!(instance.metrics.broker_up.get(), 0);
    }
    let mut published = 0;
    for name in channels() {
        published += usize::from(first.publish(&name, "1").await.is_ok());
    }
    assert!((5..CHANNELS - 5).contains(&published), "{published}");
    second.wait_for_publications(published).await;
    for number in 0..10 {
        first.broker.send_control(disconnect_user(&format!("user-{number}"))).await.unwrap();
    }
    second.wait_for_controls(10).await;
    assert_eq!(first.survey_all(Duration::from_secs(5)).await.1, 0, "every node has answered");

    servers[1].restart().await;
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    for name in channels() {
        first.publish(&name, "2").await.unwrap();
    }
    wait_until("every channel is received again", async || second.received().len() == published + CHANNELS).await;
    assert_eq!(first.metrics.broker_up.get(), 1);
}

#[tokio::test]
async fn positions_on_other_servers_are_read_at_once_while_one_is_frozen() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let instance = start_broker_with("", |config| config.urls = urls(&servers));
    instance.wait_until_ready().await;
    for name in channels() {
        instance.store(&name, "1").await;
    }
    let channels: Vec<_> = channels().map(|name| (channel(&name), KEEP_FIVE)).collect();
    let on_frozen: i64 = servers[0].run(&["DBSIZE"]).await;
    servers[0].freeze();
    let frozen = servers[0].address();
    instance.wait_for_outage(&frozen).await;
    let mut known = 0;
    poll_until("the outage is known", async || {
        let since = Stopwatch::start();
        let positions = instance.broker.read_positions(channels.clone()).await;
        known =
            positions.iter().filter(|position| matches!(position, Ok(Some(top)) if top.position.offset == 1)).count();
        // A call to the frozen server would take the whole timeout.
        since.elapsed() < TIMEOUT / 2
    })
    .await;
    assert!(on_frozen > 10 && known > 10 && known < CHANNELS, "{known} of {CHANNELS}");
    servers[0].resume();
    poll_until("all are read again", async || {
        instance.broker.read_positions(channels.clone()).await.iter().all(|position| matches!(position, Ok(Some(_))))
    })
    .await;
}

#[tokio::test]
async fn dead_node_is_forgotten_although_the_subscriptions_to_one_server_reconnect_again_and_again() {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let start = || {
        start_broker_with("", |config| {
            (config.urls, config.heartbeat_interval) = (urls(&servers), Duration::from_millis(600));
        })
    };
    let (survivor, dead) = (start(), start());
    survivor.wait_for_nodes(2).await;
    dead.wait_until_ready().await;
    let mut cuts = tokio::time::interval(Duration::from_millis(200));
    let keep_cutting = async {
        loop {
            cuts.tick().await;
            servers[1].run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
    };
    drop(dead);
    tokio::select! {
        () = survivor.wait_for_nodes(1) => {}
        () = keep_cutting => {}
    }
}

#[tokio::test]
async fn control_reaches_a_node_that_has_lost_its_subscriptions_to_one_server() {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let proxy = Proxy::start(servers[0].port()).await;
    let interval = |config: &mut RedisConfig| config.heartbeat_interval = Duration::from_millis(500);
    let first = start_broker_with("", |config| {
        interval(config);
        config.urls = urls(&servers);
    });
    let second = start_broker_with("", |config| {
        interval(config);
        config.urls = vec![Secret::new(proxy.url()), Secret::new(servers[1].url())];
    });
    first.wait_for_nodes(2).await;
    // It is not ready: the address of the proxy is not that of the server.
    second.wait_for_nodes(2).await;
    let since = Stopwatch::start();
    poll_until("silent nodes would be known", async || since.elapsed() > Duration::from_secs(2)).await;
    proxy.set(ProxyMode::Cut);
    let subscribers = async || servers[0].run::<Vec<String>>(&["PUBSUB", "NUMSUB", "wardcast:control"]).await;
    poll_until("it has lost them", async || subscribers().await[1] == "1").await;
    for number in 0..20 {
        first.broker.send_control(disconnect_user(&format!("user-{number}"))).await.unwrap();
    }
    second.wait_for_controls(20).await;
}

#[tokio::test]
async fn node_with_another_list_of_servers_is_not_ready_until_the_former_nodes_are_gone() {
    let servers = [RedisServer::start().await, RedisServer::start().await, RedisServer::start().await];
    let start = |of: &[usize]| {
        let all = urls(&servers);
        start_broker_with("", |config| {
            config.heartbeat_interval = Duration::from_millis(500);
            match of {
                [one] => config.url = all[*one].clone(),
                _ => config.urls = of.iter().map(|index| all[*index].clone()).collect(),
            }
        })
    };
    let former = start(&[0, 1]);
    former.wait_until_ready().await;
    let mut others = Vec::new();
    // Each has a server in common with it.
    for list in [&[1, 2][..], &[0], &[0, 1, 2]] {
        let other = start(list);
        let error = other.wait_for_outage("broker.redis.urls").await;
        assert!(error.contains("servers=2 ") && error.contains(&servers[list[0]].address()), "{error}");
        let metrics = other.metrics.encode().unwrap();
        assert!(metrics.contains("wardcast_settings_conflict{setting=\"redis_servers\"} 1"), "{metrics}");
        others.push(other);
    }
    let same = start(&[1, 0]);
    same.wait_until_ready().await;
    former.wait_until_ready().await;
    drop((former, same));
    // The first two have no server in common, and both were started before the third.
    others[0].wait_until_ready().await;
    others[1].wait_until_ready().await;
    others[2].wait_for_outage("broker.redis.urls").await;
}

#[tokio::test]
async fn nodes_find_each_other_whichever_server_is_down() {
    for down in 0..2 {
        let mut servers = [RedisServer::start().await, RedisServer::start().await];
        servers[down].kill();
        let start = || start_broker_with("", |config| config.urls = urls(&servers));
        let (one, two) = (start(), start());
        one.wait_for_nodes(2).await;
        two.wait_for_nodes(2).await;
        wait_until("they answer each other", async || one.survey_all(Duration::from_secs(1)).await.1 == 0).await;
    }
}

#[test]
fn fault_in_a_list_of_urls_names_the_list_and_the_entry() {
    let check = |change: &dyn Fn(&mut RedisConfig, Vec<Secret>), second: &str| {
        let mut config = Config::default().broker.redis;
        change(&mut config, vec![Secret::new("redis://one"), Secret::new(second)]);
        RedisBroker::check_config(&config).map_err(|error| error.to_string())
    };
    type Change = fn(&mut RedisConfig, Vec<Secret>);
    let lists: [(&str, Change); 3] = [
        ("broker.redis.urls", |redis, urls| redis.urls = urls),
        ("broker.redis.cluster.urls", |redis, urls| redis.cluster.urls = urls),
        ("broker.redis.sentinel.urls", |redis, urls| redis.sentinel.urls = urls),
    ];
    for (key, change) in lists {
        assert_eq!(check(&change, "redis://two:1/0"), Ok(()), "{key}");
        for (url, problem) in [
            ("redis://two:x", "is not a valid URL"),
            ("redis://two/x", "is not a valid URL"),
            ("rediss://two#insecure", "must not end with #insecure"),
        ] {
            let error = check(&change, url).unwrap_err();
            assert!(error.starts_with(&format!("{key}: entry 2 {problem}")), "{error}");
        }
        // Only independent servers have databases that a URL can name.
        let with_database = check(&change, "redis://two/3");
        let is_refused = with_database.is_err_and(|error| error.contains("entry 2 must not name a database"));
        assert_eq!(is_refused, key != "broker.redis.urls", "{key}");
    }
    for url in ["redis://one", "redis://one:6379", "redis://user:password@one/1"] {
        let error = check(&lists[0].1, url).unwrap_err();
        assert!(error.starts_with("broker.redis.urls: names the server one:6379 twice"), "{error}");
        assert!(!error.contains("password"), "{error}");
    }
}
