//! Several independent Redis servers, among which the channels are spread.

use std::time::Duration;

use super::fixture::{disconnect_user, start_broker_with, urls, wait_until};
use crate::support::redis::RedisServer;

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
async fn nodes_find_each_other_whichever_server_is_down() {
    for down in 0..2 {
        let mut servers = [RedisServer::start().await, RedisServer::start().await];
        servers[down].kill();
        let start = || start_broker_with("", |config| config.urls = urls(&servers));
        let (one, two) = (start(), start());
        one.wait_for_nodes(2).await;
        two.wait_for_nodes(2).await;
    }
}
