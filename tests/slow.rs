//! Clients that do not read: closed by bytes, over plain TCP and TLS, and nobody else notices.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Client, Hub, client::tls_stream, eventually, hub_with, raw, tls::Certificate};

fn data() -> serde_json::Value {
    json!("x".repeat(30_000))
}

/// Publishes until somebody has been closed for being slow; the reader must get all of it meanwhile.
async fn publish_until_one_is_slow(hub: &Hub, mut reader: crate::support::Client) {
    let mut sent = 0;
    while hub.metric("wardcast_closed_total{code=\"3008\"}").await == 0.0 {
        hub.publish("news", data()).await;
        sent += 1;
        assert_eq!(reader.publication().await, data());
        assert!(sent < 2_000, "60 MB went somewhere");
    }
}

#[actix_rt::test]
async fn a_client_that_stops_reading_is_closed_and_the_others_read_on() {
    let hub = hub_with(|config| config.limits.outbox_bytes = 200_000).await;
    let reader = hub.subscriber("ann", "news").await;
    let mut deaf = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("bob"))).await;
    deaf.send(&raw::frame(raw::FIN | raw::TEXT, br#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
    while deaf.next().await.expect("a frame").text() != r#"{"id":1,"subscribe":{}}"# {}
    publish_until_one_is_slow(&hub, reader).await;
    eventually("its connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn a_client_that_stops_reading_over_tls_is_closed_too() {
    let certificate = Certificate::new();
    let hub = hub_with(|config| {
        certificate.configure(config);
        config.limits.outbox_bytes = 200_000;
    })
    .await;
    let mut deaf = tls_stream(hub.address, certificate.root()).await.unwrap();
    let handshake = raw::handshake(hub.address, &format!("/socket?token={}", hub.token("bob")));
    deaf.write_all(handshake.as_bytes()).await.unwrap();
    deaf.write_all(&raw::frame(raw::FIN | raw::TEXT, br#"{"id":1,"subscribe":{"channel":"news"}}"#)).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(r#"{"id":1,"subscribe":{}}"#) {
        heard.push(deaf.read_u8().await.unwrap());
    }
    let mut publisher = crate::support::Client::connect_tls(
        hub.address,
        &format!("/socket?token={}", hub.token("ann")),
        certificate.root(),
    )
    .await
    .unwrap();
    publisher.hear().await;
    let mut sent = 0;
    while hub.running().metrics.closed_for(3008) == 0 {
        publisher.ask(json!({"id": 2, "publish": {"channel": "news", "data": data()}})).await;
        sent += 1;
        assert!(sent < 2_000, "60 MB went somewhere");
    }
    drop(publisher);
    eventually("both connections are given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn a_slow_reader_that_catches_up_gets_everything_in_order() {
    let hub = hub_with(|config| config.limits.outbox_bytes = 4 << 20).await;
    let mut late = hub.subscriber("ann", "news").await;
    // More than the kernel takes, less than the outbox holds: the task that waits for the socket carries on.
    let mut sent = 0;
    while hub.metric("wardcast_sockets_full_total").await == 0.0 || sent % 8 != 0 {
        hub.publish("news", json!([sent, "x".repeat(60_000)])).await;
        sent += 1;
    }
    for number in 0..sent {
        assert_eq!(late.publication().await[0], json!(number));
    }
    hub.publish("news", json!("and again")).await;
    assert_eq!(late.publication().await, json!("and again"));
}

#[actix_rt::test]
async fn publishing_faster_than_hubs_take_is_told_111() {
    let hub = hub_with(|config| {
        config.limits.publication_bytes = 1000;
        config.limits.outbox_bytes = 4096;
        config.limits.hub_queue_bytes = 4096;
        config.server.workers = 1;
    })
    .await;
    let mut reader = hub.subscriber("ann", "news").await;
    let mut publisher = hub.client("bob").await;
    let publish = json!({"id": 1, "publish": {"channel": "news", "data": "x".repeat(500)}}).to_string();
    // One message with many commands is done in one go, before the hub on the same thread has its turn.
    publisher.say_text(&vec![publish; 100].join("\n")).await;
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..100 {
        let reply = publisher.hear().await;
        *codes.entry(reply["error"]["code"].as_u64()).or_insert(0) += 1;
    }
    assert!(codes[&Some(111)] > 0 && codes[&None] > 0, "{codes:?}");
    for _ in 0..codes[&None] {
        tokio::time::timeout(Duration::from_secs(5), reader.publication()).await.expect("what was taken arrives");
    }
}

#[actix_rt::test]
async fn who_has_no_room_for_a_reply_is_closed_and_not_left_waiting_for_it() {
    let hub = hub_with(|config| config.limits.outbox_bytes = 4096).await;
    let claims = json!({"sub": "ann", "exp": 60, "subs": {"news": {"data": "x".repeat(4090)}}});
    let token = hub.signed(claims);
    // The greeting, the answer to connect, and the pushes of a refresh: each is more than may wait.
    let mut plain = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    assert!(plain.next().await.is_err());
    let mut sdk = hub.stranger().await;
    sdk.say(json!({"id": 1, "connect": {"token": token}})).await;
    assert!(sdk.next().await.is_err());
    let mut refreshed = hub.client("ann").await;
    refreshed.say(json!({"id": 2, "refresh": {"token": token}})).await;
    while refreshed.next().await.is_ok() {}
    assert_eq!(hub.running().metrics.closed_for(3008), 3);
    eventually("all are given back", async || hub.connections() == 0).await;
}
