//! Slow consumers: a client that does not read is closed when too many bytes wait for it, over plain TCP and TLS, without
//! effect on others.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Client, TestHub, client::tls_stream, raw, start_hub_with, tls::Certificate};

fn large_data() -> serde_json::Value {
    json!("x".repeat(30_000))
}

/// Publishes until a client has been closed as a slow consumer. The reader must receive everything meanwhile.
async fn publish_until_slow_consumer_is_closed(hub: &TestHub, mut reader: Client) {
    let mut sent = 0;
    while hub.metric("wardcast_closed_total{code=\"3008\"}").await == 0.0 {
        hub.publish("news", large_data()).await;
        sent += 1;
        assert_eq!(reader.receive_publication().await, large_data());
        assert!(sent < 2_000, "60 MB were accepted for a client that does not read");
    }
}

#[actix_rt::test]
async fn client_that_stops_reading_is_closed_and_others_continue() {
    let hub = start_hub_with(|config| config.limits.outbox_bytes = 200_000).await;
    let reader = hub.connect_subscriber("ann", "news").await;
    let mut stalled = hub.connect_raw("bob").await;
    stalled.subscribe("news").await;
    publish_until_slow_consumer_is_closed(&hub, reader).await;
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn client_that_stops_reading_over_tls_is_closed() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| {
        certificate.configure(config);
        config.limits.outbox_bytes = 200_000;
    })
    .await;
    let mut stalled = tls_stream(hub.address, certificate.root()).await.unwrap();
    let handshake = raw::handshake(hub.address, &hub.path_for("bob"));
    stalled.write_all(handshake.as_bytes()).await.unwrap();
    stalled.write_all(&raw::text_frame(r#"{"id":1,"subscribe":{"channel":"news"}}"#)).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains(r#"{"id":1,"subscribe":{}}"#) {
        received.push(stalled.read_u8().await.unwrap());
    }
    let mut publisher = Client::connect_tls(hub.address, &hub.path_for("ann"), certificate.root()).await.unwrap();
    publisher.receive_connect_push().await;
    let mut sent = 0;
    while hub.running().metrics.closes_with_code(3008) == 0 {
        publisher.publish("news", large_data()).await;
        sent += 1;
        assert!(sent < 2_000, "60 MB were accepted for a client that does not read");
    }
    drop(publisher);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn slow_reader_that_catches_up_receives_everything_in_order() {
    let hub = start_hub_with(|config| config.limits.outbox_bytes = 4 << 20).await;
    let mut late = hub.connect_subscriber("ann", "news").await;
    // More than the kernel accepts, less than the outbox holds, so that the write task has to wait for the socket.
    let mut sent = 0;
    while hub.metric("wardcast_sockets_full_total").await == 0.0 || sent % 8 != 0 {
        hub.publish("news", json!([sent, "x".repeat(60_000)])).await;
        sent += 1;
    }
    for number in 0..sent {
        assert_eq!(late.receive_publication().await[0], json!(number));
    }
    hub.publish("news", json!("last")).await;
    assert_eq!(late.receive_publication().await, json!("last"));
}

#[actix_rt::test]
async fn publishing_faster_than_the_hub_delivers_is_111() {
    let hub = start_hub_with(|config| {
        config.limits.publication_bytes = 1000;
        config.limits.outbox_bytes = 4096;
        config.limits.hub_queue_bytes = 4096;
        config.server.workers = 1;
    })
    .await;
    let mut reader = hub.connect_subscriber("ann", "news").await;
    let mut publisher = hub.connect("bob").await;
    let publish = json!({"id": 1, "publish": {"channel": "news", "data": "x".repeat(500)}}).to_string();
    // The session executes the commands of one message in one go, before the hub on the same thread runs.
    publisher.send_text(&vec![publish; 100].join("\n")).await;
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..100 {
        let reply = publisher.receive().await;
        *codes.entry(reply["error"]["code"].as_u64()).or_insert(0) += 1;
    }
    assert!(codes[&Some(111)] > 0 && codes[&None] > 0, "{codes:?}");
    for _ in 0..codes[&None] {
        reader.receive_publication().await;
    }
}

#[actix_rt::test]
async fn client_without_room_for_a_reply_is_closed() {
    let hub = start_hub_with(|config| config.limits.outbox_bytes = 4096).await;
    let claims = json!({"sub": "ann", "exp": 60, "subs": {"news": {"data": "x".repeat(4090)}}});
    let token = hub.token_with_claims(claims);
    // The connect push, the connect reply and the pushes of a refresh are each longer than the outbox allows.
    let mut plain = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    assert!(plain.next().await.is_err());
    let mut sdk = hub.connect_without_token().await;
    sdk.send(json!({"id": 1, "connect": {"token": token}})).await;
    assert!(sdk.next().await.is_err());
    let mut refreshed = hub.connect("ann").await;
    refreshed.send(json!({"id": 2, "refresh": {"token": token}})).await;
    while refreshed.next().await.is_ok() {}
    assert_eq!(hub.running().metrics.closes_with_code(3008), 3);
    hub.wait_for_connections(0).await;
}
