//! Tokens end on time: on every frame, on every delivery, and with no traffic at all. The clock is moved, not waited for.

use std::time::Duration;

use serde_json::json;

use crate::support::{Client, TestHub, raw, start_hub, start_hub_with};

async fn connect_for_seconds(hub: &TestHub, ttl: u64) -> Client {
    let token = hub.token_for("ann", Duration::from_secs(ttl));
    let mut client = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    client.receive().await;
    client.subscribe("news").await;
    client
}

#[actix_rt::test]
async fn expired_token_closes_idle_session_with_3005_and_others_stay() {
    let hub = start_hub().await;
    let mut short = connect_for_seconds(&hub, 60).await;
    let mut long = connect_for_seconds(&hub, 3600).await;
    hub.clock.advance(Duration::from_secs(61));
    let (code, push) = short.wait_for_close().await;
    assert_eq!((code, push.unwrap()["code"].clone()), (Some(3005), json!(3005)));
    hub.publish("news", json!("later")).await;
    assert_eq!(long.receive_publication().await, json!("later"));
}

#[actix_rt::test]
async fn nothing_is_delivered_after_expiry() {
    let hub = start_hub().await;
    for _ in 0..20 {
        let mut client = connect_for_seconds(&hub, 60).await;
        hub.publish("news", json!("before")).await;
        assert_eq!(client.receive_publication().await, json!("before"));
        hub.clock.advance(Duration::from_secs(61));
        hub.publish("news", json!("after")).await;
        loop {
            match client.next().await {
                Ok(text) => assert!(!text.contains("after"), "{text}"),
                Err(closed) => break assert_eq!(closed.code, Some(3005)),
            }
        }
    }
}

#[actix_rt::test]
async fn command_received_after_expiry_is_not_executed() {
    let hub = start_hub().await;
    let mut other = connect_for_seconds(&hub, 36_000).await;
    for opcode in [raw::TEXT, raw::PING] {
        let token = hub.token_for("bob", Duration::from_secs(60));
        let mut bob = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
        bob.next().await.expect("a greeting");
        hub.clock.advance(Duration::from_secs(61));
        bob.send(&raw::frame(raw::FIN | opcode, br#"{"id":1,"publish":{"channel":"news","data":"late"}}"#)).await;
        assert_eq!(bob.close_code().await, Some(3005));
    }
    hub.publish("news", json!("next")).await;
    assert_eq!(other.receive_publication().await, json!("next"), "and not what came late");
}

#[actix_rt::test]
async fn expired_client_that_does_not_read_is_disconnected_on_time() {
    let hub = start_hub().await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut deaf = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
    deaf.send(&raw::frame(raw::FIN | raw::TEXT, br#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
    while deaf.next().await.expect("a frame").text() != r#"{"id":1,"subscribe":{}}"# {}
    // Fill what the kernel takes, so that its outbox has something that waits.
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("news", json!("x".repeat(60_000))).await;
    }
    hub.clock.advance(Duration::from_secs(61));
    crate::support::wait_until("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn session_expiry_follows_jumps_of_the_wall_clock() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 7200).await;
    hub.clock.set_back(Duration::from_secs(3600));
    hub.publish("news", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
    hub.clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn refresh_before_expiry_keeps_session_open() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 60).await;
    client.send_text(&format!("Authorization: Bearer {}", hub.token("ann"))).await;
    assert!(client.receive().await["push"]["connect"]["ttl"].as_u64().unwrap() > 3000);
    hub.clock.advance(Duration::from_secs(120));
    hub.publish("news", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
}

#[actix_rt::test]
async fn client_without_pong_is_closed_at_expiry_not_at_later_pong_deadline() {
    let hub = start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(200);
        config.server.pong_timeout = Duration::from_secs(600);
    })
    .await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut mute = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
    while mute.next().await.expect("a ping").opcode != raw::PING {}
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(mute.close_code().await, Some(3005));
    crate::support::wait_until("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn expired_stalled_clients_release_all_resources() {
    let hub = start_hub().await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut deaf = Vec::new();
    for number in 0..10 {
        let mut raw = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
        let subscribe = json!({"id": 1, "subscribe": {"channel": format!("own-{number}")}}).to_string();
        raw.send(&raw::frame(raw::FIN | raw::TEXT, subscribe.as_bytes())).await;
        while raw.next().await.expect("a frame").text() != r#"{"id":1,"subscribe":{}}"# {}
        deaf.push(raw);
    }
    while hub.metric("wardcast_sockets_full_total").await < 10.0 {
        for number in 0..10 {
            hub.publish(&format!("own-{number}"), json!("x".repeat(60_000))).await;
        }
    }
    hub.clock.advance(Duration::from_secs(61));
    crate::support::wait_until("connections and channels are given back", async || {
        let channels = hub.call_api("channels", json!({})).await;
        hub.connections() == 0 && channels == json!({"result": {"channels": {}}})
    })
    .await;
    // Nobody was told, since nobody read; what was half out is cut off.
    assert_eq!(hub.running().metrics.closes_with_code(3005), 10);
    assert_eq!(hub.running().metrics.closes_with_code(3008), 0);
}

#[actix_rt::test]
async fn subscription_expiry_follows_jumps_of_the_wall_clock() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 36_000).await;
    let granted = hub.token_with_claims(json!({"sub": "ann", "channel": "$desk", "exp": 7200}));
    client.request(json!({"id": 2, "subscribe": {"channel": "$desk", "token": granted}})).await;
    hub.clock.set_back(Duration::from_secs(3600));
    hub.publish("$desk", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
    hub.clock.advance(Duration::from_secs(2 * 3600));
    hub.publish("$desk", json!("an hour later")).await;
    assert_eq!(client.receive_publication().await, json!("an hour later"));
    hub.clock.advance(Duration::from_secs(3600));
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$desk"), &json!(2501)), "{push}");
    hub.publish("news", json!("goes on")).await;
    assert_eq!(client.receive_publication().await, json!("goes on"));
}
