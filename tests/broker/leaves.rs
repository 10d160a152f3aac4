//! Many clients that leave at once: they are removed from the presence, whatever else waits to be published.

use std::time::Duration;

use futures_util::future::join_all;
use wardcast::broker::PublishOptions;

use super::{
    fixture::{channel, client_info, start_broker_with},
    presence::crowd,
};
use crate::support::redis::RedisServer;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn clients_that_leave_at_once_leave_nothing_and_let_publications_through() {
    // More than wait to be published at most.
    const CLIENTS: usize = 20_000;
    let server = RedisServer::start().await;
    let instance = start_broker_with(&server.url(), |config| config.timeout = MINUTE);
    instance.wait_until_ready().await;
    instance.broker.refresh_presence(crowd("room", CLIENTS), MINUTE).await.unwrap();
    let removed: Vec<_> = crowd("room", CLIENTS)
        .iter()
        .map(|(_, client)| instance.broker.remove_presence(channel("room"), client.client.as_str().into()))
        .collect();
    let added = instance.broker.add_presence(channel("room"), client_info("client-19999").into(), MINUTE);
    instance.publish("news", "1").await.unwrap();
    added.await.unwrap();
    join_all(removed).await.into_iter().for_each(Result::unwrap);
    assert_eq!(instance.present_clients("room").await, ["client-19999"]);
}

#[tokio::test]
async fn clients_that_leave_while_large_publications_wait_leave_nothing() {
    const CLIENTS: usize = 5000;
    let server = RedisServer::start().await;
    let instance = start_broker_with(&server.url(), |config| config.timeout = MINUTE);
    instance.wait_until_ready().await;
    instance.broker.refresh_presence(crowd("room", CLIENTS), MINUTE).await.unwrap();
    server.freeze();
    // 15 of the 16 MiB that may wait.
    let data = format!("\"{}\"", "x".repeat(65_000));
    let published: Vec<_> = (0..240).map(|_| instance.publish_with("news", &data, PublishOptions::default())).collect();
    let removed: Vec<_> = crowd("room", CLIENTS)
        .iter()
        .map(|(_, client)| instance.broker.remove_presence(channel("room"), client.client.as_str().into()))
        .collect();
    server.resume();
    join_all(removed).await.into_iter().for_each(Result::unwrap);
    assert!(join_all(published).await.iter().all(Result::is_ok));
    assert!(instance.present_clients("room").await.is_empty());
}
