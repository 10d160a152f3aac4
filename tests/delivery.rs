//! Delivery of publications: to all subscribers on every worker, once, in order, and after the subscribe reply.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{start_hub, start_hub_with};

#[actix_rt::test]
async fn every_subscriber_on_every_worker_receives_each_publication_once_in_order() {
    let hub = start_hub_with(|config| config.server.workers = 3).await;
    let mut clients = join_all((0..60).map(|_| hub.connect_subscriber("ann", "news"))).await;
    for number in 0..50 {
        hub.publish("news", json!(number)).await;
    }
    for client in &mut clients {
        for number in 0..50 {
            assert_eq!(client.receive_publication().await, json!(number));
        }
    }
}

#[actix_rt::test]
async fn publication_reaches_no_other_channel() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "room-1").await;
    for other in ["room-10", "ROOM-1", "room-1 x", "room"] {
        hub.publish(other, json!("other")).await;
    }
    hub.publish("room-1", json!("own")).await;
    assert_eq!(ann.receive_publication().await, json!("own"));
}

#[actix_rt::test]
async fn data_arrives_unchanged_except_on_one_line() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let mut bob = hub.connect("bob").await;
    bob.send_text("{\"id\":2,\"publish\":{\"channel\":\"news\",\"data\":{ \"a\" :\t1.0e2, \"é\": \"\\u00e9\" }}}")
        .await;
    bob.receive().await;
    assert!(ann.receive_text().await.contains("\"data\":{ \"a\" :\t1.0e2, \"é\": \"\\u00e9\" }"));
    let body = "{\"channel\":\"news\",\"data\":[1,\r\n2]}";
    crate::support::http::post(hub.address, "/api/publish")
        .header("X-API-Key", crate::support::API_KEY)
        .body(body)
        .send()
        .await;
    assert!(ann.receive_text().await.contains("\"data\":[1,  2]"));
}

#[actix_rt::test]
async fn subscribe_reply_precedes_first_publication() {
    let hub = start_hub().await;
    let mut publisher = hub.connect("bob").await;
    for round in 0..30 {
        let mut client = hub.connect("ann").await;
        let channel = format!("round-{round}");
        let publish = json!({"id": 2, "publish": {"channel": channel, "data": round}});
        publisher.send_text(&vec![publish.to_string(); 20].join("\n")).await;
        client.send(json!({"id": 1, "subscribe": {"channel": channel}})).await;
        assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
        for _ in 0..20 {
            publisher.receive().await;
        }
    }
}

#[actix_rt::test]
async fn large_fan_out_is_written_by_the_hub_without_write_tasks() {
    // If the hub wrote within tokio's budget of 128 operations per poll, further sockets would look full.
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut clients = join_all((0..400).map(|_| hub.connect_subscriber("ann", "news"))).await;
    let before = hub.metric("wardcast_sockets_full_total").await;
    hub.publish("news", json!("all")).await;
    for client in &mut clients {
        assert_eq!(client.receive_publication().await, json!("all"));
    }
    assert_eq!(hub.metric("wardcast_sockets_full_total").await, before);
}

#[actix_rt::test]
async fn channel_is_removed_with_its_last_subscriber() {
    let hub = start_hub().await;
    let _ann = hub.connect_subscriber("ann", "kept").await;
    let bob = hub.connect_subscriber("bob", "left").await;
    let mut cat = hub.connect_subscriber("cat", "left").await;
    let both = hub.call_api("channels", json!({})).await;
    assert_eq!(both, json!({"result": {"channels": {"kept": {"num_clients": 1}, "left": {"num_clients": 2}}}}));
    drop(bob);
    cat.request(json!({"id": 2, "unsubscribe": {"channel": "left"}})).await;
    hub.wait_for_channels(&[("kept", 1)]).await;
}
